//! The consumer group protocol of KIP-848 on the wire: ConsumerGroupHeartbeat and ConsumerGroupDescribe. The decisions
//! are in `group::consumer`; here are only the versions' shapes.

use crate::group::consumer::{Description, MemberDescription};
use crate::group::coordinator::{GroupError, Heartbeat, HeartbeatAnswer};
use crate::ids::TopicId;
use crate::kafka::context::RequestContext;
use crate::kafka::errors;
use crate::kafka::repeated::first_of_each;
use crate::metadata::group_change::TopicPartitions;
use crate::metadata::image::Image;
use crate::platform::random;
use kafka_protocol::messages::consumer_group_describe_response as describe_response;
use kafka_protocol::messages::consumer_group_heartbeat_response as heartbeat_response;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

/// Members make their own ids from this version on.
const WITH_OWN_ID: i16 = 1;
/// Members tell which protocol they speak from this version on.
const WITH_MEMBER_TYPE: i16 = 1;
/// By Kafka's numbers: members of the classic protocol, and of this one.
const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;
/// Not asked for.
const NO_OPERATIONS: i32 = i32::MIN;
/// Read, delete and describe, as a bit field: what may be done to a group where nothing is forbidden.
const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

pub async fn heartbeat(
    context: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let beat = beat(context, request);
    response(context.services.groups.consumer_heartbeat(beat).await)
}

fn beat(context: &RequestContext, request: ConsumerGroupHeartbeatRequest) -> Heartbeat {
    let owned = |value: Option<StrBytes>| value.map(|value| value.to_string());
    let joins_without_id = context.version < WITH_OWN_ID && request.member_id.is_empty() && request.member_epoch == 0;
    let partitions = request.topic_partitions.map(|topics| {
        let mut found = TopicPartitions::new();
        for topic in topics {
            found.entry(TopicId(topic.topic_id)).or_default().extend(topic.partitions);
        }
        for list in found.values_mut() {
            list.sort_unstable();
            list.dedup();
        }
        found.retain(|_, list| !list.is_empty());
        found
    });
    Heartbeat {
        group: request.group_id.to_string(),
        member: if joins_without_id { random::uuid().to_string() } else { request.member_id.to_string() },
        epoch: request.member_epoch,
        instance: owned(request.instance_id),
        rack: owned(request.rack_id),
        rebalance_timeout_ms: Some(request.rebalance_timeout_ms).filter(|timeout| *timeout >= 0),
        topics: request.subscribed_topic_names.map(|names| names.iter().map(|name| name.to_string()).collect()),
        regex: owned(request.subscribed_topic_regex),
        assignor: owned(request.server_assignor),
        owned: partitions,
        client_id: context.client_id.clone(),
        client_host: format!("/{}", context.peer.ip()),
    }
}

fn response(outcome: Result<HeartbeatAnswer, GroupError>) -> ConsumerGroupHeartbeatResponse {
    match outcome {
        Err(error) => ConsumerGroupHeartbeatResponse::default()
            .with_error_code(errors::group(&error))
            .with_error_message(Some(text(error.to_string()))),
        Ok(answer) => {
            let assignment = answer.assignment.map(|assigned| {
                let topics = assigned.into_iter().map(|(topic, partitions)| {
                    heartbeat_response::TopicPartitions::default().with_topic_id(topic.0).with_partitions(partitions)
                });
                heartbeat_response::Assignment::default().with_topic_partitions(topics.collect())
            });
            ConsumerGroupHeartbeatResponse::default()
                .with_member_id(Some(text(answer.member)))
                .with_member_epoch(answer.epoch)
                .with_heartbeat_interval_ms(answer.interval_ms)
                .with_assignment(assignment)
        }
    }
}

pub async fn describe(
    context: &RequestContext,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let image = context.services.quorum.image();
    let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { NO_OPERATIONS };
    let groups = first_of_each(request.group_ids, Clone::clone);
    let described = groups.into_iter().map(|group| {
        let outcome = context.services.groups.describe_consumer(&group);
        described(context.version, &image, group, outcome).with_authorized_operations(operations)
    });
    ConsumerGroupDescribeResponse::default().with_groups(described.collect())
}

fn described(
    version: i16,
    image: &Image,
    group: GroupId,
    outcome: Result<Description, GroupError>,
) -> describe_response::DescribedGroup {
    let described = describe_response::DescribedGroup::default().with_group_id(group);
    match outcome {
        // Also a classic group: clients ask for that by DescribeGroups then.
        Err(error) => described
            .with_error_code(errors::group(&error))
            .with_error_message(Some(text(error.to_string())))
            .with_group_state(text("Dead")),
        Ok(found) => described
            .with_group_state(text(found.phase.name()))
            .with_group_epoch(found.epoch)
            .with_assignment_epoch(found.assignment_epoch)
            .with_assignor_name(text(found.assignor))
            .with_members(found.members.into_iter().map(|member| described_member(version, image, member)).collect()),
    }
}

