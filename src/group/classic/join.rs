//! JoinGroup: who may come in, and how.

use super::group::{Effect, Group, Member, Phase, Wanted, milliseconds, pending_bytes, rebalance_timeout};
use super::{Join, Joined, Millis, Ticket};
use crate::group::coordinator::GroupError;
use crate::group::settings::GROUP_STATE_BYTES_MAX;
use bytes::Bytes;
use std::collections::BTreeMap;

impl Group {
    /// A member joins or comes back. `fresh_id` is used if it needs a new id.
    pub fn join(&mut self, ticket: Ticket, join: &Join, fresh_id: String, now: Millis) -> Vec<Effect> {
        if let Err(error) = self.admit(ticket, join, fresh_id, now) {
            self.effects.push(Effect::Joined(ticket, Err(error)));
        }
        self.take_effects()
    }

    fn admit(&mut self, ticket: Ticket, join: &Join, fresh_id: String, now: Millis) -> Result<(), GroupError> {
        self.check_alive()?;
        join.check(&self.rules)?;
        // The place that this member takes over or has already.
        let own_place = if join.member.is_empty() {
            join.instance.as_ref().and_then(|instance| self.statics.get(instance)).cloned()
        } else {
            Some(join.member.clone())
        };
        self.check_protocols(join, own_place.as_deref())?;
        self.check_bytes(join, own_place.as_deref())?;
        if join.member.is_empty() {
            match own_place {
                Some(former) => self.replace_static(ticket, join, &former, fresh_id, now),
                None => self.join_unknown(ticket, join, fresh_id, now)?,
            }
            return Ok(());
        }
        // Ids are given in advance to dynamic members alone. A static one that came with one would take a living
        // member's instance id without fencing it.
        if join.instance.is_some() && self.pending.contains_key(&join.member) {
            return Err(GroupError::UnknownMember);
        }
        if self.pending.remove(&join.member).is_some() {
            self.check_size()?;
            self.add_member(ticket, join, join.member.clone(), now);
            return Ok(());
        }
        self.check_identity(&join.member, join.instance.as_deref())?;
        self.join_again(ticket, join, now)
    }

    /// The protocol type must be the group's, and one protocol must be everyone's.
    fn check_protocols(&self, join: &Join, own_place: Option<&str>) -> Result<(), GroupError> {
        let mut others = self.members.iter().filter(|(id, _)| Some(id.as_str()) != own_place).peekable();
        let others_exist = others.peek().is_some();
        let fits_type = !others_exist || join.protocol_type == self.protocol_type;
        if !fits_type {
            return Err(GroupError::InconsistentProtocol);
        }
        let others: Vec<&Member> = others.map(|(_, member)| member).collect();
        if join.protocols.iter().any(|(name, _)| others.iter().all(|member| member.supports(name))) {
            Ok(())
        } else {
            Err(GroupError::InconsistentProtocol)
        }
    }

    /// All members travel in one Raft command; ids given out count, since they are kept as well.
    fn check_bytes(&self, join: &Join, own_place: Option<&str>) -> Result<(), GroupError> {
        let others = self.members.iter().filter(|(id, _)| Some(id.as_str()) != own_place);
        let held: usize = others.map(|(id, member)| member.stored_bytes(id)).sum();
        let pending = self.pending.keys().filter(|id| Some(id.as_str()) != own_place);
        let given_out: usize = pending.map(|id| pending_bytes(id)).sum();
        if held + given_out + join.stored_bytes() > GROUP_STATE_BYTES_MAX { Err(GroupError::GroupFull) } else { Ok(()) }
    }

    fn check_size(&self) -> Result<(), GroupError> {
        let is_full = self.members.len() + self.pending.len() >= self.rules.group_size_max;
        if is_full { Err(GroupError::GroupFull) } else { Ok(()) }
    }

    fn join_unknown(&mut self, ticket: Ticket, join: &Join, fresh_id: String, now: Millis) -> Result<(), GroupError> {
        self.check_size()?;
        if join.member_id_required && join.instance.is_none() {
            // A client that gives up now leaves an id behind, not a member that everyone waits for (KIP-394).
            self.pending.insert(fresh_id.clone(), now + milliseconds(join.session_timeout_ms));
            self.empty_check = None;
            return Err(GroupError::MemberIdRequired(fresh_id));
        }
        self.add_member(ticket, join, fresh_id, now);
        Ok(())
    }

    fn add_member(&mut self, ticket: Ticket, join: &Join, id: String, now: Millis) {
        if self.members.is_empty() {
            self.protocol_type.clone_from(&join.protocol_type);
        }
        if let Some(instance) = &join.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        let mut member = Member {
            instance: join.instance.clone(),
            client_id: String::new(),
            client_host: String::new(),
            session_timeout: milliseconds(join.session_timeout_ms),
            rebalance_timeout: rebalance_timeout(join),
            protocols: Vec::new(),
            assignment: Bytes::new(),
            session_deadline: now + milliseconds(join.session_timeout_ms),
            joining: Some(ticket),
            syncing: None,
            skip_assignment_supported: false,
        };
        member.update(join);
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
        if let Some(initial) = self.barrier.as_mut().and_then(|barrier| barrier.initial.as_mut()) {
            initial.newcomers = true;
        }
        if self.phase == Phase::PreparingRebalance {
            self.complete_join_if_all_here(now);
        } else {
            self.prepare_rebalance(now);
        }
    }

