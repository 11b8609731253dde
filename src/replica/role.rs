//! A partition's state, and how it takes up and lays down its roles.

use super::damage::{Integrity, Reliance};
use super::isr::Verdict;
use super::leader::{Beginning, Effects, Ends, LeaderState};
use super::node::{Counted, NodePeers};
use super::parked::{Parked, ReplySender};
use super::partition::{LeaderHint, Partition, PartitionError, ReadOutcome};
use super::reconcile::is_caught_up;
use super::refusals::Refusals;
use super::synced::Flushing;
use super::watcher::Change;
use crate::config::topic::{Durability, TopicConfig};
use crate::ids::*;
use crate::log::flush::{FlushTask, Flushable};
use crate::log::partition_log::{Chunk, Damage, LogConfig, PartitionLog};
use crate::metadata::command::IsrProposal;
use crate::metadata::image::Image;
use crate::metadata::image::topics::Partition as PartitionImage;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub(super) enum Role {
    Leader(Box<LeaderState>),
    /// Also without a leader, and where leading failed.
    Follower,
    /// Closed or deleted: for ever.
    Stopped,
}

/// Invariant: `high_watermark` mirrors the leader's while there is one; `log` is `None` only once stopped.
pub(super) struct State {
    pub log: Option<PartitionLog>,
    pub role: Role,
    pub leader: Option<BrokerId>,
    /// −1 before the image was applied first.
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub unclean_epoch: Option<LeaderEpoch>,
    pub high_watermark: Offset,
    /// In the committed ISR, as far as the image here knows.
    pub in_sync: bool,
    pub durability: Durability,
    pub parked: Parked,
    pub counted: Counted,
    pub integrity: Integrity,
    pub flushing: Flushing,
    /// What the leader last sent was refused as damaged.
    pub refused: bool,
    /// Outlives roles: what comes behind a batch may find a leader that the batch did not.
    pub refusals: Refusals,
}

/// Where a partition stands, for those who follow its roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Leading(LeaderEpoch),
    Following { leader: Option<BrokerId>, epoch: LeaderEpoch },
    Stopped,
}

/// What remains to be done once the lock is released.
#[derive(Default)]
pub(super) struct Afterwards {
    pub released: Vec<ReplySender>,
    pub failed: Vec<(ReplySender, PartitionError)>,
    pub data: bool,
    pub high_watermark: bool,
    pub epoch: bool,
    pub flush: bool,
    pub attention: bool,
    pub propose: Option<IsrProposal>,
}

impl Afterwards {
    pub fn changes(&self) -> [Option<Change>; 3] {
        [
            self.epoch.then_some(Change::Epoch),
            self.data.then_some(Change::Data),
            self.high_watermark.then_some(Change::HighWatermark),
        ]
    }
}

/// What counts of a log for the high watermark.
pub(super) fn ends_of(log: &PartitionLog, durability: Durability) -> Ends {
    let end = log.log_end();
    Ends { log: end, counted: if durability == Durability::Sync { log.durable_end().min(end) } else { end } }
}

pub(super) fn log_config(config: &TopicConfig) -> LogConfig {
    LogConfig {
        segment_bytes: config.segment_bytes,
        segment_ms: config.segment_ms,
        retention_bytes: config.retention_bytes,
        retention_ms: config.retention_ms,
        compact: config.compact,
        delete: config.delete,
        index_interval_bytes: config.index_interval_bytes,
        max_message_bytes: config.max_message_bytes,
        log_append_time: config.log_append_time,
        timestamp_before_max_ms: config.timestamp_before_max_ms,
        timestamp_after_max_ms: config.timestamp_after_max_ms,
        producer_id_expiration_ms: config.producer_id_expiration_ms,
    }
}

impl State {
    pub fn new(log: PartitionLog, known: Offset, durability: Durability) -> State {
        let high_watermark = known.min(log.log_end()).max(log.log_start());
        State {
            log: Some(log),
            role: Role::Follower,
            leader: None,
            leader_epoch: LeaderEpoch::NONE,
            partition_epoch: PartitionEpoch(-1),
            unclean_epoch: None,
            high_watermark,
            in_sync: false,
            durability,
            parked: Parked::default(),
            counted: Counted::default(),
            integrity: Integrity::default(),
            flushing: Flushing::default(),
            refused: false,
            refusals: Refusals::default(),
        }
    }

