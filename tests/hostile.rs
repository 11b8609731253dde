//! Bytes that no client would send: the node answers with a typed error or closes, stays up, and its memory stays flat.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Cluster, wait_for};

const FRAMES: usize = 100_000;

/// A small, seeded generator: a failure prints the seed that repeats it.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }
}

fn request<T: Encodable>(key: ApiKey, version: i16, body: &T) -> Option<Vec<u8>> {
    let mut frame = BytesMut::new();
    RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("hostile")))
        .encode(&mut frame, key.request_header_version(version))
        .ok()?;
    body.encode(&mut frame, version).ok()?;
    Some(frame.to_vec())
}

/// Valid requests of every served API in every version, for mutating.
fn corpus() -> Vec<Vec<u8>> {
    let name = || TopicName(StrBytes::from_static_str("t"));
    let group = || GroupId(StrBytes::from_static_str("g"));
    let text = StrBytes::from_static_str;
    let mut batch = BytesMut::new();
    batch.put_bytes(0, 61);
    let records: Bytes = batch.freeze();
    let mut all = Vec::new();
    for version in 0..=18 {
        let mut add = |frame: Option<Vec<u8>>| all.extend(frame);
        let produce = produce_request::PartitionProduceData::default().with_records(Some(records.clone()));
        let mut topic = produce_request::TopicProduceData::default().with_partition_data(vec![produce]);
        if version < 13 {
            topic = topic.with_name(name());
        }
        add(request(
            ApiKey::Produce,
            version,
            &ProduceRequest::default().with_acks(-1).with_timeout_ms(10).with_topic_data(vec![topic]),
        ));
        let mut topic = fetch_request::FetchTopic::default()
            .with_partitions(vec![fetch_request::FetchPartition::default().with_partition_max_bytes(1000)]);
        if version < 13 {
            topic = topic.with_topic(name());
        }
        add(request(ApiKey::Fetch, version, &FetchRequest::default().with_max_wait_ms(1).with_topics(vec![topic])));
        let partition = list_offsets_request::ListOffsetsPartition::default().with_timestamp(-1);
        let topic =
            list_offsets_request::ListOffsetsTopic::default().with_name(name()).with_partitions(vec![partition]);
        add(request(ApiKey::ListOffsets, version, &ListOffsetsRequest::default().with_topics(vec![topic])));
        let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(name()));
        add(request(ApiKey::Metadata, version, &MetadataRequest::default().with_topics(Some(vec![topic]))));
        add(request(ApiKey::ApiVersions, version, &ApiVersionsRequest::default()));
        add(request(ApiKey::DescribeCluster, version, &DescribeClusterRequest::default()));
        let find = FindCoordinatorRequest::default();
        let find = if version < 4 { find.with_key(text("g")) } else { find.with_coordinator_keys(vec![text("g")]) };
        add(request(ApiKey::FindCoordinator, version, &find));
        add(request(ApiKey::InitProducerId, version, &InitProducerIdRequest::default()));
        let partition = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
        let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
            .with_topic(name())
            .with_partitions(vec![partition]);
        add(request(
            ApiKey::OffsetForLeaderEpoch,
            version,
            &OffsetForLeaderEpochRequest::default().with_topics(vec![topic]),
        ));
        let topic = create_topics_request::CreatableTopic::default()
            .with_name(name())
            .with_num_partitions(1)
            .with_replication_factor(1)
            .with_configs(vec![create_topics_request::CreatableTopicConfig::default().with_name(text("retention.ms"))]);
        add(request(
            ApiKey::CreateTopics,
            version,
            &CreateTopicsRequest::default().with_topics(vec![topic]).with_validate_only(true),
        ));
        let delete = DeleteTopicsRequest::default();
        let delete = if version < 6 {
            delete.with_topic_names(vec![name()])
        } else {
            delete.with_topics(vec![delete_topics_request::DeleteTopicState::default().with_name(Some(name()))])
        };
        add(request(ApiKey::DeleteTopics, version, &delete));
        let topic = create_partitions_request::CreatePartitionsTopic::default().with_name(name()).with_count(2);
        add(request(
            ApiKey::CreatePartitions,
            version,
            &CreatePartitionsRequest::default().with_topics(vec![topic]).with_validate_only(true),
        ));
        let resource = describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"));
        add(request(
            ApiKey::DescribeConfigs,
            version,
            &DescribeConfigsRequest::default().with_resources(vec![resource]),
        ));
        let config = incremental_alter_configs_request::AlterableConfig::default().with_name(text("retention.ms"));
        let resource = incremental_alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_configs(vec![config]);
        add(request(
            ApiKey::IncrementalAlterConfigs,
            version,
            &IncrementalAlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(true),
        ));
        let protocol = join_group_request::JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"abc"));
        add(request(
            ApiKey::JoinGroup,
            version,
            &JoinGroupRequest::default()
                .with_group_id(group())
                .with_session_timeout_ms(6000)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol]),
        ));
        let assignment = sync_group_request::SyncGroupRequestAssignment::default().with_member_id(text("m"));
        add(request(
            ApiKey::SyncGroup,
            version,
            &SyncGroupRequest::default().with_group_id(group()).with_assignments(vec![assignment]),
        ));
        add(request(ApiKey::Heartbeat, version, &HeartbeatRequest::default().with_group_id(group())));
        let leave = LeaveGroupRequest::default().with_group_id(group());
        let leave = if version < 3 {
            leave.with_member_id(text("m"))
        } else {
            leave.with_members(vec![leave_group_request::MemberIdentity::default().with_member_id(text("m"))])
        };
        add(request(ApiKey::LeaveGroup, version, &leave));
        let partition = offset_commit_request::OffsetCommitRequestPartition::default().with_committed_offset(3);
        let mut topic = offset_commit_request::OffsetCommitRequestTopic::default().with_partitions(vec![partition]);
        if version < 10 {
            topic = topic.with_name(name());
        }
        add(request(
            ApiKey::OffsetCommit,
            version,
            &OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic]),
        ));
        let fetch = OffsetFetchRequest::default();
        let fetch = if version < 8 {
            fetch.with_group_id(group())
        } else {
            fetch.with_groups(vec![offset_fetch_request::OffsetFetchRequestGroup::default().with_group_id(group())])
        };
        add(request(ApiKey::OffsetFetch, version, &fetch));
        add(request(ApiKey::DescribeGroups, version, &DescribeGroupsRequest::default().with_groups(vec![group()])));
        add(request(ApiKey::ListGroups, version, &ListGroupsRequest::default()));
        add(request(ApiKey::DeleteGroups, version, &DeleteGroupsRequest::default().with_groups_names(vec![group()])));
    }
    all
}

