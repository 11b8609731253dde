//! A partition's following side: what it asks its leader for, and what it does with the answers.

use super::damage::{Filled, Mending};
use super::partition::Partition;
use super::reconcile::is_caught_up;
use super::role::{Afterwards, Role, State};
use super::truncation::{self, Cut};
use crate::config::topic::Durability;
use crate::ids::*;
use crate::log::partition_log::{AppendError, CutError, Damage, PartitionLog};
use crate::platform::{clock, disk};
use crate::records::{RecordError, ValidBatches};
use bytes::Bytes;
use std::io;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// A follower silent or behind for this long leaves the ISR.
    pub lag_time_max: Duration,
    /// Bytes per fetch in all and per partition.
    pub fetch_bytes_max: usize,
    pub fetch_partition_bytes_max: usize,
    pub fetch_wait_max: Duration,
    pub retention_check_interval: Duration,
    /// Bytes a second for replicas that a move adds, as this node's file says: what it fetches in all, and what it sends.
    pub throttled_rate: i64,
    pub leader_throttled_rate: i64,
    /// How fast logs are read in search of damage; 0: not at all.
    pub scrub_bytes_per_second: u64,
    /// From the beginning of one search to the beginning of the next.
    pub scrub_interval: Duration,
    /// How long folders of unknown partitions are kept, in milliseconds; below 0: for ever.
    pub stray_retention_ms: i64,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        ReplicaConfig {
            lag_time_max: Duration::from_secs(2),
            fetch_bytes_max: 10 << 20,
            fetch_partition_bytes_max: 1 << 20,
            fetch_wait_max: Duration::from_millis(500),
            retention_check_interval: Duration::from_secs(300),
            throttled_rate: 50 << 20,
            leader_throttled_rate: i64::MAX,
            scrub_bytes_per_second: 4 << 20,
            scrub_interval: Duration::from_secs(7 * 86_400),
            stray_retention_ms: 7 * 86_400_000,
        }
    }
}

/// Where a follower goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub leader_epoch: LeaderEpoch,
    pub offset: Offset,
    /// Of the last record; −1: there is none.
    pub last_fetched_epoch: LeaderEpoch,
    pub log_start: Offset,
    /// The topic counts what is synced, and not all of this log is: it must be before the next fetch, which is the ack.
    pub needs_flush: bool,
    /// What the leader sent from here was refused as damaged: it should look at its own log.
    pub refused: bool,
    /// What is asked for fills damage, and this log goes on behind it: a leader that ends there has another log.
    pub fills: bool,
}

/// One partition's part of a Fetch answer.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub records: Bytes,
    pub high_watermark: Offset,
    pub log_start: Offset,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error("this node does not follow in that epoch any more")]
    Superseded,
    /// The leader was deposed while it read: what it sent is another leader's, and says nothing about where the logs
    /// part.
    #[error("a batch of epoch {given} came from the leader of epoch {followed}")]
    NewerEpoch { given: LeaderEpoch, followed: LeaderEpoch },
    #[error("the leader's batches are damaged: {0}")]
    Records(#[from] RecordError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(
        "the leader's log ends at {to}, below the high watermark {high_watermark} known here, and no unclean election, nor \
         the loss of the only copy's page cache, is recorded: truncating would lose acknowledged records; this replica stops until the partition has another leader"
    )]
    BelowHighWatermark { to: Offset, high_watermark: Offset },
    #[error("the leader has nothing at our end {end}, yet its log starts at {start}")]
    OutOfRange { start: Offset, end: Offset },
    /// This copy is looked into, and repaired before it is cut.
    #[error("storage: {0}")]
    Damaged(CutError),
    #[error("storage: {0}")]
    Storage(#[from] io::Error),
}

impl FollowError {
    /// What came is not what a whole log holds: the leader's may be damaged.
    pub fn is_suspicious(&self) -> bool {
        match self {
            FollowError::Records(_) | FollowError::NewerEpoch { .. } => true,
            FollowError::Append(error) => {
                matches!(error, AppendError::Invalid(_) | AppendError::NotContiguous { .. })
            }
            FollowError::Superseded
            | FollowError::BelowHighWatermark { .. }
            | FollowError::OutOfRange { .. }
            | FollowError::Damaged(_)
            | FollowError::Storage(_) => false,
        }
    }

    /// Asking again in this leader epoch does not help.
    pub fn is_final(&self) -> bool {
        match self {
            FollowError::Records(_)
            | FollowError::OutOfRange { .. }
            | FollowError::NewerEpoch { .. }
            | FollowError::Damaged(_) => false,
            FollowError::Append(error) => matches!(error, AppendError::Disk(_) | AppendError::Offline),
            FollowError::Storage(error) => !disk::is_passing(error),
            FollowError::Superseded | FollowError::BelowHighWatermark { .. } => true,
        }
    }
}

