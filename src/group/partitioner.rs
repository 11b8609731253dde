//! Which broker coordinates a group.

use super::topic::OFFSETS_TOPIC;
use crate::ids::{BrokerId, TopicPartition};
use crate::metadata::image::Image;

pub use crate::metadata::group_partition::partition_for;

/// The broker that coordinates a group; `None` while there is none.
pub fn coordinator_of(group: &str, image: &Image) -> Option<BrokerId> {
    let topic = image.topic_by_name(OFFSETS_TOPIC)?;
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    image.partition(TopicPartition::new(topic.id, partition_for(group, count.max(1))))?.leader
}