    pub fn hint(&self) -> LeaderHint {
        LeaderHint { leader: self.leader, epoch: self.leader_epoch }
    }

    pub fn standing(&self) -> Standing {
        match &self.role {
            Role::Leader(leader) => Standing::Leading(leader.epoch()),
            Role::Follower => Standing::Following { leader: self.leader, epoch: self.leader_epoch },
            Role::Stopped => Standing::Stopped,
        }
    }

    pub fn outcome(&self, log: &PartitionLog) -> ReadOutcome {
        let (start, end) = (log.log_start(), log.log_end());
        assert!(
            start <= self.high_watermark && self.high_watermark <= end,
            "log start {start} ≤ high watermark {} ≤ log end {end}",
            self.high_watermark
        );
        ReadOutcome {
            chunk: Chunk::default(),
            high_watermark: self.high_watermark,
            last_stable: self.high_watermark,
            log_start: log.log_start(),
            diverging: None,
            preferred: None,
            held_until: None,
        }
    }

    pub fn settle(&mut self, effects: Effects) -> Afterwards {
        let mut after = Afterwards { propose: effects.propose, ..Afterwards::default() };
        if let Some(high_watermark) = effects.high_watermark {
            assert!(high_watermark >= self.high_watermark, "the high watermark never goes back on a leader");
            self.high_watermark = high_watermark;
            after.high_watermark = true;
            after.released = self.parked.release(high_watermark);
        }
        if effects.fail_parked {
            let failed = self.parked.take_all();
            after.failed = failed.into_iter().map(|r| (r, PartitionError::NotEnoughReplicasAfterAppend)).collect();
        }
        after
    }

    fn fail_parked(&mut self, error: impl Fn() -> PartitionError) -> Vec<(ReplySender, PartitionError)> {
        self.parked.take_all().into_iter().map(|reply| (reply, error())).collect()
    }

    pub fn count(&mut self) -> (Counted, Counted) {
        let damaged = self.log.as_ref().is_some_and(|log| log.damage().is_some());
        let now = match &self.role {
            Role::Leader(leader) => Counted {
                leader: true,
                under_replicated: leader.is_under_replicated(),
                under_min_isr: !leader.has_min_isr(),
                damaged,
            },
            Role::Follower | Role::Stopped => Counted { damaged, ..Counted::default() },
        };
        (std::mem::replace(&mut self.counted, now), now)
    }
}

