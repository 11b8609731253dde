//! A new coordinator goes on from the image: same members, same epochs, sessions start anew.

use super::Group;
use super::member::Member;
use super::regex::Pattern;
use super::{reconcile, target};
use crate::group::assignor::Assignor;
use crate::group::draft::Draft;
use crate::group::machine::Millis;
use crate::group::settings::Rules;
use crate::ids::TopicId;
use crate::metadata::group_change::*;
use crate::metadata::image::{Image, groups};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Group {
    /// What changed while there was no coordinator is seen by [`Group::topics_changed`], which the shell calls next.
    pub fn restore(name: &str, rules: Rules, stored: &groups::Group, image: &Arc<Image>, now: Millis) -> Group {
        let mut group = Group::new(name, rules, stored.header.epoch(), now);
        group.see(image);
        group.seen = image.topic_ids.clone();
        group.is_stored = true;
        group.draft = Draft::restore(stored);
        let GroupHeader::Consumer { assignment_epoch, topics_hash, assignor, is_whole, .. } = &stored.header else {
            return group;
        };
        group.assignment_epoch = *assignment_epoch;
        group.assignor = Assignor::named(assignor).unwrap_or_default();
        let mut left_behind = Vec::new();
        for (id, member) in &stored.members {
            for blob in member.blobs() {
                group.draft.adopt(blob);
            }
            let member = match member.as_ref() {
                GroupMember::Consumer(member) => member.clone(),
                // The write that changed the protocol was torn before it came to this one, which was told nothing: it
                // has what it was assigned, in the generation before.
                GroupMember::Classic(member) => {
                    left_behind.push(id);
                    let taken = group.taken_over(member.clone());
                    let epoch = (group.epoch - 1).max(0);
                    let target = taken.assigned.clone();
                    ConsumerMember { member_epoch: epoch, previous_epoch: epoch, target, ..taken }
                }
            };
            if let Some(instance) = &member.instance_id {
                group.statics.insert(instance.clone(), id.clone());
            }
            if let Some(text) = &member.subscribed_regex
                && !group.patterns.contains_key(text)
            {
                let topics = Pattern::again(text).map(|pattern| pattern.resolve(image)).unwrap_or_default();
                group.patterns.insert(text.clone(), topics);
            }
            // Perhaps by the coordinator before.
            let member = Member { stored: member, is_known: true, ..Member::default() };
            group.supporters.add(member.stored.classic.as_ref());
            group.members.insert(id.clone(), member);
            group.count(id);
        }
        left_behind.iter().for_each(|id| group.touch(id));
        group.settle_claims();
        for id in group.members.keys().cloned().collect::<Vec<_>>() {
            group.own(&id);
        }
        left_behind.into_iter().for_each(|id| group.claim_unrevoked(id));
        if !group.members.is_empty() {
            group.empty_check = None;
        }
        group.restart_sessions(now);
        group.shape = target::shape(&group.members, &group.patterns, image);
        if !is_whole || group.assignment_epoch != group.epoch {
            group.because(RebalanceReason::CoordinatorMoved);
        } else if group.shape.hash() != *topics_hash && !group.members.is_empty() {
            // Which of them it was nobody knows any more.
            let first = group.shape.0.keys().next().and_then(|topic| image.topic(*topic));
            let name = first.map(|topic| topic.name.clone()).unwrap_or_default();
            group.because(RebalanceReason::PartitionsChanged(name));
        }
        group
    }

    /// After a torn write two members may claim one partition: the one that had it, whose release is not written, and
    /// the one that was to get it, and was not told. The latter reached the target of its epoch, the former was behind:
    /// the lower epoch is right. The other waits for it.
    fn settle_claims(&mut self) {
        let mut claims: BTreeMap<(TopicId, i32), (i32, String)> = BTreeMap::new();
        let mut wrong: BTreeMap<String, BTreeSet<(TopicId, i32)>> = BTreeMap::new();
        for (id, member) in &self.members {
            for partition in member.held() {
                let claim = (member.stored.member_epoch, id.clone());
                let later = match claims.get_mut(&partition) {
                    Some(held) if claim.0 < held.0 => std::mem::replace(held, claim),
                    Some(_) => claim,
                    None => {
                        claims.insert(partition, claim);
                        continue;
                    }
                };
                wrong.entry(later.1).or_default().insert(partition);
            }
        }
        for (id, partitions) in wrong {
            let Some(member) = self.members.get_mut(&id) else { continue };
            for list in [&mut member.stored.assigned, &mut member.stored.pending_revocation] {
                for (topic, held) in list.iter_mut() {
                    held.retain(|partition| !partitions.contains(&(*topic, *partition)));
                }
                list.retain(|_, held| !held.is_empty());
            }
            if member.stored.state == MemberState::Stable {
                member.stored.state = MemberState::Unreleased;
            }
            self.touch(&id);
        }
        debug_assert!(self.members.values().all(|member| {
            let pending = &member.stored.pending_revocation;
            pending.is_empty() || !reconcile::is_subset(pending, &member.stored.assigned)
        }));
    }
}
