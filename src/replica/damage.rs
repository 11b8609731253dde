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
use super::role::{Role, State};
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
}

impl Reliance {
    pub fn of(view: &PartitionImage, me: BrokerId) -> Reliance {
        Reliance {
            is_trusted: view.isr.contains(&me) || view.elr.contains(&me),
            has_other_leader: view.leader.is_some_and(|leader| leader != me),
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
                let is_cut = log.damage().is_some_and(Damage::is_cut);
                if first {
                    let from = log.damage().map(|damage| damage.from);
                    tracing::error!(
                        partition = ?self, ?from, is_cut,
                        "ACKNOWLEDGED RECORDS ARE DAMAGED and no other replica in sync holds them: what is good stays \
                         served, the rest is refused; bring another replica back, or delete the records"
                    );
                }
                if is_cut {
                    // Nothing bad is left in this log, and what comes next goes where the lost records were.
                    log.forget_damage();
                }
                state.integrity.holds_ready = None;
                let (from, to) = state.count();
                drop(guard);
                self.node.gauges.change(from, to);
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
                Ok(Filled { moved: self.cut_damage(guard), look: None })
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
mod tests {
    use super::*;
    use crate::config::topic::Durability;
    use crate::replica::follower::Fetched;
    use crate::replica::testing::{Replica, batch, flip, image, three};
    use bytes::Bytes;

    /// Readiness waits until the controller was told of its damage, and nobody is there to tell it.
    fn opened_damaged() -> Replica {
        let one = Replica::new(1, Durability::PageCache);
        one.show(&image(1, &[1, 2, 3], 0, 0, None));
        one.partition.append(&batch(&["a"]), 1).unwrap();
        one.partition.mind_opened(Offset(2));
        assert!(one.node.is_ready_held());
        one
    }

    #[tokio::test]
    async fn a_partition_that_goes_before_its_damage_was_told_holds_readiness_no_more() {
        for clean in [true, false] {
            let one = opened_damaged();
            one.partition.stop(clean).1.unwrap();
            assert!(!one.node.is_ready_held(), "stopped, clean: {clean}");
            one.partition.mind_opened(Offset(2));
            assert!(!one.node.is_ready_held(), "nor does a stopped one begin to");
        }
        let Replica { node, partition, words, .. } = opened_damaged();
        drop((partition, words, node.take_listed()));
        assert!(!node.is_ready_held(), "dropped without a stop");
        let released = node.ready_released.notified();
        tokio::time::timeout(Duration::from_secs(10), released).await.expect("who waits for readiness is told");
    }

    /// Broker 2 is damaged at `offset`, out of sync, and follows broker 1 in epoch 1.
    async fn damaged_follower(durability: Durability, records: &[&[&str]], offset: i64) -> [Replica; 3] {
        let [one, two, three] = three(durability);
        for values in records {
            one.partition.append(&batch(values), 1).unwrap();
        }
        for _ in 0..2 {
            two.catch_up(&one).await;
            three.catch_up(&one).await;
        }
        flip(&two.partition, offset, false);
        two.partition.look_into(Look::at(Offset(offset)));
        assert_eq!(two.node.gauges.damaged(), 1);
        for replica in [&one, &two] {
            replica.show(&image(1, &[1, 3], 1, 1, None));
        }
        [one, two, three]
    }

    #[tokio::test]
    async fn an_answer_without_records_cuts_nothing() {
        let [one, two, _three] = damaged_follower(Durability::Sync, &[&["a"], &["b"], &["c"]], 1).await;
        let position = two.partition.position(LeaderEpoch(1)).expect("it asks for what is damaged");
        assert_eq!((position.offset, position.fills), (Offset(1), true));
        // A new leader knows of less than what was acked; and it may be throttled.
        let nothing = Fetched { records: Bytes::new(), high_watermark: Offset(0), log_start: Offset(0) };
        assert!(!two.partition.on_fetched(LeaderEpoch(1), nothing).unwrap());
        assert_eq!((two.end(), two.node.gauges.damaged()), (3, 1));
        assert!(two.fetch(&one).await.unwrap());
        assert_eq!((two.end(), two.node.gauges.damaged()), (3, 0), "filled");
        let position = two.partition.position(LeaderEpoch(1)).expect("it follows");
        assert!(position.needs_flush || !two.partition.state.lock().log.as_ref().unwrap().has_unsynced_patches());
    }

    #[tokio::test]
    async fn a_copy_is_cut_where_its_leaders_log_ends() {
        let [one, two, three] = three(Durability::PageCache);
        one.partition.append(&batch(&["a"]), 1).unwrap();
        two.catch_up(&one).await;
        three.catch_up(&one).await;
        one.partition.append(&batch(&["only here"]), 1).unwrap();
        flip(&one.partition, 1, false);
        one.partition.look_into(Look::at(Offset(1)));
        for replica in [&one, &two] {
            replica.show(&image(2, &[2, 3], 1, 1, None));
        }
        assert!(one.fetch(&two).await.unwrap());
        assert_eq!((one.end(), one.node.gauges.damaged()), (1, 0));
    }

    #[tokio::test]
    async fn what_is_deleted_at_the_leader_need_not_be_filled_and_costs_nothing_behind_it() {
        for deleted in [2, 1] {
            let records: [&[&str]; 2] = [&["a", "b"], &["c"]];
            let [one, two, _three] = damaged_follower(Durability::PageCache, &records, 0).await;
            assert_eq!(one.partition.delete_records(Offset(deleted)).unwrap(), Offset(deleted));
            assert!(two.fetch(&one).await.unwrap());
            let status = two.partition.status();
            assert_eq!((status.log_start, status.log_end), (Offset(deleted), Offset(3)));
            if deleted == 1 {
                assert_eq!(two.node.gauges.damaged(), 1, "half of the damaged batch still counts");
                assert!(two.fetch(&one).await.unwrap());
            }
            assert_eq!((two.end(), two.node.gauges.damaged()), (3, 0), "below {deleted} deleted");
        }
    }

    #[test]
    fn only_a_copy_that_nobody_relies_on_is_cut() {
        let (five, six) = (LeaderEpoch(5), LeaderEpoch(6));
        let of = |is_trusted, has_other_leader| Reliance { is_trusted, has_other_leader };
        let cases = [
            ("the leader hands over", of(true, false), five, five, Step::Report),
            ("a follower in sync leaves first", of(true, true), five, five, Step::Report),
            ("an eligible replica of a partition without a leader", of(true, false), six, five, Step::Report),
            ("elected meanwhile or still in sync in a later epoch", of(true, true), six, five, Step::Report),
            ("out of sync, but the leader has heard of it in this epoch", of(false, true), five, five, Step::Report),
            ("out, in an epoch in which it never fetched", of(false, true), six, five, Step::Repair),
            ("after a restart that fenced it", of(false, true), five, LeaderEpoch::NONE, Step::Repair),
            ("out, and nobody to fetch from", of(false, false), six, five, Step::Wait),
            ("the image is not known yet", of(false, false), LeaderEpoch::NONE, LeaderEpoch::NONE, Step::Wait),
        ];
        for (says, reliance, epoch, noted_in, expected) in cases {
            assert_eq!(step(reliance, epoch, noted_in), expected, "{says}");
        }
    }
}
