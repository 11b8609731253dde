//! SyncGroup: the leader's assignment is committed, then everyone learns theirs.

use super::group::{Group, Phase, Wanted, check_group_bytes};
use super::{SyncGroup, Synced};
use crate::group::coordinator::GroupError;
use crate::group::machine::{Attempt, Effect, Millis, Ticket};
use crate::group::settings::{COMMIT_RETRY_MS, MEMBER_BYTES_MAX};
use crate::metadata::group_change::RebalanceReason;
use bytes::Bytes;
use std::collections::BTreeMap;

impl Group {
    pub fn sync(&mut self, ticket: Ticket, sync: SyncGroup, now: Millis) -> Vec<Effect> {
        if let Err(error) = self.take_sync(ticket, sync, now) {
            self.effects.push(Effect::Synced(ticket, Err(error)));
        }
        self.take_effects()
    }

    fn take_sync(&mut self, ticket: Ticket, sync: SyncGroup, now: Millis) -> Result<(), GroupError> {
        self.check_alive()?;
        self.check_identity(&sync.member, sync.instance.as_deref())?;
        self.check_generation(sync.generation)?;
        let type_differs = sync.protocol_type.as_ref().is_some_and(|given| *given != self.protocol_type);
        let name_differs = sync.protocol.is_some() && sync.protocol != self.protocol;
        match self.phase {
            Phase::Empty | Phase::Dead => Err(GroupError::UnknownMember),
            Phase::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            _ if type_differs || name_differs => Err(GroupError::InconsistentProtocol),
            Phase::Stable => {
                self.has_synced(&sync.member);
                self.refresh_session(&sync.member, now);
                self.effects.push(Effect::Synced(ticket, Ok(self.synced(&sync.member))));
                Ok(())
            }
            Phase::CompletingRebalance => {
                let is_leader = self.leader.as_deref() == Some(sync.member.as_str());
                let begins = is_leader && self.committing.is_none();
                if begins && let Err(error) = self.check_assignment_bytes(&sync.assignments) {
                    // Its client gives up on that, and the others would wait for another assignment until their time
                    // for it is over.
                    self.remove_member(&sync.member);
                    self.after_departures(vec![RebalanceReason::MemberTooLarge(sync.member)], None, now);
                    return Err(error);
                }
                let member = self.members.get_mut(&sync.member).expect("its identity was checked");
                if let Some(older) = member.syncing.replace(ticket) {
                    self.effects.push(Effect::Synced(older, Err(GroupError::RebalanceInProgress)));
                }
                self.has_synced(&sync.member);
                if begins {
                    self.commit(Wanted::Assignment(sync.assignments));
                }
                Ok(())
            }
        }
    }

    fn has_synced(&mut self, id: &str) {
        self.unsynced.remove(id);
        if self.unsynced.is_empty() {
            self.sync_deadline = None;
        }
    }

