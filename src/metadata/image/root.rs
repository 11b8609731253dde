//! The image itself and how it is looked things up in.

use super::brokers::Broker;
use super::configs::Configs;
use super::groups::Groups;
use super::topics::{Partition, Topic};
use crate::ids::*;
use crate::metadata::raft::types::digest;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Invariant: a function of the applied commands alone (same commands, same image, same hash).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Image {
    /// The Raft index of the last applied entry.
    pub index: RaftIndex,
    /// All zeros until the cluster has formed.
    pub cluster_id: ClusterId,
    pub brokers: OrdMap<BrokerId, Broker>,
    pub topics: OrdMap<TopicId, Arc<Topic>>,
    pub configs: Configs,
    pub groups: Groups,
    /// The next producer id to hand out.
    pub next_producer_id: i64,
    pub features: OrdMap<String, i16>,
    /// Index by name. Derived from `topics`, so it is not stored.
    #[serde(skip_serializing)]
    pub topic_ids: OrdMap<String, TopicId>,
    /// Which partitions each broker is a replica of, so that fencing it costs its partitions and not all of them.
    /// Derived from `topics`, so it is not stored.
    #[serde(skip_serializing)]
    pub replicas_on: OrdMap<BrokerId, OrdSet<TopicPartition>>,
}

impl Image {
    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic_ids.get(name).and_then(|id| self.topics.get(id))
    }

    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    pub fn partition(&self, id: TopicPartition) -> Option<&Partition> {
        self.topics.get(&id.topic)?.partitions.get(usize::try_from(id.partition).ok()?)
    }

    /// The partitions that `broker` is a replica of.
    pub fn partitions_on(&self, broker: BrokerId) -> impl Iterator<Item = TopicPartition> + '_ {
        self.replicas_on.get(&broker).into_iter().flat_map(|set| set.iter().copied())
    }

    /// May lead and join an ISR: registered, unfenced, not shutting down.
    pub fn is_active(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(Broker::is_active)
    }

    /// Registered and unfenced; it may be shutting down.
    pub fn is_alive(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|b| !b.fenced)
    }

    /// A person asked that it lead nothing.
    pub fn is_draining(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|b| b.draining)
    }

    /// min(min.insync.replicas, replica count) of a topic's partition, everywhere the same (replication.md, rule 2). During a
    /// move `replicas` is [`counted_replicas`](super::topics::Partition::counted_replicas).
    pub fn effective_min_isr(&self, topic: &str, replicas: usize) -> usize {
        self.configs.min_insync_replicas(topic, replicas).min(replicas).max(1)
    }

    /// A hash of the whole image, equal on every node at the same index (invariant 5). Costs O(image).
    pub fn hash(&self) -> u64 {
        digest(self)
    }

    pub(super) fn index_replicas(&mut self, partition: TopicPartition, replicas: &[BrokerId]) {
        for broker in replicas {
            self.replicas_on.entry(*broker).or_default().insert(partition);
        }
    }

    pub(super) fn unindex_replicas(&mut self, partition: TopicPartition, replicas: &[BrokerId]) {
        for broker in replicas {
            if let Some(set) = self.replicas_on.get_mut(broker) {
                set.remove(&partition);
                if set.is_empty() {
                    self.replicas_on.remove(broker);
                }
            }
        }
    }
}

/// What a snapshot holds of an image, in the order in which `Image` serializes it.
#[derive(Deserialize)]
struct Stored {
    index: RaftIndex,
    cluster_id: ClusterId,
    brokers: BTreeMap<BrokerId, Broker>,
    topics: BTreeMap<TopicId, Arc<Topic>>,
    configs: Configs,
    groups: Groups,
    next_producer_id: i64,
    features: BTreeMap<String, i16>,
}

impl From<Stored> for Image {
    fn from(stored: Stored) -> Image {
        let mut image = Image {
            index: stored.index,
            cluster_id: stored.cluster_id,
            brokers: stored.brokers.into_iter().collect(),
            topics: stored.topics.into_iter().collect(),
            configs: stored.configs,
            groups: stored.groups,
            next_producer_id: stored.next_producer_id,
            features: stored.features.into_iter().collect(),
            ..Image::default()
        };
        for topic in image.topics.clone().values() {
            image.topic_ids.insert(topic.name.clone(), topic.id);
            for (number, partition) in (0..).zip(topic.partitions.iter()) {
                image.index_replicas(TopicPartition::new(topic.id, number), &partition.replicas);
            }
        }
        image
    }
}
