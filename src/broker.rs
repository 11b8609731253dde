//! Builds every room, starts them upward, stops them in reverse.
//!
//! ```text
//! start: folder lock ─→ quorum ─→ cluster port ─→ formation ─→ logs, hosted ─→ register ─→ session
//!                     ─→ replica and admin ports ─→ unfenced ─→ Kafka ports ─→ ready
//! stop:  hand over leaders ─→ close ports ─→ close logs ─→ fence self ─→ quorum ─→ clean-stop marker
//! ```
//!
//! Raft, sessions and the cluster port live on a runtime of their own (`control`), the rest on the caller's.

mod control;
mod folder;
mod node;
mod registration;
mod stopping;

pub use node::{run, run_watched};

use crate::cluster::formation::FormationError;
use crate::ids::*;
use crate::log::folder::FolderError;
use crate::metadata::quorum::StartError;
use std::io;
use std::path::PathBuf;

/// Why a node did not start, or could not go on. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("{path} is in use by another process: stop that one, or give this node a data folder of its own")]
    FolderInUse { path: PathBuf },
    #[error("{path}: {source}; check that the folder exists, is writable, and its disk is healthy")]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "the disk of {path} failed (see above): this node stops, so that replicas elsewhere take over. Replace the disk \
         and start the node again; what it held is then fetched from its peers"
    )]
    DiskFailed { path: PathBuf },
    #[error("{path} belongs to node {theirs}, this is node {mine}: correct `node_id` or `data_dir`")]
    OtherNode { path: PathBuf, theirs: BrokerId, mine: BrokerId },
    #[error("{path} cannot be read: {reason}; if the folder is lost, move it aside and the node joins again empty")]
    Identity { path: PathBuf, reason: String },
    #[error(
        "{path} was part of cluster {cluster} but holds no metadata: a node must not vote again with its votes \
         forgotten. Move the whole data folder aside; the node then joins again under a new identity"
    )]
    MetadataLost { path: PathBuf, cluster: ClusterId },
    #[error("the {listener} listener cannot bind {address}: {source}; is another process (or node) using the port?")]
    Port { listener: String, address: String, source: io::Error },
    #[error("'{address}' of the {listener} listener is not host:port with a port from 1 to 65535")]
    Address { listener: String, address: String },
    #[error(transparent)]
    Quorum(#[from] StartError),
    #[error("the metadata quorum of this node failed and cannot go on: {0}")]
    QuorumFailed(String),
    #[error(transparent)]
    Formation(#[from] FormationError),
    #[error("the partitions' folder: {0}")]
    Logs(#[from] FolderError),
    #[error("a runtime of the node could not be started: {0}")]
    Runtime(io::Error),
}
