//! The `Topics` service.

use super::proto::topics_client::TopicsClient;
use super::proto::topics_server::Topics;
use super::proto::{
    self, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse, ElectLeadersRequest,
    ElectLeadersResponse, ListTopicsRequest, ListTopicsResponse, PartitionOffsets, TopicSummary,
};
use super::{addresses, elections, errors};
use crate::group::topic::is_internal;
use crate::ids::{BrokerId, TopicPartition};
use crate::metadata::image::Image;
use crate::metadata::image::topics::{Partition, Topic};
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer, PartitionsIntent, TopicIntent, TopicOutcome};
use crate::metadata::quorum::Quorum;
use crate::replica::hosted::Hosted;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

pub(super) const INTENT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the other nodes have to tell their offsets.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Bound of one answer, both ways: a description of some 50,000 partitions.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[derive(Clone)]
pub struct TopicsService {
    pub node: BrokerId,
    pub quorum: Quorum,
    pub hosted: Hosted,
    pub controller: Arc<dyn ControllerChannel>,
}

#[tonic::async_trait]
impl Topics for TopicsService {
    async fn list(&self, request: Request<ListTopicsRequest>) -> Result<Response<ListTopicsResponse>, Status> {
        let include_internal = request.into_inner().include_internal;
        let image = self.quorum.image();
        let mut topics: Vec<_> =
            image.topics.values().map(|topic| summary(topic)).filter(|t| include_internal || !t.internal).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(ListTopicsResponse { topics }))
    }

    async fn describe(
        &self,
        request: Request<DescribeTopicRequest>,
    ) -> Result<Response<DescribeTopicResponse>, Status> {
        let DescribeTopicRequest { name, local_only } = request.into_inner();
        let image = self.quorum.image();
        let topic = image.topic_by_name(&name).ok_or_else(|| errors::no_topic(&name))?;
        let mut answer = describe(topic, &image);
        for partition in &mut answer.partitions {
            partition.offsets = self.local_offsets(TopicPartition::new(topic.id, partition.partition));
        }
        if !local_only {
            self.ask_leaders(&image, &mut answer).await;
        }
        Ok(Response::new(answer))
    }

    async fn create(&self, request: Request<CreateTopicRequest>) -> Result<Response<CreateTopicResponse>, Status> {
        let request = request.into_inner();
        let intent = Intent::CreateTopics {
            topics: vec![TopicIntent {
                name: request.name,
                partitions: at_least_one("partitions", request.partitions)?,
                replication_factor: i16::try_from(at_least_one("replication_factor", request.replication_factor)?)
                    .map_err(|_| Status::invalid_argument("replication_factor is over 32767"))?,
                assignments: None,
                configs: request.configs.into_iter().collect(),
            }],
            validate_only: request.validate_only,
        };
        let outcome = self.outcome(intent).await?.ok_or_else(errors::of_mismatch)?;
        Ok(Response::new(CreateTopicResponse {
            id: outcome.id.to_string(),
            partitions: outcome.partitions,
            replication_factor: i32::from(outcome.replication_factor),
        }))
    }

    async fn delete(&self, request: Request<DeleteTopicRequest>) -> Result<Response<DeleteTopicResponse>, Status> {
        let name = request.into_inner().name;
        let id = self.quorum.image().topic_by_name(&name).map(|topic| topic.id);
        let id = id.ok_or_else(|| errors::no_topic(&name))?;
        self.outcome(Intent::DeleteTopics { topics: vec![id] }).await?;
        Ok(Response::new(DeleteTopicResponse { id: id.to_string() }))
    }

    async fn create_partitions(
        &self,
        request: Request<CreatePartitionsRequest>,
    ) -> Result<Response<CreatePartitionsResponse>, Status> {
        let CreatePartitionsRequest { topic, count, validate_only } = request.into_inner();
        let intent = Intent::CreatePartitions {
            topics: vec![PartitionsIntent { topic, count, assignments: None }],
            validate_only,
        };
        self.outcome(intent).await?;
        Ok(Response::new(CreatePartitionsResponse {}))
    }

    async fn elect_leaders(
        &self,
        request: Request<ElectLeadersRequest>,
    ) -> Result<Response<ElectLeadersResponse>, Status> {
        elections::elect(&self.quorum, &*self.controller, request.into_inner()).await.map(Response::new)
    }
}

