//! The Raft log, the vote and the committed index in sled, made durable on a descriptor of our own.
//!
//! ```text
//! key                        value
//! 'e' index(8) part(2)       entry, cut into parts; part 0 begins with the entry's length (4)
//! 'm' "vote" | "committed" | "purged"
//! ```
//!
//! sled's flush does not fsync on Linux, so durable means: batch applied, sled flushed, then fdatasync of `<dir>/db`. No
//! value exceeds 4 KiB, because sled moves large values into files of their own that nobody would sync.

use super::flush_time::FlushTime;
use super::folder;
use super::reserve::Reserve;
use super::types::*;
use crate::platform::{clock, disk};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Bytes of an entry in one value; with the length before part 0 a value stays below 4 KiB.
const PART_BYTES: usize = 4_000;
/// Raises sled's threshold for files of their own to 256 KiB; a leaf holds about 17 values of 4 KiB.
const SEGMENT_BYTES: usize = 1 << 20;
const CACHE_BYTES: u64 = 16 << 20;
/// How long an earlier holder's lock on the folder is waited for; a Raft core that was shut down lets go a little later.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// What sled writes for a byte that it is given, at most: pages are written anew as they fill, segments are padded.
const WRITES_PER_BYTE: u64 = 4;
/// For a vote, an index, or deletions.
const SMALL_WRITE_BYTES: u64 = 64 << 10;
/// Blocks allocated behind the end of sled's file: what takes all room between a look and a write takes not these.
const AHEAD_BYTES: u64 = 2 * SEGMENT_BYTES as u64;
/// The reserve is looked after when so much time has passed and nothing waits for the disk.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// Purged entries are deleted in pieces, so that an append never waits for a long deletion.
const PURGE_KEYS: usize = 256;
/// Bound of what waits for the disk. The Raft core waits for each write before the next, so it holds one or two.
const WAITING_MAX: usize = 64;

const VOTE: &[u8] = b"mvote";
const COMMITTED: &[u8] = b"mcommitted";
const PURGED: &[u8] = b"mpurged";

#[derive(Debug, thiserror::Error)]
pub enum LogStoreError {
    #[error(
        "the disk is full and the metadata store's reserve is used up: make room below {0} and start the node again"
    )]
    Full(PathBuf),
    #[error("the metadata folder is held by another process: {0}")]
    Locked(sled::Error),
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("entry {index}: {source}")]
    Codec { index: u64, source: CodecError },
    #[error("{what}: {source}")]
    Meta { what: &'static str, source: CodecError },
    #[error("entry {0} is incomplete on disk")]
    Torn(u64),
    #[error("the disk writer stopped after an earlier failure")]
    Stopped,
    #[error("an earlier run could not write or sync it ({0})")]
    Lossy(String),
}

/// The log store that the Raft core owns. The disk writer ends when it is dropped.
pub struct LogStore {
    dir: PathBuf,
    reader: LogReader,
    disk: SyncSender<Job>,
    reserve: Arc<Reserve>,
}

/// Reads entries beside the writer; one a replication stream.
#[derive(Clone)]
pub struct LogReader {
    db: sled::Db,
    /// The first index that is not purged. Invariant: entries below it are never read, though some may not be deleted yet.
    first: Arc<AtomicU64>,
    flushes: Arc<FlushTime>,
}

type Finish = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Makes the file's content durable: fdatasync, but for tests of slow and broken disks.
pub type SyncFile = Box<dyn FnMut(&File) -> io::Result<()> + Send>;

enum Job {
    /// Make durable all that was written before, then finish.
    Sync(Finish),
    /// Delete what lies below the first index, a piece at a time.
    Purge,
}

impl LogStore {
    /// As [`LogStore::open_with`], without a reserve.
    #[cfg(test)]
    pub fn open(dir: &Path) -> Result<LogStore, LogStoreError> {
        LogStore::open_with(dir, Reserve::none(dir), Box::new(File::sync_data))
    }

