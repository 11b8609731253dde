//! A group passes from the classic protocol to this one and back, while its members go on (KIP-848's online migration).
//!
//! The first member that speaks the new protocol takes the group over: generations go on as epochs, what classic members
//! were assigned is theirs until they give it up. Once the last such member is gone the classic ones have the group.

use super::Group;
use super::classic::{CONSUMER, by_name};
use super::embedded;
use super::member::Member;
use crate::group::classic::{self, Handover};
use crate::group::coordinator::GroupError;
use crate::group::machine::{Effect, Millis};
use crate::group::settings::Rules;
use crate::metadata::group_change::{
    ClassicMember, ClassicPart, ConsumerMember, GroupMember, MemberState, RebalanceReason,
};
use crate::metadata::image::{Image, groups};
use bytes::Bytes;
use std::sync::Arc;

/// May a member of the new protocol take the group over?
pub fn may_upgrade(group: &classic::Group, rules: &Rules) -> Result<(), GroupError> {
    if group.member_count() > 0 && group.member_count() >= rules.consumer.size_max {
        return Err(GroupError::GroupFull);
    }
    if is_upgradable(group, rules) { Ok(()) } else { Err(GroupError::GroupNotFound) }
}

/// Nobody is in it, or consumers whose bytes can be read, and the policy allows it.
pub fn is_upgradable(group: &classic::Group, rules: &Rules) -> bool {
    let is_readable = |(subscription, assignment)| {
        embedded::subscription(&subscription).is_some() && embedded::read_assignment(&assignment).is_some()
    };
    let is_of_consumers = || group.protocol_type() == CONSUMER && group.opaque().all(is_readable);
    group.member_count() == 0 || rules.consumer.upgrades && is_of_consumers()
}

impl Group {
    /// Goes on with the members of a classic group.
    pub fn take_over(name: &str, rules: Rules, handover: Handover, image: &Arc<Image>, now: Millis) -> Group {
        let mut group = Group::new(name, rules, handover.epoch, now);
        group.see(image);
        group.seen = image.topic_ids.clone();
        group.draft = handover.draft;
        group.is_stored = handover.is_stored;
        for (id, member) in handover.members {
            let stored = group.taken_over(member);
            // No partition has two owners, whatever the leader of the group may have said.
            let mut member = Member { stored, is_known: true, ..Member::default() };
            for (topic, partitions) in &mut member.stored.assigned {
                partitions.retain(|partition| !group.owners.contains_key(&(*topic, *partition)));
            }
            member.stored.assigned.retain(|_, partitions| !partitions.is_empty());
            member.stored.target.clone_from(&member.stored.assigned);
            group.insert(id, member);
        }
        for id in group.members.keys().cloned().collect::<Vec<_>>() {
            group.claim_unrevoked(&id);
        }
        group.restart_sessions(now);
        // Members go on at the generation that they were told.
        group.epoch = handover.floor.max(group.epoch);
        group.assignment_epoch = group.epoch;
        group.is_dirty = true;
        if group.members.is_empty() {
            return group;
        }
        group.because(RebalanceReason::ProtocolChanged);
        group
    }

    pub(super) fn taken_over(&self, member: ClassicMember) -> ConsumerMember {
        let first = member.protocols.first().map(|(_, blob)| self.draft.bytes(*blob)).unwrap_or_default();
        let subscription = embedded::subscription(&first).unwrap_or_default();
        let assigned = embedded::read_assignment(&member.assignment).unwrap_or_default();
        let mut topics = subscription.topics;
        topics.sort_unstable();
        topics.dedup();
        ConsumerMember {
            instance_id: member.instance_id,
            rack_id: subscription.rack,
            client_id: member.client_id,
            client_host: member.client_host,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            subscribed_topics: topics,
            member_epoch: self.epoch,
            previous_epoch: self.epoch,
            assigned: self.by_id(&assigned),
            classic: Some(ClassicPart { session_timeout_ms: member.session_timeout_ms, protocols: member.protocols }),
            ..ConsumerMember::default()
        }
    }

