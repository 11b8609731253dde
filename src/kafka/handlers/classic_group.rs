//! The classic group protocol on the wire: JoinGroup, SyncGroup, Heartbeat, LeaveGroup, DescribeGroups, ListGroups,
//! DeleteGroups. The decisions are in `group::classic`; here are only the versions' shapes.

use crate::group::coordinator::{Description, GroupError, Join, Joined, Leaver, Listing, SyncGroup, Synced};
use crate::kafka::context::RequestContext;
use crate::kafka::errors;
use crate::kafka::repeated::first_of_each;
use bytes::Bytes;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

/// Read, delete and describe, as a bit field: what may be done to a group where nothing is forbidden.
const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

fn owned(value: Option<&StrBytes>) -> Option<String> {
    value.map(ToString::to_string)
}

/// 0 where it went well.
fn code<T>(outcome: &Result<T, GroupError>) -> i16 {
    outcome.as_ref().err().map_or(0, errors::group)
}

pub async fn join(context: &RequestContext, request: JoinGroupRequest) -> JoinGroupResponse {
    let member = request.member_id.clone();
    let asked = Join {
        group: request.group_id.to_string(),
        member: request.member_id.to_string(),
        instance: owned(request.group_instance_id.as_ref()),
        client_id: context.client_id.clone(),
        client_host: format!("/{}", context.peer.ip()),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if context.version >= 1 { request.rebalance_timeout_ms } else { -1 },
        protocol_type: request.protocol_type.to_string(),
        protocols: request.protocols.into_iter().map(|p| (p.name.to_string(), detached(&p.metadata))).collect(),
        member_id_required: context.version >= 4,
        skip_assignment_supported: context.version >= 9,
        reason: owned(request.reason.as_ref()),
    };
    join_response(context.version, member, context.services.groups.join(asked).await)
}

