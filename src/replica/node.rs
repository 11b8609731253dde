//! What all partitions of this node share: the image, the flusher, who was seen, and what awaits the upkeep tasks.

use super::contact::Contacts;
use super::damage::Word;
use super::follower::ReplicaConfig;
use super::isr::Peers;
use super::partition::Partition;
use super::throttle::Bucket;
use crate::ids::*;
use crate::log::flush::Flusher;
use crate::metadata::command::IsrProposal;
use crate::metadata::image::Image;
use crate::platform::clock;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// A proposal on its way to the controller.
pub(super) struct Proposed {
    pub partition: Arc<Partition>,
    pub proposal: IsrProposal,
}

/// What describes this node's replicas in numbers.
#[derive(Debug, Default)]
pub struct Gauges {
    leaders: AtomicI64,
    under_replicated: AtomicI64,
    under_min_isr: AtomicI64,
    damaged: AtomicI64,
    damage_found: AtomicU64,
    scrubbed_bytes: AtomicU64,
}

/// What one partition adds to the gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub leader: bool,
    pub under_replicated: bool,
    pub under_min_isr: bool,
    pub damaged: bool,
}

impl Gauges {
    pub fn leaders(&self) -> i64 {
        self.leaders.load(Ordering::Relaxed)
    }
    /// Led here, with a replica outside the ISR.
    pub fn under_replicated(&self) -> i64 {
        self.under_replicated.load(Ordering::Relaxed)
    }
    /// Led here, refusing acks=all.
    pub fn under_min_isr(&self) -> i64 {
        self.under_min_isr.load(Ordering::Relaxed)
    }

    /// Copies here with damage that is not repaired yet.
    pub fn damaged(&self) -> i64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// How many times a copy here turned out to be damaged, since the process started.
    pub fn damage_found(&self) -> u64 {
        self.damage_found.load(Ordering::Relaxed)
    }

