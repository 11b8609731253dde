//! The join barrier, the coming generation, and members that go.

use super::Millis;
use super::group::{Barrier, Effect, Group, InitialDelay, Phase, Wanted};
use crate::group::coordinator::GroupError;
use std::collections::BTreeMap;

impl Group {
    /// Everyone must join again. From Empty the barrier also waits for members still starting up.
    pub(super) fn prepare_rebalance(&mut self, now: Millis) {
        for member in self.members.values_mut() {
            if let Some(ticket) = member.syncing.take() {
                self.effects.push(Effect::Synced(ticket, Err(GroupError::RebalanceInProgress)));
            }
        }
        // Parked replacements count as joined; an assignment on its way is overtaken.
        self.committing = None;
        self.unsynced.clear();
        self.sync_deadline = None;
        self.empty_check = None;
        let timeout = self.rebalance_timeout();
        let delay = self.rules.initial_delay_ms.min(timeout);
        let initial =
            (self.phase == Phase::Empty && delay > 0).then(|| InitialDelay { left: timeout - delay, newcomers: false });
        let wait = if initial.is_some() { delay } else { timeout };
        self.barrier = Some(Barrier { deadline: now + wait, initial });
        self.phase = Phase::PreparingRebalance;
        self.complete_join_if_all_here(now);
    }

    fn rebalance_timeout(&self) -> Millis {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or(0)
    }

    pub(super) fn complete_join_if_all_here(&mut self, now: Millis) {
        let waits_on = self.barrier.as_ref().is_some_and(|barrier| barrier.initial.is_some());
        let all_here = self.members.values().all(|member| member.joining.is_some()) && self.pending.is_empty();
        if self.phase == Phase::PreparingRebalance && all_here && (!waits_on || self.members.is_empty()) {
            self.complete_join(now);
        }
    }

