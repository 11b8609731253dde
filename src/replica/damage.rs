//! A damaged copy: found by a scrub, a recovery, a reader or a follower; it leaves ISR and ELR first, then repairs itself
//! from the new leader: what is damaged is filled in place, so that nothing good is given up that another copy may lack.
//!
//! ```text
//! suspicion (a follower refused, a header could not be read) ─→ check of the log ─┐
//! scrub, recovery ────────────────────────────────────────────────────────────────┴→ noted: it fetches no more
//!    noted ─→ report ─→ controller: out of ISR and ELR, new leader epoch ─→ image ─→ fetch the damaged range, fill it
//!                │                                                                └─ does not fit: cut, fetch again
//!                └─ refused: nobody else holds what was acked ─→ lead on, refuse the damaged range, say so
//! ```
//!
//! Why no other fetch goes out while damage is noted: a leader proposes into its ISR whoever fetched in its epoch and holds
//! enough. In an epoch later than the one in which the damage was noted it has heard nothing of this copy, so a copy that
//! is outside of ISR and ELR then stays outside until it fetches. The fetch of the damaged range claims what is good below
//! it and no more; any other comes after the repair.
//!
//! Two copies damaged at different places heal each other: the first one out is filled by the other, which leads on
//! alone, joins it, and takes over while that one is filled.

use super::follower::FollowError;
use super::node::{Node, ReadyHold};
use super::partition::{Partition, PartitionError};
use super::role::{Afterwards, Role, State};
use crate::ids::*;
use crate::log::partition_log::{AppendError, Checked, Cursor, Damage, PartitionLog, Patched};
use crate::metadata::command::{DamageReport, MetadataError};
use crate::metadata::image::topics::Partition as PartitionImage;
use crate::metadata::intent::IntentError;
use crate::platform::clock;
use crate::records::ValidBatches;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A suspicion is looked into this often at most, however often it is raised.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So much behind the suspected offset is checked: more than one fetch of a follower brings.
const LOOK_BYTES: u64 = 16 << 20;
/// Read at once.
const STEP_BYTES: u64 = 1 << 20;

/// What is to be done about noted damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Tell the controller: others may rely on this copy, or the leader may think it whole.
    Report,
    /// Fill, or cut, and fetch again.
    Repair,
    /// For a leader to follow.
    Wait,
}

/// Whether a follower may fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mending {
    /// There is no damage, or none any more.
    Done,
    /// Only what lies from here on, to fill the damage.
    Fill(Offset),
    /// Not yet.
    Wait,
}

/// What the newest image says of this copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reliance {
    /// It is in the ISR or the ELR.
    pub is_trusted: bool,
    /// Some other replica leads.
    pub has_other_leader: bool,
    /// Nobody else is in the ISR or the ELR.
    pub is_only: bool,
}

impl Reliance {
    pub fn of(view: &PartitionImage, me: BrokerId) -> Reliance {
        Reliance {
            is_trusted: view.isr.contains(&me) || view.elr.contains(&me),
            has_other_leader: view.leader.is_some_and(|leader| leader != me),
            is_only: view.isr.iter().chain(&view.elr).all(|replica| *replica == me),
        }
    }
}

/// `noted_in`: the leader epoch in which the damage was noted, and the last in which this copy may have fetched.
pub(super) fn step(reliance: Reliance, epoch: LeaderEpoch, noted_in: LeaderEpoch) -> Step {
    if epoch == LeaderEpoch::NONE {
        return Step::Wait;
    }
    match reliance {
        Reliance { is_trusted: true, .. } => Step::Report,
        Reliance { has_other_leader: false, .. } => Step::Wait,
        Reliance { .. } if epoch <= noted_in => Step::Report,
        Reliance { .. } => Step::Repair,
    }
}

/// What this node does about damage in one partition. Invariant: means something only while the log has damage, except
/// `looked_at`.
#[derive(Default)]
pub(super) struct Integrity {
    pub reliance: Reliance,
    noted_in: LeaderEpoch,
    /// The controller knows of nobody else who holds all that was acked.
    alone: bool,
    /// The node's readiness waits for the answer to the first report, or for the end of this partition here.
    pub holds_ready: Option<ReadyHold>,
    looked_at: Option<Instant>,
}