    /// Opens or creates the store in `dir`. Blocks while an earlier holder lets go of the lock. Refuses one in which an
    /// earlier run could not write or sync.
    pub fn open_with(dir: &Path, reserve: Arc<Reserve>, mut sync: SyncFile) -> Result<LogStore, LogStoreError> {
        folder::create(dir)?;
        if let Some(why) = folder::noted_loss(dir)? {
            return Err(LogStoreError::Lossy(why));
        }
        folder::remove_half_made(dir)?;
        // Recovery writes too.
        reserve.make_room(SEGMENT_BYTES as u64);
        let config =
            sled::Config::new().path(dir).segment_size(SEGMENT_BYTES).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let mut waited = Duration::ZERO;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                Err(sled::Error::Io(e)) if e.to_string().contains("could not acquire lock") => {
                    if waited >= LOCK_WAIT {
                        return Err(LogStoreError::Locked(sled::Error::Io(e)));
                    }
                    thread::sleep(LOCK_RETRY);
                    waited += LOCK_RETRY;
                }
                Err(e) => return Err(e.into()),
            }
        };
        let file = folder::open_to_sync(&dir.join("db"))?;
        // sled reads it at each open, gives up if it is torn, and never syncs it.
        let conf = folder::open_to_sync(&dir.join(folder::SLED_CONFIGURATION))?;
        let names = folder::open_folder(dir)?;
        // What a killed process wrote and did not sync is read from the page cache, and counts from here on. What cannot
        // be opened has lost nothing; what cannot be synced may have.
        let synced = [&file, &conf, &names].into_iter().try_for_each(File::sync_all);
        synced.inspect_err(|e| folder::note_loss(dir, &e.to_string()))?;
        let purged: Option<LogId> = meta(&db, "purged index", PURGED)?;
        let first = Arc::new(AtomicU64::new(purged.map_or(0, |id| id.index + 1)));
        let flushes = Arc::new(FlushTime::default());
        let reader = LogReader { db: db.clone(), first: first.clone(), flushes: flushes.clone() };
        let (disk, jobs) = sync_channel(WAITING_MAX);
        let sync: SyncFile = Box::new(move |file| flushes.measure(|| sync(file)));
        thread::Builder::new().name("raft-log".into()).spawn({
            let (reserve, dir) = (reserve.clone(), dir.to_path_buf());
            let mut writer = DiskWriter { dir, db, file, sync, first, reserve, failed: None };
            move || writer.run(&jobs)
        })?;
        let store = LogStore { dir: dir.to_path_buf(), reader, disk, reserve };
        store.send(Job::Purge)?;
        Ok(store)
    }

    fn send(&self, job: Job) -> Result<(), LogStoreError> {
        self.disk.send(job).map_err(|_| LogStoreError::Stopped)
    }

    async fn durable(&self) -> Result<(), LogStoreError> {
        let (done, wait) = oneshot::channel();
        let finish = Box::new(move |result| {
            let _ = done.send(result);
        });
        self.send(Job::Sync(finish))?;
        Ok(wait.await.map_err(|_| LogStoreError::Stopped)??)
    }

    fn put_meta<T: serde::Serialize>(&self, what: &'static str, key: &[u8], value: &T) -> Result<(), LogStoreError> {
        let bytes = encode(value, PART_BYTES).map_err(|source| LogStoreError::Meta { what, source })?;
        self.reserve.make_room(SMALL_WRITE_BYTES);
        self.wrote(self.reader.db.insert(key, bytes))?;
        Ok(())
    }

    /// sled could not write: final, but for want of room.
    fn wrote<T>(&self, result: sled::Result<T>) -> Result<T, LogStoreError> {
        result.map_err(|error| {
            note_failed_write(&self.dir, &error);
            full_or(&self.dir, error.into())
        })
    }

    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }
}

impl LogReader {
    /// How long a flush takes of late.
    pub fn flush_time(&self, now: Instant) -> Duration {
        self.flushes.now(now)
    }

    /// How long a flush takes, as far as something may wait for one just now.
    pub fn felt_flush_time(&self, now: Instant) -> Duration {
        self.flushes.felt(now)
    }

    /// Where the log ends, whether that entry is still kept or not.
    pub fn last_log_id(&self) -> Result<Option<LogId>, LogStoreError> {
        let purged: Option<LogId> = meta(&self.db, "purged index", PURGED)?;
        let Some(found) = self.db.range(key(0, 0)..key(u64::MAX, u16::MAX)).next_back() else { return Ok(purged) };
        let index = index_of(&found?.0);
        if index < self.first.load(Ordering::Acquire) {
            return Ok(purged);
        }
        let (_, entry) = self.scan(index, index + 1, usize::MAX)?.pop().ok_or(LogStoreError::Torn(index))?;
        Ok(Some(entry.log_id))
    }

