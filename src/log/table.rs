//! A sorted table of fixed-size rows in a file, with its newest rows in memory: what both indexes are made of.
//!
//! Rows are written to the file when enough have gathered, when a segment is sealed and on a clean close, never for a
//! single append: after a crash recovery rebuilds them. A missing file is an empty table.

use super::files::Slot;
use crate::platform::disk::{self, File};
use parking_lot::RwLock;
use std::io;
use std::sync::Arc;

/// Rows kept in memory before they are written to the file.
const UNWRITTEN_ROWS_MAX: usize = 512;
/// A binary search reads the last so many rows at once instead of probing one by one.
const BLOCK_ROWS: u64 = 256;

pub(super) trait Row: Copy {
    const BYTES: usize;
    fn encode(&self, into: &mut Vec<u8>);
    /// `bytes` are `BYTES` long.
    fn decode(bytes: &[u8]) -> Self;
}

pub(super) struct Table<R> {
    slot: Arc<Slot>,
    rows: RwLock<Rows<R>>,
}

/// Invariant: the table is the first `written` rows of the file followed by `unwritten`, and `last` is its last row.
struct Rows<R> {
    /// `None` until the file has been looked at.
    written: Option<u64>,
    unwritten: Vec<R>,
    last: Option<R>,
}

impl<R: Row> Table<R> {
    /// A table whose file does not exist yet, or is to be overwritten.
    pub fn empty(slot: Arc<Slot>) -> Self {
        Table { slot, rows: RwLock::new(Rows { written: Some(0), unwritten: Vec::new(), last: None }) }
    }

    /// A table whose file, if there is one, is read when it is first needed.
    pub fn existing(slot: Arc<Slot>) -> Self {
        Table { slot, rows: RwLock::new(Rows { written: None, unwritten: Vec::new(), last: None }) }
    }

    pub fn last(&self) -> io::Result<Option<R>> {
        {
            let rows = self.rows.read();
            if rows.written.is_some() {
                return Ok(rows.last);
            }
        }
        let mut rows = self.rows.write();
        self.load(&mut rows)?;
        Ok(rows.last)
    }

    /// Adds a row that sorts after all others. Memory only.
    pub fn push(&self, row: R) -> io::Result<()> {
        let mut rows = self.rows.write();
        self.load(&mut rows)?;
        rows.unwritten.push(row);
        rows.last = Some(row);
        Ok(())
    }

    /// Writes the rows in memory to the file if there are many.
    pub fn spill_if_many(&self) -> io::Result<()> {
        if self.rows.read().unwritten.len() < UNWRITTEN_ROWS_MAX {
            return Ok(());
        }
        self.spill().map(|_| ())
    }

    /// Writes all rows to the file; not synced. Answers the file if there is one.
    pub fn spill(&self) -> io::Result<Option<Arc<File>>> {
        let mut rows = self.rows.write();
        self.load(&mut rows)?;
        let written = rows.written.unwrap_or(0);
        if written == 0 && rows.unwritten.is_empty() {
            return Ok(None);
        }
        if !rows.unwritten.is_empty() {
            self.slot.ask((rows.unwritten.len() * R::BYTES) as u64)?;
        }
        let file = self.slot.get_or_create()?;
        if !rows.unwritten.is_empty() {
            let mut bytes = Vec::with_capacity(rows.unwritten.len() * R::BYTES);
            rows.unwritten.iter().for_each(|row| row.encode(&mut bytes));
            if written == 0 {
                // A crash may have left an older table by this name.
                file.set_len(0)?;
            }
            file.write_at(&bytes, written * R::BYTES as u64)?;
            rows.written = Some(written + rows.unwritten.len() as u64);
            // An idle partition must not keep the room of its busy days.
            rows.unwritten = Vec::new();
        }
        Ok(Some(file))
    }

    /// The last row for which `before` holds; it must hold for a prefix of the rows.
    pub fn last_where(&self, before: impl Fn(&R) -> bool) -> io::Result<Option<R>> {
        self.last()?;
        let written = {
            let rows = self.rows.read();
            match rows.unwritten.partition_point(&before) {
                0 => rows.written.unwrap_or(0),
                count => return Ok(Some(rows.unwritten[count - 1])),
            }
        };
        // Outside the lock: written rows change only by truncation, and readers notice that by its generation.
        if written == 0 {
            return Ok(None);
        }
        let file = self.slot.get()?;
        let (count, row) = Self::count_in_file(&file, written, &before)?;
        Ok(if count == 0 { None } else { row })
    }

    /// Keeps the prefix of rows for which `keep` holds.
    pub fn truncate(&self, keep: impl Fn(&R) -> bool) -> io::Result<()> {
        let mut rows = self.rows.write();
        self.load(&mut rows)?;
        let kept = rows.unwritten.partition_point(&keep);
        rows.unwritten.truncate(kept);
        if let Some(last) = rows.unwritten.last().copied() {
            rows.last = Some(last);
            return Ok(());
        }
        let written = rows.written.unwrap_or(0);
        if written > 0 {
            let file = self.slot.get()?;
            let (count, last) = Self::count_in_file(&file, written, &keep)?;
            file.set_len(count * R::BYTES as u64)?;
            rows.written = Some(count);
            rows.last = last;
        } else {
            rows.last = None;
        }
        Ok(())
    }

    /// How many of the file's first `written` rows satisfy `before`, and the last of them.
    fn count_in_file(file: &File, written: u64, before: impl Fn(&R) -> bool) -> io::Result<(u64, Option<R>)> {
        let row_at = |index: u64, count: u64| file.read_vec_at(count as usize * R::BYTES, index * R::BYTES as u64);
        let (mut low, mut high) = (0, written);
        while high - low > BLOCK_ROWS {
            let middle = low + (high - low) / 2;
            let bytes = row_at(middle, 1)?;
            if bytes.len() == R::BYTES && before(&R::decode(&bytes)) {
                low = middle;
            } else {
                high = middle;
            }
        }
        let bytes = row_at(low, high - low)?;
        let mut count = low;
        let mut last = None;
        for row in bytes.chunks_exact(R::BYTES).map(R::decode) {
            if !before(&row) {
                break;
            }
            count += 1;
            last = Some(row);
        }
        Ok((count, last))
    }

    fn load(&self, rows: &mut Rows<R>) -> io::Result<()> {
        if rows.written.is_some() {
            return Ok(());
        }
        // A row torn by a crash is no row.
        let written = match disk::len(&self.slot.path()) {
            Ok(length) => length / R::BYTES as u64,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        if written > 0 {
            let bytes = self.slot.get()?.read_vec_at(R::BYTES, (written - 1) * R::BYTES as u64)?;
            rows.last = (bytes.len() == R::BYTES).then(|| R::decode(&bytes));
        }
        rows.written = Some(written);
        Ok(())
    }
}
