//! One group: its state, and when it writes and answers.

use super::describe::Phase;
use super::member::{Counted, Member, Request};
use super::requests::HeartbeatAnswer;
use super::supporters::Supporters;
use super::target::Shape;
use super::{bound, reconcile, target};
use crate::group::assignor::Assignor;
use crate::group::coordinator::GroupError;
use crate::group::draft::Draft;
use crate::group::machine::{Attempt, Effect, Millis, Ticket};
use crate::group::settings::{Rules, UNSETTLED_INTERVAL_MS};
use crate::ids::TopicId;
use crate::metadata::group_change::*;
use crate::metadata::image::Image;
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Invariants: `statics` names exactly the members with an instance; `owners` names for each partition the one member
/// that has it assigned or has still to revoke it; `waiting` are the members with a parked request;
/// `assignment_epoch` ≤ `epoch`, and less only while `causes` are there.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) name: String,
    pub(super) rules: Rules,
    /// What the events of now see of topics and configs.
    pub(super) image: Arc<Image>,
    pub(super) epoch: i32,
    /// The epoch that the members' targets were computed for.
    pub(super) assignment_epoch: i32,
    pub(super) assignor: Assignor,
    /// What the subscribed topics looked like then.
    pub(super) shape: Shape,
    pub(super) members: BTreeMap<String, Member>,
    pub(super) statics: BTreeMap<String, String>,
    pub(super) owners: BTreeMap<(TopicId, i32), String>,
    /// What each pattern that members subscribe to stands for.
    pub(super) patterns: BTreeMap<String, BTreeSet<TopicId>>,
    /// The topics that the patterns were brought up to date with last; newer patterns may have seen more.
    pub(super) seen: OrdMap<String, TopicId>,
    pub(super) draft: Draft,
    /// What members take, each as it was when it was last touched.
    pub(super) counted: Counted,
    /// Of the classic members among them.
    pub(super) supporters: Supporters,
    /// Why there must be a new epoch.
    pub(super) causes: Option<Causes>,
    /// The rebalance that no write known to be committed holds yet.
    pub(super) rebalance: Option<Rebalance>,
    /// There is something that no write holds.
    pub(super) is_dirty: bool,
    pub(super) writing: Option<Attempt>,
    pub(super) waiting: BTreeSet<String>,
    /// Members that left, until that is committed; with the write that holds it once there is one.
    pub(super) leavers: Vec<(Ticket, HeartbeatAnswer, Option<Attempt>)>,
    /// A write failed: try again then.
    pub(super) retry_at: Option<Millis>,
    pub(super) empty_check: Option<Millis>,
    /// No member's deadline is before this.
    pub(super) soonest: Option<Millis>,
    /// The metadata image may know this group: a write of it was tried.
    pub(super) is_stored: bool,
    pub(super) death: Option<GroupError>,
    pub(super) effects: Vec<Effect>,
}

#[derive(Clone, Debug)]
pub(super) struct Causes {
    pub first: RebalanceReason,
    pub others: i32,
}

const RETRY_MS: Millis = 500;

impl Group {
    /// Nobody has joined yet. Epochs go on from `epoch`, so that a name's generations never go back.
    pub fn new(name: &str, rules: Rules, epoch: i32, now: Millis) -> Group {
        Group {
            name: name.to_string(),
            rules,
            image: Arc::default(),
            epoch,
            assignment_epoch: epoch,
            assignor: Assignor::default(),
            shape: Shape::default(),
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            owners: BTreeMap::new(),
            patterns: BTreeMap::new(),
            seen: OrdMap::new(),
            draft: Draft::default(),
            counted: Counted::default(),
            supporters: Supporters::default(),
            causes: None,
            rebalance: None,
            is_dirty: false,
            writing: None,
            waiting: BTreeSet::new(),
            leavers: Vec::new(),
            retry_at: None,
            empty_check: Some(now + rules.empty_check_ms),
            soonest: None,
            is_stored: false,
            death: None,
            effects: Vec::new(),
        }
    }

    /// What the next events see. Called before each.
    pub fn see(&mut self, image: &Arc<Image>) {
        if self.image.index != image.index {
            self.image = image.clone();
        }
    }

    /// A new epoch is needed.
    pub(super) fn because(&mut self, reason: RebalanceReason) {
        match &mut self.causes {
            Some(causes) => causes.others = causes.others.saturating_add(1),
            None => self.causes = Some(Causes { first: reason, others: 0 }),
        }
    }

