//! What readers see: whole batches, at every boundary, while the log changes under them.

use crate::ids::*;
use crate::log::folder::LogFolder;
use crate::log::partition_log::{LogConfig, ReadError};
use crate::log::testing::{Batch, batches_in, config, open, valid};
use crate::records::batch::compute_crc;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

const ALL: Offset = Offset(i64::MAX);

#[test]
fn every_boundary() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    // Three batches of three records; then a segment of its own for the rest.
    let size = Batch::at(0).records(3).bytes().len();
    let mut log = open(&folder, LogConfig { segment_bytes: 3 * size as u64, index_interval_bytes: 0, ..config() });
    for _ in 0..5 {
        log.append_as_leader(&valid(Batch::at(0).records(3).bytes()), LeaderEpoch(0), 0).unwrap();
    }
    let reader = log.reader();
    let bases = |from: i64, max: usize, upper: i64, at_least_one| -> Vec<i64> {
        let chunk = reader.read(Offset(from), max, Offset(upper), at_least_one).unwrap();
        batches_in(&chunk.bytes).iter().map(|b| b.header.base_offset.0).collect()
    };
    for from in 0..15 {
        let batch = from / 3 * 3;
        let in_segment = if batch < 9 { 9 } else { 15 };
        assert_eq!(bases(from, 1 << 20, 15, true), (batch..in_segment).step_by(3).collect::<Vec<_>>(), "from {from}");
        assert_eq!(bases(from, 0, 15, true), [batch]);
        assert_eq!(bases(from, size, 15, false), [batch]);
        assert!(bases(from, size - 1, 15, false).is_empty());
        for upper in 0..=15 {
            let end = in_segment.min(upper / 3 * 3);
            assert_eq!(bases(from, 1 << 20, upper, true), (batch..end).step_by(3).collect::<Vec<_>>());
        }
    }
    assert_eq!(bases(0, 2 * size, 15, false), [0, 3]);
    assert_eq!(bases(0, 2 * size + size / 2, 15, false), [0, 3]);
    assert!(bases(15, 100, 15, true).is_empty(), "the end is no error");
    let beyond = reader.read(Offset(16), 100, ALL, true).unwrap_err();
    assert!(matches!(beyond, ReadError::OutOfRange { start: Offset(0), end: Offset(15), .. }));
    log.advance_log_start(Offset(4)).unwrap();
    assert!(matches!(reader.read(Offset(3), 100, ALL, true), Err(ReadError::OutOfRange { start: Offset(4), .. })));
    assert_eq!(bases(4, 0, 15, true), [3], "the batch that holds the log start is read whole");
}

/// What a replica has left to fetch, over segments and within one, by an index of a row a few batches.
#[test]
fn bytes_left_are_told_without_reading_batches() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let size = Batch::at(0).records(2).bytes().len() as u64;
    let (in_segment, interval) = (10, 3 * size);
    let config = LogConfig { segment_bytes: in_segment * size, index_interval_bytes: interval as u32, ..config() };
    let mut log = open(&folder, config);
    for _ in 0..25 {
        log.append_as_leader(&valid(Batch::at(0).records(2).bytes()), LeaderEpoch(0), 0).unwrap();
    }
    let reader = log.reader();
    for from in 0..50 {
        let exact = (25 - from / 2) * size;
        let told = reader.bytes_from(Offset(from as i64)).unwrap();
        assert!((exact..=exact + interval + 2 * size).contains(&told), "from {from}: {told} of {exact}");
    }
    assert_eq!(reader.bytes_from(Offset(0)).unwrap(), log.size_bytes());
    assert_eq!(reader.bytes_from(Offset(20)).unwrap(), 15 * size, "where a segment begins it is exact");
    assert_eq!(reader.bytes_from(log.log_end()).unwrap(), 0);
    log.advance_log_start(Offset(21)).unwrap();
    assert_eq!(reader.bytes_from(Offset(3)).unwrap(), log.size_bytes(), "it begins anew from the log's start");
}

