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
    /// The newest leader epoch that began outside ISR and ELR, or after the only copy lost its page cache: a follower whose
    /// last epoch is older than this one may truncate below its high watermark. Kept over later clean elections, for followers that were away meanwhile.
    pub unclean_epoch: Option<LeaderEpoch>,
    /// A move under way (KIP-455): `replicas` is then its target, in order, followed by those that are to leave.
    pub reassignment: Option<Box<Reassignment>>,
}

/// A replica set on its way to another.
///
/// Invariants: `original`, `adding` and `removing` ⊆ `replicas`, each broker once; `adding` are the target's that were
/// no replicas when the move began, `removing` those that the target lacks, so the two do not meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reassignment {
    /// What a cancellation puts back.
    pub original: Vec<BrokerId>,
    pub adding: Vec<BrokerId>,
    pub removing: Vec<BrokerId>,
}

impl Partition {
    /// The replicas there will be: those there are, without the ones that are to leave.
    pub fn target(&self) -> Vec<BrokerId> {
        self.replicas.iter().copied().filter(|b| !self.removing().contains(b)).collect()
    }

    /// Replicas that a move adds; they count as moving until it is complete, in sync or not.
    pub fn adding(&self) -> &[BrokerId] {
        self.reassignment.as_ref().map_or(&[], |r| &r.adding)
    }

    pub fn removing(&self) -> &[BrokerId] {
        self.reassignment.as_ref().map_or(&[], |r| &r.removing)
    }

    /// A replica is out of sync that is not just being added.
    pub fn is_under_replicated(&self) -> bool {
        self.replicas.iter().any(|b| !self.isr.contains(b) && !self.adding().contains(b))
    }

    /// The replica set before the move, or the one there is.
    pub fn original(&self) -> &[BrokerId] {
        self.reassignment.as_ref().map_or(&self.replicas, |r| &r.original)
    }

    /// The size of the replica set that the minimum ISR is bounded by.
    pub fn counted_replicas(&self) -> usize {
        counted_replicas(&self.replicas, self.reassignment.as_deref())
    }
}

/// During a move a partition is on more brokers than it ever asked for, and the new ones are empty: what counts is the
/// target's size, and where the move adds copies, no more than there were.
pub fn counted_replicas(replicas: &[BrokerId], reassignment: Option<&Reassignment>) -> usize {
    reassignment.map_or(replicas.len(), |r| (replicas.len() - r.removing.len()).min(r.original.len()))
}
