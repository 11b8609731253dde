//! One offsets partition as a coordinator sees it: append and wait, or read all of it.

use super::coordinator::GroupError;
use super::offset_records::{self, OffsetRecord};
use super::offsets::Offsets;
use super::settings::{BATCH_BYTES_MAX, LOAD_BYTES_MAX};
use crate::ids::{LeaderEpoch, Offset};
use crate::log::partition_log::AppendError;
use crate::replica::partition::{HighWatermarkWait, Partition, PartitionError, ReadRequest};
use crate::replica::watcher::Watcher;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// All offsets of one partition, by group.
pub type LoadedOffsets = BTreeMap<String, Offsets>;

/// Records that are in the log, the first at `first`, and will count once `replicated` ends well.
pub struct Written {
    pub first: Offset,
    pub replicated: BoxFuture<'static, Result<(), GroupError>>,
}

pub trait OffsetsLog: Send + Sync + 'static {
    /// Appends with acks=all. Never awaits.
    fn append(&self, records: &[OffsetRecord], now_ms: i64) -> Result<Written, GroupError>;

    /// Everything up to the log's end as it is now, once the high watermark has reached that. The caller leads in
    /// `epoch`; `NotCoordinator` when that is over.
    fn load(self: Arc<Self>, epoch: LeaderEpoch) -> BoxFuture<'static, Result<LoadedOffsets, GroupError>>;
}

impl OffsetsLog for Partition {
    fn append(&self, records: &[OffsetRecord], now_ms: i64) -> Result<Written, GroupError> {
        let batches = offset_records::encode_batches(records, now_ms, BATCH_BYTES_MAX).map_err(|error| {
            tracing::error!(%error, "offset records could not be built");
            GroupError::NotAvailable
        })?;
        let outcome = Partition::append(self, &batches, -1).map_err(refused)?;
        let replicated: BoxFuture<'static, Result<(), GroupError>> = match outcome.wait {
            None => Box::pin(std::future::ready(Ok(()))),
            Some(HighWatermarkWait(wait)) => Box::pin(async move {
                match wait.await {
                    Ok(outcome) => outcome.map_err(refused),
                    Err(_dropped) => Err(GroupError::NotCoordinator),
                }
            }),
        };
        Ok(Written { first: outcome.appended.base_offset, replicated })
    }

    fn load(self: Arc<Self>, epoch: LeaderEpoch) -> BoxFuture<'static, Result<LoadedOffsets, GroupError>> {
        Box::pin(load(self, epoch))
    }
}

/// A new leader's high watermark may be below its log's end: what is above it is not known to be committed yet, so
/// the reads, which are bounded by it, are waited for.
async fn load(partition: Arc<Partition>, epoch: LeaderEpoch) -> Result<LoadedOffsets, GroupError> {
    let watcher = Watcher::new();
    partition.watch(&watcher, 0);
    let outcome = load_watched(&partition, epoch, &watcher).await;
    partition.unwatch(&watcher);
    outcome
}

async fn load_watched(
    partition: &Partition,
    epoch: LeaderEpoch,
    watcher: &Watcher,
) -> Result<LoadedOffsets, GroupError> {
    let status = partition.status();
    let end = status.log_end;
    let mut next = status.log_start;
    let mut loaded = LoadedOffsets::new();
    while next < end {
        let request = ReadRequest {
            offset: next,
            max_bytes: LOAD_BYTES_MAX,
            at_least_one: true,
            current_leader_epoch: epoch,
            read_committed: false,
            any_replica: false,
            follower: None,
        };
        let chunk = match partition.read(&request) {
            Ok(outcome) => outcome.chunk.bytes,
            Err(PartitionError::OffsetNotAvailable) => bytes::Bytes::new(),
            Err(PartitionError::OutOfRange { start, .. }) if start > next => {
                next = start;
                continue;
            }
            // Nobody else has what is lost there: the groups go on with the offsets that are left.
            Err(PartitionError::Damaged { from, to, alone: true }) if to > next => {
                tracing::error!(%from, %to, partition = partition.id.partition, "committed offsets are damaged and passed over");
                next = to;
                continue;
            }
            // The high watermark is below `next` still.
            Err(PartitionError::OutOfRange { .. }) => bytes::Bytes::new(),
            Err(error) => return Err(refused(error)),
        };
        if chunk.is_empty() {
            wait_for_change(watcher).await;
            continue;
        }
        let after = take_chunk(&chunk, &mut loaded)
            .and_then(|after| after.filter(|after| *after > next).ok_or(GroupError::NotAvailable));
        if after.is_err() {
            partition.suspect(next);
        }
        next = after?;
        // Loading shares the thread with everything else.
        tokio::task::yield_now().await;
    }
    Ok(loaded)
}

/// Marks tell of every change; the time limit only guards against a mark that came before the watch.
async fn wait_for_change(watcher: &Watcher) {
    let _changed_or_not = tokio::time::timeout(Duration::from_millis(200), watcher.marked()).await;
    let _marks = watcher.take();
}

fn take_chunk(chunk: &bytes::Bytes, loaded: &mut LoadedOffsets) -> Result<Option<Offset>, GroupError> {
    let skipped = |at: Offset, error| tracing::warn!(%at, %error, "an offset record is unreadable and passed over");
    let (records, after) = offset_records::decode_chunk(chunk, skipped).map_err(|error| {
        tracing::error!(%error, "an offsets partition cannot be read");
        GroupError::NotAvailable
    })?;
    for read in records {
        let key = read.record.key;
        if !loaded.contains_key(&key.group) {
            if read.record.value.is_none() {
                continue;
            }
            loaded.insert(key.group.clone(), Offsets::default());
        }
        if let Some(offsets) = loaded.get_mut(&key.group) {
            offsets.apply(read.at, &key.topic, key.partition, read.record.value);
            if offsets.is_empty() {
                loaded.remove(&key.group);
            }
        }
    }
    Ok(after)
}

fn refused(error: PartitionError) -> GroupError {
    match error {
        PartitionError::NotLeader(_)
        | PartitionError::FencedEpoch(_)
        | PartitionError::UnknownEpoch
        | PartitionError::NotHosted
        | PartitionError::UnknownReplica => GroupError::NotCoordinator,
        PartitionError::Append(AppendError::TooLarge { .. }) => GroupError::OffsetMetadataTooLarge,
        PartitionError::NotEnoughReplicas | PartitionError::NotEnoughReplicasAfterAppend => GroupError::NotAvailable,
        error @ (PartitionError::OffsetNotAvailable
        | PartitionError::OutOfRange { .. }
        | PartitionError::Append(_)
        | PartitionError::Damaged { .. }
        | PartitionError::Storage(_)) => {
            tracing::warn!(%error, "an offsets partition refused");
            GroupError::NotAvailable
        }
    }
}