impl Partition {
    /// Acts on what the image says of this partition. Gives where it stood and where it stands.
    pub(super) fn apply(&self, image: &Image, now: Instant) -> (Standing, Standing) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let before = state.standing();
        let Some(view) = image.partition(self.id) else { return (before, before) };
        let is_old = view.leader_epoch < state.leader_epoch || view.partition_epoch < state.partition_epoch;
        if is_old || before == Standing::Stopped {
            return (before, before);
        }
        let min_isr = image.effective_min_isr(&self.topic, view.counted_replicas());
        let leads = view.leader == Some(self.node.broker);
        let after = match &mut state.role {
            Role::Leader(leader) if leads && leader.epoch() == view.leader_epoch => {
                let effects = leader.on_image_change(view, min_isr, now);
                let attention = leader.needs_attention();
                let mut after = state.settle(effects);
                after.attention = attention;
                after
            }
            _ if leads => {
                let is_caught_up = is_caught_up(image, self.node.epoch());
                if is_caught_up && !self.may_lead(state, view) {
                    follow(state, view, self.node.broker)
                } else {
                    if is_caught_up && let Some(log) = &mut state.log {
                        forget_cut(log);
                    }
                    self.lead(state, view, min_isr, now)
                }
            }
            _ => follow(state, view, self.node.broker),
        };
        state.in_sync = view.isr.contains(&self.node.broker);
        state.leader = view.leader;
        state.leader_epoch = view.leader_epoch;
        state.partition_epoch = view.partition_epoch;
        state.unclean_epoch = view.unclean_epoch;
        state.integrity.reliance = Reliance::of(view, self.node.broker);
        let standing = state.standing();
        let (from, to) = state.count();
        drop(guard);
        self.node.gauges.change(from, to);
        self.finish(after);
        (before, standing)
    }

    fn lead(&self, state: &mut State, view: &PartitionImage, min_isr: usize, now: Instant) -> Afterwards {
        let hint = LeaderHint { leader: view.leader, epoch: view.leader_epoch };
        let mut after = Afterwards { epoch: true, ..Afterwards::default() };
        // Re-elected in the very next epoch nobody else led: what waits is in the log and stays there.
        let stays = matches!(&state.role, Role::Leader(leader) if leader.epoch().next() == view.leader_epoch);
        if !stays {
            state.refusals.lead();
            after.failed = state.fail_parked(|| PartitionError::NotLeader(hint));
        }
        let Some(log) = state.log.as_mut() else { return after };
        // Rule 4: nothing is appended before the epoch's start is noted (see `log/epochs.rs`).
        if let Err(error) = log.begin_epoch(view.leader_epoch) {
            tracing::error!(partition = ?self, %error, "cannot lead: this log holds an epoch newer than its own");
            after.failed.extend(state.fail_parked(|| PartitionError::NotLeader(hint)));
            state.role = Role::Follower;
            return after;
        }
        let ends = ends_of(log, state.durability);
        let beginning = Beginning {
            id: self.id,
            me: self.node.broker,
            image: view,
            min_isr,
            ends,
            high_watermark: state.high_watermark,
            lag_max: self.node.config.lag_time_max,
        };
        let (leader, mut effects) = LeaderState::begin(beginning, now);
        effects.fail_parked = !leader.has_min_isr();
        state.role = Role::Leader(Box::new(leader));
        let settled = state.settle(effects);
        after.failed.extend(settled.failed);
        Afterwards {
            released: settled.released,
            high_watermark: settled.high_watermark,
            attention: true,
            flush: ends.counted < ends.log,
            ..after
        }
    }

    /// The topic's configuration changed. Gives the durability before, if that changed.
    pub(super) fn configure(&self, config: &TopicConfig, image: &Image, now: Instant) -> Option<Durability> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let log = state.log.as_mut()?;
        log.set_config(log_config(config));
        let before = std::mem::replace(&mut state.durability, config.durability);
        let ends = ends_of(log, config.durability);
        let mut after = Afterwards::default();
        if let (Role::Leader(leader), Some(view)) = (&mut state.role, image.partition(self.id)) {
            let own = leader.on_own_ends(ends);
            let mut effects = Effects::default();
            if view.leader == Some(self.node.broker) && view.leader_epoch == leader.epoch() {
                let min_isr = image.effective_min_isr(&self.topic, view.counted_replicas());
                effects = leader.on_image_change(view, min_isr, now);
            }
            effects.high_watermark = effects.high_watermark.max(own.high_watermark);
            after = state.settle(effects);
        }
        after.flush = ends.counted < ends.log;
        let (from, to) = state.count();
        drop(guard);
        self.node.gauges.change(from, to);
        self.finish(after);
        (before != config.durability).then_some(before)
    }

    /// ISR upkeep. True: look again at the next tick.
    pub(super) fn tick(&self, image: &Image, now: Instant) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Role::Leader(leader) = &mut state.role else {
            self.listed.store(false, Ordering::Release);
            return false;
        };
        let effects = leader.on_tick(now, &NodePeers { node: &self.node, image });
        let again = leader.needs_attention();
        // Under the lock: an append after this look lists the partition anew.
        self.listed.store(again, Ordering::Release);
        let after = state.settle(effects);
        drop(guard);
        self.finish(after);
        again
    }

    pub(super) fn on_verdict(&self, partition_epoch: PartitionEpoch, verdict: Verdict, now: Instant) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Role::Leader(leader) = &mut state.role else { return };
        let effects = leader.on_verdict(partition_epoch, verdict, now);
        let after = state.settle(effects);
        drop(guard);
        self.finish(after);
    }

    /// Led here, with `broker` in the ISR.
    pub(super) fn relies_on(&self, brokers: &[BrokerId]) -> bool {
        match &self.state.lock().role {
            Role::Leader(leader) => brokers.iter().any(|broker| leader.is_in_isr(*broker)),
            Role::Follower | Role::Stopped => false,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.state.lock().standing()
    }

    pub(super) fn durability(&self) -> Durability {
        self.state.lock().durability
    }

    pub(super) fn high_watermark(&self) -> Offset {
        self.state.lock().high_watermark
    }

    pub(super) fn apply_retention(&self, now_ms: i64) -> io::Result<u64> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(log) = state.log.as_mut().filter(|log| !log.is_offline()) else { return Ok(0) };
        let freed = log.apply_retention(now_ms, state.high_watermark)?;
        let flush = log.has_unsynced_segments();
        drop(guard);
        self.finish(Afterwards { flush, ..Afterwards::default() });
        Ok(freed)
    }

    /// Ends every role. `clean`: the log is closed; otherwise it is only let go, because its folder goes.
    pub(super) fn stop(&self, clean: bool) -> (Standing, io::Result<()>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let before = state.standing();
        let hint = state.hint();
        state.role = Role::Stopped;
        state.integrity.holds_ready = None;
        // A node that stops sends its clients to whoever leads next; a partition that is gone is nowhere.
        let failed =
            state.fail_parked(|| if clean { PartitionError::NotLeader(hint) } else { PartitionError::NotHosted });
        if clean {
            // A write-back error that the flush under way is told of would not be told to the close.
            while guard.flushing.is_under_way() {
                self.flush_ended.wait(&mut guard);
            }
        }
        let mut log = guard.log.take();
        let (from, to) = guard.count();
        drop(guard);
        let closed = match &mut log {
            Some(log) if clean => log.close(),
            _ => Ok(()),
        };
        self.node.gauges.change(from, to);
        self.finish(Afterwards { failed, epoch: true, ..Afterwards::default() });
        (before, closed)
    }
}

