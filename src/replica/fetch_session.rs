//! The follower's half of a fetch session (KIP-227): only partitions whose position changed are mentioned.

use super::follower::Position;
use crate::ids::*;
use crate::wire::codec::{FETCH_FILLS_TAG, FETCH_REFUSED_TAG};
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use std::collections::{BTreeMap, BTreeSet};

/// Our own tagged fields, among nodes only.
fn tags(position: &Position) -> BTreeMap<i32, Bytes> {
    let tags = [(position.refused, FETCH_REFUSED_TAG), (position.fills, FETCH_FILLS_TAG)];
    tags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, tag)| (tag, Bytes::new())).collect()
}

/// What one request carries of the session.
pub(super) struct Mentioned {
    pub session_id: i32,
    pub session_epoch: i32,
    pub topics: Vec<FetchTopic>,
    pub forgotten: Vec<ForgottenTopic>,
}

/// Invariant: `sent` is what the leader believes; epoch 0 opens a session.
#[derive(Default)]
pub(super) struct FetchSession {
    id: i32,
    epoch: i32,
    sent: BTreeMap<TopicPartition, Position>,
    forgotten: BTreeSet<TopicPartition>,
}

impl FetchSession {
    /// The session has nothing of this partition: all are to be mentioned again.
    pub fn is_new(&self) -> bool {
        self.epoch == 0
    }

    /// There is nothing that the leader is to answer for.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// The leader must not answer for this one any more.
    pub fn forget(&mut self, id: TopicPartition) {
        if self.sent.remove(&id).is_some() {
            self.forgotten.insert(id);
        }
    }

    /// Mentions those of `positions` that the leader does not know as they are.
    pub fn mention(
        &mut self,
        positions: impl IntoIterator<Item = (TopicPartition, Position)>,
        max_bytes: i32,
    ) -> Mentioned {
        let mut topics: BTreeMap<TopicId, Vec<FetchPartition>> = BTreeMap::new();
        for (id, position) in positions {
            self.forgotten.remove(&id);
            if self.sent.insert(id, position) == Some(position) {
                continue;
            }
            topics.entry(id.topic).or_default().push(
                FetchPartition::default()
                    .with_partition(id.partition)
                    .with_current_leader_epoch(position.leader_epoch.0)
                    .with_fetch_offset(position.offset.0)
                    .with_last_fetched_epoch(position.last_fetched_epoch.0)
                    .with_log_start_offset(position.log_start.0)
                    .with_partition_max_bytes(max_bytes)
                    .with_unknown_tagged_fields(tags(&position)),
            );
        }
        let mut forgotten: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
        for id in std::mem::take(&mut self.forgotten) {
            forgotten.entry(id.topic).or_default().push(id.partition);
        }
        Mentioned {
            session_id: self.id,
            session_epoch: self.epoch,
            topics: topics
                .into_iter()
                .map(|(id, list)| FetchTopic::default().with_topic_id(id.0).with_partitions(list))
                .collect(),
            forgotten: forgotten
                .into_iter()
                .map(|(id, list)| ForgottenTopic::default().with_topic_id(id.0).with_partitions(list))
                .collect(),
        }
    }

    /// The leader answered the request well, with this session id (0: it keeps none, so every request is a full one).
    pub fn answered(&mut self, id: i32) {
        if id == 0 {
            *self = FetchSession::default();
            return;
        }
        self.epoch = if self.id == id && self.epoch != i32::MAX { self.epoch + 1 } else { 1 };
        self.id = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(offset: i64) -> Position {
        Position {
            leader_epoch: LeaderEpoch(1),
            offset: Offset(offset),
            last_fetched_epoch: LeaderEpoch(1),
            log_start: Offset(0),
            needs_flush: false,
            refused: false,
            fills: false,
        }
    }

    fn offsets(mentioned: &Mentioned) -> Vec<(i32, i64)> {
        let partitions = mentioned.topics.iter().flat_map(|t| &t.partitions);
        partitions.map(|p| (p.partition, p.fetch_offset)).collect()
    }

    #[test]
    fn a_session_tells_only_what_changed() {
        let topic = TopicId(Uuid::from_u128(1));
        let id = |p| TopicPartition::new(topic, p);
        let mut session = FetchSession::default();
        let first = session.mention([(id(0), at(5)), (id(1), at(7))], 100);
        assert_eq!((first.session_id, first.session_epoch), (0, 0));
        assert_eq!(offsets(&first), vec![(0, 5), (1, 7)]);
        session.answered(42);
        assert!(!session.is_new());
        let second = session.mention([(id(0), at(5)), (id(1), at(9))], 100);
        assert_eq!((second.session_id, second.session_epoch), (42, 1));
        assert_eq!(offsets(&second), vec![(1, 9)]);
        session.answered(42);
        assert!(!session.is_empty());
        session.forget(id(0));
        session.forget(id(1));
        assert!(session.is_empty());
        // It comes back before the next request: mentioned, not forgotten.
        let third = session.mention([(id(1), at(9))], 100);
        assert_eq!(third.session_epoch, 2);
        assert_eq!(offsets(&third), vec![(1, 9)]);
        assert_eq!(third.forgotten.len(), 1);
        assert_eq!(third.forgotten[0].partitions, vec![0]);
        // A leader without room for a session: all is told each time.
        session.answered(0);
        assert!(session.is_new());
        assert_eq!(offsets(&session.mention([(id(0), at(5)), (id(1), at(9))], 100)).len(), 2);
    }
}
