//! The join barrier, the coming generation, and members that go.

use super::group::{Barrier, Committing, Group, InitialDelay, Phase, Wanted};
use crate::group::coordinator::GroupError;
use crate::group::machine::{Effect, Millis};
use crate::metadata::group_change::RebalanceReason;
use std::collections::BTreeMap;

impl Group {
    /// Everyone must join again. From Empty the barrier also waits for members still starting up.
    pub(super) fn prepare_rebalance(&mut self, reason: RebalanceReason, said: Option<&String>, now: Millis) {
        self.because(reason, said);
        self.begin_rebalance(now);
    }

    /// As [`Group::prepare_rebalance`]; the causes are noted.
    pub(super) fn begin_rebalance(&mut self, now: Millis) {
        // Their sessions did not count while their syncs were parked.
        let mut soonest = None;
        for member in self.members.values_mut() {
            if let Some(ticket) = member.syncing.take() {
                member.session_deadline = now + member.session_timeout;
                soonest = Some(soonest.unwrap_or(member.session_deadline).min(member.session_deadline));
                self.effects.push(Effect::Synced(ticket, Err(GroupError::RebalanceInProgress)));
            }
        }
        if let Some(soonest) = soonest {
            self.expect_by(soonest);
        }
        // Parked replacements count as joined; an assignment on its way is overtaken.
        self.overtake();
        self.replaced.clear();
        self.unsynced.clear();
        self.sync_deadline = None;
        self.empty_check = None;
        self.emptied_again = None;
        let timeout = self.rebalance_timeout();
        let delay = self.rules.initial_delay_ms.min(timeout);
        let initial =
            (self.phase == Phase::Empty && delay > 0).then(|| InitialDelay { left: timeout - delay, newcomers: false });
        let wait = if initial.is_some() { delay } else { timeout };
        self.barrier = Some(Barrier { deadline: now + wait, initial });
        self.phase = Phase::PreparingRebalance;
        self.complete_join_if_all_here(now);
    }

    /// Nobody waits for what is on its way any more, but it may land: what it assigned is not what the members have. So
    /// the next write says of each of them what it does have, even if that is what it had before.
    fn overtake(&mut self) {
        let Some(Committing { what: Wanted::Assignment(assignments), .. }) = self.committing.take() else { return };
        for (id, member) in &self.members {
            if assignments.get(id).map_or(&[][..], |given| given) != member.assignment {
                self.draft.touch(id);
            }
        }
    }

    /// Something changed that the coming generation must see.
    pub(super) fn rebalance_or_go_on(&mut self, reason: RebalanceReason, said: Option<&String>, now: Millis) {
        if self.phase == Phase::PreparingRebalance {
            self.because(reason, said);
            self.complete_join_if_all_here(now);
        } else {
            self.prepare_rebalance(reason, said, now);
        }
    }

    fn rebalance_timeout(&self) -> Millis {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or(0)
    }

    pub(super) fn complete_join_if_all_here(&mut self, now: Millis) {
        let waits_on = self.barrier.as_ref().is_some_and(|barrier| barrier.initial.is_some());
        let all_here = self.joining == self.members.len() && self.pending.is_empty();
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
            self.because(RebalanceReason::MemberTooSlow(id), None);
        }
        let first_joined = self.members.iter().find(|(_, member)| member.joining.is_some()).map(|(id, _)| id.clone());
        if first_joined.is_none() && !self.members.is_empty() {
            // Only static members that are away: another round.
            self.barrier = Some(Barrier { deadline: now + self.rebalance_timeout().max(1), initial: None });
            return;
        }
        self.barrier = None;
        let floor = std::mem::take(&mut self.floor);
        self.generation = self.generation.max(floor).checked_add(1).unwrap_or(1);
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
            if let Some(ticket) = self.take_joining(&id) {
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
        } else {
            self.causes = None;
        }
    }

    /// Each member votes for the first of its protocols that all support. A tie goes to the leader's preference.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let common = |name: &str| self.supporters.get(name) == Some(&self.members.len());
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

    /// Looks at the clock.
    pub fn tick(&mut self, now: Millis) -> Vec<Effect> {
        if self.phase == Phase::Dead {
            return Vec::new();
        }
        let given_up: Vec<String> =
            self.pending.iter().filter(|(_, until)| **until <= now).map(|(id, _)| id.clone()).collect();
        for id in &given_up {
            self.take_pending(id);
        }
        let syncs_late = self.sync_deadline.take_if(|deadline| *deadline <= now).is_some();
        let mut reasons = Vec::new();
        for (id, member) in &self.members {
            let Some(deadline) = member.expires_at() else { continue };
            if deadline <= now {
                reasons.push(RebalanceReason::MemberTimedOut(id.clone()));
            } else if syncs_late && self.unsynced.contains(id) {
                reasons.push(RebalanceReason::MemberTooSlow(id.clone()));
            }
        }
        for reason in &reasons {
            self.remove_member(reason.whom().expect("the reason is a member"));
        }
        if syncs_late {
            self.unsynced.clear();
        }
        self.expect_anew();
        let nobody_went = reasons.is_empty();
        self.after_departures(reasons, None, now);
        // An id that was given out and never used only matters where it is waited for.
        if nobody_went && !given_up.is_empty() && matches!(self.phase, Phase::PreparingRebalance | Phase::Empty) {
            self.after_departure(now);
        }
        self.tick_barrier(now);
        if self.emptied_again.take_if(|at| *at <= now).is_some() && self.phase == Phase::Empty {
            self.commit(Wanted::Emptied);
        }
        if self.empty_check.is_some_and(|at| at <= now) {
            self.empty_check = None;
            if self.phase == Phase::Empty && self.pending.is_empty() {
                self.effects.push(Effect::LongEmpty);
            }
        }
        self.take_effects()
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
