//! Checks of batches that come from a client, a leader or a disk. Never decompresses what need not be read.

use super::batch::{self, BatchHeader, HEADER_BYTES, TimestampType};
use super::compression::Compression;
use super::record::{RECORD_BYTES_MIN, Records};
use crate::ids::Offset;
use bytes::Bytes;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("{0} bytes are too short for a record batch")]
    TooShort(usize),
    #[error("the batch's length {length} does not fit the {available} bytes there")]
    BadLength { length: i32, available: usize },
    #[error("magic {0} is not supported; only record batches of magic 2 are")]
    UnsupportedMagic(i8),
    #[error("the CRC is {computed:#010x}, the header says {stored:#010x}")]
    BadCrc { stored: u32, computed: u32 },
    #[error("a client may not send control batches")]
    ControlBatch,
    #[error("the record count {count} does not match the last offset delta {last_offset_delta}")]
    BadCount { count: i32, last_offset_delta: i32 },
    #[error("compression {0} is unknown")]
    UnknownCompression(u8),
    #[error("the records decompress to more than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Malformed(String),
    #[error("no batch at all")]
    Empty,
}

/// One batch inside a [`ValidBatches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchAt {
    pub header: BatchHeader,
    /// Where it starts in the bytes, and its whole size.
    pub position: usize,
    pub size: usize,
}

impl BatchAt {
    /// The batch's bytes within those it was found in.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.position..self.position + self.size]
    }
}

/// Bytes that are whole batches with good headers and CRCs. Only the checks below make one.
#[derive(Clone, Debug)]
pub struct ValidBatches {
    pub bytes: Bytes,
    pub batches: Vec<BatchAt>,
}

impl ValidBatches {
    /// Of a client: magic 2, exact lengths, CRC, no control batches, count > 0 and matching deltas.
    ///
    /// The base offset is ignored: the leader sets it.
    pub fn from_client(bytes: Bytes) -> Result<Self, RecordError> {
        let valid = Self::walk(bytes, Cut::Refused)?;
        valid.headers().try_for_each(check_client_header)?;
        Ok(valid)
    }

    /// Of a leader (a Fetch answer): as above, control batches allowed, a partial batch at the end is dropped.
    ///
    /// Compaction leaves gaps in offsets and even batches with no records, so counts may be below the deltas; offsets
    /// must rise from batch to batch.
    pub fn from_leader(bytes: Bytes) -> Result<Self, RecordError> {
        let valid = Self::walk(bytes, Cut::Dropped)?;
        let mut end = Offset::ZERO;
        for header in valid.headers() {
            if header.base_offset < end || header.last_offset_delta < 0 {
                return Err(RecordError::Malformed(format!(
                    "the batch at offset {} (last delta {}) follows offset {end}",
                    header.base_offset, header.last_offset_delta
                )));
            }
            if header.record_count < 0 || i64::from(header.record_count) > i64::from(header.last_offset_delta) + 1 {
                return Err(bad_count(header));
            }
            end = header.end_offset();
        }
        Ok(valid)
    }

    /// Written by the broker itself (groups, transactions).
    pub fn from_broker(bytes: Bytes) -> Result<Self, RecordError> {
        let valid = Self::walk(bytes, Cut::Refused)?;
        valid.headers().try_for_each(check_count)?;
        Ok(valid)
    }

    pub fn headers(&self) -> impl Iterator<Item = &BatchHeader> {
        self.batches.iter().map(|batch| &batch.header)
    }

    /// Each batch with its own bytes, which share this allocation.
    pub fn each(&self) -> impl Iterator<Item = (&BatchAt, Bytes)> {
        self.batches.iter().map(|batch| (batch, self.bytes.slice(batch.position..batch.position + batch.size)))
    }

    /// How many offsets the batches take.
    pub fn offset_count(&self) -> i64 {
        self.headers().map(|header| i64::from(header.last_offset_delta) + 1).sum()
    }

    /// The largest batch in bytes, which `max.message.bytes` bounds.
    pub fn largest_batch(&self) -> usize {
        self.batches.iter().map(|batch| batch.size).max().unwrap_or(0)
    }

    /// The newest timestamp that the headers state.
    pub fn max_timestamp_ms(&self) -> i64 {
        self.headers().map(|header| header.max_timestamp_ms).max().unwrap_or(-1)
    }

    /// Lengths, magic, compression and CRCs: what holds for every batch, wherever it comes from.
    ///
    /// Allocates one entry per 61 bytes there at most.
    fn walk(mut bytes: Bytes, cut: Cut) -> Result<Self, RecordError> {
        let mut found = Vec::new();
        let mut end = 0;
        for next in batch::batches(&bytes) {
            let at = match next {
                Ok(at) => at,
                Err(error) if cut == Cut::Dropped && is_cut_off(&error) => break,
                Err(error) => return Err(error),
            };
            at.header.compression()?;
            let computed = batch::compute_crc(at.of(&bytes));
            if computed != at.header.crc {
                return Err(RecordError::BadCrc { stored: at.header.crc, computed });
            }
            end = at.position + at.size;
            found.push(at);
        }
        if found.is_empty() {
            return Err(RecordError::Empty);
        }
        bytes.truncate(end);
        Ok(Self { bytes, batches: found })
    }
}

