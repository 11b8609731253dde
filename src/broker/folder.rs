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
use crate::log::folder::FolderError;
use crate::platform::{disk, random};
use crate::telemetry::health::Health;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const IDENTITY: &str = "meta.json";
const CLEAN_STOP: &str = "clean-stop";
const FORMAT: u32 = 1;
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_millis(500);

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
            let known = Identity { cluster_id: Some(cluster), ..self.identity.clone() };
            write_identity(&self.path, &known).map_err(|source| self.failed(source))?;
            self.identity = known;
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

/// A full disk is waited out: by now this node may vote, and what it lacks to go on is a few bytes.
pub async fn with_room<T>(
    health: &Health,
    mut write: impl AsyncFnMut() -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    loop {
        match write().await {
            Err(BrokerError::Folder { path, source } | BrokerError::Logs(FolderError::Io { path, source }))
                if disk::is_full(&source) =>
            {
                health.starting(format!("the disk of {} is full: waiting for room", path.display()));
                tokio::time::sleep(LOOK_FOR_ROOM_EVERY).await;
            }
            done => return done,
        }
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
    use std::io::ErrorKind;

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
    fn what_could_not_be_written_is_written_when_asked_again() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = DataFolder::open(root.path(), BrokerId(1)).unwrap();
        let (cluster, identity) = (ClusterId(random::uuid()), root.path().join(IDENTITY));
        disk::remove_file(&identity).unwrap();
        disk::create_dir_all_durable(&identity.join("in the way")).unwrap();
        assert!(matches!(folder.remember_cluster(cluster), Err(BrokerError::Folder { .. })));
        assert_eq!(folder.cluster_id(), None, "it is not on disk");
        disk::remove_dir_all(&identity).unwrap();
        folder.remember_cluster(cluster).unwrap();
        drop(folder);
        assert_eq!(DataFolder::open(root.path(), BrokerId(1)).unwrap().cluster_id(), Some(cluster));
    }

    #[tokio::test]
    async fn room_is_waited_for_and_nothing_else() {
        let health = Health::default();
        let mut answers = vec![ErrorKind::NotFound, ErrorKind::QuotaExceeded, ErrorKind::StorageFull];
        let asked = with_room(&health, async || {
            let source = answers.pop().expect("asked until it fails otherwise").into();
            let path = "the/folder".into();
            Err::<(), _>(match answers.len() {
                1 => BrokerError::Logs(FolderError::Io { path, source }),
                _ => BrokerError::Folder { path, source },
            })
        });
        assert!(matches!(asked.await, Err(BrokerError::Folder { source, .. }) if source.kind() == ErrorKind::NotFound));
        let told = format!("{:?}", *health.watch().borrow());
        assert!(told.contains("the/folder") && told.contains("waiting for room"), "{told}");
        assert!(matches!(with_room(&health, async || Ok(7)).await, Ok(7)));
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
