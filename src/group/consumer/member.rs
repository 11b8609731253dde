//! One member: what is committed of it, and what only this coordinator knows.

use crate::group::machine::{Attempt, Millis, Ticket};
use crate::metadata::group_change::{ConsumerMember, MemberState, TopicPartitions};

#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    pub stored: ConsumerMember,
    /// The first write that holds what changed of it; `None`: the image knows it as it is.
    pub unsaved: Option<Attempt>,
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

    /// Nothing of it is on its way: a heartbeat tells it nothing new.
    pub fn is_settled(&self, assignment_epoch: i32) -> bool {
        self.unsaved.is_none() && self.is_reconciled(assignment_epoch)
    }

    pub fn is_reconciled(&self, assignment_epoch: i32) -> bool {
        self.stored.state == MemberState::Stable && self.stored.member_epoch == assignment_epoch
    }

    /// About what its wishes and names take.
    pub fn bytes(&self) -> usize {
        let stored = &self.stored;
        let texts = [&stored.instance_id, &stored.rack_id, &stored.subscribed_regex].into_iter().flatten();
        let texts = texts.chain(&stored.subscribed_topics).chain([&stored.client_id, &stored.client_host]);
        texts.map(|text| text.len() + 8).sum()
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
