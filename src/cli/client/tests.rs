//! Producer and consumer against a scripted cluster of two brokers, which lose leadership and answers on cue.

use super::consumer::{Start, follow, resolve};
use super::metadata::Metadata;
use super::producer::{Acks, Options, Outgoing, Producer};
use crate::ids::{LeaderEpoch, Offset};
use crate::platform::network;
use crate::records::ValidBatches;
use crate::wire::codec::{self, Header};
use crate::wire::frame::{FrameLimits, FrameReader};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

const SECOND: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(10);
const NOT_LEADER: i16 = 6;
const DUPLICATE: i16 = 46;

/// One partition that two brokers serve in turn, as a broker would keep it.
struct Script {
    addresses: Vec<String>,
    leader: usize,
    epoch: i32,
    log: BytesMut,
    end: i64,
    next_sequence: i32,
    /// The leader of the first produce request resigns instead of appending.
    resign_once: bool,
    /// The first append is not answered: the connection breaks.
    hang_up_once: bool,
}

enum Reply {
    Frame(Bytes),
    HangUp,
}

impl Script {
    fn answer(&mut self, me: usize, header: Header, body: Bytes) -> Reply {
        let (id, key, version) = (header.correlation_id, header.api_key, header.version);
        let encode = |frame: Result<Bytes, codec::CodecError>| Reply::Frame(frame.unwrap());
        match key {
            3 => encode(codec::encode_response(id, key, version, &self.metadata())),
            22 => {
                let answer = InitProducerIdResponse::default().with_producer_id(ProducerId(9)).with_producer_epoch(0);
                encode(codec::encode_response(id, key, version, &answer))
            }
            0 => {
                let request = codec::decode_request::<ProduceRequest>(key, version, body).unwrap();
                let Some(code) = self.produce(me, &request) else { return Reply::HangUp };
                let partition = PartitionProduceResponse::default().with_error_code(code);
                let topic = TopicProduceResponse::default().with_partition_responses(vec![partition]);
                encode(codec::encode_response(
                    id,
                    key,
                    version,
                    &ProduceResponse::default().with_responses(vec![topic]),
                ))
            }
            2 => {
                let partition = ListOffsetsPartitionResponse::default().with_offset(0).with_error_code(self.code(me));
                let topic = ListOffsetsTopicResponse::default().with_partitions(vec![partition]);
                encode(codec::encode_response(
                    id,
                    key,
                    version,
                    &ListOffsetsResponse::default().with_topics(vec![topic]),
                ))
            }
            1 => {
                let request = codec::decode_request::<FetchRequest>(key, version, body).unwrap();
                let wanted = &request.topics[0].partitions[0];
                assert_eq!(wanted.current_leader_epoch, self.epoch, "fetches carry the leader's epoch");
                // All of it at the start, nothing at the end: as much as the test needs.
                let records = if wanted.fetch_offset < self.end { self.log.clone().freeze() } else { Bytes::new() };
                let partition = PartitionData::default()
                    .with_error_code(self.code(me))
                    .with_high_watermark(self.end)
                    .with_records(Some(records));
                let topic = FetchableTopicResponse::default().with_partitions(vec![partition]);
                encode(codec::encode_response(id, key, version, &FetchResponse::default().with_responses(vec![topic])))
            }
            other => panic!("API {other} was not expected"),
        }
    }

    fn code(&self, me: usize) -> i16 {
        if me == self.leader { 0 } else { NOT_LEADER }
    }

    fn metadata(&self) -> MetadataResponse {
        let number = |broker: usize| BrokerId(i32::try_from(broker).unwrap() + 1);
        let brokers = self
            .addresses
            .iter()
            .enumerate()
            .map(|(broker, address)| {
                let (host, port) = address.rsplit_once(':').unwrap();
                MetadataResponseBroker::default()
                    .with_node_id(number(broker))
                    .with_host(StrBytes::from_string(host.to_string()))
                    .with_port(port.parse().unwrap())
            })
            .collect();
        let partition =
            MetadataResponsePartition::default().with_leader_id(number(self.leader)).with_leader_epoch(self.epoch);
        let topic = MetadataResponseTopic::default().with_partitions(vec![partition]);
        MetadataResponse::default().with_brokers(brokers).with_topics(vec![topic])
    }

