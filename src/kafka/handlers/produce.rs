//! Produce: all appends happen before [`start`] returns, in the order of the connection; only the wait for the high
//! watermark is a future.

use super::produce_records::{self, Refusal};
use crate::ids::*;
use crate::kafka::connection::Closed;
use crate::kafka::context::RequestContext;
use crate::kafka::dispatch::{Outcome, Started, reply};
use crate::kafka::endpoints::{Door, NamedLeaders, newest_leader};
use crate::kafka::errors::{self, Code};
use crate::kafka::names::{is_internal, text};
use crate::kafka::reply::Reply;
use crate::log::partition_log::AppendError;
use crate::metadata::image::Image;
use crate::metadata::image::topics::Topic;
use crate::replica::partition::{AppendOutcome, HighWatermarkWait, LeaderHint, PartitionError};
use crate::wire::codec::{self, Header};
use futures::future::BoxFuture;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Topics go by id from this version on.
const BY_ID: i16 = 13;
const WITH_LEADER: i16 = 10;
const WITH_MESSAGE: i16 = 8;
const WITH_LOG_START: i16 = 5;

/// How long a produce that wants no answer waits for a partition to be opened here.
const EXPECTED_WAIT: Duration = Duration::from_millis(500);
const EXPECTED_TICK: Duration = Duration::from_millis(5);

/// Why one partition's batches are not stored, or not known to be.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("acks must be 0, 1 or -1")]
    Acks,
    #[error("transactions are not served")]
    Transactional,
    #[error("no topic has this name")]
    UnknownTopic,
    #[error("no topic has this id")]
    UnknownTopicId,
    #[error("the topic has no such partition")]
    NoSuchPartition,
    #[error("only the cluster itself writes to this topic")]
    InternalTopic,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// Where the log starts tells a producer whether its earlier records were deleted, after which it may begin anew,
    /// or are missing.
    #[error("{error}")]
    UnknownProducer { error: PartitionError, log_start: Offset },
    #[error("not replicated within the request's timeout")]
    TimedOut,
}

impl Failure {
    fn code(&self) -> Code {
        match self {
            Failure::Acks => Code::InvalidRequiredAcks,
            Failure::Transactional => Code::InvalidTxnState,
            Failure::UnknownTopic | Failure::NoSuchPartition => Code::UnknownTopicOrPartition,
            Failure::UnknownTopicId => Code::UnknownTopicId,
            Failure::InternalTopic => Code::InvalidTopicException,
            Failure::Refused(refusal) => refusal.code(),
            Failure::Partition(error) | Failure::UnknownProducer { error, .. } => errors::partition(error),
            Failure::TimedOut => Code::RequestTimedOut,
        }
    }
}

/// One partition of the answer.
struct Row {
    id: Option<TopicPartition>,
    index: i32,
    outcome: Result<AppendOutcome, Failure>,
}

struct Rows {
    topics: Vec<(TopicProduceData, Vec<Row>)>,
}

/// A producer that wants no answers cannot be told to retry, and it may have learned of a new topic from another broker
/// a moment before this one did: such a request waits for its partitions for a short while.
pub fn expected_soon(context: &RequestContext, request: &ProduceRequest) -> Option<BoxFuture<'static, ()>> {
    if request.acks != 0 {
        return None;
    }
    let services = context.services.clone();
    let version = context.version;
    let wanted: Vec<TopicProduceData> = request.topic_data.clone();
    let all_here = move || {
        let image = services.quorum.image();
        let leader_by_replica = |id| services.hosted.get(id).and_then(|partition| partition.leader_hint().leader);
        !is_expected(&image, services.config.node_id, version, &wanted, leader_by_replica)
    };
    if all_here() {
        return None;
    }
    let wait = async move {
        while !all_here() {
            tokio::time::sleep(EXPECTED_TICK).await;
        }
    };
    Some(Box::pin(async move { tokio::time::timeout(EXPECTED_WAIT, wait).await.unwrap_or_default() }))
}

/// Whether any of the partitions is about to be led here: its topic is not known yet, or the metadata made this broker
/// its leader and the replica has not followed. What another broker leads is not worth a wait.
fn is_expected(
    image: &Image,
    me: BrokerId,
    version: i16,
    wanted: &[TopicProduceData],
    leader_by_replica: impl Fn(TopicPartition) -> Option<BrokerId>,
) -> bool {
    wanted.iter().any(|topic| {
        let Some(known) = find(image, version, topic) else { return true };
        topic.partition_data.iter().any(|data| {
            let id = TopicPartition::new(known.id, data.index);
            let leader = image.partition(id).and_then(|partition| partition.leader);
            leader == Some(me) && leader_by_replica(id) != Some(me)
        })
    })
}

