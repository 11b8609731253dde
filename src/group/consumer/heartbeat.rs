//! ConsumerGroupHeartbeat: who may come in, what changed, who leaves; and whose offset commits are taken.

use super::Group;
use super::member::{Member, Request, Waiting};
use super::reconcile::is_subset;
use super::regex::Pattern;
use super::requests::{Heartbeat, HeartbeatAnswer, JOIN, LEAVE, LEAVE_STATIC};
use crate::group::coordinator::GroupError;
use crate::group::machine::{Effect, Millis, Ticket};
use crate::group::settings::{GROUP_BYTES_MAX, PATTERNS_PER_GROUP_MAX};
use crate::metadata::group_change::{ConsumerMember, MemberState, RebalanceReason, TopicPartitions};

impl Group {
    /// `beat` passed [`Heartbeat::check`].
    pub fn heartbeat(&mut self, ticket: Ticket, beat: Heartbeat, now: Millis) -> Vec<Effect> {
        if let Err(error) = self.take_heartbeat(ticket, beat, now) {
            self.effects.push(Effect::Beaten(ticket, Err(error)));
        }
        self.settle(now);
        self.take_effects()
    }

    /// Of the member that takes a classic group over; on an error there is nothing to keep.
    pub fn first_heartbeat(&mut self, ticket: Ticket, beat: Heartbeat, now: Millis) -> Result<Vec<Effect>, GroupError> {
        self.take_heartbeat(ticket, beat, now)?;
        if !self.is_storable() {
            return Err(GroupError::MemberTooLarge);
        }
        self.settle(now);
        Ok(self.take_effects())
    }

    fn take_heartbeat(&mut self, ticket: Ticket, beat: Heartbeat, now: Millis) -> Result<(), GroupError> {
        self.check_alive()?;
        if matches!(beat.epoch, LEAVE | LEAVE_STATIC) {
            return self.leave(ticket, &beat, now);
        }
        // What is cheap comes first: only who is let in has its pattern compiled.
        self.check_place(&beat)?;
        self.check_bytes(&beat)?;
        self.check_pattern(&beat)?;
        let is_known = self.members.get(&beat.member).is_some_and(|member| member.stored.member_epoch == beat.epoch);
        let is_new = self.admit(&beat);
        self.take_wishes(&beat, is_new);
        self.refresh_session(&beat.member, now);
        let member = self.members.get_mut(&beat.member).expect("it was admitted");
        // One that lost an answer on its way is told again.
        let has_other = beat.owned.as_ref().is_some_and(|owned| *owned != member.stored.assigned);
        let wants_all = !is_known || has_other || member.is_untold || beat.is_full();
        let waiting = Waiting {
            request: Request::Heartbeat(ticket),
            owned: beat.owned,
            known: (!wants_all).then(|| member.stored.assigned.clone()),
            is_written: false,
        };
        if self.writing.is_some() && self.members[&beat.member].is_settled(self.assignment_epoch) {
            let answer = self.beaten(&beat.member, waiting.known.as_ref());
            self.effects.push(Effect::Beaten(ticket, Ok(answer)));
        } else {
            self.park(&beat.member, waiting);
        }
        Ok(())
    }

    /// A member waits for one answer at a time: one that asks again gave up on the last.
    pub(super) fn park(&mut self, id: &str, waiting: Waiting) {
        let Some(member) = self.members.get_mut(id) else { return };
        self.waiting.insert(id.to_string());
        if let Some(older) = member.waiting.replace(waiting) {
            self.refuse(older.request, GroupError::NotAvailable);
        }
    }

    /// The member whose place it takes: its own, or that of a former self with its instance.
    fn place(&self, beat: &Heartbeat) -> Option<String> {
        match &beat.instance {
            Some(instance) => self.statics.get(instance).cloned(),
            None => self.members.contains_key(&beat.member).then(|| beat.member.clone()),
        }
    }

    /// Is it let in, at the epoch that it names?
    fn check_place(&self, beat: &Heartbeat) -> Result<(), GroupError> {
        match self.place(beat) {
            Some(id) if id == beat.member && beat.epoch == JOIN => Ok(()),
            Some(id) if id == beat.member => check_epoch(&self.members[&id].stored, beat.epoch, beat.owned.as_ref()),
            Some(_) if beat.epoch != JOIN => Err(GroupError::FencedInstance),
            Some(former) => self.check_replacement(&former, &beat.member),
            None if beat.epoch != JOIN => Err(GroupError::UnknownMember),
            // A member's id does not pass to another instance.
            None if self.members.contains_key(&beat.member) => Err(GroupError::FencedInstance),
            None => self.check_size(),
        }
    }

    /// Finds the member that passed [`Group::check_place`], or makes it; true: it is new.
    fn admit(&mut self, beat: &Heartbeat) -> bool {
        match self.place(beat) {
            Some(id) if id != beat.member => self.replace_static(&id, &beat.member),
            Some(id) if beat.epoch == JOIN => self.rejoin(&id),
            Some(_) => {}
            None => {
                self.add(&beat.member, beat.instance.clone());
                return true;
            }
        }
        false
    }

