//! One partition's log: the single owner of its segments, epochs and producer state.

pub use super::patch::Patched;
pub use super::read::{Chunk, LogReader};
pub use super::scrub::{Checked, Cursor, Damage};
pub use super::truncation::CutError;

use super::checkpoint::{Checkpoint, Content};
use super::epochs::Epochs;
use super::files::OpenFiles;
use super::flush::{FlushTask, Sealed, parent_of};
use super::folder::Claim;
use super::patch::Patches;
use super::producer_snapshot;
use super::producers::Producers;
use super::read::{Published, View};
use super::remover::Remover;
use super::segment::{Segment, file_name};
use crate::ids::*;
use crate::platform::disk::room::Room;
use crate::platform::disk::{self, File};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the topic's config says about its log. Times in milliseconds, sizes in bytes; −1 means without limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    /// Nothing is compacted yet, and retention looks at `delete` alone.
    pub compact: bool,
    pub delete: bool,
    pub index_interval_bytes: u32,
    pub max_message_bytes: u32,
    pub log_append_time: bool,
    /// Bounds of a record's timestamp around now (message.timestamp.before/after.max.ms).
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub producer_id_expiration_ms: i64,
}

/// What an append placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// One past the last record.
    pub end_offset: Offset,
    /// Set where the topic's timestamp type is LogAppendTime, else −1.
    pub log_append_time_ms: i64,
    /// The batch was a retry of one that is in the log: `base_offset` and `end_offset` are the original's.
    pub duplicate: bool,
}

/// Why the log refused an append. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Invalid(#[from] crate::records::RecordError),
    #[error("a batch of {size} bytes is over max.message.bytes = {limit}")]
    TooLarge { size: usize, limit: u32 },
    #[error("a record's timestamp {timestamp_ms} is out of the topic's bounds")]
    TimestampOutOfBounds { timestamp_ms: i64 },
    #[error("producer {producer} sent sequence {given}, expected {expected}")]
    OutOfOrderSequence { producer: ProducerId, given: i32, expected: i32 },
    #[error("producer {producer} sent epoch {given}, the current one is {current}")]
    InvalidProducerEpoch { producer: ProducerId, given: ProducerEpoch, current: ProducerEpoch },
    #[error("producer {0} has no state here and its sequence does not start at 0")]
    UnknownProducer(ProducerId),
    #[error("a follower's batch starts at {given}, the log ends at {end}")]
    NotContiguous { given: Offset, end: Offset },
    /// It passes ([`disk::is_passing`]): the log is intact, reads go on (invariant 8).
    #[error("there is no room for it now (the disk is full, or too many files are open)")]
    NoRoom,
    /// The first failed write is final for the folder (replication.md, rule 19).
    #[error("the disk failed: {0}")]
    Disk(io::Error),
    #[error("this log went offline after a disk error; see the node's log")]
    Offline,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {asked} is outside {start}..={end}")]
    OutOfRange { asked: Offset, start: Offset, end: Offset },
    #[error("the disk failed: {0}")]
    Disk(#[from] io::Error),
    #[error("the log holds damaged bytes: {0}")]
    Damaged(String),
}

/// What the logs of one data folder share.
pub(super) struct Context {
    pub files: Arc<OpenFiles>,
    pub remover: Remover,
    /// Asked before a log grows: some room is kept for the metadata store.
    pub room: Arc<Room>,
    /// Set by the first disk error of any log: the whole folder is lost to writes (replication.md, rule 19).
    pub offline: AtomicBool,
    /// An earlier run had a disk error: what the page cache has may never have reached the disk.
    pub lossy: bool,
    /// Made when the folder goes offline, so that the next start knows.
    pub loss_marker: PathBuf,
}

/// The active segment as its writer sees it.
#[derive(Default)]
pub(super) struct Writer {
    /// Held while bytes are not durable, so that a failed write-back is sure to be told.
    pub file: Option<Arc<File>>,
    /// The file's blocks are reserved up to here.
    pub reserved: u64,
    /// Bytes since the last index row.
    pub since_index: u64,
    /// When the segment got its first batch, by this node's clock.
    pub first_ms: Option<i64>,
}

