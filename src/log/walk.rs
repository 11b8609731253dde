//! Walking the batches of a segment by their headers, without reading their records.

use super::partition_log::ReadError;
use crate::ids::*;
use crate::platform::disk::File;
use crate::records::batch::{BatchHeader, HEADER_BYTES};

/// Bytes before and including the length field.
const LENGTH_PREFIX_BYTES: u64 = 12;
/// Attribute bits of a batch (KIP-98).
const COMPRESSION_BITS: i16 = 0x07;
pub(super) const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;

/// What the log asks of a header.
pub(super) trait HeaderFacts {
    /// The whole batch, its length field included.
    fn whole_bytes(&self) -> u64;
    fn last_offset(&self) -> Offset;
    fn next_offset(&self) -> Offset;
    fn is_compressed(&self) -> bool;
    fn has_log_append_time(&self) -> bool;
    fn is_transactional_batch(&self) -> bool;
    fn is_control_batch(&self) -> bool;
}

impl HeaderFacts for BatchHeader {
    fn whole_bytes(&self) -> u64 {
        self.batch_length.max(0) as u64 + LENGTH_PREFIX_BYTES
    }

    fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)))
    }

    fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    fn is_compressed(&self) -> bool {
        self.attributes & COMPRESSION_BITS != 0
    }

    fn has_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME_BIT != 0
    }

    fn is_transactional_batch(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    fn is_control_batch(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }
}

/// A batch and where it starts in its segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub header: BatchHeader,
    pub position: u64,
}

impl Step {
    pub fn end(&self) -> u64 {
        self.position + self.header.whole_bytes()
    }
}

/// Steps from batch to batch through `position..end`, which must be whole batches.
pub(super) struct Walk<'a> {
    file: &'a File,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    buffer_position: u64,
    block_bytes: usize,
}

impl<'a> Walk<'a> {
    /// For a search that ends soon.
    pub fn near(file: &'a File, position: u64, end: u64) -> Self {
        Self::new(file, position, end, 4 * 1024)
    }

    /// For a pass over much of a segment.
    pub fn far(file: &'a File, position: u64, end: u64) -> Self {
        Self::new(file, position, end, 64 * 1024)
    }

    fn new(file: &'a File, position: u64, end: u64, block_bytes: usize) -> Self {
        Walk { file, position, end, buffer: Vec::new(), buffer_position: position, block_bytes }
    }

    /// The next batch; `None` at the end.
    pub fn step(&mut self) -> Result<Option<Step>, ReadError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let within = self.position - self.buffer_position;
        if within + HEADER_BYTES as u64 > self.buffer.len() as u64 {
            let length = (self.end - self.position).min(self.block_bytes as u64) as usize;
            self.buffer = self.file.read_vec_at(length, self.position)?;
            self.buffer_position = self.position;
        }
        let within = (self.position - self.buffer_position) as usize;
        let damaged = |reason: String| ReadError::Damaged(format!("at position {}: {reason}", self.position));
        let header = BatchHeader::parse(&self.buffer[within..(within + HEADER_BYTES).min(self.buffer.len())])
            .map_err(|e| damaged(e.to_string()))?;
        let step = Step { header, position: self.position };
        if step.end() > self.end {
            return Err(damaged(format!("a batch of {} bytes reaches past the end", header.whole_bytes())));
        }
        if header.last_offset_delta < 0 || header.base_offset.0 < 0 {
            return Err(damaged("offsets run backwards".to_string()));
        }
        self.position = step.end();
        Ok(Some(step))
    }
}
