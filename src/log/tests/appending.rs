//! What an append leaves on the disk, and what a full or broken disk leaves of an append.

use crate::ids::*;
use crate::log::checkpoint::Checkpoint;
use crate::log::flush::{FlushTask, Flushable, Flusher};
use crate::log::folder::LogFolder;
use crate::log::partition_log::{AppendError, LogConfig, PartitionLog};
use crate::log::testing::{Batch, batches_in, config, open, valid};
use crate::platform::disk;
use crate::platform::disk::faults::{Fault, Operation, arm};
use crate::platform::disk::room::Room;
use crate::records::batch::compute_crc;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use uuid::Uuid;

const ALL: Offset = Offset(i64::MAX);

fn disk_bytes(log: &PartitionLog) -> Vec<(String, u64)> {
    let names = disk::list(log.folder()).unwrap();
    names.into_iter().map(|e| (e.name.clone(), disk::len(&log.folder().join(e.name)).unwrap())).collect()
}

#[test]
fn the_leader_assigns_offsets_and_epoch_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, config());
    // As a client sends it: its offsets count from 0 in each batch.
    let sent = [Batch::at(0).records(3).bytes(), Batch::at(0).records(2).value(vec![9; 500]).bytes()].concat();
    let appended = log.append_as_leader(&valid(sent.clone()), LeaderEpoch(4), 0).unwrap();
    assert_eq!((appended.base_offset, appended.end_offset), (Offset(0), Offset(5)));
    log.append_as_leader(&valid(sent.clone()), LeaderEpoch(4), 0).unwrap();

    let read = log.reader().read(Offset(0), 1 << 20, ALL, true).unwrap().bytes;
    let batches = batches_in(&read);
    assert_eq!(batches.iter().map(|b| b.header.base_offset.0).collect::<Vec<_>>(), [0, 3, 5, 8]);
    for batch in &batches {
        assert_eq!(batch.header.leader_epoch, LeaderEpoch(4));
        assert_eq!(compute_crc(batch.of(&read)), batch.header.crc);
    }
    let twice = [sent.clone(), sent].concat();
    for (read, sent) in batches.iter().zip(batches_in(&twice)) {
        assert_eq!(read.size, sent.size);
    }
    assert_eq!(read[16..61 + 20], twice[16..61 + 20]);
    assert_eq!(log.latest_epoch(), Some((LeaderEpoch(4), Offset(0))));
    assert_eq!(log.size_bytes(), read.len() as u64);
}

#[test]
fn an_idle_log_costs_no_disk_and_a_small_one_little() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, config());
    assert_eq!(disk_bytes(&log), []);
    log.append_as_leader(&valid(Batch::at(0).bytes()), LeaderEpoch(0), 0).unwrap();
    let [(name, bytes)] = &disk_bytes(&log)[..] else { panic!("one file") };
    assert_eq!((name.as_str(), *bytes), ("00000000000000000000.log", 16 * 1024));
    log.close().unwrap();
    assert_eq!(disk_bytes(&log).iter().find(|(n, _)| n.ends_with(".log")).unwrap().1, log.size_bytes());
    assert!(matches!(log.append_as_leader(&valid(Batch::at(0).bytes()), LeaderEpoch(0), 0), Err(AppendError::Offline)));
}

#[test]
fn log_append_time_is_stamped_under_a_good_crc() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, LogConfig { log_append_time: true, ..config() });
    let sent = [Batch::at(0).records(3).bytes(), Batch::at(0).bytes()].concat();
    let appended = log.append_as_leader(&valid(sent), LeaderEpoch(0), 777_000).unwrap();
    assert_eq!(appended.log_append_time_ms, 777_000);
    let read = log.reader().read(Offset(0), 1 << 20, ALL, true).unwrap().bytes;
    for batch in batches_in(&read) {
        assert_eq!(batch.header.max_timestamp_ms, 777_000);
        assert_eq!(batch.header.attributes & 8, 8);
        assert_eq!(compute_crc(batch.of(&read)), batch.header.crc);
    }
    assert_eq!(log.reader().offset_for_time(5_000, ALL).unwrap(), Some((Offset(0), 777_000)));
}

