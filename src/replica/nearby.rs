//! Consumers read from the replica that is nearest to them (KIP-392).
//!
//! ```text
//! consumer of rack b ─→ leader (rack a): an in-sync replica in b holds the offset ─→ "read from it", no records
//!                    ─→ that follower: what is below its own high watermark; it learns of moves as they happen
//! ```

use super::leader::LeaderState;
use super::partition::{Partition, PartitionError, ReadOutcome, ReadRequest, leading};
use super::role::{Role, State};
use crate::ids::*;
use crate::log::partition_log::PartitionLog;
use std::cmp::Reverse;

impl LeaderState {
    /// Of the replicas among `near`, the in-sync one that holds most; `None` if none holds `offset`. Ties go by replica
    /// order.
    fn nearest(&self, near: &[BrokerId], offset: Offset) -> Option<BrokerId> {
        let usable = self.followers().enumerate().filter(|(_, follower)| {
            near.contains(&follower.broker)
                && self.is_in_isr(follower.broker)
                && follower.log_start <= offset
                && follower.end.is_some_and(|end| end >= offset)
        });
        usable.max_by_key(|(place, follower)| (follower.end, Reverse(*place))).map(|(_, follower)| follower.broker)
    }
}

impl Partition {
    /// Where a consumer should read instead of here, as an answer without records. `None`: here. `near` are the live
    /// brokers near it.
    pub fn redirect(&self, request: &ReadRequest, near: &[BrokerId]) -> Option<ReadOutcome> {
        if near.is_empty() || near.contains(&self.node.broker) {
            return None;
        }
        let guard = self.state.lock();
        // Errors are the read's to tell.
        let (log, leader) = leading(&guard, request.current_leader_epoch).ok()?;
        let preferred = leader.nearest(near, request.offset)?;
        Some(ReadOutcome { preferred: Some(preferred), ..guard.outcome(log) })
    }
}

/// The log to read for a consumer: the leader's, or an in-sync follower's where the request may be served by one. A
/// follower that fell out of sync may stand still: its consumers go back to the leader.
pub(super) fn readable<'a>(state: &'a State, request: &ReadRequest) -> Result<&'a PartitionLog, PartitionError> {
    match leading(state, request.current_leader_epoch) {
        Ok((log, _)) => {
            let (start, end) = (log.log_start(), log.log_end());
            if request.offset < start || request.offset > end {
                return Err(PartitionError::OutOfRange { asked: request.offset, start, end });
            }
            Ok(log)
        }
        Err(PartitionError::NotLeader(_)) if may_follow(state, request) => {
            let log = state.log.as_ref().ok_or(PartitionError::NotHosted)?;
            let (asked, start) = (request.offset, log.log_start());
            if asked < start {
                return Err(PartitionError::OutOfRange { asked, start, end: state.high_watermark });
            }
            // The leader has it, or had: what is above only arrives here, or is not known to be committed.
            if asked > state.high_watermark { Err(PartitionError::OffsetNotAvailable) } else { Ok(log) }
        }
        Err(error) => Err(error),
    }
}

