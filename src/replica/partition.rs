//! One partition hosted here, behind one short lock that is never held over an await.

use super::leader::{FollowerFetch, LeaderState};
use super::nearby;
use super::node::{Node, NodePeers};
use super::role::{Afterwards, Role, State, ends_of};
use super::throttle;
use super::truncation::{self, Epochs};
use super::watcher::{Watcher, Watchers};
use crate::config::topic::{Durability, TopicConfig};
use crate::ids::*;
use crate::log::partition_log::{Chunk, LogReader, PartitionLog, ReadError};
use crate::platform::bugs::{self, Bug};
use crate::platform::clock;
use crate::records::ValidBatches;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::oneshot;

#[cfg(test)]
mod tests;

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
    /// The caller knows a newer epoch than this node's image (replication.md, rule 15).
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
    /// What was appended there cannot be read back.
    #[error("the records from {from} to {to} are damaged on this replica's disk")]
    Damaged {
        from: Offset,
        to: Offset,
        /// No other replica can take over: this does not pass by itself.
        alone: bool,
    },
}

/// Where an acks=all reply waits: resolves when the high watermark passes the append, or with why it never will here.
#[derive(Debug)]
pub struct HighWatermarkWait(pub oneshot::Receiver<Result<(), PartitionError>>);

#[derive(Debug)]
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
    /// A consumer that may be served by an in-sync follower, up to what that one knows to be committed (KIP-392).
    pub any_replica: bool,
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
    /// What it was sent from here before was damaged.
    pub refused: bool,
    /// It fills damage, and its log goes on behind what it asks for.
    pub fills: bool,
}

#[derive(Clone, Debug)]
pub struct ReadOutcome {
    pub chunk: Chunk,
    pub high_watermark: Offset,
    pub last_stable: Offset,
    pub log_start: Offset,
    /// The follower's log diverges: truncate to min of this and its own end for that epoch (KIP-595).
    pub diverging: Option<(LeaderEpoch, Offset)>,
    /// A consumer should read from this replica instead; then there are no records.
    pub preferred: Option<BrokerId>,
    /// A replica that a move adds is to ask again then: there are records, but this leader has sent enough for now.
    pub held_until: Option<Instant>,
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
    /// Of the last record; −1 if there is none.
    pub last_epoch: LeaderEpoch,
    /// Of a leader: what each other replica holds, if it told in this leader epoch.
    pub followers: Vec<(BrokerId, Option<Offset>)>,
}

/// Invariants: `state` is never held over an await nor while another thread is woken; `log_start` ≤ `high_watermark` ≤
/// `log_end`; `queued` tells that the flusher has this log and has not begun with it; `listed` that the next tick looks
/// at it.
pub struct Partition {
    pub id: TopicPartition,
    pub topic: Arc<str>,
    pub(super) node: Arc<Node>,
    pub(super) me: Weak<Partition>,
    pub(super) state: Mutex<State>,
    pub(super) queued: AtomicBool,
    pub(super) listed: AtomicBool,
    /// A flush of this log has ended.
    pub(super) flush_ended: Condvar,
    pub(super) watchers: Mutex<Watchers>,
    /// Run once between a read of the log and the look whether this is still the leader.
    #[cfg(test)]
    pub(super) between: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Partition({}-{})", self.topic, self.id.partition)
    }
}

/// What a read does once the lock is released.
struct Planned {
    outcome: ReadOutcome,
    reader: Option<LogReader>,
    upper: Offset,
}

impl Partition {
    /// `known`: the high watermark of the last checkpoint.
    pub(super) fn new(
        node: Arc<Node>,
        id: TopicPartition,
        topic: Arc<str>,
        log: PartitionLog,
        known: Offset,
        config: &TopicConfig,
    ) -> Arc<Partition> {
        Arc::new_cyclic(|me| Partition {
            id,
            topic,
            node,
            me: me.clone(),
            state: Mutex::new(State::new(log, known, config.durability)),
            queued: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            flush_ended: Condvar::new(),
            watchers: Mutex::default(),
            #[cfg(test)]
            between: Mutex::default(),
        })
    }

