//! What must be true of every image, checked in tests after each command.

use super::Image;
use super::groups::HISTORY_MAX;
use super::topics::{Partition, Reassignment};
use crate::ids::*;
use std::collections::{BTreeMap, BTreeSet};

impl Image {
    /// Panics, with what is wrong, unless every invariant of the image holds. Costs O(image): for tests.
    pub fn assert_consistent(&self) {
        let mut names = BTreeMap::new();
        let mut replicas_on: BTreeMap<BrokerId, BTreeSet<TopicPartition>> = BTreeMap::new();
        for (id, topic) in &self.topics {
            assert_eq!(*id, topic.id, "topic {} is kept under another id", topic.name);
            assert!(!topic.partitions.is_empty(), "topic {} has no partitions", topic.name);
            names.insert(topic.name.clone(), *id);
            for (number, partition) in (0..).zip(topic.partitions.iter()) {
                let place = TopicPartition::new(*id, number);
                self.assert_partition(place, &topic.name, partition);
                for broker in &partition.replicas {
                    replicas_on.entry(*broker).or_default().insert(place);
                }
            }
        }
        let indexed: BTreeMap<_, _> = self.topic_ids.iter().map(|(name, id)| (name.clone(), *id)).collect();
        assert_eq!(indexed, names, "the index by name differs from the topics");
        let indexed: BTreeMap<_, BTreeSet<_>> =
            self.replicas_on.iter().map(|(broker, set)| (*broker, set.iter().copied().collect())).collect();
        assert_eq!(indexed, replicas_on, "the index by broker differs from the partitions' replicas");
        for (id, broker) in &self.brokers {
            assert_eq!(*id, broker.registration.broker, "a broker is kept under another id");
        }
        for (name, group) in &self.groups.groups {
            let mut references: BTreeMap<_, u32> = BTreeMap::new();
            for blob in group.members.values().flat_map(|member| member.blobs()) {
                *references.entry(blob).or_default() += 1;
            }
            if !group.header.is_whole() {
                references.extend(
                    group.blobs.keys().filter(|id| !references.contains_key(id)).map(|id| (*id, 0)).collect::<Vec<_>>(),
                );
            }
            let counted: BTreeMap<_, _> = group.blobs.iter().map(|(id, blob)| (*id, blob.references)).collect();
            assert_eq!(counted, references, "group {name} holds bytes that nobody names, or miscounts them");
            assert!(group.revision > 0 && group.history.len() <= HISTORY_MAX, "group {name}");
        }
        assert!(self.next_producer_id >= 0, "producer ids ran backwards");
        for values in self.configs.overrides.values() {
            assert!(!values.is_empty(), "an empty set of overrides is kept");
        }
    }

    fn assert_partition(&self, place: TopicPartition, topic: &str, partition: &Partition) {
        let Partition { replicas, isr, elr, leader, leader_epoch, partition_epoch, .. } = partition;
        let at = format!("{topic}-{}: {partition:?}", place.partition);
        assert!(!replicas.is_empty(), "no replicas in {at}");
        for (name, set) in [("replicas", replicas), ("isr", isr), ("elr", elr)] {
            assert_eq!(set.iter().collect::<BTreeSet<_>>().len(), set.len(), "{name} repeats a broker in {at}");
        }
        assert!(isr.iter().all(|b| replicas.contains(b)), "isr ⊄ replicas in {at}");
        assert!(elr.iter().all(|b| replicas.contains(b)), "elr ⊄ replicas in {at}");
        assert!(elr.iter().all(|b| !isr.contains(b)), "elr meets isr in {at}");
        assert!(leader_epoch.0 >= 0 && partition_epoch.0 >= leader_epoch.0, "an epoch ran backwards in {at}");
        if let Some(reassignment) = &partition.reassignment {
            let Reassignment { original, adding, removing } = &**reassignment;
            for set in [original, adding, removing] {
                assert_eq!(set.iter().collect::<BTreeSet<_>>().len(), set.len(), "a move repeats a broker in {at}");
                assert!(set.iter().all(|b| replicas.contains(b)), "a move of no replica in {at}");
            }
            assert!(
                adding.iter().all(|b| !removing.contains(b) && !original.contains(b)),
                "adding meets others in {at}"
            );
            assert!(removing.len() < replicas.len(), "a move to nowhere in {at}");
            let all = removing.iter().chain(adding).chain(original).collect::<BTreeSet<_>>().len();
            assert_eq!(all, replicas.len(), "a replica neither from before nor added in {at}");
        }
        if isr.len() >= self.effective_min_isr(topic, partition.counted_replicas()) {
            assert!(elr.is_empty(), "an elr beside a large enough isr in {at}");
        }
        match leader {
            Some(leader) => {
                assert!(isr.contains(leader), "leader ∉ isr in {at}");
                assert!(isr.iter().all(|b| self.is_alive(*b)), "a fenced broker in the isr of {at}");
            }
            None => {
                let could = |b: &&BrokerId| self.is_active(**b);
                assert_eq!(isr.iter().chain(elr.iter()).find(could), None, "no leader though one could lead {at}");
            }
        }
    }
}
