//! Filling damaged bytes in place with another copy's: what lies behind the damage stays.
//!
//! Replicas hold the same batches byte for byte, so a batch of the same offset and the same epoch, and with a good CRC, is
//! what stood there: below the high watermark always, above it as long as the epochs agree. A copy that cut itself off at
//! its damage instead would give up good records, perhaps the last good ones: another copy may be damaged just there.

use super::checkpoint::Content;
use super::partition_log::{PartitionLog, ReadError};
use super::scan::{Window, check};
use super::scrub::Damage;
use super::segment::Segment;
use super::walk::Walk;
use crate::ids::*;
use crate::platform::disk::{self, File};
use crate::records::ValidBatches;
use crate::records::batch::{BatchHeader, HEADER_BYTES};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Where a batch's leader epoch stands in its header.
const EPOCH_AT: u64 = 12;

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patched {
    /// Good up to there; the rest of the damage is to be asked for from there on.
    UpTo(Offset),
    /// Good up to there, and the batch that follows is good, too. There is no known damage any more; but where a lost header
    /// had hidden what lies behind it, that is to be looked at again from there.
    Whole(Offset),
    /// The other copy's batches do not fit into the gap, so this log is another one from the damage on, or more of it is
    /// damaged. Nothing was changed.
    Unfit(String),
}

/// What was filled and is not known to be on the disk.
#[derive(Default)]
pub(super) struct Patches {
    /// Held open, so that a failed write-back is sure to be told. Bound: the segments damaged between two flushes.
    pub files: Vec<Arc<File>>,
    /// Counts the writes, so that a flush knows whether it had them all.
    pub made: u64,
    /// The note beside the log tells of damage that is filled; it goes once that is on the disk.
    pub note_outlived: bool,
}

/// Bytes of `batches` that go to `position` of a segment; the log is good up to `next` then.
struct Plan {
    segment: Arc<Segment>,
    position: u64,
    bytes: Range<usize>,
    next: Offset,
    /// What follows is good as it is.
    is_over: bool,
}

/// A leader epoch, and where it goes in its segment.
struct Stamp {
    position: u64,
    epoch: LeaderEpoch,
}

impl PartitionLog {
    /// Fills the known damage as far as `batches`, which begin where it begins, go, or until this log's own bytes are good
    /// again: more may not be asked of another copy, which may be damaged just there. Written, and durable with the next
    /// flush; until that is through [`PartitionLog::has_unsynced_patches`] says so, and the older note stays, which tells
    /// of more damage than there is: an opening looks at the bytes before it believes a note.
    pub fn patch_damage(&mut self, batches: &ValidBatches) -> io::Result<Patched> {
        self.check_writable()?;
        let Some(damage) = self.damage.clone() else { return Ok(Patched::Whole(self.log_end)) };
        let plan = match self.plan_patch(&damage, batches) {
            Ok(plan) => plan,
            Err(ReadError::Disk(error)) => return Err(self.failed_unless_unopened(error)),
            Err(error) => return Ok(Patched::Unfit(error.to_string())),
        };
        if !plan.bytes.is_empty() {
            let file = plan.segment.log.get().map_err(|error| self.failed_unless_unopened(error))?;
            self.write_patch(&file, &batches.bytes[plan.bytes], plan.position)?;
        }
        if !plan.is_over {
            self.damage = Some(Damage { from: plan.next, ..damage });
            return Ok(Patched::UpTo(plan.next));
        }
        self.patched_whole();
        Ok(Patched::Whole(plan.next))
    }

    /// Where the known damage is in the leader epochs alone, writes those that the log remembers; true: there is no known
    /// damage any more. For a log that no other copy can help.
    pub fn restamp_damage(&mut self) -> io::Result<bool> {
        self.check_writable()?;
        let Some(damage) = self.damage.clone().filter(|damage| !damage.is_cut()) else { return Ok(false) };
        let (segment, stamps) = match self.plan_stamps(&damage) {
            Ok(plan) => plan,
            Err(ReadError::Disk(error)) => return Err(self.failed_unless_unopened(error)),
            Err(_) => return Ok(false),
        };
        let file = segment.log.get().map_err(|error| self.failed_unless_unopened(error))?;
        for Stamp { position, epoch } in stamps {
            self.write_patch(&file, &epoch.0.to_be_bytes(), position)?;
        }
        self.published.disturb_readers();
        self.patched_whole();
        Ok(true)
    }

