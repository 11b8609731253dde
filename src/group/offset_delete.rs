//! OffsetDelete (KIP-496): an operator takes a group's offsets of topics that nobody in it reads any more.

use super::coordinator::{Coordinator, GroupError};
use super::offset_records::{OffsetKey, OffsetRecord};
use super::standing::Standing;

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
        let image = self.shell.image();
        let (receiver, deleted) = {
            let mut entry = cell.lock();
            let subscribed = match Standing::of(group, &entry, &image) {
                Standing::Dead => return Err(GroupError::GroupNotFound),
                Standing::Standalone | Standing::Empty { .. } => None,
                Standing::Live { consumers: false, .. } => return Err(GroupError::NonEmptyGroup),
                Standing::Live { subscribed, .. } => subscribed,
            };
            let is_subscribed = |topic: &str| subscribed.as_ref().is_some_and(|topics| topics.contains(topic));
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
