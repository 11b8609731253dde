//! Checks of batches that come from a client, a leader or a disk. Never decompresses what need not be read.

use super::batch::BatchHeader;
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
    #[error("{0}")]
    Malformed(String),
    #[error("no batch at all")]
    Empty,
}

/// One batch inside a [`ValidBatches`].
#[derive(Clone, Copy, Debug)]
pub struct BatchAt {
    pub header: BatchHeader,
    /// Where it starts in the bytes, and its whole size.
    pub position: usize,
    pub size: usize,
}

/// Bytes that are whole batches with good headers and CRCs. Only the checks below make one.
#[derive(Clone, Debug)]
pub struct ValidBatches {
    pub bytes: Bytes,
    pub batches: Vec<BatchAt>,
}

impl ValidBatches {
    /// Of a client: magic 2, exact lengths, CRC, no control batches, count > 0 and matching deltas.
    pub fn from_client(bytes: Bytes) -> Result<Self, RecordError> {
        let _ = bytes;
        todo!()
    }

    /// Of a leader (a Fetch answer): as above, control batches allowed, a partial batch at the end is dropped.
    pub fn from_leader(bytes: Bytes) -> Result<Self, RecordError> {
        let _ = bytes;
        todo!()
    }

    /// Written by the broker itself (groups, transactions).
    pub fn from_broker(bytes: Bytes) -> Result<Self, RecordError> {
        let _ = bytes;
        todo!()
    }
}

/// Checks the CRC of one whole batch.
pub fn check_crc(batch: &[u8]) -> Result<(), RecordError> {
    let header = BatchHeader::parse(batch)?;
    let computed = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
    if computed == header.crc { Ok(()) } else { Err(RecordError::BadCrc { stored: header.crc, computed }) }
}
