//! A stored member travels in one command: what it is to have is cut so that it always fits.
//!
//! ```text
//! its wishes and names │ assigned │ pending revocation │ target   ≤ STORED_MEMBER_BYTES_MAX, at every step of its way
//! ```

use super::Group;
use super::reconcile;
use crate::group::coordinator::GroupError;
use crate::group::draft::Draft;
use crate::group::settings::STORED_MEMBER_BYTES_MAX;
use crate::metadata::group_change::{ConsumerMember, RebalanceReason, TopicPartitions};
use crate::metadata::raft::types::encoded_size;
use serde::Serialize;

/// What the member takes in a command, with the opaque bytes that it names.
pub(super) fn stored_bytes(id: &str, stored: &ConsumerMember, draft: &Draft) -> usize {
    let named = stored.classic.iter().flat_map(|classic| &classic.protocols);
    let named: usize = named.map(|(_, blob)| draft.bytes(*blob).len() + BLOB_BYTES).sum();
    size(&id) + size(stored) + named
}

/// A blob's name and length.
const BLOB_BYTES: usize = 16;

/// The part of a target that the member has room for, whole topics, and how many partitions are left out. What it has
/// already comes first, so that new topics move nothing.
pub(super) fn fitting(
    id: &str,
    stored: &ConsumerMember,
    target: TopicPartitions,
    draft: &Draft,
) -> (TopicPartitions, usize) {
    let lists = [&stored.assigned, &stored.pending_revocation, &stored.target];
    let rest = stored_bytes(id, stored, draft).saturating_sub(lists.into_iter().map(size).sum());
    let left = STORED_MEMBER_BYTES_MAX.saturating_sub(rest);
    // On its way it has what it had, of which it gives up some; at its end it has its target twice.
    let (kept, revoked) = reconcile::parted(&stored.assigned, &target);
    let on_its_way = size(&stored.pending_revocation) + size(&stored.assigned).max(size(&kept) + size(&revoked));
    let room = (left / 2).min(left.saturating_sub(on_its_way));
    if size(&target) <= room {
        return (target, 0);
    }
    let mut taken = TopicPartitions::new();
    let (mut bytes, mut left_out) = (LIST_BYTES, 0);
    let (held, new): (Vec<_>, Vec<_>) = target.into_iter().partition(|(topic, _)| stored.target.contains_key(topic));
    for (topic, partitions) in held.into_iter().chain(new) {
        let own = size(&(topic, &partitions));
        if bytes + own > room {
            left_out += partitions.len();
        } else {
            bytes += own;
            taken.insert(topic, partitions);
        }
    }
    (taken, left_out)
}

/// A list's length.
const LIST_BYTES: usize = 10;

impl Group {
    /// Does the member fit with wishes of so many bytes beside what it has? One that does not changes nothing.
    pub(super) fn check_fits(&self, id: &str, wishes: usize) -> Result<(), GroupError> {
        let has = self.members.get(id).map_or(0, |member| {
            let stored = &member.stored;
            [&stored.assigned, &stored.pending_revocation, &stored.target].into_iter().map(size).sum()
        });
        if wishes + has > STORED_MEMBER_BYTES_MAX { Err(GroupError::MemberTooLarge) } else { Ok(()) }
    }

    /// Each member could be written.
    pub(super) fn is_storable(&self) -> bool {
        self.members.iter().all(|(id, member)| stored_bytes(id, &member.stored, &self.draft) <= STORED_MEMBER_BYTES_MAX)
    }

    /// The last resort: a member that no command can carry must go, or nothing of the group is ever written again.
    /// True: there was one.
    pub(super) fn evict_oversized(&mut self) -> bool {
        let is_oversized = |id: &&String| {
            let member = self.members.get(id.as_str());
            member.is_some_and(|member| stored_bytes(id, &member.stored, &self.draft) > STORED_MEMBER_BYTES_MAX)
        };
        let oversized: Vec<String> = self.draft.changed().filter(is_oversized).cloned().collect();
        for id in &oversized {
            tracing::warn!(
                group = self.name,
                member = id,
                "a member is too large to be stored: it is put out of the group"
            );
            self.take_out(id, &GroupError::MemberTooLarge);
            self.because(RebalanceReason::MemberTooLarge(id.clone()));
        }
        !oversized.is_empty()
    }
}

