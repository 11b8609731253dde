//! What becomes of one partition: pure decisions over its state and who is alive in the image
//! (replication.md, rules 7, 8, 9, 11, 12, 17).
//!
//! A decision names the next ISR and leader; [`settle`] works out what follows from them: the ELR and the epochs.

use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::image::topics::{Partition, Reassignment, counted_replicas};

/// The next state of a partition, as decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    pub isr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    /// Replicas that lost their data: they may not stay eligible.
    pub lost: Vec<BrokerId>,
    /// The leader was chosen outside ISR and ELR: what the others hold is no longer a prefix of the truth.
    pub unclean: bool,
    /// The only copy lost what was not synced: as after an unclean election, what the others hold of it is no longer the
    /// truth.
    pub unsynced_lost: bool,
    /// Another replica set; `isr` and `leader` are of this one.
    pub replicas: Option<ReplicaSet>,
    /// A new leader epoch even if the leader stays: what it knew of its followers counts no more.
    pub renewed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSet {
    pub replicas: Vec<BrokerId>,
    pub reassignment: Option<Box<Reassignment>>,
}

impl Next {
    pub fn new(isr: Vec<BrokerId>, leader: Option<BrokerId>) -> Next {
        Next { isr, leader, lost: Vec::new(), unclean: false, unsynced_lost: false, replicas: None, renewed: false }
    }
}

/// The partition after a decision. Rule 8: a large enough ISR empties the ELR, a smaller one keeps eligible whoever was
/// in sync or eligible before and has not lost its data. A changed leader, even to none, begins a new leader epoch; so
/// does a replica that leaves the set, since a fetch of its old log, delayed until it is a replica again with an empty one,
/// must not count. `min_isr` gives the effective minimum of a replica count.
pub fn settle(old: &Partition, next: Next, min_isr: impl Fn(usize) -> usize) -> Partition {
    let Next { isr, leader, lost, unclean, unsynced_lost, replicas, renewed } = next;
    let ReplicaSet { replicas, reassignment } = replicas.unwrap_or_else(|| set_of(old));
    let min_isr = min_isr(counted_replicas(&replicas, reassignment.as_deref()));
    let next = Next { isr, leader, lost, unclean, unsynced_lost, replicas: None, renewed };
    let in_order = |keep: &dyn Fn(BrokerId) -> bool| replicas.iter().copied().filter(|b| keep(*b)).collect();
    let isr: Vec<BrokerId> = in_order(&|b| next.isr.contains(&b));
    assert_eq!(isr.len(), next.isr.len(), "an ISR holds replicas only, each once");
    assert!(next.leader.is_none_or(|leader| isr.contains(&leader)), "a leader is in its ISR");
    let elr: Vec<BrokerId> = if isr.len() >= min_isr || next.unclean {
        Vec::new()
    } else {
        in_order(&|b| (old.elr.contains(&b) || old.isr.contains(&b)) && !isr.contains(&b) && !next.lost.contains(&b))
    };
    let someone_left = old.replicas.iter().any(|b| !replicas.contains(b));
    let renewed = next.renewed && next.leader.is_some();
    let new_epoch = next.leader != old.leader || next.unclean || someone_left || renewed;
    let leader_epoch = if new_epoch { old.leader_epoch.next() } else { old.leader_epoch };
    // Nobody appends in an epoch without a leader: whatever was there before is of an older one.
    assert!(!next.unsynced_lost || next.leader.is_none(), "who has just come back does not lead yet");
    let unclean_epoch = if next.unclean || next.unsynced_lost { Some(leader_epoch) } else { old.unclean_epoch };
    let changed = unclean_epoch != old.unclean_epoch
        || new_epoch
        || isr != old.isr
        || elr != old.elr
        || replicas != old.replicas
        || reassignment != old.reassignment;
    Partition {
        replicas,
        isr,
        elr,
        leader: next.leader,
        leader_epoch,
        partition_epoch: if changed { old.partition_epoch.next() } else { old.partition_epoch },
        unclean_epoch,
        reassignment,
    }
}

pub fn set_of(partition: &Partition) -> ReplicaSet {
    ReplicaSet { replicas: partition.replicas.clone(), reassignment: partition.reassignment.clone() }
}

/// The first of `from` that may lead; one that is being drained only where no other may.
pub fn heir(from: impl Iterator<Item = BrokerId> + Clone, image: &Image) -> Option<BrokerId> {
    let mut active = from.filter(|b| image.is_active(*b));
    active.clone().find(|b| !image.is_draining(*b)).or_else(|| active.next())
}

