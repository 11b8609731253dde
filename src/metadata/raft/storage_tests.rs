//! The log store and the state machine against openraft's own suite, and against the disk.
#![allow(clippy::disallowed_methods, reason = "looks at the folder from outside")]

use super::log_store::{LogStore, LogStoreError};
use super::reserve::Reserve;
use super::state_machine::StateMachine;
use super::types::*;
use crate::ids::*;
use crate::metadata::command::{Answer, Command};
use crate::metadata::publisher::Publisher;
use crate::platform::clock;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

struct Builder;

fn machine(folder: &Path) -> StateMachine {
    StateMachine::open(folder, Reserve::none(folder), Arc::new(Publisher::new())).unwrap()
}

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let log = LogStore::open(folder.path()).unwrap();
        let machine = machine(folder.path());
        Ok((folder, log, machine))
    }
}

#[test]
fn openrafts_own_suite() {
    Suite::test_all(Builder).unwrap();
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, RaftNodeId::from(1)), index)
}

/// An entry whose command takes about `bytes`.
fn entry(index: u64, bytes: usize) -> Entry {
    let name = (0..bytes).map(|at| char::from(b'a' + ((at as u64 * 7 + index) % 26) as u8)).collect();
    Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(Command::FinalizeFeature { name, level: (index % 100) as i16 }),
    }
}

fn blobs(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("blobs")).map_or(0, |found| found.count())
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let vote = Vote::new(3, RaftNodeId::from(2));
    {
        let mut log = LogStore::open(folder.path()).unwrap();
        log.save_vote(&vote).await.unwrap();
        let sizes = [0, 1, 3_900, 4_000, 4_100, 8_000, 100_000, COMMAND_BYTES_MAX - 100];
        log.blocking_append((0..).zip(sizes).map(|(index, bytes)| entry(index, bytes))).await.unwrap();
        log.blocking_append((8..20).map(|index| entry(index, 10))).await.unwrap();
        log.save_committed(Some(log_id(12))).await.unwrap();
        log.truncate(log_id(15)).await.unwrap();
        log.blocking_append([entry(15, 5_000)]).await.unwrap();
        log.purge(log_id(2)).await.unwrap();
    }
    let mut log = LogStore::open(folder.path()).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(12)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(2)), Some(log_id(15))));
    let entries = log.try_get_log_entries(0..).await.unwrap();
    assert_eq!(entries.iter().map(|e| e.log_id.index).collect::<Vec<_>>(), (3..=15).collect::<Vec<_>>());
    assert!(entries[4] == entry(7, COMMAND_BYTES_MAX - 100), "the largest came back whole");
    assert!(entries[12] == entry(15, 5_000), "the one after the truncation is there");
}

#[tokio::test]
async fn the_committed_index_never_points_beyond_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path()).unwrap();
    log.blocking_append([entry(0, 1), entry(1, 1)]).await.unwrap();
    log.save_committed(Some(log_id(5))).await.unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1)));
}

#[tokio::test]
async fn large_entries_make_no_files_that_nobody_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path()).unwrap();
    for round in 0..8 {
        let batch = (round * 5..round * 5 + 5).map(|index| entry(index, COMMAND_BYTES_MAX - 100));
        log.blocking_append(batch).await.unwrap();
    }
    log.truncate(log_id(30)).await.unwrap();
    log.purge(log_id(20)).await.unwrap();
    log.blocking_append((30..50).map(|index| entry(index, 50_000))).await.unwrap();
    assert_eq!(blobs(folder.path()), 0);
    drop(log);
    let mut log = LogStore::open(folder.path()).unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 29);
    assert_eq!(blobs(folder.path()), 0);
}

#[tokio::test]
async fn one_append_is_bounded_by_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path()).unwrap();
    log.blocking_append((0..20).map(|index| entry(index, COMMAND_BYTES_MAX - 100))).await.unwrap();
    let first = log.limited_get_log_entries(0, 20).await.unwrap();
    assert_eq!(first.len(), 4, "four of 256 KiB are just below 1 MiB");
    let size: u64 = first.iter().map(|e| encoded_size(e).unwrap()).sum();
    assert!(size <= APPEND_BYTES_MAX as u64);
    assert_eq!(log.limited_get_log_entries(19, 20).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_damaged_log_is_an_error_not_a_shorter_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path()).unwrap();
    log.blocking_append((0..3).map(|index| entry(index, 10_000))).await.unwrap();
    drop(log);
    let damage = |change: &dyn Fn(&sled::Db)| {
        let deadline = clock::now() + Duration::from_secs(10);
        let db = loop {
            // The lock is released when the disk's thread has ended.
            match sled::Config::new().path(folder.path()).segment_size(1 << 20).open() {
                Ok(db) => break db,
                Err(e) => assert!(clock::now() < deadline, "{e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        change(&db);
        db.flush().unwrap();
    };
    let part = |index: u64, part: u16| [&b"e"[..], &index.to_be_bytes(), &part.to_be_bytes()].concat();
    damage(&|db| {
        db.remove(part(1, 1)).unwrap().unwrap();
    });
    let mut log = LogStore::open(folder.path()).unwrap();
    assert_eq!(log.try_get_log_entries(0..1).await.unwrap().len(), 1);
    assert!(log.try_get_log_entries(0..3).await.is_err(), "a part is missing");
    drop(log);
    damage(&|db| {
        db.insert(b"mpurged", &[7u8][..]).unwrap();
    });
    assert!(matches!(LogStore::open(folder.path()), Err(LogStoreError::Meta { .. })));
}

#[tokio::test]
async fn the_state_machine_returns_to_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = machine(folder.path());
    let answers = first.apply((1..=3).map(|index| entry(index, 5))).await.unwrap();
    assert_eq!(answers, vec![Answer::Done; 3]);
    let mut builder = first.get_snapshot_builder().await;
    first.apply([entry(4, 5)]).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(3)), "as it was when the builder was made");
    drop(first);

    let publisher = Arc::new(Publisher::new());
    let mut updates = publisher.subscribe();
    let mut second = StateMachine::open(folder.path(), Reserve::none(folder.path()), publisher.clone()).unwrap();
    assert_eq!(second.applied_state().await.unwrap().0, Some(log_id(3)));
    assert!(updates.try_recv().unwrap().resync, "a snapshot tells no events");
    assert_eq!(publisher.image().features.len(), 3);
    assert!(publisher.events_since(RaftIndex(0)).is_err(), "what led to a snapshot is gone");

    second.apply([entry(4, 5)]).await.unwrap();
    let update = updates.try_recv().unwrap();
    assert_eq!((update.events.len(), update.resync, update.image.index), (1, false, RaftIndex(4)));
    assert_eq!(publisher.events_since(RaftIndex(3)).map(|e| e.len()), Ok(1));
}