/// Invariant: log_start ≤ log_end; bytes past log_end are never read back.
/// Invariant: `segments` is never empty, its bases rise, and the last one is active.
/// Invariant: durable_end ≤ log_end.
pub struct PartitionLog {
    pub(super) folder: Arc<Path>,
    pub(super) context: Arc<Context>,
    pub(super) config: LogConfig,
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) writer: Writer,
    pub(super) log_start: Offset,
    pub(super) log_end: Offset,
    pub(super) durable_end: Offset,
    pub(super) bytes: u64,
    pub(super) epochs: Epochs,
    pub(super) producers: Producers,
    /// Offsets for which there is a producer snapshot.
    pub(super) snapshots: BTreeSet<Offset>,
    pub(super) published: Arc<Published>,
    pub(super) checkpoint: Arc<Checkpoint>,
    /// Bumped by each truncation.
    pub(super) generation: u64,
    /// Sealed segments whose bytes may not be durable.
    pub(super) unsynced: Vec<Arc<Segment>>,
    /// Counts files made in the log's folder, and those whose names are durable.
    pub(super) names_made: u64,
    pub(super) names_synced: u64,
    /// The folder's own name may not be durable.
    pub(super) own_name_unsynced: bool,
    pub(super) offline: bool,
    /// The first damage known.
    pub(super) damage: Option<Damage>,
    pub(super) patches: Patches,
    /// Lets the folder open the log again once this is dropped.
    pub(super) _claim: Option<Claim>,
}

/// What opening a log found, or recovery made.
pub(super) struct Opened {
    pub segments: Vec<Arc<Segment>>,
    pub log_start: Offset,
    pub log_end: Offset,
    pub epochs: Epochs,
    pub producers: Producers,
    pub snapshots: BTreeSet<Offset>,
    pub checkpoint: Content,
    /// Noted by an earlier run, or found and cut by this recovery.
    pub damage: Option<Damage>,
}

impl PartitionLog {
    pub(super) fn new(folder: Arc<Path>, context: Arc<Context>, config: LogConfig, opened: Opened) -> PartitionLog {
        let Opened { segments, log_start, log_end, epochs, producers, snapshots, checkpoint, damage } = opened;
        assert!(log_start <= log_end && !segments.is_empty(), "an opened log is in order");
        let view = View { segments: segments.clone(), log_start, epochs: epochs.clone() };
        let active_bytes = segments.last().map_or(0, |s| s.size());
        // A segment found with batches ages from its last write: better late than too early.
        let first_ms = segments.last().filter(|s| s.size() > 0).and_then(|s| disk::modified_ms(&s.log.path()).ok());
        PartitionLog {
            published: Arc::new(Published::new(view, log_end)),
            checkpoint: Arc::new(Checkpoint::new(folder.clone(), checkpoint)),
            writer: Writer { reserved: active_bytes, first_ms, ..Writer::default() },
            bytes: segments.iter().map(|s| s.size()).sum(),
            folder,
            context,
            config,
            segments,
            log_start,
            log_end,
            durable_end: log_end,
            epochs,
            producers,
            snapshots,
            generation: 0,
            unsynced: Vec::new(),
            names_made: 0,
            names_synced: 0,
            own_name_unsynced: false,
            offline: false,
            damage,
            patches: Patches::default(),
            _claim: None,
        }
    }

