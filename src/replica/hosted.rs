//! The partitions hosted here, following the image by deltas.

use super::fetchers::Fetchers;
use super::integrity;
use super::node::{Gauges, Node, Queues};
use super::partition::Partition;
use super::proposals::send_proposals;
use super::reconcile::Reconciler;
use super::upkeep;
use crate::config::broker::NodeConfig;
use crate::ids::*;
use crate::log::flush::Flusher;
use crate::log::folder::LogFolder;
use crate::log::strays::StraysHeld;
use crate::metadata::image::Image;
use crate::metadata::intent::ControllerChannel;
use crate::metadata::quorum::Quorum;
use crate::platform::clock;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Threads that close logs at a stop.
const CLOSING_THREADS: usize = 8;

/// What `Hosted` needs from the rest of the house.
pub struct HostedParts {
    pub broker: BrokerId,
    pub quorum: Quorum,
    pub folder: LogFolder,
    pub flusher: Flusher,
    pub controller: Arc<dyn ControllerChannel>,
    pub config: super::follower::ReplicaConfig,
    /// Its Kafka-named configs are the defaults of topic configs.
    pub node: Arc<NodeConfig>,
}

/// Told after a partition's leadership changed here: group coordinators load and unload by it. Must not block.
pub trait LeadershipListener: Send + Sync + 'static {
    /// Also told when this broker goes on leading in a newer epoch.
    fn became_leader(&self, partition: &Arc<Partition>, topic: &str, epoch: LeaderEpoch);
    /// Stopped leading (or the partition is gone).
    fn resigned(&self, partition: TopicPartition, topic: &str);
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Hosted {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub node: Arc<Node>,
    pub quorum: Quorum,
    pub folder: LogFolder,
    pub controller: Arc<dyn ControllerChannel>,
    pub config: Arc<NodeConfig>,
    pub listeners: RwLock<Vec<Arc<dyn LeadershipListener>>>,
    pub ready: watch::Sender<bool>,
    /// High watermarks of the last run, for partitions whose logs are not open yet: a checkpoint keeps them.
    pub marks_before: Mutex<BTreeMap<TopicPartition, Offset>>,
    /// How many logs could not be opened: their folders are not known to be in order.
    pub failed_opens: AtomicUsize,
    partitions: RwLock<HashMap<TopicPartition, Arc<Partition>>>,
    /// Taken by `run`.
    queues: Mutex<Option<Queues>>,
}

impl Hosted {
    pub fn new(parts: HostedParts) -> Hosted {
        let image = parts.quorum.image();
        let (node, queues) = Node::new(parts.broker, parts.config, parts.flusher, image);
        let inner = Inner {
            node,
            quorum: parts.quorum,
            folder: parts.folder,
            controller: parts.controller,
            config: parts.node,
            listeners: RwLock::default(),
            ready: watch::Sender::new(false),
            marks_before: Mutex::default(),
            failed_opens: AtomicUsize::new(0),
            partitions: RwLock::default(),
            queues: Mutex::new(Some(queues)),
        };
        Hosted { inner: Arc::new(inner) }
    }

    pub fn add_listener(&self, listener: Arc<dyn LeadershipListener>) {
        self.inner.listeners.write().push(listener);
    }

    /// The broker epoch of this process's registration; fetches and proposals carry it. Set before `run`.
    pub fn set_broker_epoch(&self, epoch: BrokerEpoch) {
        self.inner.node.set_epoch(epoch);
    }

