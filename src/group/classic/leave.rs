//! Members that go: by their own will, or because they fell silent.

use super::Leaver;
use super::group::{Group, Phase};
use crate::group::coordinator::GroupError;
use crate::group::machine::{Effect, Millis};
use crate::metadata::group_change::RebalanceReason;

impl Group {
    /// A LeaveGroup request; one result a member. An operator may name a static member by its instance alone.
    pub fn leave(&mut self, leavers: &[Leaver], now: Millis) -> (Vec<Result<(), GroupError>>, Vec<Effect>) {
        let mut reasons = Vec::new();
        let mut said = None;
        let mut given_up = false;
        let mut results = Vec::with_capacity(leavers.len());
        for leaver in leavers {
            let outcome = self.check_alive().and_then(|()| self.leaver(leaver));
            results.push(outcome.map(|id| {
                if self.take_pending(&id) {
                    given_up = true;
                } else {
                    self.remove_member(&id);
                    said = said.take().or(leaver.reason.as_ref());
                    reasons.push(RebalanceReason::MemberLeft(id));
                }
            }));
        }
        let nobody_went = reasons.is_empty();
        self.after_departures(reasons, said, now);
        if nobody_went && given_up && matches!(self.phase, Phase::PreparingRebalance | Phase::Empty) {
            self.after_departure(now);
        }
        (results, self.take_effects())
    }

    fn leaver(&self, leaver: &Leaver) -> Result<String, GroupError> {
        if let Some(instance) = &leaver.instance
            && leaver.member.is_empty()
        {
            return self.statics.get(instance).cloned().ok_or(GroupError::UnknownMember);
        }
        if leaver.instance.is_none() && self.pending.contains_key(&leaver.member) {
            return Ok(leaver.member.clone());
        }
        self.check_identity(&leaver.member, leaver.instance.as_deref())?;
        Ok(leaver.member.clone())
    }

    /// Takes a member out and tells what it had parked; the caller thinks of the rebalance.
    pub(super) fn remove_member(&mut self, id: &str) {
        let Some(member) = self.take_out(id) else { return };
        if let Some(ticket) = member.joining {
            self.effects.push(Effect::Joined(ticket, Err(GroupError::UnknownMember)));
        }
        if let Some(ticket) = member.syncing {
            self.effects.push(Effect::Synced(ticket, Err(GroupError::UnknownMember)));
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Members went, each for one of these reasons.
    pub(super) fn after_departures(&mut self, reasons: Vec<RebalanceReason>, said: Option<&String>, now: Millis) {
        if reasons.is_empty() {
            return;
        }
        for reason in reasons {
            self.because(reason, said);
        }
        self.after_departure(now);
    }

    /// The causes are noted.
    pub(super) fn after_departure(&mut self, now: Millis) {
        match self.phase {
            Phase::Stable | Phase::CompletingRebalance => self.begin_rebalance(now),
            Phase::PreparingRebalance => self.complete_join_if_all_here(now),
            Phase::Empty if self.pending.is_empty() => {
                // One that never had members is only the trace of a client that gave up.
                let wait = if self.is_stored { self.rules.empty_check_ms } else { 0 };
                self.empty_check.get_or_insert(now + wait);
            }
            Phase::Empty | Phase::Dead => {}
        }
    }
}
