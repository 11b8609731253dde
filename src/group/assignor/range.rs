//! Of each topic a range of neighbouring partitions.
//!
//! Topics with as many partitions and the same subscribers are cut at the same places, so a member gets the same
//! partition numbers of all of them: what joins need. The members' order is that of what they hold now, newcomers last.

use super::classes::Class;
use super::problem::{Owned, Subscriber, Topics};
use crate::ids::TopicId;
use std::collections::BTreeMap;

pub fn assign(members: &[Subscriber<'_>], topics: &Topics, classes: &[Class]) -> Vec<Owned> {
    let mut targets = vec![Owned::new(); members.len()];
    for class in classes {
        let mut sizes: BTreeMap<i32, Vec<TopicId>> = BTreeMap::new();
        for topic in &class.topics {
            sizes.entry(topics[topic].partitions.max(0)).or_default().push(*topic);
        }
        for (size, topics) in sizes {
            cut(members, &class.members, &topics, size, &mut targets);
        }
    }
    targets
}

fn cut(members: &[Subscriber<'_>], own: &[usize], topics: &[TopicId], size: i32, targets: &mut [Owned]) {
    let mut order = own.to_vec();
    order.sort_by_cached_key(|member| {
        let subscriber = &members[*member];
        let held = topics.iter().filter_map(|topic| subscriber.held.get(topic)?.first().copied()).min();
        // A static member that comes back under a new id has its old place.
        (held.unwrap_or(i32::MAX), subscriber.instance.is_none(), subscriber.instance.unwrap_or(subscriber.id))
    });
    let count = i32::try_from(order.len()).unwrap_or(i32::MAX);
    let (share, longer) = (size / count, size % count);
    let mut next = 0;
    for (index, member) in (0..).zip(order) {
        let end = next + share + i32::from(index < longer);
        if next < end {
            for topic in topics {
                targets[member].insert(*topic, (next..end).collect());
            }
        }
        next = end;
    }
}