    /// Entries in `start..end` that are there, with their encoded sizes; stops before `bytes_max` would be passed, but
    /// not before the first entry.
    fn scan(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<(usize, Entry)>, LogStoreError> {
        let start = start.max(self.first.load(Ordering::Acquire));
        let mut entries = Vec::new();
        let mut total = 0;
        let mut parts = self.db.range(key(start, 0)..key(end.max(start), 0));
        while let Some(part) = parts.next() {
            let (part_key, value) = part?;
            let index = index_of(&part_key);
            let (length, head) = value.split_first_chunk::<4>().ok_or(LogStoreError::Torn(index))?;
            let length = u32::from_be_bytes(*length) as usize;
            if part_key != key(index, 0) || length > ENTRY_BYTES_MAX {
                return Err(LogStoreError::Torn(index));
            }
            if !entries.is_empty() && total + length > bytes_max {
                break;
            }
            let mut bytes = Vec::with_capacity(length);
            bytes.extend_from_slice(head);
            for number in 1.. {
                if bytes.len() >= length {
                    break;
                }
                let (part_key, value) = parts.next().ok_or(LogStoreError::Torn(index))??;
                if part_key != key(index, number) || value.is_empty() {
                    return Err(LogStoreError::Torn(index));
                }
                bytes.extend_from_slice(&value);
            }
            if bytes.len() != length {
                return Err(LogStoreError::Torn(index));
            }
            let entry = decode(&bytes, ENTRY_BYTES_MAX).map_err(|source| LogStoreError::Codec { index, source })?;
            total += length;
            entries.push((length, entry));
        }
        Ok(entries)
    }
}

fn key(index: u64, part: u16) -> [u8; 11] {
    let mut key = [b'e'; 11];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> u64 {
    key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes)
}

fn meta<T: serde::de::DeserializeOwned>(
    db: &sled::Db,
    what: &'static str,
    key: &[u8],
) -> Result<Option<T>, LogStoreError> {
    let Some(bytes) = db.get(key)? else { return Ok(None) };
    decode(&bytes, PART_BYTES).map(Some).map_err(|source| LogStoreError::Meta { what, source })
}

/// A full disk takes nothing more, but it keeps what it took; any other failure may have lost what came before.
fn note_failed_write(dir: &Path, error: &sled::Error) {
    if let sled::Error::Io(io) = error
        && !disk::is_passing(io)
    {
        folder::note_loss(dir, &io.to_string());
    }
}

/// What the disk's thread owns.
///
/// After a failed sync nothing is synced again, for Linux forgets the pages that it could not write: the loss is noted
/// for later starts, all that comes later fails, the Raft core stops, and the node with it.
struct DiskWriter {
    dir: PathBuf,
    db: sled::Db,
    file: File,
    sync: SyncFile,
    first: Arc<AtomicU64>,
    reserve: Arc<Reserve>,
    /// Why nothing is written any more.
    failed: Option<String>,
}

impl DiskWriter {
    /// One flush and fdatasync for all that waits, then everyone is told; deletions in between.
    fn run(&mut self, jobs: &Receiver<Job>) {
        let mut purging = false;
        let mut tended = clock::now();
        folder::allocate_ahead(&self.file, AHEAD_BYTES / 2, AHEAD_BYTES);
        loop {
            let next = match jobs.recv_timeout(if purging { Duration::ZERO } else { TEND_EVERY }) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut waiting = Vec::new();
            for job in next.into_iter().chain(jobs.try_iter()) {
                match job {
                    Job::Sync(finish) => waiting.push(finish),
                    Job::Purge => purging = true,
                }
            }
            if !waiting.is_empty() {
                self.make_durable();
                for finish in waiting {
                    finish(self.failed.as_ref().map_or(Ok(()), |why| Err(io::Error::other(why.clone()))));
                }
            } else if purging {
                purging = self.purge();
            }
            if self.failed.is_none() && clock::now().saturating_duration_since(tended) >= TEND_EVERY {
                self.reserve.tend();
                folder::allocate_ahead(&self.file, AHEAD_BYTES / 2, AHEAD_BYTES);
                tended = clock::now();
            }
        }
    }