#[test]
fn limits_are_checked_before_anything_is_written() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let limits =
        LogConfig { max_message_bytes: 200, timestamp_before_max_ms: 100, timestamp_after_max_ms: 50, ..config() };
    let mut log = open(&folder, limits);
    let mut send = |batch: Batch| log.append_as_leader(&valid(batch.bytes()), LeaderEpoch(0), 10_000);
    assert!(matches!(send(Batch::at(0).value(vec![0; 200])), Err(AppendError::TooLarge { limit: 200, .. })));
    assert!(matches!(
        send(Batch::at(0).timestamps(9_899, 0)),
        Err(AppendError::TimestampOutOfBounds { timestamp_ms: 9_899 })
    ));
    assert!(matches!(
        send(Batch::at(0).records(2).timestamps(10_000, 51)),
        Err(AppendError::TimestampOutOfBounds { timestamp_ms: 10_051 })
    ));
    send(Batch::at(0).timestamps(-1, 0)).unwrap();
    send(Batch::at(0).records(2).timestamps(9_900, 150)).unwrap();
    assert_eq!(log.log_end(), Offset(3));
}

#[test]
fn a_follower_takes_only_what_follows() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, config());
    log.restart_at(Offset(100)).unwrap();
    let mut take = |batch: Batch| log.append_as_follower(&valid(batch.bytes()), 0);
    take(Batch::at(100).epoch(3).records(5)).unwrap();
    assert!(matches!(take(Batch::at(104).epoch(3)), Err(AppendError::NotContiguous { end: Offset(105), .. })));
    assert!(matches!(take(Batch::at(106).epoch(3)), Err(AppendError::NotContiguous { .. })));
    assert!(matches!(take(Batch::at(105).epoch(2)), Err(AppendError::Invalid(_))));
    take(Batch::at(105).epoch(4)).unwrap();
    assert_eq!(log.end_of_epoch(LeaderEpoch(3)), Some((LeaderEpoch(3), Offset(105))));
    assert_eq!(log.epoch_at(Offset(105)), Some(LeaderEpoch(4)));
}

#[test]
fn a_duplicate_answers_its_original_offsets_after_a_restart_too() {
    let data = tempfile::tempdir().unwrap();
    let batch = |sequence| valid(Batch::at(0).records(2).producer(5, 1, sequence).bytes());
    for clean in [true, false] {
        let folder = LogFolder::open(data.path(), clean).unwrap();
        let mut log = open(&folder, config());
        let first = log.append_as_leader(&batch(0), LeaderEpoch(0), 0).unwrap();
        if log.log_end() < Offset(4) {
            log.append_as_leader(&batch(2), LeaderEpoch(0), 0).unwrap();
        }
        assert_eq!((first.base_offset, first.end_offset), (Offset(0), Offset(2)));
        assert!(log.append_as_leader(&batch(2), LeaderEpoch(0), 0).unwrap().duplicate);
        assert_eq!(log.log_end(), Offset(4));
        if clean {
            log.close().unwrap();
        }
    }
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, config());
    assert!(log.append_as_leader(&batch(0), LeaderEpoch(0), 0).unwrap().duplicate);
}

#[test]
fn a_full_disk_refuses_and_leaves_no_trace() {
    let two = [Batch::at(0).records(2).bytes(), Batch::at(0).bytes()].concat();
    for fits in 0..two.len() as u64 {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = open(&folder, config());
        log.append_as_leader(&valid(Batch::at(0).records(4).bytes()), LeaderEpoch(0), 0).unwrap();
        let armed = arm(data.path(), Fault::full_after(fits));
        assert!(matches!(log.append_as_leader(&valid(two.clone()), LeaderEpoch(0), 0), Err(AppendError::NoRoom)));
        assert_eq!(log.log_end(), Offset(4));
        assert_eq!(log.reader().range(), (Offset(0), Offset(4)));
        assert_eq!(batches_in(&log.reader().read(Offset(0), 1 << 20, ALL, true).unwrap().bytes).len(), 1);
        assert!(!log.is_offline());
        drop(armed);
        if fits % 2 == 0 {
            log.append_as_leader(&valid(Batch::at(0).bytes()), LeaderEpoch(0), 0).unwrap();
        }
        drop(log);
        drop(folder);
        let folder = LogFolder::open(data.path(), false).unwrap();
        let expected = Offset(if fits % 2 == 0 { 5 } else { 4 });
        assert_eq!(open(&folder, config()).log_end(), expected, "{fits} bytes did fit");
    }
}

