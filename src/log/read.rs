//! Reading without the log's lock: from a published list of segments, by position, whole batches only.

use super::epochs::Epochs;
use super::partition_log::ReadError;
use super::segment::Segment;
use super::timestamps;
use super::walk::{Step, Walk};
use crate::ids::*;
use crate::records::batch::{BatchHeader, HEADER_BYTES, TimestampType};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};

/// One read takes at most so much memory, whatever a client asks for (a single larger batch excepted).
const READ_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Whole batches read from the log, ready for the wire.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    pub bytes: Bytes,
}

/// The segments of a log at one moment, oldest first.
pub(super) struct View {
    pub segments: Vec<Arc<Segment>>,
    pub log_start: Offset,
    pub epochs: Epochs,
}

/// What the owner of a log shows to its readers.
///
/// Order for the owner: bytes, segment size, then `log_end`; a new segment is published before anything is appended to
/// it, a new epoch before `log_end` passes its first record. Before bytes that readers may see are cut off or segments
/// taken away, the smaller state is published and `generation` is bumped: a reader that finds it moved throws away what it
/// read and begins again.
pub(super) struct Published {
    view: ArcSwap<View>,
    log_end: AtomicI64,
    generation: AtomicU64,
}

impl Published {
    pub fn new(view: View, log_end: Offset) -> Published {
        Published {
            view: ArcSwap::from_pointee(view),
            log_end: AtomicI64::new(log_end.0),
            generation: AtomicU64::new(0),
        }
    }

    pub fn publish_view(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    pub fn knows_epochs(&self, epochs: &Epochs) -> bool {
        self.view.load().epochs == *epochs
    }

    pub fn publish_end(&self, end: Offset) {
        self.log_end.store(end.0, Ordering::Release);
    }

    /// Makes readers that are under way begin again.
    pub fn disturb_readers(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }
}

/// A cheap, shareable view for readers: published again when segments change, so reads never wait behind appends.
#[derive(Clone)]
pub struct LogReader {
    published: Arc<Published>,
}

impl LogReader {
    pub(super) fn new(published: Arc<Published>) -> LogReader {
        LogReader { published }
    }

    /// Whole batches from the one that contains `from`, at most `max_bytes` (but at least one batch if `at_least_one`),
    /// none that reaches `upper` or beyond. Empty at the end. May read from disk: short, page cache in the usual case.
    /// Ends with the segment it begins in: a short answer does not mean the end.
    pub fn read(&self, from: Offset, max_bytes: usize, upper: Offset, at_least_one: bool) -> Result<Chunk, ReadError> {
        self.undisturbed(|view, log_end| {
            if from < view.log_start || from > log_end {
                return Err(ReadError::OutOfRange { asked: from, start: view.log_start, end: log_end });
            }
            read_chunk(view, from, max_bytes.min(READ_BYTES_MAX), upper.min(log_end), at_least_one)
        })
    }

    /// The first record at or after `timestamp_ms` below `upper`: its offset and timestamp.
    pub fn offset_for_time(&self, timestamp_ms: i64, upper: Offset) -> Result<Option<(Offset, i64)>, ReadError> {
        self.undisturbed(|view, log_end| find_time(view, timestamp_ms, upper.min(log_end)))
    }

    /// When the first record at or after `from` and below `upper` was written, by its batch: exact for the first record
    /// of a batch and under LogAppendTime; for others the time of the first, which is no later. Reads headers only.
    pub fn time_at(&self, from: Offset, upper: Offset) -> Result<Option<i64>, ReadError> {
        self.undisturbed(|view, log_end| {
            let (from, upper) = (from.max(view.log_start), upper.min(log_end));
            if from >= upper {
                return Ok(None);
            }
            for segment in segments_from(view, from) {
                if let Some(step) = segment.locate(from)? {
                    let header = step.header;
                    let is_append_time = header.timestamp_type() == TimestampType::LogAppendTime;
                    return Ok(Some(if is_append_time { header.max_timestamp_ms } else { header.base_timestamp_ms }));
                }
            }
            Ok(None)
        })
    }

    /// The record with the largest timestamp below `upper` (ListOffsets −3).
    pub fn max_timestamp(&self, upper: Offset) -> Result<Option<(Offset, i64)>, ReadError> {
        self.undisturbed(|view, log_end| find_newest(view, upper.min(log_end)))
    }

    /// Bytes of batches from `from` to the log's end: by what the index knows, so too many by a few KiB at most, and
    /// never too few. A log that begins later counts whole.
    pub fn bytes_from(&self, from: Offset) -> Result<u64, ReadError> {
        self.undisturbed(|view, log_end| {
            if from >= log_end {
                return Ok(0);
            }
            let mut bytes = 0;
            for segment in segments_from(view, from) {
                let before = if segment.base < from { segment.position_before(from)? } else { 0 };
                bytes += segment.size().saturating_sub(before);
            }
            Ok(bytes)
        })
    }

    /// Log start and log end as published now.
    pub fn range(&self) -> (Offset, Offset) {
        let end = Offset(self.published.log_end.load(Ordering::Acquire));
        (self.published.view.load().log_start.min(end), end)
    }

