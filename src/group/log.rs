//! One offsets partition as a coordinator sees it: append and wait, or read all of it.
//!
//! Reading costs what the log holds, not what is live in it: nothing compacts it by keys yet. `rewrite.rs` bounds that.

use super::coordinator::GroupError;
use super::names::Names;
use super::offset_records::{self, OffsetRecord};
use super::offsets::Offsets;
use super::settings::{BATCH_BYTES_MAX, LOAD_BYTES_MAX, LOADS_AT_ONCE};
use crate::ids::{LeaderEpoch, Offset};
use crate::log::partition_log::AppendError;
use crate::replica::partition::{HighWatermarkWait, Partition, PartitionError, ReadRequest};
use crate::replica::watcher::Watcher;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// All offsets of one partition, by group.
pub type LoadedOffsets = BTreeMap<String, Offsets>;

/// Records that are in the log, the first at `first`, and will count once `replicated` ends well.
pub struct Written {
    pub first: Offset,
    pub replicated: BoxFuture<'static, Result<(), GroupError>>,
}

pub trait OffsetsLog: Send + Sync + 'static {
    /// Appends with acks=all, if the caller leads in `epoch` still. Never awaits.
    fn append(&self, epoch: LeaderEpoch, records: &[OffsetRecord], now_ms: i64) -> Result<Written, GroupError>;

    /// Log start and log end.
    fn range(&self) -> (Offset, Offset);

    /// Nothing below `before` counts any more, on any replica.
    fn cut(&self, before: Offset) -> Result<(), GroupError>;

    /// Everything up to the log's end as it is now, once the high watermark has reached that. The caller leads in
    /// `epoch`; `NotCoordinator` when that is over.
    fn load(
        self: Arc<Self>,
        epoch: LeaderEpoch,
        names: Arc<Names>,
    ) -> BoxFuture<'static, Result<LoadedOffsets, GroupError>>;
}

impl OffsetsLog for Partition {
    fn append(&self, epoch: LeaderEpoch, records: &[OffsetRecord], now_ms: i64) -> Result<Written, GroupError> {
        let batches = offset_records::encode_batches(records, now_ms, BATCH_BYTES_MAX).map_err(|error| {
            tracing::error!(%error, "offset records could not be built");
            GroupError::NotAvailable
        })?;
        let outcome = self.append_in(&batches, -1, epoch).map_err(refused)?;
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

    fn range(&self) -> (Offset, Offset) {
        let status = self.status();
        (status.log_start, status.log_end)
    }

    fn cut(&self, before: Offset) -> Result<(), GroupError> {
        self.delete_records(before).map(drop).map_err(refused)
    }

    fn load(
        self: Arc<Self>,
        epoch: LeaderEpoch,
        names: Arc<Names>,
    ) -> BoxFuture<'static, Result<LoadedOffsets, GroupError>> {
        Box::pin(load(self, epoch, names))
    }
}

/// Reading and decoding is work for a thread, and a coordinator that takes over many partitions shares its cores with
/// everything else that it took over.
static LOADING: Semaphore = Semaphore::const_new(LOADS_AT_ONCE);

/// A new leader's high watermark may be below its log's end: what is above it is not known to be committed yet, so
/// the reads, which are bounded by it, are waited for.
async fn load(partition: Arc<Partition>, epoch: LeaderEpoch, names: Arc<Names>) -> Result<LoadedOffsets, GroupError> {
    let watcher = Watcher::new();
    partition.watch(&watcher, 0);
    let outcome = load_watched(&partition, epoch, &watcher, names).await;
    partition.unwatch(&watcher);
    outcome
}