    /// The member is not as the image knows it.
    pub(super) fn touch(&mut self, id: &str) {
        self.draft.touch(id);
        self.is_dirty = true;
        let next = self.draft.next();
        if let Some(member) = self.members.get_mut(id) {
            member.unsaved = Some(next);
        }
        self.count(id);
    }

    /// The group's sum holds the member as it is now.
    pub(super) fn count(&mut self, id: &str) {
        let Some(member) = self.members.get_mut(id) else { return };
        let (before, now) = (member.counted, member.count(id, &self.draft));
        member.counted = now;
        self.counted.said = self.counted.said + now.said - before.said;
        self.counted.has = self.counted.has + now.has - before.has;
    }

    pub(super) fn check_alive(&self) -> Result<(), GroupError> {
        self.death.clone().map_or(Ok(()), Err)
    }

    /// The draft counts the bytes it names already.
    pub(super) fn insert(&mut self, id: String, member: Member) {
        if let Some(instance) = &member.stored.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        for partition in member.held() {
            self.owners.insert(partition, id.clone());
        }
        self.empty_check = None;
        self.supporters.add(member.stored.classic.as_ref());
        self.members.insert(id.clone(), member);
        self.touch(&id);
    }

    /// Takes a member out; what it had is free. Who waits on its behalf is told `why`.
    pub(super) fn take_out(&mut self, id: &str, why: &GroupError) -> Option<Member> {
        self.release(id);
        let mut member = self.members.remove(id)?;
        let counted = std::mem::take(&mut member.counted);
        self.counted.said -= counted.said;
        self.counted.has -= counted.has;
        self.supporters.remove(member.stored.classic.as_ref());
        if let Some(instance) = &member.stored.instance_id {
            self.statics.remove(instance);
        }
        for (_, blob) in member.stored.classic.iter().flat_map(|classic| &classic.protocols) {
            self.draft.release(*blob);
        }
        if let Some(waiting) = member.waiting.take() {
            self.waiting.remove(id);
            self.refuse(waiting.request, why.clone());
        }
        self.draft.touch(id);
        self.is_dirty = true;
        Some(member)
    }

    /// Of all that the member has, nothing is its any more.
    pub(super) fn release(&mut self, id: &str) {
        self.disown(id);
        let Some(member) = self.members.get_mut(id) else { return };
        member.stored.assigned.clear();
        member.stored.pending_revocation.clear();
        member.stored.state = MemberState::Stable;
        member.rebalance_deadline = None;
    }

    pub(super) fn refuse(&mut self, request: Request, why: GroupError) {
        self.effects.push(match request {
            Request::Heartbeat(ticket) => Effect::Beaten(ticket, Err(why)),
            Request::Join(ticket) => Effect::Joined(ticket, Err(why)),
        });
    }

    /// Everything that follows from what happened, unless a write is under way: then once that is committed.
    pub(super) fn settle(&mut self, now: Millis) {
        // A group that is about to be the classic members' keeps its epoch: theirs stays the generation.
        if self.death.is_some() || self.writing.is_some() || self.wants_downgrade() {
            return;
        }
        loop {
            if let Some(causes) = self.causes.take() {
                self.begin_epoch(causes, now);
            }
            for id in self.waiting.clone() {
                self.reconcile(&id, now);
            }
            if !self.is_dirty || !self.evict_oversized() {
                break;
            }
        }
        if self.is_dirty {
            self.write();
        }
        for id in self.waiting.clone() {
            match self.members.get_mut(&id) {
                Some(Member { unsaved: Some(_), waiting: Some(waiting), .. }) => waiting.is_written = true,
                _ => self.answer(&id, now),
            }
        }
        for (_, _, attempt) in self.leavers.iter_mut().filter(|(_, _, attempt)| attempt.is_none()) {
            *attempt = self.writing;
        }
        // Nothing is under way for them: what they left is committed.
        if self.writing.is_none() {
            self.answer_leavers(None);
        }
    }

