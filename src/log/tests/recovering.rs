//! Crashes: the log cut at every byte, damaged in the middle, its derived files stale, missing or torn.

use crate::ids::*;
use crate::log::folder::{FolderError, LogFolder};
use crate::log::partition_log::{LogConfig, PartitionLog};
use crate::log::testing::{Batch, batches_in, config, open, valid};
use crate::platform::disk::faults::{Fault, Operation, arm};
use crate::platform::disk::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const ALL: Offset = Offset(i64::MAX);

/// The files of a log, to be laid out again for each crash.
struct Image(Vec<(String, Vec<u8>)>);

impl Image {
    fn take(folder: &Path) -> Image {
        let names = disk::list(folder).unwrap();
        Image(
            names
                .into_iter()
                .map(|e| (e.name.clone(), disk::read_file(&folder.join(e.name)).unwrap().unwrap()))
                .collect(),
        )
    }

    fn lay_out(&self, folder: &Path) {
        disk::remove_dir_all(folder).unwrap();
        disk::create_dir_all(folder).unwrap();
        for (name, bytes) in &self.0 {
            File::open_or_create(&folder.join(name)).unwrap().write_at(bytes, 0).unwrap();
        }
    }
}

fn small() -> LogConfig {
    LogConfig { segment_bytes: 600, index_interval_bytes: 100, ..config() }
}

/// Eight batches in several segments, three epochs, two producers. Answers the last segment's file.
fn write(log: &mut PartitionLog) -> PathBuf {
    for i in 0..8 {
        // Each batch in an epoch of its producer's, so that it may begin at 0.
        let batch = Batch::at(0).records(1 + i % 3).producer(i64::from(i % 2), i as i16, 0).value(vec![i as u8; 60]);
        log.append_as_leader(&valid(batch.bytes()), LeaderEpoch(i / 3), 0).unwrap();
    }
    log.active().log.path()
}

fn same_state(log: &PartitionLog, expected: &PartitionLog) {
    assert_eq!(log.log_end(), expected.log_end());
    assert_eq!(log.epochs, expected.epochs);
    assert_eq!(log.producers.len(), expected.producers.len());
    for (id, producer) in expected.producers.iter() {
        let found = log.producers.get(id.0).unwrap();
        assert_eq!((found.epoch, found.batches()), (producer.epoch, producer.batches()));
    }
}

#[test]
fn cut_at_every_byte_of_the_last_two_batches() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, small());
    let active = write(&mut log);
    let path = log.folder().to_path_buf();
    assert!(log.segments.len() > 1 && log.active().size() > 0);
    let last: Vec<_> = batches_in(&disk::read_file(&active).unwrap().unwrap()[..log.active().size() as usize]);
    assert!(last.len() >= 2, "two batches in the active segment");
    drop(log);
    let image = Image::take(&path);

    // What a log looks like that only ever got so many batches.
    let other = tempfile::tempdir().unwrap();
    for cut in last[last.len() - 2].position..=last[last.len() - 1].position + last[last.len() - 1].size {
        for zeros in [0, 1 + cut % 2 * 4095] {
            // A batch ends with a zero: an uncompressed record without headers. One added gives back one cut off.
            let whole = last.iter().filter(|b| b.position + b.size <= cut + zeros.min(1)).count();
            image.lay_out(&path);
            let file = File::open(&active).unwrap();
            file.set_len(cut as u64).unwrap();
            file.set_len((cut + zeros) as u64).unwrap();
            let log = open(&folder, small());
            let expected_end = last[..whole].last().map_or(last[0].header.base_offset, |b| b.header.end_offset());
            assert_eq!(log.log_end(), expected_end, "cut at {cut}, {zeros} zeros");
            assert_eq!(log.durable_end(), expected_end);
            assert_eq!(disk::len(&active).unwrap(), log.active().size(), "what is bad is cut off");
            if zeros > 0 && cut % 16 == 0 {
                let expected_folder = LogFolder::open(other.path(), false).unwrap();
                let mut expected = open(&expected_folder, small());
                if expected.log_end() == Offset(0) {
                    write(&mut expected);
                }
                expected.truncate_to(expected_end).unwrap();
                same_state(&log, &expected);
                drop(expected);
                drop(expected_folder);
                disk::remove_dir_all(&other.path().join("partitions")).unwrap();
            }
            // Twice is as once.
            drop(log);
            assert_eq!(open(&folder, small()).log_end(), expected_end);
        }
    }
}

#[test]
fn damage_in_the_middle_ends_the_log_there() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, small());
    write(&mut log);
    let path = log.folder().to_path_buf();
    let bases: Vec<Offset> = log.segments.iter().map(|s| s.base).collect();
    drop(log);
    let image = Image::take(&path);
    let first = path.join("00000000000000000000.log");
    let batches = batches_in(&disk::read_file(&first).unwrap().unwrap());
    for (i, batch) in batches.iter().enumerate() {
        image.lay_out(&path);
        let file = File::open(&first).unwrap();
        let position = (batch.position + 70) as u64;
        let byte = file.read_vec_at(1, position).unwrap()[0];
        file.write_at(&[byte ^ 0x40], position).unwrap();
        let mut log = open(&folder, small());
        assert_eq!(log.log_end(), batch.header.base_offset, "batch {i}");
        assert_eq!(log.segments.len(), 1, "later segments do not follow any more");
        log.append_as_leader(&valid(Batch::at(0).bytes()), LeaderEpoch(9), 0).unwrap();
        assert_eq!(log.log_end(), batch.header.base_offset + 1);
    }
    assert!(bases.len() > 1 && !batches.is_empty());
}