async fn load_watched(
    partition: &Arc<Partition>,
    epoch: LeaderEpoch,
    watcher: &Watcher,
    names: Arc<Names>,
) -> Result<LoadedOffsets, GroupError> {
    let status = partition.status();
    let mut load = Load { next: status.log_start, end: status.log_end, loaded: LoadedOffsets::new(), names };
    loop {
        let turn = LOADING.acquire().await.map_err(|_closed| GroupError::NotCoordinator)?;
        let from = partition.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let outcome = load.read(&from, epoch);
            (load, outcome)
        });
        let (back, outcome) = reading.await.map_err(|_stopping| GroupError::NotCoordinator)?;
        drop(turn);
        load = back;
        if outcome? == Progress::Done {
            load.loaded.values_mut().for_each(Offsets::shrink);
            return Ok(load.loaded);
        }
        wait_for_change(watcher).await;
    }
}

/// How far a load is.
struct Load {
    next: Offset,
    end: Offset,
    loaded: LoadedOffsets,
    names: Arc<Names>,
}

#[derive(PartialEq, Eq)]
enum Progress {
    Done,
    /// The high watermark is not there yet.
    Waits,
}

impl Load {
    /// Reads as far as the high watermark lets it. Blocks.
    fn read(&mut self, partition: &Partition, epoch: LeaderEpoch) -> Result<Progress, GroupError> {
        while self.next < self.end {
            let request = ReadRequest {
                offset: self.next,
                max_bytes: LOAD_BYTES_MAX,
                at_least_one: true,
                current_leader_epoch: epoch,
                read_committed: false,
                any_replica: false,
                follower: None,
            };
            let chunk = match partition.read(&request) {
                Ok(outcome) => outcome.chunk.bytes,
                Err(PartitionError::OffsetNotAvailable) => return Ok(Progress::Waits),
                Err(PartitionError::OutOfRange { start, .. }) if start > self.next => {
                    self.next = start;
                    continue;
                }
                // Nobody else has what is lost there: the groups go on with the offsets that are left.
                Err(PartitionError::Damaged { from, to, alone: true }) if to > self.next => {
                    tracing::error!(%from, %to, partition = partition.id.partition, "committed offsets are damaged and passed over");
                    self.next = to;
                    continue;
                }
                // The high watermark is below `next` still.
                Err(PartitionError::OutOfRange { .. }) => return Ok(Progress::Waits),
                Err(error) => return Err(refused(error)),
            };
            if chunk.is_empty() {
                return Ok(Progress::Waits);
            }
            let after = self.take(&chunk);
            let after =
                after.and_then(|after| after.filter(|after| *after > self.next).ok_or(GroupError::NotAvailable));
            if after.is_err() {
                partition.suspect(self.next);
            }
            self.next = after?;
        }
        Ok(Progress::Done)
    }

    fn take(&mut self, chunk: &[u8]) -> Result<Option<Offset>, GroupError> {
        let skipped = |at: Offset, error| tracing::warn!(%at, %error, "an offset record is unreadable and passed over");
        let (loaded, names, from) = (&mut self.loaded, &self.names, self.next);
        // Most records are about the topic of the one before.
        let mut topic: Arc<str> = Arc::default();
        let visited = offset_records::visit_chunk(chunk, skipped, |at, key, value| {
            // The batch that the log start is in begins before it.
            if at < from {
                return;
            }
            let offsets = match loaded.get_mut(key.group) {
                Some(offsets) => offsets,
                None if value.is_none() => return,
                None => loaded.entry(key.group.to_string()).or_default(),
            };
            if *topic != *key.topic {
                topic = names.share(key.topic);
            }
            let removes = value.is_none();
            offsets.apply(at, &topic, key.partition, value);
            if removes && offsets.is_empty() {
                loaded.remove(key.group);
            }
        });
        visited.map_err(|error| {
            tracing::error!(%error, "an offsets partition cannot be read");
            GroupError::NotAvailable
        })
    }
}