fn mutate(frame: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    for _ in 0..=chance.below(3) {
        let length = bytes.len();
        match chance.below(6) {
            0 => bytes.truncate(chance.below(length)),
            1 if length > 0 => bytes[chance.below(length)] = chance.next() as u8,
            2 if length > 4 => {
                // A length that lies: the largest, negative, or anything.
                let value = [i32::MAX, -1, i32::MIN, chance.next() as i32][chance.below(4)];
                let at = chance.below(length - 4);
                bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            3 if length > 5 => {
                let at = chance.below(length - 5);
                bytes[at..at + 5].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x07]);
            }
            4 => {
                let at = chance.below(length + 1);
                let extra: Vec<u8> = (0..chance.below(40)).map(|_| chance.next() as u8).collect();
                bytes.splice(at..at, extra);
            }
            _ if length > 8 => {
                // Past the header more often than not.
                let at = 8 + chance.below(length - 8);
                bytes[at] ^= 1 << chance.below(8);
            }
            _ => {}
        }
    }
    bytes
}

fn connect(port: u16) -> TcpStream {
    let stream = wait_for("the node accepts", Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).ok());
    stream.set_read_timeout(Some(Duration::from_millis(15))).expect("a timeout");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Sends one frame; false if the connection is of no more use (closed, or the answer is still parked).
fn exchange(stream: &mut TcpStream, body: &[u8]) -> bool {
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    if stream.write_all(&frame).is_err() {
        return false;
    }
    let mut length = [0u8; 4];
    if stream.read_exact(&mut length).is_err() {
        return false;
    }
    let mut answer = vec![0u8; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).is_ok()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the node runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn assert_serves(cluster: &Cluster) {
    let answer = cluster.cli(1, &["topic", "list"]);
    answer.assert_ok("the node still answers");
    let listed = support::run(support::HIGHWATER, &["topic", "describe", "t", "--admin", &cluster.admin(1)]);
    listed.assert_ok("the topic is still there");
}

#[test]
fn a_hundred_thousand_mutated_frames_leave_the_node_up_and_its_memory_flat() {
    let cluster = Cluster::start("hostile", 1, &["auto.create.topics.enable=false", "delete.topic.enable=false"]);
    cluster.create_topic("t", 1, 1, &[]);
    let corpus = corpus();
    assert!(corpus.len() > 120, "only {} requests to mutate", corpus.len());
    let (pid, port) = (cluster.pid(1).expect("a pid"), cluster.kafka_port(1));
    let seed = std::env::var("HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_1234_u64);
    eprintln!("HOSTILE_SEED={seed} repeats this run");
    let sent = AtomicUsize::new(0);
    let send = |thread: u64, frames: usize| {
        let mut chance = Chance(seed ^ (thread + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut stream = connect(port);
        for _ in 0..frames {
            let body = mutate(&corpus[chance.below(corpus.len())], &mut chance);
            if !exchange(&mut stream, &body) {
                stream = connect(port);
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    send(99, 5_000); // warm: caches and pools have their size
    let before = resident_kib(pid);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || send(thread, FRAMES / 8));
        }
    });
    assert!(sent.load(Ordering::Relaxed) >= FRAMES);
    assert_eq!(cluster.pid(1), Some(pid));
    let after = resident_kib(pid);
    assert!(after < before + 96 * 1024, "memory grew from {before} KiB to {after} KiB (seed {seed})");
    assert_serves(&cluster);
}

#[test]
fn announced_bytes_cost_nothing_and_a_partial_frame_has_a_deadline() {
    let cluster = Cluster::start("announced", 1, &[]);
    cluster.create_topic("t", 1, 1, &[]);
    let (pid, port) = (cluster.pid(1).expect("a pid"), cluster.kafka_port(1));
    for length in [u32::MAX, 0x8000_0000, 0x7fff_ffff, 0] {
        let mut stream = connect(port);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(b"garbage").unwrap();
        let closed = matches!(stream.read(&mut [0u8; 64]), Ok(0) | Err(_));
        assert!(closed, "a frame of length {length:#x} is refused by closing");
    }
    let before = resident_kib(pid);
    let waiting: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect(port);
            stream.write_all(&(90u32 << 20).to_be_bytes()).unwrap();
            stream.write_all(&[0; 10]).unwrap();
            stream
        })
        .collect();
    assert_serves(&cluster);
    let after = resident_kib(pid);
    assert!(after < before + 32 * 1024, "200 announcements of 90 MiB cost {} KiB", after - before);
    for mut stream in waiting.into_iter().take(3) {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert!(matches!(stream.read(&mut [0u8; 1]), Ok(0)), "the unfinished frame's connection is closed");
    }
    assert_serves(&cluster);
}
