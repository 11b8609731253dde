//! Partition logs as they lie on disk: segments of v2 record batches, the active one with a tail of zeros.

use anyhow::Context;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Base offset and length, which the length does not count.
const OVERHEAD: usize = 12;
const HEADER: usize = 61;
const MAGIC_AT: usize = 16;
const LAST_DELTA_AT: usize = 23;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;

/// One batch within a segment's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub base: i64,
    /// The offset after its last record.
    pub end: i64,
    pub bytes: std::ops::Range<usize>,
}

type WithBytes = (Batch, Vec<u8>);

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The batches from the start up to the first that is not whole, or not one.
pub fn batches(bytes: &[u8]) -> Vec<Batch> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(batch) = batch_at(bytes, at) {
        at = batch.bytes.end;
        found.push(batch);
    }
    found
}

fn batch_at(bytes: &[u8], at: usize) -> Option<Batch> {
    let rest = bytes.get(at..)?;
    let base = i64::from_be_bytes(rest.get(..8)?.try_into().ok()?);
    let length = usize::try_from(i32_at(rest, 8)?).ok()? + OVERHEAD;
    let last_delta = i32_at(rest, LAST_DELTA_AT)?;
    let is_batch = length >= HEADER && length <= rest.len() && rest[MAGIC_AT] == 2 && last_delta >= 0;
    is_batch.then(|| Batch { base, end: base + i64::from(last_delta) + 1, bytes: at..at + length })
}

