//! Batches that a leader refused in passing: what a producer has in flight behind one of them is refused the same way.
//!
//! A producer has several batches in flight. Where the first is refused because too few replicas are in sync, because the
//! disk has no room, or because this broker does not know yet that it leads, and the leader could take the second, that one
//! would be out of sequence. Told so, librdkafka begins a new epoch and sends again, under it, all that it has in flight:
//! also what another partition has appended and not answered yet, which is then there twice. The second was not refused
//! for its sequence but for the first, so it is told what the first was told; and the client sends both again, in order.
//!
//! The first may also still be on its way: when a leader changes, librdkafka takes back what was in flight to the old one,
//! and may send the second to the new one a moment before it has the first in its queue again. So a gap is told to come
//! again, too, while it is young.

use super::partition::{LeaderHint, PartitionError};
use crate::ids::*;
use crate::log::partition_log::AppendError;
use crate::records::ValidBatches;
use crate::records::batch::BatchHeader;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Producers remembered of one partition; beyond it refusals are forgotten, and no other gap is told to come again.
const PRODUCERS_MAX: usize = 1_000;
/// After this long a gap is not explained by the refusal before it any more: the client gave that batch up.
const KEPT: Duration = Duration::from_secs(10);
/// So long a gap may be one batch that overtook another; a client sends what it has taken back within a fraction of it.
const YOUNG: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    NotEnoughReplicas,
    NoRoom,
    NotLeader,
}

/// Of one producer: the batches that are missing, as far as they were refused here one after the other.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    epoch: ProducerEpoch,
    sequence: i32,
    /// The sequence after the last of them.
    end: i32,
    reason: Reason,
    at: Instant,
}

/// Of one producer: what was missing when a later batch came.
#[derive(Clone, Copy, Debug)]
struct Gap {
    epoch: ProducerEpoch,
    expected: i32,
    since: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_producer: HashMap<ProducerId, Refusal>,
    gaps: HashMap<ProducerId, Gap>,
}

impl Refusals {
    /// Takes in how an append ended, and answers what its client is told.
    pub fn judge<T>(
        &mut self,
        records: &ValidBatches,
        outcome: Result<T, PartitionError>,
        hint: LeaderHint,
        now: Instant,
    ) -> Result<T, PartitionError> {
        match outcome {
            Ok(value) => {
                if !self.by_producer.is_empty() || !self.gaps.is_empty() {
                    for header in producers(records) {
                        self.by_producer.remove(&header.producer_id);
                        self.gaps.remove(&header.producer_id);
                    }
                }
                Ok(value)
            }
            Err(PartitionError::NotEnoughReplicas) => Err(self.note(records, Reason::NotEnoughReplicas, hint, now)),
            Err(PartitionError::Append(AppendError::NoRoom)) => Err(self.note(records, Reason::NoRoom, hint, now)),
            Err(error) => {
                let explained = self.explain(records, &error, hint, now);
                Err(explained.or_else(|| self.overtakes(records, &error, hint, now)).unwrap_or(error))
            }
        }
    }

    /// Takes in what came before this broker knew that it leads, if it ever does.
    pub fn not_leader(&mut self, records: &ValidBatches, hint: LeaderHint, now: Instant) -> PartitionError {
        self.note(records, Reason::NotLeader, hint, now)
    }

    fn note(&mut self, records: &ValidBatches, reason: Reason, hint: LeaderHint, now: Instant) -> PartitionError {
        for header in producers(records) {
            if self.by_producer.len() >= PRODUCERS_MAX && !self.by_producer.contains_key(&header.producer_id) {
                self.by_producer.clear();
            }
            let (epoch, sequence, end) = (header.producer_epoch, header.base_sequence, sequence_after(header));
            let fresh = Refusal { epoch, sequence, end, reason, at: now };
            let known = self.by_producer.entry(header.producer_id).or_insert(fresh);
            let is_behind = known.epoch == fresh.epoch && known.is_before(fresh.sequence) && known.is_kept(now);
            let end = if known.end == fresh.sequence { fresh.end } else { known.end };
            *known = if is_behind { Refusal { end, reason, at: now, ..*known } } else { fresh };
        }
        reason.error(hint)
    }

