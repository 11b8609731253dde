//! What replicas hold, asked of the brokers that host them. The image does not know: a log grows with every record.

use crate::ids::*;
use std::future::Future;
use std::pin::Pin;

/// One replica of one partition, as its broker tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    pub partition: TopicPartition,
    pub is_leader: bool,
    pub leader_epoch: LeaderEpoch,
    /// Of the last record; −1 if there is none.
    pub last_epoch: LeaderEpoch,
    pub log_start: Offset,
    pub log_end: Offset,
    pub durable_end: Offset,
    pub high_watermark: Offset,
    pub size_bytes: u64,
    /// Of a leader: what each other replica holds.
    pub followers: Vec<FollowerProgress>,
}

/// A follower as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerProgress {
    pub broker: BrokerId,
    /// `None` before its first agreeing fetch in this leader epoch.
    pub end: Option<Offset>,
    /// About how many bytes of the leader's log lie beyond `end`; `None` where that is not known.
    pub lag_bytes: Option<u64>,
}

/// The states of those that are open there; or why there is no answer.
pub type StatesFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<ReplicaState>, String>> + Send + 'a>>;

/// The way to ask: `cluster/` supplies it. Answers within a second or two, or fails.
pub trait ReplicaStates: Send + Sync + 'static {
    fn ask(&self, broker: BrokerId, partitions: Vec<TopicPartition>) -> StatesFuture<'_>;
}