    /// The loss is noted before anybody hears of it: the process ends as soon as somebody does.
    fn make_durable(&mut self) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.db.flush() {
            note_failed_write(&self.dir, &error);
            self.failed = Some(full_or(&self.dir, error.into()).to_string());
        } else if let Err(error) = (self.sync)(&self.file) {
            folder::note_loss(&self.dir, &error.to_string());
            self.failed = Some(error.to_string());
        }
    }

    /// True if there may be more to delete.
    fn purge(&mut self) -> bool {
        if self.failed.is_some() {
            return false;
        }
        self.reserve.make_room(SMALL_WRITE_BYTES);
        match purge_some(&self.db, self.first.load(Ordering::Acquire)) {
            Ok(more) => more,
            Err(error) => {
                tracing::error!(%error, "purged entries of the metadata log could not be deleted");
                note_failed_write(&self.dir, &error);
                self.failed = Some(full_or(&self.dir, error.into()).to_string());
                false
            }
        }
    }
}

/// Says what to do where the error is a full disk.
fn full_or(dir: &Path, error: LogStoreError) -> LogStoreError {
    match &error {
        LogStoreError::Sled(sled::Error::Io(e)) | LogStoreError::Io(e) if disk::is_full(e) => {
            LogStoreError::Full(dir.to_path_buf())
        }
        _ => error,
    }
}

/// Deletes some keys below `first`; true if there may be more.
fn purge_some(db: &sled::Db, first: u64) -> Result<bool, sled::Error> {
    let mut batch = sled::Batch::default();
    let mut count = 0;
    for found in db.range(key(0, 0)..key(first, 0)).take(PURGE_KEYS) {
        batch.remove(found?.0);
        count += 1;
    }
    db.apply_batch(batch)?;
    Ok(count == PURGE_KEYS)
}

fn reading(e: LogStoreError) -> StorageError {
    StorageIoError::read_logs(AnyError::new(&e)).into()
}

fn writing(e: LogStoreError) -> StorageError {
    StorageIoError::write_logs(AnyError::new(&e)).into()
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => n.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(n) => n.saturating_add(1),
        Bound::Excluded(n) => *n,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn entries_of(scanned: Vec<(usize, Entry)>) -> Vec<Entry> {
    scanned.into_iter().map(|(_, entry)| entry).collect()
}

impl RaftLogReader<Types> for LogReader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let (start, end) = bounds(&range);
        self.scan(start, end, usize::MAX).map(entries_of).map_err(reading)
    }

    /// Bounds one AppendEntries by bytes; openraft bounds it by entries.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.scan(start, end, APPEND_BYTES_MAX).map(entries_of).map_err(reading)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        self.reader.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.reader.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let purged: Option<LogId> = meta(&self.reader.db, "purged index", PURGED).map_err(reading)?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: self.reader.last_log_id().map_err(reading)? })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let failed = |e| StorageError::from(StorageIoError::write_vote(AnyError::new(&e)));
        self.put_meta("vote", VOTE, vote).map_err(failed)?;
        self.durable().await.map_err(failed)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        meta(&self.reader.db, "vote", VOTE).map_err(|e| StorageIoError::read_vote(AnyError::new(&e)).into())
    }

    /// Not synced: what is lost is only learnt again from the leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.put_meta("committed index", COMMITTED, &committed).map_err(writing)
    }

    /// Never beyond the log: what of it the disk did not keep cannot be applied yet.
    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<Option<LogId>> = meta(&self.reader.db, "committed index", COMMITTED).map_err(reading)?;
        let last = self.get_log_state().await?.last_log_id;
        Ok(committed.flatten().min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut batch, mut bytes) = (sled::Batch::default(), SMALL_WRITE_BYTES);
        for entry in entries {
            bytes += add_entry(&mut batch, &entry).map_err(writing)? as u64;
        }
        self.reserve.make_room(bytes.saturating_mul(WRITES_PER_BYTE));
        // In memory, and readable from here on; the disk's thread makes it durable and then calls back.
        self.wrote(self.reader.db.apply_batch(batch)).map_err(writing)?;
        self.send(Job::Sync(Box::new(move |result| callback.log_io_completed(result)))).map_err(writing)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        for found in self.reader.db.range(key(log_id.index, 0)..key(u64::MAX, u16::MAX)) {
            batch.remove(found.map_err(|e| writing(e.into()))?.0);
        }
        self.reserve.make_room(SMALL_WRITE_BYTES);
        self.wrote(self.reader.db.apply_batch(batch)).map_err(writing)?;
        self.durable().await.map_err(writing)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.put_meta("purged index", PURGED, &log_id).map_err(writing)?;
        self.reader.first.fetch_max(log_id.index + 1, Ordering::AcqRel);
        self.send(Job::Purge).map_err(writing)
    }
}