impl Partition {
    /// `None`: it does not follow in this epoch, its log is offline, or its damage is to be told first.
    pub(super) fn position(&self, epoch: LeaderEpoch) -> Option<Position> {
        let mut guard = self.state.lock();
        let (durability, refused) = (guard.durability, guard.refused);
        if guard.leader_epoch == epoch {
            match self.mend(&mut guard) {
                Mending::Done => {}
                Mending::Wait => return None,
                Mending::Fill(offset) => {
                    let log = guard.log.as_ref()?;
                    let log_start = log.log_start();
                    let last = if offset > log_start { log.epoch_at(Offset(offset.0 - 1)) } else { None };
                    let last_fetched_epoch = last.unwrap_or(LeaderEpoch::NONE);
                    // It claims nothing that is not on the disk: neither what was filled below, nor what lies there.
                    let is_durable = log.durable_end() >= offset && !log.has_unsynced_patches();
                    let needs_flush = durability == Durability::Sync && !is_durable;
                    return Some(Position {
                        leader_epoch: epoch,
                        offset,
                        last_fetched_epoch,
                        log_start,
                        needs_flush,
                        refused,
                        fills: true,
                    });
                }
            }
        }
        let log = following(&mut guard, epoch).ok()?;
        let (start, end) = (log.log_start(), log.log_end());
        let last = if end > start { log.epoch_at(Offset(end.0 - 1)) } else { None };
        let is_durable = log.durable_end() >= end && !log.has_unsynced_patches();
        Some(Position {
            leader_epoch: epoch,
            offset: end,
            last_fetched_epoch: last.unwrap_or(LeaderEpoch::NONE),
            log_start: start,
            needs_flush: durability == Durability::Sync && !is_durable,
            refused,
            fills: false,
        })
    }

    /// It follows in this epoch, even where it cannot fetch now: its damage is to be told to the controller first, or was
    /// found while an answer was on its way. What ends that may come without a new epoch and without another standing, so
    /// nobody would give the order to fetch anew.
    pub(super) fn still_follows(&self, epoch: LeaderEpoch) -> bool {
        let guard = self.state.lock();
        let is_online = guard.log.as_ref().is_some_and(|log| !log.is_offline());
        is_online && matches!(guard.role, Role::Follower) && guard.leader_epoch == epoch
    }

    /// Appends what the leader sent. True: the next fetch goes on elsewhere.
    pub(super) fn on_fetched(&self, epoch: LeaderEpoch, fetched: Fetched) -> Result<bool, FollowError> {
        let outcome = self.take(epoch, fetched);
        let refused = outcome.as_ref().is_err_and(FollowError::is_suspicious);
        // The next fetch says so, and the leader looks at what it has.
        self.state.lock().refused = refused;
        outcome
    }

    fn take(&self, epoch: LeaderEpoch, fetched: Fetched) -> Result<bool, FollowError> {
        let batches = if fetched.records.is_empty() { None } else { Some(ValidBatches::from_leader(fetched.records)?) };
        let now_ms = clock::wall_ms();
        let mut guard = self.state.lock();
        if self.is_filling(&guard, epoch) {
            let Filled { moved, look } = self.fill(&mut guard, batches.as_ref())?;
            drop(guard);
            if let Some(range) = look {
                self.look_behind(range);
                // Where synced data counts the next fetch waits for it, too.
                self.finish(Afterwards { flush: true, ..Afterwards::default() });
            }
            return Ok(moved);
        }
        let is_page_cache = guard.durability == Durability::PageCache;
        let mut flush = false;
        let log = following(&mut guard, epoch)?;
        let before = log.log_end();
        let newer = batches.iter().flat_map(|b| b.headers()).find(|header| header.leader_epoch > epoch);
        if let Some(header) = newer {
            return Err(FollowError::NewerEpoch { given: header.leader_epoch, followed: epoch });
        }
        if let Some(batches) = batches
            && let Some(first) = batches.batches.first()
        {
            let base = first.header.base_offset;
            let is_empty = log.log_start() == before;
            if is_empty && base < before {
                // The leader's log starts inside a batch, and batches travel whole.
                log.restart_at(base)?;
            }
            log.append_as_follower(&batches, now_ms)?;
            flush = is_page_cache && log.has_rolled_at(base);
            if log.log_start() < before && is_empty {
                log.advance_log_start(before)?;
            }
        }
        let end = log.log_end();
        // A leader's log never starts above its high watermark: otherwise this is no answer to act on.
        if fetched.log_start > log.log_start() && fetched.log_start <= fetched.high_watermark {
            if fetched.log_start > end {
                log.restart_at(fetched.log_start)?;
            } else {
                log.advance_log_start(fetched.log_start)?;
            }
        }
        let (start, end) = (log.log_start(), log.log_end());
        let high_watermark = fetched.high_watermark.min(end).max(guard.high_watermark).max(start);
        let moved = high_watermark > guard.high_watermark;
        if moved || flush {
            guard.high_watermark = high_watermark;
            drop(guard);
            // Consumers may wait here as well (KIP-392).
            self.finish(Afterwards { high_watermark: moved, flush, ..Afterwards::default() });
        }
        Ok(end != before)
    }

