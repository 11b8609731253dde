//! Topics and their partitions in the image.

use super::persistent;
use crate::ids::*;
use imbl::Vector;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    /// Indexed by partition number.
    #[serde(deserialize_with = "persistent::vector")]
    pub partitions: Vector<Partition>,
}

/// Invariants: `isr` ⊆ `replicas`; `leader` ∈ `isr`; `elr` ∩ `isr` = ∅; `elr` ⊆ `replicas`; all in the order of
/// `replicas`; every change bumps `partition_epoch`. While there is a leader, all of the ISR is alive. Without one, the
/// ISR holds the last who were in sync, all of them away; it is empty if the last of them lost its data, and then the
/// partition stays offline until a person chooses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// In preference order: the first is the preferred leader.
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966).
    pub elr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// The newest leader epoch that began outside ISR and ELR: a follower whose last epoch is older than this one may
    /// truncate below its high watermark. Kept over later clean elections, for followers that were away meanwhile.
    pub unclean_epoch: Option<LeaderEpoch>,
}
