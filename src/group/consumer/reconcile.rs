//! One member's next step towards its target: what it must give up first, what it gets, what it waits for.

use crate::ids::TopicId;
use crate::metadata::group_change::{ConsumerMember, MemberState, TopicPartitions};

/// Invariant: `assigned` and `pending_revocation` share no partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub epoch: i32,
    pub state: MemberState,
    pub assigned: TopicPartitions,
    pub pending_revocation: TopicPartitions,
}

/// `owned`: what the member says it owns, if it says so. `is_free`: nobody else has the partition. `None`: it stays
/// where it is.
pub fn next(
    member: &ConsumerMember,
    target_epoch: i32,
    owned: Option<&TopicPartitions>,
    is_free: impl Fn(TopicId, i32) -> bool,
) -> Option<Step> {
    let epoch = match member.state {
        MemberState::Stable if member.member_epoch == target_epoch => return None,
        MemberState::Stable | MemberState::Unreleased => member.member_epoch,
        MemberState::Unrevoked if still_owns(owned, &member.pending_revocation) => return None,
        // It may have to give up more before it reaches the target; in an epoch of its own all the same, so that an
        // answer that got lost is told from one that was heard.
        MemberState::Unrevoked => (member.member_epoch + 1).min(target_epoch),
    };
    let kept = intersection(&member.assigned, &member.target);
    let revoked = difference(&member.assigned, &kept);
    if !revoked.is_empty() && still_owns(owned, &revoked) {
        let (assigned, state) = (kept, MemberState::Unrevoked);
        return Some(Step { epoch, state, assigned, pending_revocation: revoked });
    }
    let wanted = difference(&member.target, &kept);
    let mut assigned = kept;
    let mut waits = false;
    for (topic, partitions) in &wanted {
        let free: Vec<i32> = partitions.iter().copied().filter(|partition| is_free(*topic, *partition)).collect();
        waits |= free.len() < partitions.len();
        if !free.is_empty() {
            let own = assigned.entry(*topic).or_default();
            own.extend(free);
            own.sort_unstable();
        }
    }
    let state = if waits { MemberState::Unreleased } else { MemberState::Stable };
    Some(Step { epoch: target_epoch, state, assigned, pending_revocation: TopicPartitions::new() })
}

/// A member that does not say what it owns owns all of it still.
fn still_owns(owned: Option<&TopicPartitions>, partitions: &TopicPartitions) -> bool {
    owned.is_none_or(|owned| !intersection(owned, partitions).is_empty())
}

/// Everything that the first has is in the second.
pub fn is_subset(inner: &TopicPartitions, outer: &TopicPartitions) -> bool {
    inner.iter().all(|(topic, partitions)| {
        let outer = outer.get(topic);
        partitions.iter().all(|partition| outer.is_some_and(|outer| outer.binary_search(partition).is_ok()))
    })
}

/// What of the first is in the second, and what is not.
pub fn parted(held: &TopicPartitions, target: &TopicPartitions) -> (TopicPartitions, TopicPartitions) {
    (intersection(held, target), difference(held, target))
}

fn intersection(left: &TopicPartitions, right: &TopicPartitions) -> TopicPartitions {
    filtered(left, |topic, partition| right.get(&topic).is_some_and(|right| right.binary_search(&partition).is_ok()))
}

fn difference(left: &TopicPartitions, right: &TopicPartitions) -> TopicPartitions {
    filtered(left, |topic, partition| right.get(&topic).is_none_or(|right| right.binary_search(&partition).is_err()))
}

fn filtered(partitions: &TopicPartitions, keep: impl Fn(TopicId, i32) -> bool) -> TopicPartitions {
    let each = partitions.iter().map(|(topic, partitions)| {
        (*topic, partitions.iter().copied().filter(|partition| keep(*topic, *partition)).collect::<Vec<_>>())
    });
    each.filter(|(_, partitions)| !partitions.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn of(partitions: &[i32]) -> TopicPartitions {
        if partitions.is_empty() {
            return TopicPartitions::new();
        }
        TopicPartitions::from([(TopicId(Uuid::nil()), partitions.to_vec())])
    }

    fn member(epoch: i32, state: MemberState, assigned: &[i32], pending: &[i32], target: &[i32]) -> ConsumerMember {
        ConsumerMember {
            member_epoch: epoch,
            state,
            assigned: of(assigned),
            pending_revocation: of(pending),
            target: of(target),
            ..ConsumerMember::default()
        }
    }

    fn step(epoch: i32, state: MemberState, assigned: &[i32], pending: &[i32]) -> Option<Step> {
        Some(Step { epoch, state, assigned: of(assigned), pending_revocation: of(pending) })
    }

    #[test]
    fn nothing_to_do_at_the_target() {
        assert_eq!(next(&member(5, MemberState::Stable, &[1], &[], &[1]), 5, None, |_, _| true), None);
    }

    #[test]
    fn revocation_comes_before_assignment() {
        let stable = member(5, MemberState::Stable, &[1, 2], &[], &[2, 3]);
        let asked = step(5, MemberState::Unrevoked, &[2], &[1]);
        assert_eq!(next(&stable, 6, None, |_, _| true), asked, "who says nothing has all of it");
        assert_eq!(next(&stable, 6, Some(&of(&[1, 2])), |_, _| true), asked);
        let unrevoked = member(5, MemberState::Unrevoked, &[2], &[1], &[2, 3]);
        assert_eq!(next(&unrevoked, 6, None, |_, _| true), None);
        assert_eq!(next(&unrevoked, 6, Some(&of(&[1])), |_, _| true), None);
        assert_eq!(next(&unrevoked, 6, Some(&of(&[2])), |_, _| true), step(6, MemberState::Stable, &[2, 3], &[]));
        assert_eq!(next(&unrevoked, 6, Some(&of(&[])), |_, _| false), step(6, MemberState::Unreleased, &[2], &[]));
    }

    #[test]
    fn a_member_that_owns_nothing_has_nothing_to_revoke() {
        let stable = member(5, MemberState::Stable, &[1, 2], &[], &[2, 3]);
        assert_eq!(next(&stable, 6, Some(&of(&[])), |_, _| true), step(6, MemberState::Stable, &[2, 3], &[]));
    }

    #[test]
    fn what_becomes_free_is_given_at_once_and_the_rest_is_waited_for() {
        let waiting = member(6, MemberState::Unreleased, &[2], &[], &[2, 3, 4]);
        let only = |free: i32| move |_: TopicId, partition: i32| partition == free;
        assert_eq!(next(&waiting, 6, None, only(4)), step(6, MemberState::Unreleased, &[2, 4], &[]));
        assert_eq!(next(&waiting, 6, None, only(9)), step(6, MemberState::Unreleased, &[2], &[]));
    }

    #[test]
    fn a_target_that_moves_on_meanwhile_is_taken_up_after_the_revocation() {
        let unrevoked = member(5, MemberState::Unrevoked, &[2, 3], &[1], &[2]);
        let again = step(6, MemberState::Unrevoked, &[2], &[3]);
        assert_eq!(next(&unrevoked, 9, Some(&of(&[2, 3])), |_, _| true), again);
        assert_eq!(next(&unrevoked, 9, Some(&of(&[2])), |_, _| true), step(9, MemberState::Stable, &[2], &[]));
    }

    #[test]
    fn a_subset_is_of_each_topic() {
        assert!(is_subset(&of(&[]), &of(&[])) && is_subset(&of(&[2]), &of(&[1, 2])));
        assert!(!is_subset(&of(&[3]), &of(&[1, 2])) && !is_subset(&of(&[1]), &of(&[])));
    }
}
