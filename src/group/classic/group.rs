//! One group: its state, how it is restored and saved, who is in it, and what time it waits for.

use super::member::Member;
use super::{Join, member};
use crate::group::coordinator::GroupError;
use crate::group::draft::Draft;
use crate::group::machine::{Attempt, Effect, Millis, Ticket};
use crate::group::offset_records::floor_char_boundary;
use crate::group::settings::{
    GROUP_BYTES_MAX, MEMBER_BYTES_MAX, PROTOCOL_NAME_BYTES_MAX, PROTOCOLS_PER_MEMBER_MAX, REASON_BYTES_MAX, Rules,
};
use crate::metadata::group_change::{GroupHeader, GroupMember, Rebalance, RebalanceReason};
use crate::metadata::image::groups;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl Phase {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::PreparingRebalance => "PreparingRebalance",
            Phase::CompletingRebalance => "CompletingRebalance",
            Phase::Stable => "Stable",
            Phase::Dead => "Dead",
        }
    }

    /// As a label of a metric.
    pub fn label(self) -> &'static str {
        match self {
            Phase::Empty => "empty",
            Phase::PreparingRebalance => "preparing_rebalance",
            Phase::CompletingRebalance => "completing_rebalance",
            Phase::Stable => "stable",
            Phase::Dead => "dead",
        }
    }
}

/// The join barrier.
#[derive(Clone, Debug)]
pub(super) struct Barrier {
    pub deadline: Millis,
    /// Of a group that was empty: more members are waited for even if all known ones are here, and the wait grows
    /// with each newcomer by the initial delay, as long as the rebalance timeout has time left.
    pub initial: Option<InitialDelay>,
}

#[derive(Clone, Debug)]
pub(super) struct InitialDelay {
    pub left: Millis,
    pub newcomers: bool,
}

/// A commit whose outcome is awaited.
#[derive(Clone, Debug)]
pub(super) struct Committing {
    pub attempt: Attempt,
    pub what: Wanted,
}

#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// The leader's assignment; parked syncs are answered after it.
    Assignment(BTreeMap<String, Bytes>),
    /// Static members took over the places of their former selves; by new member id, the leader each is told of.
    Replacements(BTreeMap<String, String>),
    /// Nobody waits.
    Emptied,
}

/// Why the generation that is being made comes about.
#[derive(Clone, Debug)]
pub(super) struct Causes {
    pub first: RebalanceReason,
    pub others: i32,
    /// What the client gave as its reason (KIP-800).
    pub said: Option<String>,
}

/// Invariants: `statics` names exactly the members with an instance; `leader` is a member wherever there are any;
/// `pending` and `members` share no id; outside Stable a parked join means "has joined the coming generation";
/// `joining`, `supporters` and `bytes` are what counting over the members would give; no session or pending id ends
/// before `soonest`.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) rules: Rules,
    pub(super) phase: Phase,
    pub(super) generation: i32,
    /// The next generation is above this too: of a group of the consumer protocol epochs were given out that no classic
    /// member was told.
    pub(super) floor: i32,
    pub(super) protocol_type: String,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    pub(super) statics: BTreeMap<String, String>,
    /// Ids given with MEMBER_ID_REQUIRED and not used yet, until when.
    pub(super) pending: BTreeMap<String, Millis>,
    pub(super) barrier: Option<Barrier>,
    /// Members that joined this generation and have not asked for their assignment, until when.
    pub(super) unsynced: BTreeSet<String>,
    pub(super) sync_deadline: Option<Millis>,
    pub(super) committing: Option<Committing>,
    /// Static members that came back while others' return was being committed; as [`Wanted::Replacements`].
    pub(super) replaced: BTreeMap<String, String>,
    pub(super) causes: Option<Causes>,
    /// The metadata image may know this group: a commit of it was tried.
    pub(super) is_stored: bool,
    pub(super) empty_check: Option<Millis>,
    /// That the last member went could not be committed: when that is tried again, if the group is empty still.
    pub(super) emptied_again: Option<Millis>,
    /// What requests are told once the phase is Dead.
    pub(super) death: GroupError,
    pub(super) draft: Draft,
    /// Members with a parked join.
    pub(super) joining: usize,
    /// How many members support each protocol.
    pub(super) supporters: BTreeMap<String, usize>,
    /// What members (without assignments) and pending ids take.
    pub(super) bytes: usize,
    pub(super) soonest: Option<Millis>,
    pub(super) effects: Vec<Effect>,
}