    /// Appends as leader. `acks`: 0, 1 or −1 (all). Never awaits.
    pub fn append(&self, records: &ValidBatches, acks: i16) -> Result<AppendOutcome, PartitionError> {
        self.append_in(records, acks, LeaderEpoch::NONE)
    }

    /// As [`Partition::append`], but only in this leader epoch; −1: not checked.
    pub fn append_in(
        &self,
        records: &ValidBatches,
        acks: i16,
        epoch: LeaderEpoch,
    ) -> Result<AppendOutcome, PartitionError> {
        let (now, now_ms) = (clock::now(), clock::wall_ms());
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let hint = state.hint();
        let log = state.log.as_mut().ok_or(PartitionError::NotHosted)?;
        let Role::Leader(leader) = &mut state.role else {
            return Err(state.refusals.not_leader(records, hint, now));
        };
        if epoch != LeaderEpoch::NONE && epoch != leader.epoch() {
            return Err(PartitionError::FencedEpoch(hint));
        }
        let outcome = if acks == -1 && !leader.has_min_isr() {
            Err(PartitionError::NotEnoughReplicas)
        } else {
            log.append_as_leader(records, leader.epoch(), now_ms).map_err(PartitionError::from)
        };
        let appended = state.refusals.judge(records, outcome, hint, now)?;
        let log_start = log.log_start();
        let mut after = Afterwards::default();
        if !appended.duplicate {
            let effects = leader.on_append(ends_of(log, state.durability), now);
            let attention = leader.needs_attention();
            after = state.settle(effects);
            after.data = true;
            after.attention = attention;
        }
        // Also for a retry: an earlier flush may have failed in passing, and nothing else would queue one again.
        after.flush = state.log.as_ref().is_some_and(|log| match state.durability {
            Durability::Sync => log.durable_end() < log.log_end(),
            Durability::PageCache => log.has_rolled_at(appended.base_offset),
        });
        let waits = acks == -1 && appended.end_offset > state.high_watermark && !bugs::is(Bug::AckBeforeIsr);
        let wait = waits.then(|| HighWatermarkWait(state.parked.park(appended.end_offset)));
        drop(guard);
        self.finish(after);
        Ok(AppendOutcome { appended, log_start, wait })
    }

    /// Reads; a follower's read also records its progress, which may move the high watermark.
    pub fn read(&self, request: &ReadRequest) -> Result<ReadOutcome, PartitionError> {
        let Planned { mut outcome, reader, upper } = match &request.follower {
            Some(follower) => self.plan_follower_read(request, follower)?,
            None => self.plan_read(request)?,
        };
        if request.follower.is_some_and(|follower| follower.refused) {
            self.suspect(request.offset);
        }
        let throttled = reader.is_some() && self.is_throttled(request);
        if throttled {
            outcome.held_until = self.held_until();
        }
        let reads = outcome.held_until.is_none() && (request.max_bytes > 0 || request.at_least_one);
        if let Some(reader) = reader.filter(|_| reads) {
            let read = reader.read(request.offset, request.max_bytes, upper, request.at_least_one);
            if let Err(ReadError::Damaged(_)) = &read {
                self.suspect(request.offset);
            }
            outcome.chunk = read.map_err(unreadable)?;
            #[cfg(test)]
            if let Some(between) = self.between.lock().take() {
                between();
            }
            if request.follower.is_some() {
                // The bytes were read without the lock: a leader deposed meanwhile may have read its successor's.
                leading(&self.state.lock(), request.current_leader_epoch)?;
            }
            if throttled {
                self.node.sending.lock().take(outcome.chunk.bytes.len());
            }
        }
        Ok(outcome)
    }

    fn is_throttled(&self, request: &ReadRequest) -> bool {
        let me = self.node.broker;
        let bound =
            |follower: FollowerState| throttle::is_throttled(&self.node.image.load(), self.id, follower.broker, me);
        request.follower.is_some_and(bound)
    }

    /// When throttled replicas may be sent more; `None`: now.
    fn held_until(&self) -> Option<Instant> {
        let own = self.node.config.leader_throttled_rate;
        let rate = throttle::leader_rate(&self.node.image.load(), self.node.broker, own);
        self.node.sending.lock().wait(rate, clock::now())
    }

