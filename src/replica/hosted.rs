//! The partitions hosted here, following the image by deltas.

use super::partition::Partition;
use crate::ids::*;
use crate::log::flush::Flusher;
use crate::log::folder::LogFolder;
use crate::metadata::intent::ControllerChannel;
use crate::metadata::quorum::Quorum;
use std::sync::Arc;

/// What `Hosted` needs from the rest of the house.
pub struct HostedParts {
    pub broker: BrokerId,
    pub quorum: Quorum,
    pub folder: LogFolder,
    pub flusher: Flusher,
    pub controller: Arc<dyn ControllerChannel>,
    pub config: super::follower::ReplicaConfig,
}

/// Told after a partition's leadership changed here: group coordinators load and unload by it.
pub trait LeadershipListener: Send + Sync + 'static {
    fn became_leader(&self, partition: &Arc<Partition>, topic: &str, epoch: LeaderEpoch);
    /// Stopped leading (or the partition is gone).
    fn resigned(&self, partition: TopicPartition, topic: &str);
}

#[derive(Clone)]
pub struct Hosted {}

impl Hosted {
    pub fn new(parts: HostedParts) -> Hosted {
        let _ = parts;
        todo!()
    }
    pub fn add_listener(&self, listener: Arc<dyn LeadershipListener>) {
        let _ = listener;
        todo!()
    }
    /// The broker epoch of this process's registration; fetches and proposals carry it. Set before `run`.
    pub fn set_broker_epoch(&self, epoch: BrokerEpoch) {
        let _ = epoch;
        todo!()
    }
    /// Follows the image until told to stop: opens logs, becomes leader or follower, drops what was deleted,
    /// proposes ISR changes, applies retention, checkpoints high watermarks.
    pub async fn run(&self, stop: tokio::sync::watch::Receiver<bool>) {
        let _ = stop;
        todo!()
    }
    pub fn get(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        let _ = id;
        todo!()
    }
    pub fn all(&self) -> Vec<Arc<Partition>> {
        todo!()
    }
    /// Clean close of every log; the last step before the clean-stop marker.
    pub fn close(&self) {
        todo!()
    }
}
