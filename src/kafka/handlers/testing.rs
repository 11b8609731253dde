//! A small cluster to answer from: brokers 1 and 2 live, 3 fenced; topics `orders` and `__consumer_offsets`.

use crate::ids::*;
use crate::metadata::command::{BrokerRegistration, Endpoint};
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::metadata::image::topics::{Partition, Topic};
use crate::wire::codec;
use bytes::Bytes;
use kafka_protocol::protocol::Encodable;
use std::sync::Arc;
use uuid::Uuid;

pub const ORDERS: TopicId = TopicId(Uuid::from_u128(0x11));
pub const OFFSETS: TopicId = TopicId(Uuid::from_u128(0x22));

/// A non-default field that the version lacks fails here, as it would with a client waiting.
pub fn encodes<R: Encodable>(key: i16, version: i16, response: &R) -> Bytes {
    codec::encode_response(1, key, version, response).unwrap_or_else(|error| panic!("v{version}: {error}"))
}

fn endpoint(listener: &str, id: i32, port: u16) -> Endpoint {
    Endpoint { listener: listener.to_string(), host: format!("{listener}-{id}"), port }
}

fn broker(id: i32, fenced: bool) -> Broker {
    let mut kafka_endpoints = vec![endpoint("external", id, 9000 + id as u16)];
    if id == 1 {
        kafka_endpoints.push(endpoint("only-on-1", id, 7000));
    }
    Broker {
        registration: BrokerRegistration {
            broker: BrokerId(id),
            directory: DirectoryId::default(),
            incarnation: IncarnationId::default(),
            boot_id: String::new(),
            clean_stop: false,
            data_lost: false,
            kafka_endpoints,
            replica_endpoint: endpoint("replica", id, 9095),
            cluster_endpoint: endpoint("cluster", id, 9093),
            admin_endpoint: endpoint("admin", id, 9094),
            rack: Some(format!("rack-{id}")),
            version: String::new(),
        },
        epoch: BrokerEpoch(i64::from(id)),
        fenced,
        shutting_down: false,
        draining: false,
    }
}

pub fn partition(leader: Option<i32>, epoch: i32) -> Partition {
    Partition {
        replicas: [1, 2, 3].map(BrokerId).to_vec(),
        isr: [1, 2].map(BrokerId).to_vec(),
        elr: Vec::new(),
        leader: leader.map(BrokerId),
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(1),
        unclean_epoch: None,
        reassignment: None,
    }
}

pub fn image() -> Image {
    let mut image = Image { index: RaftIndex(7), ..Image::default() };
    for (id, fenced) in [(1, false), (2, false), (3, true)] {
        image.brokers.insert(BrokerId(id), broker(id, fenced));
    }
    let orders = [partition(Some(1), 5), partition(None, 6), partition(Some(2), 7)];
    for (id, name, partitions) in
        [(ORDERS, "orders", orders.to_vec()), (OFFSETS, "__consumer_offsets", vec![partition(Some(2), 0)])]
    {
        let topic = Topic { id, name: name.to_string(), partitions: partitions.into_iter().collect() };
        image.topics.insert(id, Arc::new(topic));
        image.topic_ids.insert(name.to_string(), id);
    }
    image
}
