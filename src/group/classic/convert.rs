//! A group passes from this protocol to the consumer protocol, or comes back from it (KIP-848's online migration).

use super::group::{Group, Phase};
use super::member::Member;
use crate::group::coordinator::GroupError;
use crate::group::draft::Draft;
use crate::group::machine::{Effect, Millis};
use crate::group::settings::Rules;
use crate::metadata::group_change::{ClassicMember, GroupMember, RebalanceReason};
use bytes::Bytes;

/// What passes from one state machine to the other.
#[derive(Clone, Debug)]
pub struct Handover {
    /// Generation or epoch that members were told.
    pub epoch: i32,
    /// The highest that anybody was given: the next one is above.
    pub floor: i32,
    pub members: Vec<(String, ClassicMember)>,
    /// It names all of the members' bytes.
    pub draft: Draft,
    pub is_stored: bool,
}

impl Group {
    /// All members with what is committed of them. Who waits is told to join again.
    pub fn hand_over(mut self) -> (Handover, Vec<Effect>) {
        let effects = self.end(GroupError::RebalanceInProgress);
        // Whose first join was parked knows no id yet, or comes back with the one that it was given and has nothing to
        // lose. Kept, it might be waited for though its client is gone.
        let is_ghost = |member: &Member| member.is_new && member.instance.is_none();
        let ghosts: Vec<String> =
            self.members.iter().filter(|(_, member)| is_ghost(member)).map(|(id, _)| id.clone()).collect();
        for id in &ghosts {
            self.take_out(id);
        }
        let stored = |(id, member): (&String, &Member)| match member.stored(member.assignment.clone()) {
            GroupMember::Classic(member) => (id.clone(), member),
            GroupMember::Consumer(_) => unreachable!("a classic group has classic members"),
        };
        let members = self.members.iter().map(stored).collect();
        (
            Handover {
                epoch: self.generation,
                floor: self.floor,
                members,
                draft: self.draft,
                is_stored: self.is_stored,
            },
            effects,
        )
    }

    /// The members of a group of the consumer protocol that all speak the classic one by now: they join again.
    pub fn take_over(rules: Rules, handover: Handover, now: Millis) -> (Group, Vec<Effect>) {
        let mut group = Group::new(rules, now);
        group.generation = handover.epoch;
        group.floor = handover.floor;
        group.draft = handover.draft;
        group.is_stored = handover.is_stored;
        group.protocol_type = if handover.members.is_empty() { String::new() } else { "consumer".to_string() };
        for (id, member) in &handover.members {
            group.insert(id.clone(), Member::restore(member, now));
        }
        if handover.members.is_empty() && group.is_stored && !group.draft.is_settled() {
            // The image has members that went within the handover.
            group.emptied_again = Some(now);
        }
        if let Some(first) = handover.members.first() {
            group.leader = Some(first.0.clone());
            group.empty_check = None;
            group.phase = Phase::Stable;
            group.protocol = group.select_protocol();
            group.prepare_rebalance(RebalanceReason::ProtocolChanged, None, now);
        }
        let effects = group.take_effects();
        (group, effects)
    }

    /// The next write holds these members, whatever becomes of them.
    pub fn rewrite(&mut self, members: &[String]) {
        members.iter().for_each(|id| self.draft.touch(id));
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Each member's first protocol metadata and its assignment.
    pub fn opaque(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        self.members.values().map(|member| {
            let first = member.protocols.first().map(|(_, blob)| self.draft.bytes(*blob)).unwrap_or_default();
            (first, member.assignment.clone())
        })
    }
}