/// To lead: chosen in spite of what it lost, and what it appends now goes there. Not by an image from before this process
/// was registered, which nobody has told of that loss.
fn forget_cut(log: &mut PartitionLog) {
    if log.damage().is_some_and(Damage::is_cut) {
        log.forget_damage();
    }
}

fn follow(state: &mut State, view: &PartitionImage, me: BrokerId) -> Afterwards {
    let hint = LeaderHint { leader: view.leader, epoch: view.leader_epoch };
    // Who fell out of sync has consumers that must go elsewhere.
    let fell_out = state.in_sync && !view.isr.contains(&me);
    let changed = fell_out || hint != state.hint() || matches!(state.role, Role::Leader(_));
    state.role = Role::Follower;
    state.refused &= !changed;
    let failed = state.fail_parked(|| PartitionError::NotLeader(hint));
    Afterwards { failed, epoch: changed, ..Afterwards::default() }
}

impl Flushable for Partition {
    fn begin_flush(&self) -> Option<FlushTask> {
        // First, so that an append from here on queues again.
        self.queued.store(false, Ordering::Release);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if !state.flushing.may_begin() {
            return None;
        }
        let durability = state.durability;
        let task = state.log.as_mut().and_then(|log| match durability {
            Durability::Sync => log.begin_flush(),
            Durability::PageCache => log.begin_flush_of_sealed(),
        });
        let through = state.flushing.begin(task.is_some());
        drop(guard);
        drop(through);
        task
    }

    fn end_flush(&self, task: FlushTask, result: io::Result<()>) {
        if let Err(error) = &result {
            tracing::error!(partition = ?self, %error, "a flush failed; unless its files could not be opened for want of descriptors, the log is offline from now on; check the disk");
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let (again, through) = state.flushing.end();
        let mut after = Afterwards::default();
        if let Some(log) = state.log.as_mut() {
            log.end_flush(&task, &result);
            let ends = ends_of(log, state.durability);
            if let Role::Leader(leader) = &mut state.role {
                let effects = leader.on_own_ends(ends);
                after = state.settle(effects);
            }
        }
        after.flush |= again;
        drop(guard);
        self.flush_ended.notify_all();
        self.finish(after);
        drop(through);
    }
}
