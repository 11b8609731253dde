//! Members of the classic protocol in a group of the new one, while an application's processes move over one by one.
//!
//! Such a member's generation is its member epoch. It joins to take a step, and syncs to learn what it has; that it must
//! join again is told to its heartbeats. What it owns it says in its subscription.

use super::Group;
use super::embedded::{self, Named, Subscription};
use super::member::{Member, Request, Waiting};
use crate::group::classic::{Join, Joined, Leaver, SyncGroup, Synced};
use crate::group::coordinator::GroupError;
use crate::group::machine::{Effect, Millis, Ticket};
use crate::group::settings::{GROUP_BYTES_MAX, MEMBER_ID_BYTES_MAX};
use crate::ids::TopicId;
use crate::metadata::group_change::*;
use crate::metadata::image::Image;

/// The protocol type of consumers.
pub const CONSUMER: &str = "consumer";

impl Group {
    /// A classic member joins, or comes back for its next step. `fresh_id` is used if it needs a new id.
    pub fn join(&mut self, ticket: Ticket, join: &Join, fresh_id: String, now: Millis) -> Vec<Effect> {
        if let Err(error) = self.take_join(ticket, join, fresh_id, now) {
            self.effects.push(Effect::Joined(ticket, Err(error)));
        }
        self.settle(now);
        self.take_effects()
    }

    fn take_join(&mut self, ticket: Ticket, join: &Join, fresh_id: String, now: Millis) -> Result<(), GroupError> {
        self.check_alive()?;
        join.check(&self.rules)?;
        let subscription = self.check_protocols(join)?;
        if join.member.is_empty() && join.instance.is_none() && join.member_id_required {
            self.check_size()?;
            return Err(GroupError::MemberIdRequired(fresh_id));
        }
        let id = if join.member.is_empty() { fresh_id } else { join.member.clone() };
        if id.len() > MEMBER_ID_BYTES_MAX {
            // No id that was ever given out: with none its client gets one.
            return Err(GroupError::UnknownMember);
        }
        let gives_way = self.members.get(&id).map_or(0, |member| member.counted.said);
        if (self.counted.said + join_bytes(join, &id)).saturating_sub(gives_way) > GROUP_BYTES_MAX {
            return Err(GroupError::GroupFull);
        }
        // Its topics are kept by themselves and within its protocols.
        let named: usize = subscription.topics.iter().map(|topic| topic.len() + 8).sum();
        self.check_fits(&id, join_bytes(join, &id) + named)?;
        let mut is_new = !self.members.contains_key(&id);
        let place = match &join.instance {
            Some(instance) => self.statics.get(instance).cloned(),
            None => self.members.contains_key(&id).then(|| id.clone()),
        };
        match place {
            Some(place) if place == id => {}
            Some(former) if join.member.is_empty() => {
                is_new = false;
                self.take_place(&former, &id);
            }
            Some(_) => return Err(GroupError::FencedInstance),
            None if join.instance.is_some() && !join.member.is_empty() => return Err(GroupError::UnknownMember),
            // It was put out and does not know it: what it owns is others' by now. With no id it owns nothing. Who was
            // given an id in advance owns nothing yet.
            None if !join.member.is_empty() && !subscription.owned.is_empty() => return Err(GroupError::UnknownMember),
            None => {
                self.check_size()?;
                self.add(&id, join.instance.clone());
            }
        }
        let owned = self.by_id(&subscription.owned);
        self.take_subscription(&id, join, subscription, is_new);
        self.refresh_session(&id, now);
        self.park(&id, Waiting { request: Request::Join(ticket), owned: Some(owned), known: None, is_written: false });
        Ok(())
    }

    /// A static member comes back without its id; its former self is fenced, of whichever protocol it was.
    fn take_place(&mut self, former: &str, id: &str) {
        let Some(mut member) = self.take_out(former, &GroupError::FencedInstance) else { return };
        member.stored.member_epoch = 0;
        member.stored.previous_epoch = 0;
        member.stored.classic = None;
        self.insert(id.to_string(), member);
    }