    /// A consumer's read: bounded by the high watermark; above it there is nothing yet.
    fn plan_read(&self, request: &ReadRequest) -> Result<Planned, PartitionError> {
        let guard = self.state.lock();
        let log = nearby::readable(&guard, request)?;
        let committed = if bugs::is(Bug::HighWatermarkJumps) { log.log_end() } else { guard.high_watermark };
        let upper = guard.readable(log, request.offset, committed)?;
        assert!(upper <= committed, "no consumer sees an offset above the high watermark");
        let reader = (request.offset < upper).then(|| log.reader());
        Ok(Planned { outcome: guard.outcome(log), reader, upper })
    }

    fn plan_follower_read(&self, request: &ReadRequest, follower: &FollowerState) -> Result<Planned, PartitionError> {
        let now = clock::now();
        let image = self.node.image.load();
        let mut guard = self.state.lock();
        let (log, leader) = leading(&guard, request.current_leader_epoch)?;
        // Without an epoch a delayed fetch of an older leadership would count as progress in this one.
        if request.current_leader_epoch == LeaderEpoch::NONE {
            return Err(PartitionError::FencedEpoch(guard.hint()));
        }
        let registered = image.brokers.get(&follower.broker).map(|b| b.epoch);
        if !leader.is_replica(follower.broker) || registered.is_none_or(|epoch| follower.broker_epoch < epoch) {
            return Err(PartitionError::UnknownReplica);
        }
        if let Some(diverging) = truncation::diverging(log, request.offset, follower.last_fetched_epoch)
            && !bugs::is(Bug::NoTruncation)
        {
            let outcome = ReadOutcome { diverging: Some(diverging), ..guard.outcome(log) };
            return Ok(Planned { outcome, reader: None, upper: Offset::ZERO });
        }
        if follower.fills && request.offset == log.log_end() {
            // It holds what this log does not, whatever that is: in this epoch it was never sent any of it.
            let epoch = last_epoch(log).max(LeaderEpoch(0));
            let outcome = ReadOutcome { diverging: Some((epoch, request.offset)), ..guard.outcome(log) };
            return Ok(Planned { outcome, reader: None, upper: Offset::ZERO });
        }
        in_range(request.offset, log)?;
        let fetch = FollowerFetch {
            broker: follower.broker,
            broker_epoch: follower.broker_epoch,
            end: request.offset,
            log_start: follower.log_start,
        };
        let state = &mut *guard;
        let Role::Leader(leader) = &mut state.role else { unreachable!("checked above, under the same lock") };
        let effects = leader.on_follower_fetch(fetch, now, &NodePeers { node: &self.node, image: &image });
        let after = state.settle(effects);
        let log = state.log.as_ref().ok_or(PartitionError::NotHosted)?;
        // What is damaged must not become a follower's acked data.
        let upper = state.readable(log, request.offset, log.log_end());
        let (upper, refused) = upper.map_or_else(|error| (request.offset, Some(error)), |upper| (upper, None));
        let reader = (request.offset < upper).then(|| log.reader());
        let outcome = state.outcome(log);
        drop(guard);
        self.finish(after);
        refused.map_or(Ok(()), Err)?;
        Ok(Planned { outcome, reader, upper })
    }

