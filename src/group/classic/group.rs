//! One group: its state, how it is restored and saved, who is in it, and what time it waits for.

use super::{Join, Joined, JoinedMember, Millis, Synced, Ticket};
use crate::group::coordinator::GroupError;
use crate::group::settings::Rules;
use crate::metadata::command::{GroupMember, GroupState};
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
}

/// What the shell must do after an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Joined(Ticket, Result<Joined, GroupError>),
    Synced(Ticket, Result<Synced, GroupError>),
    /// Commit the state through Raft and come back with [`Group::committed`]. A newer attempt replaces an older one
    /// that has not been sent.
    Commit {
        attempt: u64,
        state: GroupState,
    },
    /// Empty for long: the group may go if it has no offsets.
    LongEmpty,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout: Millis,
    pub rebalance_timeout: Millis,
    pub protocols: Vec<(String, Bytes)>,
    /// As last committed.
    pub assignment: Bytes,
    /// Counts only while no request of the member is parked.
    pub session_deadline: Millis,
    pub joining: Option<Ticket>,
    pub syncing: Option<Ticket>,
    pub skip_assignment_supported: bool,
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
    pub attempt: u64,
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

/// Invariants: `statics` names exactly the members with an instance; `leader` is a member wherever there are any;
/// `pending` and `members` share no id; outside Stable a parked join means "has joined the coming generation".
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) rules: Rules,
    pub(super) phase: Phase,
    pub(super) generation: i32,
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
    pub(super) attempts: u64,
    /// The metadata image may know this group: a commit of it was tried.
    pub(super) is_stored: bool,
    pub(super) empty_check: Option<Millis>,
    /// What requests are told once the phase is Dead.
    pub(super) death: GroupError,
    pub(super) effects: Vec<Effect>,
}

impl Group {
    pub fn new(rules: Rules, now: Millis) -> Group {
        Group {
            rules,
            phase: Phase::Empty,
            generation: 0,
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
            attempts: 0,
            is_stored: false,
            empty_check: Some(now + rules.empty_check_ms),
            death: GroupError::NotAvailable,
            effects: Vec::new(),
        }
    }

    /// A new coordinator goes on from the committed state: same members, same generation, sessions start anew.
    pub fn restore(rules: Rules, state: &GroupState, now: Millis) -> Group {
        let mut group = Group::new(rules, now);
        group.generation = state.generation;
        group.protocol_type.clone_from(&state.protocol_type);
        group.is_stored = true;
        if state.members.is_empty() {
            return group;
        }
        group.phase = Phase::Stable;
        group.empty_check = None;
        group.protocol.clone_from(&state.protocol);
        for (id, stored) in &state.members {
            if let Some(instance) = &stored.instance_id {
                group.statics.insert(instance.clone(), id.clone());
            }
            let session_timeout = milliseconds(stored.session_timeout_ms);
            let member = Member {
                instance: stored.instance_id.clone(),
                client_id: stored.client_id.clone(),
                client_host: stored.client_host.clone(),
                session_timeout,
                rebalance_timeout: milliseconds(stored.rebalance_timeout_ms),
                protocols: stored.protocols.clone(),
                assignment: stored.assignment.clone(),
                session_deadline: now + session_timeout,
                joining: None,
                syncing: None,
                skip_assignment_supported: false,
            };
            group.members.insert(id.clone(), member);
        }
        group.leader = state.leader.clone().filter(|leader| group.members.contains_key(leader));
        if group.leader.is_none() {
            group.leader = group.members.keys().next().cloned();
        }
        group
    }

    /// What is committed: the present members, with `assignments` in place of what they hold where it is given.
    pub(super) fn snapshot(&self, assignments: Option<&BTreeMap<String, Bytes>>) -> GroupState {
        let members = self.members.iter().map(|(id, member)| {
            let assignment = match assignments {
                Some(assignments) => assignments.get(id).cloned().unwrap_or_default(),
                None => member.assignment.clone(),
            };
            let stored = GroupMember {
                instance_id: member.instance.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                session_timeout_ms: i32::try_from(member.session_timeout).unwrap_or(i32::MAX),
                rebalance_timeout_ms: i32::try_from(member.rebalance_timeout).unwrap_or(i32::MAX),
                protocols: member.protocols.clone(),
                assignment,
            };
            (id.clone(), stored)
        });
        GroupState {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            generation: self.generation,
            leader: self.leader.clone(),
            members: members.collect(),
        }
    }

    pub(super) fn commit(&mut self, what: Wanted) {
        self.attempts += 1;
        let state = match &what {
            Wanted::Assignment(assignments) => self.snapshot(Some(assignments)),
            Wanted::Replacements(_) | Wanted::Emptied => self.snapshot(None),
        };
        self.committing = Some(Committing { attempt: self.attempts, what });
        self.is_stored = true;
        self.effects.push(Effect::Commit { attempt: self.attempts, state });
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

    pub(super) fn check_alive(&self) -> Result<(), GroupError> {
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
        }
    }

