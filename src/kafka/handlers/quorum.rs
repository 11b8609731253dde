//! DescribeQuorum, AddRaftVoter and RemoveRaftVoter (KIP-595, KIP-836, KIP-853). Any node takes them and asks the
//! controller, which alone knows how far the others are.

use super::offset_requests::{OffsetRequestError, Reader};
use super::topics::timeout;
use crate::config::node::host_and_port;
use crate::ids::{BrokerId, DirectoryId, RaftIndex};
use crate::kafka::connection::Closed;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::{self, Code};
use crate::kafka::names::text;
use crate::metadata::intent::{Intent, IntentAnswer};
use crate::metadata::voters::{self, MemberReport, QuorumReport, VoterChange};
use crate::wire::codec;
use bytes::Bytes;
use kafka_protocol::messages::add_raft_voter_request::Listener as VoterListener;
use kafka_protocol::messages::describe_quorum_response::{Listener, Node, PartitionData, ReplicaState, TopicData};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, DescribeQuorumRequest, DescribeQuorumResponse, RemoveRaftVoterRequest,
    RemoveRaftVoterResponse,
};
use std::time::Duration;
use uuid::Uuid;

/// The version of AddRaftVoter that its generated codec does not know: it ends in `ack_when_committed`.
pub const WITH_ACK: i16 = 1;

/// The one partition that has a quorum.
const QUORUM_TOPIC: &str = "__cluster_metadata";
/// The only listener of a controller: what its peers reach it by.
const CONTROLLER_LISTENER: &str = "CONTROLLER";
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// RemoveRaftVoter carries no timeout of its own.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
const UNKNOWN: i64 = -1;

pub async fn describe(context: &RequestContext, request: DescribeQuorumRequest) -> DescribeQuorumResponse {
    match context.services.controller.submit(Intent::DescribeQuorum, DESCRIBE_TIMEOUT).await {
        Ok(IntentAnswer::Quorum(report)) => described(context.version, &request, &report),
        Ok(other) => {
            tracing::error!(answer = ?other, "not an answer to DescribeQuorum");
            DescribeQuorumResponse::default().with_error_code(Code::UnknownServerError.code())
        }
        Err(error) => {
            let response = DescribeQuorumResponse::default().with_error_code(errors::submit(&error).code());
            if context.version >= 2 { response.with_error_message(Some(text(&error.to_string()))) } else { response }
        }
    }
}

fn described(version: i16, request: &DescribeQuorumRequest, report: &QuorumReport) -> DescribeQuorumResponse {
    // There is one to describe: named again and again, it would make a long answer of a short question.
    let mut is_described = false;
    let topics = request.topics.iter().map(|topic| {
        let rows = topic.partitions.iter().map(|asked| {
            if &*topic.topic_name.0 == QUORUM_TOPIC && asked.partition_index == 0 && !is_described {
                is_described = true;
                return partition(version, report);
            }
            let row = PartitionData::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(Code::UnknownTopicOrPartition.code());
            if version >= 2 {
                row.with_error_message(Some(text("only __cluster_metadata-0 has a quorum")))
            } else {
                row
            }
        });
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(rows.collect())
    });
    let response = DescribeQuorumResponse::default().with_topics(topics.collect());
    if version >= 2 {
        let nodes = report.members.iter().filter_map(node);
        return response.with_nodes(nodes.collect());
    }
    response
}

fn partition(version: i16, report: &QuorumReport) -> PartitionData {
    let states = |voting: bool| {
        report.members.iter().filter(|m| m.voter == voting).map(|m| replica_state(version, m)).collect::<Vec<_>>()
    };
    PartitionData::default()
        .with_partition_index(0)
        .with_leader_id(report.leader.node.0.into())
        .with_leader_epoch(i32::try_from(report.term).unwrap_or(i32::MAX))
        .with_high_watermark(end_offset(report.committed))
        .with_current_voters(states(true))
        .with_observers(states(false))
}

fn replica_state(version: i16, member: &MemberReport) -> ReplicaState {
    let state = ReplicaState::default()
        .with_replica_id(member.node.node.0.into())
        .with_log_end_offset(member.matched.map_or(UNKNOWN, end_offset));
    let state = if version >= 1 {
        state
            .with_last_fetch_timestamp(member.last_fetch_ms.unwrap_or(UNKNOWN))
            .with_last_caught_up_timestamp(member.last_caught_up_ms.unwrap_or(UNKNOWN))
    } else {
        state
    };
    if version >= 2 { state.with_replica_directory_id(member.node.directory.0) } else { state }
}