/// Marks tell of every change; the time limit only guards against a mark that came before the watch.
async fn wait_for_change(watcher: &Watcher) {
    let _changed_or_not = tokio::time::timeout(Duration::from_millis(200), watcher.marked()).await;
    let _marks = watcher.take();
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

#[cfg(test)]
mod tests {
    use super::super::offset_records::OffsetKey;
    use super::super::offsets::Committed;
    use super::*;
    use crate::config::topic::Durability;
    use crate::platform::clock;
    use crate::platform::process;
    use crate::replica::testing::{Alone, alone};

    /// Group `i % groups` commits partition `i / groups % 100` of one of a hundred topics.
    fn record(names: &Names, number: usize, groups: usize) -> OffsetRecord {
        let place = number / groups;
        let key = OffsetKey {
            group: names.share(&format!("group-{}", number % groups)),
            topic: names.share(&format!("topic-{}", place / 100)),
            partition: i32::try_from(place % 100).expect("small"),
        };
        let offset = i64::try_from(number).expect("small");
        OffsetRecord { key, value: Some(Committed { offset, leader_epoch: 3, commit_ms: 1, ..Committed::default() }) }
    }

    async fn write(alone: &Alone, numbers: std::ops::Range<usize>, groups: usize) {
        let names = Names::default();
        let numbers: Vec<usize> = numbers.collect();
        for some in numbers.chunks(1_000) {
            let records: Vec<_> = some.iter().map(|number| record(&names, *number, groups)).collect();
            let log: &dyn OffsetsLog = &*alone.partition;
            log.append(LeaderEpoch(0), &records, 1).expect("appended").replicated.await.expect("replicated");
        }
    }

    #[tokio::test]
    async fn what_was_committed_is_loaded_and_what_was_cut_is_not() {
        let alone = alone(Durability::PageCache);
        write(&alone, 0..3_000, 10).await;
        let load = |epoch| OffsetsLog::load(alone.partition.clone(), LeaderEpoch(epoch), Arc::default());
        let loaded = load(0).await.expect("loaded");
        assert_eq!(loaded.len(), 10);
        assert!(loaded.values().all(|offsets| offsets.len() == 300));
        assert_eq!(loaded["group-7"].get("topic-2", 99).expect("there").offset, 2_997);
        let log: &dyn OffsetsLog = &*alone.partition;
        assert_eq!(log.range(), (Offset(0), Offset(3_000)));
        log.cut(Offset(2_990)).expect("cut");
        let loaded = load(0).await.expect("loaded");
        assert_eq!(loaded.values().map(Offsets::len).sum::<usize>(), 10);
        assert_eq!(load(1).await.err(), Some(GroupError::NotCoordinator), "an epoch that is not this one");
        let late = log.append(LeaderEpoch(1), &[record(&Names::default(), 0, 1)], 1);
        assert_eq!(late.err(), Some(GroupError::NotCoordinator), "nor is anything written in it");
        assert_eq!(log.range().1, Offset(3_000));
    }

    /// Prints how long a new coordinator is not ready, and what it then holds:
    /// `cargo test --release --lib a_million_offsets -- --ignored --nocapture`.
    #[tokio::test]
    #[ignore = "a measurement; it takes minutes without optimization"]
    async fn a_million_offsets_are_loaded_in_seconds() {
        const MANY: usize = 1_000_000;
        let alone = alone(Durability::PageCache);
        write(&alone, 0..MANY, 100).await;
        let resident = || process::usage().map_or(0, |usage| usage.resident_bytes);
        let (before, started) = (resident(), clock::now());
        let loaded = OffsetsLog::load(alone.partition.clone(), LeaderEpoch(0), Arc::default()).await.expect("loaded");
        let took = clock::now().duration_since(started);
        assert_eq!(loaded.values().map(Offsets::len).sum::<usize>(), MANY);
        println!(
            "{MANY} offsets of {} groups, {} MiB of log: {took:?}, {} MiB more memory",
            loaded.len(),
            alone.log_bytes() >> 20,
            resident().saturating_sub(before) >> 20,
        );
    }
}
