//! Commands that move partitions, and what is told of moves.

use super::isr::find;
use super::{Change, moving};
use crate::ids::*;
use crate::metadata::command::{Answer, ElectionReason, MetadataError, ReassignmentChange};
use crate::metadata::event::Event;
use crate::metadata::image::topics::Partition;

impl Change<'_> {
    pub(super) fn alter_reassignments(&mut self, changes: &[ReassignmentChange]) -> Answer {
        Answer::Reassignments(changes.iter().map(|change| self.alter_reassignment(change)).collect())
    }

    fn alter_reassignment(&mut self, change: &ReassignmentChange) -> Result<(), MetadataError> {
        let old = find(self.image, change.partition)?;
        if old.partition_epoch != change.partition_epoch {
            return Err(MetadataError::StalePartitionEpoch {
                given: change.partition_epoch,
                current: old.partition_epoch,
            });
        }
        let next = match &change.replicas {
            Some(target) => moving::begin(old, target, self.image)?,
            None => moving::cancel(old, self.image)?,
        };
        self.change_partition(change.partition, ElectionReason::Reassigned, |_, _, _| Some(next));
        Ok(())
    }

    /// `asked`: by this command, not by its consequence.
    pub(super) fn tell_of_move(
        &mut self,
        partition: TopicPartition,
        topic: &str,
        old: &Partition,
        new: &Partition,
        asked: bool,
    ) {
        let (topic, replicas) = (topic.to_string(), new.replicas.clone());
        let is_back = old.reassignment.as_ref().is_some_and(|r| r.original == new.replicas);
        match (&old.reassignment, &new.reassignment) {
            (_, Some(_)) if asked => {
                let (from, to) = (new.original().to_vec(), new.target());
                self.events.push(Event::ReassignmentBegan { partition, topic, from, to });
            }
            (Some(_), None) if asked && is_back => {
                self.events.push(Event::ReassignmentCancelled { partition, topic, replicas });
            }
            (_, None) if asked => {
                let from = old.original().to_vec();
                let to = replicas.clone();
                self.events.push(Event::ReassignmentBegan { partition, topic: topic.clone(), from, to });
                self.events.push(Event::ReassignmentCompleted { partition, topic, replicas });
            }
            (Some(_), None) => self.events.push(Event::ReassignmentCompleted { partition, topic, replicas }),
            _ => {}
        }
    }
}