    /// The gap that the log found begins at a batch that was refused.
    fn explain(
        &self,
        records: &ValidBatches,
        error: &PartitionError,
        hint: LeaderHint,
        now: Instant,
    ) -> Option<PartitionError> {
        let (producer, expected) = match error {
            PartitionError::Append(AppendError::OutOfOrderSequence { producer, expected, .. }) => (producer, *expected),
            PartitionError::Append(AppendError::UnknownProducer(producer)) => (producer, 0),
            _ => return None,
        };
        let refusal = self.by_producer.get(producer)?;
        let header = producers(records).find(|header| header.producer_id == *producer)?;
        let explains = refusal.epoch == header.producer_epoch
            && refusal.holds(expected)
            && refusal.is_before(header.base_sequence)
            && refusal.is_kept(now);
        explains.then(|| refusal.reason.error(hint))
    }

    /// This broker leads anew: what is missing of each producer may be on its way again.
    pub fn lead(&mut self) {
        self.gaps.clear();
    }

    /// The gap was not there a moment ago: what is missing may come.
    fn overtakes(
        &mut self,
        records: &ValidBatches,
        error: &PartitionError,
        hint: LeaderHint,
        now: Instant,
    ) -> Option<PartitionError> {
        let producer = match error {
            PartitionError::Append(AppendError::OutOfOrderSequence { producer, .. }) => *producer,
            PartitionError::Append(AppendError::UnknownProducer(producer)) => *producer,
            _ => return None,
        };
        let header = producers(records).find(|header| header.producer_id == producer)?;
        let (given, expected) = match error {
            PartitionError::Append(AppendError::OutOfOrderSequence { given, expected, .. }) => (*given, *expected),
            _ => (header.base_sequence, 0),
        };
        if !(1..i32::MAX / 2).contains(&distance(expected, given)) {
            return None;
        }
        let fresh = Gap { epoch: header.producer_epoch, expected, since: now };
        if self.gaps.len() >= PRODUCERS_MAX && !self.gaps.contains_key(&producer) {
            self.gaps.retain(|_, gap| now.duration_since(gap.since) < KEPT);
            if self.gaps.len() >= PRODUCERS_MAX {
                return None;
            }
        }
        let gap = self.gaps.entry(producer).or_insert(fresh);
        if (gap.epoch, gap.expected) != (fresh.epoch, fresh.expected) {
            *gap = fresh;
        }
        (now.duration_since(gap.since) < YOUNG).then_some(PartitionError::NotLeader(hint))
    }
}

impl Refusal {
    fn is_before(&self, sequence: i32) -> bool {
        let ahead = distance(self.sequence, sequence);
        ahead != 0 && ahead < i32::MAX / 2
    }

    fn holds(&self, sequence: i32) -> bool {
        distance(self.sequence, sequence) < distance(self.sequence, self.end)
    }

    fn is_kept(&self, now: Instant) -> bool {
        now.duration_since(self.at) < KEPT
    }
}

/// How far it is from one sequence on to another: they wrap around after the largest.
fn distance(from: i32, to: i32) -> i32 {
    to.wrapping_sub(from) & i32::MAX
}

fn sequence_after(header: &BatchHeader) -> i32 {
    header.base_sequence.wrapping_add(header.last_offset_delta).wrapping_add(1) & i32::MAX
}

impl Reason {
    fn error(self, hint: LeaderHint) -> PartitionError {
        match self {
            Reason::NotLeader => PartitionError::NotLeader(hint),
            Reason::NotEnoughReplicas => PartitionError::NotEnoughReplicas,
            Reason::NoRoom => PartitionError::Append(AppendError::NoRoom),
        }
    }
}