/// A suspicion, and how far it has been looked into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    suspected: Offset,
    /// All up to there is suspected. Invariant: `suspected` ≤ `through`.
    through: Offset,
    /// `None`: nothing was read yet.
    cursor: Option<Cursor>,
    /// Read behind what is suspected.
    beyond: u64,
}

impl Look {
    pub fn at(suspected: Offset) -> Look {
        Look { suspected, through: suspected, cursor: None, beyond: 0 }
    }

    pub fn through(range: Range<Offset>) -> Look {
        Look { through: range.end.max(range.start), ..Look::at(range.start) }
    }

    #[cfg(test)]
    pub fn from(&self) -> Offset {
        self.suspected
    }

    /// Nobody would raise the suspicion again.
    pub fn must_not_be_lost(&self) -> bool {
        self.through > self.suspected
    }

    /// One look at what both suspect.
    pub fn joined(self, other: Look) -> Look {
        Look::through(self.suspected.min(other.suspected)..self.through.max(other.through))
    }
}

/// What became of an answer to a fetch of the damaged range.
pub(super) struct Filled {
    /// The next fetch goes on elsewhere.
    pub moved: bool,
    /// The damage is filled: this is to be looked at again, and all of it must reach the disk.
    pub look: Option<Range<Offset>>,
}

/// What the integrity task is told.
pub(super) enum Word {
    Suspect(Arc<Partition>, Look),
    Damaged(Arc<Partition>),
}

impl State {
    pub(super) fn damage_step(&self) -> Option<Step> {
        self.log.as_ref()?.damage()?;
        Some(step(self.integrity.reliance, self.leader_epoch, self.integrity.noted_in))
    }

    /// Where a read at `offset` must end, or that it cannot begin.
    pub(super) fn readable(&self, log: &PartitionLog, offset: Offset, upper: Offset) -> Result<Offset, PartitionError> {
        match log.damage() {
            Some(damage) if damage.covers(offset) => {
                Err(PartitionError::Damaged { from: damage.from, to: damage.to, alone: self.integrity.alone })
            }
            Some(damage) if offset < damage.from && !damage.is_cut() => Ok(upper.min(damage.from)),
            _ => Ok(upper),
        }
    }
}

/// Where the damage begins in what is left of the log, if good batches may lie behind it: what recovery has cut off has
/// nothing to fill.
fn gap(state: &State) -> Option<Offset> {
    let log = state.log.as_ref()?;
    let damage = log.damage().filter(|damage| !damage.is_cut())?;
    let from = damage.from.max(log.log_start());
    (from < damage.to && from < log.log_end()).then_some(from)
}

