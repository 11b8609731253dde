//! For tests: replicas over real logs, images made by hand, batches as clients send them.

use super::damage::Word;
use super::follower::{Fetched, FollowError, ReplicaConfig};
use super::node::{Node, Proposed, Queues};
use super::partition::{FollowerState, HighWatermarkWait, Partition, PartitionError, ReadRequest};
use super::role::{Standing, log_config};
use super::synced::sync_all;
use crate::config::broker::BrokerConfigs;
use crate::config::topic::{Durability, TopicConfig};
use crate::ids::*;
use crate::log::flush::Flusher;
use crate::log::folder::LogFolder;
use crate::metadata::command::{BrokerRegistration, Endpoint};
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::metadata::image::topics::{Partition as PartitionImage, Topic};
use crate::platform::clock;
use crate::platform::disk::{self, File};
use crate::records::ValidBatches;
use crate::records::batch::batches;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use uuid::Uuid;

pub(super) fn id() -> TopicPartition {
    TopicPartition::new(TopicId(Uuid::from_u128(9)), 0)
}

/// Flips a bit on the disk, in the records or the header of the batch that holds `offset`.
pub(super) fn flip(partition: &Partition, offset: i64, header: bool) {
    flip_at(partition, offset, |size| if header { 16 } else { size - 3 });
}

/// Flips a bit of the leader epoch, which no CRC covers.
pub(super) fn flip_epoch(partition: &Partition, offset: i64) {
    flip_at(partition, offset, |_| 13);
}

fn flip_at(partition: &Partition, offset: i64, place: impl Fn(usize) -> usize) {
    let folder = partition.state.lock().log.as_ref().expect("it runs").folder().to_path_buf();
    for entry in disk::list(&folder).unwrap().into_iter().filter(|e| e.name.ends_with(".log")) {
        let path = folder.join(entry.name);
        let bytes = disk::read_file(&path).unwrap().unwrap();
        for at in batches(&bytes).map_while(Result::ok) {
            if at.header.base_offset.0 <= offset && offset <= at.header.last_offset().0 {
                let position = at.position + place(at.size);
                File::open(&path).unwrap().write_at(&[bytes[position] ^ 1], position as u64).unwrap();
                return;
            }
        }
    }
    panic!("no batch holds {offset}");
}

/// One batch of `values`, as a client sends it.
pub(super) fn batch(values: &[&str]) -> ValidBatches {
    batch_of(values, (-1, -1, -1))
}

/// Of an idempotent producer: its id, epoch and sequence.
pub(super) fn batch_of(values: &[&str], producer: (i64, i16, i32)) -> ValidBatches {
    fn zigzag(buf: &mut BytesMut, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            buf.put_u8((rest as u8 & 0x7f) | 0x80);
            rest >>= 7;
        }
        buf.put_u8(rest as u8);
    }
    let now = clock::wall_ms();
    let mut checked = BytesMut::new();
    checked.put_i16(0);
    checked.put_i32(values.len() as i32 - 1);
    checked.put_i64(now);
    checked.put_i64(now);
    checked.put_i64(producer.0);
    checked.put_i16(producer.1);
    checked.put_i32(producer.2);
    checked.put_i32(values.len() as i32);
    for (delta, value) in (0..).zip(values) {
        let mut record = BytesMut::new();
        record.put_i8(0);
        zigzag(&mut record, 0);
        zigzag(&mut record, delta);
        zigzag(&mut record, -1);
        zigzag(&mut record, value.len() as i64);
        record.put_slice(value.as_bytes());
        zigzag(&mut record, 0);
        zigzag(&mut checked, record.len() as i64);
        checked.put_slice(&record);
    }
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &checked) as u32;
    let mut whole = BytesMut::new();
    whole.put_i64(0);
    whole.put_i32(checked.len() as i32 + 9);
    whole.put_i32(-1);
    whole.put_i8(2);
    whole.put_u32(crc);
    whole.put_slice(&checked);
    ValidBatches::from_client(whole.freeze()).expect("a good batch")
}

pub(super) fn topic_config(durability: Durability) -> TopicConfig {
    TopicConfig { durability, ..TopicConfig::resolve([], &BrokerConfigs::default()) }
}

/// Epochs: leader epoch `epoch`, partition epoch `version`; broker n is registered with epoch 100 + n.
pub(super) fn image(leader: i32, isr: &[i32], epoch: i32, version: i32, unclean: Option<i32>) -> Image {
    image_at(1, leader, isr, epoch, version, unclean)
}

/// As [`image`], with all replica endpoints at this port.
pub(super) fn image_at(port: u16, leader: i32, isr: &[i32], epoch: i32, version: i32, unclean: Option<i32>) -> Image {
    let mut image = Image::default();
    for n in 1..=3 {
        let endpoint = Endpoint { listener: "x".into(), host: "127.0.0.1".into(), port };
        let registration = BrokerRegistration {
            broker: BrokerId(n),
            directory: DirectoryId::default(),
            incarnation: IncarnationId::default(),
            boot_id: String::new(),
            clean_stop: true,
            data_lost: false,
            kafka_endpoints: Vec::new(),
            replica_endpoint: endpoint.clone(),
            cluster_endpoint: endpoint.clone(),
            admin_endpoint: endpoint,
            rack: None,
            version: String::new(),
        };
        let epoch = BrokerEpoch(i64::from(n) + 100);
        image
            .brokers
            .insert(BrokerId(n), Broker { registration, epoch, fenced: false, shutting_down: false, draining: false });
    }
    let partition = PartitionImage {
        replicas: [1, 2, 3].map(BrokerId).to_vec(),
        isr: isr.iter().copied().map(BrokerId).collect(),
        elr: Vec::new(),
        leader: Some(BrokerId(leader)),
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(version),
        unclean_epoch: unclean.map(LeaderEpoch),
        reassignment: None,
    };
    let topic = Topic { id: id().topic, name: "t".into(), partitions: [partition].into_iter().collect() };
    image.topics.insert(topic.id, Arc::new(topic));
    image.topic_ids.insert("t".into(), id().topic);
    image
}

