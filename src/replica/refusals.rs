//! Batches that a leader refused in passing: what a producer has in flight behind one of them is refused the same way.
//!
//! A producer has several batches in flight. Where the first is refused because too few replicas are in sync, or because
//! the disk is full, and the leader could take the second, that one would be out of sequence. Told so, a client may think
//! that the partition lost its state, begin a new epoch and send again, under it, all that it has in flight: also what
//! another partition has appended and not answered yet, which is then there twice. The second was not refused for its
//! sequence but for the first, so it is told what the first was told; and the client sends both again, in order.

use super::partition::PartitionError;
use crate::ids::*;
use crate::log::partition_log::AppendError;
use crate::records::ValidBatches;
use crate::records::batch::BatchHeader;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Producers remembered of one partition; beyond it all are forgotten, and a gap is a gap again.
const PRODUCERS_MAX: usize = 10_000;
/// After this long a gap is not explained by the refusal before it any more: the client gave that batch up.
const KEPT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    NotEnoughReplicas,
    DiskFull,
}

/// Of one producer: the first batch that is missing, as far as this leader refused it.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    epoch: ProducerEpoch,
    sequence: i32,
    reason: Reason,
    at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_producer: HashMap<ProducerId, Refusal>,
}

impl Refusals {
    /// Takes in how an append ended, and answers what its client is told.
    pub fn judge<T>(
        &mut self,
        records: &ValidBatches,
        outcome: Result<T, PartitionError>,
        now: Instant,
    ) -> Result<T, PartitionError> {
        match outcome {
            Ok(value) => {
                if !self.by_producer.is_empty() {
                    for header in producers(records) {
                        self.by_producer.remove(&header.producer_id);
                    }
                }
                Ok(value)
            }
            Err(PartitionError::NotEnoughReplicas) => Err(self.note(records, Reason::NotEnoughReplicas, now)),
            Err(PartitionError::Append(AppendError::DiskFull)) => Err(self.note(records, Reason::DiskFull, now)),
            Err(error) => Err(self.explain(records, &error, now).unwrap_or(error)),
        }
    }

    fn note(&mut self, records: &ValidBatches, reason: Reason, now: Instant) -> PartitionError {
        for header in producers(records) {
            if self.by_producer.len() >= PRODUCERS_MAX && !self.by_producer.contains_key(&header.producer_id) {
                self.by_producer.clear();
            }
            let fresh = Refusal { epoch: header.producer_epoch, sequence: header.base_sequence, reason, at: now };
            let known = self.by_producer.entry(header.producer_id).or_insert(fresh);
            let is_behind = known.epoch == fresh.epoch && known.is_before(fresh.sequence) && known.is_kept(now);
            *known = if is_behind { Refusal { reason, at: now, ..*known } } else { fresh };
        }
        reason.error()
    }

    /// The gap that the log found begins at a batch that was refused.
    fn explain(&self, records: &ValidBatches, error: &PartitionError, now: Instant) -> Option<PartitionError> {
        let (producer, expected) = match error {
            PartitionError::Append(AppendError::OutOfOrderSequence { producer, expected, .. }) => (producer, *expected),
            PartitionError::Append(AppendError::UnknownProducer(producer)) => (producer, 0),
            _ => return None,
        };
        let refusal = self.by_producer.get(producer)?;
        let header = producers(records).find(|header| header.producer_id == *producer)?;
        let explains = refusal.epoch == header.producer_epoch
            && refusal.sequence == expected
            && refusal.is_before(header.base_sequence)
            && refusal.is_kept(now);
        explains.then(|| refusal.reason.error())
    }
}

impl Refusal {
    /// Sequences wrap around after the largest.
    fn is_before(&self, sequence: i32) -> bool {
        let ahead = sequence.wrapping_sub(self.sequence) & i32::MAX;
        ahead != 0 && ahead < i32::MAX / 2
    }

    fn is_kept(&self, now: Instant) -> bool {
        now.duration_since(self.at) < KEPT
    }
}

impl Reason {
    fn error(self) -> PartitionError {
        match self {
            Reason::NotEnoughReplicas => PartitionError::NotEnoughReplicas,
            Reason::DiskFull => PartitionError::Append(AppendError::DiskFull),
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

    fn batch(epoch: i16, sequence: i32) -> ValidBatches {
        batch_of(&["a"], (9, epoch, sequence))
    }

    fn gap(given: i32, expected: i32) -> Result<(), PartitionError> {
        Err(AppendError::OutOfOrderSequence { producer: ProducerId(9), given, expected }.into())
    }

    fn is_gap(outcome: &Result<(), PartitionError>) -> bool {
        matches!(outcome, Err(PartitionError::Append(AppendError::OutOfOrderSequence { .. })))
    }

    #[test]
    fn what_follows_a_refused_batch_is_refused_like_it() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let refused = refusals.judge::<()>(&batch(1, 5), Err(PartitionError::NotEnoughReplicas), now);
        assert!(matches!(refused, Err(PartitionError::NotEnoughReplicas)));
        for given in [6, 7] {
            let told = refusals.judge(&batch(1, given), gap(given, 5), now);
            assert!(matches!(told, Err(PartitionError::NotEnoughReplicas)), "{told:?}");
        }
        // Both come again; the first is refused again, for another reason.
        let full = || Err(PartitionError::Append(AppendError::DiskFull));
        let _refused = refusals.judge::<()>(&batch(1, 5), full(), now);
        let told = refusals.judge(&batch(1, 6), gap(6, 5), now);
        assert!(matches!(told, Err(PartitionError::Append(AppendError::DiskFull))), "{told:?}");
        // A later one that is refused for itself does not hide the first.
        let _refused = refusals.judge::<()>(&batch(1, 7), full(), now);
        assert!(!is_gap(&refusals.judge(&batch(1, 6), gap(6, 5), now)));
        assert!(refusals.judge(&batch(1, 5), Ok(()), now).is_ok());
        assert!(is_gap(&refusals.judge(&batch(1, 7), gap(7, 6), now)), "6 was never refused since");
    }

    #[test]
    fn a_gap_that_no_refusal_explains_stays_one() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        assert!(is_gap(&refusals.judge(&batch(1, 6), gap(6, 5), now)));
        let _refused = refusals.judge::<()>(&batch(1, 5), Err(PartitionError::NotEnoughReplicas), now);
        assert!(is_gap(&refusals.judge(&batch(1, 6), gap(6, 4), now)), "the gap begins before the refused batch");
        assert!(is_gap(&refusals.judge(&batch(2, 6), gap(6, 5), now)), "another epoch");
        assert!(is_gap(&refusals.judge(&batch(1, 4), gap(4, 5), now)), "an older batch");
        assert!(is_gap(&refusals.judge(&batch(1, 6), gap(6, 5), now + KEPT)), "long ago");
    }

    #[test]
    fn the_first_batch_of_a_producer_may_be_the_refused_one() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let _refused = refusals.judge::<()>(&batch(0, 0), Err(PartitionError::NotEnoughReplicas), now);
        let unknown = Err(AppendError::UnknownProducer(ProducerId(9)).into());
        let told = refusals.judge::<()>(&batch(0, 1), unknown, now);
        assert!(matches!(told, Err(PartitionError::NotEnoughReplicas)), "{told:?}");
    }

    #[test]
    fn sequences_wrap_around() {
        let (mut refusals, now) = (Refusals::default(), clock::now());
        let _refused = refusals.judge::<()>(&batch(0, i32::MAX), Err(PartitionError::NotEnoughReplicas), now);
        assert!(!is_gap(&refusals.judge(&batch(0, 0), gap(0, i32::MAX), now)));
    }
}