#[test]
fn what_a_leader_serves_makes_the_same_log_at_a_follower() {
    let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let folders = [0, 1].map(|i| LogFolder::open(data[i].path(), false).unwrap());
    let [mut leader, mut follower] =
        [0, 1].map(|i| open(&folders[i], LogConfig { segment_bytes: 1000 + 700 * i as u64, ..config() }));
    for i in 0..60 {
        let batch = Batch::at(0).records(1 + i % 4).producer(i64::from(i), 0, 0).value(vec![i as u8; i as usize * 3]);
        leader.append_as_leader(&valid(batch.bytes()), LeaderEpoch(i / 20), 0).unwrap();
    }
    while follower.log_end() < leader.log_end() {
        let chunk = leader.reader().read(follower.log_end(), 400, ALL, true).unwrap();
        follower.append_as_follower(&valid(chunk.bytes.to_vec()), 0).unwrap();
    }
    let everything = |log: &crate::log::partition_log::PartitionLog| {
        let (mut from, mut all) = (log.log_start(), Vec::new());
        while from < log.log_end() {
            let chunk = log.reader().read(from, 1 << 20, ALL, true).unwrap().bytes;
            all.extend_from_slice(&chunk);
            let last = batches_in(&all).last().unwrap().header;
            from = last.end_offset();
        }
        all
    };
    assert_eq!(everything(&leader), everything(&follower));
    assert_eq!(leader.epochs, follower.epochs);
    for (id, producer) in leader.producers.iter() {
        assert_eq!(follower.producers.get(id.0).unwrap().batches(), producer.batches());
    }
}

/// A follower that appends and truncates while others read: each read is whole good batches that begin where asked.
#[test]
fn readers_never_see_a_torn_batch() {
    let data = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(data.path(), false).unwrap();
    let mut log = open(&folder, LogConfig { segment_bytes: 20_000, index_interval_bytes: 500, ..config() });
    let reader = log.reader();
    let done = AtomicBool::new(false);
    let reads = AtomicI64::new(0);
    thread::scope(|scope| {
        for seed in 0..2i64 {
            let (reader, done, reads) = (reader.clone(), &done, &reads);
            scope.spawn(move || {
                let mut step = seed;
                while !done.load(Ordering::Relaxed) {
                    let (start, end) = reader.range();
                    step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let from = start + (step.unsigned_abs() as i64 & i64::MAX) % (end - start + 1);
                    let Ok(chunk) = reader.read(from, 3000, ALL, true) else { continue };
                    for (next, batch) in (from.0..).zip(batches_in(&chunk.bytes)) {
                        assert_eq!(compute_crc(batch.of(&chunk.bytes)), batch.header.crc);
                        assert_eq!(batch.header.base_offset, Offset(next));
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut round = 0;
        while round < 300 || reads.load(Ordering::Relaxed) < 200 {
            round += 1;
            for i in 0..20 {
                let value = vec![round as u8; ((round * 31 + i * 17) % 700) as usize];
                let batch = Batch::at(log.log_end().0).epoch(round).value(value);
                log.append_as_follower(&valid(batch.bytes()), 0).unwrap();
            }
            if round % 5 == 0 {
                let back = i64::from(round * 7 % 90);
                log.truncate_to(Offset((log.log_end().0 - back).max(log.log_start().0))).unwrap();
            }
            if round % 60 == 0 {
                log.advance_log_start(Offset(log.log_end().0 - 100)).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(30) })]
    #[test]
    fn times_are_found_as_by_a_linear_search(
        batches in proptest::collection::vec((1i32..4, 0i64..2000, 0i64..30), 1..60),
        start in 0i64..40,
        upper in 0i64..150,
        reopen in any::<bool>(),
    ) {
        let data = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(data.path(), true).unwrap();
        let small = LogConfig { segment_bytes: 1500, index_interval_bytes: 150, ..config() };
        let mut log = open(&folder, small.clone());
        // Offset, timestamp and the end of its batch.
        let mut records = Vec::new();
        for (count, first_ms, step_ms) in &batches {
            let base = log.log_end().0;
            let batch = Batch::at(0).records(*count).timestamps(*first_ms, *step_ms);
            log.append_as_leader(&valid(batch.bytes()), LeaderEpoch(0), 0).unwrap();
            for i in 0..i64::from(*count) {
                records.push((base + i, first_ms + i * step_ms, log.log_end().0));
            }
        }
        let start = start.min(log.log_end().0);
        log.advance_log_start(Offset(start)).unwrap();
        if reopen {
            log.close().unwrap();
            drop(log);
            log = open(&folder, small);
        }
        let reader = log.reader();
        records.retain(|(offset, _, batch_end)| *offset >= start && *batch_end <= upper);
        for target in (0..2100).step_by(97) {
            let expected = records.iter().find(|(_, ms, _)| *ms >= target).map(|(o, ms, _)| (Offset(*o), *ms));
            prop_assert_eq!(reader.offset_for_time(target, Offset(upper)).unwrap(), expected, "target {}", target);
        }
        let expected = records.iter().rev().max_by_key(|(_, ms, _)| *ms).map(|(o, ms, _)| (Offset(*o), *ms));
        let found = reader.max_timestamp(Offset(upper)).unwrap();
        // A batch whose newest record lies below the log start is found by its header, and has no such record.
        if start == 0 || found.is_some() {
            prop_assert_eq!(found.map(|f| f.1), expected.map(|e| e.1));
        }
    }
}
