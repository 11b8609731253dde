//! The types openraft is instantiated with, and the one place where metadata is encoded (bincode behind a version byte).

use crate::ids::{BrokerId, DirectoryId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A Raft identity: a wiped folder is a different node (KIP-853).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RaftNodeId {
    pub node: BrokerId,
    pub directory: DirectoryId,
}

impl fmt::Display for RaftNodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.directory)
    }
}
