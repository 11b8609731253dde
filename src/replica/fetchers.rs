//! Who fetches what: the fetchers of this node, by leader and durability.

use super::fetcher::{Fetcher, Mailbox, Order};
use super::node::Node;
use super::partition::Partition;
use crate::config::topic::Durability;
use crate::ids::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::task::JoinSet;

/// All fetchers of this node. Bound: one a (leader, durability) that ever led something followed here.
pub(super) struct Fetchers {
    node: Arc<Node>,
    tasks: JoinSet<()>,
    mailboxes: BTreeMap<(BrokerId, bool), Arc<Mailbox>>,
    /// Who fetches what.
    assigned: BTreeMap<TopicPartition, (BrokerId, bool)>,
    /// To be kicked when a batch of changes is told.
    urgent: BTreeSet<(BrokerId, bool)>,
}

impl Fetchers {
    pub fn new(node: Arc<Node>) -> Fetchers {
        Fetchers {
            node,
            tasks: JoinSet::new(),
            mailboxes: BTreeMap::new(),
            assigned: BTreeMap::new(),
            urgent: BTreeSet::new(),
        }
    }

    /// From now on `partition` follows `leader` in `epoch`. Acted on at the next [`kick`](Fetchers::kick).
    pub fn follow(&mut self, partition: &Arc<Partition>, leader: BrokerId, epoch: LeaderEpoch, durability: Durability) {
        let key = (leader, durability == Durability::Sync);
        if self.assigned.get(&partition.id).is_some_and(|known| *known != key) {
            self.forget(partition.id);
        }
        self.assigned.insert(partition.id, key);
        let mailbox = self.mailboxes.entry(key).or_insert_with(|| {
            let mailbox = Arc::<Mailbox>::default();
            self.tasks.spawn(Fetcher::new(self.node.clone(), key.0, key.1, mailbox.clone()).run());
            mailbox
        });
        mailbox.put(Order::Follow(partition.clone(), epoch));
        self.urgent.insert(key);
    }

    pub fn forget(&mut self, id: TopicPartition) {
        if let Some(mailbox) = self.assigned.remove(&id).and_then(|key| self.mailboxes.get(&key)) {
            mailbox.put(Order::Forget(id));
        }
    }

    pub fn kick(&mut self) {
        for key in std::mem::take(&mut self.urgent) {
            if let Some(mailbox) = self.mailboxes.get(&key) {
                mailbox.kick();
            }
        }
    }

    /// Ends all of them, between two steps.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}
