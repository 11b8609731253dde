//! Taking away: the log's end (a follower that diverged), its start (deleted records), or all of it.

use super::checkpoint::Content;
use super::partition_log::{PartitionLog, ReadError, Writer};
use super::producers::Producers;
use super::recovery::{load_producers, rebuild_producers};
use super::segment::Segment;
use super::walk::Walk;
use crate::ids::*;
use crate::platform::{clock, disk};
use std::io;
use std::sync::Arc;

/// Why a log was not cut.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The log is offline, unless the error passed while the cut was planned: then nothing was changed.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// A header that had to be read is lost. Nothing was changed: a flipped bit is no failed disk.
    #[error("the log cannot be cut before it is repaired: what lies from offset {near} on is damaged: {reason}")]
    Damaged {
        /// Everything below has a good header.
        near: Offset,
        reason: String,
    },
}

/// A cut, with all that must be read for it; whatever was damaged among that has shown before anything changes.
pub(super) struct Cut {
    /// Segments that stay; the last of them is cut.
    kept: usize,
    /// Where it is cut: a batch of offset `end` began there.
    position: u64,
    end: Offset,
    /// The largest timestamp left in it.
    newest: Option<(i64, Offset)>,
    producers: Producers,
}

impl PartitionLog {
    /// Cuts the log at `offset`: rolls back epochs and producer state, lowers the durable end, bumps the flush
    /// generation. What is cut off is gone from the disk, durably, when this returns.
    ///
    /// A batch is never cut in two: if `offset` lies inside one, the log ends where that batch began, so the caller
    /// must go on from `log_end()`. Below the first segment the log begins anew at `offset`.
    pub fn truncate_to(&mut self, offset: Offset) -> Result<(), CutError> {
        self.check_writable()?;
        if offset >= self.log_end {
            return Ok(());
        }
        if offset < self.segments[0].base {
            return Ok(self.restart_at(offset)?);
        }
        match self.plan_truncation(offset) {
            Ok(cut) => Ok(self.cut_to(cut).map_err(|error| self.failed(error))?),
            // Nothing was changed yet.
            Err(ReadError::Disk(error)) => {
                self.fail(&error);
                Err(error.into())
            }
            Err(error) => {
                let near = self.first_lost_header(offset)?;
                Err(CutError::Damaged { near, reason: error.to_string() })
            }
        }
    }

    fn plan_truncation(&self, offset: Offset) -> Result<Cut, ReadError> {
        let kept = self.segments.partition_point(|s| s.base <= offset);
        let active = &self.segments[kept - 1];
        let (position, end) = match active.locate(offset)? {
            Some(step) => (step.position, step.header.base_offset),
            // The offset is where the next segment begins.
            None => (active.size(), offset),
        };
        self.plan_cut(kept, position, end)
    }

    /// A cut behind the first `kept` segments, the last of them at `position`, where a batch of offset `end` began.
    pub(super) fn plan_cut(&self, kept: usize, position: u64, end: Offset) -> Result<Cut, ReadError> {
        let newest = self.segments[kept - 1].newest_below(position, end)?;
        // From the last snapshot at or below the cut, and the batches after it.
        let (from, mut producers) = load_producers(&self.folder, &self.snapshots, end);
        rebuild_producers(&mut producers, &self.segments[..kept], Some(position), from, end, clock::wall_ms())?;
        Ok(Cut { kept, position, end, newest, producers })
    }

    /// Where headers cannot be followed any more, of those that a cut at `offset` reads; `offset` if they can.
    fn first_lost_header(&self, offset: Offset) -> io::Result<Offset> {
        let (from, _) = load_producers(&self.folder, &self.snapshots, offset);
        let first = self.segments.partition_point(|s| s.base <= from).saturating_sub(1);
        for segment in self.segments[first..].iter().take_while(|s| s.base <= offset && s.size() > 0) {
            let (file, mut next) = (segment.log.get()?, segment.base);
            let mut walk = Walk::far(&file, 0, segment.size());
            loop {
                match walk.step() {
                    Ok(Some(step)) => next = step.header.end_offset(),
                    Ok(None) => break,
                    Err(ReadError::Disk(error)) => return Err(error),
                    Err(_) => return Ok(next),
                }
            }
        }
        Ok(offset)
    }

    /// Carries a planned cut out; nothing was appended or cut since. Whatever fails, memory and disk may differ then.
    pub(super) fn cut_to(&mut self, cut: Cut) -> io::Result<()> {
        let Cut { kept, position, end, newest, producers } = cut;
        let active = self.segments[kept - 1].clone();
        let doomed = self.segments.split_off(kept);

        // First readers and flushes: nothing of theirs may outlive the cut.
        self.bytes -= doomed.iter().map(|s| s.size()).sum::<u64>() + active.size() - position;
        self.log_end = end;
        self.log_start = self.log_start.min(end);
        self.durable_end = self.durable_end.min(end);
        self.generation += 1;
        self.epochs.truncate_end(end);
        self.published.publish_end(end);
        active.publish_size(position);
        self.publish_view();
        self.published.disturb_readers();

        // Then what recovery would believe, before the bytes it speaks of are gone.
        self.checkpoint.cut(self.generation, end, active.base, self.log_start, &self.epochs)?;
        let stale: Vec<Offset> = self.snapshots.range(end + 1..).copied().collect();
        self.remove_snapshots(&stale);

        // The last segments first: a crash on the way leaves a log without a gap.
        for segment in doomed.iter().rev() {
            self.set_aside(segment)?;
        }
        active.truncate(position, end, newest)?;
        disk::sync_dir(&self.folder)?;
        self.unsynced.retain(|s| s.base < active.base);
        let first_ms = if position > 0 { self.writer.first_ms.or(Some(clock::wall_ms())) } else { None };
        self.writer = Writer { reserved: position, first_ms, ..Writer::default() };
        self.names_synced = self.names_made;
        self.drop_damage_outside();
        self.producers = producers;
        Ok(())
    }

