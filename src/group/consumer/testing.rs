//! Images for this room's tests.

use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::image::topics::{Partition, Topic};
use std::sync::Arc;
use uuid::Uuid;

/// Adds a topic, or more partitions to it; a topic's id is its name.
pub fn topic(image: &mut Image, name: &str, partitions: i32) -> TopicId {
    let mut id = [0; 16];
    id.iter_mut().zip(name.bytes()).for_each(|(byte, letter)| *byte = letter);
    let id = TopicId(Uuid::from_bytes(id));
    let partition = Partition {
        replicas: vec![BrokerId(1)],
        isr: vec![BrokerId(1)],
        elr: Vec::new(),
        leader: Some(BrokerId(1)),
        leader_epoch: LeaderEpoch(1),
        partition_epoch: PartitionEpoch(1),
        unclean_epoch: None,
        reassignment: None,
    };
    let partitions = (0..partitions).map(|_| partition.clone()).collect();
    image.topics.insert(id, Arc::new(Topic { id, name: name.into(), partitions }));
    image.topic_ids.insert(name.into(), id);
    image.index = RaftIndex(image.index.0 + 1);
    id
}
