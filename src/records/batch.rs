//! The 61-byte header of a v2 record batch (KIP-98).

use super::validate::RecordError;
use crate::ids::*;

/// Size of the fixed header, up to and including the record count.
pub const HEADER_BYTES: usize = 61;

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

impl BatchHeader {
    /// Reads the header at the start of `bytes`; the rest of the batch need not be there.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, RecordError> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(RecordError::TooShort(bytes.len()))?;
        let int = |at: usize| i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let short = |at: usize| i16::from_be_bytes([header[at], header[at + 1]]);
        let long = |at: usize| (i64::from(int(at)) << 32) | i64::from(int(at + 4) as u32);
        let magic = header[16] as i8;
        if magic != 2 {
            return Err(RecordError::UnsupportedMagic(magic));
        }
        let batch_length = int(8);
        if batch_length < (HEADER_BYTES - 12) as i32 {
            return Err(RecordError::BadLength { length: batch_length, available: bytes.len() });
        }
        Ok(BatchHeader {
            base_offset: Offset(long(0)),
            batch_length,
            leader_epoch: LeaderEpoch(int(12)),
            magic,
            crc: int(17) as u32,
            attributes: short(21),
            last_offset_delta: int(23),
            base_timestamp_ms: long(27),
            max_timestamp_ms: long(35),
            producer_id: ProducerId(long(43)),
            producer_epoch: ProducerEpoch(short(51)),
            base_sequence: int(53),
            record_count: int(57),
        })
    }
}
