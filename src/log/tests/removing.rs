//! Truncation, restart, log start and retention.

use crate::ids::*;
use crate::log::folder::LogFolder;
use crate::log::partition_log::{LogConfig, PartitionLog};
use crate::log::testing::{Batch, batches_in, config, open, valid};
use crate::platform::disk;

const ALL: Offset = Offset(i64::MAX);

fn flush(log: &mut PartitionLog) -> Offset {
    match log.begin_flush() {
        Some(task) => {
            let result = task.sync();
            log.end_flush(&task, &result)
        }
        None => log.durable_end(),
    }
}

fn append(log: &mut PartitionLog, batch: Batch, epoch: i32) {
    log.append_as_leader(&valid(batch.bytes()), LeaderEpoch(epoch), 0).unwrap();
}

#[test]
fn a_flush_begun_before_a_truncation_raises_nothing() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, config());
    append(&mut log, Batch::at(0).records(10), 0);
    assert_eq!(flush(&mut log), Offset(10));
    append(&mut log, Batch::at(0).records(10), 0);
    append(&mut log, Batch::at(0).records(10), 0);
    let task = log.begin_flush().unwrap();
    assert_eq!(task.end, Offset(30));
    log.truncate_to(Offset(20)).unwrap();
    append(&mut log, Batch::at(0).records(10), 1);
    let result = task.sync();
    assert_eq!(log.end_flush(&task, &result), Offset(10), "the bytes it synced are not those of now");
    assert_eq!(flush(&mut log), Offset(30));
    assert!(log.begin_flush().is_none());

    log.truncate_to(Offset(20)).unwrap();
    assert_eq!(log.durable_end(), Offset(20), "what stays durable stays so");
    log.truncate_to(Offset(5)).unwrap();
    assert_eq!((log.log_end(), log.durable_end()), (Offset(0), Offset(0)), "a batch is not cut in two");
}

#[test]
fn a_truncation_over_segments_survives_a_crash() {
    let data = tempfile::tempdir().unwrap();
    let small = LogConfig { segment_bytes: 400, index_interval_bytes: 0, ..config() };
    for cut in 0..=20i64 {
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = open(&folder, small.clone());
        log.restart_at(Offset(0)).unwrap();
        for i in 0..20 {
            append(&mut log, Batch::at(0).producer(1, 0, i).timestamps(i64::from(i), 0).value(vec![0; 50]), i / 5);
            if i % 3 == 0 {
                flush(&mut log);
            }
        }
        log.truncate_to(Offset(cut)).unwrap();
        let check = |log: &PartitionLog| {
            assert_eq!(log.log_end(), Offset(cut));
            assert_eq!(log.latest_epoch().map(|(e, _)| e.0), (cut > 0).then(|| (cut as i32 - 1) / 5));
            let newest = log.reader().max_timestamp(ALL).unwrap();
            assert_eq!(newest, (cut > 0).then(|| (Offset(cut - 1), cut - 1)));
            let remembered = log.producers.get(1).map_or(-1, |p| p.batches().last().unwrap().last_offset.0);
            assert_eq!(remembered, cut - 1);
        };
        check(&log);
        drop(log);
        drop(folder);
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = open(&folder, small.clone());
        check(&log);
        // The producer goes on where it was cut: what was cut off is new again, what stayed is a duplicate.
        if cut > 0 {
            let again = valid(Batch::at(0).producer(1, 0, cut as i32 - 1).bytes());
            assert!(log.append_as_leader(&again, LeaderEpoch(9), 0).unwrap().duplicate);
        }
        append(&mut log, Batch::at(0).producer(1, 0, cut as i32), 9);
        assert_eq!(log.log_end(), Offset(cut + 1));
    }
}

#[test]
fn a_restart_forgets_all_and_survives_a_crash() {
    let data = tempfile::tempdir().unwrap();
    for start in [1000, 3] {
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = open(&folder, LogConfig { segment_bytes: 200, ..config() });
        for i in 0..6 {
            append(&mut log, Batch::at(0).producer(1, start as i16 % 100, i), 2000 - start as i32);
        }
        let generation = log.generation;
        log.restart_at(Offset(start)).unwrap();
        assert!(log.generation > generation);
        assert_eq!((log.log_start(), log.log_end(), log.durable_end()), (Offset(start), Offset(start), Offset(start)));
        assert_eq!((log.latest_epoch(), log.producers.len(), log.size_bytes()), (None, 0, 0));
        drop(log);
        drop(folder);
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = open(&folder, config());
        assert_eq!((log.log_start(), log.log_end()), (Offset(start), Offset(start)));
        log.append_as_follower(&valid(Batch::at(start).epoch(1).bytes()), 0).unwrap();
        log.restart_at(Offset(0)).unwrap();
    }
}

