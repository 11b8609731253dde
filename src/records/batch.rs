//! The 61-byte header of a v2 record batch (KIP-98).
//!
//! ```text
//!  0 base offset i64 │ 8 batch length i32 │ 12 leader epoch i32 │ 16 magic i8 │ 17 crc u32 │ 21 attributes i16
//! 23 last offset delta i32 │ 27 base timestamp i64 │ 35 max timestamp i64
//! 43 producer id i64 │ 51 producer epoch i16 │ 53 base sequence i32 │ 57 record count i32 │ 61 records
//! ```
//!
//! The CRC covers everything from the attributes on: what stands before it (the offset and the epoch) is the
//! broker's to set.

use super::compression::Compression;
use super::validate::{BatchAt, RecordError};
use crate::ids::*;
use bytes::{Buf, BufMut};

/// Size of the fixed header, up to and including the record count.
pub const HEADER_BYTES: usize = 61;

/// The base offset and the length: what stands before the bytes that the length counts.
pub const LENGTH_OVERHEAD: usize = 12;

/// How many bytes at the front the broker sets without touching the CRC: base offset, length, leader epoch.
pub const PATCHED_BYTES: usize = 16;

/// Where the CRC'd bytes begin.
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const CRC_AT: usize = 17;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
const MAGIC_AT: usize = 16;

pub(super) const COMPRESSION_BITS: i16 = 0x07;
pub(super) const APPEND_TIME_BIT: i16 = 0x08;
pub(super) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(super) const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

/// A parsed batch header. Offsets and counts as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// Bytes after the length field itself: the whole batch is `batch_length + 12`.
    pub batch_length: i32,
    pub leader_epoch: LeaderEpoch,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp_ms: i64,
    pub max_timestamp_ms: i64,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    pub record_count: i32,
}

/// Whose clock a batch's timestamps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

impl BatchHeader {
    /// Parses the header at the start of `bytes`, which may hold less than the whole batch.
    ///
    /// Checked here: magic 2, a length that holds the header at least, and an end offset that does not overflow.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic != 2
        {
            return Err(RecordError::UnsupportedMagic(magic as i8));
        }
        let Some(mut field) = bytes.get(..HEADER_BYTES) else { return Err(RecordError::TooShort(bytes.len())) };
        let header = Self {
            base_offset: Offset(field.get_i64()),
            batch_length: field.get_i32(),
            leader_epoch: LeaderEpoch(field.get_i32()),
            magic: field.get_i8(),
            crc: field.get_u32(),
            attributes: field.get_i16(),
            last_offset_delta: field.get_i32(),
            base_timestamp_ms: field.get_i64(),
            max_timestamp_ms: field.get_i64(),
            producer_id: ProducerId(field.get_i64()),
            producer_epoch: ProducerEpoch(field.get_i16()),
            base_sequence: field.get_i32(),
            record_count: field.get_i32(),
        };
        if header.batch_length < (HEADER_BYTES - LENGTH_OVERHEAD) as i32 {
            return Err(RecordError::BadLength { length: header.batch_length, available: bytes.len() });
        }
        let last = header.base_offset.0.checked_add(i64::from(header.last_offset_delta));
        if last.is_none_or(|last| last == i64::MAX) {
            return Err(RecordError::Malformed(format!("base offset {} is out of range", header.base_offset)));
        }
        Ok(header)
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut field = &mut bytes[..];
        field.put_i64(self.base_offset.0);
        field.put_i32(self.batch_length);
        field.put_i32(self.leader_epoch.0);
        field.put_i8(self.magic);
        field.put_u32(self.crc);
        field.put_i16(self.attributes);
        field.put_i32(self.last_offset_delta);
        field.put_i64(self.base_timestamp_ms);
        field.put_i64(self.max_timestamp_ms);
        field.put_i64(self.producer_id.0);
        field.put_i16(self.producer_epoch.0);
        field.put_i32(self.base_sequence);
        field.put_i32(self.record_count);
        bytes
    }

    /// The whole batch in bytes, header included.
    pub fn size(&self) -> usize {
        // Not negative: `parse` checks it.
        usize::try_from(self.batch_length).unwrap_or(0) + LENGTH_OVERHEAD
    }

    pub fn last_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// One past the last offset.
    pub fn end_offset(&self) -> Offset {
        self.last_offset() + 1
    }

    /// The sequence number of the last record; sequences wrap to 0 after `i32::MAX`.
    pub fn last_sequence(&self) -> i32 {
        sequence_after(self.base_sequence, self.last_offset_delta)
    }

    pub fn compression(&self) -> Result<Compression, RecordError> {
        let bits = (self.attributes & COMPRESSION_BITS) as u8;
        Compression::from_bits(bits).ok_or(RecordError::UnknownCompression(bits))
    }

    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & APPEND_TIME_BIT == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Does the base timestamp hold the time after which tombstones may go (KIP-534)?
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    pub fn has_producer(&self) -> bool {
        self.producer_id.0 >= 0
    }

    /// The first bytes of the batch with offset and epoch as the leader sets them. Written before
    /// `batch[PATCHED_BYTES..]` they are the batch as stored; the CRC still holds.
    pub fn patched(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> [u8; PATCHED_BYTES] {
        let mut bytes = [0; PATCHED_BYTES];
        let mut field = &mut bytes[..];
        field.put_i64(base_offset.0);
        field.put_i32(self.batch_length);
        field.put_i32(leader_epoch.0);
        bytes
    }
}

