//! How a partition moves to other replicas: pure decisions (replication.md, rule 12, KIP-455).
//!
//! ```text
//! begin ─→ replicas = target, then those to leave ─→ the added ones fetch and join the ISR ─→ complete: the target alone
//!                                                └─→ cancel: the original replicas
//! ```

use super::transition::{Next, ReplicaSet, heir, set_of};
use crate::ids::*;
use crate::metadata::command::MetadataError;
use crate::metadata::image::Image;
use crate::metadata::image::topics::{Partition, Reassignment};
use std::collections::BTreeSet;

/// The move to `target`, from wherever an earlier one has got to. Replicas that the earlier one added, and that are not
/// wanted any more, leave at once, unless they hold data that counts: then they leave at the end.
pub fn begin(old: &Partition, target: &[BrokerId], image: &Image) -> Result<Next, MetadataError> {
    let wrong = |why: String| Err(MetadataError::InvalidAssignment(why));
    if target.is_empty() {
        return wrong("a partition needs at least one replica".into());
    }
    if target.iter().collect::<BTreeSet<_>>().len() != target.len() {
        return wrong("the replicas name a broker twice".into());
    }
    let original = old.original().to_vec();
    if let Some(unknown) = target.iter().find(|b| !image.brokers.contains_key(*b) && !original.contains(b)) {
        return Err(MetadataError::UnknownBroker(*unknown));
    }
    let counts = |b: &BrokerId| original.contains(b) || old.isr.contains(b) || old.elr.contains(b);
    let removing: Vec<BrokerId> = old.replicas.iter().copied().filter(|b| !target.contains(b) && counts(b)).collect();
    let adding: Vec<BrokerId> = target.iter().copied().filter(|b| !original.contains(b)).collect();
    let replicas = target.iter().chain(&removing).copied().collect();
    let reassignment = Some(Box::new(Reassignment { original, adding, removing }));
    Ok(Next { replicas: Some(ReplicaSet { replicas, reassignment }), ..Next::new(old.isr.clone(), old.leader) })
}

/// The replicas from before the move, at once. Refused where none of them is in sync (or, without a leader, was; or,
/// where all of those lost their data, is eligible): the move's own replicas are then the only ones that hold all that
/// was acked, and their folders would go.
pub fn cancel(old: &Partition, image: &Image) -> Result<Next, MetadataError> {
    let Some(reassignment) = &old.reassignment else { return Err(MetadataError::NoReassignment) };
    let replicas = reassignment.original.clone();
    let isr: Vec<BrokerId> = old.isr.iter().copied().filter(|b| replicas.contains(b)).collect();
    let refused = || {
        Err(MetadataError::InvalidAssignment(
            "none of the original replicas is in sync: going back would lose acknowledged records; wait until one is, or \
             let the move complete"
                .into(),
        ))
    };
    let holders = if old.isr.is_empty() { &old.elr } else { &old.isr };
    if !holders.is_empty() && !holders.iter().any(|b| replicas.contains(b)) {
        return refused();
    }
    let leader = match old.leader {
        Some(leader) if isr.contains(&leader) => Some(leader),
        Some(_) => match heir(replicas.iter().copied().filter(|b| isr.contains(b)), image) {
            Some(heir) => Some(heir),
            None => return refused(),
        },
        None => None,
    };
    Ok(Next { replicas: Some(ReplicaSet { replicas, reassignment: None }), ..Next::new(isr, leader) })
}

/// `next`, or the end of the move if `next` allows it: every added replica is in sync, and without the ones that leave as
/// many are as the move promised, never fewer than were in sync of the original ones nor than the minimum ISR, one of
/// them able to lead.
pub fn complete(old: &Partition, next: Next, image: &Image, min_isr: impl Fn(usize) -> usize) -> Next {
    let set = next.replicas.clone().unwrap_or_else(|| set_of(old));
    let (Some(reassignment), Some(leader), false) = (&set.reassignment, next.leader, next.unclean) else { return next };
    let target: Vec<BrokerId> = set.replicas.iter().copied().filter(|b| !reassignment.removing.contains(b)).collect();
    let isr: Vec<BrokerId> = next.isr.iter().copied().filter(|b| target.contains(b)).collect();
    let in_sync_before = next.isr.iter().filter(|b| reassignment.original.contains(b)).count();
    let enough = isr.len() >= target.len().min(in_sync_before) && isr.len() >= min_isr(target.len());
    if !enough || !reassignment.adding.iter().all(|b| isr.contains(b)) {
        return next;
    }
    let leader = if isr.contains(&leader) {
        Some(leader)
    } else {
        heir(target.iter().copied().filter(|b| isr.contains(b)), image)
    };
    if leader.is_none() {
        return next;
    }
    Next { isr, leader, replicas: Some(ReplicaSet { replicas: target, reassignment: None }), ..next }
}