/// −1 stands for the broker's default inside the house; from outside, absence does.
fn at_least_one(name: &str, value: Option<i32>) -> Result<i32, Status> {
    match value {
        None => Ok(-1),
        Some(count) if count >= 1 => Ok(count),
        Some(count) => Err(Status::invalid_argument(format!("{name} is {count}; it must be at least 1, or absent"))),
    }
}

impl TopicsService {
    /// Submits an intent about one item; `None` where its kind answers nothing but success.
    async fn outcome(&self, intent: Intent) -> Result<Option<TopicOutcome>, Status> {
        let answer = self.controller.submit(intent, INTENT_TIMEOUT).await;
        match answer.map_err(|error| errors::of_submit(&error))? {
            IntentAnswer::Done => Ok(None),
            IntentAnswer::Topics(mut items) => match items.pop() {
                Some(item) => item.map(Some).map_err(|error| errors::of_intent(&error)),
                None => Err(errors::of_mismatch()),
            },
            IntentAnswer::Results(mut items) => match items.pop() {
                Some(item) => item.map(|()| None).map_err(|error| errors::of_intent(&error)),
                None => Err(errors::of_mismatch()),
            },
            IntentAnswer::Isr(_)
            | IntentAnswer::ProducerIds { .. }
            | IntentAnswer::Quorum(_)
            | IntentAnswer::Voters(_) => Err(errors::of_mismatch()),
        }
    }

    fn local_offsets(&self, id: TopicPartition) -> Option<PartitionOffsets> {
        let status = self.hosted.get(id)?.status();
        Some(PartitionOffsets {
            told_by: self.node.0,
            told_by_leader: status.is_leader,
            log_start: status.log_start.0,
            high_watermark: status.high_watermark.0,
            log_end: status.log_end.0,
            durable_end: status.durable_end.0,
            size_bytes: i64::try_from(status.size_bytes).unwrap_or(i64::MAX),
        })
    }

    /// Asks every leader that is another node, all at once; one that does not answer leaves what is there.
    async fn ask_leaders(&self, image: &Image, answer: &mut DescribeTopicResponse) {
        let wanted = leaders_to_ask(answer);
        let asked = wanted.into_iter().filter_map(|leader| {
            let broker = image.brokers.get(&BrokerId(leader))?;
            Some(ask(addresses::text(&broker.registration.admin_endpoint), answer.name.clone()))
        });
        for told in join_all(asked).await.into_iter().flatten() {
            merge(answer, told);
        }
    }
}

fn leaders_to_ask(answer: &DescribeTopicResponse) -> Vec<i32> {
    let mut leaders: Vec<i32> = answer
        .partitions
        .iter()
        .filter(|partition| !partition.offsets.as_ref().is_some_and(|offsets| offsets.told_by_leader))
        .filter_map(|partition| partition.leader)
        .collect();
    leaders.sort_unstable();
    leaders.dedup();
    leaders
}

async fn ask(address: String, name: String) -> Option<DescribeTopicResponse> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let asked = async {
        let channel = endpoint.connect().await.ok()?;
        let mut client = TopicsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = DescribeTopicRequest { name, local_only: true };
        client.describe(request).await.ok().map(Response::into_inner)
    };
    tokio::time::timeout(ASK_TIMEOUT, asked).await.ok().flatten()
}

