//! The `Cluster` service: nodes, controller, quorum.

use super::addresses;
use super::brokers::liveness;
use super::proto::cluster_server::Cluster;
use super::proto::{DescribeClusterRequest, DescribeClusterResponse, Listener, Node, PartitionCounts, QuorumMember};
use crate::ids::BrokerId;
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::metadata::quorum::{Quorum, QuorumStatus};
use crate::replica::hosted::Hosted;
use std::collections::BTreeMap;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub struct ClusterService {
    pub node: BrokerId,
    pub quorum: Quorum,
    pub hosted: Hosted,
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn describe(
        &self,
        request: Request<DescribeClusterRequest>,
    ) -> Result<Response<DescribeClusterResponse>, Status> {
        let image = self.quorum.image();
        let damaged = i32::try_from(self.hosted.gauges().damaged()).unwrap_or(i32::MAX);
        let mut answer = describe(self.node, &image, &self.quorum.status(), damaged);
        answer.image_hash = request.into_inner().image_hash.then(|| image.hash());
        Ok(Response::new(answer))
    }
}

/// `damaged`: replicas on the node that answers.
fn describe(answered_by: BrokerId, image: &Image, status: &QuorumStatus, damaged: i32) -> DescribeClusterResponse {
    let mut nodes: BTreeMap<BrokerId, Node> =
        image.brokers.iter().map(|(id, broker)| (*id, node_of(*id, broker))).collect();
    for member in &status.members {
        let node = nodes.entry(member.node.node).or_insert_with(|| Node {
            id: member.node.node.0,
            directory_id: member.node.directory.to_string(),
            cluster_address: member.address.clone(),
            ..Node::default()
        });
        node.controller |= member.voter;
    }
    let partitions = PartitionCounts { damaged, ..count_partitions(image, &mut nodes) };
    DescribeClusterResponse {
        cluster_id: image.cluster_id.to_string(),
        answered_by: answered_by.0,
        nodes: nodes.into_values().collect(),
        controller: status.leadership.leader.map(|leader| leader.node.0),
        term: status.leadership.term,
        last_log_index: status.last_log_index.0,
        commit_index: status.committed.0,
        applied_index: status.applied.0,
        snapshot_index: status.snapshot.0,
        quorum: status
            .members
            .iter()
            .map(|member| QuorumMember {
                node: member.node.node.0,
                directory_id: member.node.directory.to_string(),
                address: member.address.clone(),
                voter: member.voter,
                matched_index: member.matched.map(|index| index.0),
            })
            .collect(),
        partitions: Some(partitions),
        image_index: image.index.0,
        image_hash: None,
    }
}

fn node_of(id: BrokerId, broker: &Broker) -> Node {
    let registration = &broker.registration;
    let liveness = liveness(broker);
    Node {
        id: id.0,
        broker: true,
        controller: false,
        liveness: liveness.into(),
        broker_epoch: Some(broker.epoch.0),
        directory_id: registration.directory.to_string(),
        rack: registration.rack.clone(),
        version: registration.version.clone(),
        kafka_listeners: registration
            .kafka_endpoints
            .iter()
            .map(|endpoint| Listener { name: endpoint.listener.clone(), address: addresses::text(endpoint) })
            .collect(),
        replica_address: addresses::text(&registration.replica_endpoint),
        cluster_address: addresses::text(&registration.cluster_endpoint),
        admin_address: addresses::text(&registration.admin_endpoint),
        leaders: 0,
        replicas: 0,
        in_sync: 0,
        draining: broker.draining,
    }
}

fn count_partitions(image: &Image, nodes: &mut BTreeMap<BrokerId, Node>) -> PartitionCounts {
    let mut counts = PartitionCounts::default();
    for partition in image.topics.values().flat_map(|topic| topic.partitions.iter()) {
        counts.total += 1;
        counts.without_leader += i32::from(partition.leader.is_none());
        counts.under_replicated += i32::from(partition.is_under_replicated());
        if let Some(node) = partition.leader.and_then(|leader| nodes.get_mut(&leader)) {
            node.leaders += 1;
        }
        for replica in &partition.replicas {
            if let Some(node) = nodes.get_mut(replica) {
                node.replicas += 1;
                node.in_sync += i32::from(partition.isr.contains(replica));
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::proto::Liveness;
    use crate::ids::*;
    use crate::metadata::command::{BrokerRegistration, Endpoint};
    use crate::metadata::image::topics::{Partition, Topic};
    use crate::metadata::quorum::{Leadership, QuorumMember};
    use crate::metadata::raft::types::RaftNodeId;
    use std::sync::Arc;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint { listener: "plain".into(), host: "127.0.0.1".into(), port }
    }

    fn broker(id: i32, fenced: bool) -> Broker {
        let registration = BrokerRegistration {
            broker: BrokerId(id),
            directory: DirectoryId::default(),
            incarnation: IncarnationId::default(),
            boot_id: String::new(),
            clean_stop: true,
            data_lost: false,
            kafka_endpoints: vec![endpoint(9092)],
            replica_endpoint: endpoint(9095),
            cluster_endpoint: endpoint(9093),
            admin_endpoint: endpoint(9094),
            rack: None,
            version: "1".into(),
        };
        Broker { registration, epoch: BrokerEpoch(7), fenced, shutting_down: false, draining: false }
    }

    #[test]
    fn nodes_are_brokers_and_voters_with_what_they_lead_and_hold() {
        let mut image = Image::default();
        image.brokers.insert(BrokerId(1), broker(1, false));
        image.brokers.insert(BrokerId(2), broker(2, true));
        let id = TopicId::default();
        let partition = Partition {
            replicas: vec![BrokerId(1), BrokerId(2)],
            isr: vec![BrokerId(1)],
            elr: vec![],
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(4),
            unclean_epoch: None,
            reassignment: None,
        };
        image
            .topics
            .insert(id, Arc::new(Topic { id, name: "t".into(), partitions: [partition].into_iter().collect() }));
        let voter = |node: i32| QuorumMember {
            node: RaftNodeId { node: BrokerId(node), directory: DirectoryId::default() },
            address: format!("c:{node}"),
            voter: true,
            ..QuorumMember::default()
        };
        let status = QuorumStatus {
            leadership: Leadership { leader: Some(voter(9).node), term: 5, is_controller: false },
            members: vec![voter(1), voter(9)],
            ..QuorumStatus::default()
        };
        let answer = describe(BrokerId(1), &image, &status, 2);
        assert_eq!(answer.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 9]);
        assert!(answer.nodes[0].controller && !answer.nodes[1].controller && !answer.nodes[2].broker);
        assert_eq!((answer.nodes[0].leaders, answer.nodes[1].replicas, answer.nodes[1].in_sync), (1, 1, 0));
        assert_eq!(answer.nodes[1].liveness(), Liveness::Fenced);
        assert_eq!((answer.controller, answer.term), (Some(9), 5));
        let partitions = answer.partitions.unwrap();
        assert_eq!((partitions.total, partitions.under_replicated, partitions.damaged), (1, 1, 2));
    }
}