    /// The coordinator itself was asleep: it has no right to call its members silent.
    pub fn restart_sessions(&mut self, now: Millis) {
        for member in self.members.values_mut() {
            member.session_deadline = now + member.session_timeout;
        }
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
        self.phase = Phase::Dead;
        self.death = why;
        self.committing = None;
        self.take_effects()
    }

    /// A deletion that failed: the group is as it was.
    pub fn revive_empty(&mut self, now: Millis) {
        assert!(self.members.is_empty(), "only empty groups are deleted");
        self.phase = Phase::Empty;
        self.empty_check = Some(now + self.rules.empty_check_ms);
    }

    /// When [`Group::tick`] has something to do, if nothing happens before. A heartbeat can only make it later.
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.phase == Phase::Dead {
            return None;
        }
        let sessions = self.members.values().filter(|m| !m.is_parked()).map(|m| m.session_deadline);
        let others = [self.barrier.as_ref().map(|b| b.deadline), self.sync_deadline, self.empty_check];
        sessions.chain(self.pending.values().copied()).chain(others.into_iter().flatten()).min()
    }

    pub(super) fn everyone(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members
            .iter()
            .map(|(id, member)| JoinedMember {
                id: id.clone(),
                instance: member.instance.clone(),
                metadata: member.metadata(protocol),
            })
            .collect()
    }

    pub fn describe(&self) -> Description {
        let is_settled = self.phase == Phase::Stable;
        let protocol = self.protocol.clone().filter(|_| is_settled).unwrap_or_default();
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: if is_settled { member.metadata(&protocol) } else { Bytes::new() },
            assignment: if is_settled { member.assignment.clone() } else { Bytes::new() },
        });
        let members = members.collect();
        Description { phase: self.phase, protocol_type: self.protocol_type.clone(), protocol, members }
    }
}

impl Member {
    /// While a request of it is parked, a member is plainly there.
    pub fn is_parked(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, data)| data.clone()).unwrap_or_default()
    }

    /// About what a member takes in the committed state, without its assignment.
    pub fn stored_bytes(&self, id: &str) -> usize {
        let instance = self.instance.as_deref().unwrap_or_default();
        stored_bytes([id, instance, &self.client_id, &self.client_host], &self.protocols)
    }

    pub fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// Takes over what a join says.
    pub fn update(&mut self, join: &Join) {
        self.client_id.clone_from(&join.client_id);
        self.client_host.clone_from(&join.client_host);
        self.session_timeout = milliseconds(join.session_timeout_ms);
        self.rebalance_timeout = rebalance_timeout(join);
        self.protocols.clone_from(&join.protocols);
        self.skip_assignment_supported = join.skip_assignment_supported;
    }
}

impl Join {
    /// What can be said of a join without its group.
    pub fn check(&self, rules: &Rules) -> Result<(), GroupError> {
        let session = milliseconds(self.session_timeout_ms);
        if !(rules.session_min_ms..=rules.session_max_ms).contains(&session) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        if self.protocol_type.is_empty() || self.protocols.is_empty() {
            return Err(GroupError::InconsistentProtocol);
        }
        Ok(())
    }

    /// As [`Member::stored_bytes`] of the member that this join would make.
    pub(super) fn stored_bytes(&self) -> usize {
        let instance = self.instance.as_deref().unwrap_or_default();
        let id = if instance.is_empty() { &self.client_id } else { instance };
        UUID_BYTES + stored_bytes([id, instance, &self.client_id, &self.client_host], &self.protocols)
    }
}

/// What a fresh member id adds to the client's name.
const UUID_BYTES: usize = 37;
/// The encoding's length before each text, and a member's fixed fields.
const LENGTH_BYTES: usize = 8;
const MEMBER_BYTES: usize = 40;

fn stored_bytes(texts: [&str; 4], protocols: &[(String, Bytes)]) -> usize {
    let texts: usize = texts.iter().map(|text| text.len() + LENGTH_BYTES).sum();
    let protocols: usize =
        protocols.iter().map(|(name, metadata)| name.len() + metadata.len() + 2 * LENGTH_BYTES).sum();
    MEMBER_BYTES + texts + protocols
}

/// What an id that was given out and not used yet takes.
pub(super) fn pending_bytes(id: &str) -> usize {
    MEMBER_BYTES + LENGTH_BYTES + id.len()
}

pub(super) fn milliseconds(given: i32) -> Millis {
    Millis::try_from(given).unwrap_or(0)
}

pub(super) fn rebalance_timeout(join: &Join) -> Millis {
    milliseconds(if join.rebalance_timeout_ms < 0 { join.session_timeout_ms } else { join.rebalance_timeout_ms })
}

/// What DescribeGroups and ListGroups show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub phase: Phase,
    pub protocol_type: String,
    /// Empty unless the group is stable, and so are its members' metadata and assignments.
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub metadata: Bytes,
    pub assignment: Bytes,
}