    /// The barrier opens: who has not joined is out, the others are the new generation.
    fn complete_join(&mut self, now: Millis) {
        // A static member may be away for its session timeout (KIP-345).
        let absent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            self.remove_member(&id);
        }
        let first_joined = self.members.iter().find(|(_, member)| member.joining.is_some()).map(|(id, _)| id.clone());
        if first_joined.is_none() && !self.members.is_empty() {
            // Only static members that are away: another round.
            self.barrier = Some(Barrier { deadline: now + self.rebalance_timeout().max(1), initial: None });
            return;
        }
        self.barrier = None;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let Some(first_joined) = first_joined else {
            return self.become_empty(now);
        };
        let leader_joined =
            self.leader.as_ref().and_then(|id| self.members.get(id)).is_some_and(|leader| leader.joining.is_some());
        if !leader_joined {
            self.leader = Some(first_joined);
        }
        self.protocol = self.select_protocol();
        self.phase = Phase::CompletingRebalance;
        self.sync_deadline = Some(now + self.rebalance_timeout());
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let ticket = self.members.get_mut(&id).and_then(|member| member.joining.take());
            if let Some(ticket) = ticket {
                self.refresh_session(&id, now);
                let joined = self.joined(&id);
                self.effects.push(Effect::Joined(ticket, Ok(joined)));
                self.unsynced.insert(id);
            }
        }
    }

    fn become_empty(&mut self, now: Millis) {
        self.phase = Phase::Empty;
        self.protocol = None;
        self.leader = None;
        self.empty_check = Some(now + self.rules.empty_check_ms);
        // A group that never got as far as an assignment is nobody else's business.
        if self.is_stored {
            self.commit(Wanted::Emptied);
        }
    }

    /// Each member votes for the first of its protocols that all support. A tie goes to the leader's preference.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let common = |name: &str| self.members.values().all(|member| member.supports(name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| common(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        leader
            .and_then(|leader| leader.protocols.iter().find(|(name, _)| votes.get(name.as_str()) == Some(&most)))
            .map(|(name, _)| name.clone())
    }

    /// Takes a member out and tells what it had parked; the caller thinks of the rebalance.
    pub(super) fn remove_member(&mut self, id: &str) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(ticket) = member.joining {
            self.effects.push(Effect::Joined(ticket, Err(GroupError::UnknownMember)));
        }
        if let Some(ticket) = member.syncing {
            self.effects.push(Effect::Synced(ticket, Err(GroupError::UnknownMember)));
        }
        if let Some(instance) = &member.instance {
            self.statics.remove(instance);
        }
        self.unsynced.remove(id);
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// After members went.
    pub(super) fn after_departure(&mut self, now: Millis) {
        match self.phase {
            Phase::Stable | Phase::CompletingRebalance => self.prepare_rebalance(now),
            Phase::PreparingRebalance => self.complete_join_if_all_here(now),
            Phase::Empty if self.pending.is_empty() => {
                // One that never had members is only the trace of a client that gave up.
                let wait = if self.is_stored { self.rules.empty_check_ms } else { 0 };
                self.empty_check.get_or_insert(now + wait);
            }
            Phase::Empty | Phase::Dead => {}
        }
    }

    /// One member of a LeaveGroup request. An operator may name a static member by its instance alone.
    pub fn leave(
        &mut self,
        member: &str,
        instance: Option<&str>,
        now: Millis,
    ) -> (Result<(), GroupError>, Vec<Effect>) {
        let outcome = self.check_alive().and_then(|()| self.leaver(member, instance));
        match outcome {
            Err(error) => (Err(error), self.take_effects()),
            Ok(id) => {
                self.pending.remove(&id);
                self.remove_member(&id);
                self.after_departure(now);
                (Ok(()), self.take_effects())
            }
        }
    }

    fn leaver(&self, member: &str, instance: Option<&str>) -> Result<String, GroupError> {
        if let Some(instance) = instance
            && member.is_empty()
        {
            return self.statics.get(instance).cloned().ok_or(GroupError::UnknownMember);
        }
        if instance.is_none() && self.pending.contains_key(member) {
            return Ok(member.to_string());
        }
        self.check_identity(member, instance)?;
        Ok(member.to_string())
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Millis) -> Vec<Effect> {
        if self.phase == Phase::Dead {
            return Vec::new();
        }
        let pending_before = self.pending.len();
        self.pending.retain(|_, until| *until > now);
        let syncs_late = self.sync_deadline.is_some_and(|deadline| deadline <= now);
        if syncs_late {
            self.sync_deadline = None;
        }
        let late = |id: &String, group: &Group| syncs_late && group.unsynced.contains(id);
        let gone: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_parked())
            .filter(|(id, member)| member.session_deadline <= now || late(id, self))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            self.remove_member(id);
        }
        if syncs_late {
            self.unsynced.clear();
        }
        if !gone.is_empty() || self.pending.len() < pending_before {
            self.after_departure_or_give_up(!gone.is_empty(), now);
        }
        self.tick_barrier(now);
        if self.empty_check.is_some_and(|at| at <= now) {
            self.empty_check = None;
            if self.phase == Phase::Empty && self.pending.is_empty() {
                self.effects.push(Effect::LongEmpty);
            }
        }
        self.take_effects()
    }

    /// An id that was given out and never used only matters where it is waited for.
    fn after_departure_or_give_up(&mut self, member_went: bool, now: Millis) {
        if member_went || matches!(self.phase, Phase::PreparingRebalance | Phase::Empty) {
            self.after_departure(now);
        }
    }

    fn tick_barrier(&mut self, now: Millis) {
        let delay = self.rules.initial_delay_ms;
        let Some(barrier) = self.barrier.as_mut().filter(|barrier| barrier.deadline <= now) else { return };
        match &mut barrier.initial {
            Some(initial) if initial.newcomers && initial.left > 0 => {
                let more = delay.min(initial.left);
                initial.left -= more;
                initial.newcomers = false;
                barrier.deadline = now + more;
            }
            _ => self.complete_join(now),
        }
    }
}