/// What becomes of a batch at the end that is not there in full.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Refused,
    Dropped,
}

/// Was the batch merely cut short, rather than wrong?
fn is_cut_off(error: &RecordError) -> bool {
    match error {
        RecordError::TooShort(_) => true,
        RecordError::BadLength { length, available } => {
            usize::try_from(*length).is_ok_and(|n| n > 48 && n + 12 > *available)
        }
        _ => false,
    }
}

fn check_count(header: &BatchHeader) -> Result<(), RecordError> {
    if header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        return Err(bad_count(header));
    }
    Ok(())
}

fn bad_count(header: &BatchHeader) -> RecordError {
    RecordError::BadCount { count: header.record_count, last_offset_delta: header.last_offset_delta }
}

fn check_client_header(header: &BatchHeader) -> Result<(), RecordError> {
    let malformed = |text: &str| Err(RecordError::Malformed(text.to_string()));
    check_count(header)?;
    let room = header.size() - HEADER_BYTES;
    if header.compression()? == Compression::None && header.record_count as usize > room / RECORD_BYTES_MIN {
        return Err(bad_count(header));
    }
    if header.is_control() {
        return Err(RecordError::ControlBatch);
    }
    if header.has_producer() && (header.base_sequence < 0 || header.producer_epoch.0 < 0) {
        return malformed("a batch with a producer id needs a sequence number and an epoch");
    }
    if header.is_transactional() && !header.has_producer() {
        return malformed("a transactional batch needs a producer id");
    }
    if header.timestamp_type() == TimestampType::LogAppendTime || header.has_delete_horizon() {
        return malformed("the append time and the delete horizon are the broker's to set");
    }
    Ok(())
}

/// What only the records themselves tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsSeen {
    pub records: usize,
    /// How many have no key, which a compacted topic may not store.
    pub without_key: usize,
    /// The newest timestamp and the first offset that bears it; −1 where there are no records.
    pub max_timestamp_ms: i64,
    pub max_timestamp_offset: Offset,
}

/// Reads all records of one batch, decompressing at most `decompressed_max` bytes.
pub fn look_into(batch: &[u8], decompressed_max: usize) -> Result<RecordsSeen, RecordError> {
    let records = Records::open(batch, decompressed_max)?;
    let mut seen = RecordsSeen { records: 0, without_key: 0, max_timestamp_ms: -1, max_timestamp_offset: Offset(-1) };
    for record in records.iter() {
        let record = record?;
        seen.records += 1;
        seen.without_key += usize::from(record.key.is_none());
        if seen.max_timestamp_offset.0 < 0 || record.timestamp_ms > seen.max_timestamp_ms {
            seen.max_timestamp_ms = record.timestamp_ms;
            seen.max_timestamp_offset = record.offset;
        }
    }
    Ok(seen)
}

/// Refuses records without a key: a compacted topic could never remove them.
pub fn check_keys(batches: &ValidBatches, decompressed_max: usize) -> Result<(), RecordError> {
    for batch in &batches.batches {
        let seen = look_into(batch.of(&batches.bytes), decompressed_max)?;
        if seen.without_key > 0 {
            let text =
                format!("{} of {} records have no key, but the topic is compacted", seen.without_key, seen.records);
            return Err(RecordError::Malformed(text));
        }
    }
    Ok(())
}

