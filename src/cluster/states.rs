//! What replicas hold: told of this node's, asked of others'.

use super::node::{Node, parse_uuid};
use super::peers::Pool;
use super::proto;
use super::proto::cluster_client::ClusterClient;
use crate::controller::replica_states::{FollowerProgress, ReplicaState, ReplicaStates, StatesFuture};
use crate::ids::*;
use crate::replica::hosted::Hosted;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::Status;
use tonic::transport::Channel;

/// Partitions of one question: an answer stays well under gRPC's 4 MiB.
const PARTITIONS_MAX: usize = 1_000;
/// One question and its answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// This node's replicas, once its logs are open. Cheap to clone.
#[derive(Clone, Default)]
pub struct LocalReplicas {
    hosted: Arc<OnceLock<Hosted>>,
}

impl LocalReplicas {
    /// Once, when the logs are open.
    pub fn are(&self, hosted: Hosted) {
        // A second one would be the same.
        let _ = self.hosted.set(hosted);
    }

    pub(super) fn hosted(&self) -> Option<Hosted> {
        self.hosted.get().cloned()
    }

    fn states(&self, partitions: &[TopicPartition]) -> Vec<ReplicaState> {
        let Some(hosted) = self.hosted.get() else { return Vec::new() };
        let state = |id: &TopicPartition| {
            let partition = hosted.get(*id)?;
            let status = partition.status();
            let follower = |(broker, end): (BrokerId, Option<Offset>)| FollowerProgress {
                broker,
                end,
                lag_bytes: end.and_then(|end| partition.bytes_from(end)),
            };
            Some(ReplicaState {
                partition: *id,
                is_leader: status.is_leader,
                leader_epoch: status.leader_epoch,
                last_epoch: status.last_epoch,
                log_start: status.log_start,
                log_end: status.log_end,
                durable_end: status.durable_end,
                high_watermark: status.high_watermark,
                size_bytes: status.size_bytes,
                followers: status.followers.into_iter().map(follower).collect(),
            })
        };
        partitions.iter().filter_map(state).collect()
    }

    pub fn answer(
        &self,
        node: &Node,
        request: &proto::PartitionStatesRequest,
    ) -> Result<proto::PartitionStatesAnswer, Status> {
        if request.partitions.len() > PARTITIONS_MAX {
            return Err(Status::invalid_argument(format!(
                "at most {PARTITIONS_MAX} partitions may be asked at a time"
            )));
        }
        let ids: Vec<TopicPartition> = request.partitions.iter().map(partition_of).collect::<Result<_, _>>()?;
        let states = self.states(&ids).iter().map(told).collect();
        Ok(proto::PartitionStatesAnswer { cluster_id: node.cluster.text(), states })
    }
}

pub(super) fn partition_of(id: &proto::PartitionId) -> Result<TopicPartition, Status> {
    Ok(TopicPartition::new(TopicId(parse_uuid(&id.topic_id)?), id.partition))
}

pub(super) fn id_of(id: TopicPartition) -> proto::PartitionId {
    proto::PartitionId { topic_id: id.topic.to_string(), partition: id.partition }
}

fn told(state: &ReplicaState) -> proto::PartitionState {
    proto::PartitionState {
        partition: Some(id_of(state.partition)),
        is_leader: state.is_leader,
        leader_epoch: state.leader_epoch.0,
        last_epoch: state.last_epoch.0,
        log_start: state.log_start.0,
        log_end: state.log_end.0,
        durable_end: state.durable_end.0,
        high_watermark: state.high_watermark.0,
        size_bytes: i64::try_from(state.size_bytes).unwrap_or(i64::MAX),
        followers: state
            .followers
            .iter()
            .map(|follower| proto::FollowerState {
                broker: follower.broker.0,
                end: follower.end.map(|end| end.0),
                lag_bytes: follower.lag_bytes,
            })
            .collect(),
    }
}