#[test]
fn a_full_disk_at_a_roll_keeps_the_old_segment_active() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let batch = valid(Batch::at(0).value(vec![1; 100]).bytes());
    let mut log = open(&folder, LogConfig { segment_bytes: batch.bytes.len() as u64, ..config() });
    log.append_as_leader(&batch, LeaderEpoch(0), 0).unwrap();
    for operation in [Operation::Create, Operation::Write, Operation::Preallocate] {
        let full = Fault { operation, kind: io::ErrorKind::StorageFull, bytes_left: 0 };
        let armed = arm(data.path(), full);
        assert!(matches!(log.append_as_leader(&batch, LeaderEpoch(0), 0), Err(AppendError::NoRoom)));
        drop(armed);
        let end = log.log_end();
        log.append_as_leader(&batch, LeaderEpoch(0), 0).unwrap();
        assert_eq!(log.log_end(), end + 1);
    }
    drop(log);
    drop(folder);
    let folder = LogFolder::open(data.path(), false).unwrap();
    assert_eq!(open(&folder, config()).log_end(), Offset(4));
}

#[test]
fn a_broken_disk_takes_the_whole_folder_offline() {
    for operation in [Operation::Write, Operation::Sync, Operation::Preallocate] {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = open(&folder, config());
        let other_id = TopicPartition::new(TopicId(Uuid::from_u128(2)), 0);
        let mut other = folder.log(other_id, "other", config()).unwrap();
        let batch = valid(Batch::at(0).bytes());
        log.append_as_leader(&batch, LeaderEpoch(0), 0).unwrap();

        let armed = arm(data.path(), Fault::broken(operation));
        if operation == Operation::Sync {
            let task = log.begin_flush().unwrap();
            let result = task.sync();
            assert_eq!(log.end_flush(&task, &result), Offset(0));
        } else {
            let large = valid(Batch::at(0).value(vec![0; 20_000]).bytes());
            assert!(matches!(log.append_as_leader(&large, LeaderEpoch(0), 0), Err(AppendError::Disk(_))));
        }
        drop(armed);
        assert!(log.is_offline() && other.is_offline() && folder.is_offline());
        assert!(matches!(other.append_as_leader(&batch, LeaderEpoch(0), 0), Err(AppendError::Offline)));
        assert!(log.begin_flush().is_none(), "never sync again");
        assert!(log.close().is_err());
        assert_eq!(log.reader().read(Offset(0), 1 << 20, ALL, true).unwrap().bytes, batch.bytes, "reads go on");
        drop((log, other, folder));
        // Also of a disk that can sync nothing: the marker's name is enough while this boot lasts.
        let folder = LogFolder::open(data.path(), true).unwrap();
        assert!(folder.is_lossy(), "{operation:?}: the next start knows of the loss");
        drop((open(&folder, config()), folder.log(other_id, "other", config()).unwrap()));
        assert!(folder.forget_loss().unwrap());
        drop(folder);
        assert!(!LogFolder::open(data.path(), true).unwrap().is_lossy());
    }
}

/// A partition reduced to its log and the end of its flushes.
struct Flushed {
    log: Mutex<PartitionLog>,
    durable: Mutex<Offset>,
    moved: Condvar,
}