/// After brokers were fenced, and `lost` (of them) came back without their data.
///
/// Whoever is in sync and alive remains, and leads by replica order; else an eligible one that is alive leads alone; else
/// those who were last in sync stay in the ISR without a leader, because any of them holds all that was acked. When the
/// last ones go at once they all stay: nothing was acked after the first of them left. Only lost data empties an ISR.
pub fn depart(old: &Partition, lost: &[BrokerId], image: &Image) -> Next {
    let kept = |b: &BrokerId| !lost.contains(b);
    let remaining: Vec<BrokerId> = old.isr.iter().copied().filter(kept).filter(|b| image.is_alive(*b)).collect();
    let first =
        |of: &[BrokerId]| heir(old.replicas.iter().copied().filter(|b| of.contains(b) && !lost.contains(b)), image);
    let staying = old.leader.filter(|leader| remaining.contains(leader));
    let mut next = if let Some(leader) = staying.or_else(|| first(&remaining)) {
        Next::new(remaining, Some(leader))
    } else if let Some(leader) = first(&old.elr) {
        Next::new(vec![leader], Some(leader))
    } else if remaining.is_empty() {
        Next::new(old.isr.iter().copied().filter(kept).collect(), None)
    } else {
        // Alive but shutting down: it holds the data and may not take leadership; it stays for when it is back.
        Next::new(remaining, None)
    };
    next.lost = lost.to_vec();
    next
}

/// After `broker` was unfenced: it leads where nobody does and it was in sync, or is eligible. It then is the whole ISR
/// but for others that are alive; the rest goes to the ELR.
pub fn come_back(old: &Partition, broker: BrokerId, image: &Image) -> Option<Next> {
    if old.leader.is_some() {
        return None;
    }
    if old.isr.contains(&broker) {
        let isr = old.isr.iter().copied().filter(|b| image.is_alive(*b)).collect();
        return Some(Next::new(isr, Some(broker)));
    }
    old.elr.contains(&broker).then(|| Next::new(vec![broker], Some(broker)))
}

/// After `broker` began to shut down: it hands its leadership to another in-sync replica, and leaves the ISR where the
/// others are enough without it. Where nobody else is in sync it goes on leading until it is fenced.
pub fn hand_over(old: &Partition, broker: BrokerId, min_isr: usize, image: &Image) -> Option<Next> {
    if !old.isr.contains(&broker) {
        return None;
    }
    let others: Vec<BrokerId> = old.isr.iter().copied().filter(|b| *b != broker).collect();
    let leader = if old.leader == Some(broker) {
        let heir = heir(old.replicas.iter().copied().filter(|b| others.contains(b)), image);
        Some(heir.unwrap_or(broker))
    } else {
        old.leader
    };
    let leaves = leader.is_some_and(|leader| leader != broker) && others.len() >= min_isr;
    Some(Next::new(if leaves { others } else { old.isr.clone() }, leader))
}

/// After draining `broker` began: another in-sync replica leads, if one may that is not drained too. The ISR stays.
pub fn drain(old: &Partition, broker: BrokerId, image: &Image) -> Option<Next> {
    if old.leader != Some(broker) {
        return None;
    }
    let in_sync = old.replicas.iter().copied().filter(|b| *b != broker && old.isr.contains(b));
    let heir = heir(in_sync, image).filter(|b| !image.is_draining(*b))?;
    Some(Next::new(old.isr.clone(), Some(heir)))
}

/// After `broker` found its copy damaged: it leaves ISR and ELR, and hands its leadership to an in-sync replica, or where
/// there is none to a live eligible one. The epoch is renewed in any case: what a leader knew of the damaged follower
/// must not bring it back before it has cut the damage off. `None`: nobody else holds what was acked.
pub fn damaged(old: &Partition, broker: BrokerId, image: &Image) -> Option<Next> {
    let others: Vec<BrokerId> = old.isr.iter().copied().filter(|b| *b != broker).collect();
    let first = |of: &[BrokerId]| heir(old.replicas.iter().copied().filter(|b| of.contains(b)), image);
    let eligible: Vec<BrokerId> = old.elr.iter().copied().filter(|b| *b != broker).collect();
    let (isr, leader) = match old.leader {
        Some(leader) if leader != broker => (others, Some(leader)),
        Some(_) => match first(&others) {
            Some(heir) => (others, Some(heir)),
            None => first(&eligible).map(|heir| (vec![heir], Some(heir)))?,
        },
        // Whoever comes back first of the others leads.
        None if others.is_empty() && eligible.is_empty() => return None,
        None => (others, None),
    };
    Some(Next { lost: vec![broker], renewed: true, ..Next::new(isr, leader) })
}

/// A person's or the controller's choice of `leader`, clean if it is in the ISR, or in the ELR of a partition without a
/// leader. `None`: it is neither.
pub fn choose(old: &Partition, leader: BrokerId, image: &Image) -> Option<Next> {
    match old.leader {
        Some(_) => old.isr.contains(&leader).then(|| Next::new(old.isr.clone(), Some(leader))),
        None => come_back(old, leader, image),
    }
}