    /// Drops everything and starts anew at `offset` (a follower below the leader's log start).
    pub fn restart_at(&mut self, offset: Offset) -> io::Result<()> {
        self.check_writable()?;
        self.restart(offset).map_err(|error| self.failed(error))
    }

    fn restart(&mut self, offset: Offset) -> io::Result<()> {
        let fresh = Segment::empty(&self.context.files, &self.folder, offset);
        let doomed = std::mem::replace(&mut self.segments, vec![fresh.clone()]);
        self.bytes = 0;
        self.log_start = offset;
        self.log_end = offset;
        self.durable_end = offset;
        self.generation += 1;
        self.epochs = Default::default();
        self.producers = Default::default();
        self.unsynced.clear();
        self.writer = Writer::default();
        self.published.publish_end(offset);
        self.publish_view();
        self.published.disturb_readers();

        // A crash after this finds whole segments or none, and a recovery point that makes it look at all of them.
        let nothing = Content { recovery_point: Offset::ZERO, log_start: Offset::ZERO, has_producers: false };
        self.checkpoint.replace(self.generation, nothing, &self.epochs)?;
        let stale: Vec<Offset> = self.snapshots.iter().copied().collect();
        self.remove_snapshots(&stale);
        for segment in doomed.iter().rev() {
            self.set_aside(segment)?;
        }
        disk::sync_dir(&self.folder)?;
        match fresh.log.get_or_create().and_then(|file| file.set_len(0)) {
            // The first append makes it. A crash before that leaves an empty log, which restarts again.
            Err(error) if disk::is_full(&error) => return Ok(()),
            other => other?,
        }
        let content = Content { recovery_point: offset, log_start: offset, has_producers: false };
        self.checkpoint.replace(self.generation, content, &self.epochs)?;
        self.names_synced = self.names_made;
        self.forget_damage();
        Ok(())
    }

    /// DeleteRecords, or the leader's log start seen by a follower: nothing below is visible any more. Whole segments
    /// below are removed. An offset past the log's end is refused: that follower must `restart_at` it.
    pub fn advance_log_start(&mut self, offset: Offset) -> io::Result<()> {
        self.check_writable()?;
        if offset <= self.log_start {
            return Ok(());
        }
        if offset > self.log_end {
            let reason = format!("log start {offset} is past the log's end {}", self.log_end);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        self.log_start = offset;
        let below = self.segments[1..].partition_point(|next| next.base <= offset);
        self.drop_oldest(below).map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// Removes the `count` oldest segments, never the active one; the log starts at the first one left, or later.
    /// Answers the bytes freed.
    pub(super) fn drop_oldest(&mut self, count: usize) -> io::Result<u64> {
        assert!(count < self.segments.len(), "the active segment stays");
        let doomed: Vec<Arc<Segment>> = self.segments.drain(..count).collect();
        self.log_start = self.log_start.max(self.segments[0].base);
        let freed = doomed.iter().map(|s| s.size()).sum();
        self.bytes -= freed;
        self.publish_view();
        if count > 0 {
            self.published.disturb_readers();
        }
        self.epochs.truncate_start(self.log_start);
        self.unsynced.retain(|s| s.base >= self.segments[0].base);
        match self.checkpoint.note_log_start(self.log_start) {
            // No room, or no file more to open, must not keep records from being deleted.
            Err(error) if !disk::is_passing(&error) => return Err(error),
            _ => {}
        }
        let stale: Vec<Offset> = self.snapshots.range(..self.segments[0].base).copied().collect();
        self.remove_snapshots(&stale);
        for segment in &doomed {
            self.set_aside(segment)?;
        }
        if self.damage.as_ref().is_some_and(|damage| !damage.is_cut()) {
            self.drop_damage_outside();
        }
        Ok(freed)
    }

    fn set_aside(&self, segment: &Segment) -> io::Result<()> {
        for path in segment.paths(&self.folder) {
            self.context.remover.set_aside(&path)?;
        }
        Ok(())
    }

    pub(super) fn check_writable(&self) -> io::Result<()> {
        if self.is_offline() { Err(io::Error::other("the log is offline after a disk error")) } else { Ok(()) }
    }

    /// Whatever went wrong half way, memory and disk may differ now: only a recovery puts that right.
    pub(super) fn failed(&mut self, error: io::Error) -> io::Error {
        self.go_offline(&error);
        error
    }
}
