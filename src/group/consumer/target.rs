//! From subscriptions and the metadata image to everyone's target.

use super::member::Member;
use crate::group::assignor::{Assignor, Subscriber, TopicShape, Topics, assign};
use crate::ids::TopicId;
use crate::metadata::group_change::{ConsumerMember, TopicPartitions};
use crate::metadata::image::Image;
use crate::metadata::raft::types::digest;
use std::collections::{BTreeMap, BTreeSet};

/// How many partitions each subscribed topic has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape(pub BTreeMap<TopicId, i32>);

impl Shape {
    pub fn hash(&self) -> u64 {
        digest(&self.0)
    }

    /// A topic that is in one only, or has other partitions there.
    pub fn difference(&self, other: &Shape) -> Option<TopicId> {
        let differs = |(topic, count): (&TopicId, &i32), there: &Shape| there.0.get(topic) != Some(count);
        let here = self.0.iter().find(|one| differs(*one, other));
        here.or_else(|| other.0.iter().find(|one| differs(*one, self))).map(|(topic, _)| *topic)
    }
}

pub(super) struct Found {
    pub targets: Vec<(String, TopicPartitions)>,
    pub shape: Shape,
}

type Patterns = BTreeMap<String, BTreeSet<TopicId>>;

/// What most members ask for; the default if nobody asks.
pub(super) fn preferred_assignor<'a>(members: impl Iterator<Item = &'a ConsumerMember>) -> Assignor {
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for name in members.filter_map(|member| member.assignor.as_deref()) {
        *votes.entry(name).or_default() += 1;
    }
    let mut best = (Assignor::default(), 0);
    for assignor in Assignor::ALL {
        let count = votes.get(assignor.name()).copied().unwrap_or(0);
        if count > best.1 {
            best = (assignor, count);
        }
    }
    best.0
}

/// The subscribed topics that exist, as they are now.
pub(super) fn shape(members: &BTreeMap<String, Member>, patterns: &Patterns, image: &Image) -> Shape {
    let wishes = Wishes::of(members, patterns, image);
    wishes.shape(image)
}

/// Each distinct subscription, resolved once.
struct Wishes<'a>(BTreeMap<(&'a [String], Option<&'a str>), BTreeSet<TopicId>>);

impl<'a> Wishes<'a> {
    fn of(members: &'a BTreeMap<String, Member>, patterns: &Patterns, image: &Image) -> Wishes<'a> {
        let mut wishes = Wishes(BTreeMap::new());
        for member in members.values() {
            wishes.0.entry(wish(&member.stored)).or_insert_with_key(|(names, regex)| {
                let named = names.iter().filter_map(|name| image.topic_ids.get(name));
                let matching = regex.and_then(|text| patterns.get(text)).into_iter().flatten();
                named.chain(matching).copied().collect()
            });
        }
        wishes
    }

    fn shape(&self, image: &Image) -> Shape {
        let all: BTreeSet<TopicId> = self.0.values().flatten().copied().collect();
        let count =
            |topic: TopicId| Some((topic, i32::try_from(image.topic(topic)?.partitions.len()).unwrap_or(i32::MAX)));
        Shape(all.into_iter().filter_map(count).collect())
    }
}

fn wish(stored: &ConsumerMember) -> (&[String], Option<&str>) {
    (&stored.subscribed_topics, stored.subscribed_regex.as_deref())
}

pub(super) fn compute(
    members: &BTreeMap<String, Member>,
    assignor: Assignor,
    patterns: &Patterns,
    image: &Image,
) -> Found {
    let wishes = Wishes::of(members, patterns, image);
    let shape = wishes.shape(image);
    let has_racks = members.values().any(|member| member.stored.rack_id.is_some());
    let topics: Topics = shape
        .0
        .iter()
        .map(|(topic, partitions)| {
            let racks = if has_racks { racks(image, *topic) } else { Vec::new() };
            (*topic, TopicShape { partitions: *partitions, racks })
        })
        .collect();
    let subscribers: Vec<Subscriber<'_>> = members
        .iter()
        .map(|(id, member)| Subscriber {
            id,
            instance: member.stored.instance_id.as_deref(),
            rack: member.stored.rack_id.as_deref(),
            topics: &wishes.0[&wish(&member.stored)],
            held: &member.stored.target,
        })
        .collect();
    let targets = assign(assignor, &subscribers, &topics);
    Found { targets: members.keys().cloned().zip(targets).collect(), shape }
}

/// The racks of each partition's replicas.
fn racks(image: &Image, topic: TopicId) -> Vec<BTreeSet<String>> {
    let of = |broker| image.brokers.get(broker)?.registration.rack.clone();
    let partitions = image.topic(topic).into_iter().flat_map(|topic| topic.partitions.iter());
    partitions.map(|partition| partition.replicas.iter().filter_map(of).collect()).collect()
}