/// A copy: what is kept must not keep the whole request's buffer alive.
fn detached(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn join_response(version: i16, asked_by: StrBytes, outcome: Result<Joined, GroupError>) -> JoinGroupResponse {
    let response = JoinGroupResponse::default().with_error_code(code(&outcome));
    match outcome {
        Err(error) => {
            let member = match error {
                GroupError::MemberIdRequired(id) => text(id),
                _ => asked_by,
            };
            let no_protocol = if version >= 7 { None } else { Some(StrBytes::default()) };
            response.with_member_id(member).with_protocol_name(no_protocol)
        }
        Ok(joined) => {
            let members = joined.members.into_iter().map(|member| {
                JoinGroupResponseMember::default()
                    .with_member_id(text(member.id))
                    .with_group_instance_id(member.instance.filter(|_| version >= 5).map(text))
                    .with_metadata(member.metadata)
            });
            response
                .with_generation_id(joined.generation)
                .with_protocol_type((version >= 7).then(|| text(joined.protocol_type)))
                .with_protocol_name(Some(text(joined.protocol)))
                .with_leader(text(joined.leader))
                .with_skip_assignment(version >= 9 && joined.skip_assignment)
                .with_member_id(text(joined.member))
                .with_members(members.collect())
        }
    }
}

pub async fn sync(context: &RequestContext, request: SyncGroupRequest) -> SyncGroupResponse {
    let asked = SyncGroup {
        group: request.group_id.to_string(),
        member: request.member_id.to_string(),
        instance: owned(request.group_instance_id.as_ref()),
        generation: request.generation_id,
        protocol_type: owned(request.protocol_type.as_ref()),
        protocol: owned(request.protocol_name.as_ref()),
        assignments: request
            .assignments
            .into_iter()
            .map(|assignment| (assignment.member_id.to_string(), detached(&assignment.assignment)))
            .collect(),
    };
    sync_response(context.version, context.services.groups.sync(asked).await)
}

fn sync_response(version: i16, outcome: Result<Synced, GroupError>) -> SyncGroupResponse {
    let response = SyncGroupResponse::default().with_error_code(code(&outcome));
    let Ok(synced) = outcome else { return response };
    response
        .with_protocol_type((version >= 5).then(|| text(synced.protocol_type)))
        .with_protocol_name((version >= 5).then(|| text(synced.protocol)))
        .with_assignment(synced.assignment)
}

pub async fn heartbeat(context: &RequestContext, request: HeartbeatRequest) -> HeartbeatResponse {
    let instance = request.group_instance_id.as_deref();
    let groups = &context.services.groups;
    let outcome = groups.heartbeat(&request.group_id, &request.member_id, instance, request.generation_id);
    HeartbeatResponse::default().with_error_code(code(&outcome))
}

pub async fn leave(context: &RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let leaving: Vec<Leaver> = if context.version >= 3 {
        let member = |member: &leave_group_request::MemberIdentity| Leaver {
            member: member.member_id.to_string(),
            instance: owned(member.group_instance_id.as_ref()),
            reason: owned(member.reason.as_ref()),
        };
        request.members.iter().map(member).collect()
    } else {
        vec![Leaver { member: request.member_id.to_string(), ..Leaver::default() }]
    };
    let outcome = context.services.groups.leave(&request.group_id, &leaving);
    leave_response(context.version, leaving, outcome)
}

fn leave_response(
    version: i16,
    leaving: Vec<Leaver>,
    outcome: Result<Vec<Result<(), GroupError>>, GroupError>,
) -> LeaveGroupResponse {
    let response = LeaveGroupResponse::default().with_error_code(code(&outcome));
    let Ok(results) = outcome else { return response };
    if version < 3 {
        return response.with_error_code(results.first().map_or(0, code));
    }
    let members = leaving.into_iter().zip(results).map(|(leaver, result)| {
        MemberResponse::default()
            .with_member_id(text(leaver.member))
            .with_group_instance_id(leaver.instance.map(text))
            .with_error_code(code(&result))
    });
    response.with_members(members.collect())
}

pub async fn describe(context: &RequestContext, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let groups = first_of_each(request.groups, Clone::clone);
    let described = groups.into_iter().map(|group| {
        let outcome = context.services.groups.describe(&group);
        described_group(context.version, group, outcome, request.include_authorized_operations)
    });
    DescribeGroupsResponse::default().with_groups(described.collect())
}

fn described_group(
    version: i16,
    group: GroupId,
    outcome: Result<Description, GroupError>,
    with_operations: bool,
) -> DescribedGroup {
    let described = DescribedGroup::default().with_group_id(group);
    let described = match outcome {
        // Before version 6 a group that does not exist is dead, and that is no error (KIP-1043).
        Err(GroupError::GroupNotFound) if version < 6 => return described.with_group_state(text("Dead")),
        Err(error) => {
            let state = if error == GroupError::GroupNotFound { "Dead" } else { "" };
            return described
                .with_error_code(errors::group(&error))
                .with_error_message((version >= 6).then(|| text(error.to_string())))
                .with_group_state(text(state));
        }
        Ok(description) => {
            let members = description.members.into_iter().map(|member| {
                DescribedGroupMember::default()
                    .with_member_id(text(member.id))
                    .with_group_instance_id(member.instance.filter(|_| version >= 4).map(text))
                    .with_client_id(text(member.client_id))
                    .with_client_host(text(member.client_host))
                    .with_member_metadata(member.metadata)
                    .with_member_assignment(member.assignment)
            });
            described
                .with_group_state(text(description.phase.name()))
                .with_protocol_type(text(description.protocol_type))
                .with_protocol_data(text(description.protocol))
                .with_members(members.collect())
        }
    };
    if with_operations && version >= 3 { described.with_authorized_operations(GROUP_OPERATIONS) } else { described }
}

pub async fn list(context: &RequestContext, request: ListGroupsRequest) -> ListGroupsResponse {
    let lower = |filter: &[StrBytes]| filter.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
    let states = lower(&request.states_filter);
    let types = lower(&request.types_filter);
    list_response(context.version, context.services.groups.list(), &states, &types)
}

fn list_response(version: i16, listing: Listing, states: &[String], types: &[String]) -> ListGroupsResponse {
    let matches = |filter: &[String], name: &str| filter.is_empty() || filter.iter().any(|wanted| wanted == name);
    let groups = listing
        .groups
        .into_iter()
        .filter(|group| matches(types, group.kind) && matches(states, &group.state.to_lowercase()))
        .map(|group| {
            let listed = ListedGroup::default()
                .with_group_id(text(group.group).into())
                .with_protocol_type(text(group.protocol_type));
            let listed = if version >= 4 { listed.with_group_state(text(group.state)) } else { listed };
            if version >= 5 { listed.with_group_type(text(group.kind)) } else { listed }
        });
    let error = if listing.is_loading { errors::group(&GroupError::Loading) } else { 0 };
    ListGroupsResponse::default().with_error_code(error).with_groups(groups.collect())
}

pub async fn delete(context: &RequestContext, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group in request.groups_names {
        let outcome = context.services.groups.delete(&group).await;
        results.push(DeletableGroupResult::default().with_group_id(group).with_error_code(code(&outcome)));
    }
    DeleteGroupsResponse::default().with_results(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::classic::Phase;
    use crate::group::coordinator::{JoinedMember, ListedGroup as Listed, MemberDescription};
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    /// Encoding fails where a field is set that the version lacks.
    fn encodes(response: &impl Encodable, version: i16) {
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, version).unwrap_or_else(|error| panic!("version {version}: {error}"));
        assert!(!bytes.is_empty());
    }

    #[test]
    fn join_responses_encode_in_every_version() {
        for version in 0..=9 {
            let joined = Joined {
                member: "m".into(),
                generation: 3,
                protocol_type: "consumer".into(),
                protocol: "range".into(),
                leader: "m".into(),
                members: vec![JoinedMember {
                    id: "m".into(),
                    instance: Some("i".into()),
                    metadata: Bytes::from_static(b"x"),
                }],
                skip_assignment: true,
            };
            let response = join_response(version, text("m"), Ok(joined));
            assert_eq!(response.skip_assignment, version >= 9);
            encodes(&response, version);
            let required = join_response(version, text(""), Err(GroupError::MemberIdRequired("m-1".into())));
            assert_eq!((required.error_code, required.member_id.as_str()), (79, "m-1"));
            assert_eq!(required.protocol_name.is_none(), version >= 7);
            encodes(&required, version);
            assert_eq!(join_response(version, text("m"), Err(GroupError::UnknownMember)).member_id.as_str(), "m");
        }
    }

    #[test]
    fn sync_and_heartbeat_responses_encode_in_every_version() {
        for version in 0..=5 {
            let synced = Synced {
                protocol_type: "consumer".into(),
                protocol: "range".into(),
                assignment: Bytes::from_static(b"a"),
            };
            encodes(&sync_response(version, Ok(synced)), version);
            encodes(&sync_response(version, Err(GroupError::RebalanceInProgress)), version);
        }
        for version in 0..=4 {
            encodes(&HeartbeatResponse::default().with_error_code(27), version);
        }
    }

    #[test]
    fn leave_responses_encode_in_every_version() {
        for version in 0..=5 {
            let leaving = vec![Leaver { member: "m".into(), instance: Some("i".into()), reason: None }];
            let response = leave_response(version, leaving.clone(), Ok(vec![Err(GroupError::FencedInstance)]));
            encodes(&response, version);
            assert_eq!(response.error_code, if version < 3 { 82 } else { 0 });
            assert_eq!(response.members.first().map(|m| m.error_code), (version >= 3).then_some(82));
            encodes(&leave_response(version, leaving, Err(GroupError::NotCoordinator)), version);
        }
    }

    #[test]
    fn described_groups_encode_in_every_version() {
        for version in 0..=6 {
            let description = Description {
                phase: Phase::Stable,
                protocol_type: "consumer".into(),
                protocol: "range".into(),
                members: vec![MemberDescription {
                    id: "m".into(),
                    instance: Some("i".into()),
                    client_id: "c".into(),
                    client_host: "/127.0.0.1".into(),
                    metadata: Bytes::from_static(b"x"),
                    assignment: Bytes::from_static(b"a"),
                }],
            };
            let group = GroupId::from(text("g"));
            let found = described_group(version, group.clone(), Ok(description), true);
            let missing = described_group(version, group.clone(), Err(GroupError::GroupNotFound), true);
            assert_eq!(missing.group_state.as_str(), "Dead");
            assert_eq!(missing.error_code, if version >= 6 { 69 } else { 0 });
            let elsewhere = described_group(version, group, Err(GroupError::NotCoordinator), false);
            assert_eq!(elsewhere.error_code, 16);
            encodes(&DescribeGroupsResponse::default().with_groups(vec![found, missing, elsewhere]), version);
        }
    }

    #[test]
    fn listings_encode_in_every_version_and_are_filtered() {
        let listing = || Listing {
            groups: vec![
                Listed { group: "a".into(), protocol_type: "consumer".into(), state: "Stable", kind: "classic" },
                Listed { group: "b".into(), protocol_type: String::new(), state: "Empty", kind: "classic" },
            ],
            is_loading: false,
        };
        for version in 0..=5 {
            let response = list_response(version, listing(), &[], &[]);
            assert_eq!(response.groups.len(), 2);
            encodes(&response, version);
        }
        let only_empty = list_response(5, listing(), &["empty".into()], &["classic".into()]);
        assert_eq!(only_empty.groups.iter().map(|g| g.group_id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(list_response(5, listing(), &[], &["consumer".into()]).groups.is_empty());
    }

    #[test]
    fn delete_responses_encode_in_every_version() {
        for version in 0..=2 {
            let result = DeletableGroupResult::default().with_group_id(text("g").into()).with_error_code(68);
            encodes(&DeleteGroupsResponse::default().with_results(vec![result]), version);
        }
    }
}
