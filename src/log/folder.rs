//! The data folder's `partitions/`: one folder per partition, named by topic, partition and topic id.
//!
//! The topic id alone says which topic it is; the name before it is for people. What is not named so is left alone.

use super::files::OpenFiles;
use super::partition_log::{Context, LogConfig, PartitionLog, ReadError, note_loss};
use super::recovery;
use super::remover::{DELETED_SUFFIX, Remover};
use super::strays::{self, Stray, Strays, StraysHeld};
use crate::ids::*;
use crate::platform::disk::room::Room;
use crate::platform::{clock, disk};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Bound on files open at once over all logs of a folder.
pub const OPEN_FILES_MAX: usize = 4096;
/// Of a topic's name so much stands in the folder's: the whole must stay below 255 bytes, set aside and then removed, too.
const TOPIC_NAME_CHARS: usize = 170;
/// What a new partition's folder takes.
const FOLDER_BYTES: u64 = 16 * 1024;
const HIGH_WATERMARK_FILE: &str = "high-watermarks";
const LOSS_MARKER: &str = ".lossy";
/// Files that are not logs: sockets, the metadata store, temporary files.
const OTHER_FILES_MIN: u64 = 1024;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path}: another process uses this data folder")]
    InUse { path: PathBuf },
    #[error("{path}: this log is open already")]
    AlreadyOpen { path: PathBuf },
}

impl FolderError {
    /// It may be gone next time, and nothing was believed that is not so: see [`disk::is_passing`].
    pub fn is_passing(&self) -> bool {
        match self {
            FolderError::Io { source, .. } => disk::is_passing(source),
            FolderError::AlreadyOpen { .. } => true,
            FolderError::Damaged { .. } | FolderError::InUse { .. } => false,
        }
    }
}

/// A partition folder found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: TopicPartition,
    pub path: PathBuf,
}

/// A folder that was set aside: where it lies now, and what it takes on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    pub path: PathBuf,
    pub bytes: u64,
}

/// Bound: open files are held in a shared least-recently-used set.
#[derive(Clone)]
pub struct LogFolder {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    clean: bool,
    lossy: bool,
    context: Arc<Context>,
    /// Names of the partition folders there are.
    names: Mutex<BTreeMap<TopicPartition, String>>,
    open: Arc<OpenLogs>,
    strays: Mutex<Strays>,
    /// Of a lossy folder: the logs whose bytes have not been compared with the disk in this run.
    unrecovered: Mutex<BTreeSet<TopicPartition>>,
    _lock: disk::FolderLock,
}

type OpenLogs = Mutex<HashSet<TopicPartition>>;

/// The right to be the one open log of a partition, given back when dropped.
pub(super) struct Claim {
    id: TopicPartition,
    open: Arc<OpenLogs>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.open.lock().remove(&self.id);
    }
}

impl LogFolder {
    /// Opens `path`/partitions, creating it if need be. `clean` tells that the last stop was clean: then logs open
    /// without recovery. Fails if another process has it open.
    pub fn open(path: &Path, clean: bool) -> Result<LogFolder, FolderError> {
        Self::open_sharing(path, clean, Room::of(path))
    }

    /// As [`LogFolder::open`], on a disk whose room is shared: logs grow only by what `room` grants.
    pub fn open_sharing(path: &Path, clean: bool, room: Arc<Room>) -> Result<LogFolder, FolderError> {
        let limit = disk::raise_open_files_limit().unwrap_or_else(|error| {
            tracing::warn!(%error, "the limit on open files cannot be raised");
            OTHER_FILES_MIN
        });
        let for_logs = limit.saturating_sub(OTHER_FILES_MIN).max(limit / 4);
        Self::open_with(path, clean, usize::try_from(for_logs).unwrap_or(usize::MAX).min(OPEN_FILES_MAX), room)
    }

