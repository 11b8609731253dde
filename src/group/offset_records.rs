//! The records of `__consumer_offsets`, in Kafka's own binary formats, so that Kafka's tools read them.
//!
//! Key: version (2 bytes; 0 and 1 are offset commits), group, topic, partition. Value: version (2 bytes), then by
//! version. Written are key version 1 and value version 3, or 1 where the client gave an expiry time; read are values 0
//! to 4. A record without a value is a tombstone. Strings carry a 2-byte length; integers are big-endian.

use super::offsets::Committed;
use crate::ids::Offset;
use crate::records::batch::batches;
use crate::records::{BatchAt, BatchBuilder, RecordError, Records, ValidBatches};
use bytes::Bytes;
use std::sync::Arc;

/// A commit record is a few hundred bytes; a batch of the broker's own is never near this.
const DECOMPRESSED_BYTES_MAX: usize = 16 << 20;

/// Which offset a record is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetKey {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
}

/// One record to append: a committed offset, or a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetRecord {
    pub key: OffsetKey,
    pub value: Option<Committed>,
}

/// As [`OffsetKey`], in the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRead<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub partition: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetRecordError {
    #[error("a record ends after {0} bytes, in the middle of a field")]
    Truncated(usize),
    #[error("a record has version {0}")]
    Version(i16),
    #[error("a record's text is not UTF-8")]
    NotText,
    #[error("a record has a negative length")]
    NegativeLength,
    #[error(transparent)]
    Batch(#[from] RecordError),
}

const KEY_VERSION: i16 = 1;
const VALUE_VERSION: i16 = 3;
/// The only one with an expiry time; it lacks the leader epoch.
const VALUE_VERSION_EXPIRING: i16 = 1;

impl OffsetKey {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + 2 + self.group.len() + 2 + self.topic.len() + 4);
        bytes.extend(KEY_VERSION.to_be_bytes());
        put_text(&mut bytes, &self.group);
        put_text(&mut bytes, &self.topic);
        bytes.extend(self.partition.to_be_bytes());
        bytes
    }
}

/// `None` for keys of other kinds of records (Kafka keeps group metadata in the same topic).
pub fn decode_key(bytes: &[u8]) -> Result<Option<KeyRead<'_>>, OffsetRecordError> {
    let mut reader = Reader::new(bytes);
    if reader.int16()? > KEY_VERSION {
        return Ok(None);
    }
    Ok(Some(KeyRead { group: reader.text()?, topic: reader.text()?, partition: reader.int32()? }))
}

/// Version 3: offset, leader epoch, metadata, commit time. Version 1: offset, metadata, commit time, expiry time.
pub fn encode_value(committed: &Committed) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + 8 + 4 + 2 + committed.metadata.len() + 8);
    let version = if committed.expire_ms.is_some() { VALUE_VERSION_EXPIRING } else { VALUE_VERSION };
    bytes.extend(version.to_be_bytes());
    bytes.extend(committed.offset.to_be_bytes());
    if version == VALUE_VERSION {
        bytes.extend(committed.leader_epoch.to_be_bytes());
    }
    put_text(&mut bytes, &committed.metadata);
    bytes.extend(committed.commit_ms.to_be_bytes());
    bytes.extend(committed.expire_ms.iter().flat_map(|at| at.to_be_bytes()));
    bytes
}

pub fn decode_value(bytes: &[u8]) -> Result<Committed, OffsetRecordError> {
    let mut reader = Reader::new(bytes);
    let version = reader.int16()?;
    if !(0..=4).contains(&version) {
        return Err(OffsetRecordError::Version(version));
    }
    let offset = reader.int64()?;
    let leader_epoch = if version >= 3 { reader.int32()? } else { -1 };
    let metadata = if version >= 4 { reader.compact_text()? } else { reader.text()? };
    // Version 4 has tagged fields after it, which do not matter here.
    let commit_ms = reader.int64()?;
    // −1, as Kafka's default, is none.
    let expire_ms = if version == VALUE_VERSION_EXPIRING { Some(reader.int64()?).filter(|at| *at >= 0) } else { None };
    let metadata = if metadata.is_empty() { Arc::default() } else { metadata.into() };
    Ok(Committed { offset, leader_epoch, metadata, commit_ms, expire_ms })
}

