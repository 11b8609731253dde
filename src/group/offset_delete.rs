//! OffsetDelete (KIP-496): an operator takes a group's offsets of topics that nobody in it reads any more.

use super::coordinator::{Coordinator, GroupError};
use super::machine::Machine;
use super::offset_records::{OffsetKey, OffsetRecord};
use super::standing::Standing;
use std::collections::BTreeSet;

/// By topic and partition, in the order asked.
pub type DeletedOffsets = Vec<(String, Vec<(i32, Result<(), GroupError>)>)>;

impl Coordinator {
    /// Deletes the offsets of partitions of topics that no member subscribes to; those that it has not are no error.
    /// Resolves once that is replicated.
    ///
    /// Errors: [`GroupError::GroupNotFound`]; [`GroupError::NonEmptyGroup`] where members speak another protocol than
    /// the consumers', so that nobody can tell what they read.
    pub async fn delete_offsets(
        &self,
        group: &str,
        wanted: &[(String, Vec<i32>)],
    ) -> Result<DeletedOffsets, GroupError> {
        let (slot, cell) = self.find(group)?.ok_or(GroupError::GroupNotFound)?;
        let (receiver, deleted) = {
            let mut entry = cell.lock();
            // Under the lock: no older than what the group was told of.
            let image = self.shell.image();
            let standing = Standing::of(group, &entry, &image);
            match &standing {
                Standing::Dead => return Err(GroupError::GroupNotFound),
                Standing::Live { consumers: false, .. } => return Err(GroupError::NonEmptyGroup),
                Standing::Standalone | Standing::Empty { .. } | Standing::Live { .. } => {}
            }
            let asked = wanted.iter().filter(|(_, partitions)| !partitions.is_empty()).map(|(topic, _)| &**topic);
            let read: BTreeSet<&str> = asked.filter(|topic| reads(&entry.machine, &standing, topic)).collect();
            let is_subscribed = |topic: &str| read.contains(topic);
            let outcome = |topic: &str| if is_subscribed(topic) { Err(GroupError::SubscribedToTopic) } else { Ok(()) };
            let deleted = wanted
                .iter()
                .map(|(topic, partitions)| {
                    (topic.clone(), partitions.iter().map(|partition| (*partition, outcome(topic))).collect())
                })
                .collect();
            let names = &self.shell.names;
            let known = &entry.offsets;
            let tombstones: Vec<OffsetRecord> = wanted
                .iter()
                .filter(|(topic, _)| !is_subscribed(topic))
                .flat_map(|(topic, partitions)| partitions.iter().map(move |partition| (topic, *partition)))
                .filter(|(topic, partition)| {
                    known.is_pending(topic, *partition) || known.get(topic, *partition).is_some()
                })
                .map(|(topic, partition)| OffsetRecord {
                    key: OffsetKey { group: names.share(group), topic: names.share(topic), partition },
                    value: None,
                })
                .collect();
            (self.shell.write_offsets(&slot, &cell, &mut entry, tombstones)?, deleted)
        };
        self.shell.written(receiver).await?;
        Ok(deleted)
    }
}

/// Does a member read the topic? Where that cannot be told it may.
fn reads(machine: &Machine, standing: &Standing, topic: &str) -> bool {
    let Standing::Live { subscribed, .. } = standing else { return false };
    match (subscribed, machine) {
        (Some(topics), _) => topics.contains(topic),
        (None, Machine::Consumer(group)) => group.is_subscribed(topic),
        (None, Machine::Classic(_)) => true,
    }
}
