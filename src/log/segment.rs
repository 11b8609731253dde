//! One segment: a `.log` of whole batches, named by its base offset, and its two indexes.
//!
//! A segment is shared between the log that owns it and its readers. Only the owner changes it; readers see bytes below
//! `size`, which is stored after the bytes were written.

use super::files::{OpenFiles, Slot};
use super::offset_index::OffsetIndex;
use super::partition_log::ReadError;
use super::time_index::{Moment, TimeIndex};
use super::walk::{Step, Walk};
use crate::ids::*;
use crate::platform::disk;
use crate::records::BatchHeader;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Positions in the index have four bytes, and Kafka reads them as signed.
pub(super) const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// "00000000000000000123.log": twenty digits, so that names sort as offsets do.
pub(super) fn file_name(base: Offset, extension: &str) -> String {
    format!("{:020}.{extension}", base.0)
}

/// The offset and extension of a name made by [`file_name`].
pub(super) fn parse_file_name(name: &str) -> Option<(Offset, &str)> {
    let (digits, extension) = name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((Offset(digits.parse().ok()?), extension))
}

pub(super) struct Segment {
    pub base: Offset,
    /// Bytes of whole batches. The file may be longer: preallocation, or the remains of a failed write.
    size: AtomicU64,
    pub log: Arc<Slot>,
    offsets: OffsetIndex,
    times: TimeIndex,
    newest: Mutex<Newest>,
}

/// The largest timestamp, and the last offset of the first batch that has it.
#[derive(Clone, Copy)]
enum Newest {
    /// Not looked up since the segment was opened: the time index's last row tells.
    Unread,
    Known(Option<(i64, Offset)>),
}

impl Segment {
    /// A segment without a byte and perhaps without a file.
    pub fn empty(files: &Arc<OpenFiles>, folder: &Arc<Path>, base: Offset) -> Arc<Segment> {
        Arc::new(Segment {
            base,
            size: AtomicU64::new(0),
            log: Slot::new(files, folder, file_name(base, "log")),
            offsets: OffsetIndex::empty(Slot::new(files, folder, file_name(base, "index"))),
            times: TimeIndex::empty(Slot::new(files, folder, file_name(base, "timeindex"))),
            newest: Mutex::new(Newest::Known(None)),
        })
    }

    /// A segment whose indexes on disk are good.
    pub fn existing(files: &Arc<OpenFiles>, folder: &Arc<Path>, base: Offset, size: u64) -> Arc<Segment> {
        Arc::new(Segment {
            base,
            size: AtomicU64::new(size),
            log: Slot::new(files, folder, file_name(base, "log")),
            offsets: OffsetIndex::existing(Slot::new(files, folder, file_name(base, "index"))),
            times: TimeIndex::existing(Slot::new(files, folder, file_name(base, "timeindex"))),
            newest: Mutex::new(Newest::Unread),
        })
    }

    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Shows the bytes below `size` to readers.
    pub fn publish_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Whether a batch that ends with `last` can be named relative to this segment's base.
    pub fn can_name(&self, last: Offset) -> bool {
        last - self.base <= i64::from(i32::MAX)
    }

    fn relative(&self, offset: Offset) -> u32 {
        u32::try_from((offset - self.base).max(0)).unwrap_or(u32::MAX)
    }

    fn absolute(&self, relative: u32) -> Offset {
        self.base + i64::from(relative)
    }

    /// Notes a batch for the indexes. `since_index` counts bytes since the last row; a row is made when it exceeds
    /// `interval`. Memory only.
    pub fn note(&self, header: &BatchHeader, position: u64, since_index: &mut u64, interval: u32) -> io::Result<()> {
        let last = header.last_offset();
        let newest = {
            let mut newest = self.newest.lock();
            let known = self.known(&mut newest)?;
            if header.max_timestamp_ms >= 0 && known.is_none_or(|(ms, _)| header.max_timestamp_ms > ms) {
                *newest = Newest::Known(Some((header.max_timestamp_ms, last)));
                Some((header.max_timestamp_ms, last))
            } else {
                known
            }
        };
        if *since_index > u64::from(interval) {
            self.offsets.push(self.relative(last), u32::try_from(position).unwrap_or(u32::MAX))?;
            if let Some((timestamp_ms, offset)) = newest {
                self.times.push_if_later(Moment { timestamp_ms, relative: self.relative(offset) })?;
            }
            *since_index = 0;
        }
        *since_index += header.size() as u64;
        Ok(())
    }

    pub fn spill_if_many(&self) -> io::Result<()> {
        self.offsets.spill_if_many()?;
        self.times.spill_if_many()
    }

    /// Writes both indexes, the time index closed by the largest timestamp. Not synced.
    pub fn write_indexes(&self) -> io::Result<Vec<Arc<disk::File>>> {
        if let Some((timestamp_ms, offset)) = self.newest()? {
            self.times.push_if_later(Moment { timestamp_ms, relative: self.relative(offset) })?;
        }
        Ok([self.offsets.spill()?, self.times.spill()?].into_iter().flatten().collect())
    }

    /// The largest timestamp and the last offset of the batch that has it; `None` if no batch has one.
    pub fn newest(&self) -> io::Result<Option<(i64, Offset)>> {
        self.known(&mut self.newest.lock())
    }

