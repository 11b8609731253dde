//! Offsets of topics that are deleted: they must not be applied to topics of the same name that come later.
//!
//! What is of which topic is compared with the newest image under the group's lock, so that it does not matter how late
//! a deletion is heard of, nor whether it is heard of at all: what the name's new topic has is kept. Tombstones that are
//! refused or not replicated are written again, until nothing is left.

use super::cell::{Cell, Entry};
use super::coordinator::GroupError;
use super::offset_records::OffsetRecord;
use super::shell::Shell;
use super::slot::Slot;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Until what is left is looked at again.
const PAUSE: Duration = Duration::from_secs(1);

impl Shell {
    /// Topics were deleted, perhaps. What cannot be buried now is later.
    pub(super) fn forget_topics(&self, slots: &[Arc<Slot>]) {
        for slot in slots {
            if self.bury_all(slot) && !slot.burial_is_due.swap(true, Ordering::SeqCst) {
                let (shell, slot) = (self.downgrade(), slot.clone());
                tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(PAUSE).await;
                        let Some(shell) = shell.upgrade() else { return };
                        // Before the look: who finds more from now on sees to it that somebody comes back.
                        slot.burial_is_due.store(false, Ordering::SeqCst);
                        let is_left = !slot.is_gone() && shell.bury_all(&slot);
                        if !is_left || slot.burial_is_due.swap(true, Ordering::SeqCst) {
                            return;
                        }
                    }
                });
            }
        }
    }

    /// Is anything left? Nothing of what is not loaded yet: loading ends with this.
    fn bury_all(&self, slot: &Arc<Slot>) -> bool {
        let mut is_left = false;
        for cell in slot.all().unwrap_or_default() {
            is_left |= self.bury(slot, &cell, &mut cell.lock());
        }
        is_left
    }

    /// Is anything left?
    pub(super) fn bury(&self, slot: &Arc<Slot>, cell: &Arc<Cell>, entry: &mut Entry) -> bool {
        let image = self.image();
        let id = |name: &str| image.topic_ids.get(name).copied();
        let tombstones = entry.offsets.stale(&cell.group, || slot.log.range().1, id);
        if let Err(error) = self.write_offsets(slot, cell, entry, tombstones) {
            tracing::warn!(group = cell.group, %error, "offsets of a deleted topic stay for now");
        }
        entry.offsets.has_stale()
    }

    /// As [`Shell::write_offsets`], of commits; with tombstones before them where the topic is not the one that the
    /// group's other offsets are of.
    pub(super) fn write_commits(
        &self,
        slot: &Arc<Slot>,
        cell: &Arc<Cell>,
        entry: &mut Entry,
        commits: Vec<OffsetRecord>,
    ) -> Result<oneshot::Receiver<Result<(), GroupError>>, GroupError> {
        let image = self.image();
        let mut records = Vec::new();
        let names: BTreeSet<_> = commits.iter().map(|record| (&record.key.topic, &record.key.group)).collect();
        for (name, group) in names {
            let topic = image.topic_ids.get(&**name).copied();
            records.extend(entry.offsets.makes_way(group, name, topic, || slot.log.range().1));
        }
        records.extend(commits);
        self.write_offsets(slot, cell, entry, records)
    }
}