impl Group {
    pub fn new(rules: Rules, now: Millis) -> Group {
        Group {
            rules,
            phase: Phase::Empty,
            generation: 0,
            floor: 0,
            protocol_type: String::new(),
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: BTreeMap::new(),
            barrier: None,
            unsynced: BTreeSet::new(),
            sync_deadline: None,
            committing: None,
            replaced: BTreeMap::new(),
            causes: None,
            is_stored: false,
            empty_check: Some(now + rules.empty_check_ms),
            emptied_again: None,
            death: GroupError::NotAvailable,
            draft: Draft::default(),
            joining: 0,
            supporters: BTreeMap::new(),
            bytes: 0,
            soonest: None,
            effects: Vec::new(),
        }
    }

    /// A new coordinator goes on from the committed state: same members, same generation, sessions start anew. Of a
    /// torn state nobody was told: everyone must join again.
    pub fn restore(rules: Rules, stored: &groups::Group, now: Millis) -> Group {
        let mut group = Group::new(rules, now);
        group.is_stored = true;
        group.draft = Draft::restore(stored);
        let GroupHeader::Classic { protocol_type, protocol, generation, leader, is_whole } = &stored.header else {
            return group;
        };
        group.generation = *generation;
        group.protocol_type.clone_from(protocol_type);
        let mut strangers = Vec::new();
        for (id, member) in &stored.members {
            let GroupMember::Classic(member) = &**member else {
                strangers.push(id);
                continue;
            };
            for (_, blob) in &member.protocols {
                group.draft.adopt(*blob);
            }
            group.insert(id.clone(), Member::restore(member, now));
        }
        group.draft.settle();
        // Left by a torn change of the protocol: gone with the next write.
        strangers.into_iter().for_each(|id| group.draft.touch(id));
        if group.members.is_empty() {
            return group;
        }
        group.phase = Phase::Stable;
        group.empty_check = None;
        group.protocol.clone_from(protocol);
        group.leader = leader.clone().filter(|leader| group.members.contains_key(leader));
        if group.leader.is_none() {
            group.leader = group.members.keys().next().cloned();
        }
        if !is_whole {
            group.prepare_rebalance(RebalanceReason::CoordinatorMoved, None, now);
        }
        group
    }

    /// Takes a member in, with all that is counted; its protocols are acquired from the draft already.
    pub(super) fn insert(&mut self, id: String, member: Member) {
        assert!(!self.members.contains_key(&id), "a member comes in once");
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        for name in member.protocol_names() {
            *self.supporters.entry(name.to_string()).or_default() += 1;
        }
        self.joining += usize::from(member.joining.is_some());
        self.bytes += member.bytes(&id, &self.draft);
        if let Some(deadline) = member.expires_at() {
            self.expect_by(deadline);
        }
        self.draft.touch(&id);
        self.members.insert(id, member);
    }

    /// What members take (without assignments), and ids given out.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a member out, with all that is counted. Its tickets are the caller's to answer.
    pub(super) fn take_out(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        if let Some(instance) = &member.instance {
            self.statics.remove(instance);
        }
        for name in member.protocol_names() {
            let supporters = self.supporters.get_mut(name).expect("each member's protocols are counted");
            *supporters -= 1;
            if *supporters == 0 {
                self.supporters.remove(name);
            }
        }
        self.joining -= usize::from(member.joining.is_some());
        self.bytes -= member.bytes(id, &self.draft);
        for (_, blob) in &member.protocols {
            self.draft.release(*blob);
        }
        self.draft.touch(id);
        self.unsynced.remove(id);
        Some(member)
    }

    /// A member's stored fields become what a join says. A member whose join says what it said before is not changed.
    pub(super) fn update(&mut self, id: &str, join: &Join) {
        let Some(member) = self.members.get(id) else { return };
        let is_same = member.has_protocols(&join.protocols, &self.draft)
            && member.client_id == join.client_id
            && member.client_host == join.client_host
            && member.session_timeout == member::milliseconds(join.session_timeout_ms)
            && member.rebalance_timeout == member::rebalance_timeout(join);
        if !is_same {
            let mut member = self.take_out(id).expect("it was found");
            self.adopt(&mut member, join);
            self.insert(id.to_string(), member);
        }
        let member = self.members.get_mut(id).expect("it was found");
        member.skip_assignment_supported = join.skip_assignment_supported;
    }

