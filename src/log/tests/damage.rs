//! Bits that flip on the disk: found wherever they are, cut off when asked, and never forgotten in between.

use crate::ids::*;
use crate::log::folder::LogFolder;
use crate::log::partition_log::{Checked, Cursor, CutError, Damage, LogConfig, PartitionLog, Patched};
use crate::log::testing::{Batch, batches_in, config, open, valid};
use crate::platform::disk::{self, File};
use crate::records::ValidBatches;
use bytes::Bytes;
use std::path::Path;

const ALL: Offset = Offset(i64::MAX);

fn small() -> LogConfig {
    LogConfig { segment_bytes: 600, index_interval_bytes: 100, ..config() }
}

fn append(log: &mut PartitionLog, records: i32) {
    log.append_as_leader(&valid(Batch::at(0).records(records).value(vec![7; 60]).bytes()), LeaderEpoch(2), 0).unwrap();
}

/// Twelve batches of two records in several segments.
fn write(folder: &LogFolder) -> PartitionLog {
    let mut log = open(folder, small());
    for _ in 0..12 {
        append(&mut log, 2);
    }
    assert!(log.segments.len() > 2);
    log
}

/// Flips one bit of the byte at `position`.
fn flip(path: &Path, position: u64) {
    let file = File::open(path).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, position).unwrap();
    file.write_at(&[byte[0] ^ 4], position).unwrap();
}

/// A whole pass in small steps.
fn pass(log: &PartitionLog, step: u64) -> Option<Damage> {
    let (reader, mut cursor, mut bytes) = (log.reader(), Cursor::default(), 0);
    for _ in 0..1_000 {
        let Checked { next, bytes: read, damage } = reader.check(cursor, ALL, step).unwrap();
        bytes += read;
        match next {
            Some(next) => cursor = next,
            None => {
                let whole = log.log_start() > Offset(0) || bytes == log.size_bytes();
                assert!(damage.is_some() || whole, "a pass looks at every byte once");
                return damage;
            }
        }
    }
    panic!("a pass ends")
}

#[test]
fn every_flipped_bit_is_found_and_only_its_batch_is_given_up() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let log = write(&folder);
    for step in [1, 200, 1 << 20] {
        assert_eq!(pass(&log, step), None, "a good log is good, in steps of {step}");
    }
    let segment = &log.segments[1];
    let path = segment.log.path();
    let bytes = disk::read_file(&path).unwrap().unwrap();
    let end = log.segments[2].base;
    for batch in batches_in(&bytes[..segment.size() as usize]) {
        for at in 0..batch.size as u64 {
            // The leader epoch, at 12 to 15, lies outside the CRC: what the log knows of its epochs shows it.
            flip(&path, batch.position as u64 + at);
            let damage = pass(&log, 1 << 20).unwrap_or_else(|| panic!("byte {at} of {:?} unnoticed", batch.header));
            assert_eq!(damage.from, batch.header.base_offset, "byte {at}");
            let next = batch.header.end_offset();
            assert!(damage.to == next || damage.to == end, "byte {at}: {damage:?}");
            // In the records themselves nothing else is lost.
            assert!(at < 61 || damage.to == next, "byte {at}: {damage:?}");
            flip(&path, batch.position as u64 + at);
        }
    }
    assert_eq!(pass(&log, 1 << 20), None);
}

#[test]
fn known_damage_outlives_a_restart_and_is_cut_when_told() {
    for (what, byte) in [("records", 70), ("a header", 16), ("a length", 8)] {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = write(&folder);
        let place = log.segments[1].locate(log.segments[1].base + 3).unwrap().unwrap();
        let from = place.header.base_offset;
        flip(&log.segments[1].log.path(), place.position + byte);
        let damage = pass(&log, 1 << 20).unwrap();
        assert_eq!(damage.from, from, "{what}");
        log.note_damage(damage.clone());
        log.close().unwrap();
        drop((log, folder));

        let folder = LogFolder::open(data.path(), true).unwrap();
        let mut log = open(&folder, small());
        assert_eq!(log.damage(), Some(&damage), "{what}");
        assert_eq!(log.log_end(), Offset(24), "opening cuts nothing");
        assert_eq!(log.cut_damage().unwrap(), from);
        assert_eq!((log.log_end(), log.durable_end(), log.damage()), (from, from, None), "{what}");
        assert_eq!(pass(&log, 1 << 20), None);
        append(&mut log, 2);
        log.close().unwrap();
        drop((log, folder));
        let folder = LogFolder::open(data.path(), true).unwrap();
        let log = open(&folder, small());
        assert_eq!((log.log_end(), log.damage()), (from + 2, None), "{what}");
    }
}