    /// The join is a consumer's, and it has a protocol in common with the other classic members.
    fn check_protocols(&self, join: &Join) -> Result<Subscription, GroupError> {
        let own = self.members.get(&join.member).and_then(|member| member.stored.classic.as_ref());
        let has_common = join.protocols.iter().any(|(name, _)| self.supporters.all_but(own, name));
        if join.protocol_type != CONSUMER || !has_common {
            return Err(GroupError::InconsistentProtocol);
        }
        // All of a consumer's protocols carry the same topics.
        let first = join.protocols.first().ok_or(GroupError::InconsistentProtocol)?;
        embedded::subscription(&first.1).ok_or(GroupError::InconsistentProtocol)
    }

    fn take_subscription(&mut self, id: &str, join: &Join, subscription: Subscription, is_new: bool) {
        let protocols = join.protocols.iter().map(|(name, data)| (name.clone(), self.draft.acquire(data))).collect();
        let Some(member) = self.members.get_mut(id) else { return };
        let before = member.stored.clone();
        let stored = &mut member.stored;
        stored.client_id.clone_from(&join.client_id);
        stored.client_host.clone_from(&join.client_host);
        let timeout = join.rebalance_timeout_ms;
        stored.rebalance_timeout_ms = if timeout < 0 { join.session_timeout_ms } else { timeout };
        if subscription.rack.is_some() {
            stored.rack_id = subscription.rack;
        }
        stored.subscribed_topics = subscription.topics;
        stored.subscribed_topics.sort_unstable();
        stored.subscribed_topics.dedup();
        stored.subscribed_regex = None;
        stored.assignor = None;
        let former = stored.classic.replace(ClassicPart { session_timeout_ms: join.session_timeout_ms, protocols });
        self.supporters.remove(former.as_ref());
        self.supporters.add(stored.classic.as_ref());
        member.rebalance_deadline = None;
        self.note_changes(id, &before, is_new);
        for (_, blob) in former.iter().flat_map(|classic| &classic.protocols) {
            self.draft.release(*blob);
        }
    }

    /// The step is committed: the member learns its generation, and must sync in time.
    pub(super) fn answer_join(&mut self, ticket: Ticket, id: &str, now: Millis) {
        self.expect_within_rebalance(id, now);
        let member = &self.members[id];
        let joined = Joined {
            member: id.to_string(),
            generation: member.stored.member_epoch,
            protocol_type: CONSUMER.to_string(),
            protocol: protocol(member),
            // Nobody assigns for the others.
            leader: String::new(),
            members: Vec::new(),
            skip_assignment: false,
        };
        self.effects.push(Effect::Joined(ticket, Ok(joined)));
    }

    fn expect_within_rebalance(&mut self, id: &str, now: Millis) {
        let Some(member) = self.members.get_mut(id) else { return };
        let deadline = *member.rebalance_deadline.get_or_insert(now + member.rebalance_timeout());
        self.expect_by(deadline);
    }

    /// Answered at once: what it reveals was committed before the join was answered.
    pub fn sync(&mut self, ticket: Ticket, sync: &SyncGroup, now: Millis) -> Vec<Effect> {
        let answer = self.synced(sync, now);
        self.effects.push(Effect::Synced(ticket, answer));
        self.take_effects()
    }

    fn synced(&mut self, sync: &SyncGroup, now: Millis) -> Result<Synced, GroupError> {
        self.check_classic(&sync.member, sync.instance.as_deref(), sync.generation)?;
        let member = &self.members[&sync.member];
        let own = protocol(member);
        let is_other_type = sync.protocol_type.as_ref().is_some_and(|given| given != CONSUMER);
        if is_other_type || sync.protocol.as_ref().is_some_and(|given| *given != own) {
            return Err(GroupError::InconsistentProtocol);
        }
        // One that is asked to revoke joined already; it is told of the newer epoch when it has.
        if member.stored.member_epoch < self.epoch && member.stored.state != MemberState::Unrevoked {
            self.expect_within_rebalance(&sync.member, now);
            return Err(GroupError::RebalanceInProgress);
        }
        let metadata = member.stored.classic.iter().flat_map(|classic| &classic.protocols).next();
        let metadata = metadata.map(|(_, blob)| self.draft.bytes(*blob)).unwrap_or_default();
        let version = embedded::subscription(&metadata).map_or(0, |subscription| subscription.version);
        let assignment = embedded::assignment(version, &self.by_name(&member.stored.assigned));
        if let Some(member) = self.members.get_mut(&sync.member) {
            member.rebalance_deadline = None;
        }
        self.refresh_session(&sync.member, now);
        Ok(Synced { protocol_type: CONSUMER.to_string(), protocol: own, assignment })
    }