    fn known(&self, newest: &mut Newest) -> io::Result<Option<(i64, Offset)>> {
        Ok(match *newest {
            Newest::Known(known) => known,
            Newest::Unread => {
                let known = self.times.last()?.map(|row| (row.timestamp_ms, self.absolute(row.relative)));
                *newest = Newest::Known(known);
                known
            }
        })
    }

    /// Where the batch that holds `offset` begins, or a little before it: the index knows one batch in every few KiB, and
    /// no batch is read.
    pub fn position_before(&self, offset: Offset) -> io::Result<u64> {
        Ok(u64::from(self.offsets.lookup(self.relative(offset))?).min(self.size()))
    }

    /// The first batch that ends at or after `offset`; `None` if all end before it.
    pub fn locate(&self, offset: Offset) -> Result<Option<Step>, ReadError> {
        let size = self.size();
        if size == 0 {
            return Ok(None);
        }
        let hint = u64::from(self.offsets.lookup(self.relative(offset))?);
        if hint > 0
            && hint < size
            && let Some(found) = self.walk_to(hint, size, offset, true)?
        {
            return Ok(found);
        }
        Ok(self.walk_to(0, size, offset, false)?.flatten())
    }

    /// Walks from `from`. Outer `None`: `from` came from an index and is no good, so the index is not to be trusted.
    fn walk_to(&self, from: u64, size: u64, offset: Offset, hinted: bool) -> Result<Option<Option<Step>>, ReadError> {
        let file = self.log.get()?;
        let mut walk = Walk::near(&file, from, size);
        let mut first = true;
        loop {
            match walk.step() {
                Ok(Some(step)) => {
                    if first && hinted && (step.header.base_offset > offset || step.header.base_offset < self.base) {
                        return Ok(None);
                    }
                    first = false;
                    if step.header.last_offset() >= offset {
                        return Ok(Some(Some(step)));
                    }
                }
                Ok(None) => return Ok(Some(None)),
                Err(ReadError::Damaged(_)) if hinted => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// A position from which a walk meets the first batch whose largest timestamp is ≥ `timestamp_ms`.
    pub fn position_for_time(&self, timestamp_ms: i64, from: Offset) -> Result<u64, ReadError> {
        let start = match self.times.at_or_before(timestamp_ms)? {
            Some(row) => self.absolute(row.relative).max(from),
            None => from,
        };
        Ok(self.locate(start)?.map_or(self.size(), |step| step.position))
    }

    /// The largest timestamp that the time index knows of batches below `upper`, as (timestamp, last offset of the
    /// batch); batches at and after that offset must still be looked at.
    pub fn newest_indexed_below(&self, upper: Offset) -> io::Result<Option<(i64, Offset)>> {
        Ok(self.times.below_offset(self.relative(upper))?.map(|row| (row.timestamp_ms, self.absolute(row.relative))))
    }

    /// The largest timestamp below `position`, where the first batch of offset `end` or later begins, and the last offset
    /// of the batch that has it: the time index's last row, and the batches after it. Changes nothing.
    pub fn newest_below(&self, position: u64, end: Offset) -> Result<Option<(i64, Offset)>, ReadError> {
        let mut newest = self.newest_indexed_below(end)?;
        let from = match newest {
            Some((_, offset)) if position > 0 => self.locate(offset)?.map_or(position, |step| step.position),
            _ => 0,
        };
        if from < position {
            let file = self.log.get()?;
            let mut walk = Walk::far(&file, from, position);
            while let Some(step) = walk.step()? {
                let ms = step.header.max_timestamp_ms;
                if ms >= 0 && newest.is_none_or(|(best, _)| ms > best) {
                    newest = Some((ms, step.header.last_offset()));
                }
            }
        }
        Ok(newest)
    }

    /// Cuts the segment at `position`, where `end` is the offset of the first batch cut off and `newest` is what
    /// [`Segment::newest_below`] says of it. The bytes are gone from the file when this returns, and durably so.
    pub fn truncate(&self, position: u64, end: Offset, newest: Option<(i64, Offset)>) -> io::Result<()> {
        self.publish_size(position);
        if disk::exists(&self.log.path()) {
            let file = self.log.get()?;
            file.set_len(position)?;
            file.sync_data()?;
        }
        self.offsets.truncate(u32::try_from(position).unwrap_or(u32::MAX))?;
        self.times.truncate(self.relative(end))?;
        *self.newest.lock() = Newest::Known(newest);
        Ok(())
    }

    /// The files that go when the segment goes.
    pub fn paths(&self, folder: &Path) -> Vec<PathBuf> {
        ["log", "index", "timeindex", "txnindex"].iter().map(|e| folder.join(file_name(self.base, e))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_sort_as_offsets() {
        assert_eq!(file_name(Offset(42), "log"), "00000000000000000042.log");
        assert_eq!(parse_file_name("00000000000000000042.log"), Some((Offset(42), "log")));
        for wrong in ["42.log", "0000000000000000004x.log", "00000000000000000042", "99999999999999999999.log", ""] {
            assert_eq!(parse_file_name(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn names_round_trip(offset in 0..i64::MAX) {
            let name = file_name(Offset(offset), "timeindex");
            prop_assert_eq!(parse_file_name(&name), Some((Offset(offset), "timeindex")));
        }
    }
}