    /// Where which epoch goes; nowhere, if what was noted is good.
    fn plan_stamps(&self, damage: &Damage) -> Result<(Arc<Segment>, Vec<Stamp>), ReadError> {
        let unfit = || ReadError::Damaged("there is more than an epoch".to_string());
        let from = damage.from.max(self.log_start);
        let index = self.segments.partition_point(|s| s.base <= from).checked_sub(1).ok_or_else(unfit)?;
        let segment = self.segments[index].clone();
        let first = segment.locate(from)?.ok_or_else(unfit)?;
        let file = File::open_sparing(&segment.log.path())?;
        let mut own = Window::sparing(&file, segment.size());
        let (mut position, mut next, mut stamps) = (first.position, first.header.base_offset, Vec::new());
        while next < damage.to && position < segment.size() {
            let header = check(&mut own, position, next, LeaderEpoch::NONE)?.map_err(ReadError::Damaged)?;
            if let Some(epoch) = self.epochs.at(next.max(self.log_start)).filter(|epoch| *epoch != header.leader_epoch)
            {
                stamps.push(Stamp { position: position + EPOCH_AT, epoch });
            }
            position += header.size() as u64;
            next = header.end_offset();
        }
        if next < damage.to { Err(unfit()) } else { Ok((segment, stamps)) }
    }

    /// Records that say a leader epoch above `newest`, which nobody had, say `newest` from now on, durably: of nobody
    /// else's epoch, so that no other log is taken to agree with them. Where the first of them is. For a log that is to
    /// be led in `newest` and has appended nothing in it, and that no other copy can help.
    pub fn restamp_epochs_above(&mut self, newest: LeaderEpoch) -> Result<Option<Offset>, ReadError> {
        let Some((epoch, from)) = self.epochs.latest().filter(|(epoch, _)| *epoch > newest) else { return Ok(None) };
        self.check_writable()?;
        let mut epochs = self.epochs.clone();
        let from = epochs.disown_above(newest).map_or(from, |(_, from)| from);
        tracing::warn!(folder = %self.folder.display(), %from, %epoch, %newest, "damaged leader epochs are written anew");
        let first = self.segments.partition_point(|s| s.base <= from).saturating_sub(1);
        let mut plans = Vec::new();
        for segment in self.segments[first..].iter().filter(|s| s.size() > 0) {
            let Some(start) = segment.locate(from.max(segment.base))? else { continue };
            let file = segment.log.get()?;
            let (mut walk, mut stamps) = (Walk::far(&file, start.position, segment.size()), Vec::new());
            while let Some(step) = walk.step()? {
                if step.header.leader_epoch > newest {
                    stamps.push(step.position + EPOCH_AT);
                }
            }
            plans.push((file, stamps));
        }
        // Synced here: what is appended in this epoch must not be on the disk behind a later one.
        for (file, stamps) in plans {
            let stamped = stamps.iter().try_for_each(|position| file.write_at(&newest.0.to_be_bytes(), *position));
            stamped.and_then(|()| file.sync_data()).map_err(|error| self.failed(error))?;
        }
        self.epochs = epochs;
        self.publish_view();
        self.published.disturb_readers();
        self.generation += 1;
        let recovery_point = self.checkpoint.recovery_point();
        let content = Content { recovery_point, log_start: self.log_start, has_producers: false };
        let written = self.checkpoint.replace(self.generation, content, &self.epochs);
        written.map_err(|error| self.failed(error))?;
        Ok(Some(from))
    }

    fn write_patch(&mut self, file: &Arc<File>, bytes: &[u8], position: u64) -> io::Result<()> {
        let written = file.write_at(bytes, position);
        self.patches.made += 1;
        if !self.patches.files.iter().any(|known| Arc::ptr_eq(known, file)) {
            self.patches.files.push(file.clone());
        }
        written.map_err(|error| self.failed(error))
    }

    fn patched_whole(&mut self) {
        if self.has_unsynced_patches() {
            self.damage = None;
            self.patches.note_outlived = true;
        } else {
            self.forget_damage();
        }
    }

    /// What was filled in is not known to be on the disk: until a flush, nothing that counts may be told of this copy.
    pub fn has_unsynced_patches(&self) -> bool {
        !self.patches.files.is_empty()
    }

