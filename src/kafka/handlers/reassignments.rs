//! AlterPartitionReassignments and ListPartitionReassignments (KIP-455).

use super::topics::{Failed, ask, timeout};
use crate::ids::*;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::Code;
use crate::kafka::names::{text, topic_name};
use crate::metadata::image::Image;
use crate::metadata::image::topics::{Partition, Topic};
use crate::metadata::intent::{Intent, ReassignmentWish, TopicOutcome};
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId as WireBroker,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

pub async fn alter(
    context: &RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let services = &context.services;
    let keep_replication_factor = !request.allow_replication_factor_change;
    let items = wishes(&services.quorum.image(), &request);
    let results = ask(items, async |wishes| {
        let intent = Intent::AlterReassignments { wishes, keep_replication_factor };
        services.controller.submit(intent, timeout(request.timeout_ms)).await
    })
    .await;
    altered(context.version, &request, results)
}

/// One wish a partition, in the order of the request. No replicas (null) cancel.
fn wishes(image: &Image, request: &AlterPartitionReassignmentsRequest) -> Vec<Result<ReassignmentWish, Failed>> {
    let of_topic = |topic: &kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic| {
        let id = image.topic_by_name(&topic.name).map(|topic| topic.id);
        let of_partition =
            |partition: &kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition| {
                let unknown = || Failed::new(Code::UnknownTopicOrPartition, "no topic has this name");
                Ok(ReassignmentWish {
                    partition: TopicPartition::new(id.ok_or_else(unknown)?, partition.partition_index),
                    replicas: partition
                        .replicas
                        .as_ref()
                        .map(|replicas| replicas.iter().map(|broker| BrokerId(broker.0)).collect()),
                })
            };
        topic.partitions.iter().map(of_partition).collect::<Vec<_>>()
    };
    request.topics.iter().flat_map(of_topic).collect()
}

fn altered(
    version: i16,
    request: &AlterPartitionReassignmentsRequest,
    results: Vec<Result<Option<TopicOutcome>, Failed>>,
) -> AlterPartitionReassignmentsResponse {
    let mut results = results.into_iter();
    let rows = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let row = ReassignablePartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_error_message(None);
            match results.next() {
                Some(Err(Failed { code, message })) => {
                    row.with_error_code(code.code()).with_error_message(Some(text(&message)))
                }
                _ => row,
            }
        });
        ReassignableTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    let mut response = AlterPartitionReassignmentsResponse::default().with_error_message(None);
    response.responses = rows.collect();
    if version >= 1 {
        response.allow_replication_factor_change = request.allow_replication_factor_change;
    }
    response
}

pub async fn list(
    context: &RequestContext,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    listed(&context.services.quorum.image(), &request)
}

/// Of the named partitions, or (null) of all, those that move.
fn listed(image: &Image, request: &ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse {
    let mut topics = Vec::new();
    match &request.topics {
        None => topics.extend(image.topics.values().filter_map(|topic| ongoing(topic, |_| true))),
        Some(named) => {
            for asked in named {
                let known = image.topic_by_name(&asked.name);
                topics.extend(known.and_then(|topic| ongoing(topic, |n| asked.partition_indexes.contains(&n))));
            }
        }
    }
    ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
}

fn ongoing(topic: &Topic, is_asked: impl Fn(i32) -> bool) -> Option<OngoingTopicReassignment> {
    let moving = |(number, partition): (i32, &Partition)| {
        let reassignment = partition.reassignment.as_ref().filter(|_| is_asked(number))?;
        Some(
            OngoingPartitionReassignment::default()
                .with_partition_index(number)
                .with_replicas(wire(&partition.replicas))
                .with_adding_replicas(wire(&reassignment.adding))
                .with_removing_replicas(wire(&reassignment.removing)),
        )
    };
    let partitions: Vec<_> = (0..).zip(topic.partitions.iter()).filter_map(moving).collect();
    let row = OngoingTopicReassignment::default().with_name(topic_name(&topic.name));
    (!partitions.is_empty()).then(|| row.with_partitions(partitions))
}

fn wire(brokers: &[BrokerId]) -> Vec<WireBroker> {
    brokers.iter().map(|broker| WireBroker(broker.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::{ALTER_PARTITION_REASSIGNMENTS, LIST_PARTITION_REASSIGNMENTS};
    use crate::metadata::image::topics::Reassignment;
    use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
    use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
    use std::sync::Arc;

    fn request() -> AlterPartitionReassignmentsRequest {
        let partition = |index, replicas: Option<&[i32]>| {
            ReassignablePartition::default()
                .with_partition_index(index)
                .with_replicas(replicas.map(|r| r.iter().map(|b| WireBroker(*b)).collect()))
        };
        let topic = |name: &str, partitions| {
            ReassignableTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        };
        AlterPartitionReassignmentsRequest::default().with_topics(vec![
            topic("orders", vec![partition(0, Some(&[3, 2])), partition(1, None)]),
            topic("missing", vec![partition(0, Some(&[1]))]),
        ])
    }

    #[test]
    fn null_cancels_and_an_unknown_topic_is_told_beside_the_others() {
        let items = wishes(&testing::image(), &request());
        let wish = items[0].as_ref().unwrap();
        assert_eq!((wish.partition.partition, wish.replicas.as_deref().unwrap().len()), (0, 2));
        assert_eq!(items[1].as_ref().unwrap().replicas, None);
        assert_eq!(items[2].as_ref().unwrap_err().code, Code::UnknownTopicOrPartition);
    }

    #[test]
    fn each_result_stands_where_its_partition_stood() {
        let refused = || Failed::new(Code::NoReassignmentInProgress, "none");
        let results = vec![Ok(None), Err(refused()), Err(Failed::new(Code::UnknownTopicOrPartition, "?"))];
        for version in 0..=1 {
            let response = altered(version, &request(), results.clone());
            testing::encodes(ALTER_PARTITION_REASSIGNMENTS, version, &response);
            let codes: Vec<i16> =
                response.responses.iter().flat_map(|t| t.partitions.iter().map(|p| p.error_code)).collect();
            assert_eq!(codes, [0, 85, 3]);
        }
    }

    #[test]
    fn only_what_moves_is_listed() {
        let mut image = testing::image();
        let all = ListPartitionReassignmentsRequest::default().with_topics(None);
        assert!(listed(&image, &all).topics.is_empty());
        let topic = Arc::make_mut(image.topics.get_mut(&testing::ORDERS).unwrap());
        let partition = topic.partitions.get_mut(1).unwrap();
        let ids = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
        let reassignment = Reassignment { original: ids(&[1, 2]), adding: ids(&[3]), removing: ids(&[1]) };
        partition.reassignment = Some(Box::new(reassignment));
        let response = listed(&image, &all);
        testing::encodes(LIST_PARTITION_REASSIGNMENTS, 0, &response);
        let row = &response.topics[0].partitions[0];
        assert_eq!((response.topics.len(), row.partition_index, row.adding_replicas[0].0), (1, 1, 3));
        let named = |partition| {
            let topic = ListPartitionReassignmentsTopics::default()
                .with_name(topic_name("orders"))
                .with_partition_indexes(vec![partition]);
            ListPartitionReassignmentsRequest::default().with_topics(Some(vec![topic]))
        };
        assert_eq!(listed(&image, &named(1)).topics.len(), 1);
        assert!(listed(&image, &named(0)).topics.is_empty());
    }
}