    /// Writes what a join says into a member that is not among the members (and whose protocols were released).
    pub(super) fn adopt(&mut self, member: &mut Member, join: &Join) {
        member.client_id.clone_from(&join.client_id);
        member.client_host.clone_from(&join.client_host);
        member.session_timeout = member::milliseconds(join.session_timeout_ms);
        member.rebalance_timeout = member::rebalance_timeout(join);
        member.skip_assignment_supported = join.skip_assignment_supported;
        member.protocols =
            join.protocols.iter().map(|(name, metadata)| (name.clone(), self.draft.acquire(metadata))).collect();
    }

    pub(super) fn park_join(&mut self, id: &str, ticket: Ticket) {
        let Some(member) = self.members.get_mut(id) else { return };
        match member.joining.replace(ticket) {
            Some(older) => {
                member.is_new = false;
                self.effects.push(Effect::Joined(older, Err(GroupError::RebalanceInProgress)));
            }
            None => self.joining += 1,
        }
    }

    pub(super) fn take_joining(&mut self, id: &str) -> Option<Ticket> {
        let member = self.members.get_mut(id)?;
        let ticket = member.joining.take()?;
        member.is_new = false;
        self.joining -= 1;
        Some(ticket)
    }

    pub(super) fn commit(&mut self, what: Wanted) {
        let header = GroupHeader::Classic {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            generation: self.generation,
            leader: self.leader.clone(),
            is_whole: true,
        };
        let assignments = match &what {
            Wanted::Assignment(assignments) => Some(assignments),
            Wanted::Replacements(_) | Wanted::Emptied => None,
        };
        if let Some(assignments) = assignments {
            for (id, member) in &self.members {
                if assignments.get(id).map_or(&[][..], |given| given) != member.assignment {
                    self.draft.touch(id);
                }
            }
        }
        let rebalance = match &what {
            Wanted::Replacements(_) => None,
            Wanted::Assignment(_) | Wanted::Emptied => self.rebalance(),
        };
        let members = &self.members;
        let (attempt, write) = self.draft.write(header, rebalance, |id| {
            let member = members.get(id)?;
            let assignment = match assignments {
                Some(assignments) => assignments.get(id).cloned().unwrap_or_default(),
                None => member.assignment.clone(),
            };
            Some(member.stored(assignment))
        });
        self.committing = Some(Committing { attempt, what });
        self.is_stored = true;
        self.effects.push(Effect::Commit { attempt, write });
    }

    fn rebalance(&self) -> Option<Rebalance> {
        let causes = self.causes.as_ref()?;
        Some(Rebalance {
            // The shell has a wall clock.
            at_ms: 0,
            epoch: self.generation,
            members: i32::try_from(self.members.len()).unwrap_or(i32::MAX),
            reason: causes.first.clone(),
            others: causes.others,
            said: causes.said.clone(),
        })
    }