#[test]
fn damage_is_filled_in_place_with_what_fits() {
    for (what, byte) in [("records", 70), ("a header", 16), ("a length", 8)] {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = write(&folder);
        let segment = log.segments[1].clone();
        let path = segment.log.path();
        let good = Bytes::from(disk::read_file(&path).unwrap().unwrap()).slice(..segment.size() as usize);
        let batches = batches_in(&good);
        flip(&path, batches[1].position as u64 + byte);
        let damage = pass(&log, 1 << 20).unwrap();
        log.note_damage(damage.clone());
        let bad = disk::read_file(&path).unwrap().unwrap();

        let mut epoch = good[batches[1].position..].to_vec();
        epoch[15] += 1;
        let behind = good.slice(batches[2].position..);
        for (why, other) in [("another epoch", Bytes::from(epoch)), ("another place", behind)] {
            let batches = ValidBatches::from_leader(other).unwrap();
            assert!(matches!(log.patch_damage(&batches).unwrap(), Patched::Unfit(_)), "{what}, {why}");
            assert_eq!(disk::read_file(&path).unwrap().unwrap(), bad, "{what}, {why}: nothing is changed");
            assert_eq!(log.damage(), Some(&damage));
        }

        for batch in &batches[1..] {
            let one = good.slice(batch.position..batch.position + batch.size);
            match log.patch_damage(&ValidBatches::from_leader(one).unwrap()).unwrap() {
                Patched::Whole(_) => break,
                Patched::UpTo(next) => {
                    assert_eq!((next, log.damage().unwrap().from), (batch.header.end_offset(), next), "{what}");
                }
                Patched::Unfit(why) => panic!("{what}: {why}"),
            }
        }
        assert_eq!(log.damage(), None, "{what}");
        assert_eq!(disk::read_file(&path).unwrap().unwrap()[..good.len()], good[..], "{what}");
        assert_eq!((pass(&log, 1 << 20), log.log_end()), (None, Offset(24)), "nothing behind it is given up");
        append(&mut log, 2);
        drop((log, segment, folder));
        let folder = LogFolder::open(data.path(), false).unwrap();
        let log = open(&folder, small());
        assert_eq!((log.damage(), log.log_end()), (None, Offset(26)), "{what}: after a crash");
    }
}

/// A log whose second segment has lost the header of its second batch, and that segment's good bytes.
fn with_a_lost_header(folder: &LogFolder) -> (PartitionLog, Bytes) {
    let mut log = write(folder);
    let segment = log.segments[1].clone();
    let good = Bytes::from(disk::read_file(&segment.log.path()).unwrap().unwrap()).slice(..segment.size() as usize);
    let batches = batches_in(&good);
    assert!(batches.len() > 2, "something lies behind it");
    flip(&segment.log.path(), batches[1].position as u64 + 16);
    log.note_damage(pass(&log, 1 << 20).unwrap());
    let (from, to) = (batches[1].header.base_offset, log.segments[2].base);
    assert_eq!(log.damage().map(|d| (d.from, d.to)), Some((from, to)), "nobody knows where it ends");
    (log, good)
}

fn second_of(good: &Bytes) -> (ValidBatches, Offset) {
    let batch = batches_in(good)[1];
    let bytes = good.slice(batch.position..batch.position + batch.size);
    (ValidBatches::from_leader(bytes).unwrap(), batch.header.end_offset())
}

#[test]
fn filling_ends_where_the_logs_own_bytes_are_good_again() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let (mut log, good) = with_a_lost_header(&folder);
    // All that the other copy has: it is damaged behind that.
    let (one, end) = second_of(&good);
    assert_eq!(log.patch_damage(&one).unwrap(), Patched::Whole(end));
    assert_eq!((log.damage(), pass(&log, 1 << 20)), (None, None));
}

#[test]
fn a_note_goes_once_what_was_filled_is_on_the_disk() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), true).unwrap();
    let (mut log, good) = with_a_lost_header(&folder);
    while let Some(task) = log.begin_flush() {
        let synced = task.sync();
        log.end_flush(&task, &synced);
    }
    let note = log.folder().join("damage");
    let text = disk::read_file(&note).unwrap().unwrap();
    let (one, _) = second_of(&good);
    log.patch_damage(&one).unwrap();
    assert!(log.has_unsynced_patches() && disk::exists(&note));
    let task = log.begin_flush().expect("what was filled is to be synced");
    let synced = task.sync();
    log.end_flush(&task, &synced);
    assert!(!log.has_unsynced_patches() && !disk::exists(&note));
    log.close().unwrap();
    drop((log, folder));

    // It comes back with a power loss; then the bytes tell.
    disk::write_atomic(&note, &text).unwrap();
    let folder = LogFolder::open(data.path(), true).unwrap();
    let log = open(&folder, small());
    assert_eq!((log.damage(), log.log_end(), disk::exists(&note)), (None, Offset(24), false));
}