#[test]
fn derived_files_may_be_missing_torn_or_stale() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, small());
    write(&mut log);
    // Durable up to the active segment: recovery will begin there.
    while let Some(task) = log.begin_flush() {
        let result = task.sync();
        log.end_flush(&task, &result);
    }
    let path = log.folder().to_path_buf();
    let end = log.log_end();
    let expected: Vec<u8> = read_all(&log);
    let (epochs, producers) = (log.epochs.clone(), log.producers.len());
    drop(log);
    let image = Image::take(&path);
    assert!(image.0.iter().any(|(name, _)| name == "checkpoint"));
    for (name, bytes) in &image.0 {
        if name.ends_with(".log") {
            continue;
        }
        for damage in 0..3 {
            image.lay_out(&path);
            let file = path.join(name);
            match damage {
                0 => disk::remove_file(&file).unwrap(),
                1 => File::open(&file).unwrap().set_len(bytes.len() as u64 / 2).unwrap(),
                _ => File::open(&file).unwrap().write_at(&vec![0xff; bytes.len()], 0).unwrap(),
            }
            disk::write_atomic(&path.join("00000000000000000003.log.tmp"), b"half").unwrap();
            let log = open(&folder, small());
            assert_eq!(log.log_end(), end, "{name} damaged ({damage})");
            assert_eq!(read_all(&log), expected, "{name} damaged ({damage})");
            assert_eq!((&log.epochs, log.producers.len()), (&epochs, producers), "{name} damaged ({damage})");
        }
    }
}

fn reopen(folder: &LogFolder) -> Result<(), FolderError> {
    let id = folder.found().unwrap().remove(0).id;
    folder.log(id, "t", small()).map(drop)
}

#[test]
fn what_a_recovery_cannot_open_is_no_lost_disk() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, small());
    write(&mut log);
    let (path, end) = (log.folder().to_path_buf(), log.log_end());
    drop(log);
    let denied = |operation| Fault { kind: ErrorKind::PermissionDenied, ..Fault::broken(operation) };
    for name in ["00000000000000000000.index", "leader-epoch-checkpoint.tmp"] {
        let armed = arm(&path.join(name), denied(Operation::Create));
        reopen(&folder).expect_err("it cannot be made");
        assert!(!folder.is_offline() && !folder.is_lossy(), "{name}");
        drop(armed);
    }
    assert_eq!(open(&folder, small()).log_end(), end, "nothing was lost");
    let armed = arm(&path, Fault::broken(Operation::Sync));
    reopen(&folder).expect_err("it cannot be synced");
    assert!(folder.is_offline(), "a sync that failed is one");
    drop(armed);
}

#[test]
fn a_flush_that_cannot_open_its_folder_in_passing_is_left_to_the_next() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, config());
    write(&mut log);
    let path = log.folder().to_path_buf();
    // A full table of open files has no kind of its own; another error that passes stands for it.
    let armed = arm(&path, Fault { kind: ErrorKind::StorageFull, ..Fault::broken(Operation::Open) });
    let task = log.begin_flush().unwrap();
    let synced = task.sync();
    synced.as_ref().unwrap_err();
    assert_eq!(log.end_flush(&task, &synced), Offset(0));
    assert!(!folder.is_offline());
    drop(armed);
    let task = log.begin_flush().unwrap();
    assert_eq!(log.end_flush(&task, &task.sync()), log.log_end());
}

fn read_all(log: &PartitionLog) -> Vec<u8> {
    let mut all = Vec::new();
    let mut from = log.log_start();
    while from < log.log_end() {
        let chunk = log.reader().read(from, 1 << 20, ALL, true).unwrap();
        let last = batches_in(&chunk.bytes).last().unwrap().header;
        from = last.end_offset();
        all.extend_from_slice(&chunk.bytes);
    }
    all
}

#[test]
fn a_clean_close_is_believed_and_a_false_one_is_not() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), true).unwrap();
    let mut log = open(&folder, small());
    write(&mut log);
    log.advance_log_start(Offset(1)).unwrap();
    log.close().unwrap();
    let path = log.folder().to_path_buf();
    let (end, epochs) = (log.log_end(), log.epochs.clone());
    let active = log.active().log.path();
    let producers: Vec<_> = log.producers.iter().map(|(id, p)| (id, *p)).collect();
    drop(log);

    let before = Image::take(&path);
    let mut log = open(&folder, small());
    assert_eq!((log.log_start(), log.log_end(), log.durable_end()), (Offset(1), end, end));
    assert_eq!(log.epochs, epochs);
    for (id, producer) in &producers {
        assert_eq!(log.producers.get(id.0), Some(producer), "from the snapshot, its time included");
    }
    assert_eq!(Image::take(&path).0, before.0, "nothing was written to open it");
    log.append_as_leader(&valid(Batch::at(0).bytes()), LeaderEpoch(7), 0).unwrap();
    drop(log);

    // The node says "clean" but this log was not closed, and its last batch is torn.
    let file = File::open(&active).unwrap();
    file.set_len(before.0.iter().find(|(n, _)| active.ends_with(n)).unwrap().1.len() as u64 + 30).unwrap();
    let log = open(&folder, small());
    assert_eq!((log.log_start(), log.log_end()), (Offset(1), end));
    assert_eq!(log.epochs, epochs);
}

#[test]
fn an_idle_log_is_closed_and_opened_without_a_write() {
    let data = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let folder = LogFolder::open(data.path(), true).unwrap();
        let mut log = open(&folder, config());
        log.close().unwrap();
        assert!(disk::list(log.folder()).unwrap().is_empty());
    }
}
