//! Consumer groups and producer ids.

use super::Change;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;
use std::sync::Arc;

/// Bound of one block of producer ids; Kafka hands out 1,000.
const PRODUCER_IDS_MAX: i64 = 1_000_000;

/// The generation of a group that does not exist.
const NO_GENERATION: i32 = -1;

impl Change<'_> {
    /// A stale coordinator (another leader epoch of its partition) or a stale generation changes nothing.
    pub(super) fn set_group(&mut self, change: &GroupChange) -> Result<Answer, MetadataError> {
        let coordinator = self.image.partition(change.coordinator).ok_or(MetadataError::StaleGroup)?;
        if coordinator.leader_epoch != change.leader_epoch || coordinator.leader.is_none() {
            return Err(MetadataError::StaleGroup);
        }
        let groups = &mut self.image.groups.groups;
        let current = groups.get(&change.group).map_or(NO_GENERATION, |group| group.generation);
        if current != change.expected_generation {
            return Err(MetadataError::StaleGroup);
        }
        let (generation, members) = match &change.state {
            Some(state) => {
                groups.insert(change.group.clone(), Arc::new(state.clone()));
                (state.generation, i32::try_from(state.members.len()).unwrap_or(i32::MAX))
            }
            None => {
                groups.remove(&change.group);
                (NO_GENERATION, 0)
            }
        };
        self.events.push(Event::GroupChanged { group: change.group.clone(), generation, members });
        Ok(Answer::Done)
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