pub fn start(context: &RequestContext, header: &Header, request: ProduceRequest) -> Started {
    let image = context.services.quorum.image();
    let acks = request.acks;
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let refused = || match acks {
        _ if request.transactional_id.is_some() => Some(Failure::Transactional),
        -1..=1 => None,
        _ => Some(Failure::Acks),
    };
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for mut topic in request.topic_data {
        let known = find(&image, context.version, &topic);
        let partitions = std::mem::take(&mut topic.partition_data);
        let rows = partitions.into_iter().map(|data| {
            let index = data.index;
            let id = known.map(|known| TopicPartition::new(known.id, index));
            let outcome = match (refused(), known) {
                (Some(failure), _) => Err(failure),
                (None, Some(known)) => append(context, &image, known, data, acks),
                (None, None) if context.version >= BY_ID => Err(Failure::UnknownTopicId),
                (None, None) => Err(Failure::UnknownTopic),
            };
            Row { id, index, outcome }
        });
        let rows = rows.collect();
        topics.push((topic, rows));
    }
    let rows = Rows { topics };
    if acks == 0 {
        return Started::Ready(rows.unacknowledged());
    }
    let header = Header { client_id: None, ..*header };
    if !rows.is_waiting() {
        return Started::Ready(rows.answer(context, &image, &header));
    }
    let context = context.clone();
    Started::Later(Box::pin(async move {
        let mut rows = rows;
        rows.wait(deadline).await;
        // The leader may have moved meanwhile: hints come from what is known now.
        rows.answer(&context, &context.services.quorum.image(), &header)
    }))
}

fn find<'a>(image: &'a Image, version: i16, topic: &TopicProduceData) -> Option<&'a Arc<Topic>> {
    if version >= BY_ID { image.topic(TopicId(topic.topic_id)) } else { image.topic_by_name(&topic.name) }
}

fn append(
    context: &RequestContext,
    image: &Image,
    topic: &Topic,
    data: PartitionProduceData,
    acks: i16,
) -> Result<AppendOutcome, Failure> {
    let services = &context.services;
    // What stands there decides what groups have consumed; it is in a format of its own.
    if is_internal(&topic.name) {
        return Err(Failure::InternalTopic);
    }
    if usize::try_from(data.index).map_or(true, |index| index >= topic.partitions.len()) {
        return Err(Failure::NoSuchPartition);
    }
    // Before the bytes are looked at: whoever came to the wrong broker should learn that cheaply.
    let partition = services.hosted.get(TopicPartition::new(topic.id, data.index)).ok_or(PartitionError::NotHosted)?;
    let rules = services.state.topic_rules.of(image, topic, &services.config.kafka, services.config.node_id);
    let batches = produce_records::prepare(context.version, data.records, rules)?;
    partition.append(&batches, acks).map_err(|error| match error {
        PartitionError::Append(AppendError::UnknownProducer(_)) => {
            Failure::UnknownProducer { error, log_start: partition.status().log_start }
        }
        error => Failure::Partition(error),
    })
}

impl Rows {
    fn all(&mut self) -> impl Iterator<Item = &mut Row> {
        self.topics.iter_mut().flat_map(|(_, rows)| rows)
    }

    fn is_waiting(&self) -> bool {
        let rows = self.topics.iter().flat_map(|(_, rows)| rows);
        rows.into_iter().any(|row| row.outcome.as_ref().is_ok_and(|outcome| outcome.wait.is_some()))
    }

    /// Closing is the only way to tell a producer that wants no answers: it then looks for the leader anew.
    fn unacknowledged(mut self) -> Outcome {
        let failure = self.all().find_map(|row| row.outcome.as_ref().err().map(ToString::to_string));
        failure.map_or(Outcome::Silence, |reason| Outcome::Close(Closed::Unacknowledged(reason)))
    }