/// Copies whose last batches, in one segment or two, say a later epoch after a crash, and are to lead in epoch 3.
#[test]
fn damaged_epochs_at_the_end_are_written_anew() {
    for first in [22, 14] {
        let data = tempfile::tempdir().unwrap();
        let mut folder = LogFolder::open(data.path(), false).unwrap();
        let mut log = write(&folder);
        assert_eq!(log.restamp_epochs_above(LeaderEpoch(2)).unwrap(), None);
        for offset in (first..24).step_by(2) {
            let at = log.segments.partition_point(|s| s.base <= Offset(offset)) - 1;
            let place = log.segments[at].locate(Offset(offset)).unwrap().unwrap();
            flip(&log.segments[at].log.path(), place.position + 13);
        }
        drop((log, folder));
        folder = LogFolder::open(data.path(), false).unwrap();
        log = open(&folder, small());
        assert_eq!((log.log_end(), log.damage()), (Offset(24), None), "in order, as far as recovery can tell");
        assert!(log.latest_epoch().unwrap().0 > LeaderEpoch(3));
        assert_eq!(log.restamp_epochs_above(LeaderEpoch(3)).unwrap(), Some(Offset(first)));
        assert_eq!(pass(&log, 1 << 20), None);
        log.begin_epoch(LeaderEpoch(3)).unwrap();
        log.append_as_leader(&valid(Batch::at(0).records(2).bytes()), LeaderEpoch(3), 0).unwrap();
        drop((log, folder));
        for clean in [false, true] {
            folder = LogFolder::open(data.path(), clean).unwrap();
            log = open(&folder, small());
            assert_eq!((log.log_end(), log.damage()), (Offset(26), None));
            let (below, from) = (log.epoch_at(Offset(first - 1)), log.epoch_at(Offset(first)));
            assert_eq!((below, from), (Some(LeaderEpoch(2)), Some(LeaderEpoch(3))));
            assert_eq!(pass(&log, 1 << 20), None);
            log.close().unwrap();
            drop((log, folder));
        }
    }
}

#[test]
fn a_damaged_epoch_that_the_log_knows_is_written_anew() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = write(&folder);
    let path = log.segments[1].log.path();
    let place = log.segments[1].locate(log.segments[1].base).unwrap().unwrap();
    let before = disk::read_file(&path).unwrap();
    flip(&path, place.position + 14);
    let damage = pass(&log, 1 << 20).unwrap();
    log.note_damage(damage.clone());
    assert!(log.restamp_damage().unwrap());
    assert!(log.has_unsynced_patches() && log.damage().is_none());
    let task = log.begin_flush().unwrap();
    let synced = task.sync();
    log.end_flush(&task, &synced);
    assert!(!log.has_unsynced_patches() && pass(&log, 1 << 20).is_none());
    assert!(disk::read_file(&path).unwrap() == before, "as it was before");
    log.note_damage(damage);
    assert!(log.restamp_damage().unwrap() && log.damage().is_none(), "what was noted meanwhile is good");
}

#[test]
fn an_epoch_is_not_written_anew_where_more_is_damaged() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = write(&folder);
    let place = log.segments[0].locate(Offset(0)).unwrap().unwrap();
    for byte in [13, 70] {
        flip(&log.segments[0].log.path(), place.position + byte);
    }
    let damage = pass(&log, 1 << 20).unwrap();
    log.note_damage(damage.clone());
    assert!(!log.restamp_damage().unwrap());
    assert_eq!((log.damage(), log.has_unsynced_patches()), (Some(&damage), false));
}

#[test]
fn damage_at_the_very_start_begins_the_copy_anew() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = write(&folder);
    log.advance_log_start(Offset(1)).unwrap();
    flip(&log.segments[0].log.path(), 16);
    let damage = pass(&log, 1 << 20).unwrap();
    assert_eq!(damage.from, Offset(0));
    log.note_damage(damage);
    assert_eq!(log.cut_damage().unwrap(), Offset(1));
    assert_eq!((log.log_start(), log.log_end()), (Offset(1), Offset(1)));
}