    /// `None`: appended, and the answer is lost.
    fn produce(&mut self, me: usize, request: &ProduceRequest) -> Option<i16> {
        assert_eq!(request.acks, -1);
        if me == self.leader && std::mem::take(&mut self.resign_once) {
            self.leader = 1 - me;
            self.epoch += 1;
        }
        if me != self.leader {
            return Some(NOT_LEADER);
        }
        let records = request.topic_data[0].partition_data[0].records.clone().unwrap();
        let batch = ValidBatches::from_client(records.clone()).unwrap();
        let header = batch.batches[0].header;
        assert_eq!((header.producer_id.0, header.producer_epoch.0), (9, 0));
        if header.base_sequence < self.next_sequence {
            return Some(DUPLICATE);
        }
        assert_eq!(header.base_sequence, self.next_sequence, "sequences have no gaps");
        self.next_sequence += header.record_count;
        let mut bytes = records.to_vec();
        let patched = header.patched(Offset(self.end), LeaderEpoch(self.epoch));
        bytes[..patched.len()].copy_from_slice(&patched);
        self.log.extend_from_slice(&bytes);
        self.end += i64::from(header.record_count);
        if std::mem::take(&mut self.hang_up_once) { None } else { Some(0) }
    }
}

async fn cluster(resign_once: bool, hang_up_once: bool) -> (Arc<Mutex<Script>>, Vec<String>) {
    let script = Arc::new(Mutex::new(Script {
        addresses: Vec::new(),
        leader: 0,
        epoch: 0,
        log: BytesMut::new(),
        end: 0,
        next_sequence: 0,
        resign_once,
        hang_up_once,
    }));
    for me in 0..2 {
        let listener = network::listen("127.0.0.1:0").await.unwrap();
        script.lock().addresses.push(listener.local_addr().unwrap().to_string());
        let script = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                tokio::spawn(async move {
                    let limits = FrameLimits { size_max: 16 << 20, frame_deadline: SECOND, idle: None };
                    let mut frames = FrameReader::new(stream, limits);
                    while let Ok(Some(mut frame)) = frames.next().await {
                        let header = codec::decode_header(&mut frame).unwrap();
                        let reply = script.lock().answer(me, header, frame);
                        match reply {
                            Reply::Frame(frame) if frames.get_mut().write_all(&frame).await.is_ok() => {}
                            _ => return,
                        }
                    }
                });
            }
        });
    }
    let addresses = script.lock().addresses.clone();
    (script, addresses)
}

#[tokio::test]
async fn records_survive_a_change_of_leader_and_a_lost_answer_once_and_in_order() {
    let (script, addresses) = cluster(true, true).await;
    let metadata = Metadata::open(addresses, "t");
    assert_eq!(metadata.partitions(DEADLINE).await.unwrap(), 1);
    let (acked, mut acks) = mpsc::channel(1_024);
    let options = Options { acks: Acks::All, linger: Duration::ZERO, deadline: Some(DEADLINE) };
    let mut producer = Producer::start(&metadata, 1, options, acked).await.unwrap();
    for number in 0..2_500 {
        let record = Outgoing { key: Some("k".into()), value: Bytes::from(format!("{number}")) };
        assert!(producer.send(record).await);
    }
    assert_eq!(producer.finish().await.unwrap(), 2_500);
    let mut told = 0;
    while let Some(acked) = acks.recv().await {
        told += acked.records;
    }
    assert_eq!(told, 2_500);
    {
        let script = script.lock();
        assert_eq!((script.leader, script.end, script.next_sequence), (1, 2_500, 2_500));
        assert!(!script.resign_once && !script.hang_up_once, "both faults were met");
    }

    let start = resolve(&metadata, 0, Start::Earliest, DEADLINE).await.unwrap();
    let (out, mut fetched) = mpsc::channel(4);
    let lane = tokio::spawn(follow(metadata, 0, start, out));
    let mut values = Vec::new();
    while values.len() < 2_500 {
        let fetched = tokio::time::timeout(DEADLINE, fetched.recv()).await.unwrap().unwrap();
        assert_eq!(fetched.high_watermark, 2_500);
        values.extend(fetched.records.into_iter().map(|record| (record.offset, record.value.unwrap())));
    }
    for (number, (offset, value)) in values.iter().enumerate() {
        assert_eq!((usize::try_from(*offset).unwrap(), &value[..]), (number, number.to_string().as_bytes()));
    }
    drop(fetched);
    lane.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_an_error_that_says_what_to_do() {
    let metadata = Metadata::open(vec!["127.0.0.1:1".to_string()], "t");
    let error = metadata.partitions(Duration::from_millis(50)).await.unwrap_err().to_string();
    assert!(error.contains("--bootstrap"), "{error}");
}
