//! One file's content and length.

use super::tree::FilePlace;
use super::{Chance, Random};
use crate::entry::{self, Data};
use crate::recorder::head;
use crate::sys;
use std::io;

/// Disks write whole sectors.
const SECTOR: u64 = 512;
/// Sectors of a page often, but not always, go together.
const SECTORS_PER_PAGE: u64 = 8;

/// Entries of one call.
struct Call {
    entries: Vec<Data>,
    is_shrink: bool,
    old_size: u64,
}

/// Undoes what the chance says; gives how many calls were up for it.
pub(super) fn rewind(journal: &[u8], place: &FilePlace, chance: Chance) -> io::Result<usize> {
    let (base, _) = head(journal);
    let Some(bytes) = usize::try_from(base).ok().and_then(|base| journal.get(base..)) else { return Ok(0) };
    let calls = calls(entry::all(bytes, Data::decode).0);
    let size_now = sys::stat(place.fd.0)?.size;
    let Some(cuts) = Cuts::choose(&calls, chance) else { return Ok(calls.len()) };

    // Over the longest that the file ever was, zeros stand for what is past its end.
    let longest = calls.iter().map(|call| call.old_size).max().unwrap_or(0).max(size_now);
    sys::set_len(place.fd.0, longest)?;
    for (number, call) in calls.iter().enumerate().rev() {
        for data in &call.entries {
            undo(place, data, |sector| cuts.of_sector(sector, call.is_shrink) <= number)?;
        }
    }
    let size = calls.get(cuts.size).map_or(size_now, |call| call.old_size);
    sys::set_len(place.fd.0, size)?;
    Ok(calls.len())
}

fn calls(entries: Vec<Data>) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut open = Vec::new();
    for entry in entries {
        let (is_last, is_shrink, old_size) = (entry.is_last, entry.is_shrink, entry.old_size);
        open.push(entry);
        if is_last {
            calls.push(Call { entries: std::mem::take(&mut open), is_shrink, old_size });
        }
    }
    // What is still open was being journalled at the kill: the call never came.
    calls
}

/// How many calls the disk has of each sector, and of the length. Calls from there on are undone.
struct Cuts {
    size: usize,
    low: usize,
    high: usize,
    /// `None`: all sectors at `low`; else each page by itself, now and then each sector.
    scattered: Option<u64>,
}

impl Cuts {
    /// `None`: nothing is undone.
    fn choose(calls: &[Call], chance: Chance) -> Option<Cuts> {
        let count = calls.len();
        match chance {
            _ if count == 0 => None,
            Chance::Keep => None,
            Chance::Drop => Some(Cuts { size: 0, low: 0, high: 0, scattered: None }),
            Chance::Random(mut random) => {
                let size = random.between(0, count);
                // A truncation is a step of the file system's journal: what came before it is gone with it, and what
                // came after an undone one cannot be there.
                let shrinks = |mut range: std::ops::Range<usize>, newest: bool| match newest {
                    true => range.rfind(|at| calls[*at].is_shrink),
                    false => range.find(|at| calls[*at].is_shrink),
                };
                let low = shrinks(0..size, true).map_or(0, |at| at + 1);
                let high = shrinks(size..count, false).unwrap_or(count);
                let seed = random.next();
                Some(match random.between(0, 3) {
                    0 => Cuts { size, low: size, high: size, scattered: None },
                    // The last call only in part.
                    1 => Cuts { size, low: size.saturating_sub(1).max(low), high: size, scattered: Some(seed) },
                    _ => Cuts { size, low, high, scattered: Some(seed) },
                })
            }
        }
    }

    fn of_sector(&self, sector: u64, is_shrink: bool) -> usize {
        match self.scattered {
            _ if is_shrink => self.size,
            None => self.low,
            Some(seed) => {
                let mut page = Random(seed ^ (sector / SECTORS_PER_PAGE).wrapping_mul(0x9e37_79b9));
                match page.between(0, 3) {
                    0 => Random(seed ^ !sector).between(self.low, self.high),
                    _ => page.between(self.low, self.high),
                }
            }
        }
    }
}

/// Puts an entry's range back as it was, in the sectors that `undone` names.
fn undo(place: &FilePlace, data: &Data, undone: impl Fn(u64) -> bool) -> io::Result<()> {
    let end = data.offset + data.length;
    let mut at = data.offset;
    while at < end {
        let is_undone = undone(at / SECTOR);
        let mut next = (at / SECTOR + 1) * SECTOR;
        while next < end && undone(next / SECTOR) == is_undone {
            next += SECTOR;
        }
        let next = next.min(end);
        if is_undone {
            put_back(place, data, at, next)?;
        }
        at = next;
    }
    Ok(())
}

fn put_back(place: &FilePlace, data: &Data, from: u64, to: u64) -> io::Result<()> {
    let imaged = data.offset + data.image.len() as u64;
    let middle = to.min(imaged.max(from));
    if from < middle {
        let at = |position: u64| (position - data.offset) as usize;
        sys::write_at(place.fd.0, &data.image[at(from)..at(middle)], from)?;
    }
    sys::zero(place.fd.0, middle, to)
}