/// `sequence` moved on by `count`, wrapping to 0 after `i32::MAX`.
pub fn sequence_after(sequence: i32, count: i32) -> i32 {
    ((i64::from(sequence) + i64::from(count)).rem_euclid(1 << 31)) as i32
}

/// The CRC-32C of a whole batch, as its header should state it.
///
/// `batch` must hold a header at least.
pub fn compute_crc(batch: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(&batch[ATTRIBUTES_AT..])
}

/// The batches in `bytes`, by their headers and lengths; CRCs are not computed.
///
/// Ends after the first error: what follows a bad length cannot be found.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { bytes, position: 0 }
}

#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Iterator for Batches<'_> {
    type Item = Result<BatchAt, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.position..).filter(|rest| !rest.is_empty())?;
        let found = BatchHeader::parse(rest).and_then(|header| {
            let size = header.size();
            if size > rest.len() {
                return Err(RecordError::BadLength { length: header.batch_length, available: rest.len() });
            }
            Ok(BatchAt { header, position: self.position, size })
        });
        self.position = found.as_ref().map_or(self.bytes.len(), |batch| batch.position + batch.size);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::BatchBuilder;
    use proptest::prelude::*;

    fn a_batch(values: &[&[u8]]) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for value in values {
            builder.append(5, None, Some(value), &[]);
        }
        builder.build().unwrap().to_vec()
    }

    #[test]
    fn the_patched_start_changes_offset_and_epoch_but_not_the_crc() {
        let mut bytes = a_batch(&[b"a", b"b"]);
        let header = BatchHeader::parse(&bytes).unwrap();
        bytes[..PATCHED_BYTES].copy_from_slice(&header.patched(Offset(70), LeaderEpoch(3)));
        let patched = BatchHeader::parse(&bytes).unwrap();
        assert_eq!((patched.base_offset, patched.leader_epoch), (Offset(70), LeaderEpoch(3)));
        assert_eq!((patched.last_offset(), patched.end_offset()), (Offset(71), Offset(72)));
        assert_eq!(patched.crc, compute_crc(&bytes));
    }

    #[test]
    fn the_iterator_finds_each_batch_and_ends_at_a_cut() {
        let one = a_batch(&[b"a"]);
        let two = a_batch(&[b"bb", b"c"]);
        let bytes = [&one[..], &two, &one[..one.len() - 1]].concat();
        let found: Vec<_> = batches(&bytes).collect();
        assert_eq!(found.len(), 3);
        let second = found[1].as_ref().unwrap();
        assert_eq!((second.position, second.size, second.header.record_count), (one.len(), two.len(), 2));
        assert!(matches!(found[2], Err(RecordError::BadLength { .. })));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 4), 2);
        assert_eq!(sequence_after(7, 0), 7);
    }

    #[test]
    fn an_old_message_is_told_by_its_magic_even_when_short() {
        let mut bytes = [0; 20];
        bytes[16] = 1;
        assert_eq!(BatchHeader::parse(&bytes), Err(RecordError::UnsupportedMagic(1)));
    }

    proptest! {
        #[test]
        fn a_header_survives_the_round_trip(
            base_offset in 0..i64::MAX / 2,
            batch_length in 49..i32::MAX,
            crc: u32,
            attributes: i16,
            last_offset_delta in 0..i32::MAX,
            times: (i64, i64),
            producer: (i64, i16, i32),
        ) {
            let header = BatchHeader {
                base_offset: Offset(base_offset),
                batch_length,
                leader_epoch: LeaderEpoch(4),
                magic: 2,
                crc,
                attributes,
                last_offset_delta,
                base_timestamp_ms: times.0,
                max_timestamp_ms: times.1,
                producer_id: ProducerId(producer.0),
                producer_epoch: ProducerEpoch(producer.1),
                base_sequence: producer.2,
                record_count: 9,
            };
            prop_assert_eq!(BatchHeader::parse(&header.encode()), Ok(header));
        }

        #[test]
        fn no_bytes_make_the_iterator_panic_or_run_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = bytes;
            if bytes.len() > 17 {
                bytes[16] = 2;
                bytes[8..11].fill(0);
            }
            prop_assert!(batches(&bytes).count() <= bytes.len() / HEADER_BYTES + 1);
        }
    }
}