impl Flushable for Flushed {
    fn begin_flush(&self) -> Option<FlushTask> {
        self.log.lock().begin_flush()
    }
    fn end_flush(&self, task: FlushTask, result: io::Result<()>) {
        let durable = self.log.lock().end_flush(&task, &result);
        *self.durable.lock() = durable;
        self.moved.notify_all();
    }
}

#[test]
fn the_flusher_makes_logs_durable_and_drains_when_stopped() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let flusher = Flusher::start(3);
    let logs: Vec<_> = (0..10)
        .map(|i| {
            let id = TopicPartition::new(TopicId(Uuid::from_u128(1)), i);
            let log = Mutex::new(folder.log(id, "t", LogConfig { segment_bytes: 150, ..config() }).unwrap());
            Arc::new(Flushed { log, durable: Mutex::new(Offset(0)), moved: Condvar::new() })
        })
        .collect();
    for round in 1..=5 {
        for log in &logs {
            log.log.lock().append_as_leader(&valid(Batch::at(0).bytes()), LeaderEpoch(0), 0).unwrap();
            flusher.enqueue(log.clone());
        }
        if round < 5 {
            for log in &logs {
                let mut durable = log.durable.lock();
                while *durable < Offset(round) {
                    log.moved.wait(&mut durable);
                }
            }
        }
    }
    flusher.stop();
    for log in &logs {
        assert_eq!(log.log.lock().durable_end(), Offset(5));
        assert!(!log.log.lock().has_unsynced_segments());
        assert!(log.log.lock().begin_flush().is_none());
    }
}

#[test]
fn flushing_what_is_sealed_raises_the_recovery_point_and_leaves_the_active_segment_alone() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let id = TopicPartition::new(TopicId(Uuid::from_u128(1)), 0);
    let mut log = folder.log(id, "t", LogConfig { segment_bytes: 150, ..config() }).unwrap();
    let mut rolls = 0;
    while rolls < 2 {
        let appended = log.append_as_leader(&valid(Batch::at(0).bytes()), LeaderEpoch(0), 0).unwrap();
        rolls += i32::from(log.has_rolled_at(appended.base_offset));
    }
    let active = log.active().base;
    let task = log.begin_flush_of_sealed().unwrap();
    let result = task.sync();
    assert_eq!(log.end_flush(&task, &result), active);
    assert_eq!(Checkpoint::load(log.folder()).unwrap().unwrap().recovery_point, active);
    assert!(log.begin_flush_of_sealed().is_none());
    assert!(log.begin_flush().is_some(), "the rest is not durable");
}

/// What others keep of the disk is no room for logs: neither for batches, nor for what a roll writes, nor for new folders.
#[test]
fn room_that_is_kept_counts_as_full() {
    let data = tempfile::tempdir().unwrap();
    let room = Room::measured_by(|| Ok(10 << 20));
    let folder = LogFolder::open_sharing(data.path(), false, room.clone()).unwrap();
    let mut log = open(&folder, config());
    let one = valid(Batch::at(0).bytes());
    log.append_as_leader(&one, LeaderEpoch(0), 0).unwrap();
    let [mine, other] = [1, 2].map(|topic| TopicPartition::new(TopicId(Uuid::from_u128(topic)), 0));

    room.keep(10 << 20);
    assert!(matches!(log.append_as_leader(&one, LeaderEpoch(0), 0), Err(AppendError::NoRoom)));
    assert!(disk::is_full(&log.roll().unwrap_err()));
    assert!(folder.log(other, "other", config()).is_err_and(|error| error.is_passing()));
    assert!(folder.store_high_watermarks(&[(mine, Offset(1))].into()).is_err_and(|error| error.is_passing()));
    assert_eq!((log.log_end(), log.is_offline()), (Offset(1), false));
    assert_eq!(batches_in(&log.reader().read(Offset(0), 1 << 20, ALL, true).unwrap().bytes).len(), 1, "reads go on");

    room.keep(5 << 20);
    log.append_as_leader(&one, LeaderEpoch(0), 0).unwrap();
    log.roll().unwrap();
    folder.log(other, "other", config()).unwrap();
}