    /// Cuts where the leader's log and this one part.
    pub(super) fn on_diverging(&self, epoch: LeaderEpoch, answer: (LeaderEpoch, Offset)) -> Result<(), FollowError> {
        let mut guard = self.state.lock();
        if self.is_filling(&guard, epoch) {
            // Another log already below the damage: what is here is no help to anybody.
            return if self.cut_damage(&mut guard) { Ok(()) } else { Err(FollowError::Superseded) };
        }
        let (high_watermark, unclean_epoch) = (guard.high_watermark, guard.unclean_epoch);
        let log = following(&mut guard, epoch)?;
        if let Some((newest, from)) = log.latest_epoch().filter(|(newest, _)| *newest > epoch) {
            drop(guard);
            let reason = format!("leader epoch {newest}, though {epoch} is the newest that anybody had");
            if !is_caught_up(&self.node.image.load(), self.node.epoch()) {
                // A leader of old, perhaps.
                return Err(FollowError::Damaged(CutError::Damaged { near: from, reason }));
            }
            // The leader epoch of a batch is outside of its CRC: only who leads can tell that it is wrong. Cut, not
            // filled: what this log remembers of its epochs is wrong, too.
            self.note_damage(Damage { from, to: from, reason: reason.clone() });
            return Err(FollowError::Damaged(CutError::Damaged { near: from, reason }));
        }
        let unclean = is_unclean_since(unclean_epoch, log);
        let to = match truncation::cut(&*log, high_watermark, unclean, answer) {
            Cut::To(to) => to,
            Cut::BelowHighWatermark { to } => return Err(FollowError::BelowHighWatermark { to, high_watermark }),
        };
        let lost = log.log_end() - to;
        let cut = if to < log.log_start() { log.restart_at(to).map_err(CutError::Disk) } else { log.truncate_to(to) };
        match cut {
            Ok(()) => {}
            Err(CutError::Disk(error)) => return Err(error.into()),
            Err(CutError::Damaged { near, reason }) => {
                drop(guard);
                // The cut waits for the repair, which nobody else would ask for: a follower is read by no one.
                self.suspect(near);
                return Err(FollowError::Damaged(CutError::Damaged { near, reason }));
            }
        }
        let end = log.log_end();
        guard.high_watermark = high_watermark.min(end);
        if to < high_watermark {
            tracing::warn!(partition = ?self, %to, %high_watermark, lost, "truncated below the high watermark, after an unclean election or the loss of the only copy's page cache: acknowledged records may be lost");
        } else {
            tracing::info!(partition = ?self, %to, lost, "truncated to what the leader has");
        }
        Ok(())
    }

    /// The leader has nothing at our end: begin anew at its start if we are below it.
    pub(super) fn on_out_of_range(&self, epoch: LeaderEpoch, leader_start: Offset) -> Result<(), FollowError> {
        let mut guard = self.state.lock();
        if self.is_filling(&guard, epoch) {
            let state = &mut *guard;
            let Some(log) = state.log.as_mut() else { return Err(FollowError::Superseded) };
            if leader_start > log.log_start() && leader_start <= log.log_end() {
                // What is damaged, or some of it, is deleted there, and what lies behind it stays. A leader's log never
                // starts above its high watermark.
                log.advance_log_start(leader_start)?;
                state.high_watermark = state.high_watermark.max(leader_start);
                self.gone_or_left(&mut guard);
                return Ok(());
            }
            return if self.cut_damage(&mut guard) { Ok(()) } else { Err(FollowError::Superseded) };
        }
        let (high_watermark, unclean_epoch) = (guard.high_watermark, guard.unclean_epoch);
        let log = following(&mut guard, epoch)?;
        let end = log.log_end();
        if leader_start <= end && end > log.log_start() {
            // A log with records is compared by epochs, never dropped for an offset.
            return Err(FollowError::OutOfRange { start: leader_start, end });
        }
        if leader_start < high_watermark && !is_unclean_since(unclean_epoch, log) {
            return Err(FollowError::BelowHighWatermark { to: leader_start, high_watermark });
        }
        tracing::warn!(partition = ?self, from = %end, to = %leader_start, "starts anew at the leader's log start");
        log.restart_at(leader_start)?;
        guard.high_watermark = leader_start;
        Ok(())
    }
}

fn following(state: &mut State, epoch: LeaderEpoch) -> Result<&mut PartitionLog, FollowError> {
    if !matches!(state.role, Role::Follower) || state.leader_epoch != epoch {
        return Err(FollowError::Superseded);
    }
    // A damaged copy takes nothing more before it is cut: see `damage`.
    let log = state.log.as_mut().filter(|log| log.damage().is_none()).ok_or(FollowError::Superseded)?;
    if log.is_offline() { Err(AppendError::Offline.into()) } else { Ok(log) }
}

/// An unclean election came after this log's last epoch: what it held above the common part is given up.
fn is_unclean_since(unclean_epoch: Option<LeaderEpoch>, log: &PartitionLog) -> bool {
    unclean_epoch.is_some_and(|unclean| log.latest_epoch().is_none_or(|(last, _)| unclean > last))
}