/// Batches ready to append: each of about `batch_bytes_max` at most, and at least one.
pub fn encode_batches(
    records: &[OffsetRecord],
    now_ms: i64,
    batch_bytes_max: usize,
) -> Result<ValidBatches, OffsetRecordError> {
    let mut all = Vec::new();
    let mut pairs = Vec::new();
    let mut size = 0;
    for record in records {
        let pair = (record.key.encode(), record.value.as_ref().map(encode_value));
        let pair_bytes = pair.0.len() + pair.1.as_ref().map_or(0, Vec::len);
        if size + pair_bytes > batch_bytes_max && !pairs.is_empty() {
            all.extend_from_slice(&build_batch(&pairs, now_ms)?);
            pairs.clear();
            size = 0;
        }
        size += pair_bytes;
        pairs.push(pair);
    }
    if !pairs.is_empty() {
        all.extend_from_slice(&build_batch(&pairs, now_ms)?);
    }
    Ok(ValidBatches::from_broker(Bytes::from(all))?)
}

/// Visits what one read chunk holds, and gives the offset after its last batch. Records of other kinds and control
/// batches are passed over; a record, or the records of a batch, that cannot be read are told to `skipped` and passed
/// over too, as they would be on every node.
pub fn visit_chunk(
    chunk: &[u8],
    mut skipped: impl FnMut(Offset, OffsetRecordError),
    mut visit: impl FnMut(Offset, KeyRead<'_>, Option<Committed>),
) -> Result<Option<Offset>, OffsetRecordError> {
    let mut next = None;
    for at in batches(chunk) {
        let BatchAt { header, position, size } = at?;
        next = Some(header.end_offset());
        if header.is_control() {
            continue;
        }
        // Not an error: it would be met again at every try to load the partition, on every node.
        let records = match open_whole(&chunk[position..position + size]) {
            Ok(records) => records,
            Err(error) => {
                skipped(header.base_offset, error.into());
                continue;
            }
        };
        for record in records.iter().flatten() {
            match decode_pair(record.key, record.value) {
                Ok(Some((key, value))) => visit(record.offset, key, value),
                Ok(None) => {}
                Err(error) => skipped(record.offset, error),
            }
        }
    }
    Ok(next)
}

type PairRead<'a> = (KeyRead<'a>, Option<Committed>);

fn decode_pair<'a>(key: Option<&'a [u8]>, value: Option<&[u8]>) -> Result<Option<PairRead<'a>>, OffsetRecordError> {
    let Some(key) = key else { return Ok(None) };
    let Some(key) = decode_key(key)? else { return Ok(None) };
    Ok(Some((key, value.map(decode_value).transpose()?)))
}

/// Only if every record of it can be read.
fn open_whole(batch: &[u8]) -> Result<Records<'_>, RecordError> {
    let records = Records::open(batch, DECOMPRESSED_BYTES_MAX)?;
    match records.iter().find_map(Result::err) {
        None => Ok(records),
        Some(error) => Err(error),
    }
}

type Pair = (Vec<u8>, Option<Vec<u8>>);

fn build_batch(pairs: &[Pair], now_ms: i64) -> Result<Bytes, RecordError> {
    let mut batch = BatchBuilder::new();
    for (key, value) in pairs {
        batch.append(now_ms, Some(key), value.as_deref(), &[]);
    }
    batch.build()
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    // Group ids and topic names come from 2-byte lengths on the wire, metadata is bounded by configuration.
    let cut = floor_char_boundary(text, usize::from(i16::MAX.unsigned_abs()));
    bytes.extend(i16::try_from(cut).unwrap_or(i16::MAX).to_be_bytes());
    bytes.extend_from_slice(&text.as_bytes()[..cut]);
}

/// The last place at or before `most` where a character begins.
pub(super) fn floor_char_boundary(text: &str, most: usize) -> usize {
    let mut at = text.len().min(most);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

struct Reader<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, whole: bytes.len() }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], OffsetRecordError> {
        if count > self.rest.len() {
            return Err(OffsetRecordError::Truncated(self.whole));
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], OffsetRecordError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn int16(&mut self) -> Result<i16, OffsetRecordError> {
        Ok(i16::from_be_bytes(self.array()?))
    }
    fn int32(&mut self) -> Result<i32, OffsetRecordError> {
        Ok(i32::from_be_bytes(self.array()?))
    }
    fn int64(&mut self) -> Result<i64, OffsetRecordError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, OffsetRecordError> {
        let length = usize::try_from(self.int16()?).map_err(|_| OffsetRecordError::NegativeLength)?;
        self.utf8(length)
    }