    fn begin_epoch(&mut self, causes: Causes, now: Millis) {
        self.epoch = self.epoch.saturating_add(1);
        self.retarget();
        self.assignment_epoch = self.epoch;
        self.is_dirty = true;
        let before = self.rebalance.take().map_or(0, |rebalance| rebalance.others.saturating_add(1));
        self.rebalance = Some(Rebalance {
            // The shell has a wall clock.
            at_ms: 0,
            epoch: self.epoch,
            members: i32::try_from(self.members.len()).unwrap_or(i32::MAX),
            reason: causes.first,
            others: causes.others.saturating_add(before),
            said: None,
        });
        if self.members.is_empty() {
            self.empty_check = Some(now + self.rules.empty_check_ms);
        }
    }

    /// Computes everyone's target anew.
    fn retarget(&mut self) {
        self.assignor = target::preferred_assignor(self.members.values().map(|member| &member.stored));
        let found = target::compute(&self.members, self.assignor, &self.patterns, &self.image);
        self.shape = found.shape;
        let mut cut = (0, 0);
        for (id, target) in found.targets {
            let Some(member) = self.members.get_mut(&id) else { continue };
            let (target, left_out) = bound::fitting(&id, &member.stored, target, &self.draft);
            cut = (cut.0 + usize::from(left_out > 0), cut.1 + left_out);
            if member.stored.target != target {
                member.stored.target = target;
                self.touch(&id);
            }
        }
        if cut.0 > 0 {
            tracing::warn!(
                group = self.name,
                members = cut.0,
                partitions = cut.1,
                "members have more than can be stored of one: partitions are left unassigned; add members, or let each \
                 subscribe to fewer topics"
            );
        }
    }

    /// One step of one member, if there is one to take.
    pub(super) fn reconcile(&mut self, id: &str, now: Millis) {
        let Some(member) = self.members.get(id) else { return };
        let owned = member.waiting.as_ref().and_then(|waiting| waiting.owned.as_ref());
        let is_free = |topic, partition| self.owners.get(&(topic, partition)).is_none_or(|owner| owner == id);
        let Some(step) = reconcile::next(&member.stored, self.assignment_epoch, owned, is_free) else { return };
        let stored = &member.stored;
        let is_same = (step.epoch, step.state) == (stored.member_epoch, stored.state)
            && step.assigned == stored.assigned
            && step.pending_revocation == stored.pending_revocation;
        if is_same {
            return;
        }
        let deadline = now + member.rebalance_timeout();
        let is_classic = member.is_classic();
        self.disown(id);
        let member = self.members.get_mut(id).expect("it was found");
        member.is_untold |= member.stored.assigned != step.assigned || member.stored.member_epoch != step.epoch;
        // Answers that were lost may all have been of this epoch: the member comes with the one before.
        if step.epoch != member.stored.member_epoch {
            member.stored.previous_epoch = member.stored.member_epoch;
            member.stored.member_epoch = step.epoch;
        }
        member.stored.state = step.state;
        member.stored.assigned = step.assigned;
        member.stored.pending_revocation = step.pending_revocation;
        // A classic member has deadlines of its own: to join again and to sync.
        member.rebalance_deadline = (step.state == MemberState::Unrevoked && !is_classic).then_some(deadline);
        if member.rebalance_deadline.is_some() {
            self.expect_by(deadline);
        }
        self.own(id);
        self.touch(id);
    }

    fn disown(&mut self, id: &str) {
        let Some(member) = self.members.get(id) else { return };
        for partition in member.held() {
            if self.owners.get(&partition).is_some_and(|owner| owner == id) {
                self.owners.remove(&partition);
            }
        }
    }

    /// Notes what the member holds.
    pub(super) fn own(&mut self, id: &str) {
        let Some(member) = self.members.get(id) else { return };
        for partition in member.held() {
            self.owners.insert(partition, id.to_string());
        }
    }

    pub(super) fn write(&mut self) {
        let header = GroupHeader::Consumer {
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            topics_hash: self.shape.hash(),
            assignor: self.assignor.name().to_string(),
            is_whole: true,
        };
        let members = &self.members;
        let stored = |id: &str| members.get(id).map(|member| GroupMember::Consumer(member.stored.clone()));
        let (attempt, write) = self.draft.write(header, self.rebalance.clone(), stored);
        self.is_dirty = false;
        self.is_stored = true;
        self.retry_at = None;
        self.writing = Some(attempt);
        self.effects.push(Effect::Commit { attempt, write });
    }