    pub fn find_offset(
        &self,
        spec: OffsetSpec,
        read_committed: bool,
        current_leader_epoch: LeaderEpoch,
    ) -> Result<Option<FoundOffset>, PartitionError> {
        // Without transactions the last stable offset is the high watermark.
        let _ = read_committed;
        let (reader, upper, knows) = {
            let guard = self.state.lock();
            let (log, leader) = leading(&guard, current_leader_epoch)?;
            let found = |offset, epoch| Ok(Some(FoundOffset { offset, timestamp_ms: -1, epoch }));
            match spec {
                OffsetSpec::Latest if !leader.knows_high_watermark() => return Err(PartitionError::OffsetNotAvailable),
                OffsetSpec::Latest => return found(guard.high_watermark, leader.epoch()),
                OffsetSpec::Earliest => {
                    let start = log.log_start();
                    return found(start, log.epoch_at(start).unwrap_or(leader.epoch()));
                }
                OffsetSpec::MaxTimestamp | OffsetSpec::AtTime(_) => {}
            }
            (log.reader(), guard.high_watermark, leader.knows_high_watermark())
        };
        let found = match spec {
            OffsetSpec::AtTime(timestamp_ms) => reader.offset_for_time(timestamp_ms, upper),
            _ => reader.max_timestamp(upper),
        };
        match found.map_err(unreadable)? {
            Some((offset, timestamp_ms)) => {
                let guard = self.state.lock();
                let epoch = guard.log.as_ref().and_then(|log| log.epoch_at(offset)).unwrap_or(guard.leader_epoch);
                Ok(Some(FoundOffset { offset, timestamp_ms, epoch }))
            }
            // It may be among what is not known to be committed yet.
            None if !knows => Err(PartitionError::OffsetNotAvailable),
            None => Ok(None),
        }
    }

    /// Of a leader: when the first record at or after `offset` that consumers may read was written, at its batch's
    /// precision; `None` if there is none. May read a header from disk.
    pub fn time_at(&self, offset: Offset) -> Result<Option<i64>, PartitionError> {
        let (reader, upper) = {
            let guard = self.state.lock();
            let (log, _) = leading(&guard, LeaderEpoch::NONE)?;
            (log.reader(), guard.high_watermark)
        };
        reader.time_at(offset, upper).map_err(unreadable)
    }

    /// OffsetForLeaderEpoch: the largest epoch ≤ `epoch` and its end; `None` if unknown.
    pub fn end_of_epoch(
        &self,
        current_leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
    ) -> Result<Option<(LeaderEpoch, Offset)>, PartitionError> {
        let guard = self.state.lock();
        let (log, _) = leading(&guard, current_leader_epoch)?;
        Ok(log.end_of_epoch(epoch))
    }

    /// DeleteRecords: nothing below `offset` (at most the high watermark) is visible any more. Gives the new log start.
    pub fn delete_records(&self, offset: Offset) -> Result<Offset, PartitionError> {
        let mut guard = self.state.lock();
        let (log, _) = leading(&guard, LeaderEpoch::NONE)?;
        if offset > guard.high_watermark {
            return Err(PartitionError::OutOfRange {
                asked: offset,
                start: log.log_start(),
                end: guard.high_watermark,
            });
        }
        let log = guard.log.as_mut().ok_or(PartitionError::NotHosted)?;
        log.advance_log_start(offset).map_err(|e| PartitionError::Storage(e.to_string()))?;
        let start = log.log_start();
        drop(guard);
        self.finish(Afterwards { high_watermark: true, ..Afterwards::default() });
        Ok(start)
    }

    /// Calls `watcher.mark(token)` at each append, high-watermark move and epoch change until the watcher is dropped
    /// or `unwatch` is called.
    pub fn watch(&self, watcher: &Arc<Watcher>, token: u32) {
        self.watchers.lock().add(watcher, token);
    }
    pub fn unwatch(&self, watcher: &Arc<Watcher>) {
        self.watchers.lock().remove(watcher);
    }

    pub fn status(&self) -> PartitionStatus {
        let guard = self.state.lock();
        let of = |get: fn(&PartitionLog) -> Offset| guard.log.as_ref().map_or(Offset::ZERO, get);
        PartitionStatus {
            leader_epoch: guard.leader_epoch,
            is_leader: matches!(guard.role, Role::Leader(_)),
            log_start: of(PartitionLog::log_start),
            high_watermark: guard.high_watermark,
            log_end: of(PartitionLog::log_end),
            durable_end: of(PartitionLog::durable_end),
            size_bytes: guard.log.as_ref().map_or(0, PartitionLog::size_bytes),
            last_epoch: guard.log.as_ref().map_or(LeaderEpoch::NONE, last_epoch),
            followers: match &guard.role {
                Role::Leader(leader) => leader.followers().map(|f| (f.broker, f.end)).collect(),
                Role::Follower | Role::Stopped => Vec::new(),
            },
        }
    }