    pub(super) fn add(&mut self, id: &str, instance: Option<String>) {
        let stored = ConsumerMember { instance_id: instance, ..ConsumerMember::default() };
        self.insert(id.to_string(), Member { stored, ..Member::default() });
        self.because(RebalanceReason::MemberJoined(id.to_string()));
    }

    /// Of what all members say of themselves.
    fn check_bytes(&self, beat: &Heartbeat) -> Result<(), GroupError> {
        let comes = if beat.topics.is_some() || beat.regex.is_some() { beat.bytes() } else { 0 };
        let gives_way = self.members.get(&beat.member).map_or(0, |member| member.counted.said);
        let all = (self.counted.said + comes).saturating_sub(gives_way);
        if comes > 0 && all > GROUP_BYTES_MAX {
            return Err(GroupError::GroupFull);
        }
        if comes > 0 { self.check_fits(&beat.member, comes) } else { Ok(()) }
    }

    pub(super) fn check_size(&self) -> Result<(), GroupError> {
        if self.members.len() >= self.rules.consumer.size_max { Err(GroupError::GroupFull) } else { Ok(()) }
    }

    /// It says that it owns nothing: it was fenced, or the answer to its first heartbeat got lost.
    fn rejoin(&mut self, id: &str) {
        self.release(id);
        let Some(member) = self.members.get_mut(id) else { return };
        member.stored.member_epoch = JOIN;
        member.stored.previous_epoch = JOIN;
        self.touch(id);
    }

    fn check_replacement(&self, former: &str, id: &str) -> Result<(), GroupError> {
        let place = &self.members[former];
        if place.stored.member_epoch != LEAVE_STATIC && !place.is_classic() {
            return Err(GroupError::UnreleasedInstance);
        }
        if self.members.contains_key(id) { Err(GroupError::FencedInstance) } else { Ok(()) }
    }

    /// A static member comes back under a new id: without a rebalance, if it wants what it wanted.
    fn replace_static(&mut self, former: &str, id: &str) {
        let mut member = self.take_out(former, &GroupError::FencedInstance).expect("it was found");
        member.stored.member_epoch = JOIN;
        member.stored.previous_epoch = JOIN;
        member.stored.classic = None;
        self.insert(id.to_string(), member);
    }

    /// A pattern that is no pattern changes nothing.
    fn check_pattern(&mut self, beat: &Heartbeat) -> Result<(), GroupError> {
        let Some(text) = beat.regex.as_ref().filter(|text| !text.is_empty()) else { return Ok(()) };
        if self.patterns.contains_key(text) {
            return Ok(());
        }
        if self.patterns.len() >= PATTERNS_PER_GROUP_MAX {
            self.drop_unused_patterns();
        }
        if self.patterns.len() >= PATTERNS_PER_GROUP_MAX {
            return Err(GroupError::InvalidRegex);
        }
        let topics = Pattern::new(text)?.resolve(&self.image);
        self.patterns.insert(text.clone(), topics);
        Ok(())
    }

    pub(super) fn drop_unused_patterns(&mut self) {
        let used: std::collections::BTreeSet<&String> =
            self.members.values().filter_map(|member| member.stored.subscribed_regex.as_ref()).collect();
        self.patterns.retain(|text, _| used.contains(text));
    }

    /// What the member says of itself.
    fn take_wishes(&mut self, beat: &Heartbeat, is_new: bool) {
        let Some(member) = self.members.get_mut(&beat.member) else { return };
        let before = member.stored.clone();
        let stored = &mut member.stored;
        stored.client_id.clone_from(&beat.client_id);
        stored.client_host.clone_from(&beat.client_host);
        // Who joins says all of itself: what it leaves out is not to stay what a former self said.
        if beat.epoch == JOIN {
            stored.rack_id = None;
            stored.subscribed_topics.clear();
            stored.subscribed_regex = None;
            stored.assignor = None;
        }
        if let Some(rack) = &beat.rack {
            stored.rack_id = Some(rack.clone());
        }
        if let Some(timeout) = beat.rebalance_timeout_ms {
            stored.rebalance_timeout_ms = timeout;
        }
        if let Some(topics) = &beat.topics {
            stored.subscribed_topics.clone_from(topics);
            stored.subscribed_topics.sort_unstable();
            stored.subscribed_topics.dedup();
        }
        if let Some(regex) = &beat.regex {
            stored.subscribed_regex = Some(regex.clone()).filter(|regex| !regex.is_empty());
        }
        if let Some(assignor) = &beat.assignor {
            stored.assignor = Some(assignor.clone());
        }
        let former = stored.classic.take();
        self.supporters.remove(former.as_ref());
        self.note_changes(&beat.member, &before, is_new);
        for (_, blob) in former.iter().flat_map(|classic| &classic.protocols) {
            self.draft.release(*blob);
        }
    }