#[test]
fn damage_that_retention_takes_away_is_no_damage_any_more() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = write(&folder);
    flip(&log.segments[0].log.path(), 70);
    log.note_damage(pass(&log, 1 << 20).unwrap());
    log.advance_log_start(Offset(1)).unwrap();
    assert!(log.damage().is_some(), "half of the damaged batch still counts");
    log.advance_log_start(Offset(2)).unwrap();
    assert_eq!(log.damage(), None);
    assert_eq!(pass(&log, 1 << 20), None, "what is below the log start is not part of the log");
}

/// Lays the log out anew, flipped at a byte of one of its last batches, and opens it after a crash.
fn crash_with(batch_from_end: usize, byte: u64, torn: bool) -> (Option<Damage>, Offset, Offset) {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, config());
    for _ in 0..6 {
        append(&mut log, 2);
    }
    let (path, size) = (log.active().log.path(), log.active().size());
    drop((log, folder));
    let batches = batches_in(&disk::read_file(&path).unwrap().unwrap()[..size as usize]);
    let batch = batches[batches.len() - batch_from_end];
    if torn {
        File::open(&path).unwrap().set_len(batch.position as u64 + byte).unwrap();
    } else {
        flip(&path, batch.position as u64 + byte);
    }
    let folder = LogFolder::open(data.path(), false).unwrap();
    let log = open(&folder, config());
    let (end, found) = (log.log_end(), log.damage().cloned());
    drop(log);
    // A second crash forgets nothing.
    assert_eq!(open(&folder, config()).damage(), found.as_ref());
    (found, end, batch.header.base_offset)
}

#[test]
fn recovery_tells_damage_from_a_write_that_was_cut_short() {
    for byte in [0, 8, 16, 30, 70] {
        let (found, end, from) = crash_with(3, byte, false);
        assert_eq!(end, from, "what follows cannot stay without it");
        let found = found.unwrap_or_else(|| panic!("byte {byte}: good batches behind it say that it was whole once"));
        assert!(found.is_cut() && found.from == from, "{found:?}");
    }
    let (found, end, from) = crash_with(1, 70, true);
    assert_eq!((found, end), (None, from), "the last batch, half written: no one was told that it was there");
    let (found, end, from) = crash_with(1, 70, false);
    assert_eq!((found, end), (None, from), "nor can a flip in the last batch be told from that");
}

#[test]
fn a_lost_header_below_the_recovery_point_does_not_keep_the_log_closed() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = write(&folder);
    let task = log.begin_flush().unwrap();
    let synced = task.sync();
    log.end_flush(&task, &synced);
    let (path, from) = (log.segments[1].log.path(), log.segments[1].base);
    let snapshots: Vec<_> = log.snapshots.iter().map(|at| log.snapshot_path(*at)).collect();
    drop((log, folder));
    flip(&path, 16);
    // Without the snapshots the producers are rebuilt from headers.
    snapshots.iter().for_each(|path| disk::remove_file(path).unwrap());
    let folder = LogFolder::open(data.path(), false).unwrap();
    let log = open(&folder, small());
    assert_eq!(log.log_end(), from);
    assert_eq!(log.damage().map(|d| (d.from, d.is_cut())), Some((from, true)));
}

/// Without index rows the cut is looked for from the segment's beginning; with them its place is found behind the lost
/// header, which the producers and the largest timestamp are then worked out from.
#[test]
fn a_cut_above_a_lost_header_takes_no_folder_offline() {
    for index_interval_bytes in [1 << 20, 100] {
        for lost in [0, 2] {
            let data = tempfile::tempdir().unwrap();
            let folder = LogFolder::open(data.path(), false).unwrap();
            let mut log = open(&folder, LogConfig { index_interval_bytes, ..config() });
            for _ in 0..12 {
                append(&mut log, 2);
            }
            let place = log.active().locate(Offset(lost)).unwrap().unwrap();
            flip(&log.active().log.path(), place.position + 16);
            let error = log.truncate_to(Offset(20)).unwrap_err();
            assert!(matches!(error, CutError::Damaged { near, .. } if near == Offset(lost)), "{error}");
            assert_eq!(log.log_end(), Offset(24), "nothing was cut");
            assert!(!folder.is_offline(), "a flipped bit is no failed disk");
            append(&mut log, 2);
            flip(&log.active().log.path(), place.position + 16);
            log.truncate_to(Offset(20)).unwrap();
            assert_eq!(log.log_end(), Offset(20));
        }
    }
}
