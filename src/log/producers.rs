//! What idempotent producers sent last: the check that makes a retry a duplicate and a gap an error (KIP-98, KIP-360).
//!
//! The state is a function of the log: every replica builds it on append, snapshots save the way back to the log's
//! start, and a truncation rebuilds it (replication.md, rule 18).

use super::partition_log::AppendError;
use crate::ids::*;
use crate::platform::bugs::{self, Bug};
use crate::records::batch::{BatchHeader, sequence_after};
use std::collections::HashMap;

/// Kafka's clients have at most five batches in flight; so many can be told to be duplicates.
pub(super) const BATCHES_REMEMBERED: usize = 5;
/// Bound on producers per partition; beyond it the ones silent for longest are forgotten, a tenth at a time.
pub(super) const PRODUCERS_MAX: usize = 100_000;

/// One batch of a producer, as the log holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SentBatch {
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: Offset,
    pub last_offset: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub epoch: ProducerEpoch,
    /// The newest last; `batches[..count]` are in use, all of the current epoch.
    batches: [SentBatch; BATCHES_REMEMBERED],
    count: u8,
    /// When it was last heard of, by this node's clock: expiry counts from here.
    pub seen_ms: i64,
    /// Where its open transaction began.
    pub open_transaction: Option<Offset>,
}

impl Producer {
    pub fn new(epoch: ProducerEpoch, seen_ms: i64) -> Producer {
        Producer { epoch, batches: Default::default(), count: 0, seen_ms, open_transaction: None }
    }

    pub fn batches(&self) -> &[SentBatch] {
        &self.batches[..usize::from(self.count)]
    }

    pub fn push(&mut self, batch: SentBatch) {
        let count = usize::from(self.count);
        if count == BATCHES_REMEMBERED {
            self.batches.rotate_left(1);
            self.batches[BATCHES_REMEMBERED - 1] = batch;
        } else {
            self.batches[count] = batch;
            self.count += 1;
        }
    }

    /// Takes in a batch that is in the log, without a check.
    fn take_in(&mut self, header: &BatchHeader, now_ms: i64) {
        if header.producer_epoch != self.epoch {
            self.epoch = header.producer_epoch;
            self.count = 0;
        }
        self.seen_ms = now_ms;
        if header.is_control() {
            self.open_transaction = None;
            return;
        }
        if header.is_transactional() && self.open_transaction.is_none() {
            self.open_transaction = Some(header.base_offset);
        }
        self.push(SentBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
        });
    }

    /// May the leader append this batch now?
    fn judge(&self, header: &BatchHeader) -> Result<Option<SentBatch>, AppendError> {
        let producer = header.producer_id;
        if header.producer_epoch < self.epoch {
            let (given, current) = (header.producer_epoch, self.epoch);
            return Err(AppendError::InvalidProducerEpoch { producer, given, current });
        }
        if header.is_control() {
            return Ok(None);
        }
        let given = header.base_sequence;
        let newest = if header.producer_epoch == self.epoch { self.batches().last() } else { None };
        let Some(newest) = newest else {
            // A new epoch begins at 0; so does a producer of which only a transaction marker is known here.
            return if given == 0 {
                Ok(None)
            } else {
                Err(AppendError::OutOfOrderSequence { producer, given, expected: 0 })
            };
        };
        let last_sequence = header.last_sequence();
        if let Some(original) =
            self.batches().iter().find(|b| b.first_sequence == given && b.last_sequence == last_sequence)
        {
            return Ok(Some(*original));
        }
        let expected = sequence_after(newest.last_sequence, 1);
        if given == expected { Ok(None) } else { Err(AppendError::OutOfOrderSequence { producer, given, expected }) }
    }
}