    /// A member of the group sends a join: its first answer got lost, its subscription changed, or a rebalance asks.
    fn join_again(&mut self, ticket: Ticket, join: &Join, now: Millis) -> Result<(), GroupError> {
        let id = join.member.clone();
        let is_leader = self.leader.as_deref() == Some(id.as_str());
        let is_same = self.members.get(&id).is_some_and(|member| member.protocols == join.protocols);
        match self.phase {
            Phase::PreparingRebalance => {
                self.park_join(ticket, join, &id);
                self.complete_join_if_all_here(now);
            }
            Phase::CompletingRebalance if is_same => self.answer_current(ticket, &id, now),
            // A leader that comes back wants to assign anew.
            Phase::Stable if is_same && !is_leader => self.answer_current(ticket, &id, now),
            Phase::CompletingRebalance | Phase::Stable => {
                self.park_join(ticket, join, &id);
                self.prepare_rebalance(now);
            }
            Phase::Empty | Phase::Dead => return Err(GroupError::UnknownMember),
        }
        Ok(())
    }

    fn park_join(&mut self, ticket: Ticket, join: &Join, id: &str) {
        if self.members.len() == 1 {
            // Alone, a member may change even this.
            self.protocol_type.clone_from(&join.protocol_type);
        }
        let member = self.members.get_mut(id).expect("the caller found the member");
        member.update(join);
        if let Some(older) = member.joining.replace(ticket) {
            self.effects.push(Effect::Joined(older, Err(GroupError::RebalanceInProgress)));
        }
    }

    /// The generation as it stands, for a member that missed its answer.
    fn answer_current(&mut self, ticket: Ticket, id: &str, now: Millis) {
        self.refresh_session(id, now);
        let joined = self.joined(id);
        self.effects.push(Effect::Joined(ticket, Ok(joined)));
    }

    pub(super) fn joined(&self, id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        Joined {
            member: id.to_string(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone().unwrap_or_default(),
            members: if leader == id { self.everyone() } else { Vec::new() },
            leader,
            skip_assignment: false,
        }
    }

    /// A static member came back without its id: it takes its former self's place, which is fenced from now on.
    fn replace_static(&mut self, ticket: Ticket, join: &Join, former: &str, id: String, now: Millis) {
        let mut member = self.members.remove(former).expect("statics name members");
        if let Some(parked) = member.joining.take() {
            self.effects.push(Effect::Joined(parked, Err(GroupError::FencedInstance)));
        }
        if let Some(parked) = member.syncing.take() {
            self.effects.push(Effect::Synced(parked, Err(GroupError::FencedInstance)));
        }
        member.update(join);
        member.joining = Some(ticket);
        member.session_deadline = now + member.session_timeout;
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        let told_leader = self.leader.clone().unwrap_or_default();
        if self.leader.as_deref() == Some(former) {
            self.leader = Some(id.clone());
        }
        self.unsynced.remove(former);
        self.members.insert(id.clone(), member);
        match self.phase {
            Phase::PreparingRebalance => self.complete_join_if_all_here(now),
            Phase::Stable if self.select_protocol() == self.protocol => {
                // Nothing to assign anew; but the new id must be committed before it is used. Several members may be
                // on their way back at once: the newest commit holds them all.
                let mut waiting = match self.committing.take().map(|committing| committing.what) {
                    Some(Wanted::Replacements(waiting)) => waiting,
                    _ => BTreeMap::new(),
                };
                waiting.remove(former);
                waiting.insert(id, told_leader);
                self.commit(Wanted::Replacements(waiting));
            }
            // The leader may be assigning to the former id just now.
            Phase::CompletingRebalance | Phase::Stable => self.prepare_rebalance(now),
            Phase::Empty | Phase::Dead => unreachable!("a static member is a member, and neither phase has any"),
        }
    }

    /// The replacements are committed: each gets the generation as it stands.
    pub(super) fn answer_replacements(&mut self, told: BTreeMap<String, String>, now: Millis) {
        for (id, told_leader) in told {
            let Some(member) = self.members.get_mut(&id) else { continue };
            let skips = member.skip_assignment_supported;
            let Some(ticket) = member.joining.take() else { continue };
            self.refresh_session(&id, now);
            let mut joined = self.joined(&id);
            if skips {
                joined.skip_assignment = joined.leader == id;
            } else {
                // An old client that learns it leads would assign anew; it is told of its former self instead.
                joined.leader = told_leader;
                joined.members.clear();
            }
            self.effects.push(Effect::Joined(ticket, Ok(joined)));
        }
    }
}