    /// True once the image is as new as this process's registration and every partition it assigns here has its log open
    /// (or could not be opened, which is logged).
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.inner.ready.subscribe()
    }

    /// Follows the image until told to stop: opens logs, becomes leader or follower, drops what was deleted,
    /// proposes ISR changes, applies retention, checkpoints high watermarks. Runs once.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let inner = &self.inner;
        let Some(Queues { proposals, words }) = inner.queues.lock().take() else { return };
        let mut tasks = JoinSet::new();
        tasks.spawn(send_proposals(inner.node.clone(), inner.controller.clone(), proposals));
        tasks.spawn(upkeep::tick(inner.clone()));
        tasks.spawn(upkeep::checkpoint(inner.clone()));
        tasks.spawn(upkeep::retention(inner.clone()));
        tasks.spawn(integrity::watch_over(inner.node.clone(), inner.controller.clone(), words));
        tasks.spawn(integrity::scrub(inner.clone()));
        let mut reconciler = Reconciler::new(inner.clone(), Fetchers::new(inner.node.clone())).await;
        tokio::select! {
            () = reconciler.follow_image() => {}
            // A sender that is gone tells to stop as well.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        tasks.shutdown().await;
        reconciler.stop().await;
    }

    pub fn get(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        self.inner.get(id)
    }

    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.inner.all()
    }

    pub fn folder(&self) -> &LogFolder {
        &self.inner.folder
    }

    /// Folders of unknown partitions that are kept for a grace time.
    pub fn strays_held(&self) -> StraysHeld {
        self.inner.folder.strays_held()
    }

    /// How many partitions have a replica here.
    pub fn count(&self) -> usize {
        self.inner.partitions.read().len()
    }

    /// A fetch of this follower came, whatever it mentions: all partitions of its session are alive. Called by the fetch
    /// handler of the replica listener for each follower fetch.
    pub fn follower_seen(&self, broker: BrokerId) {
        // Only those that exist: the peer names itself.
        if self.inner.node.image.load().brokers.contains_key(&broker) {
            self.inner.node.saw(broker, clock::now());
        }
    }

    /// Until when what `image` says of leaders is in doubt: this node lost contact with one a moment ago.
    pub fn in_doubt(&self, image: &Image) -> Option<Instant> {
        self.inner.node.contacts.in_doubt(image, clock::now())
    }

    /// Brokers that clients, or producers, are told of though they are fenced in `image`: they were not a moment ago.
    pub fn lately_fenced(&self, image: &Image, to_producer: bool) -> BTreeSet<BrokerId> {
        self.inner.node.contacts.lately_fenced(image, to_producer, clock::now())
    }

    /// Leads at least one partition: a clean stop waits until it does not.
    pub fn leads_any(&self) -> bool {
        self.gauges().leaders() > 0
    }

    pub fn gauges(&self) -> &Gauges {
        &self.inner.node.gauges
    }

    /// Clean close of every log; the last step before the clean-stop marker. Blocks. True: all were open, and closed
    /// well; a log that was not opened in this run may still have to be recovered in the next.
    pub fn close(&self) -> bool {
        self.inner.store_high_watermarks();
        let all = self.inner.all();
        let share = all.len().div_ceil(CLOSING_THREADS).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = all.chunks(share).map(|part| scope.spawn(|| close_all(part))).collect();
            // Every thread is joined, also after one told of trouble.
            let closed: Vec<bool> = threads.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
            closed.into_iter().all(|well| well)
        }) && *self.inner.ready.borrow()
            && self.inner.failed_opens.load(Ordering::Relaxed) == 0
    }
}

fn close_all(partitions: &[Arc<Partition>]) -> bool {
    let mut well = true;
    for partition in partitions {
        if let (_, Err(error)) = partition.stop(true) {
            tracing::error!(?partition, %error, "a log did not close cleanly");
            well = false;
        }
    }
    well
}

impl Inner {
    pub fn get(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        self.partitions.read().get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    pub fn insert(&self, partition: Arc<Partition>) {
        self.partitions.write().insert(partition.id, partition);
    }

    pub fn remove(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        self.partitions.write().remove(&id)
    }

    pub fn store_high_watermarks(&self) {
        let mut marks = self.marks_before.lock().clone();
        marks.extend(self.all().iter().map(|p| (p.id, p.high_watermark())));
        if let Err(error) = self.folder.store_high_watermarks(&marks) {
            tracing::warn!(%error, "the high watermarks were not stored");
        }
    }
}

#[cfg(test)]
mod tests;