/// Takes offsets told by a leader over what is there. The topic may have been replaced meanwhile: then nothing fits.
fn merge(answer: &mut DescribeTopicResponse, told: DescribeTopicResponse) {
    if told.id != answer.id {
        return;
    }
    let mut by_partition: BTreeMap<i32, PartitionOffsets> = told
        .partitions
        .into_iter()
        .filter_map(|partition| Some((partition.partition, partition.offsets?)))
        .filter(|(_, offsets)| offsets.told_by_leader)
        .collect();
    for partition in &mut answer.partitions {
        if let Some(offsets) = by_partition.remove(&partition.partition) {
            partition.offsets = Some(offsets);
        }
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn summary(topic: &Topic) -> TopicSummary {
    let count = |wanted: fn(&Partition) -> bool| number(topic.partitions.iter().filter(|p| wanted(p)).count());
    TopicSummary {
        name: topic.name.clone(),
        id: topic.id.to_string(),
        internal: is_internal(&topic.name),
        partitions: number(topic.partitions.len()),
        replication_factor: number(topic.partitions.front().map_or(0, |partition| partition.replicas.len())),
        without_leader: count(|partition| partition.leader.is_none()),
        under_replicated: count(Partition::is_under_replicated),
    }
}

fn describe(topic: &Topic, image: &Image) -> DescribeTopicResponse {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect();
    DescribeTopicResponse {
        name: topic.name.clone(),
        id: topic.id.to_string(),
        internal: is_internal(&topic.name),
        partitions: topic
            .partitions
            .iter()
            .enumerate()
            .map(|(partition, state)| proto::Partition {
                partition: number(partition),
                leader: state.leader.map(|leader| leader.0),
                leader_epoch: state.leader_epoch.0,
                partition_epoch: state.partition_epoch.0,
                replicas: ids(&state.replicas),
                isr: ids(&state.isr),
                elr: ids(&state.elr),
                offsets: None,
                adding: ids(state.adding()),
                removing: ids(state.removing()),
            })
            .collect(),
        configs: image.configs.of_topic(&topic.name).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32, leader: Option<i32>, offsets: Option<PartitionOffsets>) -> proto::Partition {
        proto::Partition { partition: number, leader, offsets, ..proto::Partition::default() }
    }

    fn offsets(told_by: i32, told_by_leader: bool, high_watermark: i64) -> PartitionOffsets {
        PartitionOffsets { told_by, told_by_leader, high_watermark, ..PartitionOffsets::default() }
    }

    fn topic(id: &str, partitions: Vec<proto::Partition>) -> DescribeTopicResponse {
        DescribeTopicResponse { id: id.into(), partitions, ..DescribeTopicResponse::default() }
    }

    #[test]
    fn only_leaders_elsewhere_are_asked_and_each_once() {
        let here = topic(
            "a",
            vec![
                partition(0, Some(1), Some(offsets(1, true, 5))),
                partition(1, Some(2), Some(offsets(1, false, 5))),
                partition(2, Some(2), None),
                partition(3, None, None),
            ],
        );
        assert_eq!(leaders_to_ask(&here), [2]);
    }

    #[test]
    fn a_leaders_word_replaces_a_followers_and_nothing_else_does() {
        let mut here = topic("a", vec![partition(0, Some(2), Some(offsets(1, false, 5)))]);
        merge(&mut here, topic("other", vec![partition(0, Some(2), Some(offsets(2, true, 9)))]));
        merge(&mut here, topic("a", vec![partition(0, Some(2), Some(offsets(3, false, 7)))]));
        assert_eq!(here.partitions[0].offsets.as_ref().unwrap().high_watermark, 5);
        merge(&mut here, topic("a", vec![partition(0, Some(2), Some(offsets(2, true, 9)))]));
        assert_eq!(here.partitions[0].offsets.as_ref().unwrap().high_watermark, 9);
    }

    #[test]
    fn absence_means_the_default_and_zero_is_refused() {
        assert_eq!(at_least_one("partitions", None).unwrap(), -1);
        assert_eq!(at_least_one("partitions", Some(3)).unwrap(), 3);
        assert!(at_least_one("partitions", Some(0)).is_err());
        assert!(at_least_one("partitions", Some(-1)).is_err());
    }
}
