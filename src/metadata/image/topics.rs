//! Topics and their partitions in the image.

use crate::ids::*;
use imbl::Vector;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    /// Indexed by partition number.
    pub partitions: Vector<Partition>,
}

/// Invariants: `isr` ⊆ `replicas`; `leader` ∈ `isr`; `elr` ∩ `isr` = ∅; every change bumps `partition_epoch`.
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
    /// Set while the last leader was elected outside ISR and ELR: followers may truncate below their high watermark.
    pub unclean_epoch: Option<LeaderEpoch>,
}