    /// Another reason for the generation that is being made.
    pub(super) fn because(&mut self, reason: RebalanceReason, said: Option<&String>) {
        match &mut self.causes {
            Some(causes) => causes.others = causes.others.saturating_add(1),
            None => {
                let said = said.map(|said| said[..floor_char_boundary(said, REASON_BYTES_MAX)].to_string());
                self.causes = Some(Causes { first: reason, others: 0, said });
            }
        }
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn protocol_type(&self) -> &str {
        &self.protocol_type
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    pub fn check_alive(&self) -> Result<(), GroupError> {
        if self.phase == Phase::Dead { Err(self.death.clone()) } else { Ok(()) }
    }

    /// Is this member in the group, and is it the one that its instance id names now?
    pub(super) fn check_identity(&self, member: &str, instance: Option<&str>) -> Result<(), GroupError> {
        match instance {
            Some(instance) => match self.statics.get(instance) {
                None => Err(GroupError::UnknownMember),
                Some(current) if current != member => Err(GroupError::FencedInstance),
                Some(_) => Ok(()),
            },
            None if self.members.contains_key(member) => Ok(()),
            None => Err(GroupError::UnknownMember),
        }
    }

    pub(super) fn check_generation(&self, generation: i32) -> Result<(), GroupError> {
        if generation == self.generation { Ok(()) } else { Err(GroupError::IllegalGeneration) }
    }

    pub(super) fn refresh_session(&mut self, id: &str, now: Millis) {
        if let Some(member) = self.members.get_mut(id) {
            member.session_deadline = now + member.session_timeout;
            let deadline = member.session_deadline;
            self.expect_by(deadline);
        }
    }

    /// Something ends at `deadline`, unless it is put off.
    pub(super) fn expect_by(&mut self, deadline: Millis) {
        self.soonest = Some(self.soonest.map_or(deadline, |soonest| soonest.min(deadline)));
    }

    /// Looks at every session and pending id.
    pub(super) fn expect_anew(&mut self) {
        let sessions = self.members.values().filter_map(Member::expires_at);
        self.soonest = sessions.chain(self.pending.values().copied()).min();
    }

    /// The coordinator itself was asleep: it has no right to call its members silent.
    pub fn restart_sessions(&mut self, now: Millis) {
        for member in self.members.values_mut() {
            member.session_deadline = now + member.session_timeout;
        }
        self.expect_anew();
    }

    /// A heartbeat; answered at once.
    pub fn heartbeat(
        &mut self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<(), GroupError> {
        self.check_alive()?;
        self.check_identity(member, instance)?;
        self.check_generation(generation)?;
        self.refresh_session(member, now);
        match self.phase {
            Phase::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            Phase::CompletingRebalance | Phase::Stable => Ok(()),
            Phase::Empty | Phase::Dead => Err(GroupError::UnknownMember),
        }
    }

    /// May this caller commit offsets now? While a rebalance is prepared it may: it still owns what it had.
    pub fn check_offset_commit(
        &mut self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<(), GroupError> {
        self.check_alive()?;
        if generation < 0 && self.phase == Phase::Empty {
            // A consumer that assigns its own partitions, or an operator who resets offsets.
            return Ok(());
        }
        if generation >= 0 || !member.is_empty() || instance.is_some() {
            self.check_identity(member, instance)?;
            self.check_generation(generation)?;
        } else {
            return Err(GroupError::UnknownMember);
        }
        if self.phase == Phase::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        self.refresh_session(member, now);
        Ok(())
    }

    /// The coordinator moved, or the group is deleted: everyone parked is told `why`, and so is whoever comes later.
    pub fn end(&mut self, why: GroupError) -> Vec<Effect> {
        for member in self.members.values_mut() {
            if let Some(ticket) = member.joining.take() {
                self.effects.push(Effect::Joined(ticket, Err(why.clone())));
            }
            if let Some(ticket) = member.syncing.take() {
                self.effects.push(Effect::Synced(ticket, Err(why.clone())));
            }
        }
        self.joining = 0;
        self.phase = Phase::Dead;
        self.death = why;
        self.committing = None;
        self.replaced.clear();
        self.take_effects()
    }

    /// A deletion that failed: the group is as it was.
    pub fn revive_empty(&mut self, now: Millis) {
        assert!(self.members.is_empty(), "only empty groups are deleted");
        self.phase = Phase::Empty;
        self.empty_check = Some(now + self.rules.empty_check_ms);
        // The removal may have taken the place of the write that says so.
        if self.is_stored && !self.draft.is_settled() {
            self.emptied_again = Some(now);
        }
    }

    /// When [`Group::tick`] has something to do, if nothing happens before; perhaps too early, since a heartbeat leaves
    /// it as it is.
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.phase == Phase::Dead {
            return None;
        }
        let barrier = self.barrier.as_ref().map(|barrier| barrier.deadline);
        [self.soonest, barrier, self.sync_deadline, self.empty_check, self.emptied_again].into_iter().flatten().min()
    }
}

impl Join {
    /// What can be said of a join without its group.
    pub fn check(&self, rules: &Rules) -> Result<(), GroupError> {
        let session = member::milliseconds(self.session_timeout_ms);
        if !(rules.session_min_ms..=rules.session_max_ms).contains(&session) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        if self.protocol_type.is_empty() || self.protocols.is_empty() {
            return Err(GroupError::InconsistentProtocol);
        }
        let mut names = self.protocols.iter().map(|(name, _)| name).chain([&self.protocol_type]);
        if self.protocols.len() > PROTOCOLS_PER_MEMBER_MAX || names.any(|name| name.len() > PROTOCOL_NAME_BYTES_MAX) {
            return Err(GroupError::MemberTooLarge);
        }
        if self.bytes() > MEMBER_BYTES_MAX { Err(GroupError::MemberTooLarge) } else { Ok(()) }
    }
}

/// Of members and pending ids, one of which gives way to what comes.
pub(super) fn check_group_bytes(held: usize, gives_way: usize, comes: usize) -> Result<(), GroupError> {
    if held - gives_way + comes > GROUP_BYTES_MAX { Err(GroupError::GroupFull) } else { Ok(()) }
}
