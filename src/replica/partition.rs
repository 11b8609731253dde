//! One partition hosted here, behind one short lock that is never held over an await.

use super::watcher::Watcher;
use crate::ids::*;
use crate::log::partition_log::Chunk;
use crate::records::ValidBatches;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Who leads, told to a client with an error so that it need not ask (KIP-951).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    pub leader: Option<BrokerId>,
    pub epoch: LeaderEpoch,
}

#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    #[error("this broker does not lead the partition")]
    NotLeader(LeaderHint),
    #[error("the request's leader epoch is older than the current one")]
    FencedEpoch(LeaderHint),
    /// The caller knows a newer epoch than this node's image (REPLICATION rule 15).
    #[error("the request's leader epoch is newer than this broker knows")]
    UnknownEpoch,
    #[error("the partition is not hosted here")]
    NotHosted,
    #[error("fewer than min.insync.replicas are in sync")]
    NotEnoughReplicas,
    #[error("appended, but the ISR shrank below min.insync.replicas before it was replicated")]
    NotEnoughReplicasAfterAppend,
    #[error("the high watermark of the new leader is not known yet")]
    OffsetNotAvailable,
    #[error("offset {asked} is outside {start}..={end}")]
    OutOfRange { asked: Offset, start: Offset, end: Offset },
    /// The fetching replica is not in the replica set, or its broker epoch is stale.
    #[error("the fetching replica is not known to this leader")]
    UnknownReplica,
    #[error(transparent)]
    Append(#[from] crate::log::partition_log::AppendError),
    #[error("storage: {0}")]
    Storage(String),
}

/// Where an acks=all reply waits: resolves when the high watermark passes the append, or with why it never will here.
pub struct HighWatermarkWait(pub oneshot::Receiver<Result<(), PartitionError>>);

pub struct AppendOutcome {
    pub appended: crate::log::partition_log::Appended,
    pub log_start: Offset,
    /// `Some` for acks=all unless the high watermark has passed already.
    pub wait: Option<HighWatermarkWait>,
}

/// A consumer's or a follower's wish for one partition.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    pub offset: Offset,
    pub max_bytes: usize,
    pub at_least_one: bool,
    /// −1: not checked.
    pub current_leader_epoch: LeaderEpoch,
    pub read_committed: bool,
    pub follower: Option<FollowerState>,
}

/// What a follower says of itself in its fetch; taken only from the replica listener.
#[derive(Clone, Copy, Debug)]
pub struct FollowerState {
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// −1: none.
    pub last_fetched_epoch: LeaderEpoch,
    pub log_start: Offset,
}

#[derive(Clone, Debug)]
pub struct ReadOutcome {
    pub chunk: Chunk,
    pub high_watermark: Offset,
    pub last_stable: Offset,
    pub log_start: Offset,
    /// The follower's log diverges: truncate to min of this and its own end for that epoch (KIP-595).
    pub diverging: Option<(LeaderEpoch, Offset)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    Latest,
    Earliest,
    MaxTimestamp,
    AtTime(i64),
}

/// Offset, timestamp (−1 if none) and leader epoch of a ListOffsets answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub epoch: LeaderEpoch,
}

/// What describe shows.
#[derive(Clone, Debug)]
pub struct PartitionStatus {
    pub leader_epoch: LeaderEpoch,
    pub is_leader: bool,
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
    pub durable_end: Offset,
    pub size_bytes: u64,
}

pub struct Partition {
    pub id: TopicPartition,
    pub topic: Arc<str>,
}

impl Partition {
    /// Appends as leader. `acks`: 0, 1 or −1 (all). Never awaits.
    pub fn append(&self, records: &ValidBatches, acks: i16) -> Result<AppendOutcome, PartitionError> {
        let _ = (records, acks);
        todo!()
    }

    /// Reads; a follower's read also records its progress, which may move the high watermark.
    pub fn read(&self, request: &ReadRequest) -> Result<ReadOutcome, PartitionError> {
        let _ = request;
        todo!()
    }

    pub fn find_offset(
        &self,
        spec: OffsetSpec,
        read_committed: bool,
        current_leader_epoch: LeaderEpoch,
    ) -> Result<Option<FoundOffset>, PartitionError> {
        let _ = (spec, read_committed, current_leader_epoch);
        todo!()
    }

    /// OffsetForLeaderEpoch: the largest epoch ≤ `epoch` and its end; `None` if unknown.
    pub fn end_of_epoch(
        &self,
        current_leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
    ) -> Result<Option<(LeaderEpoch, Offset)>, PartitionError> {
        let _ = (current_leader_epoch, epoch);
        todo!()
    }

    /// Calls `watcher.mark(token)` at each append, high-watermark move and epoch change until the watcher is dropped
    /// or `unwatch` is called.
    pub fn watch(&self, watcher: &Arc<Watcher>, token: u32) {
        let _ = (watcher, token);
        todo!()
    }
    pub fn unwatch(&self, watcher: &Arc<Watcher>) {
        let _ = watcher;
        todo!()
    }

    pub fn status(&self) -> PartitionStatus {
        todo!()
    }
    pub fn leader_hint(&self) -> LeaderHint {
        todo!()
    }
}