/// Answers the entry's size in bytes.
fn add_entry(batch: &mut sled::Batch, entry: &Entry) -> Result<usize, LogStoreError> {
    let index = entry.log_id.index;
    let bytes = encode(entry, ENTRY_BYTES_MAX).map_err(|source| LogStoreError::Codec { index, source })?;
    for (number, part) in (0..).zip(bytes.chunks(PART_BYTES)) {
        if number == 0 {
            let length = u32::try_from(bytes.len()).expect("an entry is far below 4 GiB");
            batch.insert(&key(index, number), [&length.to_be_bytes(), part].concat());
        } else {
            batch.insert(&key(index, number), part);
        }
    }
    Ok(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a process leaves it that was killed while sled made the snapshot, one longer than what comes in its place too.
    #[test]
    fn a_snapshot_that_a_killed_start_left_half_made_is_no_snapshot() {
        let data = tempfile::tempdir().unwrap();
        let written =
            || LogStore::open(data.path()).and_then(|s| s.put_meta("purged index", PURGED, &LogId::default()));
        written().unwrap();
        for round in 0..3 {
            written().unwrap_or_else(|error| panic!("opened with a snapshot half made, {round}: {error}"));
            let names = disk::list(data.path()).unwrap().into_iter().map(|entry| entry.name);
            let made = names.filter(|name| name.starts_with("snap.")).max().expect("sled made one");
            for (name, length) in [("snap.FFFFFFFFFFFFFFFF".to_string(), 40), (made, 9_000)] {
                let half_made = data.path().join(format!("{name}.generating"));
                disk::write_atomic_unsynced(&half_made, &vec![1; length]).unwrap();
            }
        }
    }

    /// The first start writes it in two pieces, and dies between them.
    #[test]
    fn a_configuration_that_a_killed_start_left_half_made_is_written_anew() {
        let data = tempfile::tempdir().unwrap();
        let conf = data.path().join(folder::SLED_CONFIGURATION);
        let store = LogStore::open(data.path()).unwrap();
        store.put_meta("purged index", PURGED, &LogId::default()).unwrap();
        drop(store);
        folder::remove_half_made(data.path()).unwrap();
        let whole = disk::read_file(&conf).unwrap().expect("what is whole is left alone");
        for length in 0..whole.len() {
            disk::write_atomic_unsynced(&conf, &whole[..length]).unwrap();
            let store = LogStore::open(data.path()).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
            assert_eq!(meta(&store.reader.db, "purged index", PURGED).unwrap(), Some(LogId::default()));
            drop(store);
            assert_eq!(disk::read_file(&conf).unwrap(), Some(whole.clone()), "{length} bytes");
        }
    }

    #[test]
    fn a_failed_write_is_noted_and_a_full_disk_is_not() {
        let data = tempfile::tempdir().unwrap();
        for passing in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            note_failed_write(data.path(), &sled::Error::Io(passing.into()));
        }
        drop(LogStore::open(data.path()).unwrap());
        note_failed_write(data.path(), &sled::Error::Io(io::Error::other("the first")));
        note_failed_write(data.path(), &sled::Error::Io(io::Error::other("the second")));
        match LogStore::open(data.path()) {
            Err(LogStoreError::Lossy(why)) => assert_eq!(why, "the first"),
            other => panic!("{:?}", other.map(drop)),
        }
    }
}
