//! The 61-byte header of a v2 record batch (KIP-98).

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
