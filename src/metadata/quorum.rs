//! The node's handle on the metadata Raft group: propose, follow, who leads.

use super::command::{Answer, Command};
use super::event::IndexedEvent;
use super::history::HistoryGone;
use super::image::Image;
use super::raft::proto::{RaftMessage, raft_server};
use super::raft::types::RaftNodeId;
use crate::ids::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// A new image and what led to it. Missing some (a lagged receiver, an installed snapshot) means: compare with the
/// whole image once (`resync`).
#[derive(Clone)]
pub struct Update {
    pub image: Arc<Image>,
    pub events: Arc<[IndexedEvent]>,
    /// A snapshot was installed: `events` does not tell all that changed.
    pub resync: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Leadership {
    pub leader: Option<RaftNodeId>,
    pub term: u64,
    /// This node leads *and* has applied everything of earlier terms: it may act as the controller.
    pub is_controller: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error("this node is not the controller; the leader is {0:?}")]
    NotController(Option<RaftNodeId>),
    #[error("not committed within {0:?}; the outcome is unknown")]
    Unknown(Duration),
    #[error("a command of {bytes} bytes is above the bound of {bound}; split it")]
    TooLarge { bytes: u64, bound: usize },
    #[error("the Raft core stopped: {0}")]
    Fatal(String),
}

/// One voter or learner as the quorum's leader sees it.
#[derive(Clone, Debug)]
pub struct QuorumMember {
    pub node: RaftNodeId,
    pub address: String,
    pub voter: bool,
    /// Known on the leader only.
    pub matched: Option<RaftIndex>,
}

#[derive(Clone, Debug, Default)]
pub struct QuorumStatus {
    pub leadership: Leadership,
    pub members: Vec<QuorumMember>,
    pub last_log_index: RaftIndex,
    pub committed: RaftIndex,
    pub applied: RaftIndex,
    pub snapshot: RaftIndex,
}

/// Cheap to clone; all clones speak for the same Raft core, which runs on a runtime of its own.
#[derive(Clone)]
pub struct Quorum {}

impl Quorum {
    /// The newest applied image.
    pub fn image(&self) -> Arc<Image> {
        todo!()
    }

    /// Updates from now on; take `image()` after subscribing.
    pub fn subscribe(&self) -> broadcast::Receiver<Update> {
        todo!()
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        todo!()
    }

    /// Events after `index`, from the kept history.
    pub fn events_since(&self, index: RaftIndex) -> Result<Vec<IndexedEvent>, HistoryGone> {
        let _ = index;
        todo!()
    }

    /// Commits a command; only the controller can. Returns its index and answer once applied here.
    pub async fn propose(&self, command: Command, timeout: Duration) -> Result<(RaftIndex, Answer), ProposeError> {
        let _ = (command, timeout);
        todo!()
    }

    /// Waits until this node's image has applied `index`; false at the deadline.
    pub async fn await_applied(&self, index: RaftIndex, timeout: Duration) -> bool {
        let _ = (index, timeout);
        todo!()
    }

    pub fn status(&self) -> QuorumStatus {
        todo!()
    }

    pub async fn start(config: QuorumConfig) -> Result<(Quorum, RaftService), StartError> {
        let _ = config;
        todo!()
    }
    /// The cluster this node belongs to, as soon as it is known: before the image carries it.
    pub fn cluster_id(&self) -> watch::Receiver<Option<ClusterId>> {
        todo!()
    }
    pub async fn is_initialized(&self) -> Result<bool, MembershipError> {
        todo!()
    }
    pub async fn initialize(
        &self,
        cluster_id: ClusterId,
        members: BTreeMap<RaftNodeId, String>,
    ) -> Result<(), MembershipError> {
        let _ = (cluster_id, members);
        todo!()
    }
    pub async fn add_learner(&self, node: RaftNodeId, address: String) -> Result<(), MembershipError> {
        let _ = (node, address);
        todo!()
    }
    pub async fn set_address(&self, node: RaftNodeId, address: String) -> Result<(), MembershipError> {
        let _ = (node, address);
        todo!()
    }
    pub async fn remove_learner(&self, node: RaftNodeId) -> Result<(), MembershipError> {
        let _ = node;
        todo!()
    }
    pub async fn replace_voter(&self, old: RaftNodeId, new: RaftNodeId) -> Result<(), MembershipError> {
        let _ = (old, new);
        todo!()
    }
    /// Resolves when the Raft core has failed for good.
    pub async fn fatal(&self) -> String {
        todo!()
    }
    pub async fn shutdown(&self) {
        todo!()
    }
    /// On the leader: how long ago a majority last answered it.
    pub fn quorum_ack_age(&self) -> Option<Duration> {
        todo!()
    }
}

#[derive(Clone, Debug)]
pub struct QuorumConfig {
    pub dir: PathBuf,
    pub me: RaftNodeId,
    pub cluster_id: Option<ClusterId>,
    pub rank: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MembershipError(pub String);

#[derive(Clone)]
pub struct RaftService;

impl RaftService {
    pub fn server(&self) -> raft_server::RaftServer<RaftService> {
        raft_server::RaftServer::new(self.clone())
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append(&self, _: tonic::Request<RaftMessage>) -> Result<tonic::Response<RaftMessage>, tonic::Status> {
        todo!()
    }
    async fn vote(&self, _: tonic::Request<RaftMessage>) -> Result<tonic::Response<RaftMessage>, tonic::Status> {
        todo!()
    }
    async fn install_snapshot(
        &self,
        _: tonic::Request<RaftMessage>,
    ) -> Result<tonic::Response<RaftMessage>, tonic::Status> {
        todo!()
    }
}
