//! What any node may ask of the controller, and the door it asks through.
//!
//! An intent says what is wanted; the controller adds what only it can know (placement, liveness), turns it into a
//! [`Command`] and answers when that is committed. The caller's node waits until its own image
//! has applied the answer's index, so that a client that created a topic sees it on the node it asked.

use super::command::*;
use super::voters::{QuorumReport, VoterChange, VoterError, VoterOutcome};
use crate::ids::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Intent {
    CreateTopics {
        topics: Vec<TopicIntent>,
        validate_only: bool,
    },
    DeleteTopics {
        topics: Vec<TopicId>,
    },
    CreatePartitions {
        topics: Vec<PartitionsIntent>,
        validate_only: bool,
    },
    AlterIsr {
        broker: BrokerId,
        epoch: BrokerEpoch,
        proposals: Vec<IsrProposal>,
    },
    SetConfigs {
        changes: Vec<ConfigChange>,
        validate_only: bool,
    },
    AllocateProducerIds {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    /// One result a change; the changes of one group count in their order.
    ChangeGroups(Vec<GroupChange>),
    /// First step of a clean stop: hand over every leader, leave every ISR where others suffice.
    BeginShutdown {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    /// Last step of a clean stop.
    FenceSelf {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    /// One result a partition.
    ElectPreferred {
        partitions: Vec<TopicPartition>,
    },
    /// Moves partitions to other replicas, or cancels that; one result a wish.
    AlterReassignments {
        wishes: Vec<ReassignmentWish>,
        /// Refuse a target of another size (KIP-860).
        keep_replication_factor: bool,
    },
    /// A leader even from outside ISR and ELR, for partitions that have none; one result a partition.
    ElectUnclean {
        partitions: Vec<TopicPartition>,
    },
    SetDraining {
        broker: BrokerId,
        draining: bool,
    },
    /// Moves every replica of a broker elsewhere; what is on its way already stays as it is.
    MoveAway {
        broker: BrokerId,
    },
    /// Forgets a fenced broker. `force`: also while it is a replica, if others hold the data.
    UnregisterBroker {
        broker: BrokerId,
        force: bool,
    },
    /// How far each member of the quorum is: only the controller knows.
    DescribeQuorum,
    ChangeVoters(VoterChange),
    /// Damaged copies of the asking broker; answered with one result each.
    ReportDamage {
        broker: BrokerId,
        epoch: BrokerEpoch,
        reports: Vec<DamageReport>,
    },
}

/// `None` cancels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReassignmentWish {
    pub partition: TopicPartition,
    pub replicas: Option<Vec<BrokerId>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopicIntent {
    pub name: String,
    /// −1: the broker default `num.partitions`.
    pub partitions: i32,
    /// −1: the broker default `default.replication.factor`.
    pub replication_factor: i16,
    /// Explicit replicas by partition; then `partitions` and `replication_factor` are −1.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
    pub configs: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionsIntent {
    pub topic: String,
    /// The new total count.
    pub count: i32,
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// One result an item, in the order asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum IntentAnswer {
    Done,
    Topics(Vec<Result<TopicOutcome, IntentError>>),
    Isr(Vec<Result<PartitionEpoch, IntentError>>),
    Results(Vec<Result<(), IntentError>>),
    ProducerIds { first: ProducerId, count: i64 },
    Quorum(QuorumReport),
    Voters(Result<VoterOutcome, VoterError>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopicOutcome {
    pub id: TopicId,
    pub partitions: i32,
    pub replication_factor: i16,
}

/// Why the controller refused one item; translated to Kafka's codes in `kafka/errors.rs`, to gRPC's in `admin/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum IntentError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("{0}")]
    InvalidTopicName(String),
    #[error("{0}")]
    InvalidPartitions(String),
    #[error("{0}")]
    InvalidReplicationFactor(String),
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    #[error("{0}")]
    InvalidConfig(String),
    #[error("{0}")]
    InvalidRequest(String),
    #[error("the partition has the leader it should have")]
    ElectionNotNeeded,
    #[error("{0}")]
    PreferredLeaderNotAvailable(String),
    #[error("{0}")]
    EligibleLeadersNotAvailable(String),
    /// A broker that must stay for now, and why.
    #[error("{0}")]
    NotRemovable(String),
}

/// Why an intent as a whole got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("the cluster has no controller right now; retry")]
    NoController,
    #[error("no answer within {0:?}; the outcome is unknown")]
    Timeout(Duration),
    #[error("the controller could not be reached: {0}; the outcome is unknown")]
    Unreachable(String),
    #[error("this node is stopping")]
    Stopping,
}

pub type SubmitFuture<'a> = Pin<Box<dyn Future<Output = Result<IntentAnswer, SubmitError>> + Send + 'a>>;

/// The door to the controller: `cluster/` supplies it, to the local controller or over gRPC to the remote one.
/// Retries while there is no controller, until `timeout`.
pub trait ControllerChannel: Send + Sync + 'static {
    fn submit(&self, intent: Intent, timeout: Duration) -> SubmitFuture<'_>;
}
