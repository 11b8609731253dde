//! Commands about topics: creating, deleting, adding partitions.

use super::Change;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;
use crate::metadata::group_partition::has_fixed_partitions;
use crate::metadata::image::topics::{Partition, Topic};
use imbl::Vector;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Change<'_> {
    pub(super) fn create_topics(&mut self, topics: &[NewTopic]) -> Answer {
        Answer::Topics(topics.iter().map(|topic| self.create_topic(topic)).collect())
    }

    fn create_topic(&mut self, new: &NewTopic) -> Result<TopicId, MetadataError> {
        if new.name.is_empty() {
            return Err(MetadataError::Invalid("a topic needs a name".into()));
        }
        if self.image.topic_ids.contains_key(&new.name) || self.image.topics.contains_key(&new.id) {
            return Err(MetadataError::TopicExists(new.name.clone()));
        }
        let partitions = self.first_partitions(&new.assignments)?;
        let topic = Topic { id: new.id, name: new.name.clone(), partitions: Vector::new() };
        self.image.topics.insert(new.id, Arc::new(topic));
        self.image.topic_ids.insert(new.name.clone(), new.id);
        self.events.push(Event::TopicCreated {
            topic: new.id,
            name: new.name.clone(),
            partitions: i32::try_from(partitions.len()).expect("checked to fit"),
        });
        if !new.configs.is_empty() {
            let resource = ConfigResource::Topic(new.name.clone());
            self.image.configs.change(&resource, new.configs.iter().map(|(name, value)| (name, Some(value))));
            self.events.push(Event::ConfigChanged { resource, names: new.configs.keys().cloned().collect() });
        }
        self.add_partitions(new.id, &new.name, partitions);
        Ok(new.id)
    }

    pub(super) fn create_partitions(&mut self, topics: &[NewPartitions]) -> Answer {
        Answer::Topics(topics.iter().map(|more| self.grow_topic(more)).collect())
    }

    fn grow_topic(&mut self, more: &NewPartitions) -> Result<TopicId, MetadataError> {
        let topic = self.image.topic(more.topic).ok_or(MetadataError::UnknownTopic)?.clone();
        if has_fixed_partitions(&topic.name) {
            return Err(MetadataError::Invalid(format!("topic '{}' keeps its number of partitions", topic.name)));
        }
        let from = i32::try_from(topic.partitions.len()).expect("checked to fit when they were added");
        if from != more.expected_count {
            return Err(MetadataError::PartitionCountChanged);
        }
        let partitions = self.first_partitions(&more.assignments)?;
        let to = i32::try_from(partitions.len()).ok().and_then(|added| from.checked_add(added));
        let to = to.ok_or_else(|| MetadataError::Invalid("too many partitions".into()))?;
        self.events.push(Event::PartitionsAdded { topic: topic.id, name: topic.name.clone(), from, to });
        self.add_partitions(topic.id, &topic.name, partitions);
        Ok(topic.id)
    }

    pub(super) fn delete_topics(&mut self, topics: &[TopicId]) -> Answer {
        Answer::Topics(topics.iter().map(|id| self.delete_topic(*id)).collect())
    }

    fn delete_topic(&mut self, id: TopicId) -> Result<TopicId, MetadataError> {
        let topic = self.image.topics.remove(&id).ok_or(MetadataError::UnknownTopic)?;
        self.image.topic_ids.remove(&topic.name);
        // A topic created later under the same name starts with configs of its own.
        self.image.configs.overrides.remove(&ConfigResource::Topic(topic.name.clone()));
        for (number, partition) in (0..).zip(topic.partitions.iter()) {
            self.image.unindex_replicas(TopicPartition::new(id, number), &partition.replicas);
        }
        let partitions = i32::try_from(topic.partitions.len()).expect("checked to fit when they were added");
        self.events.push(Event::TopicDeleted { topic: id, name: topic.name.clone(), partitions });
        Ok(id)
    }

    /// New partitions by their assignments: whoever is active is in sync, for there is nothing yet to be behind of.
    fn first_partitions(&self, assignments: &[Vec<BrokerId>]) -> Result<Vec<Partition>, MetadataError> {
        if assignments.is_empty() {
            return Err(MetadataError::Invalid("no partitions were assigned".into()));
        }
        if i32::try_from(assignments.len()).is_err() {
            return Err(MetadataError::Invalid("too many partitions".into()));
        }
        assignments.iter().map(|replicas| self.first_partition(replicas)).collect()
    }

    fn first_partition(&self, replicas: &[BrokerId]) -> Result<Partition, MetadataError> {
        if replicas.iter().collect::<BTreeSet<_>>().len() != replicas.len() {
            return Err(MetadataError::Invalid("an assignment names a broker twice".into()));
        }
        if let Some(unknown) = replicas.iter().find(|b| !self.image.brokers.contains_key(*b)) {
            return Err(MetadataError::UnknownBroker(*unknown));
        }
        let isr: Vec<BrokerId> = replicas.iter().copied().filter(|b| self.image.is_active(*b)).collect();
        let leader = isr.iter().copied().find(|b| !self.image.is_draining(*b)).or(isr.first().copied());
        if leader.is_none() {
            return Err(MetadataError::Invalid("no broker of an assignment is alive".into()));
        }
        Ok(Partition {
            replicas: replicas.to_vec(),
            isr,
            elr: Vec::new(),
            leader,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            unclean_epoch: None,
            reassignment: None,
        })
    }

    fn add_partitions(&mut self, id: TopicId, name: &str, partitions: Vec<Partition>) {
        for partition in partitions {
            let topic = self.image.topics.get_mut(&id).expect("the caller added or found the topic");
            let number = i32::try_from(topic.partitions.len()).expect("checked to fit");
            let place = TopicPartition::new(id, number);
            Arc::make_mut(topic).partitions.push_back(partition.clone());
            self.image.index_replicas(place, &partition.replicas);
            self.events.push(Event::LeaderElected {
                partition: place,
                topic: name.to_string(),
                old: None,
                new: partition.leader,
                epoch: partition.leader_epoch,
                reason: ElectionReason::Created,
            });
        }
    }
}