    /// A flush that began after so many patches is through.
    pub(super) fn patches_synced(&mut self, made: u64) {
        if self.patches.files.is_empty() || made != self.patches.made {
            return;
        }
        self.patches.files.clear();
        if std::mem::take(&mut self.patches.note_outlived) && self.damage.is_none() {
            self.remove_damage_note();
        }
    }

    fn failed_unless_unopened(&mut self, error: io::Error) -> io::Error {
        if disk::is_unopened(&error) { error } else { self.failed(error) }
    }

    fn plan_patch(&self, damage: &Damage, batches: &ValidBatches) -> Result<Plan, ReadError> {
        let unfit = |why: String| Err(ReadError::Damaged(why));
        let Some(first) = batches.headers().next() else { return unfit("there are no batches".to_string()) };
        if damage.is_cut() || damage.from >= self.log_end || damage.to <= self.log_start {
            return unfit(format!("there is no gap at offset {}", damage.from));
        }
        let (index, position) = self.place_of_patch(damage, first.base_offset)?;
        let segment = self.segments[index].clone();
        let file = File::open_sparing(&segment.log.path())?;
        let mut own = Window::sparing(&file, segment.size());
        let (mut next, mut bytes) = (first.base_offset.max(damage.from), 0..0);
        let mut is_over = self.is_good(&mut own, position, next)?;
        for batch in &batches.batches {
            if is_over || next >= damage.to {
                break;
            }
            let (header, epoch) = (&batch.header, self.epochs.at(next.max(self.log_start)));
            if header.base_offset != next || epoch != Some(header.leader_epoch) {
                let (base, of) = (header.base_offset, header.leader_epoch);
                return unfit(format!(
                    "the other copy's batch is at offset {base} of epoch {of}, not {next} of {epoch:?}"
                ));
            }
            if bytes.is_empty() {
                bytes = batch.position..batch.position;
            }
            bytes.end = batch.position + batch.size;
            next = header.end_offset();
            let end = position + bytes.len() as u64;
            if next > damage.to || end > segment.size() {
                let Damage { from, to, .. } = damage;
                return unfit(format!("the other copy's batches do not end where the damage {from}..{to} does"));
            }
            is_over = next < damage.to && self.is_good(&mut own, end, next)?;
        }
        let end = position + bytes.len() as u64;
        if next == damage.to {
            if !self.goes_on(index, end, next)? {
                return unfit(format!("no batch follows at offset {next}"));
            }
            is_over = true;
        }
        Ok(Plan { segment, position, bytes, next, is_over })
    }

    /// Where the other copy's first batch goes. A log that starts inside the damage is filled from its start on.
    fn place_of_patch(&self, damage: &Damage, base: Offset) -> Result<(usize, u64), ReadError> {
        if base <= damage.from || damage.from >= self.log_start {
            return self.place_of_damage(damage.from);
        }
        let nowhere = || ReadError::Damaged(format!("no batch is found at offset {base}"));
        let index = self.segments.partition_point(|s| s.base <= base).checked_sub(1).ok_or_else(nowhere)?;
        match self.segments[index].locate(base)? {
            Some(step) if step.header.base_offset == base => Ok((index, step.position)),
            _ => Err(nowhere()),
        }
    }

    /// Whether this log's own batch of offset `next` lies at `position`, whole.
    fn is_good(&self, own: &mut Window<'_>, position: u64, next: Offset) -> Result<bool, ReadError> {
        let epoch = self.epochs.at(next.max(self.log_start));
        let found = check(own, position, next, LeaderEpoch::NONE)?;
        Ok(found.is_ok_and(|header| Some(header.leader_epoch) == epoch))
    }

    /// Whether the segment has a batch of offset `next` at `position`, or ends there with it.
    fn goes_on(&self, index: usize, position: u64, next: Offset) -> Result<bool, ReadError> {
        let segment = &self.segments[index];
        if position == segment.size() {
            return Ok(self.segments.get(index + 1).map_or(self.log_end, |following| following.base) == next);
        }
        let header = segment.log.get()?.read_vec_at(HEADER_BYTES, position)?;
        Ok(BatchHeader::parse(&header).is_ok_and(|header| header.base_offset == next))
    }
}
