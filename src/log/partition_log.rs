//! One partition's log: the single owner of its segments, epochs and producer state.

use super::flush::FlushTask;
use crate::ids::*;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// What the topic's config says about its log. Times in milliseconds, sizes in bytes; −1 means without limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    /// Whole-segment retention applies only without compaction.
    pub compact: bool,
    pub delete: bool,
    pub index_interval_bytes: u32,
    pub max_message_bytes: u32,
    pub log_append_time: bool,
    /// Bounds of a record's timestamp around now (message.timestamp.before/after.max.ms).
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub producer_id_expiration_ms: i64,
}

/// What an append placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// One past the last record.
    pub end_offset: Offset,
    /// Set where the topic's timestamp type is LogAppendTime, else −1.
    pub log_append_time_ms: i64,
    /// The batch was a retry of one that is in the log: `base_offset` and `end_offset` are the original's.
    pub duplicate: bool,
}

/// Why the log refused an append. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Invalid(#[from] crate::records::RecordError),
    #[error("a batch of {size} bytes is over max.message.bytes = {limit}")]
    TooLarge { size: usize, limit: u32 },
    #[error("a record's timestamp {timestamp_ms} is out of the topic's bounds")]
    TimestampOutOfBounds { timestamp_ms: i64 },
    #[error("producer {producer} sent sequence {given}, expected {expected}")]
    OutOfOrderSequence { producer: ProducerId, given: i32, expected: i32 },
    #[error("producer {producer} sent epoch {given}, the current one is {current}")]
    InvalidProducerEpoch { producer: ProducerId, given: ProducerEpoch, current: ProducerEpoch },
    #[error("producer {0} has no state here and its sequence does not start at 0")]
    UnknownProducer(ProducerId),
    #[error("a follower's batch starts at {given}, the log ends at {end}")]
    NotContiguous { given: Offset, end: Offset },
    /// ENOSPC: the log is intact, reads go on (invariant 8).
    #[error("the disk is full")]
    DiskFull,
    /// The first failed write is final for the folder (REPLICATION rule 19).
    #[error("the disk failed: {0}")]
    Disk(io::Error),
    #[error("this log went offline after a disk error; see the node's log")]
    Offline,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {asked} is outside {start}..={end}")]
    OutOfRange { asked: Offset, start: Offset, end: Offset },
    #[error("the disk failed: {0}")]
    Disk(#[from] io::Error),
    #[error("the log holds damaged bytes: {0}")]
    Damaged(String),
}

/// Whole batches read from the log, ready for the wire.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    pub bytes: Bytes,
}

/// A cheap, shareable view for readers: published again when segments change, so reads never wait behind appends.
#[derive(Clone)]
pub struct LogReader {}

impl LogReader {
    /// Whole batches from the one that contains `from`, at most `max_bytes` (but at least one batch if `at_least_one`),
    /// none that reaches `upper` or beyond. Empty at the end. May read from disk: short, page cache in the usual case.
    pub fn read(&self, from: Offset, max_bytes: usize, upper: Offset, at_least_one: bool) -> Result<Chunk, ReadError> {
        let _ = (from, max_bytes, upper, at_least_one);
        todo!()
    }

    /// The first record at or after `timestamp_ms` below `upper`: its offset and timestamp.
    pub fn offset_for_time(&self, timestamp_ms: i64, upper: Offset) -> Result<Option<(Offset, i64)>, ReadError> {
        let _ = (timestamp_ms, upper);
        todo!()
    }

    /// The record with the largest timestamp below `upper` (ListOffsets −3).
    pub fn max_timestamp(&self, upper: Offset) -> Result<Option<(Offset, i64)>, ReadError> {
        let _ = upper;
        todo!()
    }
}

/// Invariant: log_start ≤ log_end; bytes past log_end are never read back.
pub struct PartitionLog {}

impl PartitionLog {
    /// Leader's append: checks sequences (idempotence), assigns offsets, stamps `epoch`, writes to the page cache.
    /// `records` is one or more v2 batches as a client sent them, already checked by `records::validate`.
    pub fn append_as_leader(
        &mut self,
        records: &crate::records::ValidBatches,
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        let _ = (records, epoch, now_ms);
        todo!()
    }

    /// Follower's append: batches keep the leader's offsets and epochs. They must start at the log's end.
    pub fn append_as_follower(
        &mut self,
        records: &crate::records::ValidBatches,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        let _ = (records, now_ms);
        todo!()
    }

    pub fn log_start(&self) -> Offset {
        todo!()
    }
    pub fn log_end(&self) -> Offset {
        todo!()
    }
    /// Everything below is on disk (fdatasync'ed).
    pub fn durable_end(&self) -> Offset {
        todo!()
    }
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }
    pub fn reader(&self) -> LogReader {
        todo!()
    }
    pub fn set_config(&mut self, config: LogConfig) {
        let _ = config;
        todo!()
    }

    /// The newest epoch in the log and its start, if any.
    pub fn latest_epoch(&self) -> Option<(LeaderEpoch, Offset)> {
        todo!()
    }
    /// Writes down that `epoch` starts at the current end (a new leader, before its first append).
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) -> io::Result<()> {
        let _ = epoch;
        todo!()
    }
    /// KIP-101/279: the largest epoch ≤ `epoch` in the log, and the offset where it ends.
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let _ = epoch;
        todo!()
    }
    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let _ = offset;
        todo!()
    }

    /// Cuts the log at `offset`: rolls back epochs and producer state, lowers the durable end, bumps the flush generation.
    pub fn truncate_to(&mut self, offset: Offset) -> io::Result<()> {
        let _ = offset;
        todo!()
    }
    /// Drops everything and starts anew at `offset` (a follower below the leader's log start).
    pub fn restart_at(&mut self, offset: Offset) -> io::Result<()> {
        let _ = offset;
        todo!()
    }
    /// DeleteRecords, or the leader's log start seen by a follower: nothing below is visible any more.
    pub fn advance_log_start(&mut self, offset: Offset) -> io::Result<()> {
        let _ = offset;
        todo!()
    }
    /// Rolls by time and drops whole segments by retention, never at or above `high_watermark`. Returns bytes freed.
    pub fn apply_retention(&mut self, now_ms: i64, high_watermark: Offset) -> io::Result<u64> {
        let _ = (now_ms, high_watermark);
        todo!()
    }

    /// Starts a flush: the files to fdatasync, outside any lock. `None` if all is durable.
    pub fn begin_flush(&mut self) -> Option<FlushTask> {
        todo!()
    }
    /// Ends a flush; raises the durable end unless a truncation came between (then the generation differs).
    /// Returns the durable end. An error takes the log offline for ever (REPLICATION rule 19).
    pub fn end_flush(&mut self, task: &FlushTask, result: &io::Result<()>) -> Offset {
        let _ = (task, result);
        todo!()
    }
    pub fn is_offline(&self) -> bool {
        todo!()
    }
    /// Clean close: flush, trim, write producer snapshot and the recovery point.
    pub fn close(&mut self) -> io::Result<()> {
        todo!()
    }
}

/// Kept so that `Arc<PartitionLog>` never appears: the log has one owner.
const _: fn() = || {
    fn owned<T: Send>() {}
    owned::<PartitionLog>();
    let _ = Arc::<()>::default;
};
