//! The node's handle on the metadata Raft group: propose, follow, who leads.

use super::command::{Answer, Command};
use super::event::IndexedEvent;
use super::history::HistoryGone;
use super::image::Image;
use super::raft::types::RaftNodeId;
use crate::ids::*;
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
}