    async fn wait(&mut self, deadline: Instant) {
        for row in self.all() {
            let Ok(outcome) = &mut row.outcome else { continue };
            let Some(HighWatermarkWait(wait)) = outcome.wait.take() else { continue };
            match timeout_at(deadline, wait).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => row.outcome = Err(error.into()),
                // The partition is gone from here, and with it whoever would have answered.
                Ok(Err(_)) => row.outcome = Err(PartitionError::NotHosted.into()),
                Err(_) => row.outcome = Err(Failure::TimedOut),
            }
        }
    }

    fn answer(self, context: &RequestContext, image: &Image, header: &Header) -> Outcome {
        reply!(header, &self.response(context.version, image, Door::of(context)))
    }

    fn response(self, version: i16, image: &Image, door: Door<'_>) -> ProduceResponse {
        let mut named = NamedLeaders::default();
        let mut responses = Vec::with_capacity(self.topics.len());
        for (topic, rows) in self.topics {
            let partitions = rows.into_iter().map(|row| row.response(version, image, door, &mut named));
            let mut response = TopicProduceResponse::default().with_partition_responses(partitions.collect());
            if version >= BY_ID {
                response.topic_id = topic.topic_id;
            } else {
                response.name = topic.name;
            }
            responses.push(response);
        }
        let nodes = named.into_nodes().into_iter().map(|node| {
            NodeEndpoint::default()
                .with_node_id(node.id.0.into())
                .with_host(text(&node.host))
                .with_port(node.port)
                .with_rack(node.rack.as_deref().map(text))
        });
        ProduceResponse::default().with_responses(responses).with_node_endpoints(nodes.collect())
    }
}