/// The partition folders of a data folder: ("topic-partition", path), sorted.
pub fn partitions(data: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let folder = data.join("partitions");
    let mut found = Vec::new();
    if !folder.exists() {
        // Its node never got so far.
        return Ok(found);
    }
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // "topic-0.<32 hex digits>"; removed ones have a longer suffix.
        if let Some((shown, id)) = name.rsplit_once('.')
            && id.len() == 32
            && entry.file_type()?.is_dir()
        {
            found.push((shown.to_string(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// A partition's segments, oldest first.
pub fn segments(partition: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(partition).with_context(|| partition.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    // Names are base offsets in twenty digits.
    found.sort();
    Ok(found)
}

/// All of a replica's batches, in order, with their bytes.
fn replica(partition: &Path) -> anyhow::Result<Vec<WithBytes>> {
    let mut all = Vec::new();
    for segment in segments(partition)? {
        let bytes = std::fs::read(&segment).with_context(|| segment.display().to_string())?;
        all.extend(batches(&bytes).into_iter().map(|batch| {
            let body = bytes[batch.bytes.clone()].to_vec();
            (batch, body)
        }));
    }
    Ok(all)
}

/// Compares replicas, each named by its node, batch by batch below `high_watermark`; the first difference of each.
pub fn differences(replicas: &[(u16, PathBuf)], high_watermark: i64) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut first: Option<(u16, Vec<WithBytes>)> = None;
    for (node, path) in replicas {
        let mut log = replica(path)?;
        log.retain(|(batch, _)| batch.base < high_watermark);
        found.extend(gap(*node, &log, high_watermark));
        match &first {
            None => first = Some((*node, log)),
            Some((other, reference)) => found.extend(difference(*other, reference, *node, &log)),
        }
    }
    Ok(found)
}

/// The first break in the sequences of each idempotent producer, in one replica: a batch that is there twice or that is
/// missing shows here, whatever the client made of it.
pub fn broken_sequences(partition: &Path) -> anyhow::Result<Vec<String>> {
    let mut producers: BTreeMap<i64, (i16, i32, i64)> = BTreeMap::new();
    let mut found = Vec::new();
    for (batch, bytes) in replica(partition)? {
        let (producer, epoch, sequence) = producer_of(&bytes);
        if producer < 0 {
            continue;
        }
        let next = sequence.wrapping_add(i32::try_from(batch.end - batch.base)?);
        if let Some((last_epoch, expected, offset)) = producers.get(&producer)
            && (epoch < *last_epoch || (epoch == *last_epoch && sequence != *expected))
        {
            found.push(format!(
                "producer {producer} epoch {epoch} has sequence {sequence} at offset {}, after epoch {last_epoch} up to \
                 sequence {} at offset {offset}",
                batch.base,
                expected.wrapping_sub(1)
            ));
        }
        producers.insert(producer, (epoch, next, batch.base));
    }
    Ok(found)
}

fn producer_of(bytes: &[u8]) -> (i64, i16, i32) {
    let id = bytes[PRODUCER_ID_AT..PRODUCER_ID_AT + 8].try_into().expect("eight bytes");
    let epoch = bytes[PRODUCER_EPOCH_AT..PRODUCER_EPOCH_AT + 2].try_into().expect("two bytes");
    let sequence = bytes[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].try_into().expect("four bytes");
    (i64::from_be_bytes(id), i16::from_be_bytes(epoch), i32::from_be_bytes(sequence))
}

/// Whether a log goes without a gap from 0 to the high watermark.
fn gap(node: u16, log: &[WithBytes], high_watermark: i64) -> Option<String> {
    let mut next = 0;
    for (batch, _) in log {
        if batch.base != next {
            return Some(format!("node {node} has offset {} after {next}", batch.base));
        }
        next = batch.end;
    }
    (next < high_watermark).then(|| format!("node {node} ends at {next}, below the high watermark {high_watermark}"))
}

fn difference(a: u16, one: &[WithBytes], b: u16, other: &[WithBytes]) -> Option<String> {
    let (batch, left, right) = one
        .iter()
        .zip(other)
        .find(|((_, left), (_, right))| left != right)
        .map(|((batch, left), (_, right))| (batch, left, right))?;
    let at = left.iter().zip(right).position(|(x, y)| x != y).unwrap_or(left.len().min(right.len()));
    let hex = |bytes: &[u8]| bytes.iter().take(HEADER).map(|byte| format!("{byte:02x}")).collect::<String>();
    Some(format!(
        "the batch at offset {} differs from its byte {at} on: node {a} ({} bytes) {} …, node {b} ({} bytes) {} …",
        batch.base,
        left.len(),
        hex(left),
        right.len(),
        hex(right)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: i64, records: i32, fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; HEADER + 10];
        let length = i32::try_from(bytes.len() - OVERHEAD).unwrap();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[MAGIC_AT] = 2;
        bytes[LAST_DELTA_AT..LAST_DELTA_AT + 4].copy_from_slice(&(records - 1).to_be_bytes());
        bytes
    }

    fn write(name: &str, logs: &[&[Vec<u8>]]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("chaos-logs-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, batches) in logs.iter().enumerate() {
            std::fs::write(folder.join(format!("{number:020}.log")), batches.concat()).unwrap();
        }
        folder
    }

    #[test]
    fn a_zero_tail_and_a_torn_batch_end_the_walk() {
        let whole = [batch(0, 3, 1), batch(3, 1, 2)].concat();
        let found = batches(&[whole.clone(), vec![0; 500]].concat());
        assert_eq!(found.iter().map(|batch| (batch.base, batch.end)).collect::<Vec<_>>(), [(0, 3), (3, 4)]);
        assert_eq!(batches(&whole[..whole.len() - 1]).len(), 1);
        assert_eq!(batches(&[]).len(), 0);
    }

    fn of_producer(base: i64, records: i32, epoch: i16, sequence: i32) -> Vec<u8> {
        let mut bytes = batch(base, records, 0);
        bytes[PRODUCER_ID_AT..PRODUCER_ID_AT + 8].copy_from_slice(&9i64.to_be_bytes());
        bytes[PRODUCER_EPOCH_AT..PRODUCER_EPOCH_AT + 2].copy_from_slice(&epoch.to_be_bytes());
        bytes[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].copy_from_slice(&sequence.to_be_bytes());
        bytes
    }

    #[test]
    fn a_batch_that_is_there_twice_or_missing_breaks_its_producers_sequence() {
        let broken = |name: &str, batches: &[Vec<u8>]| {
            let folder = write(name, &[batches]);
            let found = broken_sequences(&folder).unwrap();
            std::fs::remove_dir_all(folder).unwrap();
            found.len()
        };
        let first = || of_producer(0, 3, 0, 0);
        let of_none = batch(3, 1, 0xff);
        assert_eq!(broken("good", &[first(), of_none, of_producer(4, 2, 0, 3), of_producer(6, 1, 1, 0)]), 0);
        assert_eq!(broken("twice", &[first(), of_producer(3, 3, 0, 0)]), 1);
        assert_eq!(broken("missing", &[first(), of_producer(3, 3, 0, 4)]), 1);
        assert_eq!(broken("old", &[of_producer(0, 3, 1, 0), of_producer(3, 3, 0, 3)]), 1);
    }

    #[test]
    fn replicas_may_roll_segments_elsewhere_but_not_differ_below_the_high_watermark() {
        let a = write("a", &[&[batch(0, 2, 7), batch(2, 2, 7)], &[batch(4, 1, 1)]]);
        let b = write("b", &[&[batch(0, 2, 7)], &[batch(2, 2, 7), batch(4, 1, 9)]]);
        let both = [(1, a.clone()), (2, b.clone())];
        assert_eq!(differences(&both, 4).unwrap(), Vec::<String>::new());
        let found = differences(&both, 5).unwrap();
        assert!(found.len() == 1 && found[0].starts_with("the batch at offset 4 differs"), "{found:?}");
        let found = differences(&both, 6).unwrap();
        assert!(found[0].contains("node 1 ends at 5"), "{found:?}");
        for folder in [a, b] {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}