    fn synced(&self, id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone().unwrap_or_default(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    /// A member with its assignment must fit into one Raft command.
    fn check_assignment_bytes(&self, assignments: &BTreeMap<String, Bytes>) -> Result<(), GroupError> {
        let mut assigned = 0;
        for (id, assignment) in assignments {
            let Some(member) = self.members.get(id) else { continue };
            if member.bytes(id, &self.draft) + assignment.len() > MEMBER_BYTES_MAX {
                return Err(GroupError::MemberTooLarge);
            }
            assigned += assignment.len();
        }
        check_group_bytes(self.bytes, 0, assigned)
    }

    /// The outcome of a commit. Of an attempt that was overtaken nobody waits for it any more.
    pub fn committed(&mut self, attempt: Attempt, outcome: Result<(), GroupError>, now: Millis) -> Vec<Effect> {
        if outcome.is_ok() {
            self.draft.committed(attempt);
        }
        if self.committing.as_ref().is_none_or(|committing| committing.attempt != attempt) {
            return Vec::new();
        }
        let Some(committing) = self.committing.take() else { return Vec::new() };
        match (committing.what, outcome) {
            (Wanted::Assignment(assignments), Ok(())) => {
                self.causes = None;
                self.become_stable(&assignments, now);
            }
            (Wanted::Assignment(_), Err(error)) => {
                self.answer_syncs(|_| Err(error.clone()), now);
                // Where the coordinator moved, the new one decides. Otherwise everyone tries again.
                if error != GroupError::NotCoordinator {
                    self.prepare_rebalance(RebalanceReason::NotCommitted, None, now);
                }
            }
            (Wanted::Replacements(told), Ok(())) => {
                self.answer_replacements(told, now);
                self.commit_replacements();
            }
            (Wanted::Replacements(told), Err(error)) => {
                for id in told.keys() {
                    let ticket = self.take_joining(id);
                    self.refresh_session(id, now);
                    self.effects.extend(ticket.map(|ticket| Effect::Joined(ticket, Err(error.clone()))));
                }
                self.commit_replacements();
            }
            (Wanted::Emptied, Ok(())) => self.causes = None,
            // Where the coordinator moved, the new one finds the members and waits for their sessions.
            (Wanted::Emptied, Err(GroupError::NotCoordinator)) => {}
            (Wanted::Emptied, Err(_)) => self.emptied_again = Some(now + COMMIT_RETRY_MS),
        }
        self.take_effects()
    }

    fn become_stable(&mut self, assignments: &BTreeMap<String, Bytes>, now: Millis) {
        assert_eq!(self.phase, Phase::CompletingRebalance, "an assignment is awaited in no other phase");
        self.phase = Phase::Stable;
        for (id, member) in &mut self.members {
            member.assignment = assignments.get(id).cloned().unwrap_or_default();
        }
        self.answer_syncs(Ok, now);
    }

    fn answer_syncs(&mut self, outcome: impl Fn(Synced) -> Result<Synced, GroupError>, now: Millis) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let ticket = self.members.get_mut(&id).and_then(|member| member.syncing.take());
            if let Some(ticket) = ticket {
                self.refresh_session(&id, now);
                self.effects.push(Effect::Synced(ticket, outcome(self.synced(&id))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::classic::Join;
    use crate::group::settings::Settings;

    fn join(group: &mut Group, ticket: u64, id: &str, member: &str) -> Vec<Effect> {
        let join = Join {
            member: member.into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), Bytes::new())],
            ..Join::default()
        };
        group.join(Ticket(ticket), &join, id.into(), 1)
    }

    fn of(member: &str, generation: i32, assigned: usize) -> SyncGroup {
        let assignments = [("b-1".to_string(), Bytes::from(vec![0; assigned]))].into_iter().collect();
        SyncGroup { member: member.into(), generation, assignments, ..SyncGroup::default() }
    }

    #[test]
    fn a_leader_whose_assignment_does_not_fit_is_out_and_the_others_go_on_at_once() {
        let mut group = Group::new(Settings::for_tests().rules, 0);
        join(&mut group, 1, "a-1", "");
        join(&mut group, 2, "b-1", "");
        join(&mut group, 3, "", "a-1");
        assert_eq!((group.leader.as_deref(), group.generation), (Some("a-1"), 2));
        assert_eq!(group.sync(Ticket(4), of("b-1", 2, 0), 2), []);
        let told = group.sync(Ticket(5), of("a-1", 2, MEMBER_BYTES_MAX), 3);
        let expected = [
            Effect::Synced(Ticket(4), Err(GroupError::RebalanceInProgress)),
            Effect::Synced(Ticket(5), Err(GroupError::MemberTooLarge)),
        ];
        assert_eq!(told, expected);
        assert_eq!(group.causes.as_ref().map(|causes| causes.others), Some(2), "it is in the history");
        assert!(matches!(join(&mut group, 6, "", "b-1")[..], [Effect::Joined(Ticket(6), Ok(_))]));
        assert_eq!((group.leader.as_deref(), group.generation), (Some("b-1"), 3));
    }
}