pub(super) struct Replica {
    pub node: Arc<Node>,
    pub partition: Arc<Partition>,
    pub proposals: mpsc::UnboundedReceiver<Proposed>,
    pub words: mpsc::UnboundedReceiver<Word>,
    _folder: tempfile::TempDir,
}

impl Replica {
    pub fn new(broker: i32, durability: Durability) -> Replica {
        let folder = tempfile::tempdir().unwrap();
        let config = topic_config(durability);
        let log = LogFolder::open(folder.path(), true).unwrap().log(id(), "t", log_config(&config)).unwrap();
        let (node, Queues { proposals, words }) =
            Node::new(BrokerId(broker), ReplicaConfig::default(), Flusher::start(1), Arc::default());
        node.set_epoch(BrokerEpoch(i64::from(broker) + 100));
        let partition = Partition::new(node.clone(), id(), "t".into(), log, Offset::ZERO, &config);
        Replica { node, partition, proposals, words, _folder: folder }
    }

    pub fn show(&self, image: &Image) -> Standing {
        self.node.image.store(Arc::new(image.clone()));
        self.partition.apply(image, clock::now()).1
    }

    pub fn end(&self) -> i64 {
        self.partition.status().log_end.0
    }

    /// One fetch of `leader`, flushed before if need be. Whatever it brought is taken.
    pub async fn fetch(&self, leader: &Replica) -> Result<bool, FollowError> {
        let epoch = self.partition.status().leader_epoch;
        let mut position = self.partition.position(epoch).expect("it follows");
        if position.needs_flush {
            sync_all(&self.node.flusher, vec![self.partition.clone()]).await;
            position = self.partition.position(epoch).expect("it follows");
            assert!(!position.needs_flush);
        }
        let request = ReadRequest {
            offset: position.offset,
            max_bytes: 1 << 20,
            at_least_one: true,
            current_leader_epoch: epoch,
            read_committed: false,
            any_replica: false,
            follower: Some(FollowerState {
                broker: self.node.broker,
                broker_epoch: self.node.epoch(),
                last_fetched_epoch: position.last_fetched_epoch,
                log_start: position.log_start,
                refused: position.refused,
                fills: position.fills,
            }),
        };
        let outcome = match leader.partition.read(&request) {
            Ok(outcome) => outcome,
            Err(PartitionError::OutOfRange { start, .. }) => {
                return self.partition.on_out_of_range(epoch, start).map(|()| true);
            }
            Err(error) => panic!("{error}"),
        };
        match outcome.diverging {
            Some(answer) => self.partition.on_diverging(epoch, answer).map(|()| true),
            None => self.partition.on_fetched(
                epoch,
                Fetched {
                    records: outcome.chunk.bytes,
                    high_watermark: outcome.high_watermark,
                    log_start: outcome.log_start,
                },
            ),
        }
    }

    /// Fetches until nothing new comes.
    pub async fn catch_up(&self, leader: &Replica) {
        while self.fetch(leader).await.unwrap() {}
    }

    pub fn consume(&self, offset: i64) -> Result<Bytes, PartitionError> {
        let request = ReadRequest {
            offset: Offset(offset),
            max_bytes: 1 << 20,
            at_least_one: true,
            current_leader_epoch: LeaderEpoch::NONE,
            read_committed: false,
            any_replica: false,
            follower: None,
        };
        self.partition.read(&request).map(|outcome| outcome.chunk.bytes)
    }
}

pub(super) fn three(durability: Durability) -> [Replica; 3] {
    let replicas = [1, 2, 3].map(|broker| Replica::new(broker, durability));
    let image = image(1, &[1, 2, 3], 0, 0, None);
    replicas.iter().for_each(|replica| {
        replica.show(&image);
    });
    replicas
}

pub(super) async fn answer(wait: Option<HighWatermarkWait>) -> Result<(), PartitionError> {
    let wait = wait.expect("it waits").0;
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("an answer").expect("not dropped")
}

/// A partition with one replica, led in epoch 0, over a real log.
pub(crate) struct Alone {
    pub partition: Arc<Partition>,
    replica: Replica,
}

pub(crate) fn alone(durability: Durability) -> Alone {
    let replica = Replica::new(1, durability);
    let mut image = image(1, &[1], 0, 0, None);
    let mut topic = (**image.topics.get(&id().topic).expect("there")).clone();
    topic.partitions[0].replicas = vec![BrokerId(1)];
    image.topics.insert(topic.id, Arc::new(topic));
    replica.show(&image);
    Alone { partition: replica.partition.clone(), replica }
}

impl Alone {
    pub fn log_bytes(&self) -> u64 {
        self.replica.partition.status().size_bytes
    }
}