    /// Writes down what is other than it was, and begins a new epoch if that is what members subscribe to.
    pub(super) fn note_changes(&mut self, id: &str, before: &ConsumerMember, is_new: bool) {
        let now = &self.members[id].stored;
        if now == before {
            return;
        }
        let is_wish_new = now.subscribed_topics != before.subscribed_topics
            || now.subscribed_regex != before.subscribed_regex
            || now.rack_id != before.rack_id;
        let is_assignor_new = now.assignor != before.assignor;
        self.touch(id);
        if is_new {
            return;
        }
        if is_wish_new {
            self.because(RebalanceReason::SubscriptionChanged(id.to_string()));
        } else if is_assignor_new {
            let preferred = super::target::preferred_assignor(self.members.values().map(|member| &member.stored));
            if preferred != self.assignor {
                self.because(RebalanceReason::AssignorChanged(preferred.name().to_string()));
            }
        }
    }

    fn leave(&mut self, ticket: Ticket, beat: &Heartbeat, now: Millis) -> Result<(), GroupError> {
        let id = match &beat.instance {
            None => beat.member.clone(),
            Some(instance) => match self.statics.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(id) if *id != beat.member => return Err(GroupError::FencedInstance),
                Some(id) => id.clone(),
            },
        };
        let Some(member) = self.members.get_mut(&id) else { return Err(GroupError::UnknownMember) };
        if beat.epoch == LEAVE_STATIC {
            // It is expected back within its session; until then it keeps its place, and what it was to give up is free.
            member.stored.member_epoch = LEAVE_STATIC;
            member.stored.state = MemberState::Stable;
            member.rebalance_deadline = None;
            let older = member.waiting.take();
            let given_up = std::mem::take(&mut member.stored.pending_revocation);
            for partition in given_up.iter().flat_map(|(t, list)| list.iter().map(move |p| (*t, *p))) {
                self.owners.remove(&partition);
            }
            self.waiting.remove(&id);
            if let Some(older) = older {
                self.refuse(older.request, GroupError::NotAvailable);
            }
            self.refresh_session(&id, now);
            self.touch(&id);
        } else {
            self.take_out(&id, &GroupError::UnknownMember);
            self.because(RebalanceReason::MemberLeft(id));
        }
        let answer =
            HeartbeatAnswer { member: beat.member.clone(), epoch: beat.epoch, interval_ms: 0, assignment: None };
        self.leavers.push((ticket, answer, None));
        Ok(())
    }

    /// May this caller commit offsets now? `epoch` is the member's epoch, or a classic member's generation.
    /// `knows_epochs`: the request's version does.
    pub fn check_offset_commit(
        &self,
        member: &str,
        instance: Option<&str>,
        epoch: i32,
        knows_epochs: bool,
    ) -> Result<(), GroupError> {
        self.check_alive()?;
        // An operator, or a consumer that assigns its own partitions.
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        // Not just unknown: its client must not come back.
        if instance.and_then(|instance| self.statics.get(instance)).is_some_and(|current| current != member) {
            return Err(GroupError::FencedInstance);
        }
        if !knows_epochs && self.members.get(member).is_some_and(|member| !member.is_classic()) {
            return Err(GroupError::UnsupportedVersion);
        }
        self.check_member_epoch(member, epoch)
    }

    /// May this caller fetch offsets now? Without a member it always may.
    pub fn check_offset_fetch(&self, member: Option<&str>, epoch: i32) -> Result<(), GroupError> {
        self.check_alive()?;
        match member {
            None if epoch < 0 => Ok(()),
            member => self.check_member_epoch(member.unwrap_or_default(), epoch),
        }
    }

    fn check_member_epoch(&self, id: &str, epoch: i32) -> Result<(), GroupError> {
        let member = self.members.get(id).ok_or(GroupError::UnknownMember)?;
        let stored = &member.stored;
        // Its heartbeat waits until the new epoch is committed: it cannot know of it, and has what it had.
        let is_on_its_way = member.is_untold && member.unsaved.is_some();
        let is_before = (1..stored.member_epoch).contains(&epoch) && epoch == stored.previous_epoch;
        match epoch == stored.member_epoch || is_on_its_way && is_before {
            true => Ok(()),
            false if member.is_classic() => Err(GroupError::IllegalGeneration),
            false => Err(GroupError::StaleMemberEpoch),
        }
    }
}

/// The epoch before is taken where the answer that told the new one may have got lost: if the member has nothing that
/// is not its any more.
fn check_epoch(stored: &ConsumerMember, epoch: i32, owned: Option<&TopicPartitions>) -> Result<(), GroupError> {
    let is_replay = epoch < stored.member_epoch
        && epoch == stored.previous_epoch
        && owned.is_some_and(|owned| is_subset(owned, &stored.assigned));
    if epoch == stored.member_epoch || is_replay { Ok(()) } else { Err(GroupError::FencedMemberEpoch) }
}
