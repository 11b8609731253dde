//! Which leader epoch starts where: the leader-epoch file of KIP-101, in Kafka's text format.
//!
//! The batch headers are the truth. The file is made durable before the recovery point moves past what it tells, and
//! recovery rebuilds the rest from the headers. An epoch without a record is lost by a crash, which is harmless: no
//! replica can have a record of it from here.

use crate::ids::*;

/// Invariant: epochs and start offsets both rise strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Epochs {
    entries: Vec<(LeaderEpoch, Offset)>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the leader-epoch file is damaged: {0}")]
pub(super) struct DamagedEpochs(String);

impl Epochs {
    pub fn latest(&self) -> Option<(LeaderEpoch, Offset)> {
        self.entries.last().copied()
    }

    /// `epoch` starts at `start`. Nothing happens unless it is newer than all; epochs in which nothing was written
    /// (they start at or after `start`) are forgotten.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        if epoch.0 < 0 || self.latest().is_some_and(|(latest, _)| latest >= epoch) {
            return;
        }
        self.truncate_end(start);
        self.entries.push((epoch, start));
    }

    /// KIP-101 with KIP-279, as Kafka answers:
    /// - the latest epoch ends at the log's end;
    /// - an epoch newer than the latest is unknown: `None`;
    /// - an epoch older than all known ones was dropped by retention; it "ends" where the first known one starts, and
    ///   keeps its own number, so that a follower goes on from there and truncates nothing below;
    /// - otherwise the largest epoch ≤ the one asked, which ends where the next larger one starts.
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if epoch.0 < 0 {
            return None;
        }
        let next = self.entries.partition_point(|(e, _)| *e <= epoch);
        match (next.checked_sub(1).map(|floor| self.entries[floor]), self.entries.get(next)) {
            (Some((floor, _)), None) if floor == epoch => Some((epoch, log_end)),
            (_, None) => None,
            (None, Some((_, start))) => Some((epoch, *start)),
            (Some((floor, _)), Some((_, start))) => Some((floor, *start)),
        }
    }

    /// The epoch in which `offset` lies.
    pub fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let next = self.entries.partition_point(|(_, start)| *start <= offset);
        next.checked_sub(1).map(|floor| self.entries[floor].0)
    }

    /// The log now ends at `end`: epochs that start there or later have no record.
    pub fn truncate_end(&mut self, end: Offset) {
        let kept = self.entries.partition_point(|(_, start)| *start < end);
        self.entries.truncate(kept);
    }

    /// Epochs newer than `newest` were never anybody's: it starts where the first of them was said to. That one.
    pub fn disown_above(&mut self, newest: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let kept = self.entries.partition_point(|(epoch, _)| *epoch <= newest);
        let disowned = *self.entries.get(kept)?;
        self.entries.truncate(kept);
        self.assign(newest, disowned.1);
        Some(disowned)
    }

    /// The log now starts at `start`: the epoch in which it lies starts there.
    pub fn truncate_start(&mut self, start: Offset) {
        let next = self.entries.partition_point(|(_, s)| *s <= start);
        if let Some(floor) = next.checked_sub(1) {
            self.entries.drain(..floor);
            self.entries[0].1 = start;
        }
    }

    /// Kafka's `leader-epoch-checkpoint`: version, count, and a line for each epoch.
    pub fn encode(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for (epoch, start) in &self.entries {
            text.push_str(&format!("{epoch} {start}\n"));
        }
        text
    }

    pub fn decode(bytes: &[u8]) -> Result<Epochs, DamagedEpochs> {
        let damaged = |what: &str| DamagedEpochs(what.to_string());
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some("0") {
            return Err(damaged("the version is not 0"));
        }
        let count: usize = lines.next().and_then(|l| l.parse().ok()).ok_or_else(|| damaged("no count"))?;
        let mut entries: Vec<(LeaderEpoch, Offset)> = Vec::new();
        for line in lines {
            let (epoch, start) = line.split_once(' ').ok_or_else(|| damaged("a line has no two numbers"))?;
            let epoch = LeaderEpoch(epoch.parse().map_err(|_| damaged("an epoch is no number"))?);
            let start = Offset(start.parse().map_err(|_| damaged("an offset is no number"))?);
            if entries.last().is_some_and(|(e, s)| *e >= epoch || *s >= start) || epoch.0 < 0 || start.0 < 0 {
                return Err(damaged("entries do not rise"));
            }
            entries.push((epoch, start));
        }
        if entries.len() != count {
            return Err(damaged("the count is wrong"));
        }
        Ok(Epochs { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epochs(entries: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for (epoch, start) in entries {
            epochs.assign(LeaderEpoch(*epoch), Offset(*start));
        }
        epochs
    }

    fn end(epochs: &Epochs, epoch: i32) -> Option<(i32, i64)> {
        epochs.end_of(LeaderEpoch(epoch), Offset(100)).map(|(e, o)| (e.0, o.0))
    }

    #[test]
    fn the_end_of_an_epoch_is_kafkas() {
        let log = epochs(&[(2, 10), (4, 30), (7, 70)]);
        assert_eq!(end(&log, 7), Some((7, 100)), "the latest ends at the log's end");
        assert_eq!(end(&log, 8), None, "not known yet");
        assert_eq!(end(&log, 4), Some((4, 70)));
        assert_eq!(end(&log, 5), Some((4, 70)), "a gap answers the epoch before it");
        assert_eq!(end(&log, 2), Some((2, 30)));
        assert_eq!(end(&log, 1), Some((1, 10)), "dropped by retention");
        assert_eq!(end(&log, -1), None);
        assert_eq!(end(&Epochs::default(), 0), None);
    }

    #[test]
    fn an_epoch_without_records_is_replaced() {
        let mut log = epochs(&[(1, 0), (2, 50), (3, 50)]);
        assert_eq!(log.entries, [(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(50))]);
        log.assign(LeaderEpoch(2), Offset(60));
        assert_eq!(log.latest(), Some((LeaderEpoch(3), Offset(50))), "an older epoch changes nothing");
        assert_eq!(log.at(Offset(49)), Some(LeaderEpoch(1)));
        assert_eq!(log.at(Offset(50)), Some(LeaderEpoch(3)));
        log.truncate_end(Offset(50));
        assert_eq!(log.latest(), Some((LeaderEpoch(1), Offset(0))));
    }

    #[test]
    fn an_epoch_that_nobody_had_is_disowned() {
        let mut all = epochs(&[(1, 0), (3, 10), (40, 20)]);
        assert_eq!(all.disown_above(LeaderEpoch(40)), None);
        assert_eq!(all.disown_above(LeaderEpoch(4)), Some((LeaderEpoch(40), Offset(20))));
        assert_eq!(all, epochs(&[(1, 0), (3, 10), (4, 20)]));
        assert_eq!(all.disown_above(LeaderEpoch(3)), Some((LeaderEpoch(4), Offset(20))));
        assert_eq!(all, epochs(&[(1, 0), (3, 10)]), "it goes on");
        assert_eq!(all.disown_above(LeaderEpoch(0)), Some((LeaderEpoch(1), Offset(0))));
        assert_eq!(all, epochs(&[(0, 0)]));
    }

    #[test]
    fn the_start_moves_into_an_epoch() {
        let mut log = epochs(&[(1, 0), (2, 50), (3, 80)]);
        log.truncate_start(Offset(60));
        assert_eq!(log.entries, [(LeaderEpoch(2), Offset(60)), (LeaderEpoch(3), Offset(80))]);
        assert_eq!(log.at(Offset(10)), None);
        log.truncate_start(Offset(80));
        assert_eq!(log.entries, [(LeaderEpoch(3), Offset(80))]);
    }

    #[test]
    fn the_file_is_kafkas_text() {
        let log = epochs(&[(0, 0), (3, 17)]);
        assert_eq!(log.encode(), "0\n2\n0 0\n3 17\n");
        for wrong in ["", "1\n0\n", "0\n1\n", "0\n1\n3\n", "0\n2\n3 5\n3 6\n", "0\n2\n3 5\n4 5\n", "0\n1\nx 5\n"] {
            assert!(Epochs::decode(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn the_file_round_trips(steps in proptest::collection::vec((1i32..5, 0i64..50), 0..40), cut in 0i64..1000) {
            let mut log = Epochs::default();
            let (mut epoch, mut start) = (0, 0);
            for (e, s) in steps {
                epoch += e;
                start += s;
                log.assign(LeaderEpoch(epoch), Offset(start));
            }
            prop_assert_eq!(&Epochs::decode(log.encode().as_bytes()).unwrap(), &log);
            log.truncate_end(Offset(cut));
            prop_assert_eq!(&Epochs::decode(log.encode().as_bytes()).unwrap(), &log);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Epochs::decode(&bytes);
        }
    }
}