#[test]
fn the_log_start_moves_and_is_remembered() {
    let data = tempfile::tempdir().unwrap();
    let small = LogConfig { segment_bytes: 200, ..config() };
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, small.clone());
    for i in 0..9 {
        append(&mut log, Batch::at(0).records(2), i / 2);
    }
    let (bytes, segments) = (log.size_bytes(), log.segments.len());
    assert!(log.advance_log_start(Offset(19)).is_err(), "past the end");
    log.advance_log_start(Offset(7)).unwrap();
    log.advance_log_start(Offset(5)).unwrap();
    assert_eq!(log.log_start(), Offset(7), "it never moves back");
    assert!(log.size_bytes() < bytes && log.segments.len() < segments);
    assert_eq!(log.segments[0].base, Offset(4));
    assert_eq!(log.epoch_at(Offset(7)), Some(LeaderEpoch(1)));
    assert_eq!(log.end_of_epoch(LeaderEpoch(0)), Some((LeaderEpoch(0), Offset(7))));
    drop(log);
    assert_eq!(open(&folder, small.clone()).log_start(), Offset(7), "after a crash");
    let mut log = open(&folder, small.clone());
    log.truncate_to(Offset(6)).unwrap();
    assert_eq!((log.log_start(), log.log_end()), (Offset(6), Offset(6)), "start ≤ end always");
    log.advance_log_start(Offset(6)).unwrap();
    append(&mut log, Batch::at(0).records(2), 9);
    log.advance_log_start(Offset(8)).unwrap();
    assert!(log.reader().read(Offset(8), 100, ALL, true).unwrap().bytes.is_empty());
    drop(log);
    assert_eq!(open(&folder, small).log_start(), Offset(8));
}

#[test]
fn a_log_start_that_falls_with_a_truncation_is_remembered() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, config());
    append(&mut log, Batch::at(0), 0);
    append(&mut log, Batch::at(0).records(3), 0);
    log.advance_log_start(Offset(2)).unwrap();
    // Inside the batch of offsets 1 to 3: all of it goes, and the log start with it.
    log.truncate_to(Offset(3)).unwrap();
    append(&mut log, Batch::at(0), 1);
    assert_eq!((log.log_start(), log.log_end()), (Offset(1), Offset(2)));
    drop(log);
    let log = open(&folder, config());
    assert_eq!((log.log_start(), log.log_end()), (Offset(1), Offset(2)));
}

#[test]
fn retention_drops_whole_segments_below_the_high_watermark() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, LogConfig { segment_bytes: 200, retention_ms: 1_000, ..config() });
    for i in 0..10 {
        append(&mut log, Batch::at(0).timestamps(i * 100, 0).value(vec![0; 20]), 0);
    }
    let reader = log.reader();
    let per_segment = log.segments[1].base.0;
    assert_eq!(log.apply_retention(1_000, Offset(10)).unwrap(), 0);
    let files = disk::list(log.folder()).unwrap().len();
    let freed = log.apply_retention(1_400, Offset(10)).unwrap();
    // Records of 0 to 399 ms are too old.
    assert_eq!(log.log_start().0, 4 / per_segment * per_segment);
    assert!(freed > 0 && reader.range().0 == log.log_start());
    folder.context().remover.wait();
    assert!(disk::list(log.folder()).unwrap().len() < files);
    assert_eq!(log.apply_retention(5_000, log.log_start()).unwrap(), 0, "not above the high watermark");
    assert!(log.apply_retention(5_000, Offset(10)).unwrap() > 0);
    assert_eq!(
        (log.log_start(), log.log_end(), log.size_bytes()),
        (Offset(10), Offset(10), 0),
        "the active one rolled"
    );
    drop(log);
    let mut log = open(&folder, config());
    assert_eq!((log.log_start(), log.log_end()), (Offset(10), Offset(10)), "an empty segment keeps the end");
    append(&mut log, Batch::at(0), 0);
    assert_eq!(batches_in(&reader_bytes(&log)).len(), 1);
}

fn reader_bytes(log: &PartitionLog) -> Vec<u8> {
    log.reader().read(log.log_start(), 1 << 20, ALL, true).unwrap().bytes.to_vec()
}

#[test]
fn segments_roll_by_time() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, LogConfig { segment_ms: 1_000, ..config() });
    let batch = valid(Batch::at(0).bytes());
    log.append_as_leader(&batch, LeaderEpoch(0), 10_000).unwrap();
    log.append_as_leader(&batch, LeaderEpoch(0), 11_000).unwrap();
    assert_eq!(log.segments.len(), 1);
    log.append_as_leader(&batch, LeaderEpoch(0), 11_001).unwrap();
    assert_eq!(log.segments.len(), 2);
    log.apply_retention(12_001, Offset(0)).unwrap();
    assert_eq!(log.segments.len(), 2);
    log.apply_retention(12_002, Offset(0)).unwrap();
    assert_eq!(log.segments.len(), 3, "a quiet segment rolls too");
    log.apply_retention(99_999, Offset(0)).unwrap();
    assert_eq!(log.segments.len(), 3, "an empty one does not");
}