fn size(value: &impl Serialize) -> usize {
    encoded_size(value).ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::consumer::Heartbeat;
    use crate::group::consumer::testing::topic;
    use crate::group::machine::{Effect, Machine, Ticket};
    use crate::group::settings::Settings;
    use crate::group::split::split;
    use crate::metadata::group_change::GroupWrite;
    use crate::metadata::image::Image;
    use std::sync::Arc;

    fn join(member: &str) -> Heartbeat {
        Heartbeat {
            group: "g".into(),
            member: member.into(),
            rebalance_timeout_ms: Some(60_000),
            owned: Some(TopicPartitions::new()),
            ..Heartbeat::default()
        }
    }

    fn image(topics: usize, partitions: i32, name: impl Fn(usize) -> String) -> Arc<Image> {
        let mut image = Image::default();
        for number in 0..topics {
            topic(&mut image, &name(number), partitions);
        }
        Arc::new(image)
    }

    /// All effects of it and of its commits; each write fits into commands.
    fn beat(machine: &mut Machine, image: &Arc<Image>, ticket: u64, beat: Heartbeat) -> Vec<Effect> {
        machine.see(|| image.clone());
        let mut all = Vec::new();
        let mut effects = machine.beat(Ticket(ticket), "g", beat, image, 0);
        while let Some(effect) = effects.pop() {
            if let Effect::Commit { attempt, write } = &effect {
                check(write);
                effects.extend(machine.committed(*attempt, Ok(()), 0));
            }
            all.push(effect);
        }
        all
    }

    fn check(write: &GroupWrite) {
        for part in split(write, |_, _| false) {
            let bytes = size(&part);
            // The controller's bound of one command, less the group's name and the change's numbers.
            assert!(bytes <= 235 * 1024, "{bytes} bytes in one command");
        }
    }

    fn told(effects: &[Effect], ticket: u64) -> Result<TopicPartitions, GroupError> {
        let of = |effect: &Effect| match effect {
            Effect::Beaten(own, answer) if *own == Ticket(ticket) => {
                Some(answer.clone().map(|answer| answer.assignment.unwrap_or_default()))
            }
            _ => None,
        };
        effects.iter().find_map(of).expect("it is answered")
    }

    #[test]
    fn a_member_is_given_no_more_than_a_command_carries() {
        let image = image(8_000, 3, |number| format!("t{number}"));
        let mut machine = Machine::new(Settings::for_tests().rules, 0);
        let all = Heartbeat { regex: Some(".*".into()), ..join("m1") };
        let has = told(&beat(&mut machine, &image, 1, all.clone()), 1).unwrap();
        assert!((4_000..8_000).contains(&has.len()), "{} topics", has.len());
        // Others take the rest, and each goes on being told.
        for (ticket, id) in [(2, "m2"), (3, "m3")] {
            told(&beat(&mut machine, &image, ticket, Heartbeat { member: id.into(), ..all.clone() }), ticket).unwrap();
        }
        let owned = Some(has.clone());
        let less = told(&beat(&mut machine, &image, 4, Heartbeat { epoch: 1, owned, ..all.clone() }), 4).unwrap();
        assert!(less.len() < has.len() && !less.is_empty());
        let owned = Some(less.clone());
        told(&beat(&mut machine, &image, 5, Heartbeat { epoch: 1, owned, ..all.clone() }), 5).unwrap();
        let others = told(&beat(&mut machine, &image, 6, Heartbeat { epoch: 2, member: "m2".into(), ..all }), 6);
        assert!(!others.unwrap().is_empty());
    }

    #[test]
    fn many_long_names_are_taken_and_still_more_change_nothing() {
        let name = |number: usize| format!("{number:0>16}{}", "x".repeat(34));
        let image = image(3_800, 1, name);
        let mut machine = Machine::new(Settings::for_tests().rules, 0);
        let names: Vec<String> = (0..3_800).map(name).collect();
        let large = Heartbeat { topics: Some(names.clone()), ..join("m1") };
        assert_eq!(large.check(), Ok(()));
        assert!(!told(&beat(&mut machine, &image, 1, large), 1).unwrap().is_empty());
        let other = Heartbeat { regex: Some(".*".into()), ..join("m2") };
        let has = told(&beat(&mut machine, &image, 2, other.clone()), 2).unwrap();
        assert!(has.len() > 1_000, "another is not kept from its work: {}", has.len());
        let more = Heartbeat { epoch: 2, topics: Some(names), owned: Some(has), ..other };
        assert_eq!(told(&beat(&mut machine, &image, 3, more), 3), Err(GroupError::MemberTooLarge));
    }

    #[test]
    fn a_member_that_no_command_carries_is_put_out_and_the_group_goes_on() {
        let image = image(2, 1, |number| format!("t{number}"));
        let mut machine = Machine::new(Settings::for_tests().rules, 0);
        let both = |id: &str| Heartbeat { topics: Some(vec!["t0".into(), "t1".into()]), ..join(id) };
        assert_eq!(told(&beat(&mut machine, &image, 1, both("m1")), 1).unwrap().len(), 2);
        assert_eq!(told(&beat(&mut machine, &image, 2, both("m2")), 2).unwrap().len(), 0, "m1 has it still");
        // No request is let through that makes one; an older version's image might hold one.
        let Machine::Consumer(group) = &mut machine else { panic!("a group of the new protocol") };
        group.members.get_mut("m1").expect("a member").stored.rack_id = Some("x".repeat(STORED_MEMBER_BYTES_MAX));
        let owned = Some(TopicPartitions::new());
        let gone = Heartbeat { epoch: 1, owned: owned.clone(), ..both("m1") };
        assert_eq!(told(&beat(&mut machine, &image, 3, gone), 3), Err(GroupError::MemberTooLarge));
        let left = Heartbeat { epoch: 2, owned, ..both("m2") };
        assert_eq!(told(&beat(&mut machine, &image, 4, left), 4).unwrap().len(), 2);
    }
}
