//! Images for this room's tests.

use crate::ids::*;
use crate::metadata::command::{BrokerRegistration, Endpoint};
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::metadata::image::topics::{Partition, Topic};
use std::sync::Arc;
use uuid::Uuid;

/// A registered, unfenced broker: epoch 10 + id, incarnation and directory from its id, cluster port 9093.
pub fn broker(id: i32) -> Broker {
    let endpoint = |port| Endpoint { listener: "X".into(), host: format!("node-{id}"), port };
    let number = Uuid::from_u128(u128::from(id.unsigned_abs()));
    Broker {
        registration: BrokerRegistration {
            broker: BrokerId(id),
            directory: DirectoryId(number),
            incarnation: IncarnationId(number),
            boot_id: "boot".into(),
            clean_stop: true,
            data_lost: false,
            kafka_endpoints: vec![endpoint(9092)],
            replica_endpoint: endpoint(9095),
            cluster_endpoint: endpoint(9093),
            admin_endpoint: endpoint(9094),
            rack: None,
            version: "0".into(),
        },
        epoch: BrokerEpoch(10 + i64::from(id)),
        fenced: false,
        shutting_down: false,
        draining: false,
    }
}

pub fn image_with(brokers: &[i32]) -> Image {
    let mut image = Image::default();
    for id in brokers {
        image.brokers.insert(BrokerId(*id), broker(*id));
    }
    image
}

/// Adds a topic whose partitions are led by their first replica, all in sync.
pub fn topic(image: &mut Image, name: &str, id: u128, partitions: &[&[i32]]) -> TopicId {
    let id = TopicId(Uuid::from_u128(id));
    for (number, replicas) in (0..).zip(partitions) {
        for broker in *replicas {
            image.replicas_on.entry(BrokerId(*broker)).or_default().insert(TopicPartition::new(id, number));
        }
    }
    let partitions = partitions
        .iter()
        .map(|replicas| {
            let replicas: Vec<_> = replicas.iter().map(|b| BrokerId(*b)).collect();
            Partition {
                isr: replicas.clone(),
                elr: Vec::new(),
                leader: replicas.first().copied(),
                leader_epoch: LeaderEpoch(1),
                partition_epoch: PartitionEpoch(1),
                unclean_epoch: None,
                reassignment: None,
                replicas,
            }
        })
        .collect();
    image.topics.insert(id, Arc::new(Topic { id, name: name.into(), partitions }));
    image.topic_ids.insert(name.into(), id);
    id
}

/// Changes one partition in place.
pub fn edit(image: &mut Image, id: TopicPartition, change: impl FnOnce(&mut Partition)) {
    let topic = Arc::make_mut(image.topics.get_mut(&id.topic).unwrap());
    change(topic.partitions.get_mut(usize::try_from(id.partition).unwrap()).unwrap());
}
