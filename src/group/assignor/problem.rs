//! What an assignor is given, and the door to both.

use super::classes::classes;
use super::{range, uniform};
use crate::ids::TopicId;
use std::collections::{BTreeMap, BTreeSet};

/// Partitions by topic, ascending.
pub type Owned = BTreeMap<TopicId, Vec<i32>>;

pub type Topics = BTreeMap<TopicId, TopicShape>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicShape {
    pub partitions: i32,
    /// The racks of each partition's replicas; empty where no broker tells its rack.
    pub racks: Vec<BTreeSet<String>>,
}

/// One member, as the assignor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber<'a> {
    pub id: &'a str,
    pub instance: Option<&'a str>,
    pub rack: Option<&'a str>,
    /// Topics that do not exist are passed over.
    pub topics: &'a BTreeSet<TopicId>,
    /// The target it was given last.
    pub held: &'a Owned,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignor {
    /// Every member about as many partitions as any other.
    #[default]
    Uniform,
    /// Of each topic a range of neighbours; topics with as many partitions and the same subscribers are cut alike, so
    /// that one member gets what belongs together.
    Range,
}

impl Assignor {
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    pub fn named(name: &str) -> Option<Assignor> {
        Assignor::ALL.into_iter().find(|assignor| assignor.name() == name)
    }
}

/// Gives every partition of a subscribed topic to exactly one of its subscribers; the answer is in the members' order.
pub fn assign(assignor: Assignor, members: &[Subscriber<'_>], topics: &Topics) -> Vec<Owned> {
    let classes = classes(members, topics);
    let mut targets = match assignor {
        Assignor::Uniform => uniform::assign(members, topics, &classes),
        Assignor::Range => range::assign(members, topics, &classes),
    };
    for target in &mut targets {
        target.values_mut().for_each(|partitions| partitions.sort_unstable());
    }
    targets
}