/// Raft's index names an entry, Kafka's end offset the place after it.
fn end_offset(index: RaftIndex) -> i64 {
    i64::try_from(index.0).map_or(i64::MAX, |index| index.saturating_add(1))
}

fn node(member: &MemberReport) -> Option<Node> {
    let (host, port) = host_and_port(&member.address).ok()?;
    let listener = Listener::default().with_name(text(CONTROLLER_LISTENER)).with_host(text(&host)).with_port(port);
    Some(Node::default().with_node_id(member.node.node.0.into()).with_listeners(vec![listener]))
}

/// The body of AddRaftVoter after the header, in both versions.
pub fn decode_add(version: i16, body: Bytes) -> Result<AddRaftVoterRequest, Closed> {
    if version < WITH_ACK {
        let key = crate::kafka::versions::ADD_RAFT_VOTER;
        return Ok(codec::decode_request::<AddRaftVoterRequest>(key, version, body)?);
    }
    Ok(decode_add_v1(&body)?)
}

fn decode_add_v1(body: &[u8]) -> Result<AddRaftVoterRequest, OffsetRequestError> {
    let mut reader = Reader::new(body);
    let request = AddRaftVoterRequest::default()
        .with_cluster_id(reader.nullable_text()?)
        .with_timeout_ms(reader.int32()?)
        .with_voter_id(reader.int32()?)
        .with_voter_directory_id(reader.uuid()?)
        .with_listeners(reader.array(|reader| {
            let listener = VoterListener::default()
                .with_name(reader.text()?)
                .with_host(reader.text()?)
                .with_port(u16::from_be_bytes(reader.bytes()?));
            reader.skip_tags()?;
            Ok(listener)
        })?);
    // `ack_when_committed`: an answer here always means that.
    let [_] = reader.bytes()?;
    reader.finish()?;
    Ok(request)
}

/// The addresses in the request are not used: the voter told the controller its own when it joined.
pub async fn add(context: &RequestContext, request: AddRaftVoterRequest) -> AddRaftVoterResponse {
    let change =
        VoterChange::Add { node: BrokerId(request.voter_id), directory: directory(request.voter_directory_id) };
    let (code, message) = match check_cluster(context, request.cluster_id.as_deref()) {
        Some(refused) => refused,
        None => make(context, change, timeout(request.timeout_ms)).await,
    };
    AddRaftVoterResponse::default().with_error_code(code).with_error_message(message.as_deref().map(text))
}

pub async fn remove(context: &RequestContext, request: RemoveRaftVoterRequest) -> RemoveRaftVoterResponse {
    let change = VoterChange::Remove {
        node: BrokerId(request.voter_id),
        directory: directory(request.voter_directory_id),
        force: false,
    };
    let (code, message) = match check_cluster(context, request.cluster_id.as_deref()) {
        Some(refused) => refused,
        None => make(context, change, REMOVE_TIMEOUT).await,
    };
    RemoveRaftVoterResponse::default().with_error_code(code).with_error_message(message.as_deref().map(text))
}

fn directory(id: Uuid) -> Option<DirectoryId> {
    (!id.is_nil()).then_some(DirectoryId(id))
}

type Refused = (i16, Option<String>);

fn check_cluster(context: &RequestContext, given: Option<&str>) -> Option<Refused> {
    let mine = context.services.quorum.image().cluster_id.to_string();
    let other = given.filter(|given| *given != mine)?;
    let other: String = other.chars().take(64).collect();
    Some((Code::InconsistentClusterId.code(), Some(format!("this is cluster {mine}, not {other}"))))
}