impl Row {
    fn response(
        self,
        version: i16,
        image: &Image,
        door: Door<'_>,
        named: &mut NamedLeaders,
    ) -> PartitionProduceResponse {
        let mut row = PartitionProduceResponse::default().with_index(self.index).with_error_message(None);
        let failure = match self.outcome {
            Ok(outcome) => {
                row.base_offset = outcome.appended.base_offset.0;
                row.log_append_time_ms = outcome.appended.log_append_time_ms;
                if version >= WITH_LOG_START {
                    row.log_start_offset = outcome.log_start.0;
                }
                return row;
            }
            Err(failure) => failure,
        };
        let code = failure.code();
        row.error_code = code.code();
        row.base_offset = -1;
        if let Failure::UnknownProducer { log_start, .. } = &failure
            && version >= WITH_LOG_START
        {
            row.log_start_offset = log_start.0;
        }
        if version >= WITH_MESSAGE {
            row.error_message = Some(text(&failure.to_string()));
        }
        if version >= WITH_LEADER && errors::wants_leader(code) {
            let hint = match &failure {
                Failure::Partition(error) => errors::leader_hint(error),
                _ => None,
            };
            if let Some(LeaderHint { leader, epoch }) = self.id.and_then(|id| newest_leader(image, id, hint)) {
                let reachable = leader.filter(|id| named.name(image, *id, door));
                row.current_leader = LeaderIdAndEpoch::default()
                    .with_leader_id(reachable.map_or(-1, |id| id.0).into())
                    .with_leader_epoch(epoch.0);
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::names::topic_name;
    use crate::kafka::versions::PRODUCE;
    use crate::log::partition_log::Appended;
    use tokio::sync::oneshot;

    const DOOR: Door<'_> = Door { listener: "external", is_replica_listener: false };

    fn stored(wait: Option<HighWatermarkWait>) -> Result<AppendOutcome, Failure> {
        let appended =
            Appended { base_offset: Offset(40), end_offset: Offset(42), log_append_time_ms: 1_000, duplicate: false };
        Ok(AppendOutcome { appended, log_start: Offset(3), wait })
    }

    fn rows(outcomes: Vec<Result<AppendOutcome, Failure>>) -> Rows {
        let topic = TopicProduceData::default().with_name(topic_name("orders")).with_topic_id(testing::ORDERS.0);
        let rows = (0..).zip(outcomes).map(|(index, outcome)| Row {
            id: Some(TopicPartition::new(testing::ORDERS, index)),
            index,
            outcome,
        });
        Rows { topics: vec![(topic, rows.collect())] }
    }

    fn moved() -> Failure {
        Failure::Partition(PartitionError::NotLeader(LeaderHint { leader: Some(BrokerId(2)), epoch: LeaderEpoch(9) }))
    }

    #[test]
    fn every_version_encodes_success_and_every_kind_of_failure() {
        for version in 3..=13 {
            let outcomes = vec![
                stored(None),
                Err(moved()),
                Err(Failure::Partition(PartitionError::NotHosted)),
                Err(Failure::Acks),
                Err(Failure::TimedOut),
                Err(Failure::UnknownTopicId),
                Err(AppendError::NoRoom).map_err(|e| Failure::Partition(e.into())),
            ];
            let response = rows(outcomes).response(version, &testing::image(), DOOR);
            testing::encodes(PRODUCE, version, &response);
            let partitions = &response.responses[0].partition_responses;
            let codes: Vec<i16> = partitions.iter().map(|row| row.error_code).collect();
            assert_eq!(codes, [0, 6, 6, 21, 7, 100, 56]);
            assert_eq!((partitions[0].base_offset, partitions[1].base_offset), (40, -1));
            assert_eq!(partitions[1].error_message.is_some(), version >= 8);
        }
    }

    #[test]
    fn only_what_this_broker_is_about_to_lead_is_waited_for() {
        let (image, me, other) = (testing::image(), BrokerId(1), BrokerId(2));
        let expected = |name: &str, index, by_replica: Option<BrokerId>| {
            let data = vec![PartitionProduceData::default().with_index(index)];
            let topic = TopicProduceData::default().with_name(topic_name(name)).with_partition_data(data);
            is_expected(&image, me, 9, &[topic], |_| by_replica)
        };
        assert!(expected("new", 0, None), "the topic may be made just now");
        assert!(expected("orders", 0, None), "led by this broker, not opened yet");
        assert!(expected("orders", 0, Some(other)), "led by this broker, which its replica does not know yet");
        assert!(!expected("orders", 0, Some(me)));
        assert!(!expected("orders", 1, None), "nobody leads it");
        assert!(!expected("orders", 2, None), "another broker leads it");
        assert!(!expected("orders", 99, None), "there is none");
    }

    #[test]
    fn an_unknown_producer_learns_where_the_log_starts() {
        for version in 3..=13 {
            let error = PartitionError::Append(AppendError::UnknownProducer(ProducerId(7)));
            let outcomes = vec![Err(Failure::UnknownProducer { error, log_start: Offset(12) }), Err(Failure::TimedOut)];
            let response = rows(outcomes).response(version, &testing::image(), DOOR);
            testing::encodes(PRODUCE, version, &response);
            let partitions = &response.responses[0].partition_responses;
            assert_eq!((partitions[0].error_code, partitions[1].log_start_offset), (59, -1));
            assert_eq!(partitions[0].log_start_offset, if version >= 5 { 12 } else { -1 });
        }
    }

    #[test]
    fn a_producer_at_the_wrong_broker_learns_the_right_one() {
        let response = rows(vec![Err(moved()), Err(moved())]).response(10, &testing::image(), DOOR);
        let hint = &response.responses[0].partition_responses[0].current_leader;
        assert_eq!((hint.leader_id.0, hint.leader_epoch), (2, 9));
        assert_eq!(response.node_endpoints.len(), 1);
        assert_eq!((&*response.node_endpoints[0].host, response.node_endpoints[0].port), ("external-2", 9002));
        let older = rows(vec![Err(moved())]).response(9, &testing::image(), DOOR);
        assert!(older.node_endpoints.is_empty());
        // Nobody leads partition 1: the epoch is told, no address.
        let none = rows(vec![Err(Failure::TimedOut), Err(Failure::Partition(PartitionError::NotHosted))]);
        let response = none.response(13, &testing::image(), DOOR);
        let hint = &response.responses[0].partition_responses[1].current_leader;
        assert_eq!((hint.leader_id.0, hint.leader_epoch), (-1, 6));
        assert!(response.node_endpoints.is_empty());
    }

    #[tokio::test]
    async fn each_wait_ends_in_its_own_way_and_the_deadline_is_shared() {
        let (passed, passes) = oneshot::channel();
        let (failed, fails) = oneshot::channel();
        let (_kept, never) = oneshot::channel();
        let (gone, lost) = oneshot::channel();
        drop(gone);
        passed.send(Ok(())).unwrap();
        assert!(failed.send(Err(PartitionError::NotEnoughReplicasAfterAppend)).is_ok());
        let mut rows = rows([passes, fails, never, lost].map(|wait| stored(Some(HighWatermarkWait(wait)))).into());
        assert!(rows.is_waiting());
        rows.wait(Instant::now()).await;
        assert!(!rows.is_waiting());
        let codes: Vec<i16> =
            rows.all().map(|row| row.outcome.as_ref().map_or_else(|e| e.code().code(), |_| 0)).collect();
        assert_eq!(codes, [0, 20, 7, 6]);
    }

    #[test]
    fn without_acks_success_is_silence_and_failure_closes() {
        assert!(matches!(rows(vec![stored(None)]).unacknowledged(), Outcome::Silence));
        assert!(matches!(rows(vec![stored(None), Err(moved())]).unacknowledged(), Outcome::Close(_)));
    }
}
