//! One member: what is committed of it, and what only this coordinator knows.

use super::reconcile;
use crate::group::draft::Draft;
use crate::group::machine::{Attempt, Millis, Ticket};
use crate::metadata::group_change::{ConsumerMember, MemberState, TopicPartitions};

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// What the member says of itself.
    pub said: usize,
    /// What it has and is to have.
    pub has: usize,
}

/// A topic of a member's lists: its id and a list of numbers.
const TOPIC_BYTES: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    pub stored: ConsumerMember,
    /// Its share in the group's sum.
    pub counted: Counted,
    /// The first write that holds what changed of it; `None`: the image knows it as it is.
    pub unsaved: Option<Attempt>,
    /// It was answered: it knows its id.
    pub is_known: bool,
    /// Its epoch or assignment changed since it was answered last.
    pub is_untold: bool,
    /// Counts only while no request of the member is parked.
    pub session_deadline: Millis,
    /// Until when it must have revoked what it was asked to; of a classic member: have joined again, or synced.
    pub rebalance_deadline: Option<Millis>,
    pub waiting: Option<Waiting>,
}

/// A request of the member that is answered once its state is committed.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub request: Request,
    /// What the member says it owns.
    pub owned: Option<TopicPartitions>,
    /// What the member knows to be assigned to it; `None`: it wants to be told in any case.
    pub known: Option<TopicPartitions>,
    /// In a write that is under way.
    pub is_written: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Heartbeat(Ticket),
    /// A JoinGroup of the classic protocol.
    Join(Ticket),
}

impl Member {
    pub fn rebalance_timeout(&self) -> Millis {
        Millis::try_from(self.stored.rebalance_timeout_ms).unwrap_or(0)
    }

    /// Until when something is expected of it. Of a member that says that it revoked all of it nothing is any more: its
    /// parked heartbeat waits for Raft.
    pub fn awaited_until(&self) -> Option<Millis> {
        let owned = self.waiting.as_ref().and_then(|waiting| waiting.owned.as_ref());
        let has_revoked = self.stored.state == MemberState::Unrevoked
            && owned.is_some_and(|owned| reconcile::parted(owned, &self.stored.pending_revocation).0.is_empty());
        self.rebalance_deadline.filter(|_| !has_revoked)
    }

    /// Nothing of it is on its way: a heartbeat tells it nothing new.
    pub fn is_settled(&self, assignment_epoch: i32) -> bool {
        self.unsaved.is_none() && self.is_reconciled(assignment_epoch)
    }

    pub fn is_reconciled(&self, assignment_epoch: i32) -> bool {
        self.stored.state == MemberState::Stable && self.stored.member_epoch == assignment_epoch
    }

    /// About what it takes now.
    pub fn count(&self, id: &str, draft: &Draft) -> Counted {
        let stored = &self.stored;
        let texts = [&stored.instance_id, &stored.rack_id, &stored.subscribed_regex].into_iter().flatten();
        let texts = texts.chain(&stored.subscribed_topics).chain([&stored.client_id, &stored.client_host]);
        let texts: usize = texts.map(|text| text.len() + 8).sum();
        let protocols = stored.classic.iter().flat_map(|classic| &classic.protocols);
        let protocols: usize = protocols.map(|(name, blob)| name.len() + draft.bytes(*blob).len() + 16).sum();
        let lists = [&stored.assigned, &stored.pending_revocation, &stored.target];
        let of = |list: &TopicPartitions| list.values().map(|list| TOPIC_BYTES + list.len() * 4).sum::<usize>();
        Counted { said: id.len() + 8 + texts + protocols, has: lists.into_iter().map(of).sum() }
    }

    /// Everything that nobody else may have meanwhile.
    pub fn held(&self) -> impl Iterator<Item = (crate::ids::TopicId, i32)> + '_ {
        let each = self.stored.assigned.iter().chain(&self.stored.pending_revocation);
        each.flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)))
    }

    pub fn is_classic(&self) -> bool {
        self.stored.classic.is_some()
    }
}
