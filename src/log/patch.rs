//! Filling damaged bytes in place with another copy's: what lies behind the damage stays.
//!
//! Replicas hold the same batches byte for byte, so a batch of the same offset and the same epoch, and with a good CRC, is
//! what stood there: below the high watermark always, above it as long as the epochs agree. A copy that cut itself off at
//! its damage instead would give up good records, perhaps the last good ones: another copy may be damaged just there.

use super::partition_log::{PartitionLog, ReadError};
use super::scrub::Damage;
use super::segment::Segment;
use crate::ids::*;
use crate::records::ValidBatches;
use crate::records::batch::{BatchHeader, HEADER_BYTES};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patched {
    /// Good up to there; the rest of the damage is to be asked for from there on.
    UpTo(Offset),
    /// There is no known damage any more.
    Whole,
    /// The other copy's batches do not fit into the gap, so this log is another one from the damage on, or more of it is
    /// damaged. Nothing was changed.
    Unfit(String),
}

/// Bytes of `batches` that go to `position` of a segment; the log is good up to `next` then.
struct Plan {
    segment: Arc<Segment>,
    position: u64,
    bytes: Range<usize>,
    next: Offset,
}

impl PartitionLog {
    /// Fills the known damage as far as `batches`, which begin where it begins, go. Durable when this returns.
    pub fn patch_damage(&mut self, batches: &ValidBatches) -> io::Result<Patched> {
        self.check_writable()?;
        let Some(damage) = self.damage.clone() else { return Ok(Patched::Whole) };
        let plan = match self.plan_patch(&damage, batches) {
            Ok(plan) => plan,
            Err(ReadError::Disk(error)) => return Err(self.failed(error)),
            Err(error) => return Ok(Patched::Unfit(error.to_string())),
        };
        let written = plan.segment.log.get().and_then(|file| {
            file.write_at(&batches.bytes[plan.bytes], plan.position)?;
            file.sync_data()
        });
        written.map_err(|error| self.failed(error))?;
        if plan.next == damage.to {
            self.forget_damage();
            return Ok(Patched::Whole);
        }
        let rest = Damage { from: plan.next, ..damage };
        if let Err(error) = rest.store(&self.folder) {
            // The older note says more than there is: what is filled is filled again.
            tracing::warn!(folder = %self.folder.display(), %error, "how far the damage is filled could not be noted");
        }
        self.damage = Some(rest);
        Ok(Patched::UpTo(plan.next))
    }

    fn plan_patch(&self, damage: &Damage, batches: &ValidBatches) -> Result<Plan, ReadError> {
        let unfit = |why: String| Err(ReadError::Damaged(why));
        if damage.is_cut() || damage.from >= self.log_end || damage.from < self.log_start {
            return unfit(format!("there is no gap at offset {}", damage.from));
        }
        let (index, position) = self.place_of_damage(damage.from)?;
        let segment = self.segments[index].clone();
        let (mut next, mut bytes) = (damage.from, 0..0);
        for batch in &batches.batches {
            if next == damage.to {
                break;
            }
            let (header, epoch) = (&batch.header, self.epochs.at(next));
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
        }
        let end = position + bytes.len() as u64;
        if bytes.is_empty() || next > damage.to || end > segment.size() {
            return unfit(format!(
                "the other copy's batches do not end where the damage {}..{} does",
                damage.from, damage.to
            ));
        }
        if next == damage.to && !self.goes_on(index, end, next)? {
            return unfit(format!("no batch follows at offset {next}"));
        }
        Ok(Plan { segment, position, bytes, next })
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
