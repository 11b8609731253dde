//! From an offset to a position in the segment's `.log` (Kafka's `.index`: relative offset and position, four bytes
//! each, big endian). A row names the last offset of a batch and where that batch starts.

use super::files::Slot;
use super::table::{Row, Table};
use crate::platform::disk::File;
use std::io;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Offset minus the segment's base offset.
    relative: u32,
    position: u32,
}

impl Row for Place {
    const BYTES: usize = 8;

    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.relative.to_be_bytes());
        into.extend_from_slice(&self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Place { relative: number(0), position: number(4) }
    }
}

pub(super) struct OffsetIndex(Table<Place>);

impl OffsetIndex {
    pub fn empty(slot: Arc<Slot>) -> Self {
        OffsetIndex(Table::empty(slot))
    }

    pub fn existing(slot: Arc<Slot>) -> Self {
        OffsetIndex(Table::existing(slot))
    }

    /// The batch at `position` ends with the offset `relative`. Both must be larger than all before.
    pub fn push(&self, relative: u32, position: u32) -> io::Result<()> {
        self.0.push(Place { relative, position })
    }

    /// A position from which walking the batches leads to `relative`. A hint: the walk checks it.
    pub fn lookup(&self, relative: u32) -> io::Result<u32> {
        Ok(self.0.last_where(|row| row.relative <= relative)?.map_or(0, |row| row.position))
    }

    /// Forgets batches at or after `position`.
    pub fn truncate(&self, position: u32) -> io::Result<()> {
        self.0.truncate(|row| row.position < position)
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
        fn lookup_agrees_with_a_linear_search(
            steps in proptest::collection::vec((1u32..50, 1u32..2000), 0..1500),
            spill_at in 0usize..1500,
            cut in any::<prop::sample::Index>(),
            reopen in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path: Arc<Path> = folder.path().into();
            let slot = || Slot::new(&OpenFiles::new(8, Room::of(&path)), &path, "0.index".into());
            let mut index = OffsetIndex::empty(slot());
            let mut rows: Vec<(u32, u32)> = Vec::new();
            let (mut offset, mut position) = (0, 0);
            for (i, (offsets, bytes)) in steps.iter().enumerate() {
                offset += offsets;
                position += bytes;
                index.push(offset, position).unwrap();
                index.spill_if_many().unwrap();
                if i == spill_at { index.spill().unwrap(); }
                rows.push((offset, position));
            }
            let check = |index: &OffsetIndex, rows: &[(u32, u32)]| {
                for target in (0..offset + 60).step_by(17) {
                    let expected = rows.iter().rev().find(|r| r.0 <= target).map_or(0, |r| r.1);
                    assert_eq!(index.lookup(target).unwrap(), expected, "target {target}");
                }
            };
            check(&index, &rows);
            if reopen {
                index.spill().unwrap();
                index = OffsetIndex::existing(slot());
                check(&index, &rows);
            }
            let keep = if rows.is_empty() { 0 } else { cut.index(rows.len()) };
            let at = rows.get(keep).map_or(position + 1, |r| r.1);
            index.truncate(at).unwrap();
            rows.truncate(keep);
            check(&index, &rows);
            index.push(offset + 100, position + 100).unwrap();
            rows.push((offset + 100, position + 100));
            index.spill().unwrap();
            check(&OffsetIndex::existing(slot()), &rows);
        }
    }
}