    /// The outcome of a write.
    pub fn committed(&mut self, attempt: Attempt, outcome: Result<(), GroupError>, now: Millis) -> Vec<Effect> {
        if outcome.is_ok() {
            self.draft.committed(attempt);
            for member in self.members.values_mut() {
                member.unsaved = member.unsaved.filter(|since| *since > attempt);
            }
        }
        if self.writing == Some(attempt) {
            self.writing = None;
            match outcome {
                Ok(()) => {
                    self.rebalance = None;
                    self.answer_written(now);
                    self.answer_leavers(Some(attempt));
                    self.settle(now);
                }
                Err(error) => self.fail(&error, now),
            }
        }
        self.take_effects()
    }

    fn answer_written(&mut self, now: Millis) {
        for id in self.waiting.clone() {
            if self.members[&id].waiting.as_ref().is_some_and(|waiting| waiting.is_written) {
                self.answer(&id, now);
            }
        }
    }

    fn answer_leavers(&mut self, attempt: Option<Attempt>) {
        let (done, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leavers).into_iter().partition(|(_, _, held)| *held == attempt);
        self.leavers = left;
        self.effects.extend(done.into_iter().map(|(ticket, answer, _)| Effect::Beaten(ticket, Ok(answer))));
    }

    /// Nobody knows whether the write landed. Its members come again; the next write holds all of it once more.
    fn fail(&mut self, error: &GroupError, now: Millis) {
        for id in self.waiting.clone() {
            let member = self.members.get_mut(&id).expect("a member waits");
            if let Some(waiting) = member.waiting.take_if(|waiting| waiting.is_written) {
                self.waiting.remove(&id);
                self.refuse(waiting.request, error.clone());
                self.refresh_session(&id, now);
                self.await_anew(&id, now);
            }
        }
        for (ticket, _, _) in std::mem::take(&mut self.leavers) {
            self.effects.push(Effect::Beaten(ticket, Err(error.clone())));
        }
        self.is_dirty = true;
        self.retry_at = Some(now + RETRY_MS);
    }

    /// Tells a member that waits what is committed of it.
    fn answer(&mut self, id: &str, now: Millis) {
        self.waiting.remove(id);
        let Some(member) = self.members.get_mut(id) else { return };
        let Some(waiting) = member.waiting.take() else { return };
        member.is_known = true;
        member.is_untold = false;
        self.refresh_session(id, now);
        match waiting.request {
            Request::Heartbeat(ticket) => {
                let answer = self.beaten(id, waiting.known.as_ref());
                self.effects.push(Effect::Beaten(ticket, Ok(answer)));
            }
            Request::Join(ticket) => self.answer_join(ticket, id, now),
        }
    }

    /// `known`: what the member knows to be assigned to it.
    pub(super) fn beaten(&self, id: &str, known: Option<&TopicPartitions>) -> HeartbeatAnswer {
        let member = &self.members[id];
        let (_, interval_ms) = self.times();
        // A member that waits for others to release something asks more often, if nothing but its wait is in the way.
        let waits = member.stored.state == MemberState::Unreleased;
        let interval_ms = if waits { interval_ms.min(UNSETTLED_INTERVAL_MS) } else { interval_ms };
        HeartbeatAnswer {
            member: id.to_string(),
            epoch: member.stored.member_epoch,
            interval_ms,
            assignment: (known != Some(&member.stored.assigned)).then(|| member.stored.assigned.clone()),
        }
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// What its members say of themselves, have and are to have.
    pub fn bytes(&self) -> usize {
        self.counted.said + self.counted.has
    }

    /// As counting over the members would give it.
    #[cfg(test)]
    pub(super) fn is_counted(&self) -> bool {
        let each = self.members.iter().map(|(id, member)| member.count(id, &self.draft));
        let sum = each.fold((0, 0), |sum, one| (sum.0 + one.said, sum.1 + one.has));
        let mut supporters = Supporters::default();
        self.members.values().for_each(|member| supporters.add(member.stored.classic.as_ref()));
        sum == (self.counted.said, self.counted.has) && supporters == self.supporters
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    pub fn is_stored(&self) -> bool {
        self.is_stored
    }

    pub fn phase(&self) -> Phase {
        if self.death.is_some() {
            Phase::Dead
        } else if self.members.is_empty() {
            Phase::Empty
        } else if self.causes.is_some() {
            Phase::Assigning
        } else if self.members.values().all(|member| member.is_reconciled(self.assignment_epoch)) {
            Phase::Stable
        } else {
            Phase::Reconciling
        }
    }
}