fn described_member(version: i16, image: &Image, member: MemberDescription) -> describe_response::Member {
    let names = member.topics.into_iter().map(|name| TopicName(text(name)));
    let described = describe_response::Member::default()
        .with_member_id(text(member.id))
        .with_instance_id(member.instance.map(text))
        .with_rack_id(member.rack.map(text))
        .with_member_epoch(member.epoch)
        .with_client_id(text(member.client_id))
        .with_client_host(text(member.client_host))
        .with_subscribed_topic_names(names.collect())
        .with_subscribed_topic_regex(member.regex.map(text))
        .with_assignment(named(image, member.assigned))
        .with_target_assignment(named(image, member.target));
    match version >= WITH_MEMBER_TYPE {
        true if member.is_classic => described.with_member_type(CLASSIC_MEMBER),
        true => described.with_member_type(CONSUMER_MEMBER),
        false => described,
    }
}

/// Topics that are gone cannot be told.
fn named(image: &Image, partitions: TopicPartitions) -> describe_response::Assignment {
    let topics = partitions.into_iter().filter_map(|(topic, partitions)| {
        let name = image.topic(topic)?.name.clone();
        Some(
            describe_response::TopicPartitions::default()
                .with_topic_id(topic.0)
                .with_topic_name(TopicName(text(name)))
                .with_partitions(partitions),
        )
    });
    describe_response::Assignment::default().with_topic_partitions(topics.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::consumer::Phase;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::{CONSUMER_GROUP_DESCRIBE, CONSUMER_GROUP_HEARTBEAT};

    #[test]
    fn heartbeats_are_answered_in_every_version() {
        for version in 0..=1 {
            let assignment = Some(TopicPartitions::from([(TopicId(uuid::Uuid::from_u128(7)), vec![0, 2])]));
            let good = response(Ok(HeartbeatAnswer { member: "m".into(), epoch: 3, interval_ms: 1_000, assignment }));
            assert_eq!(good.assignment.as_ref().unwrap().topic_partitions[0].partitions, [0, 2]);
            testing::encodes(CONSUMER_GROUP_HEARTBEAT, version, &good);
            for (error, code) in [
                (GroupError::FencedMemberEpoch, 110),
                (GroupError::UnreleasedInstance, 111),
                (GroupError::UnsupportedAssignor, 112),
                (GroupError::StaleMemberEpoch, 113),
                (GroupError::InvalidRegex, 128),
                (GroupError::GroupFull, 81),
                (GroupError::UnknownMember, 25),
                (GroupError::InvalidRequest("MemberEpoch is invalid."), 42),
            ] {
                let bad = response(Err(error));
                assert_eq!(bad.error_code, code);
                testing::encodes(CONSUMER_GROUP_HEARTBEAT, version, &bad);
            }
        }
    }

    #[test]
    fn groups_are_described_in_every_version() {
        let image = testing::image();
        let orders = image.topic_ids["orders"];
        let gone = TopicId(uuid::Uuid::from_u128(99_999));
        for version in 0..=1 {
            let member = MemberDescription {
                id: "m".into(),
                instance: Some("i".into()),
                rack: Some("r".into()),
                client_id: "c".into(),
                client_host: "/127.0.0.1".into(),
                epoch: 4,
                topics: vec!["orders".into()],
                regex: Some("o.*".into()),
                assigned: TopicPartitions::from([(orders, vec![0]), (gone, vec![1])]),
                target: TopicPartitions::from([(orders, vec![0, 1])]),
                is_classic: false,
            };
            let description = Description {
                phase: Phase::Reconciling,
                epoch: 5,
                assignment_epoch: 5,
                assignor: "uniform",
                members: vec![member],
            };
            let group = GroupId(text("g"));
            let found = described(version, &image, group.clone(), Ok(description));
            assert_eq!(found.group_state.as_str(), "Reconciling");
            let topics = &found.members[0].assignment.topic_partitions;
            assert_eq!((topics.len(), topics[0].topic_name.as_str()), (1, "orders"));
            let missing = described(version, &image, group, Err(GroupError::GroupNotFound));
            assert_eq!(missing.error_code, 69);
            let response = ConsumerGroupDescribeResponse::default().with_groups(vec![found, missing]);
            testing::encodes(CONSUMER_GROUP_DESCRIBE, version, &response);
        }
    }
}