    pub(super) fn undisturbed<T>(&self, read: impl Fn(&View, Offset) -> Result<T, ReadError>) -> Result<T, ReadError> {
        loop {
            let generation = self.published.generation.load(Ordering::Acquire);
            // The end first: the view loaded after it has the segments that reach it.
            let end = Offset(self.published.log_end.load(Ordering::Acquire));
            let outcome = read(&self.published.view.load(), end);
            fence(Ordering::SeqCst);
            if self.published.generation.load(Ordering::Acquire) == generation {
                return outcome;
            }
        }
    }
}

/// The segments from the one that may hold `offset`.
fn segments_from(view: &View, offset: Offset) -> &[Arc<Segment>] {
    let next = view.segments.partition_point(|s| s.base <= offset);
    &view.segments[next.saturating_sub(1)..]
}

fn read_chunk(
    view: &View,
    from: Offset,
    max_bytes: usize,
    upper: Offset,
    at_least_one: bool,
) -> Result<Chunk, ReadError> {
    if from >= upper {
        return Ok(Chunk::default());
    }
    for segment in segments_from(view, from) {
        if let Some(first) = segment.locate(from)? {
            return read_from(segment, &first, max_bytes, upper, at_least_one);
        }
    }
    Ok(Chunk::default())
}

fn read_from(
    segment: &Segment,
    first: &Step,
    max_bytes: usize,
    upper: Offset,
    at_least_one: bool,
) -> Result<Chunk, ReadError> {
    let first_bytes = first.header.size() as u64;
    if first.header.end_offset() > upper || (!at_least_one && first_bytes > max_bytes as u64) {
        return Ok(Chunk::default());
    }
    let there = segment.size().saturating_sub(first.position);
    let length = first_bytes.max(max_bytes as u64).min(there) as usize;
    let mut bytes = segment.log.get()?.read_vec_at(length, first.position)?;
    if (bytes.len() as u64) < first_bytes {
        return Err(ReadError::Damaged(format!("{} ends at {} bytes", segment.log.name(), bytes.len())));
    }
    bytes.truncate(whole_batches(&bytes, upper));
    Ok(Chunk { bytes: Bytes::from(bytes) })
}

/// How many bytes at the start of `bytes` are whole batches that end at or below `upper`.
fn whole_batches(bytes: &[u8], upper: Offset) -> usize {
    let mut end = 0;
    while bytes.len() - end >= HEADER_BYTES {
        let Ok(header) = BatchHeader::parse(&bytes[end..end + HEADER_BYTES]) else { break };
        if header.size() > bytes.len() - end || header.end_offset() > upper {
            break;
        }
        end += header.size();
    }
    end
}

fn find_time(view: &View, timestamp_ms: i64, upper: Offset) -> Result<Option<(Offset, i64)>, ReadError> {
    for segment in segments_from(view, view.log_start) {
        if segment.base >= upper {
            break;
        }
        if segment.newest()?.is_none_or(|(ms, _)| ms < timestamp_ms) {
            continue;
        }
        let from = segment.position_for_time(timestamp_ms, view.log_start)?;
        let file = segment.log.get()?;
        let mut walk = Walk::near(&file, from, segment.size());
        while let Some(step) = walk.step()? {
            if step.header.end_offset() > upper {
                return Ok(None);
            }
            if step.header.max_timestamp_ms < timestamp_ms {
                continue;
            }
            if let Some(found) = first_in_batch(segment, &step, timestamp_ms, view.log_start)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn find_newest(view: &View, upper: Offset) -> Result<Option<(Offset, i64)>, ReadError> {
    // The best so far: a segment and the batch in it.
    let mut best: Option<(&Segment, Step)> = None;
    for segment in segments_from(view, view.log_start) {
        if segment.base >= upper {
            break;
        }
        // A segment's largest timestamp is an upper bound for what lies below `upper` in it.
        let best_ms = best.as_ref().map_or(-1, |(_, step)| step.header.max_timestamp_ms);
        if segment.newest()?.is_none_or(|(ms, _)| ms <= best_ms) {
            continue;
        }
        let from = segment.newest_indexed_below(upper)?.map_or(segment.base, |(_, offset)| offset);
        let Some(start) = segment.locate(from.max(view.log_start))? else { continue };
        let file = segment.log.get()?;
        let mut walk = Walk::near(&file, start.position, segment.size());
        while let Some(step) = walk.step()? {
            if step.header.end_offset() > upper {
                break;
            }
            if step.header.max_timestamp_ms > best.as_ref().map_or(-1, |(_, s)| s.header.max_timestamp_ms) {
                best = Some((segment, step));
            }
        }
    }
    match best {
        None => Ok(None),
        Some((segment, step)) => first_in_batch(segment, &step, step.header.max_timestamp_ms, view.log_start),
    }
}

/// The first record of a batch at or after a time and at or after `from`.
fn first_in_batch(
    segment: &Segment,
    step: &Step,
    timestamp_ms: i64,
    from: Offset,
) -> Result<Option<(Offset, i64)>, ReadError> {
    if step.header.timestamp_type() == TimestampType::LogAppendTime {
        let offset = step.header.base_offset.max(from);
        return Ok((offset <= step.header.last_offset()).then_some((offset, step.header.max_timestamp_ms)));
    }
    let length = step.header.size();
    let bytes = segment.log.get()?.read_vec_at(length, step.position)?;
    if bytes.len() < length {
        return Err(ReadError::Disk(io::ErrorKind::UnexpectedEof.into()));
    }
    timestamps::first_record(&step.header, &bytes, timestamp_ms, from)
}