fn may_follow(state: &State, request: &ReadRequest) -> bool {
    request.any_replica && state.in_sync && matches!(state.role, Role::Follower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::topic::Durability;
    use crate::replica::testing::{Replica, batch, image, three};
    use crate::replica::watcher::Watcher;

    fn request(offset: i64, epoch: i32) -> ReadRequest {
        ReadRequest {
            offset: Offset(offset),
            max_bytes: 1 << 20,
            at_least_one: true,
            current_leader_epoch: LeaderEpoch(epoch),
            read_committed: false,
            any_replica: true,
            follower: None,
        }
    }

    fn read(replica: &Replica, offset: i64) -> Result<usize, PartitionError> {
        replica.partition.read(&request(offset, 0)).map(|outcome| outcome.chunk.bytes.len())
    }

    /// Three records; broker 2 holds all and knows that two are committed; broker 3 holds two.
    async fn story() -> [Replica; 3] {
        let [one, two, three] = three(Durability::PageCache);
        for value in ["a", "b"] {
            one.partition.append(&batch(&[value]), 1).unwrap();
        }
        two.catch_up(&one).await;
        three.catch_up(&one).await;
        two.catch_up(&one).await;
        one.partition.append(&batch(&["c"]), 1).unwrap();
        two.catch_up(&one).await;
        assert_eq!(two.partition.status().high_watermark, Offset(2));
        [one, two, three]
    }

    #[tokio::test]
    async fn a_follower_serves_consumers_up_to_its_own_high_watermark() {
        let [one, two, three] = story().await;
        assert!(read(&two, 0).unwrap() > 0);
        let tail = two.partition.read(&request(1, 0)).unwrap();
        assert_eq!((tail.high_watermark, tail.chunk.bytes.len()), (Offset(2), read(&one, 1).unwrap()));
        assert_eq!(read(&two, 2).unwrap(), 0, "the third is there, and not committed");
        assert!(matches!(read(&two, 3), Err(PartitionError::OffsetNotAvailable)));
        assert!(matches!(read(&two, 9), Err(PartitionError::OffsetNotAvailable)), "only the leader knows its end");
        assert!(matches!(read(&one, 9), Err(PartitionError::OutOfRange { .. })));
        let mut old_client = request(0, 0);
        old_client.any_replica = false;
        assert!(matches!(two.partition.read(&old_client), Err(PartitionError::NotLeader(_))));
        assert!(matches!(two.partition.read(&request(0, 1)), Err(PartitionError::UnknownEpoch)));
        let consumer = Watcher::of_consumer();
        two.partition.watch(&consumer, 7);
        three.catch_up(&one).await;
        two.catch_up(&one).await;
        assert_eq!(consumer.take(), vec![7], "who waits at a follower is woken when more is committed");
        assert!(read(&two, 2).unwrap() > 0);
    }

    #[tokio::test]
    async fn below_its_start_a_follower_says_so() {
        let [one, two, three] = story().await;
        three.catch_up(&one).await;
        two.catch_up(&one).await;
        one.partition.delete_records(Offset(1)).unwrap();
        two.fetch(&one).await.unwrap();
        assert!(matches!(read(&two, 0), Err(PartitionError::OutOfRange { start: Offset(1), .. })));
    }

    #[tokio::test]
    async fn one_that_is_out_of_sync_sends_its_consumers_to_the_leader() {
        let [_one, two, _three] = story().await;
        let consumer = Watcher::of_consumer();
        two.partition.watch(&consumer, 7);
        two.show(&image(1, &[1, 3], 0, 1, None));
        assert_eq!(consumer.take(), vec![7], "also who waits");
        assert!(matches!(read(&two, 0), Err(PartitionError::NotLeader(hint)) if hint.leader == Some(BrokerId(1))));
        two.show(&image(1, &[1, 3, 2], 0, 2, None));
        assert!(read(&two, 0).is_ok());
    }

    #[tokio::test]
    async fn the_leader_names_an_in_sync_replica_near_the_consumer_that_holds_the_offset() {
        let [one, two, _three] = story().await;
        let preferred = |near: &[i32], offset| {
            let near: Vec<BrokerId> = near.iter().copied().map(BrokerId).collect();
            one.partition.redirect(&request(offset, 0), &near).map(|outcome| outcome.preferred.unwrap().0)
        };
        assert_eq!(preferred(&[], 0), None);
        assert_eq!(preferred(&[2], 0), Some(2));
        assert_eq!(preferred(&[3, 2], 0), Some(2), "it holds more");
        assert_eq!(preferred(&[3], 3), None, "it lacks that");
        assert_eq!(preferred(&[1, 2], 0), None, "the leader is near enough");
        assert_eq!(preferred(&[9], 0), None, "no replica");
        one.show(&image(1, &[1, 3], 0, 1, None));
        assert_eq!(preferred(&[2], 0), None, "out of sync");
        assert_eq!(preferred(&[2, 3], 0), Some(3));
        assert!(two.partition.redirect(&request(0, 0), &[BrokerId(3)]).is_none(), "only the leader knows");
    }
}