    /// Read in search of damage since the process started.
    pub fn scrubbed_bytes(&self) -> u64 {
        self.scrubbed_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn change(&self, from: Counted, to: Counted) {
        let turn = |gauge: &AtomicI64, from: bool, to: bool| {
            if from != to {
                gauge.fetch_add(if to { 1 } else { -1 }, Ordering::Relaxed);
            }
        };
        turn(&self.leaders, from.leader, to.leader);
        turn(&self.under_replicated, from.under_replicated, to.under_replicated);
        turn(&self.under_min_isr, from.under_min_isr, to.under_min_isr);
        turn(&self.damaged, from.damaged, to.damaged);
        if to.damaged && !from.damaged {
            self.damage_found.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) struct Node {
    pub broker: BrokerId,
    pub config: ReplicaConfig,
    pub flusher: Flusher,
    /// The image that the partitions act on; never older than what any of them has seen.
    pub image: ArcSwap<Image>,
    pub gauges: Gauges,
    pub contacts: Contacts,
    /// What replicas that a move adds here may fetch in all, over all fetchers.
    pub fetching: Mutex<Bucket>,
    /// What those that a move adds elsewhere may be sent from here in all.
    pub sending: Mutex<Bucket>,
    epoch: AtomicI64,
    seen: Mutex<BTreeMap<BrokerId, Instant>>,
    /// Partitions that the next tick looks at. Bound: each is listed once.
    attention: Mutex<Vec<Arc<Partition>>>,
    /// Bound: one proposal under way a partition.
    proposals: mpsc::UnboundedSender<Proposed>,
    /// A high watermark moved since the last checkpoint.
    high_watermarks_moved: AtomicBool,
    /// Suspicions and damage, for the integrity task, which takes them up at once. Bound: one a partition a second.
    pub(super) words: mpsc::UnboundedSender<Word>,
    /// Copies found damaged at opening, of which the controller has not been told.
    holding_ready: AtomicUsize,
    /// The last of them has been told.
    pub(super) ready_released: Notify,
}

/// Where a node's tasks hear from its partitions.
pub(super) struct Queues {
    pub proposals: mpsc::UnboundedReceiver<Proposed>,
    pub words: mpsc::UnboundedReceiver<Word>,
}

impl Node {
    pub fn new(broker: BrokerId, config: ReplicaConfig, flusher: Flusher, image: Arc<Image>) -> (Arc<Node>, Queues) {
        let (proposals, proposed) = mpsc::unbounded_channel();
        let (words, said) = mpsc::unbounded_channel();
        let node = Node {
            broker,
            config,
            flusher,
            image: ArcSwap::new(image),
            gauges: Gauges::default(),
            contacts: Contacts::default(),
            fetching: Mutex::new(Bucket::new(clock::now())),
            sending: Mutex::new(Bucket::new(clock::now())),
            epoch: AtomicI64::new(0),
            seen: Mutex::default(),
            attention: Mutex::default(),
            proposals,
            high_watermarks_moved: AtomicBool::new(false),
            words,
            holding_ready: AtomicUsize::new(0),
            ready_released: Notify::new(),
        };
        (Arc::new(node), Queues { proposals: proposed, words: said })
    }

    pub fn epoch(&self) -> BrokerEpoch {
        BrokerEpoch(self.epoch.load(Ordering::Acquire))
    }

    pub fn set_epoch(&self, epoch: BrokerEpoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    pub fn saw(&self, broker: BrokerId, now: Instant) {
        self.seen.lock().insert(broker, now);
    }

    /// Brokers whose newest fetch is older than `limit`; one that never fetched is not among them.
    pub fn silent_for(&self, limit: Duration, now: Instant) -> Vec<BrokerId> {
        let seen = self.seen.lock();
        let silent = seen.iter().filter(|(_, at)| now.saturating_duration_since(**at) > limit);
        silent.map(|(broker, _)| *broker).collect()
    }

    pub fn list(&self, partition: Arc<Partition>) {
        self.attention.lock().push(partition);
    }

    pub fn take_listed(&self) -> Vec<Arc<Partition>> {
        std::mem::take(&mut *self.attention.lock())
    }

    pub fn propose(&self, partition: Arc<Partition>, proposal: IsrProposal) {
        // The receiver goes only when the node stops; then proposals matter no more.
        let _ = self.proposals.send(Proposed { partition, proposal });
    }

    pub fn hold_ready(self: &Arc<Self>) -> ReadyHold {
        self.holding_ready.fetch_add(1, Ordering::AcqRel);
        ReadyHold(self.clone())
    }

    /// Whether damage found at opening is still to be told: until then this broker must not count as in sync anywhere.
    pub fn is_ready_held(&self) -> bool {
        self.holding_ready.load(Ordering::Acquire) > 0
    }

    pub fn note_high_watermark(&self) {
        // Looked at first: a store by every append would bounce the line between cores.
        if !self.high_watermarks_moved.load(Ordering::Relaxed) {
            self.high_watermarks_moved.store(true, Ordering::Relaxed);
        }
    }

    pub fn take_high_watermarks_moved(&self) -> bool {
        self.high_watermarks_moved.swap(false, Ordering::Relaxed)
    }
}

/// This node is not ready before it is dropped: whatever becomes of the partition that holds it, it is given back.
pub(super) struct ReadyHold(Arc<Node>);

impl Drop for ReadyHold {
    fn drop(&mut self) {
        if self.0.holding_ready.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ready_released.notify_one();
        }
    }
}

/// The node's peers by one image.
pub(super) struct NodePeers<'a> {
    pub node: &'a Node,
    pub image: &'a Image,
}

impl Peers for NodePeers<'_> {
    fn registered(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        if broker == self.node.broker {
            return Some(self.node.epoch());
        }
        self.image.brokers.get(&broker).map(|b| b.epoch)
    }

    fn active(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.image.brokers.get(&broker).filter(|b| b.is_active()).map(|b| b.epoch)
    }

    fn last_seen(&self, broker: BrokerId) -> Option<Instant> {
        self.node.seen.lock().get(&broker).copied()
    }
}
