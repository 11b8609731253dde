//! Damage that is known: noted beside the log until it is cut off, so that a restart does not forget it.
//!
//! A damaged log is good below the damage and behind it. What is damaged is below what this replica has acked, perhaps,
//! so the log itself never cuts it off: the replica room does, once nobody relies on this copy any more, if it cannot be
//! filled in place (see `patch`).

use super::partition_log::{PartitionLog, ReadError};
use super::scrub::Damage;
use super::truncation::Cut;
use crate::ids::Offset;
use crate::platform::disk;
use std::io;
use std::path::Path;

pub(super) const DAMAGE_FILE: &str = "damage";

impl Damage {
    /// Recovery has cut the log there already: what was above is gone from this copy.
    pub fn is_cut(&self) -> bool {
        self.from == self.to
    }

    /// A read at `offset` would meet it first thing.
    pub fn covers(&self, offset: Offset) -> bool {
        self.from <= offset && offset < self.to
    }

    fn encode(&self) -> String {
        let reason = self.reason.replace('\n', " ");
        format!("0\nfrom {}\nto {}\n{reason}\n", self.from, self.to)
    }

    fn decode(bytes: &[u8]) -> Option<Damage> {
        let mut lines = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.lines();
        if lines.next()? != "0" {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ')?.parse::<i64>().ok();
        let (from, to) = (Offset(field("from")?), Offset(field("to")?));
        let reason = lines.next()?.to_string();
        (Offset::ZERO <= from && from <= to).then_some(Damage { from, to, reason })
    }

    /// What an earlier run noted. A note that is itself damaged is not believed: a scrub finds the damage again.
    pub(super) fn load(folder: &Path) -> io::Result<Option<Damage>> {
        Ok(disk::read_file(&folder.join(DAMAGE_FILE))?.and_then(|bytes| Damage::decode(&bytes)))
    }

    pub(super) fn store(&self, folder: &Path) -> io::Result<()> {
        disk::write_atomic(&folder.join(DAMAGE_FILE), self.encode().as_bytes())
    }

    /// Durably: a note that came back would have good records given up.
    pub(super) fn remove_note(folder: &Path) -> io::Result<()> {
        disk::remove_file(&folder.join(DAMAGE_FILE))?;
        disk::sync_dir(folder)
    }
}

impl PartitionLog {
    /// The first damage known, until it is cut off.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Remembers damage, over a restart too. Of two the lower one counts.
    pub fn note_damage(&mut self, damage: Damage) {
        assert!(damage.from <= damage.to, "damage has a beginning and an end");
        if self.damage.as_ref().is_some_and(|known| known.from <= damage.from) {
            return;
        }
        if let Err(error) = damage.store(&self.folder) {
            // In memory it counts all the same; a restart would have to find it again.
            tracing::warn!(folder = %self.folder.display(), %error, "the damage could not be noted on disk");
        }
        self.damage = Some(damage);
    }

    /// It is gone, or nothing can be done about it.
    pub fn forget_damage(&mut self) {
        let outlived = std::mem::take(&mut self.patches.note_outlived);
        if self.damage.take().is_some() || outlived {
            self.remove_damage_note();
        }
    }

    pub(super) fn remove_damage_note(&mut self) {
        if let Err(error) = Damage::remove_note(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "a note of damage that is gone stays behind");
            if !disk::is_unopened(&error) {
                self.fail(&error);
            }
        }
    }

    /// Cuts the log where its damage begins; the caller has seen to it that no other replica relies on this copy. Where
    /// not even what is below can be found, the log starts anew at its log start. Answers the new end.
    pub fn cut_damage(&mut self) -> io::Result<Offset> {
        self.check_writable()?;
        let Some(damage) = self.damage.clone() else { return Ok(self.log_end) };
        if damage.from < self.log_end {
            if damage.from <= self.log_start {
                self.restart_at(self.log_start)?;
            } else {
                match self.plan_cut_at_damage(damage.from) {
                    Ok(cut) => self.cut_to(cut).map_err(|error| self.failed(error))?,
                    // Nothing was changed yet.
                    Err(ReadError::Disk(error)) => {
                        self.fail(&error);
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::warn!(folder = %self.folder.display(), %error, "more is damaged; the copy starts anew");
                        self.restart_at(self.log_start)?;
                    }
                }
            }
        }
        self.forget_damage();
        Ok(self.log_end)
    }

    /// The damaged batch's own header may be lost: the cut is where the batch before it ends.
    fn plan_cut_at_damage(&self, from: Offset) -> Result<Cut, ReadError> {
        let (index, position) = self.place_of_damage(from)?;
        self.plan_cut(index + 1, position, from)
    }

    /// The segment and the position in it where the damaged batch begins: where the one before it ends.
    pub(super) fn place_of_damage(&self, from: Offset) -> Result<(usize, u64), ReadError> {
        let nowhere = || ReadError::Damaged(format!("no batch ends at offset {from}"));
        let index = self.segments.partition_point(|s| s.base <= from).checked_sub(1).ok_or_else(nowhere)?;
        let segment = &self.segments[index];
        if segment.base == from {
            return Ok((index, 0));
        }
        match segment.locate(Offset(from.0 - 1))? {
            Some(step) if step.header.end_offset() == from => Ok((index, step.end())),
            _ => Err(nowhere()),
        }
    }

    /// After the log was cut or its start moved: damage that lies outside of it now is gone.
    pub(super) fn drop_damage_outside(&mut self) {
        let (start, end) = (self.log_start, self.log_end);
        if self.damage.as_ref().is_some_and(|damage| damage.from >= end || damage.to <= start) {
            self.forget_damage();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_round_trips_and_a_torn_one_is_none() {
        let damage = Damage { from: Offset(7), to: Offset(9), reason: "the CRC\ndoes not match".into() };
        let text = damage.encode();
        assert_eq!(Damage::decode(text.as_bytes()), Some(Damage { reason: "the CRC does not match".into(), ..damage }));
        for cut in 0..text.len() {
            assert_eq!(Damage::decode(&text.as_bytes()[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Damage::decode(b"0\nfrom 9\nto 7\nx\n"), None);
    }
}
