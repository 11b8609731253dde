//! From a request's header to its handler, and from its answer to a frame.

use super::connection::Closed;
use super::context::RequestContext;
use super::handlers::*;
use super::reply::Reply;
use super::versions::{self, *};
use crate::wire::codec::{self, Header};
use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::messages::*;
use std::sync::atomic::Ordering;

/// What a request comes to.
#[derive(Debug)]
pub enum Outcome {
    Reply(Reply),
    /// A produce with acks=0 that went well.
    Silence,
    Close(Closed),
}

/// A request that has begun.
pub enum Started {
    Ready(Outcome),
    Later(BoxFuture<'static, Outcome>),
    /// Nothing was done yet: begin it again once this resolves, before any request after it.
    NotYet(BoxFuture<'static, ()>),
}

/// Encodes an answer; one that does not encode is a bug here and closes the connection.
macro_rules! reply {
    ($header:expr, $response:expr) => {
        match codec::encode_response($header.correlation_id, $header.api_key, $header.version, $response) {
            Ok(frame) => Outcome::Reply(Reply::of(frame)),
            Err(error) => Outcome::Close(error.into()),
        }
    };
}
pub(super) use reply;

/// Starts one request. A produce has appended when this returns; everything else runs in the future. `again`: this
/// request was answered with [`Started::NotYet`] before, and is not once more.
pub fn start(context: &RequestContext, header: &Header, body: Bytes, again: bool) -> Result<Started, Closed> {
    let (key, version) = (header.api_key, header.version);
    let api = versions::find(key, context.is_replica_listener).ok_or(Closed::UnknownApi(key))?;
    if !api.serves(version) {
        return unserved_version(context.is_replica_listener, header, &body);
    }
    let mut context = context.clone();
    context.version = version;
    context.client_id = header.client_id.as_ref().map(ToString::to_string).unwrap_or_default();
    let header = Header { client_id: None, ..*header };
    if matches!(key, PRODUCE | INIT_PRODUCER_ID) {
        context.is_producers.store(true, Ordering::Relaxed);
    }

    macro_rules! later {
        ($request:ty, $handler:path) => {
            later_decoded!(codec::decode_request::<$request>(key, version, body)?, $handler)
        };
    }
    macro_rules! later_decoded {
        ($request:expr, $handler:path) => {{
            let request = $request;
            Started::Later(Box::pin(async move {
                let response = $handler(&context, request).await;
                reply!(header, &response)
            }))
        }};
    }

    Ok(match key {
        PRODUCE => {
            let request = codec::decode_request::<ProduceRequest>(key, version, body)?;
            match produce::expected_soon(&context, &request) {
                Some(wait) if !again => Started::NotYet(wait),
                _ => produce::start(&context, &header, request),
            }
        }
        FETCH => {
            let request = codec::decode_request::<FetchRequest>(key, version, body)?;
            Started::Later(Box::pin(async move {
                let (response, held) = fetch::handle(&context, request).await;
                match fetch_frame::encode(header.correlation_id, version, &response) {
                    Ok(segments) => Outcome::Reply(Reply { segments, held: Some(held) }),
                    Err(error) => Outcome::Close(error.into()),
                }
            }))
        }
        LIST_OFFSETS => later!(ListOffsetsRequest, list_offsets::handle),
        METADATA => later!(MetadataRequest, metadata::handle),
        OFFSET_COMMIT if version == offset_requests::BY_ID => {
            later_decoded!(offset_requests::decode_commit_v10(&body)?, offsets::commit)
        }
        OFFSET_COMMIT => later!(OffsetCommitRequest, offsets::commit),
        OFFSET_FETCH if version == offset_requests::BY_ID => {
            later_decoded!(offset_requests::decode_fetch_v10(&body)?, offsets::fetch)
        }
        OFFSET_FETCH => later!(OffsetFetchRequest, offsets::fetch),
        FIND_COORDINATOR => later!(FindCoordinatorRequest, find_coordinator::handle),
        JOIN_GROUP => later!(JoinGroupRequest, classic_group::join),
        HEARTBEAT => later!(HeartbeatRequest, classic_group::heartbeat),
        LEAVE_GROUP => later!(LeaveGroupRequest, classic_group::leave),
        SYNC_GROUP => later!(SyncGroupRequest, classic_group::sync),
        DESCRIBE_GROUPS => later!(DescribeGroupsRequest, classic_group::describe),
        LIST_GROUPS => later!(ListGroupsRequest, classic_group::list),
        API_VERSIONS => later!(ApiVersionsRequest, api_versions::handle),
        CREATE_TOPICS => later!(CreateTopicsRequest, topics::create),
        DELETE_TOPICS => later!(DeleteTopicsRequest, topics::delete),
        INIT_PRODUCER_ID => later!(InitProducerIdRequest, init_producer_id::handle),
        OFFSET_FOR_LEADER_EPOCH => later!(OffsetForLeaderEpochRequest, epochs::handle),
        DESCRIBE_CONFIGS => later!(DescribeConfigsRequest, configs::describe),
        DESCRIBE_LOG_DIRS => later!(DescribeLogDirsRequest, log_dirs::describe),
        CREATE_PARTITIONS => later!(CreatePartitionsRequest, topics::create_partitions),
        DELETE_GROUPS => later!(DeleteGroupsRequest, classic_group::delete),
        ELECT_LEADERS => later!(ElectLeadersRequest, elections::elect),
        ALTER_PARTITION_REASSIGNMENTS => later!(AlterPartitionReassignmentsRequest, reassignments::alter),
        LIST_PARTITION_REASSIGNMENTS => later!(ListPartitionReassignmentsRequest, reassignments::list),
        INCREMENTAL_ALTER_CONFIGS => later!(IncrementalAlterConfigsRequest, configs_alter::alter),
        OFFSET_DELETE => later!(OffsetDeleteRequest, offset_delete::delete),
        DESCRIBE_QUORUM => later!(DescribeQuorumRequest, quorum::describe),
        DESCRIBE_CLUSTER => later!(DescribeClusterRequest, cluster::describe),
        UNREGISTER_BROKER => later!(UnregisterBrokerRequest, cluster::unregister),
        CONSUMER_GROUP_HEARTBEAT => later!(ConsumerGroupHeartbeatRequest, consumer_group::heartbeat),
        CONSUMER_GROUP_DESCRIBE => later!(ConsumerGroupDescribeRequest, consumer_group::describe),
        ADD_RAFT_VOTER => {
            let request = quorum::decode_add(version, body)?;
            // The answer is the same in both versions, and its codec knows the first.
            let header = Header { version: 0, ..header };
            Started::Later(Box::pin(async move {
                let response = quorum::add(&context, request).await;
                reply!(header, &response)
            }))
        }
        REMOVE_RAFT_VOTER => later!(RemoveRaftVoterRequest, quorum::remove),
        other => return Err(Closed::UnknownApi(other)),
    })
}

/// A client that opens with a version newer than we know learns which we do; so does one with an old Produce. The
/// shape of any other answer is unknown.
fn unserved_version(is_replica_listener: bool, header: &Header, body: &Bytes) -> Result<Started, Closed> {
    let (key, version) = (header.api_key, header.version);
    match key {
        API_VERSIONS => {
            let header = Header { version: 0, client_id: None, ..*header };
            let response = api_versions::unsupported(is_replica_listener);
            Ok(Started::Ready(reply!(header, &response)))
        }
        PRODUCE => produce_legacy::refuse(header.correlation_id, version, body)
            .map(|frame| Started::Ready(Outcome::Reply(Reply::of(frame))))
            .ok_or(Closed::UnknownVersion { key, version }),
        _ => Err(Closed::UnknownVersion { key, version }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;

    fn ask(api_key: i16, version: i16, body: &'static [u8]) -> Result<Bytes, Closed> {
        let header = Header { api_key, version, correlation_id: 7, client_id: None };
        match unserved_version(false, &header, &Bytes::from_static(body))? {
            Started::Ready(Outcome::Reply(reply)) => Ok(reply.segments.into_iter().flatten().collect()),
            _ => panic!("an answer, at once"),
        }
    }

    #[test]
    fn a_client_newer_than_this_node_learns_the_table_in_version_0() {
        let mut frame = ask(API_VERSIONS, 99, b"whatever").unwrap();
        assert_eq!(frame.get_i32() as usize, frame.len());
        assert_eq!((frame.get_i32(), frame.get_i16(), frame.get_i32()), (7, 35, TABLE.len() as i32));
        assert_eq!(frame.len(), TABLE.len() * 6, "no tagged fields, no throttle time");
    }

    #[test]
    fn other_unserved_versions_are_refused_or_closed() {
        assert!(ask(PRODUCE, 2, &[0, 1, 0, 0, 0, 9, 0, 0, 0, 0]).is_ok());
        assert!(matches!(ask(PRODUCE, 2, &[0, 1]), Err(Closed::UnknownVersion { key: 0, version: 2 })));
        assert!(matches!(ask(PRODUCE, 14, &[]), Err(Closed::UnknownVersion { .. })));
        assert!(matches!(ask(FETCH, 3, &[]), Err(Closed::UnknownVersion { .. })));
    }
}
