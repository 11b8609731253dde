//! Which cluster this folder belongs to, and what that lets in.

use super::folder;
use crate::ids::ClusterId;
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use tokio::sync::watch;

const FILE: &str = "cluster";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongCluster {
    #[error("{0:?} is not a cluster id")]
    Malformed(String),
    #[error("this node belongs to cluster {mine}, the other to {theirs}; check its addresses and its data folder")]
    Other { mine: ClusterId, theirs: ClusterId },
    #[error("the cluster id could not be stored: {0}")]
    NotStored(String),
}

/// The cluster id of a folder: given when the cluster is formed, else adopted from the first call of a member, which
/// must have known this folder's random directory id. Kept in a file of its own, because it is needed before the log
/// holds the command that names the cluster.
///
/// Invariant: once known it never changes.
pub struct ClusterIdentity {
    folder: PathBuf,
    known: watch::Sender<Option<ClusterId>>,
    storing: Mutex<()>,
}

impl ClusterIdentity {
    pub fn load(folder: PathBuf) -> io::Result<ClusterIdentity> {
        let known = match folder::read(&folder.join(FILE), 64)? {
            None => None,
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                Some(parse(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?)
            }
        };
        Ok(ClusterIdentity { folder, known: watch::Sender::new(known), storing: Mutex::new(()) })
    }

    pub fn get(&self) -> Option<ClusterId> {
        *self.known.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<Option<ClusterId>> {
        self.known.subscribe()
    }

    /// This node belongs to `cluster` from now on; refused if it belongs to another.
    pub fn adopt(&self, cluster: ClusterId) -> Result<(), WrongCluster> {
        let refuse_other = |known: Option<ClusterId>| match known {
            Some(mine) if mine != cluster => Err(WrongCluster::Other { mine, theirs: cluster }),
            known => Ok(known.is_some()),
        };
        if refuse_other(self.get())? {
            return Ok(());
        }
        let _one_at_a_time = self.storing.lock();
        if refuse_other(self.get())? {
            return Ok(());
        }
        folder::replace(&self.folder, FILE, &[cluster.to_string().as_bytes()])
            .map_err(|e| WrongCluster::NotStored(e.to_string()))?;
        self.known.send_replace(Some(cluster));
        Ok(())
    }

    /// As [`adopt`](Self::adopt), of the text that a message carries.
    pub fn admit(&self, claimed: &str) -> Result<(), WrongCluster> {
        self.adopt(parse(claimed)?)
    }
}

fn parse(text: &str) -> Result<ClusterId, WrongCluster> {
    let malformed = || WrongCluster::Malformed(text.chars().take(64).collect());
    let id = text.parse().map(ClusterId).map_err(|_| malformed())?;
    if id == ClusterId::default() { Err(malformed()) } else { Ok(id) }
}
