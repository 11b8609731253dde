//! Where two logs part, and where the follower cuts (KIP-101, KIP-279, KIP-595; replication.md, rule 5).
//!
//! The leader compares (fetch offset, epoch of the follower's last record) with its own epochs and answers, where they
//! disagree, the largest epoch it has that is not above the follower's, with its end. The follower cuts to the smaller
//! of that and its own end for that epoch, and asks again, until they agree.

use crate::ids::{LeaderEpoch, Offset};

/// One log's epochs, as these decisions need them.
pub(super) trait Epochs {
    fn log_start(&self) -> Offset;
    fn log_end(&self) -> Offset;
    /// The largest epoch ≤ `epoch` in the log, and the offset where it ends.
    fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)>;
}

/// The leader's answer to a follower whose last record, before `fetch_offset`, has epoch `last_fetched`; `None`: the
/// follower's log is a prefix of this one.
pub(super) fn diverging(
    leader: &impl Epochs,
    fetch_offset: Offset,
    last_fetched: LeaderEpoch,
) -> Option<(LeaderEpoch, Offset)> {
    if last_fetched == LeaderEpoch::NONE {
        return None;
    }
    match leader.end_of_epoch(last_fetched) {
        Some((epoch, end)) if epoch < last_fetched || end < fetch_offset => Some((epoch, end)),
        Some(_) => None,
        // All that is left here is of newer epochs: whatever the follower holds above our start is not ours.
        None => (fetch_offset > leader.log_start()).then(|| (last_fetched, leader.log_start())),
    }
}

/// What the follower does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    To(Offset),
    /// It would lose what was acked: stop, loudly.
    BelowHighWatermark {
        to: Offset,
    },
}