    /// A cooperative member owns what it said that it owns until it joins again without it, even if it is not assigned to
    /// it any more. Unless another has it: then what it said is old. Called once all that is assigned is in `owners`.
    pub(super) fn claim_unrevoked(&mut self, id: &str) {
        let Some(member) = self.members.get(id) else { return };
        let protocols = member.stored.classic.iter().flat_map(|classic| &classic.protocols);
        let first = protocols.map(|(_, blob)| self.draft.bytes(*blob)).next().unwrap_or_default();
        let mut claimed = self.by_id(&embedded::subscription(&first).unwrap_or_default().owned);
        for (topic, partitions) in &mut claimed {
            partitions.retain(|partition| !self.owners.contains_key(&(*topic, *partition)));
        }
        claimed.retain(|_, partitions| !partitions.is_empty());
        let Some(member) = self.members.get_mut(id).filter(|_| !claimed.is_empty()) else { return };
        member.stored.pending_revocation = claimed;
        member.stored.state = MemberState::Unrevoked;
        self.own(id);
        self.touch(id);
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Nobody is left who speaks the new protocol, but some who speak the old.
    pub fn wants_downgrade(&self) -> bool {
        self.rules.consumer.downgrades
            && self.death.is_none()
            && !self.members.is_empty()
            && self.members.len() <= self.rules.group_size_max
            && self.members.values().all(Member::is_classic)
    }

    /// All members with what is committed of them. Who waits is told to join again; who left has left.
    pub fn hand_over(mut self) -> (Handover, Vec<Effect>) {
        let mut effects: Vec<Effect> = std::mem::take(&mut self.leavers)
            .into_iter()
            .map(|(ticket, answer, _)| Effect::Beaten(ticket, Ok(answer)))
            .collect();
        effects.extend(self.end(GroupError::RebalanceInProgress));
        // Who never heard of its id joins anew; it might be waited for though its client is gone.
        let is_ghost = |member: &Member| !member.is_known && member.stored.instance_id.is_none();
        let ghosts: Vec<String> =
            self.members.iter().filter(|(_, member)| is_ghost(member)).map(|(id, _)| id.clone()).collect();
        for id in &ghosts {
            self.take_out(id, &GroupError::RebalanceInProgress);
        }
        // The last generation that any of them was told, so that it learns by its heartbeats that it must join again.
        let told = self.members.values().map(|member| member.stored.member_epoch).filter(|epoch| *epoch > 0).max();
        let epoch = told.unwrap_or(self.epoch);
        let members = std::mem::take(&mut self.members);
        let members = members.into_iter().map(|(id, member)| {
            let classic = member.stored.classic.clone().unwrap_or_default();
            let first = classic.protocols.first().map(|(_, blob)| self.draft.bytes(*blob)).unwrap_or_default();
            (id, handed_over(member.stored, classic, &first, &self.image))
        });
        let members = members.collect();
        (Handover { epoch, floor: self.epoch, members, draft: self.draft, is_stored: self.is_stored }, effects)
    }
}

/// As the classic protocol stores this member. `first`: the metadata of the first of its protocols.
fn handed_over(stored: ConsumerMember, classic: ClassicPart, first: &Bytes, image: &Image) -> ClassicMember {
    let version = embedded::subscription(first).map_or(0, |subscription| subscription.version);
    ClassicMember {
        instance_id: stored.instance_id,
        client_id: stored.client_id,
        client_host: stored.client_host,
        session_timeout_ms: classic.session_timeout_ms,
        rebalance_timeout_ms: stored.rebalance_timeout_ms,
        protocols: classic.protocols,
        assignment: embedded::assignment(version, &by_name(&stored.assigned, image)),
    }
}

/// The write that gave the group back to its classic members was torn: whom it did not come to is converted as it would
/// have been. Who speaks the new protocol alone has left, and stays out. Also who must be written anew.
pub fn classic_of_torn(stored: &groups::Group, image: &Image) -> (groups::Group, Vec<String>) {
    let mut whole = stored.clone();
    let mut changed = Vec::new();
    for (id, member) in &stored.members {
        let GroupMember::Consumer(member) = member.as_ref() else { continue };
        let Some(classic) = &member.classic else { continue };
        let first = classic.protocols.first().and_then(|(_, blob)| stored.blobs.get(blob));
        let first = first.map(|blob| blob.bytes.clone()).unwrap_or_default();
        let member = handed_over(member.clone(), classic.clone(), &first, image);
        whole.members.insert(id.clone(), Arc::new(GroupMember::Classic(member)));
        changed.push(id.clone());
    }
    (whole, changed)
}