impl Partition {
    /// Somebody could not read, or would not take, what lies at or soon after `offset`.
    pub fn suspect(&self, offset: Offset) {
        let now = clock::now();
        {
            let mut guard = self.state.lock();
            let looked_at = &mut guard.integrity.looked_at;
            if looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY) {
                return;
            }
            *looked_at = Some(now);
        }
        if let Some(me) = self.me.upgrade() {
            self.node.tell(Word::Suspect(me, Look::at(offset)));
        }
    }

    /// What was filled ends at `filled.start`; up to its end this log was thought damaged, for want of a header.
    pub(super) fn look_behind(&self, filled: Range<Offset>) {
        self.state.lock().integrity.looked_at = Some(clock::now());
        if let Some(me) = self.me.upgrade() {
            self.node.tell(Word::Suspect(me, Look::through(filled)));
        }
    }

    /// One step of a look at what is suspected: the bytes read, and what remains to be looked at. Blocks.
    pub(super) fn look(&self, look: Look) -> (u64, Option<Look>) {
        let Some((start, end)) = self.bounds() else { return (0, None) };
        let cursor = look.cursor.unwrap_or(Cursor::at(look.suspected.max(start)));
        let Some(Checked { next, bytes, .. }) = self.check(cursor, end, STEP_BYTES) else { return (STEP_BYTES, None) };
        let mut look = Look { cursor: next, ..look };
        if next.is_some_and(|next| next.offset() > look.through) {
            look.beyond += bytes;
        }
        if next.is_some() && look.beyond < LOOK_BYTES {
            return (bytes, Some(look));
        }
        tracing::warn!(
            partition = ?self, offset = %look.suspected,
            "records from there were refused, could not be read, or follow repaired ones, and the log here is good: if this comes \
             again, look at memory and network"
        );
        (bytes, None)
    }

    /// Log start and log end; `None` once it is stopped.
    fn bounds(&self) -> Option<(Offset, Offset)> {
        let guard = self.state.lock();
        let log = guard.log.as_ref()?;
        Some((log.log_start(), log.log_end()))
    }

    /// What a scrub looks at: log start and durable end; `None` if damage is known already.
    pub(super) fn durable_bounds(&self) -> Option<(Offset, Offset)> {
        let guard = self.state.lock();
        let log = guard.log.as_ref().filter(|log| log.damage().is_none())?;
        Some((log.log_start(), log.durable_end()))
    }

    /// One step of a pass over the log; damage is noted, and ends the pass. Blocks.
    pub(super) fn check(&self, from: Cursor, upper: Offset, bytes_max: u64) -> Option<Checked> {
        let reader = self.state.lock().log.as_ref()?.reader();
        match reader.check(from, upper, bytes_max) {
            Ok(Checked { damage: Some(damage), .. }) => {
                self.note_damage(damage);
                None
            }
            Ok(checked) => Some(checked),
            Err(error) => {
                tracing::error!(partition = ?self, %error, "the log could not be checked; check the disk");
                None
            }
        }
    }

    /// A whole look at once.
    #[cfg(test)]
    pub(super) fn look_into(&self, look: Look) {
        let mut next = Some(look);
        while let Some(look) = next {
            next = self.look(look).1;
        }
    }

    /// Called by whoever found it.
    pub(super) fn note_damage(&self, damage: Damage) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(log) = state.log.as_mut() else { return };
        // Found while the log was being cut there, or known.
        if (damage.from >= log.log_end() && !damage.is_cut()) || log.damage().is_some() {
            return;
        }
        tracing::error!(
            partition = ?self, from = %damage.from, to = %damage.to, reason = damage.reason,
            "records on this disk are damaged: this replica leaves the ISR and fetches them again from another one; \
             check the disk"
        );
        log.note_damage(damage);
        state.integrity.noted_in = state.leader_epoch;
        state.integrity.alone = false;
        drop(guard);
        self.mind_damage(false);
    }

    /// Damage found at opening: noted by an earlier run, or cut by the recovery just now. `known`: the high watermark this
    /// replica knew of before; a log that ends below it has lost what it acked.
    pub(super) fn mind_opened(&self, known: Offset) {
        {
            let mut guard = self.state.lock();
            let Some(log) = guard.log.as_mut() else { return };
            let end = log.log_end();
            if end < known && log.damage().is_none() {
                let reason = format!("the log ends at {end}, below the high watermark {known} known before the stop");
                log.note_damage(Damage { from: end, to: end, reason });
            }
            let Some(damage) = log.damage() else { return };
            tracing::error!(
                partition = ?self, from = %damage.from, reason = damage.reason,
                "records on this disk were damaged or lost: this replica fetches them again from another one"
            );
            // A new process: what the one before fetched counts no more.
            guard.integrity.noted_in = LeaderEpoch::NONE;
        }
        self.mind_damage(true);
    }

    /// Whether this replica may lead in `view`'s epoch, by an image that knows of all this node did before. A later epoch in
    /// its log was never anybody's. While others are in the ISR or the ELR one of them is to lead, from which those records
    /// are fetched again; where there is none they stay, under the epoch that leads now.
    pub(super) fn may_lead(&self, state: &mut State, view: &PartitionImage) -> bool {
        let newest = view.leader_epoch;
        let Some(log) = state.log.as_mut() else { return true };
        let Some((epoch, from)) = log.latest_epoch().filter(|(epoch, _)| *epoch > newest) else { return true };
        let reason = format!("leader epoch {epoch}, though {newest} is the newest that anybody had");
        if view.isr.iter().chain(&view.elr).all(|replica| *replica == self.node.broker) {
            tracing::error!(
                partition = ?self, %from, reason,
                "records on this disk are damaged, and nobody else has them: they are served under the epoch that leads now; \
                 check the disk"
            );
            let restamped = log.restamp_epochs_above(newest);
            return restamped
                .inspect_err(|error| tracing::error!(partition = ?self, %error, "they could not be"))
                .is_ok();
        }
        if log.damage().is_none_or(|damage| damage.from > from) {
            tracing::error!(
                partition = ?self, %from, reason,
                "records on this disk are damaged: another replica is to lead, and these are fetched again; check the disk"
            );
            log.note_damage(Damage { from, to: from, reason });
        }
        state.integrity.noted_in = newest;
        state.integrity.alone = false;
        if let Some(me) = self.me.upgrade() {
            self.node.tell(Word::Damaged(me));
        }
        false
    }

    fn mind_damage(&self, holds_ready: bool) {
        let mut guard = self.state.lock();
        // A stopped one has nothing to tell.
        if holds_ready && guard.log.is_some() && guard.integrity.holds_ready.is_none() {
            guard.integrity.holds_ready = Some(self.node.hold_ready());
        }
        let (from, to) = guard.count();
        drop(guard);
        self.node.gauges.change(from, to);
        if let Some(me) = self.me.upgrade() {
            self.node.tell(Word::Damaged(me));
        }
    }

    /// What to tell the controller, if anything; outer `None`: there is no damage any more.
    pub(super) fn damage_report(&self) -> Option<Option<DamageReport>> {
        let mut guard = self.state.lock();
        let Some(step) = guard.damage_step() else {
            guard.integrity.holds_ready = None;
            return None;
        };
        if step != Step::Report {
            // Nobody relies on it: readiness need not wait.
            if guard.leader_epoch != LeaderEpoch::NONE {
                guard.integrity.holds_ready = None;
            }
            return Some(None);
        }
        let from = guard.log.as_ref().and_then(PartitionLog::damage).map(|damage| damage.from)?;
        Some(Some(DamageReport { partition: self.id, leader_epoch: guard.leader_epoch, from }))
    }

    /// True: the controller refuses as long as no other replica is in sync.
    pub(super) fn on_damage_answer(&self, answer: &Result<(), IntentError>) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        match answer {
            Ok(()) => {
                state.integrity.holds_ready = None;
                false
            }
            Err(IntentError::Metadata(MetadataError::NoOtherReplica(_))) => {
                let first = !std::mem::replace(&mut state.integrity.alone, true);
                let Some(log) = state.log.as_mut() else { return true };
                // One that leads has given up what it could not place; another one waits to be able to.
                let waits =
                    !matches!(state.role, Role::Leader(_)) && log.damage().is_some_and(|d| d.from < log.log_end());
                let is_cut = !waits && log.damage().is_some_and(Damage::is_cut);
                let from = log.damage().map(|damage| damage.from);
                if first && waits {
                    tracing::error!(
                        partition = ?self, ?from,
                        "records here are damaged, and this replica waits for one that has them, in the ISR or eligible, to \
                         lead: bring one back; if there is none any more, lower min.insync.replicas to what is in sync"
                    );
                } else if first {
                    tracing::error!(
                        partition = ?self, ?from, is_cut,
                        "ACKNOWLEDGED RECORDS ARE DAMAGED and no other replica in sync holds them: what is good stays \
                         served, the rest is refused; bring another replica back, or delete the records"
                    );
                }
                let mut restamped = false;
                if is_cut {
                    // Nothing bad is left in this log, and what comes next goes where the lost records were.
                    log.forget_damage();
                } else if state.integrity.reliance.is_only {
                    // Nobody may come back who knows better.
                    match log.restamp_damage() {
                        Ok(done) => restamped = done,
                        Err(error) => {
                            tracing::error!(partition = ?self, %error, "damage cannot be mended; check the disk")
                        }
                    }
                }
                if restamped {
                    tracing::warn!(
                        partition = ?self, ?from,
                        "only the leader epoch of these records was damaged: it is written anew, and they are served again"
                    );
                }
                state.integrity.holds_ready = None;
                let (from, to) = state.count();
                drop(guard);
                self.node.gauges.change(from, to);
                if restamped {
                    self.finish(Afterwards { epoch: true, flush: true, ..Afterwards::default() });
                }
                true
            }
            // An epoch moved on meanwhile; the next look sees what that means.
            Err(_) => false,
        }
    }

    /// A follower's damage is repaired as soon as nobody relies on the copy.
    pub(super) fn mend(&self, guard: &mut State) -> Mending {
        match guard.damage_step() {
            None => return Mending::Done,
            Some(Step::Repair) if matches!(guard.role, Role::Follower) => {}
            Some(_) => return Mending::Wait,
        }
        if guard.log.as_ref().is_none_or(PartitionLog::is_offline) {
            return Mending::Wait;
        }
        match gap(guard) {
            Some(from) => Mending::Fill(from),
            None if self.cut_damage(guard) => Mending::Done,
            None => Mending::Wait,
        }
    }

    /// A follower in that epoch, whose fetch was for the damaged range alone.
    pub(super) fn is_filling(&self, guard: &State, epoch: LeaderEpoch) -> bool {
        guard.leader_epoch == epoch
            && matches!(guard.role, Role::Follower)
            && guard.damage_step() == Some(Step::Repair)
            && gap(guard).is_some()
    }

    /// Fills the damage with what the leader sent; cuts there, if it has something else. That it sent nothing means nothing:
    /// it may be throttled, or the answer full. A leader whose log ends here says so as where the logs part.
    pub(super) fn fill(&self, guard: &mut State, batches: Option<&ValidBatches>) -> Result<Filled, FollowError> {
        let Some(log) = guard.log.as_mut() else { return Err(FollowError::Superseded) };
        let Some(damage) = log.damage().cloned() else { return Ok(Filled { moved: true, look: None }) };
        let Some(batches) = batches.filter(|batches| !batches.batches.is_empty()) else {
            return Ok(Filled { moved: false, look: None });
        };
        if let Some(first) = batches.headers().next().filter(|first| first.base_offset >= damage.to) {
            // An answer to an earlier fetch.
            let (given, end) = (first.base_offset, damage.from);
            return Err(AppendError::NotContiguous { given, end }.into());
        }
        match log.patch_damage(batches)? {
            Patched::UpTo(_) => Ok(Filled { moved: true, look: None }),
            Patched::Whole(end) => {
                tracing::warn!(
                    partition = ?self, from = %damage.from, to = %end,
                    "the damaged records are filled in from the leader's copy, outside of ISR and ELR"
                );
                // What was hit once may have been hit twice.
                self.mended(guard);
                Ok(Filled { moved: true, look: Some(end..damage.to) })
            }
            Patched::Unfit(why) => {
                tracing::warn!(partition = ?self, why, "the damaged records cannot be filled in");
                match self.cut_damage(guard) {
                    true => Ok(Filled { moved: true, look: None }),
                    false => Err(FollowError::Superseded),
                }
            }
        }
    }

    /// False: it could not be cut.
    pub(super) fn cut_damage(&self, guard: &mut State) -> bool {
        let Some(log) = guard.log.as_mut() else { return false };
        let before = log.log_end();
        match log.cut_damage() {
            Ok(end) => {
                let high_watermark = guard.high_watermark;
                guard.high_watermark = high_watermark.min(end);
                tracing::warn!(
                    partition = ?self, from = %end, again = before - end, %high_watermark,
                    "the damaged copy is cut, outside of ISR and ELR, and fetched again"
                );
                self.mended(guard);
                true
            }
            Err(error) => {
                tracing::error!(partition = ?self, %error, "the damaged copy cannot be cut; check the disk");
                false
            }
        }
    }

    /// The log's start moved.
    pub(super) fn gone_or_left(&self, guard: &mut State) {
        let Some(log) = guard.log.as_ref() else { return };
        let (start, left) = (log.log_start(), log.damage().is_some());
        tracing::warn!(partition = ?self, %start, left, "the damaged records, or some of them, are deleted at the leader");
        if !left {
            self.mended(guard);
        }
    }

    fn mended(&self, guard: &mut State) {
        guard.integrity.holds_ready = None;
        let (from, to) = guard.count();
        self.node.gauges.change(from, to);
    }
}

impl Node {
    pub(super) fn tell(&self, word: Word) {
        // The receiver goes only when the node stops.
        let _ = self.words.send(word);
    }
}

#[cfg(test)]
mod tests;