    /// A heartbeat of the classic protocol. `RebalanceInProgress`: there is a step to take.
    pub fn classic_heartbeat(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<(), GroupError> {
        self.check_classic(id, instance, generation)?;
        self.refresh_session(id, now);
        let member = &self.members[id];
        let waits_in_vain = || {
            let free = |topic: &TopicId, partition: &i32| !self.owners.contains_key(&(*topic, *partition));
            member.stored.target.iter().any(|(topic, list)| list.iter().any(|partition| free(topic, partition)))
        };
        let has_step = match member.stored.state {
            _ if member.stored.member_epoch < self.epoch => true,
            MemberState::Unrevoked => true,
            MemberState::Unreleased => waits_in_vain(),
            MemberState::Stable => false,
        };
        if has_step {
            self.expect_within_rebalance(id, now);
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Of a LeaveGroup. Operators name static members by their instance alone.
    pub fn classic_leave(&mut self, leaver: &Leaver, now: Millis) -> (Result<(), GroupError>, Vec<Effect>) {
        let outcome = self.take_leaver(leaver);
        self.settle(now);
        (outcome, self.take_effects())
    }

    fn take_leaver(&mut self, leaver: &Leaver) -> Result<(), GroupError> {
        self.check_alive()?;
        let id = match &leaver.instance {
            None => leaver.member.clone(),
            Some(instance) => match self.statics.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(id) if !leaver.member.is_empty() && *id != leaver.member => {
                    return Err(GroupError::FencedInstance);
                }
                Some(id) => id.clone(),
            },
        };
        if !self.members.get(&id).is_some_and(Member::is_classic) {
            return Err(GroupError::UnknownMember);
        }
        self.take_out(&id, &GroupError::UnknownMember);
        self.because(RebalanceReason::MemberLeft(id));
        Ok(())
    }

    fn check_classic(&self, id: &str, instance: Option<&str>, generation: i32) -> Result<(), GroupError> {
        self.check_alive()?;
        if let Some(instance) = instance {
            match self.statics.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if current != id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        let member = self.members.get(id).filter(|member| member.is_classic()).ok_or(GroupError::UnknownMember)?;
        if member.stored.member_epoch == generation { Ok(()) } else { Err(GroupError::IllegalGeneration) }
    }

    /// What exists of these topics.
    pub(super) fn by_id(&self, named: &Named) -> TopicPartitions {
        let id = |name: &String| self.image.topic_ids.get(name).copied();
        named.iter().filter_map(|(name, partitions)| Some((id(name)?, partitions.clone()))).collect()
    }

    pub(super) fn by_name(&self, assigned: &TopicPartitions) -> Named {
        by_name(assigned, &self.image)
    }
}

/// What exists of these topics.
pub(super) fn by_name(assigned: &TopicPartitions, image: &Image) -> Named {
    let name = |topic: TopicId| image.topic(topic).map(|topic| topic.name.clone());
    assigned.iter().filter_map(|(topic, partitions)| Some((name(*topic)?, partitions.clone()))).collect()
}

/// About what the group must keep of a join.
fn join_bytes(join: &Join, id: &str) -> usize {
    let protocols: usize = join.protocols.iter().map(|(name, data)| name.len() + data.len()).sum();
    id.len() + join.client_id.len() + join.client_host.len() + protocols
}

/// The protocol that a classic member is told: its own first choice, since nobody assigns by it.
fn protocol(member: &Member) -> String {
    let first = member.stored.classic.iter().flat_map(|classic| &classic.protocols).next();
    first.map(|(name, _)| name.clone()).unwrap_or_default()
}
