//! The `Reassignments` service: moves of partitions, and how far each has got.

use super::errors;
use super::proto::reassignments_server::Reassignments;
use super::proto::{
    self, AlterReassignmentsRequest, AlterReassignmentsResponse, ListReassignmentsRequest, ListReassignmentsResponse,
    ReassignmentResult,
};
use crate::controller::replica_states::{ReplicaState, ReplicaStates};
use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::image::topics::Partition;
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer, ReassignmentWish};
use crate::metadata::quorum::Quorum;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

const INTENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Changes in one request.
const CHANGES_MAX: usize = 50_000;

#[derive(Clone)]
pub struct ReassignmentsService {
    pub quorum: Quorum,
    pub controller: Arc<dyn ControllerChannel>,
    pub replicas: Arc<dyn ReplicaStates>,
}

#[tonic::async_trait]
impl Reassignments for ReassignmentsService {
    async fn alter(
        &self,
        request: Request<AlterReassignmentsRequest>,
    ) -> Result<Response<AlterReassignmentsResponse>, Status> {
        let changes = request.into_inner().changes;
        if changes.len() > CHANGES_MAX {
            return Err(Status::invalid_argument(format!("at most {CHANGES_MAX} changes may be asked for at a time")));
        }
        let image = self.quorum.image();
        let mut wishes = Vec::with_capacity(changes.len());
        for change in &changes {
            let topic = image.topic_by_name(&change.topic).ok_or_else(|| errors::no_topic(&change.topic))?;
            let replicas: Vec<BrokerId> = change.replicas.iter().copied().map(BrokerId).collect();
            wishes.push(ReassignmentWish {
                partition: TopicPartition::new(topic.id, change.partition),
                replicas: (!replicas.is_empty()).then_some(replicas),
            });
        }
        let intent = Intent::AlterReassignments { wishes, keep_replication_factor: false };
        let answer = self.controller.submit(intent, INTENT_TIMEOUT).await;
        let IntentAnswer::Results(results) = answer.map_err(|error| errors::of_submit(&error))? else {
            return Err(errors::of_mismatch());
        };
        let results = changes.into_iter().zip(results).map(|(change, result)| ReassignmentResult {
            topic: change.topic,
            partition: change.partition,
            refused: result.err().map(|error| error.to_string()),
        });
        Ok(Response::new(AlterReassignmentsResponse { results: results.collect() }))
    }

    async fn list(
        &self,
        request: Request<ListReassignmentsRequest>,
    ) -> Result<Response<ListReassignmentsResponse>, Status> {
        let image = self.quorum.image();
        let moving = moving(&image, &request.into_inner());
        let told = self.ask(&moving).await;
        let reassignments = moving.iter().map(|(name, id, partition)| row(name, *id, partition, &told)).collect();
        Ok(Response::new(ListReassignmentsResponse { reassignments }))
    }
}

type Moving<'a> = (&'a str, TopicPartition, &'a Partition);
type Told = BTreeMap<(BrokerId, TopicPartition), ReplicaState>;

/// Sorted by name and partition.
fn moving<'a>(image: &'a Image, wanted: &ListReassignmentsRequest) -> Vec<Moving<'a>> {
    let concerns = |partition: &Partition| {
        let broker = wanted.broker.map(BrokerId);
        broker.is_none_or(|b| partition.adding().contains(&b) || partition.removing().contains(&b))
    };
    let mut found = Vec::new();
    for (name, id) in &image.topic_ids {
        if wanted.topic.as_ref().is_some_and(|topic| topic != name) {
            continue;
        }
        let Some(topic) = image.topic(*id) else { continue };
        for (number, partition) in (0..).zip(topic.partitions.iter()) {
            if partition.reassignment.is_some() && concerns(partition) {
                found.push((name.as_str(), TopicPartition::new(*id, number), partition));
            }
        }
    }
    found
}

impl ReassignmentsService {
    /// Leaders and added replicas, every broker at the same time; who does not tell is missing.
    async fn ask(&self, moving: &[Moving<'_>]) -> Told {
        let mut by_broker = BTreeMap::<BrokerId, Vec<TopicPartition>>::new();
        for (_, id, partition) in moving {
            for broker in partition.adding().iter().chain(&partition.leader) {
                by_broker.entry(*broker).or_default().push(*id);
            }
        }
        let mut asked = Vec::new();
        for (broker, ids) in by_broker {
            let replicas = self.replicas.clone();
            asked.push(async move { (broker, replicas.ask(broker, ids).await) });
        }
        let mut told = Told::new();
        for (broker, states) in join_all(asked).await {
            told.extend(states.unwrap_or_default().into_iter().map(|state| ((broker, state.partition), state)));
        }
        told
    }
}

fn row(topic: &str, id: TopicPartition, partition: &Partition, told: &Told) -> proto::Reassignment {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect();
    let leader = partition.leader.and_then(|leader| told.get(&(leader, id))).filter(|state| state.is_leader);
    let left = leader.map(|leader| {
        let mut left = Left::default();
        for broker in partition.adding() {
            left.add(leader, told.get(&(*broker, id)));
        }
        left
    });
    proto::Reassignment {
        topic: topic.to_string(),
        partition: id.partition,
        leader: partition.leader.map(|leader| leader.0),
        from: ids(partition.original()),
        to: ids(&partition.target()),
        adding: ids(partition.adding()),
        removing: ids(partition.removing()),
        isr: ids(&partition.isr),
        bytes_total: left.map(|left| left.bytes_total),
        bytes_left: left.map(|left| left.bytes_left),
        records_left: left.map(|left| left.records_left),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Left {
    bytes_total: i64,
    bytes_left: i64,
    records_left: i64,
}

impl Left {
    /// A replica that holds all records has nothing left, however its segments lie.
    fn add(&mut self, leader: &ReplicaState, replica: Option<&ReplicaState>) {
        let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        let total = bytes(leader.size_bytes);
        let (end, held) = replica.map_or((leader.log_start, 0), |r| (r.log_end, bytes(r.size_bytes)));
        let records = leader.log_end.0.saturating_sub(end.0.max(leader.log_start.0)).max(0);
        self.bytes_total = self.bytes_total.saturating_add(total);
        self.records_left = self.records_left.saturating_add(records);
        if records > 0 {
            self.bytes_left = self.bytes_left.saturating_add(total.saturating_sub(held).max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(start: i64, end: i64, size_bytes: u64) -> ReplicaState {
        ReplicaState {
            partition: TopicPartition::new(TopicId::default(), 0),
            is_leader: false,
            leader_epoch: LeaderEpoch(1),
            last_epoch: LeaderEpoch(1),
            log_start: Offset(start),
            log_end: Offset(end),
            durable_end: Offset(end),
            high_watermark: Offset(end),
            size_bytes,
            followers: Vec::new(),
        }
    }

    #[test]
    fn what_is_left_is_counted_from_the_leaders_start() {
        let left = |replica: Option<ReplicaState>| {
            let mut left = Left::default();
            left.add(&state(100, 1_100, 10_000), replica.as_ref());
            (left.bytes_left, left.records_left)
        };
        assert_eq!(left(None), (10_000, 1_000), "one that does not tell counts as empty");
        assert_eq!(left(Some(state(0, 0, 0))), (10_000, 1_000));
        assert_eq!(left(Some(state(100, 600, 4_000))), (6_000, 500));
        assert_eq!(left(Some(state(100, 1_100, 9_000))), (0, 0), "all records, in smaller segments");
        assert_eq!(left(Some(state(100, 1_099, 12_000))), (1, 1), "never nothing while a record is missing");
    }
}