    /// As [`LogFolder::open_sharing`] with a bound on open files of one's own.
    pub fn open_with(
        path: &Path,
        clean: bool,
        open_files_max: usize,
        room: Arc<Room>,
    ) -> Result<LogFolder, FolderError> {
        let path = path.join("partitions");
        let failed = |source| FolderError::Io { path: path.clone(), source };
        disk::create_dir_all_durable(&path).map_err(failed)?;
        let lock = disk::FolderLock::acquire(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => FolderError::InUse { path: path.clone() },
            _ => failed(error),
        })?;
        let loss_marker = path.join(LOSS_MARKER);
        let lossy = disk::exists(&loss_marker);
        let context = Context {
            lossy,
            files: OpenFiles::new(open_files_max, room.clone()),
            remover: Remover::start().map_err(failed)?,
            room,
            offline: AtomicBool::new(false),
            loss_marker,
        };
        let (mut names, mut strays) = (BTreeMap::new(), Strays::default());
        for entry in disk::list(&path).map_err(failed)? {
            match parse_name(&entry.name) {
                Some(id) if entry.is_folder => drop(names.insert(id, entry.name)),
                _ if entry.name.ends_with(DELETED_SUFFIX) => context.remover.remove(path.join(entry.name)),
                _ if entry.is_folder && strays::parse(&entry.name).is_some() => {
                    let since_ms = strays::parse(&entry.name).unwrap_or_default();
                    let bytes = disk::bytes_in(&path.join(&entry.name)).unwrap_or_default();
                    strays.add(entry.name, Stray { since_ms, bytes });
                }
                _ if entry.name.starts_with('.') || entry.name.starts_with(HIGH_WATERMARK_FILE) => {}
                _ => tracing::warn!(folder = %path.display(), name = entry.name, "an unknown name is left alone"),
            }
        }
        let unrecovered = Mutex::new(if lossy { names.keys().copied().collect() } else { BTreeSet::new() });
        let (names, open, strays) = (Mutex::new(names), Arc::default(), Mutex::new(strays));
        let (clean, context) = (clean && !lossy, Arc::new(context));
        let inner = Inner { path, clean, lossy, context, names, open, strays, unrecovered, _lock: lock };
        Ok(LogFolder { inner: Arc::new(inner) })
    }

    /// The partition folders on disk.
    pub fn found(&self) -> Result<Vec<Found>, FolderError> {
        let names = self.inner.names.lock();
        Ok(names.iter().map(|(id, name)| Found { id: *id, path: self.inner.path.join(name) }).collect())
    }

    /// Opens or creates one partition's log, recovering it if the last stop was not clean. There is one log of a
    /// partition at a time: the earlier one must have been dropped.
    pub fn log(&self, id: TopicPartition, topic: &str, config: LogConfig) -> Result<PartitionLog, FolderError> {
        let known = self.inner.names.lock().get(&id).cloned();
        let name = known.clone().unwrap_or_else(|| folder_name(topic, id));
        let folder: Arc<Path> = self.inner.path.join(&name).into();
        if !self.inner.open.lock().insert(id) {
            return Err(FolderError::AlreadyOpen { path: folder.to_path_buf() });
        }
        let claim = Claim { id, open: self.inner.open.clone() };

        let failed = |source| FolderError::Io { path: folder.to_path_buf(), source };
        if known.is_none() {
            self.inner.context.room.ask(FOLDER_BYTES).map_err(failed)?;
            disk::create_dir_all(&folder).map_err(failed)?;
        }
        let context = self.inner.context.clone();
        let opened = recovery::open(&folder, &context, &config, self.inner.clean, clock::wall_ms()).map_err(
            |error| match error {
                ReadError::Disk(source) => failed(source),
                other => FolderError::Damaged { path: folder.to_path_buf(), reason: other.to_string() },
            },
        )?;
        self.inner.unrecovered.lock().remove(&id);
        let mut log = PartitionLog::new(folder, context, config, opened);
        // Only now: a folder made by an attempt that failed has a name that is not durable.
        log.own_name_unsynced = known.is_none();
        self.inner.names.lock().insert(id, name);
        log._claim = Some(claim);
        Ok(log)
    }

    /// Renames a folder to `….deleted` and removes it later, off the caller's thread: of what was deleted while this
    /// node looked on. The log must have been dropped. One that is not there is no error.
    pub fn delete(&self, id: TopicPartition) -> Result<(), FolderError> {
        let Some((_, path)) = self.closed(id)? else { return Ok(()) };
        let failed = |source| FolderError::Io { path: path.clone(), source };
        self.inner.context.remover.set_aside(&path).map_err(failed)?;
        self.forget(id);
        disk::sync_dir(&self.inner.path).map_err(failed)
    }

    /// Keeps the folder of a partition that nobody knows any more for a grace time, under another name: see
    /// [`strays`]. As for [`LogFolder::delete`], the log must have been dropped. `None`: there is no such
    /// folder.
    pub fn set_aside(&self, id: TopicPartition, now_ms: i64) -> Result<Option<Aside>, FolderError> {
        let Some((name, path)) = self.closed(id)? else { return Ok(None) };
        let failed = |source| FolderError::Io { path: path.clone(), source };
        let bytes = disk::bytes_in(&path).map_err(failed)?;
        let name = strays::name_aside(&name, now_ms);
        let aside = self.inner.path.join(&name);
        disk::rename(&path, &aside).map_err(failed)?;
        self.forget(id);
        self.inner.strays.lock().add(name, Stray { since_ms: now_ms, bytes });
        disk::sync_dir(&self.inner.path).map_err(failed)?;
        Ok(Some(Aside { path: aside, bytes }))
    }

    /// Removes what was set aside at least `grace_ms` ago, off the caller's thread; below 0: nothing. A look at memory
    /// only, as long as there is nothing to remove.
    pub fn remove_old_strays(&self, now_ms: i64, grace_ms: i64) -> Vec<Aside> {
        let due = self.inner.strays.lock().due(now_ms, grace_ms);
        let mut removed = Vec::new();
        for (name, Stray { bytes, .. }) in due {
            let path = self.inner.path.join(&name);
            match self.inner.context.remover.set_aside(&path) {
                Ok(()) => {
                    self.inner.strays.lock().remove(&name);
                    removed.push(Aside { path, bytes });
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot be removed; it will be tried again")
                }
            }
        }
        removed
    }

    /// What is set aside and not removed yet.
    pub fn strays_held(&self) -> StraysHeld {
        self.inner.strays.lock().held()
    }

    /// A partition's folder, its name and path, if it is there; its log must not be open.
    fn closed(&self, id: TopicPartition) -> Result<Option<(String, PathBuf)>, FolderError> {
        let Some(name) = self.inner.names.lock().get(&id).cloned() else { return Ok(None) };
        let path = self.inner.path.join(&name);
        if self.inner.open.lock().contains(&id) {
            return Err(FolderError::AlreadyOpen { path });
        }
        Ok(Some((name, path)))
    }

    fn forget(&self, id: TopicPartition) {
        self.inner.names.lock().remove(&id);
        self.inner.unrecovered.lock().remove(&id);
    }

    /// Where the logs lie.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// A disk error has taken the whole folder offline (replication.md, rule 19).
    pub fn is_offline(&self) -> bool {
        self.inner.context.offline.load(Ordering::Relaxed)
    }

    /// An earlier run had a disk error: what it took for durable may be lost, and the registration must say so
    /// (replication.md, rules 9 and 19). Every log is recovered then.
    pub fn is_lossy(&self) -> bool {
        self.inner.lossy
    }

    /// The controller has been told of the loss, so the next start need not tell it again, if by now every log found has
    /// been recovered or deleted. Otherwise nothing is forgotten and the answer is false: the page cache may still show
    /// what a log's disk never got, and a process that ended now would leave nothing that says so.
    pub fn forget_loss(&self) -> Result<bool, FolderError> {
        if self.is_offline() || !self.inner.unrecovered.lock().is_empty() {
            return Ok(false);
        }
        let path = &self.inner.context.loss_marker;
        let failed = |source| FolderError::Io { path: path.clone(), source };
        disk::remove_file(path).and_then(|()| disk::sync_dir(&self.inner.path)).map_err(failed)?;
        if self.is_offline() {
            // The disk failed just now: what notes that may have come before the removal.
            note_loss(path).map_err(failed)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// The high-watermark checkpoint: what this node knew before it stopped. One that is damaged counts as none, with
    /// a warning: a replica without it begins at its log start and is told by the leader.
    pub fn load_high_watermarks(&self) -> Result<BTreeMap<TopicPartition, Offset>, FolderError> {
        let path = self.inner.path.join(HIGH_WATERMARK_FILE);
        let bytes = disk::read_file(&path).map_err(|source| FolderError::Io { path: path.clone(), source })?;
        Ok(bytes.map_or_else(BTreeMap::new, |bytes| {
            parse_marks(&bytes).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "the high-watermark checkpoint is damaged and is ignored");
                BTreeMap::new()
            })
        }))
    }

    pub fn store_high_watermarks(&self, marks: &BTreeMap<TopicPartition, Offset>) -> Result<(), FolderError> {
        let mut text = format!("0\n{}\n", marks.len());
        for (id, mark) in marks {
            text.push_str(&format!("{} {} {mark}\n", id.topic.0.simple(), id.partition));
        }
        let path = self.inner.path.join(HIGH_WATERMARK_FILE);
        let written = self.inner.context.room.ask(text.len() as u64);
        written
            .and_then(|()| disk::write_atomic(&path, text.as_bytes()))
            .map_err(|source| FolderError::Io { path, source })
    }

    #[cfg(test)]
    pub(super) fn context(&self) -> &Context {
        &self.inner.context
    }
}

