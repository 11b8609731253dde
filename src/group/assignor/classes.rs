//! Topics with the same subscribers, taken together: to such members all these partitions are alike.

use super::problem::{Subscriber, Topics};
use crate::ids::TopicId;
use std::collections::{BTreeMap, BTreeSet};

/// Invariants: `members` are positions in the problem's list, ascending, at least one; `topics` exist.
#[derive(Debug, PartialEq, Eq)]
pub struct Class {
    pub members: Vec<usize>,
    pub topics: Vec<TopicId>,
}

/// The fewest subscribers first: what few may have is given out before what many may have.
pub fn classes(members: &[Subscriber<'_>], topics: &Topics) -> Vec<Class> {
    let mut subscriptions: BTreeMap<&BTreeSet<TopicId>, Vec<usize>> = BTreeMap::new();
    for (position, member) in members.iter().enumerate() {
        subscriptions.entry(member.topics).or_default().push(position);
    }
    let subscriptions: Vec<_> = subscriptions.into_iter().collect();
    let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (index, (wanted, _)) in subscriptions.iter().enumerate() {
        for topic in wanted.iter().filter(|topic| topics.contains_key(topic)) {
            subscribers.entry(*topic).or_default().push(index);
        }
    }
    let mut alike: BTreeMap<Vec<usize>, Vec<TopicId>> = BTreeMap::new();
    for (topic, indices) in subscribers {
        alike.entry(indices).or_default().push(topic);
    }
    let class = |(indices, topics): (Vec<usize>, Vec<TopicId>)| {
        let mut members: Vec<usize> = indices.into_iter().flat_map(|index| subscriptions[index].1.clone()).collect();
        members.sort_unstable();
        Class { members, topics }
    };
    let mut classes: Vec<Class> = alike.into_iter().map(class).collect();
    classes.sort_by_key(|class| class.members.len());
    classes
}
