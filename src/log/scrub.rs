//! Looking for damage in bytes that were good once: every batch's header, place and CRC, piece by piece, without the
//! log's lock and without driving anything out of the page cache.

use super::partition_log::ReadError;
use super::read::{LogReader, View};
use super::scan::{Window, check};
use super::segment::Segment;
use crate::ids::*;
use crate::platform::disk::File;
use crate::records::batch::{BatchHeader, HEADER_BYTES};

/// Offsets whose bytes are not what was appended. Invariant: `from` < `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the damaged batch begins; everything below is good as far as it was looked at.
    pub from: Offset,
    /// Where readable batches are known to begin again: the next batch, or the end of the segment if the header is lost,
    /// though good ones may lie before it then.
    pub to: Offset,
    pub reason: String,
}

/// Where a pass over a log goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    offset: Offset,
    /// The batch at `offset` begins here in the segment of this base, if that segment is still there.
    place: Option<(Offset, u64)>,
}

impl Cursor {
    /// At the batch that contains `offset`, as the index finds it.
    pub fn at(offset: Offset) -> Cursor {
        Cursor { offset, place: None }
    }

    pub fn offset(&self) -> Offset {
        self.offset
    }
}

/// What one step of a pass found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// `None`: the pass is through.
    pub next: Option<Cursor>,
    pub bytes: u64,
    /// The step ends at the first.
    pub damage: Option<Damage>,
}

impl LogReader {
    /// Checks about `bytes_max` bytes of whole batches below `upper`, at least one batch.
    pub fn check(&self, from: Cursor, upper: Offset, bytes_max: u64) -> Result<Checked, ReadError> {
        self.undisturbed(|view, log_end| check_from(view, from, upper.min(log_end), log_end, bytes_max))
    }
}

fn check_from(view: &View, from: Cursor, upper: Offset, log_end: Offset, bytes_max: u64) -> Result<Checked, ReadError> {
    let offset = from.offset.max(view.log_start);
    let done = |bytes| Checked { next: None, bytes, damage: None };
    if offset >= upper {
        return Ok(done(0));
    }
    let at = view.segments.partition_point(|s| s.base <= offset).saturating_sub(1);
    let segment = &view.segments[at];
    let end = view.segments.get(at + 1).map_or(log_end, |next| next.base);
    let kept = from.place.filter(|(base, position)| *base == segment.base && *position < segment.size());
    let start = match kept {
        Some((_, position)) => Start { position, offset },
        None => start_of(segment, offset),
    };
    let mut step = Step { view, segment, end, upper, bytes_max, bytes: 0 };
    match step.run(start)? {
        Found::Damage(damage, _) if damage.to > view.log_start => {
            Ok(Checked { next: None, bytes: step.bytes, damage: Some(damage) })
        }
        // What is damaged is not part of the log any more.
        Found::Damage(damage, after) => {
            let place = (after < segment.size()).then_some((segment.base, after));
            Ok(Checked { next: Some(Cursor { offset: damage.to, place }), bytes: step.bytes, damage: None })
        }
        Found::Until(position, next) if next < upper => {
            let place = (position < segment.size()).then_some((segment.base, position));
            Ok(Checked { next: Some(Cursor { offset: next, place }), bytes: step.bytes, damage: None })
        }
        Found::Until(..) => Ok(done(step.bytes)),
    }
}

/// The first damage in `from..to` of a log that nobody changes meanwhile.
pub(super) fn first_damage(
    view: &View,
    from: Offset,
    to: Offset,
    log_end: Offset,
) -> Result<Option<Damage>, ReadError> {
    let mut cursor = Cursor::at(from);
    loop {
        match check_from(view, cursor, to.min(log_end), log_end, u64::MAX)? {
            Checked { damage: Some(damage), .. } => return Ok(Some(damage)),
            Checked { next: Some(next), .. } => cursor = next,
            Checked { next: None, .. } => return Ok(None),
        }
    }
}

struct Start {
    position: u64,
    /// Of the batch there.
    offset: Offset,
}

/// The batch that contains `offset`, by index and headers; the segment's beginning if those are no good.
fn start_of(segment: &Segment, offset: Offset) -> Start {
    let beginning = Start { position: 0, offset: segment.base };
    if offset <= segment.base {
        return beginning;
    }
    match segment.locate(offset) {
        Ok(Some(step)) => Start { position: step.position, offset: step.header.base_offset },
        _ => beginning,
    }
}

enum Found {
    /// All is good up to this position and offset.
    Until(u64, Offset),
    /// And the position from which batches can be read again.
    Damage(Damage, u64),
}

struct Step<'a> {
    view: &'a View,
    segment: &'a Segment,
    /// Where the segment's last batch ends.
    end: Offset,
    upper: Offset,
    bytes_max: u64,
    bytes: u64,
}

impl Step<'_> {
    fn run(&mut self, start: Start) -> Result<Found, ReadError> {
        let size = self.segment.size();
        let Start { mut position, offset: mut next } = start;
        if size == 0 {
            return Ok(Found::Until(0, self.end));
        }
        let file = File::open_sparing(&self.segment.log.path())?;
        let mut window = Window::sparing(&file, size);
        while position < size && next < self.upper && self.bytes < self.bytes_max {
            // In no order: what the log knows of its epochs says more.
            let found = check(&mut window, position, next, LeaderEpoch::NONE)?;
            match found.and_then(|header| self.of_its_epoch(header)) {
                Ok(header) => {
                    position += header.size() as u64;
                    self.bytes += header.size() as u64;
                    next = header.end_offset();
                }
                Err(reason) => {
                    let (to, after) = self.readable_again(&mut window, position, next)?;
                    return Ok(Found::Damage(Damage { from: next, to, reason }, after));
                }
            }
        }
        Ok(if position < size { Found::Until(position, next) } else { Found::Until(size, self.end) })
    }

    /// The epoch lies outside of the CRC.
    fn of_its_epoch(&self, header: BatchHeader) -> Result<BatchHeader, String> {
        let start = self.view.log_start;
        // Of what lies below the log's start the epochs are forgotten.
        let known = self.view.epochs.at(header.base_offset.max(start)).filter(|_| header.end_offset() > start);
        match known {
            Some(known) if known != header.leader_epoch => {
                let (base, given) = (header.base_offset, header.leader_epoch);
                Err(format!("the batch at offset {base} says leader epoch {given}, and it was {known}"))
            }
            _ => Ok(header),
        }
    }

    /// Where the batch after the damaged one begins, if its header can still be believed.
    fn readable_again(&self, window: &mut Window<'_>, position: u64, from: Offset) -> Result<(Offset, u64), ReadError> {
        let size = self.segment.size();
        let lost = (self.end, size);
        let Ok(header) = BatchHeader::parse(window.get(position, HEADER_BYTES)?) else { return Ok(lost) };
        let after = position + header.size() as u64;
        let to = header.end_offset();
        let follows = after == size && to == self.end
            || after < size
                && BatchHeader::parse(window.get(after, HEADER_BYTES)?).is_ok_and(|next| next.base_offset == to);
        Ok(if header.base_offset == from && to > from && follows { (to, after) } else { lost })
    }
}
