//! What a committed command did, told to brokers (which follow the image by these deltas) and to Watch.

use super::command::{ConfigResource, ElectionReason, FenceReason};
use crate::ids::*;
use serde::{Deserialize, Serialize};

/// One observable consequence of a committed command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    BrokerRegistered {
        broker: BrokerId,
        epoch: BrokerEpoch,
        restarted: bool,
    },
    BrokerFenced {
        broker: BrokerId,
        epoch: BrokerEpoch,
        reason: FenceReason,
    },
    BrokerUnfenced {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    BrokerShuttingDown {
        broker: BrokerId,
    },
    BrokerUnregistered {
        broker: BrokerId,
    },
    TopicCreated {
        topic: TopicId,
        name: String,
        partitions: i32,
    },
    TopicDeleted {
        topic: TopicId,
        name: String,
        partitions: i32,
    },
    PartitionsAdded {
        topic: TopicId,
        name: String,
        from: i32,
        to: i32,
    },
    /// Also for every partition of a created topic.
    LeaderElected {
        partition: TopicPartition,
        topic: String,
        old: Option<BrokerId>,
        new: Option<BrokerId>,
        epoch: LeaderEpoch,
        reason: ElectionReason,
    },
    IsrChanged {
        partition: TopicPartition,
        topic: String,
        old: Vec<BrokerId>,
        new: Vec<BrokerId>,
        elr: Vec<BrokerId>,
        epoch: PartitionEpoch,
    },
    ConfigChanged {
        resource: ConfigResource,
        names: Vec<String>,
    },
    /// Not for the parts of a torn write.
    GroupChanged {
        group: String,
        /// Generation or epoch; −1: the group is gone.
        generation: i32,
        members: i32,
    },
    FeatureFinalized {
        name: String,
        level: i16,
    },
    /// The controller changed: a Raft term began. Not from a command; each node records it when it learns of it.
    ControllerElected {
        controller: Option<BrokerId>,
        term: u64,
    },
    /// A move to other replicas began, or got another target.
    ReassignmentBegan {
        partition: TopicPartition,
        topic: String,
        from: Vec<BrokerId>,
        to: Vec<BrokerId>,
    },
    ReassignmentCompleted {
        partition: TopicPartition,
        topic: String,
        replicas: Vec<BrokerId>,
    },
    /// The replicas from before the move are back.
    ReassignmentCancelled {
        partition: TopicPartition,
        topic: String,
        replicas: Vec<BrokerId>,
    },
    /// Draining began or ended.
    BrokerDraining {
        broker: BrokerId,
        draining: bool,
    },
    /// A replica found its bytes damaged from `from` on, has left ISR and ELR, and fetches them anew.
    ReplicaDamaged {
        partition: TopicPartition,
        topic: String,
        broker: BrokerId,
        from: Offset,
    },
}

impl Event {
    /// The partition this event changed, if it is about one.
    pub fn partition(&self) -> Option<TopicPartition> {
        match self {
            Event::LeaderElected { partition, .. }
            | Event::IsrChanged { partition, .. }
            | Event::ReassignmentBegan { partition, .. }
            | Event::ReassignmentCompleted { partition, .. }
            | Event::ReassignmentCancelled { partition, .. }
            | Event::ReplicaDamaged { partition, .. } => Some(*partition),
            _ => None,
        }
    }
}

/// Events with the Raft index of the command that caused them.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexedEvent {
    pub index: RaftIndex,
    pub event: Event,
}
