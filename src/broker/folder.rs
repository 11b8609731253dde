//! The data folder: its lock, who it belongs to, and whether the last stop was clean.
//!
//! ```text
//! <data_dir>/meta.json    node id, directory id, cluster id once known
//!            metadata/    the quorum's log and snapshot
//!            partitions/  the logs
//!            clean-stop   there only between a clean stop and the next start
//! ```

use super::BrokerError;
use crate::ids::*;
use crate::platform::{disk, random};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

const IDENTITY: &str = "meta.json";
const CLEAN_STOP: &str = "clean-stop";
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    version: u32,
    node_id: BrokerId,
    directory_id: DirectoryId,
    cluster_id: Option<ClusterId>,
}

/// Held while the node runs: the lock ends with it.
pub struct DataFolder {
    path: PathBuf,
    identity: Identity,
    /// The marker was there when this process started.
    clean_stop: bool,
    _lock: disk::FolderLock,
}

impl DataFolder {
    /// Locks the folder, creating it if need be, and reads or makes its identity.
    pub fn open(path: &Path, node: BrokerId) -> Result<DataFolder, BrokerError> {
        let failed = |source| BrokerError::Folder { path: path.to_path_buf(), source };
        disk::create_dir_all_durable(path).map_err(failed)?;
        let lock = disk::FolderLock::acquire(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => BrokerError::FolderInUse { path: path.to_path_buf() },
            _ => failed(error),
        })?;
        let identity = match disk::read_file(&path.join(IDENTITY)).map_err(failed)? {
            Some(bytes) => read_identity(path, node, &bytes)?,
            None => {
                let directory_id = DirectoryId(random::uuid());
                let fresh = Identity { version: FORMAT, node_id: node, directory_id, cluster_id: None };
                write_identity(path, &fresh).map_err(failed)?;
                fresh
            }
        };
        let clean_stop = disk::read_file(&path.join(CLEAN_STOP)).map_err(failed)?.is_some();
        Ok(DataFolder { path: path.to_path_buf(), identity, clean_stop, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn metadata(&self) -> PathBuf {
        self.path.join("metadata")
    }

    pub fn directory_id(&self) -> DirectoryId {
        self.identity.directory_id
    }

    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.identity.cluster_id
    }

    pub fn was_clean(&self) -> bool {
        self.clean_stop
    }

    /// Writes down which cluster the folder belongs to. Called once the quorum holds metadata, and not before:
    /// a folder that names a cluster and has no metadata has lost it.
    pub fn remember_cluster(&mut self, cluster: ClusterId) -> Result<(), BrokerError> {
        if self.identity.cluster_id != Some(cluster) {
            self.identity.cluster_id = Some(cluster);
            write_identity(&self.path, &self.identity).map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    /// From here on a crash is an unclean stop. Durable before this process registers or opens a log.
    pub fn begin_use(&self) -> Result<(), BrokerError> {
        disk::remove_file(&self.path.join(CLEAN_STOP))
            .and_then(|()| disk::sync_dir(&self.path))
            .map_err(|source| self.failed(source))
    }

    /// The last step of a clean stop: every log is closed and on disk.
    pub fn end_use(&self) -> Result<(), BrokerError> {
        disk::write_atomic(&self.path.join(CLEAN_STOP), b"").map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> BrokerError {
        BrokerError::Folder { path: self.path.clone(), source }
    }
}

fn read_identity(path: &Path, node: BrokerId, bytes: &[u8]) -> Result<Identity, BrokerError> {
    let damaged = |reason: String| BrokerError::Identity { path: path.join(IDENTITY), reason };
    let identity: Identity = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if identity.version != FORMAT {
        return Err(damaged(format!("format {} is not known to this version of highwater", identity.version)));
    }
    if identity.node_id != node {
        return Err(BrokerError::OtherNode { path: path.to_path_buf(), theirs: identity.node_id, mine: node });
    }
    Ok(identity)
}

fn write_identity(path: &Path, identity: &Identity) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(identity).map_err(io::Error::other)?;
    disk::write_atomic(&path.join(IDENTITY), &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_outlives_the_process_and_a_wiped_folder_has_another() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let mut folder = DataFolder::open(&path, BrokerId(1)).unwrap();
        let first = folder.directory_id();
        assert!(matches!(DataFolder::open(&path, BrokerId(1)), Err(BrokerError::FolderInUse { .. })));
        let cluster = ClusterId(random::uuid());
        folder.remember_cluster(cluster).unwrap();
        drop(folder);

        let again = DataFolder::open(&path, BrokerId(1)).unwrap();
        assert_eq!((again.directory_id(), again.cluster_id()), (first, Some(cluster)));
        drop(again);
        assert!(matches!(DataFolder::open(&path, BrokerId(2)), Err(BrokerError::OtherNode { .. })));

        let other = DataFolder::open(&root.path().join("wiped"), BrokerId(1)).unwrap();
        assert_ne!(other.directory_id(), first);
    }

    #[test]
    fn only_a_clean_stop_is_clean() {
        let root = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(root.path(), BrokerId(1)).unwrap();
        assert!(!folder.was_clean(), "a new folder has nothing to trust");
        folder.begin_use().unwrap();
        folder.end_use().unwrap();
        drop(folder);
        let folder = DataFolder::open(root.path(), BrokerId(1)).unwrap();
        assert!(folder.was_clean());
        folder.begin_use().unwrap();
        drop(folder); // crashed
        assert!(!DataFolder::open(root.path(), BrokerId(1)).unwrap().was_clean());
    }

    #[test]
    fn damage_is_an_error_and_never_a_new_identity() {
        let root = tempfile::tempdir().unwrap();
        for bytes in [&b"{"[..], b"{}", br#"{"version":9,"node_id":1,"directory_id":"x","cluster_id":null}"#] {
            disk::write_atomic(&root.path().join(IDENTITY), bytes).unwrap();
            assert!(matches!(DataFolder::open(root.path(), BrokerId(1)), Err(BrokerError::Identity { .. })));
        }
    }
}
