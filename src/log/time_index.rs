//! From a timestamp to an offset (Kafka's `.timeindex`: timestamp in eight bytes, relative offset in four, big endian).
//! A row says: up to here the largest timestamp is this one, and the batch that ends with this offset holds it.

use super::files::Slot;
use super::table::{Row, Table};
use crate::platform::disk::File;
use std::io;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub timestamp_ms: i64,
    /// Offset minus the segment's base offset.
    pub relative: u32,
}

impl Row for Moment {
    const BYTES: usize = 12;

    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        into.extend_from_slice(&self.relative.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut timestamp = [0; 8];
        timestamp.copy_from_slice(&bytes[..8]);
        let mut relative = [0; 4];
        relative.copy_from_slice(&bytes[8..12]);
        Moment { timestamp_ms: i64::from_be_bytes(timestamp), relative: u32::from_be_bytes(relative) }
    }
}

/// Invariant: timestamps and offsets both rise from row to row.
pub(super) struct TimeIndex(Table<Moment>);

impl TimeIndex {
    pub fn empty(slot: Arc<Slot>) -> Self {
        TimeIndex(Table::empty(slot))
    }

    pub fn existing(slot: Arc<Slot>) -> Self {
        TimeIndex(Table::existing(slot))
    }

    /// Adds the largest timestamp so far, unless it has not risen since the last row.
    pub fn push_if_later(&self, moment: Moment) -> io::Result<()> {
        match self.0.last()? {
            Some(last) if moment.timestamp_ms <= last.timestamp_ms || moment.relative <= last.relative => Ok(()),
            _ => self.0.push(moment),
        }
    }

    pub fn last(&self) -> io::Result<Option<Moment>> {
        self.0.last()
    }

    /// The last row at or before `timestamp_ms`: every batch before its batch is older.
    pub fn at_or_before(&self, timestamp_ms: i64) -> io::Result<Option<Moment>> {
        self.0.last_where(|row| row.timestamp_ms <= timestamp_ms)
    }

    /// The last row about offsets below `relative`.
    pub fn below_offset(&self, relative: u32) -> io::Result<Option<Moment>> {
        self.0.last_where(|row| row.relative < relative)
    }

    /// Forgets offsets at or after `relative`.
    pub fn truncate(&self, relative: u32) -> io::Result<()> {
        self.0.truncate(|row| row.relative < relative)
    }

    pub fn spill_if_many(&self) -> io::Result<()> {
        self.0.spill_if_many()
    }

    pub fn spill(&self) -> io::Result<Option<Arc<File>>> {
        self.0.spill()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::files::OpenFiles;
    use crate::platform::disk::room::Room;
    use proptest::prelude::*;
    use std::path::Path;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]
        #[test]
        fn rows_rise_and_are_found(times in proptest::collection::vec(0i64..3000, 0..1200), cut in 0u32..1200) {
            let folder = tempfile::tempdir().unwrap();
            let path: Arc<Path> = folder.path().into();
            let slot = || Slot::new(&OpenFiles::new(8, Room::of(&path)), &path, "0.timeindex".into());
            let index = TimeIndex::empty(slot());
            let mut rows: Vec<Moment> = Vec::new();
            let mut largest = Moment { timestamp_ms: -1, relative: 0 };
            for (i, t) in times.iter().enumerate() {
                let moment = Moment { timestamp_ms: *t, relative: i as u32 + 1 };
                if *t > largest.timestamp_ms { largest = moment; }
                index.push_if_later(largest).unwrap();
                if rows.last().is_none_or(|r| r.timestamp_ms < largest.timestamp_ms) { rows.push(largest); }
            }
            index.truncate(cut).unwrap();
            rows.retain(|r| r.relative < cut);
            index.spill().unwrap();
            let index = TimeIndex::existing(slot());
            prop_assert_eq!(index.last().unwrap(), rows.last().copied());
            for target in (0..3100).step_by(61) {
                let expected = rows.iter().rev().find(|r| r.timestamp_ms <= target).copied();
                prop_assert_eq!(index.at_or_before(target).unwrap(), expected);
            }
            for target in (0..1300).step_by(37) {
                let expected = rows.iter().rev().find(|r| r.relative < target).copied();
                prop_assert_eq!(index.below_offset(target).unwrap(), expected);
            }
        }
    }
}