async fn make(context: &RequestContext, change: VoterChange, timeout: Duration) -> Refused {
    match voters::change(&*context.services.controller, change, timeout).await {
        Ok(Ok(outcome)) => {
            if let Some(warning) = outcome.warning {
                tracing::warn!("{warning}");
            }
            (0, None)
        }
        Ok(Err(error)) => (errors::voter(&error).code(), Some(error.to_string())),
        Err(error) => (errors::submit(&error).code(), Some(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::{ADD_RAFT_VOTER, DESCRIBE_QUORUM, REMOVE_RAFT_VOTER};
    use crate::metadata::raft::types::RaftNodeId;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::describe_quorum_request::{PartitionData as AskedPartition, TopicData as AskedTopic};
    use proptest::prelude::*;

    fn report() -> QuorumReport {
        let member = |node: u64, voter| MemberReport {
            node: RaftNodeId::from(node),
            address: format!("node-{node}:9093"),
            voter,
            matched: (node < 3).then_some(RaftIndex(40 + node)),
            last_fetch_ms: (node < 3).then_some(1_000),
            last_caught_up_ms: (node == 1).then_some(900),
        };
        QuorumReport {
            leader: RaftNodeId::from(1),
            term: 7,
            last_log_index: RaftIndex(42),
            committed: RaftIndex(41),
            members: vec![member(1, true), member(2, true), member(3, false)],
            half_way: false,
            now_ms: 1_010,
        }
    }

    fn ask(topic: &'static str) -> DescribeQuorumRequest {
        let rows = vec![AskedPartition::default(), AskedPartition::default().with_partition_index(1)];
        let topic = AskedTopic::default().with_topic_name(TopicName(text(topic))).with_partitions(rows);
        DescribeQuorumRequest::default().with_topics(vec![topic])
    }

    #[test]
    fn the_quorum_is_told_in_every_version() {
        for version in 0..=2 {
            let response = described(version, &ask(QUORUM_TOPIC), &report());
            testing::encodes(DESCRIBE_QUORUM, version, &response);
            let rows = &response.topics[0].partitions;
            assert_eq!((rows[0].leader_id.0, rows[0].leader_epoch, rows[0].high_watermark), (1, 7, 42));
            assert_eq!(rows[1].error_code, 3, "partition 1 does not exist");
            let ends = |states: &[ReplicaState]| states.iter().map(|s| s.log_end_offset).collect::<Vec<_>>();
            assert_eq!((ends(&rows[0].current_voters), ends(&rows[0].observers)), (vec![42, 43], vec![-1]));
            let times: Vec<_> = rows[0].current_voters.iter().map(|s| s.last_caught_up_timestamp).collect();
            assert_eq!(times, if version >= 1 { [900, -1] } else { [-1, -1] });
            assert_eq!(response.nodes.len(), if version >= 2 { 3 } else { 0 });
        }
        let nodes = described(2, &ask(QUORUM_TOPIC), &report()).nodes;
        let listener = &nodes[1].listeners[0];
        assert_eq!((nodes[1].node_id.0, &*listener.host, listener.port), (2, "node-2", 9093));
        assert_eq!(described(0, &ask("orders"), &report()).topics[0].partitions[0].error_code, 3);
    }

    #[test]
    fn a_voter_to_add_is_read_in_both_versions() {
        let listener = VoterListener::default().with_name(text("CONTROLLER")).with_host(text("h")).with_port(9093);
        let request = AddRaftVoterRequest::default()
            .with_cluster_id(Some(text("c")))
            .with_timeout_ms(5_000)
            .with_voter_id(4)
            .with_voter_directory_id(Uuid::from_u128(9))
            .with_listeners(vec![listener]);
        let mut body = bytes::BytesMut::new();
        kafka_protocol::protocol::Encodable::encode(&request, &mut body, 0).unwrap();
        assert_eq!(decode_add(0, body.clone().freeze()).unwrap(), request);
        let tags = body.split_off(body.len() - 1);
        assert_eq!(&tags[..], [0]);
        for acknowledged in [0, 1] {
            let v1 = [&body[..], &[acknowledged, 0]].concat();
            assert_eq!(decode_add(1, v1.clone().into()).unwrap(), request);
            assert!(decode_add(1, v1[..v1.len() - 1].to_vec().into()).is_err(), "cut off");
        }
    }

    #[test]
    fn refusals_encode() {
        let refusal = AddRaftVoterResponse::default().with_error_code(126).with_error_message(Some(text("why")));
        testing::encodes(ADD_RAFT_VOTER, 0, &refusal);
        let refusal = RemoveRaftVoterResponse::default().with_error_code(127).with_error_message(Some(text("why")));
        testing::encodes(REMOVE_RAFT_VOTER, 0, &refusal);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_add(1, body.into());
        }
    }
}