    /// A length of one more than there is, as an unsigned varint.
    fn compact_text(&mut self) -> Result<&'a str, OffsetRecordError> {
        let mut length = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            length |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let length = length.checked_sub(1).ok_or(OffsetRecordError::NegativeLength)?;
                return self.utf8(length as usize);
            }
        }
        Err(OffsetRecordError::NegativeLength)
    }

    fn utf8(&mut self, length: usize) -> Result<&'a str, OffsetRecordError> {
        std::str::from_utf8(self.take(length)?).map_err(|_| OffsetRecordError::NotText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> OffsetKey {
        OffsetKey { group: "g1".into(), topic: "orders".into(), partition: 7 }
    }

    fn committed() -> Committed {
        Committed { offset: 258, leader_epoch: 5, metadata: "m".into(), commit_ms: 0x0102_0304_0506, expire_ms: None }
    }

    #[test]
    fn the_key_is_kafkas() {
        assert_eq!(key().encode(), b"\x00\x01\x00\x02g1\x00\x06orders\x00\x00\x00\x07");
    }

    #[test]
    fn the_value_is_kafkas_version_3() {
        assert_eq!(
            encode_value(&committed()),
            b"\x00\x03\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x05\x00\x01m\x00\x00\x01\x02\x03\x04\x05\x06"
        );
    }

    #[test]
    fn values_of_other_versions_are_read() {
        let without_epoch = Committed { leader_epoch: -1, ..committed() };
        let v1 = b"\x00\x01\x00\x00\x00\x00\x00\x00\x01\x02\x00\x01m\x00\x00\x01\x02\x03\x04\x05\x06\
            \x00\x00\x00\x00\x00\x00\x00\x07";
        let expiring = Committed { expire_ms: Some(7), ..without_epoch.clone() };
        assert_eq!(decode_value(v1), Ok(expiring.clone()));
        assert_eq!(
            encode_value(&Committed { leader_epoch: 5, ..expiring }),
            v1,
            "the only version with a place for it"
        );
        let v2 = b"\x00\x02\x00\x00\x00\x00\x00\x00\x01\x02\x00\x01m\x00\x00\x01\x02\x03\x04\x05\x06";
        assert_eq!(decode_value(v2), Ok(without_epoch));
        let v4 = b"\x00\x04\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x05\x02m\x00\x00\x01\x02\x03\x04\x05\x06\x00";
        assert_eq!(decode_value(v4), Ok(committed()));
        assert_eq!(decode_value(b"\x00\x05"), Err(OffsetRecordError::Version(5)));
    }

    #[test]
    fn group_metadata_of_kafka_is_passed_over() {
        assert_eq!(decode_key(b"\x00\x02\x00\x02g1"), Ok(None));
        assert_eq!(decode_pair(None, Some(b"x")), Ok(None));
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_passed_over() {
        let batch = |base: i64| {
            let mut builder = BatchBuilder::new().base_offset(Offset(base));
            builder.append(1, Some(&key().encode()), Some(&encode_value(&committed())), &[]);
            builder.build().unwrap().to_vec()
        };
        let mut malformed = batch(1);
        *malformed.last_mut().unwrap() = 9;
        // The codec is lz4 by the header, and the body is nothing of that kind.
        let mut mislabelled = batch(2);
        mislabelled[22] |= 3;
        let chunk = Bytes::from([batch(0), malformed, mislabelled, batch(3)].concat());
        let mut skipped = Vec::new();
        let mut found = Vec::new();
        let next = visit_chunk(&chunk, |at, _| skipped.push(at.0), |at, _, _| found.push(at.0)).unwrap();
        assert_eq!(found, [0, 3]);
        assert_eq!((skipped, next), (vec![1, 2], Some(Offset(4))));
    }

    #[test]
    fn a_missing_value_is_a_tombstone() {
        let bytes = key().encode();
        let (read, value) = decode_pair(Some(&bytes), None).expect("readable").expect("an offset");
        assert_eq!((read, value), (KeyRead { group: "g1", topic: "orders", partition: 7 }, None));
    }

    proptest! {
        #[test]
        fn keys_and_values_round_trip(
            group in ".{0,40}", topic in "[a-z.]{1,40}", partition: i32,
            offset: i64, leader_epoch: i32, metadata in ".{0,200}", commit_ms: i64,
            expire_ms in proptest::option::of(0..i64::MAX),
        ) {
            let bytes = OffsetKey { group: group.as_str().into(), topic: topic.as_str().into(), partition }.encode();
            prop_assert_eq!(decode_key(&bytes), Ok(Some(KeyRead { group: &group, topic: &topic, partition })));
            let leader_epoch = if expire_ms.is_some() { -1 } else { leader_epoch };
            let value = Committed { offset, leader_epoch, metadata: metadata.into(), commit_ms, expire_ms };
            prop_assert_eq!(decode_value(&encode_value(&value)), Ok(value));
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_key(&bytes);
            let _ = decode_value(&bytes);
            let _ = visit_chunk(&bytes, |_, _| {}, |_, _, _| {});
        }
    }
}