    /// Bytes of this log from `end` on, about: what a replica that ends there has left to fetch. `None` while the log
    /// cannot tell.
    pub fn bytes_from(&self, end: Offset) -> Option<u64> {
        let reader = self.state.lock().log.as_ref().map(PartitionLog::reader)?;
        reader.bytes_from(end).ok()
    }

    pub fn leader_hint(&self) -> LeaderHint {
        self.state.lock().hint()
    }

    /// What a change asks for, after the lock is released.
    pub(super) fn finish(&self, after: Afterwards) {
        let changes = after.changes();
        for reply in after.released {
            // A caller that went away wants no answer.
            let _ = reply.send(Ok(()));
        }
        for (reply, error) in after.failed {
            let _ = reply.send(Err(error));
        }
        if changes.iter().any(Option::is_some) {
            let watchers = self.watchers.lock();
            changes.into_iter().flatten().for_each(|change| watchers.tell(change));
        }
        if after.high_watermark {
            self.node.note_high_watermark();
        }
        if after.flush {
            self.enqueue_flush();
        }
        if after.attention {
            self.list();
        }
        if let Some((proposal, me)) = after.propose.zip(self.me.upgrade()) {
            self.list();
            self.node.propose(me, proposal);
        }
    }

    /// The next tick looks at this partition.
    pub(super) fn list(&self) {
        if !self.listed.load(Ordering::Acquire)
            && !self.listed.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
        {
            self.node.list(me);
        }
    }

    /// Queues the log with the flusher, once until that begins with it.
    pub(super) fn enqueue_flush(&self) {
        if !self.queued.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
            && !self.node.flusher.enqueue(me)
        {
            self.no_flush_follows();
        }
    }

    /// The flusher has stopped: who waits for a flush waits in vain.
    pub(super) fn no_flush_follows(&self) {
        let waiting = self.state.lock().flushing.give_up();
        drop(waiting);
    }
}

impl Epochs for PartitionLog {
    fn log_start(&self) -> Offset {
        PartitionLog::log_start(self)
    }
    fn log_end(&self) -> Offset {
        PartitionLog::log_end(self)
    }
    fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        match self.latest_epoch() {
            // A log answers nothing for an epoch above its newest; to these decisions it is its newest that counts.
            Some((latest, _)) if latest <= epoch => Some((latest, PartitionLog::log_end(self))),
            _ => PartitionLog::end_of_epoch(self, epoch),
        }
    }
}

/// The log and the leader's state, if this node leads and `given` (−1: not checked) is the current epoch.
pub(super) fn leading(state: &State, given: LeaderEpoch) -> Result<(&PartitionLog, &LeaderState), PartitionError> {
    let log = state.log.as_ref().ok_or(PartitionError::NotHosted)?;
    if given != LeaderEpoch::NONE && !bugs::is(Bug::FenceWithoutEpoch) {
        if given < state.leader_epoch {
            return Err(PartitionError::FencedEpoch(state.hint()));
        }
        if given > state.leader_epoch {
            return Err(PartitionError::UnknownEpoch);
        }
    }
    match &state.role {
        Role::Leader(leader) => Ok((log, leader)),
        Role::Follower | Role::Stopped => Err(PartitionError::NotLeader(state.hint())),
    }
}

fn last_epoch(log: &PartitionLog) -> LeaderEpoch {
    let (start, end) = (log.log_start(), log.log_end());
    let last = if end > start { log.epoch_at(Offset(end.0 - 1)) } else { None };
    last.unwrap_or(LeaderEpoch::NONE)
}

fn in_range(asked: Offset, log: &PartitionLog) -> Result<(), PartitionError> {
    let (start, end) = (log.log_start(), log.log_end());
    if asked < start || asked > end { Err(PartitionError::OutOfRange { asked, start, end }) } else { Ok(()) }
}

fn unreadable(error: ReadError) -> PartitionError {
    match error {
        ReadError::OutOfRange { asked, start, end } => PartitionError::OutOfRange { asked, start, end },
        ReadError::Disk(_) | ReadError::Damaged(_) => PartitionError::Storage(error.to_string()),
    }
}
