//! Walking the batches of a segment by their headers, without reading their records.

use super::partition_log::ReadError;
use crate::platform::disk::File;
use crate::records::batch::{BatchHeader, HEADER_BYTES};

/// A batch and where it starts in its segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub header: BatchHeader,
    pub position: u64,
}

impl Step {
    pub fn end(&self) -> u64 {
        self.position + self.header.size() as u64
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
            return Err(damaged(format!("a batch of {} bytes reaches past the end", header.size())));
        }
        if header.last_offset_delta < 0 || header.base_offset.0 < 0 {
            return Err(damaged("offsets run backwards".to_string()));
        }
        self.position = step.end();
        Ok(Some(step))
    }
}