fn producers(records: &ValidBatches) -> impl Iterator<Item = &BatchHeader> {
    records.batches.iter().map(|batch| &batch.header).filter(|header| header.has_producer() && !header.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock;
    use crate::replica::testing::batch_of;

    const HINT: LeaderHint = LeaderHint { leader: Some(BrokerId(1)), epoch: LeaderEpoch(4) };

    fn batch(epoch: i16, sequence: i32) -> ValidBatches {
        batch_of(&["a"], (9, epoch, sequence))
    }

    fn gap(given: i32, expected: i32) -> Result<(), PartitionError> {
        Err(AppendError::OutOfOrderSequence { producer: ProducerId(9), given, expected }.into())
    }

    fn is_gap(outcome: &Result<(), PartitionError>) -> bool {
        matches!(outcome, Err(PartitionError::Append(AppendError::OutOfOrderSequence { .. })))
    }

    /// It comes again until the gap is old.
    fn stays_gap(refusals: &mut Refusals, batch: &ValidBatches, (given, expected): (i32, i32), now: Instant) -> bool {
        let first = refusals.judge(batch, gap(given, expected), HINT, now);
        matches!(first, Err(PartitionError::NotLeader(HINT)) | Err(PartitionError::Append(_)))
            && is_gap(&refusals.judge(batch, gap(given, expected), HINT, now + YOUNG))
    }

    #[test]
    fn a_batch_that_overtakes_another_is_told_to_come_again() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let at = |milliseconds| now + Duration::from_millis(milliseconds);
        let told = refusals.judge(&batch(1, 6), gap(6, 5), HINT, at(0));
        assert!(matches!(told, Err(PartitionError::NotLeader(HINT))), "{told:?}");
        assert!(!is_gap(&refusals.judge(&batch(1, 7), gap(7, 5), HINT, at(1_999))), "the same gap");
        assert!(is_gap(&refusals.judge(&batch(1, 6), gap(6, 5), HINT, at(2_000))), "nothing came");
        // The first comes after all; another gap is another.
        assert!(refusals.judge(&batch(1, 5), Ok(()), HINT, at(2_001)).is_ok());
        assert!(!is_gap(&refusals.judge(&batch(1, 8), gap(8, 6), HINT, at(2_002))));
        assert!(!is_gap(&refusals.judge(&batch(2, 1), gap(1, 0), HINT, at(9_000))), "nor is one of another epoch");
        assert!(is_gap(&refusals.judge(&batch(1, 4), gap(4, 5), HINT, at(9_000))), "an older batch overtakes nothing");
    }

    #[test]
    fn so_is_what_overtakes_a_producers_first_batch_and_each_leadership_begins_anew() {
        let unknown = || Err::<(), _>(PartitionError::Append(AppendError::UnknownProducer(ProducerId(9))));
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let told = refusals.judge(&batch(1, 1), unknown(), HINT, now);
        assert!(matches!(told, Err(PartitionError::NotLeader(HINT))), "{told:?}");
        let is_unknown = |told: &Result<(), PartitionError>| {
            matches!(told, Err(PartitionError::Append(AppendError::UnknownProducer(_))))
        };
        assert!(is_unknown(&refusals.judge(&batch(1, 1), unknown(), HINT, now + YOUNG)));
        refusals.lead();
        assert!(!is_unknown(&refusals.judge(&batch(1, 1), unknown(), HINT, now + YOUNG)));
    }

    #[test]
    fn producers_in_gaps_are_bounded_and_do_not_keep_each_others_gaps_young() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let since = |seconds| Gap { epoch: ProducerEpoch(1), expected: 5, since: now + Duration::from_secs(seconds) };
        refusals.gaps = (1_000_000..).take(PRODUCERS_MAX).map(|id| (ProducerId(id), since(0))).collect();
        assert!(is_gap(&refusals.judge(&batch(1, 6), gap(6, 5), HINT, now + YOUNG)), "no room to remember it");
        assert_eq!(refusals.gaps.len(), PRODUCERS_MAX);
        refusals.gaps.insert(ProducerId(1_000_000), since(5));
        assert!(!is_gap(&refusals.judge(&batch(1, 6), gap(6, 5), HINT, now + KEPT)));
        assert_eq!(refusals.gaps.len(), 2, "those that are long over are forgotten");
    }

    #[test]
    fn what_follows_a_refused_batch_is_refused_like_it() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let refused = refusals.judge::<()>(&batch(1, 5), Err(PartitionError::NotEnoughReplicas), HINT, now);
        assert!(matches!(refused, Err(PartitionError::NotEnoughReplicas)));
        for given in [6, 7] {
            let told = refusals.judge(&batch(1, given), gap(given, 5), HINT, now);
            assert!(matches!(told, Err(PartitionError::NotEnoughReplicas)), "{told:?}");
        }
        // Both come again; the first is refused again, for another reason.
        let full = || Err(PartitionError::Append(AppendError::NoRoom));
        let _refused = refusals.judge::<()>(&batch(1, 5), full(), HINT, now);
        let told = refusals.judge(&batch(1, 6), gap(6, 5), HINT, now);
        assert!(matches!(told, Err(PartitionError::Append(AppendError::NoRoom))), "{told:?}");
        // A later one that is refused for itself does not hide the first.
        let _refused = refusals.judge::<()>(&batch(1, 7), full(), HINT, now);
        assert!(!is_gap(&refusals.judge(&batch(1, 6), gap(6, 5), HINT, now)));
        assert!(refusals.judge(&batch(1, 5), Ok(()), HINT, now).is_ok());
        assert!(stays_gap(&mut refusals, &batch(1, 7), (7, 6), now), "6 was never refused since");
    }

    #[test]
    fn a_gap_that_no_refusal_explains_stays_one() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        assert!(stays_gap(&mut refusals, &batch(1, 6), (6, 5), now));
        let _refused = refusals.judge::<()>(&batch(1, 5), Err(PartitionError::NotEnoughReplicas), HINT, now);
        assert!(stays_gap(&mut refusals, &batch(1, 6), (6, 4), now), "the gap begins before the refused batch");
        assert!(stays_gap(&mut refusals, &batch(2, 6), (6, 5), now), "another epoch");
        assert!(stays_gap(&mut refusals, &batch(1, 4), (4, 5), now), "an older batch");
        assert!(stays_gap(&mut refusals, &batch(1, 6), (6, 5), now + KEPT), "long ago");
    }

    #[test]
    fn the_first_batch_of_a_producer_may_be_the_refused_one() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let _refused = refusals.judge::<()>(&batch(0, 0), Err(PartitionError::NotEnoughReplicas), HINT, now);
        let unknown = Err(AppendError::UnknownProducer(ProducerId(9)).into());
        let told = refusals.judge::<()>(&batch(0, 1), unknown, HINT, now);
        assert!(matches!(told, Err(PartitionError::NotEnoughReplicas)), "{told:?}");
    }

    #[test]
    fn sequences_wrap_around() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let _refused = refusals.judge::<()>(&batch(0, i32::MAX), Err(PartitionError::NotEnoughReplicas), HINT, now);
        assert!(!is_gap(&refusals.judge(&batch(0, 0), gap(0, i32::MAX), HINT, now)));
    }

    #[test]
    fn what_comes_behind_batches_that_found_no_leader_yet_is_told_the_same() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let of = |values: &[&str], sequence: i32| batch_of(values, (9, 1, sequence));
        // The first was appended by the leader before, and is sent again since nobody answered; the others were not.
        for refused in [of(&["a", "b"], 3), of(&["c"], 5), of(&["d"], 6)] {
            assert!(matches!(refusals.not_leader(&refused, HINT, now), PartitionError::NotLeader(HINT)));
        }
        let told = refusals.judge(&batch(1, 7), gap(7, 5), HINT, now);
        assert!(matches!(told, Err(PartitionError::NotLeader(HINT))), "{told:?}");
        assert!(stays_gap(&mut refusals, &batch(1, 9), (9, 7), now), "7 was refused for what came before it");
        assert!(refusals.judge(&batch(1, 5), Ok(()), HINT, now).is_ok());
        assert!(stays_gap(&mut refusals, &batch(1, 7), (7, 6), now));
    }
}