/// Checks the CRC of one whole batch, found on a disk say.
pub fn check_crc(batch: &[u8]) -> Result<(), RecordError> {
    let header = BatchHeader::parse(batch)?;
    let whole = batch
        .get(..header.size())
        .ok_or(RecordError::BadLength { length: header.batch_length, available: batch.len() })?;
    let computed = batch::compute_crc(whole);
    if computed == header.crc { Ok(()) } else { Err(RecordError::BadCrc { stored: header.crc, computed }) }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{APPEND_TIME_BIT, CONTROL_BIT, TRANSACTIONAL_BIT};
    use super::*;
    use crate::ids::*;
    use crate::records::BatchBuilder;
    use proptest::prelude::*;

    fn a_batch() -> Bytes {
        let mut builder = BatchBuilder::new();
        builder.append(10, Some(b"k"), Some(b"v"), &[]);
        builder.append(12, None, Some(b"w"), &[]);
        builder.build().unwrap()
    }

    /// The batch with its header changed and its CRC made good again.
    fn changed(bytes: &Bytes, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
        let mut header = BatchHeader::parse(bytes).unwrap();
        change(&mut header);
        let mut bytes = [&header.encode()[..], &bytes[61..]].concat();
        header.crc = batch::compute_crc(&bytes);
        bytes[..61].copy_from_slice(&header.encode());
        Bytes::from(bytes)
    }

    #[test]
    fn several_good_batches_pass() {
        let bytes = Bytes::from([a_batch(), a_batch()].concat());
        let valid = ValidBatches::from_client(bytes.clone()).unwrap();
        assert_eq!((valid.batches.len(), valid.offset_count(), valid.max_timestamp_ms()), (2, 4, 12));
        assert_eq!(valid.each().nth(1).unwrap().1, a_batch());
        assert_eq!(valid.largest_batch(), a_batch().len());
    }

    #[test]
    fn what_a_client_may_not_send() {
        type Change = fn(&mut BatchHeader);
        let refused: [(&str, Change); 8] = [
            ("control", |h| h.attributes |= CONTROL_BIT),
            ("count", |h| h.record_count = 0),
            ("count", |h| h.record_count = -3),
            ("count", |h| h.last_offset_delta = 7),
            ("sequence", |h| h.producer_id = ProducerId(4)),
            ("producer id", |h| h.attributes |= TRANSACTIONAL_BIT),
            ("append time", |h| h.attributes |= APPEND_TIME_BIT),
            ("unknown", |h| h.attributes |= 7),
        ];
        for (word, change) in refused {
            let error = ValidBatches::from_client(changed(&a_batch(), change)).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
        for length in [-1, 0, 48, i32::MAX] {
            let bytes = changed(&a_batch(), |h| h.batch_length = length);
            assert!(matches!(ValidBatches::from_client(bytes), Err(RecordError::BadLength { .. })), "{length}");
        }
        assert_eq!(ValidBatches::from_client(Bytes::new()).unwrap_err(), RecordError::Empty);
        let trailing = Bytes::from([&a_batch()[..], &[0, 1, 2]].concat());
        assert_eq!(ValidBatches::from_client(trailing).unwrap_err(), RecordError::TooShort(3));
    }

    #[test]
    fn one_flipped_bit_after_the_crc_is_seen() {
        let good = a_batch();
        for at in 21..good.len() {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1;
            assert!(ValidBatches::from_client(Bytes::from(bytes)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_leaders_answer_may_end_inside_a_batch() {
        let second = changed(&a_batch(), |h| h.base_offset = Offset(2));
        let bytes = [a_batch(), second.clone()].concat();
        for cut in a_batch().len()..bytes.len() {
            let valid = ValidBatches::from_leader(Bytes::copy_from_slice(&bytes[..cut])).unwrap();
            assert_eq!((valid.batches.len(), valid.bytes.len()), (1, a_batch().len()), "cut at {cut}");
        }
        assert_eq!(ValidBatches::from_leader(Bytes::from(bytes)).unwrap().batches.len(), 2);
        let backwards = Bytes::from([second, a_batch()].concat());
        assert!(ValidBatches::from_leader(backwards).is_err(), "offsets must rise");
    }

    #[test]
    fn a_leaders_batch_may_have_lost_records_to_compaction() {
        let compacted = changed(&a_batch(), |h| h.last_offset_delta = 40);
        assert_eq!(ValidBatches::from_leader(compacted.clone()).unwrap().offset_count(), 41);
        assert!(ValidBatches::from_client(compacted).is_err());
    }

    #[test]
    fn records_without_a_key_are_found_under_every_codec() {
        for codec in Compression::ALL {
            let mut builder = BatchBuilder::new().compression(codec);
            builder.append(10, Some(b"k"), None, &[]);
            builder.append(30, Some(b"l"), None, &[]);
            builder.append(20, Some(b"m"), None, &[]);
            let keyed = ValidBatches::from_client(builder.clone().build().unwrap()).unwrap();
            check_keys(&keyed, 1000).unwrap();
            let seen = look_into(&keyed.bytes, 1000).unwrap();
            assert_eq!((seen.max_timestamp_ms, seen.max_timestamp_offset), (30, Offset(1)));
            builder.append(40, None, Some(b"x"), &[]);
            let keyless = ValidBatches::from_client(builder.build().unwrap()).unwrap();
            assert!(check_keys(&keyless, 1000).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_change_to_a_batch_makes_a_check_panic(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
            mend: bool,
        ) {
            let mut bytes = a_batch().to_vec();
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            if mend && bytes.len() > 61 {
                let crc = batch::compute_crc(&bytes);
                bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            }
            let bytes = Bytes::from(bytes);
            for valid in [ValidBatches::from_client(bytes.clone()), ValidBatches::from_leader(bytes)].into_iter().flatten() {
                let _ = check_keys(&valid, 1000);
            }
        }
    }
}