    pub fn log_start(&self) -> Offset {
        self.log_start
    }
    pub fn log_end(&self) -> Offset {
        self.log_end
    }
    /// Everything below is on disk (fdatasync'ed).
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }
    /// Bytes of batches in all segments; index files and preallocation are not counted.
    pub fn size_bytes(&self) -> u64 {
        self.bytes
    }
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.published.clone())
    }
    pub fn config(&self) -> &LogConfig {
        &self.config
    }
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }
    /// Where the log lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The newest epoch in the log and its start, if any.
    pub fn latest_epoch(&self) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.latest()
    }

    /// Notes that `epoch` starts at the current end (a new leader, before its first append). Costs no disk access, so
    /// that a failover of many partitions is quick: a crash may forget an epoch without records, which no other replica
    /// can have either, and finds one with records again in their headers (see `epochs`).
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) -> io::Result<()> {
        if self.epochs.latest().is_some_and(|(latest, _)| latest > epoch) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("epoch {epoch} cannot begin: the log holds a newer one"),
            ));
        }
        self.epochs.assign(epoch, self.log_end);
        Ok(())
    }

    /// KIP-101/279: the largest epoch ≤ `epoch` in the log, and the offset where it ends. As Kafka answers: `None` for
    /// an epoch newer than the latest; for one older than all known, the epoch asked and the first known one's start.
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_of(epoch, self.log_end)
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.at(offset)
    }

    /// Starts a flush: the files to fdatasync, outside any lock. `None` if all is durable, or the log is offline.
    pub fn begin_flush(&mut self) -> Option<FlushTask> {
        let is_durable = self.durable_end == self.log_end && self.unsynced.is_empty() && !self.has_unsynced_patches();
        if self.is_offline() || is_durable {
            return None;
        }
        let task = self.flush_task(true);
        self.unless_failed(task)
    }

    /// As [`PartitionLog::begin_flush`], of the sealed segments and of filled damage alone: where nobody waits for flushes (page-cache topics)
    /// it bounds what a recovery has to look at.
    pub fn begin_flush_of_sealed(&mut self) -> Option<FlushTask> {
        if self.is_offline() || (self.unsynced.is_empty() && !self.has_unsynced_patches()) {
            return None;
        }
        let task = self.flush_task(false);
        self.unless_failed(task)
    }

    fn unless_failed(&mut self, task: io::Result<FlushTask>) -> Option<FlushTask> {
        task.inspect_err(|error| self.fail(error)).ok()
    }

    fn flush_task(&mut self, with_active: bool) -> io::Result<FlushTask> {
        let mut files = Vec::with_capacity(1 + self.unsynced.len());
        for segment in &self.unsynced {
            files.push(segment.log.get()?);
        }
        files.extend(self.patches.files.iter().cloned());
        let mut end = self.active().base;
        if with_active {
            match &self.writer.file {
                Some(file) => files.push(file.clone()),
                None if self.active().size() > 0 => files.push(self.active().log.get()?),
                None => {}
            }
            end = self.log_end;
        }
        let mut folders = Vec::new();
        if self.names_made > self.names_synced {
            folders.push(self.folder.to_path_buf());
        }
        if self.own_name_unsynced {
            folders.extend(parent_of(&self.folder));
        }
        let sealed = (!self.unsynced.is_empty()).then(|| Sealed {
            segments: self.unsynced.clone(),
            beside: self.unsynced.iter().flat_map(|s| self.files_beside(s)).collect(),
            checkpoint: self.checkpoint.clone(),
            recovery_point: self.active().base,
            epochs: self.epochs.clone(),
        });
        let (generation, names, patches) = (self.generation, self.names_made, self.patches.made);
        Ok(FlushTask { end, generation, files, folders, names, patches, sealed })
    }

    /// What must be durable with a sealed segment: its indexes, and the snapshot where it ends.
    fn files_beside(&self, segment: &Segment) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> =
            ["index", "timeindex"].iter().map(|e| self.folder.join(file_name(segment.base, e))).collect();
        let next = self.snapshots.range(segment.base + 1..).next();
        paths.extend(next.map(|offset| self.snapshot_path(*offset)));
        paths
    }

    /// Ends a flush; raises the durable end unless a truncation came between (then the generation differs).
    /// Returns the durable end. An error takes the log offline for ever (replication.md, rule 19), ENOSPC too: a failed
    /// fdatasync may have lost what it could not write. Only what could not be opened for a reason that passes is left to
    /// the next flush: nothing was written or synced in vain.
    pub fn end_flush(&mut self, task: &FlushTask, result: &io::Result<()>) -> Offset {
        if let Err(error) = result {
            if !(disk::is_unopened(error) && disk::is_passing(error)) {
                self.go_offline(error);
            }
            return self.durable_end;
        }
        if !self.is_offline() {
            self.patches_synced(task.patches);
        }
        if task.generation == self.generation && !self.is_offline() {
            self.durable_end = self.durable_end.max(task.end);
            if let Some(sealed) = &task.sealed {
                self.unsynced.retain(|s| !sealed.segments.iter().any(|done| Arc::ptr_eq(s, done)));
            }
            if !task.folders.is_empty() {
                self.own_name_unsynced = false;
            }
            self.names_synced = self.names_synced.max(task.names);
            if self.durable_end == self.log_end {
                self.writer.file = None;
            }
        }
        assert!(self.durable_end <= self.log_end, "nothing past the log's end is durable");
        self.durable_end
    }

    /// Sealed segments wait for a flush. Where nobody waits for flushes (page-cache topics), enqueue the log when this
    /// says so.
    pub fn has_unsynced_segments(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// The same, right after an append that began at `base`, and true only if that one rolled: a flush under way is not
    /// asked for again by each append.
    pub fn has_rolled_at(&self, base: Offset) -> bool {
        self.active().base == base && self.has_unsynced_segments()
    }

    pub fn is_offline(&self) -> bool {
        self.offline || self.context.offline.load(Ordering::Relaxed)
    }

    /// Clean close: flush, trim, write producer snapshot and the recovery point. The log takes no appends after it.
    pub fn close(&mut self) -> io::Result<()> {
        if self.is_offline() {
            return Err(io::Error::other("the log is offline after a disk error"));
        }
        let closed = self.write_all();
        if let Err(error) = &closed {
            tracing::warn!(folder = %self.folder.display(), %error, "the log was not closed cleanly");
        }
        self.offline = true;
        closed
    }

    fn write_all(&mut self) -> io::Result<()> {
        let active = self.active().clone();
        if self.writer.reserved > active.size() {
            active.log.get()?.set_len(active.size())?;
            self.writer.reserved = active.size();
        }
        while let Some(task) = self.begin_flush() {
            let result = task.sync();
            self.end_flush(&task, &result);
            result?;
        }
        self.writer.file = None;
        let has_producers = !self.producers.is_empty();
        let content = Content { recovery_point: self.log_end, log_start: self.log_start, has_producers };
        let untouched = self.checkpoint.recovery_point() == self.log_end && !has_producers;
        if untouched || (self.log_end == Offset::ZERO && self.bytes == 0) {
            // An idle partition costs a clean stop nothing.
            return Ok(());
        }
        for index in active.write_indexes()? {
            index.sync_data()?;
        }
        if has_producers {
            self.write_snapshot(self.log_end, true)?;
            self.remove_snapshots_of_earlier_closes();
        }
        self.checkpoint.replace(self.generation, content, &self.epochs)
    }

    pub(super) fn write_snapshot(&mut self, offset: Offset, durable: bool) -> io::Result<()> {
        let (path, bytes) = (self.snapshot_path(offset), producer_snapshot::encode(&self.producers));
        self.context.room.ask(bytes.len() as u64)?;
        match durable {
            true => disk::write_atomic(&path, &bytes)?,
            false => disk::write_atomic_unsynced(&path, &bytes)?,
        }
        self.snapshots.insert(offset);
        Ok(())
    }

    /// Keeps the snapshots where segments begin: they suffice to rebuild from.
    fn remove_snapshots_of_earlier_closes(&mut self) {
        let is_base = |offset: &Offset| self.segments.binary_search_by_key(offset, |s| s.base).is_ok();
        let earlier: Vec<Offset> = self.snapshots.range(..self.log_end).filter(|o| !is_base(o)).copied().collect();
        self.remove_snapshots(&earlier);
    }

    /// A snapshot that cannot be removed is only room wasted: recovery removes or ignores what it cannot trust.
    pub(super) fn remove_snapshots(&mut self, offsets: &[Offset]) {
        for offset in offsets {
            self.snapshots.remove(offset);
            if let Err(error) = disk::remove_file(&self.snapshot_path(*offset)) {
                tracing::warn!(folder = %self.folder.display(), %error, "a producer snapshot was not removed");
            }
        }
    }

    pub(super) fn snapshot_path(&self, offset: Offset) -> PathBuf {
        self.folder.join(file_name(offset, "snapshot"))
    }

    pub(super) fn active(&self) -> &Arc<Segment> {
        self.segments.last().expect("a log has an active segment")
    }

    pub(super) fn publish_view(&self) {
        let (segments, epochs) = (self.segments.clone(), self.epochs.clone());
        self.published.publish_view(View { segments, log_start: self.log_start, epochs });
    }

    /// A disk error is final, unless it passes: a full disk, too many open files.
    pub(super) fn fail(&mut self, error: &io::Error) {
        if !disk::is_passing(error) {
            self.go_offline(error);
        }
    }

    pub(super) fn go_offline(&mut self, error: &io::Error) {
        if !self.is_offline() {
            tracing::error!(
                folder = %self.folder.display(), %error,
                "a disk error is final: the data folder goes offline; replace the disk and restart the node"
            );
        }
        self.offline = true;
        self.context.go_offline();
    }
}

impl Context {
    /// The first disk error of any log: nothing below this folder is written or synced any more, and the next start is
    /// told (replication.md, rule 19).
    pub fn go_offline(&self) {
        if !self.offline.swap(true, Ordering::Relaxed)
            && let Err(error) = note_loss(&self.loss_marker)
        {
            tracing::error!(path = %self.loss_marker.display(), %error, "the loss could not be noted");
        }
    }
}

/// On a disk that can sync nothing more the name alone is noted: it is needed only while this boot's page cache shows
/// what the disk may not hold. After another boot what was counted as synced is all there is, and it was synced.
pub(super) fn note_loss(marker: &Path) -> io::Result<()> {
    disk::write_atomic(marker, b"a disk error may have lost writes\n")
        .or_else(|_| disk::File::open_or_create(marker).map(drop))
}

/// The log has one owner: it is moved, never shared.
const _: fn() = || {
    fn owned<T: Send>() {}
    owned::<PartitionLog>();
};
