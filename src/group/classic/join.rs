//! JoinGroup: who may come in, and how.

use super::group::{Group, Phase, Wanted, check_group_bytes};
use super::member::{Member, join_bytes, milliseconds, pending_bytes, rebalance_timeout};
use super::{Join, Joined};
use crate::group::coordinator::GroupError;
use crate::group::machine::{Effect, Millis, Ticket};
use crate::group::settings::NEW_MEMBER_JOIN_MS_MAX;
use crate::metadata::group_change::RebalanceReason;
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
        self.check_bytes(join, own_place.as_deref(), &fresh_id)?;
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
        if self.take_pending(&join.member) {
            self.check_size()?;
            self.add_member(ticket, join, join.member.clone(), now);
            return Ok(());
        }
        self.check_identity(&join.member, join.instance.as_deref())?;
        self.join_again(ticket, join, now)
    }

    /// The protocol type must be the group's, and one protocol must be everyone's.
    fn check_protocols(&self, join: &Join, own_place: Option<&str>) -> Result<(), GroupError> {
        let own = own_place.and_then(|id| self.members.get(id));
        let others = self.members.len() - usize::from(own.is_some());
        if others == 0 {
            return Ok(());
        }
        let supported_by_others = |name: &String| {
            let own = usize::from(own.is_some_and(|own| own.supports(name)));
            self.supporters.get(name).is_some_and(|supporters| supporters - own == others)
        };
        let has_common = join.protocols.iter().any(|(name, _)| supported_by_others(name));
        if join.protocol_type == self.protocol_type && has_common {
            Ok(())
        } else {
            Err(GroupError::InconsistentProtocol)
        }
    }

    fn check_bytes(&self, join: &Join, own_place: Option<&str>, fresh_id: &str) -> Result<(), GroupError> {
        let own = own_place.and_then(|id| Some((id, self.members.get(id)?)));
        let gives_way = match (own, own_place) {
            (Some((id, member)), _) => member.bytes(id, &self.draft),
            (None, Some(id)) if self.pending.contains_key(id) => pending_bytes(id),
            _ => 0,
        };
        let id = if join.member.is_empty() { fresh_id } else { &join.member };
        check_group_bytes(self.bytes, gives_way, join_bytes(join, id))
    }

    fn check_size(&self) -> Result<(), GroupError> {
        let is_full = self.members.len() + self.pending.len() >= self.rules.group_size_max;
        if is_full { Err(GroupError::GroupFull) } else { Ok(()) }
    }

    fn join_unknown(&mut self, ticket: Ticket, join: &Join, fresh_id: String, now: Millis) -> Result<(), GroupError> {
        self.check_size()?;
        if join.member_id_required && join.instance.is_none() {
            // A client that gives up now leaves an id behind, not a member that everyone waits for (KIP-394).
            let until = now + milliseconds(join.session_timeout_ms);
            self.expect_by(until);
            self.bytes += pending_bytes(&fresh_id);
            self.pending.insert(fresh_id.clone(), until);
            self.empty_check = None;
            return Err(GroupError::MemberIdRequired(fresh_id));
        }
        self.add_member(ticket, join, fresh_id, now);
        Ok(())
    }

    /// An id that was given out is used or given up.
    pub(super) fn take_pending(&mut self, id: &str) -> bool {
        let was_there = self.pending.remove(id).is_some();
        if was_there {
            self.bytes -= pending_bytes(id);
        }
        was_there
    }

    fn add_member(&mut self, ticket: Ticket, join: &Join, id: String, now: Millis) {
        if self.members.is_empty() {
            self.protocol_type.clone_from(&join.protocol_type);
        }
        let mut member = Member {
            instance: join.instance.clone(),
            client_id: String::new(),
            client_host: String::new(),
            session_timeout: milliseconds(join.session_timeout_ms),
            rebalance_timeout: rebalance_timeout(join),
            protocols: Vec::new(),
            assignment: Bytes::new(),
            session_deadline: now + NEW_MEMBER_JOIN_MS_MAX,
            joining: Some(ticket),
            syncing: None,
            is_new: true,
            skip_assignment_supported: false,
        };
        self.adopt(&mut member, join);
        self.leader.get_or_insert_with(|| id.clone());
        self.insert(id.clone(), member);
        if let Some(initial) = self.barrier.as_mut().and_then(|barrier| barrier.initial.as_mut()) {
            initial.newcomers = true;
        }
        self.rebalance_or_go_on(RebalanceReason::MemberJoined(id), join.reason.as_ref(), now);
    }

    /// A member of the group sends a join: its first answer got lost, its subscription changed, or a rebalance asks.
    fn join_again(&mut self, ticket: Ticket, join: &Join, now: Millis) -> Result<(), GroupError> {
        let id = join.member.clone();
        let is_leader = self.leader.as_deref() == Some(id.as_str());
        let is_same = self.members.get(&id).is_some_and(|member| member.has_protocols(&join.protocols, &self.draft));
        match self.phase {
            // The bound was lowered since: who comes first stays.
            Phase::PreparingRebalance if self.has_no_place(&id) => {
                self.remove_member(&id);
                self.complete_join_if_all_here(now);
                return Err(GroupError::GroupFull);
            }
            Phase::PreparingRebalance => {
                self.rejoin(ticket, join, &id);
                self.complete_join_if_all_here(now);
            }
            Phase::CompletingRebalance if is_same => self.answer_current(ticket, &id, now),
            // A leader that comes back wants to assign anew.
            Phase::Stable if is_same && !is_leader => self.answer_current(ticket, &id, now),
            Phase::CompletingRebalance | Phase::Stable => {
                self.rejoin(ticket, join, &id);
                let reason = if is_same {
                    RebalanceReason::LeaderRejoined(id)
                } else {
                    RebalanceReason::SubscriptionChanged(id)
                };
                self.prepare_rebalance(reason, join.reason.as_ref(), now);
            }
            Phase::Empty | Phase::Dead => return Err(GroupError::UnknownMember),
        }
        Ok(())
    }

    fn has_no_place(&self, id: &str) -> bool {
        let is_here = self.members.get(id).is_some_and(|member| member.joining.is_some());
        !is_here && self.joining >= self.rules.group_size_max
    }

    fn rejoin(&mut self, ticket: Ticket, join: &Join, id: &str) {
        if self.members.len() == 1 {
            // Alone, a member may change even this.
            self.protocol_type.clone_from(&join.protocol_type);
        }
        self.update(id, join);
        self.park_join(id, ticket);
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
        let mut member = self.take_out(former).expect("statics name members");
        if let Some(parked) = member.joining.take() {
            self.effects.push(Effect::Joined(parked, Err(GroupError::FencedInstance)));
        }
        if let Some(parked) = member.syncing.take() {
            self.effects.push(Effect::Synced(parked, Err(GroupError::FencedInstance)));
        }
        self.adopt(&mut member, join);
        member.joining = Some(ticket);
        member.session_deadline = now + member.session_timeout;
        member.is_new = false;
        let told_leader = self.leader.clone().unwrap_or_default();
        if self.leader.as_deref() == Some(former) {
            self.leader = Some(id.clone());
        }
        self.insert(id.clone(), member);
        match self.phase {
            Phase::PreparingRebalance => self.complete_join_if_all_here(now),
            Phase::Stable if self.select_protocol() == self.protocol => {
                // Nothing to assign anew; but the new id must be committed before it is used.
                self.replaced.remove(former);
                self.replaced.insert(id, told_leader);
                self.commit_replacements();
            }
            // The leader may be assigning to the former id just now.
            Phase::CompletingRebalance | Phase::Stable => {
                self.prepare_rebalance(RebalanceReason::MemberReplaced(id), join.reason.as_ref(), now);
            }
            Phase::Empty | Phase::Dead => unreachable!("a static member is a member, and neither phase has any"),
        }
    }

    /// One commit at a time: members that come back meanwhile share the next one.
    pub(super) fn commit_replacements(&mut self) {
        if self.committing.is_none() && !self.replaced.is_empty() {
            let replaced = std::mem::take(&mut self.replaced);
            self.commit(Wanted::Replacements(replaced));
        }
    }

    /// The replacements are committed: each gets the generation as it stands.
    pub(super) fn answer_replacements(&mut self, told: BTreeMap<String, String>, now: Millis) {
        for (id, told_leader) in told {
            let Some(member) = self.members.get(&id) else { continue };
            let skips = member.skip_assignment_supported;
            let Some(ticket) = self.take_joining(&id) else { continue };
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