/// Producers as they will be once the batches of one append are in the log.
#[derive(Default)]
pub(super) struct Staged(Vec<(ProducerId, Producer)>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producers {
    producers: HashMap<ProducerId, Producer>,
}

impl Producers {
    /// Checks a batch that the leader is about to append, with the offsets it would get, after those in `staged`.
    /// Answers the original if it is a duplicate.
    pub fn stage(
        &self,
        staged: &mut Staged,
        header: &BatchHeader,
        now_ms: i64,
    ) -> Result<Option<SentBatch>, AppendError> {
        if !header.has_producer() {
            return Ok(None);
        }
        let before = staged.0.iter().rev().find(|(id, _)| *id == header.producer_id).map(|(_, p)| p);
        let mut producer = match before.or_else(|| self.producers.get(&header.producer_id)) {
            Some(producer) => {
                if let Some(original) = producer.judge(header)? {
                    return Ok(Some(original));
                }
                *producer
            }
            // Accepting any sequence here, as Kafka does, would let a second batch in flight overtake a refused first.
            None if header.base_sequence > 0 && !header.is_control() && !bugs::is(Bug::ForgetProducerState) => {
                return Err(AppendError::UnknownProducer(header.producer_id));
            }
            None => Producer::new(header.producer_epoch, now_ms),
        };
        producer.take_in(header, now_ms);
        staged.0.push((header.producer_id, producer));
        Ok(None)
    }

    /// The staged batches are in the log.
    pub fn commit(&mut self, staged: Staged) {
        for (id, producer) in staged.0 {
            self.insert(id, producer);
        }
    }

    /// Takes in a batch that is in the log, without a check: a follower's, or one read back.
    pub fn take_in(&mut self, header: &BatchHeader, now_ms: i64) {
        if bugs::is(Bug::ForgetProducerState) {
            return;
        }
        if !header.has_producer() {
            return;
        }
        if let Some(producer) = self.producers.get_mut(&header.producer_id) {
            producer.take_in(header, now_ms);
        } else {
            let mut producer = Producer::new(header.producer_epoch, now_ms);
            producer.take_in(header, now_ms);
            self.insert(header.producer_id, producer);
        }
    }

    pub fn insert(&mut self, id: ProducerId, producer: Producer) {
        if self.producers.len() >= PRODUCERS_MAX && !self.producers.contains_key(&id) {
            self.forget_longest_silent(PRODUCERS_MAX / 10);
        }
        self.producers.insert(id, producer);
    }

    /// Forgets producers silent for longer than `expiration_ms`, unless a transaction of theirs is open.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        if expiration_ms > 0 {
            self.producers
                .retain(|_, p| p.open_transaction.is_some() || now_ms.saturating_sub(p.seen_ms) <= expiration_ms);
        }
    }

    /// Open transactions stay: their end must find them.
    fn forget_longest_silent(&mut self, count: usize) {
        let mut silent: Vec<(i64, ProducerId)> = self
            .producers
            .iter()
            .filter(|(_, p)| p.open_transaction.is_none())
            .map(|(id, p)| (p.seen_ms, *id))
            .collect();
        silent.sort_unstable();
        for (_, id) in silent.into_iter().take(count) {
            self.producers.remove(&id);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &Producer)> {
        self.producers.iter().map(|(id, producer)| (*id, producer))
    }

    #[cfg(test)]
    pub fn get(&self, id: i64) -> Option<&Producer> {
        self.producers.get(&ProducerId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::Batch;

    /// A leader's log reduced to its producers.
    #[derive(Default)]
    struct Story {
        producers: Producers,
        end: i64,
    }

    impl Story {
        /// Sends a batch; answers its base offset, and whether it was a duplicate.
        fn send(&mut self, epoch: i16, sequence: i32, records: i32) -> Result<(i64, bool), AppendError> {
            let bytes = Batch::at(self.end).records(records).producer(9, epoch, sequence).bytes();
            let header = BatchHeader::parse(&bytes).unwrap();
            let mut staged = Staged::default();
            if let Some(original) = self.producers.stage(&mut staged, &header, 0)? {
                return Ok((original.base_offset.0, true));
            }
            self.producers.commit(staged);
            self.end += i64::from(records);
            Ok((self.end - i64::from(records), false))
        }
    }

    #[test]
    fn retries_are_told_their_original_offset() {
        let mut story = Story::default();
        for i in 0..7 {
            assert_eq!(story.send(0, i * 10, 10).unwrap(), (i64::from(i) * 10, false));
        }
        for i in 2..7 {
            assert_eq!(story.send(0, i * 10, 10).unwrap(), (i64::from(i) * 10, true));
        }
        let forgotten = story.send(0, 10, 10).unwrap_err();
        assert!(matches!(forgotten, AppendError::OutOfOrderSequence { given: 10, expected: 70, .. }));
        let overlapping = story.send(0, 60, 11).unwrap_err();
        assert!(matches!(overlapping, AppendError::OutOfOrderSequence { .. }));
        let gap = story.send(0, 71, 1).unwrap_err();
        assert!(matches!(gap, AppendError::OutOfOrderSequence { given: 71, expected: 70, .. }));
        assert_eq!(story.send(0, 70, 1).unwrap(), (70, false), "an error changes nothing");
    }

    #[test]
    fn epochs_fence() {
        let mut story = Story::default();
        story.send(3, 0, 5).unwrap();
        assert!(matches!(story.send(2, 5, 1), Err(AppendError::InvalidProducerEpoch { .. })));
        assert!(matches!(story.send(4, 5, 1), Err(AppendError::OutOfOrderSequence { expected: 0, .. })));
        assert_eq!(story.send(4, 0, 1).unwrap(), (5, false), "a new epoch begins at 0, and is no duplicate");
        assert!(matches!(story.send(3, 5, 1), Err(AppendError::InvalidProducerEpoch { .. })));
    }

    #[test]
    fn an_unknown_producer_begins_at_zero() {
        let mut story = Story::default();
        assert!(matches!(story.send(0, 5, 1), Err(AppendError::UnknownProducer(ProducerId(9)))));
        story.send(0, 0, 5).unwrap();
        story.producers.expire(1_000, 999);
        assert!(matches!(story.send(0, 5, 1), Err(AppendError::UnknownProducer(ProducerId(9)))));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut story = Story::default();
        let near_end = BatchHeader {
            base_sequence: i32::MAX - 4,
            ..BatchHeader::parse(&Batch::at(0).records(3).producer(9, 0, 0).bytes()).unwrap()
        };
        story.producers.take_in(&near_end, 0);
        story.end = 3;
        // MAX−1, MAX, 0, 1: the batch itself wraps.
        assert_eq!(story.send(0, i32::MAX - 1, 4).unwrap(), (3, false));
        assert_eq!(story.send(0, i32::MAX - 1, 4).unwrap(), (3, true));
        assert_eq!(story.send(0, 2, 1).unwrap(), (7, false));
    }

    #[test]
    fn batches_of_one_append_see_each_other() {
        let producers = Producers::default();
        let mut staged = Staged::default();
        let header =
            |base, sequence| BatchHeader::parse(&Batch::at(base).records(2).producer(1, 0, sequence).bytes()).unwrap();
        assert_eq!(producers.stage(&mut staged, &header(0, 0), 0).unwrap(), None);
        assert_eq!(producers.stage(&mut staged, &header(2, 2), 0).unwrap(), None);
        assert!(producers.stage(&mut staged, &header(4, 5), 0).is_err());
    }

    #[test]
    fn transactions_open_and_close() {
        let mut producers = Producers::default();
        let parse = |batch: Batch| BatchHeader::parse(&batch.bytes()).unwrap();
        producers.take_in(&parse(Batch::at(10).producer(1, 0, 0).transactional()), 0);
        producers.take_in(&parse(Batch::at(11).producer(1, 0, 1).transactional()), 0);
        assert_eq!(producers.get(1).unwrap().open_transaction, Some(Offset(10)));
        producers.expire(i64::MAX, 1);
        assert_eq!(producers.len(), 1, "an open transaction keeps its producer");
        producers.take_in(&parse(Batch::at(12).producer(1, 0, -1).transactional().control()), 0);
        assert_eq!(producers.get(1).unwrap().open_transaction, None);
        assert_eq!(producers.get(1).unwrap().batches().len(), 2, "a marker is no batch of the producer");
    }

    #[test]
    fn the_bound_forgets_the_longest_silent() {
        let mut producers = Producers::default();
        for id in 0..=PRODUCERS_MAX as i64 {
            producers.insert(ProducerId(id), Producer::new(ProducerEpoch(0), id));
        }
        assert!(producers.len() <= PRODUCERS_MAX);
        assert!(producers.get(0).is_none());
        assert!(producers.get(PRODUCERS_MAX as i64).is_some());
    }
}
