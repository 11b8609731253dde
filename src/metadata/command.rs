//! Everything that may change the cluster's metadata, and what each change answers.
//!
//! A [`Command`] is one Raft entry. `apply` (in [`super::image`]) turns the image before it into the image after it,
//! deterministically: no clock, no chance, no I/O. What needs knowledge from outside the image (placement, who is
//! alive, what time it is) is chosen by the controller and travels inside the command; every epoch is checked again
//! when it lands, because a proposal may be stale by then.

use crate::ids::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use super::group_change::GroupChange;

/// One change of the cluster's metadata. Bound: 256 KiB encoded; the proposer splits above it.
/// Old log entries must stay readable: variants are only ever added at the end, and never change their fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "a command is on its own, and a registration is the first of many")]
pub enum Command {
    RegisterBroker(BrokerRegistration),
    /// Fence, elect new leaders for all their partitions and leave every ISR, in this one apply (replication.md, rule 7).
    FenceBrokers {
        brokers: Vec<(BrokerId, BrokerEpoch)>,
        reason: FenceReason,
    },
    UnfenceBroker {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    BeginShutdown {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    UnregisterBroker {
        broker: BrokerId,
    },
    CreateTopics {
        topics: Vec<NewTopic>,
    },
    DeleteTopics {
        topics: Vec<TopicId>,
    },
    CreatePartitions {
        topics: Vec<NewPartitions>,
    },
    AlterIsr {
        broker: BrokerId,
        epoch: BrokerEpoch,
        proposals: Vec<IsrProposal>,
    },
    ElectLeaders {
        elections: Vec<Election>,
    },
    SetConfigs {
        changes: Vec<ConfigChange>,
    },
    AllocateProducerIds {
        broker: BrokerId,
        epoch: BrokerEpoch,
        count: i64,
    },
    /// One result a change; several changes of one group stand in the order in which they count.
    ChangeGroups {
        changes: Vec<GroupChange>,
    },
    /// Sets the value of a finalized feature, such as `metadata.version`.
    FinalizeFeature {
        name: String,
        level: i16,
    },
    /// Names the cluster, once and for ever: the first command of its first controller.
    FormCluster {
        cluster_id: ClusterId,
    },
    /// Moves partitions to other replicas, or cancels that (KIP-455).
    AlterReassignments {
        changes: Vec<ReassignmentChange>,
    },
    /// A draining broker hands over all it leads in this apply, and leads nothing while others can.
    SetDraining {
        broker: BrokerId,
        draining: bool,
    },
    /// Copies whose bytes changed on their disk: out of ISR and ELR, and out of leadership, before they are repaired.
    ReportDamage {
        broker: BrokerId,
        epoch: BrokerEpoch,
        reports: Vec<DamageReport>,
    },
}

/// A new target for one partition's replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReassignmentChange {
    pub partition: TopicPartition,
    pub partition_epoch: PartitionEpoch,
    /// In preference order; `None` cancels the move under way.
    pub replicas: Option<Vec<BrokerId>>,
}

/// Where one listener of a broker is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The listener's name: clients get the addresses of the listener that their request came in on.
    pub listener: String,
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BrokerRegistration {
    pub broker: BrokerId,
    pub directory: DirectoryId,
    pub incarnation: IncarnationId,
    /// The machine's boot id; with `clean_stop` it tells whether the page cache survived (replication.md, rule 9).
    pub boot_id: String,
    pub clean_stop: bool,
    /// The folder's disk failed earlier: what it holds is not to be trusted (replication.md, rule 19).
    pub data_lost: bool,
    pub kafka_endpoints: Vec<Endpoint>,
    pub replica_endpoint: Endpoint,
    pub cluster_endpoint: Endpoint,
    pub admin_endpoint: Endpoint,
    pub rack: Option<String>,
    pub version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FenceReason {
    /// No answered heartbeat for the session timeout.
    SessionExpired,
    /// The connection broke and a dial of the same address was refused, unreachable or silent.
    ConnectionLost,
    /// The broker asked for it as the last step of a clean stop.
    Shutdown,
    /// A newer process of the same broker registered.
    Restarted,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewTopic {
    pub name: String,
    pub id: TopicId,
    /// Replicas by partition, the preferred leader first.
    pub assignments: Vec<Vec<BrokerId>>,
    pub configs: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewPartitions {
    pub topic: TopicId,
    /// The count the proposer saw; refused as stale if it differs when this lands.
    pub expected_count: i32,
    pub assignments: Vec<Vec<BrokerId>>,
}

/// A compare-and-set of one partition's ISR (replication.md, rule 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IsrProposal {
    pub partition: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// Every proposed member with the broker epoch the leader knows it by.
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
}

/// One damaged copy, of the broker that reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DamageReport {
    pub partition: TopicPartition,
    /// The epoch the reporter knows: a report that lands late, after a repair, says nothing any more.
    pub leader_epoch: LeaderEpoch,
    /// Where the damage begins.
    pub from: Offset,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Election {
    pub partition: TopicPartition,
    pub partition_epoch: PartitionEpoch,
    pub leader: BrokerId,
    pub reason: ElectionReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElectionReason {
    /// The topic or partition was created.
    Created,
    /// The old leader was fenced.
    Fenced(FenceReason),
    /// The old leader is shutting down and hands over.
    Shutdown,
    /// Back to the first replica in the assignment.
    Preferred,
    /// A broker came back to a partition that had no leader.
    Returned,
    /// Outside the ISR: acked records may be lost (only where allowed).
    Unclean,
    /// The replicas were moved: the old leader, or a follower, is no replica any more.
    Reassigned,
    /// The old leader is being drained.
    Drained,
    /// A replica's bytes are damaged: it hands over, or goes on in an epoch in which the damaged one counts as empty.
    Damaged,
    /// The topic's acks are synced from now on: the leader goes on in an epoch in which page caches count no more.
    Durability,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigResource {
    Topic(String),
    Broker(BrokerId),
    /// The default of all brokers (`--entity-default`).
    BrokerDefault,
    Group(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigChange {
    pub resource: ConfigResource,
    /// `None` deletes the override.
    pub set: BTreeMap<String, Option<String>>,
}

/// What a committed command answers its proposer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Registered {
        epoch: BrokerEpoch,
    },
    /// One result a topic or partition, in the order of the command.
    Topics(Vec<Result<TopicId, MetadataError>>),
    Isr(Vec<Result<PartitionEpoch, MetadataError>>),
    Elections(Vec<Result<(), MetadataError>>),
    Configs(Vec<Result<(), MetadataError>>),
    ProducerIds {
        first: ProducerId,
        count: i64,
    },
    Refused(MetadataError),
    Reassignments(Vec<Result<(), MetadataError>>),
    Groups(Vec<Result<(), MetadataError>>),
}

/// Why `apply` refused a command or a part of it. Every node refuses the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MetadataError {
    #[error("topic {0} exists already")]
    TopicExists(String),
    #[error("no such topic")]
    UnknownTopic,
    #[error("no such partition")]
    UnknownPartition,
    #[error("the partition count changed meanwhile; read it again and retry")]
    PartitionCountChanged,
    #[error("broker {0} is not registered")]
    UnknownBroker(BrokerId),
    #[error("broker {broker} has epoch {current}, the request carries {given}")]
    StaleBrokerEpoch { broker: BrokerId, given: BrokerEpoch, current: BrokerEpoch },
    #[error("broker {0} is registered by another live process")]
    DuplicateBroker(BrokerId),
    #[error("the request's leader epoch {given} is not the current {current}")]
    StaleLeaderEpoch { given: LeaderEpoch, current: LeaderEpoch },
    #[error("the request's partition epoch {given} is not the current {current}")]
    StalePartitionEpoch { given: PartitionEpoch, current: PartitionEpoch },
    #[error("broker {0} is not the leader")]
    NotLeader(BrokerId),
    #[error("broker {0} may not join the ISR: it is fenced, shutting down, not a replica, or known by an older epoch")]
    IneligibleReplica(BrokerId),
    #[error("broker {0} cannot lead: it is not in sync and alive")]
    IneligibleLeader(BrokerId),
    #[error("the group's coordinator or revision changed meanwhile")]
    StaleGroup,
    #[error("{0}")]
    Invalid(String),
    #[error("no reassignment of the partition is under way")]
    NoReassignment,
    #[error("{0}")]
    InvalidAssignment(String),
    #[error("broker {0} is damaged, and no other replica that is alive holds all that was acknowledged")]
    NoOtherReplica(BrokerId),
}
