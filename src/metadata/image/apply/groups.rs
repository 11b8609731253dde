//! Consumer groups and producer ids.

use super::Change;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;
use crate::metadata::group_partition::partition_for;
use crate::metadata::image::groups::Group;
use std::sync::Arc;

/// Bound of one block of producer ids; Kafka hands out 1,000.
const PRODUCER_IDS_MAX: i64 = 1_000_000;

/// What events tell of a group that does not exist.
const NO_GENERATION: i32 = -1;

impl Change<'_> {
    pub(super) fn change_groups(&mut self, changes: &[GroupChange]) -> Answer {
        Answer::Groups(changes.iter().map(|change| self.change_group(change)).collect())
    }

    /// A stale coordinator (another leader epoch of its partition, or a partition that is not the group's) or a stale
    /// revision changes nothing.
    fn change_group(&mut self, change: &GroupChange) -> Result<(), MetadataError> {
        let coordinator = self.image.partition(change.coordinator).ok_or(MetadataError::StaleGroup)?;
        if coordinator.leader_epoch != change.leader_epoch || coordinator.leader.is_none() {
            return Err(MetadataError::StaleGroup);
        }
        let partitions = self.image.topic(change.coordinator.topic).map_or(0, |topic| topic.partitions.len());
        let partitions = i32::try_from(partitions).expect("checked to fit when they were added");
        if partition_for(&change.group, partitions) != change.coordinator.partition {
            return Err(MetadataError::StaleGroup);
        }
        let groups = &mut self.image.groups.groups;
        let current = groups.get(&change.group);
        if current.map_or(0, |group| group.revision) != change.expected || change.revision <= change.expected {
            return Err(MetadataError::StaleGroup);
        }
        let Some(write) = &change.write else {
            groups.remove(&change.group);
            let (group, generation) = (change.group.clone(), NO_GENERATION);
            self.events.push(Event::GroupChanged { group, generation, members: 0 });
            return Ok(());
        };
        let next = match current {
            Some(group) => group.after(write, change.revision)?,
            None => Group::new(write.header.clone()).after(write, change.revision)?,
        };
        if write.header.is_whole() {
            let members = i32::try_from(next.members.len()).unwrap_or(i32::MAX);
            let (group, generation) = (change.group.clone(), write.header.epoch());
            self.events.push(Event::GroupChanged { group, generation, members });
        }
        groups.insert(change.group.clone(), Arc::new(next));
        Ok(())
    }

    pub(super) fn allocate_producer_ids(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
        count: i64,
    ) -> Result<Answer, MetadataError> {
        self.check_epoch(broker, epoch)?;
        if !(1..=PRODUCER_IDS_MAX).contains(&count) {
            return Err(MetadataError::Invalid(format!("a block of producer ids holds 1 to {PRODUCER_IDS_MAX} ids")));
        }
        let first = self.image.next_producer_id;
        let next = first.checked_add(count).ok_or_else(|| MetadataError::Invalid("no producer ids are left".into()))?;
        self.image.next_producer_id = next;
        Ok(Answer::ProducerIds { first: ProducerId(first), count })
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::{World, group_write, id};
    use super::*;

    #[test]
    fn only_the_partition_that_a_group_hashes_to_coordinates_it() {
        let mut w = World::three();
        let topic = TopicId(id(9));
        let assignments = vec![vec![BrokerId(1)]; 2];
        let new = NewTopic { id: topic, name: "two".into(), assignments, configs: Default::default() };
        assert_eq!(w.does(&Command::CreateTopics { topics: vec![new] }), Answer::Topics(vec![Ok(topic)]));
        let own = partition_for("g", 2);
        let change = |partition| GroupChange {
            group: "g".into(),
            coordinator: TopicPartition::new(topic, partition),
            leader_epoch: LeaderEpoch(0),
            expected: 0,
            revision: 1,
            write: Some(group_write(1, true)),
        };
        let answer = w.does(&Command::ChangeGroups { changes: vec![change(1 - own), change(own)] });
        assert_eq!(answer, Answer::Groups(vec![Err(MetadataError::StaleGroup), Ok(())]));
    }

    #[test]
    fn the_topics_that_things_are_hashed_to_never_grow() {
        let mut w = World::three();
        for (number, name) in [(9, "__consumer_offsets"), (10, "__transaction_state")] {
            let topic = TopicId(id(number));
            let assignments = vec![vec![BrokerId(1)]];
            let new = NewTopic {
                id: topic,
                name: name.into(),
                assignments: assignments.clone(),
                configs: Default::default(),
            };
            w.does(&Command::CreateTopics { topics: vec![new] });
            let more = NewPartitions { topic, expected_count: 1, assignments };
            let Answer::Topics(results) = w.does(&Command::CreatePartitions { topics: vec![more] }) else { panic!() };
            assert!(matches!(&results[..], [Err(MetadataError::Invalid(_))]), "{results:?}");
        }
    }
}