/// "orders-3.0123456789abcdef0123456789abcdef"
fn folder_name(topic: &str, id: TopicPartition) -> String {
    // Topic names are ASCII letters, digits and ". _ -"; what a name should not have does not reach the disk.
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let shown: String = topic.chars().map(|c| if allowed(c) { c } else { '_' }).take(TOPIC_NAME_CHARS).collect();
    format!("{shown}-{}.{}", id.partition, id.topic.0.simple())
}

fn parse_name(name: &str) -> Option<TopicPartition> {
    let (shown, topic) = name.rsplit_once('.')?;
    let (_, partition) = shown.rsplit_once('-')?;
    let is_ours = topic.len() == 32 && topic.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_ours || !partition.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(TopicPartition::new(TopicId(Uuid::try_parse(topic).ok()?), partition.parse().ok()?))
}

fn parse_marks(bytes: &[u8]) -> Option<BTreeMap<TopicPartition, Offset>> {
    let mut lines = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.lines();
    if lines.next()? != "0" {
        return None;
    }
    let count: usize = lines.next()?.parse().ok()?;
    let mut marks = BTreeMap::new();
    for line in lines {
        let mut fields = line.split(' ');
        let topic = TopicId(Uuid::try_parse(fields.next()?).ok()?);
        let id = TopicPartition::new(topic, fields.next()?.parse().ok()?);
        let mark = Offset(fields.next()?.parse().ok()?);
        if mark.0 < 0 || marks.insert(id, mark).is_some() {
            return None;
        }
    }
    (marks.len() == count).then_some(marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{Batch, config, valid};

    fn id(topic: u128, partition: i32) -> TopicPartition {
        TopicPartition::new(TopicId(Uuid::from_u128(topic)), partition)
    }

    #[test]
    fn names_tell_the_partition() {
        let long = "x".repeat(249);
        for topic in ["orders", "a.b-c_d", "with-7.dots", &long] {
            let name = folder_name(topic, id(77, 3));
            assert_eq!(parse_name(&name), Some(id(77, 3)), "{name}");
            let aside = strays::name_aside(&name, 9_999_999_999_999);
            assert!(aside.len() + ".12345678.deleted".len() < 255);
            assert_eq!(parse_name(&aside), None, "what is set aside is no partition: {aside}");
        }
        assert!(folder_name("../x/y", id(1, 0)).starts_with(".._x_y-0."));
        for wrong in ["orders-3", "lost+found", "orders-3.xyz", "orders-+3.00000000000000000000000000000001", ".lock"] {
            assert_eq!(parse_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn logs_are_found_deleted_and_strangers_left_alone() {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), false).unwrap();
        assert!(matches!(LogFolder::open(data.path(), false), Err(FolderError::InUse { .. })));
        let mut log = folder.log(id(1, 0), "orders", config()).unwrap();
        assert!(matches!(folder.log(id(1, 0), "orders", config()), Err(FolderError::AlreadyOpen { .. })));
        log.append_as_leader(&valid(Batch::at(0).records(3).bytes()), LeaderEpoch(0), 0).unwrap();
        drop(folder.log(id(1, 1), "orders", config()).unwrap());
        assert!(matches!(folder.delete(id(1, 0)), Err(FolderError::AlreadyOpen { .. })));
        drop(log);
        drop(folder);

        disk::create_dir_all(&data.path().join("partitions/lost+found")).unwrap();
        let folder = LogFolder::open(data.path(), false).unwrap();
        let found: Vec<_> = folder.found().unwrap().into_iter().map(|f| f.id).collect();
        assert_eq!(found, [id(1, 0), id(1, 1)]);
        let log = folder.log(id(1, 0), "renamed", config()).unwrap();
        assert_eq!(log.log_end(), Offset(3), "the id names the folder, not the topic's name");
        drop(log);
        folder.delete(id(1, 0)).unwrap();
        folder.delete(id(9, 9)).unwrap();
        folder.context().remover.wait();
        let left: Vec<_> = disk::list(&data.path().join("partitions")).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(left, [".lock".to_string(), "lost+found".into(), folder_name("orders", id(1, 1))]);
        assert_eq!(folder.log(id(1, 0), "orders", config()).unwrap().log_end(), Offset(0));
    }

    #[test]
    fn what_nobody_knows_is_kept_for_a_grace_time_over_restarts() {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = folder.log(id(1, 0), "orders", config()).unwrap();
        log.append_as_leader(&valid(Batch::at(0).records(3).bytes()), LeaderEpoch(0), 0).unwrap();
        assert!(matches!(folder.set_aside(id(1, 0), 5_000), Err(FolderError::AlreadyOpen { .. })));
        drop(log);
        let aside = folder.set_aside(id(1, 0), 5_000).unwrap().unwrap();
        assert_eq!(folder.set_aside(id(9, 9), 5_000).unwrap(), None);
        assert!(folder.found().unwrap().is_empty(), "it counts no more");
        drop(folder);

        let folder = LogFolder::open(data.path(), false).unwrap();
        assert_eq!(folder.strays_held(), StraysHeld { folders: 1, bytes: aside.bytes });
        assert!(aside.bytes > 0 && folder.found().unwrap().is_empty());
        assert_eq!(folder.log(id(1, 0), "orders", config()).unwrap().log_end(), Offset(0), "nor is it opened");
        folder.set_aside(id(1, 0), 5_001).unwrap();
        assert_eq!(folder.remove_old_strays(5_999, 1_000), []);
        folder.context().remover.wait();
        let batch = Batch::at(0).records(3).bytes();
        let kept = disk::read_file(&aside.path.join("00000000000000000000.log")).unwrap().unwrap();
        assert_eq!(kept.len().min(batch.len()), batch.len(), "its records are there for whoever wants them");
        assert_eq!(folder.remove_old_strays(6_000, -1), []);
        assert_eq!(folder.remove_old_strays(6_000, 1_000), std::slice::from_ref(&aside));
        folder.context().remover.wait();
        assert!(!disk::exists(&aside.path));
        assert_eq!(folder.strays_held().folders, 1, "the other one's time has not come");
    }

    #[test]
    fn a_loss_is_remembered_until_every_log_is_recovered() {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), false).unwrap();
        for partition in 0..3 {
            drop(folder.log(id(1, partition), "orders", config()).unwrap());
        }
        drop(folder);
        disk::write_atomic(&data.path().join("partitions/.lossy"), b"").unwrap();

        let folder = LogFolder::open(data.path(), true).unwrap();
        drop(folder.log(id(1, 0), "orders", config()).unwrap());
        assert!(!folder.forget_loss().unwrap(), "two logs have not been looked at");
        drop(folder);

        // Killed there: the next process has as much to distrust, and to report.
        let folder = LogFolder::open(data.path(), true).unwrap();
        assert!(folder.is_lossy());
        drop(folder.log(id(1, 0), "orders", config()).unwrap());
        drop(folder.log(id(1, 1), "orders", config()).unwrap());
        folder.delete(id(1, 2)).unwrap();
        folder.context().offline.store(true, Ordering::Relaxed);
        assert!(!folder.forget_loss().unwrap(), "the disk has failed again");
        folder.context().offline.store(false, Ordering::Relaxed);
        assert!(folder.forget_loss().unwrap());
        drop(folder);
        assert!(!LogFolder::open(data.path(), true).unwrap().is_lossy());
    }

    #[test]
    fn high_watermarks_round_trip_and_damage_is_none() {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), true).unwrap();
        assert!(folder.load_high_watermarks().unwrap().is_empty());
        let marks: BTreeMap<_, _> = (0..50).map(|i| (id(i as u128 % 7, i), Offset(i64::from(i) * 1000))).collect();
        folder.store_high_watermarks(&marks).unwrap();
        assert_eq!(folder.load_high_watermarks().unwrap(), marks);
        let path = data.path().join("partitions/high-watermarks");
        let bytes = disk::read_file(&path).unwrap().unwrap();
        disk::write_atomic(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert!(folder.load_high_watermarks().unwrap().is_empty());
    }
}
