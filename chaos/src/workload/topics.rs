//! The topics of a run. Three replicas, two of which must be in sync.

use crate::admin::NewTopic;
use crate::history::{Place, PlaceName};
use rdkafka::TopicPartitionList;
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeMap;

/// Of each partition, as the broker's default is.
pub const REPLICAS: usize = 3;

const PAGE_CACHE: (&str, &str) = ("highwater.durability", "page-cache");

pub const TOPICS: [NewTopic; 3] = [
    NewTopic {
        name: "sync",
        partitions: 4,
        configs: &[("min.insync.replicas", "2"), ("highwater.durability", "sync")],
    },
    NewTopic { name: "cache", partitions: 2, configs: &[("min.insync.replicas", "2"), PAGE_CACHE] },
    // Rolls a segment every few seconds.
    NewTopic { name: "rolls", partitions: 2, configs: &[("min.insync.replicas", "2"), ("segment.bytes", "65536")] },
];

pub fn places() -> Vec<PlaceName> {
    TOPICS
        .iter()
        .flat_map(|topic| {
            let page_cache = topic.configs.contains(&PAGE_CACHE);
            (0..topic.partitions).map(move |partition| PlaceName { topic: topic.name.into(), partition, page_cache })
        })
        .collect()
}

/// Finds a place by what messages carry.
#[derive(Clone, Debug)]
pub struct Places {
    pub names: Vec<PlaceName>,
    numbers: BTreeMap<(String, i32), Place>,
}

impl Places {
    pub fn new() -> Places {
        let names = places();
        let numbers = (0..).zip(&names).map(|(number, name)| ((name.topic.clone(), name.partition), number)).collect();
        Places { names, numbers }
    }

    pub fn number(&self, topic: &str, partition: i32) -> Option<Place> {
        self.numbers.get(&(topic.to_string(), partition)).copied()
    }

    pub fn count(&self) -> Place {
        Place::try_from(self.names.len()).expect("a few places")
    }

    pub fn at_beginning(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for name in &self.names {
            list.add_partition_offset(&name.topic, name.partition, Offset::Beginning).expect("beginning is an offset");
        }
        list
    }
}