/// The follower's cut for the leader's answer. `unclean`: the image records an unclean election since the follower's
/// last epoch, so that its high watermark binds no more.
pub(super) fn cut(
    follower: &impl Epochs,
    high_watermark: Offset,
    unclean: bool,
    (epoch, leader_end): (LeaderEpoch, Offset),
) -> Cut {
    let own_end = match follower.end_of_epoch(epoch) {
        Some((_, end)) => end,
        // All that is here is of newer epochs than the leader speaks of.
        None => follower.log_start(),
    };
    let to = leader_end.min(own_end).min(follower.log_end());
    if to < high_watermark && !unclean { Cut::BelowHighWatermark { to } } else { Cut::To(to) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A log as the epochs of its records from offset `start` on.
    #[derive(Clone, Debug, PartialEq)]
    struct Log {
        start: i64,
        records: Vec<i32>,
    }

    fn log(records: &[i32]) -> Log {
        Log { start: 0, records: records.to_vec() }
    }

    impl Log {
        fn last_epoch(&self) -> LeaderEpoch {
            self.records.last().map_or(LeaderEpoch::NONE, |e| LeaderEpoch(*e))
        }
        fn truncate(&mut self, to: Offset) {
            self.records.truncate(usize::try_from((to.0 - self.start).max(0)).unwrap());
        }
    }

    impl Epochs for Log {
        fn log_start(&self) -> Offset {
            Offset(self.start)
        }
        fn log_end(&self) -> Offset {
            Offset(self.start + i64::try_from(self.records.len()).unwrap())
        }
        fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
            let at = self.records.iter().rposition(|e| *e <= epoch.0)?;
            Some((LeaderEpoch(self.records[at]), Offset(self.start + 1 + i64::try_from(at).unwrap())))
        }
    }

    /// Runs the exchange to its end; gives the cuts.
    fn reconcile(leader: &Log, follower: &mut Log, high_watermark: i64) -> Result<Vec<i64>, Offset> {
        let mut cuts = Vec::new();
        while let Some(answer) = diverging(leader, follower.log_end(), follower.last_epoch()) {
            match cut(follower, Offset(high_watermark), false, answer) {
                Cut::To(to) => {
                    assert!(to < follower.log_end(), "each round cuts: {leader:?} {follower:?} {answer:?}");
                    follower.truncate(to);
                    cuts.push(to.0);
                }
                Cut::BelowHighWatermark { to } => return Err(to),
            }
        }
        Ok(cuts)
    }

    #[test]
    fn scripts() {
        struct Case {
            says: &'static str,
            leader: &'static [i32],
            follower: &'static [i32],
            high_watermark: i64,
            cuts: Result<&'static [i64], i64>,
        }
        let cases = [
            Case { says: "a prefix stays", leader: &[1, 1, 2], follower: &[1, 1], high_watermark: 0, cuts: Ok(&[]) },
            Case { says: "an empty follower stays", leader: &[1, 1], follower: &[], high_watermark: 0, cuts: Ok(&[]) },
            Case {
                says: "KIP-101 scenario 1: the high watermark is behind, nothing acked is cut",
                leader: &[0, 0],
                follower: &[0, 0],
                high_watermark: 1,
                cuts: Ok(&[]),
            },
            Case {
                says: "KIP-101 scenario 2: another record at the same offset, of an older epoch",
                leader: &[0, 1],
                follower: &[0, 0],
                high_watermark: 1,
                cuts: Ok(&[1]),
            },
            Case {
                says: "the old leader's tail goes",
                leader: &[0, 0, 2],
                follower: &[0, 0, 0, 0],
                high_watermark: 2,
                cuts: Ok(&[2]),
            },
            Case {
                says: "KIP-279: epochs that the leader never had are cut in rounds",
                leader: &[0, 0, 1, 4],
                follower: &[0, 0, 2, 3, 3],
                high_watermark: 2,
                cuts: Ok(&[2]),
            },
            Case {
                says: "KIP-279: the follower lacks the epoch that the leader answers",
                leader: &[0, 1, 1, 1],
                follower: &[0, 0, 0, 2],
                high_watermark: 1,
                cuts: Ok(&[3, 1]),
            },
            Case {
                says: "acked data is never cut",
                leader: &[0, 2],
                follower: &[0, 1, 1],
                high_watermark: 2,
                cuts: Err(1),
            },
        ];
        for case in cases {
            let mut follower = log(case.follower);
            let outcome = reconcile(&log(case.leader), &mut follower, case.high_watermark);
            assert_eq!(outcome, case.cuts.map(<[i64]>::to_vec).map_err(Offset), "{}", case.says);
        }
    }

    #[test]
    fn a_leader_that_begins_above_the_followers_epochs_answers_its_start() {
        let leader = Log { start: 5, records: vec![7, 7] };
        assert_eq!(diverging(&leader, Offset(6), LeaderEpoch(3)), Some((LeaderEpoch(3), Offset(5))));
        assert_eq!(diverging(&leader, Offset(5), LeaderEpoch(3)), None);
        assert_eq!(cut(&log(&[3; 6]), Offset(5), false, (LeaderEpoch(3), Offset(5))), Cut::To(Offset(5)));
    }

    #[test]
    fn an_unclean_election_lifts_the_bound() {
        let answer = (LeaderEpoch(0), Offset(1));
        assert_eq!(cut(&log(&[0, 1, 1]), Offset(2), true, answer), Cut::To(Offset(1)));
    }

    proptest! {
        /// Logs as a cluster grows them: an offset and epoch name one record, whichever logs hold it, because the
        /// leader of an epoch is one and starts from its own log.
        #[test]
        fn the_follower_ends_as_a_prefix_of_the_leader_and_keeps_what_they_share(
            terms in proptest::collection::vec((0usize..3, 0usize..4, 0usize..6), 1..12)
        ) {
            // Records are (epoch, position in the epoch); the exchange sees only the epochs.
            let mut logs = vec![Vec::<i32>::new(); 3];
            let mut leading = 0;
            for (epoch, (leader, appended, copied)) in terms.into_iter().enumerate() {
                let epoch = i32::try_from(epoch).unwrap();
                leading = leader;
                let mut log = logs[leader].clone();
                log.extend(std::iter::repeat_n(epoch, appended));
                logs[leader] = log.clone();
                // One follower agrees with the leader and copies some of the rest.
                let follower = (leader + 1) % 3;
                let mut copy = Log { start: 0, records: logs[follower].clone() };
                reconcile(&Log { start: 0, records: log.clone() }, &mut copy, 0).unwrap();
                let have = copy.records.len();
                copy.records.extend(log.iter().skip(have).take(copied));
                logs[follower] = copy.records;
            }
            let leader = Log { start: 0, records: logs[leading].clone() };
            for follower in logs {
                let shared = follower.iter().zip(&leader.records).take_while(|(a, b)| a == b).count();
                let mut copy = Log { start: 0, records: follower };
                reconcile(&leader, &mut copy, 0).unwrap();
                prop_assert_eq!(copy.records.as_slice(), &leader.records[..shared]);
            }
        }
    }
}