fn heard(state: proto::PartitionState) -> Result<ReplicaState, Status> {
    let partition = state.partition.ok_or_else(|| Status::invalid_argument("a state names no partition"))?;
    Ok(ReplicaState {
        partition: partition_of(&partition)?,
        is_leader: state.is_leader,
        leader_epoch: LeaderEpoch(state.leader_epoch),
        last_epoch: LeaderEpoch(state.last_epoch),
        log_start: Offset(state.log_start),
        log_end: Offset(state.log_end),
        durable_end: Offset(state.durable_end),
        high_watermark: Offset(state.high_watermark),
        size_bytes: u64::try_from(state.size_bytes).unwrap_or(0),
        followers: state
            .followers
            .into_iter()
            .map(|f| FollowerProgress { broker: BrokerId(f.broker), end: f.end.map(Offset), lag_bytes: f.lag_bytes })
            .collect(),
    })
}

/// Asks brokers over their cluster ports, this one without a detour. Cheap to clone.
#[derive(Clone)]
pub struct Asker {
    node: Node,
    local: LocalReplicas,
    pool: Arc<Pool>,
    /// Drives the connections.
    runtime: Handle,
}

impl Asker {
    pub fn new(node: Node, local: LocalReplicas, runtime: Handle) -> Asker {
        Asker { node, local, pool: Arc::default(), runtime }
    }

    /// Of its cluster port.
    pub(super) fn address(&self, broker: BrokerId) -> Result<String, Status> {
        let image = self.node.quorum.image();
        let unknown = || Status::not_found(format!("broker {broker} is not registered"));
        let endpoint = &image.brokers.get(&broker).ok_or_else(unknown)?.registration.cluster_endpoint;
        Ok(match endpoint.host.contains(':') {
            true => format!("[{}]:{}", endpoint.host, endpoint.port),
            false => format!("{}:{}", endpoint.host, endpoint.port),
        })
    }

    /// A pooled connection. On the runtime that drives connections.
    pub(super) fn client(&self, address: &str) -> Result<ClusterClient<Channel>, Status> {
        self.pool.get(address)
    }

    /// The connection failed.
    pub(super) fn forget(&self, address: &str) {
        self.pool.forget(address);
    }

    pub(super) fn cluster_id(&self) -> String {
        self.node.cluster.text()
    }

    pub(super) fn is_here(&self, broker: BrokerId) -> bool {
        broker == self.node.me.node
    }

    pub(super) fn local(&self) -> &LocalReplicas {
        &self.local
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    async fn ask_remote(&self, broker: BrokerId, partitions: &[TopicPartition]) -> Result<Vec<ReplicaState>, Status> {
        let address = self.address(broker)?;
        let mut states = Vec::with_capacity(partitions.len());
        for chunk in partitions.chunks(PARTITIONS_MAX) {
            let mut client = self.pool.get(&address)?;
            let request = proto::PartitionStatesRequest {
                cluster_id: self.node.cluster.text(),
                partitions: chunk.iter().map(|id| id_of(*id)).collect(),
            };
            let answer = tokio::time::timeout(ASK_TIMEOUT, client.partition_states(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
            let answer = answer.inspect_err(|_| self.pool.forget(&address))?.into_inner();
            for state in answer.states {
                states.push(heard(state)?);
            }
        }
        Ok(states)
    }
}

impl ReplicaStates for Asker {
    fn ask(&self, broker: BrokerId, partitions: Vec<TopicPartition>) -> StatesFuture<'_> {
        if broker == self.node.me.node {
            let states = self.local.states(&partitions);
            return Box::pin(async move { Ok(states) });
        }
        let asker = self.clone();
        let work = self.runtime.spawn(async move { asker.ask_remote(broker, &partitions).await });
        Box::pin(async move {
            match work.await {
                Ok(answer) => answer.map_err(|status| status.message().to_string()),
                Err(_) => Err("this node is stopping".to_string()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_state_survives_the_wire() {
        let state = ReplicaState {
            partition: TopicPartition::new(TopicId(Uuid::from_u128(7)), 3),
            is_leader: true,
            leader_epoch: LeaderEpoch(5),
            last_epoch: LeaderEpoch(-1),
            log_start: Offset(1),
            log_end: Offset(9),
            durable_end: Offset(8),
            high_watermark: Offset(7),
            size_bytes: 4096,
            followers: vec![
                FollowerProgress { broker: BrokerId(2), end: Some(Offset(6)), lag_bytes: Some(300) },
                FollowerProgress { broker: BrokerId(4), end: None, lag_bytes: None },
            ],
        };
        assert_eq!(heard(told(&state)).unwrap(), state);
        assert!(heard(proto::PartitionState::default()).is_err());
    }
}
