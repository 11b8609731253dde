//! Keeps what a new coordinator must read in proportion to what is live.
//!
//! Every commit is a record, and nothing compacts `__consumer_offsets` by keys yet. So once a partition's log holds many
//! more records than there are offsets, its coordinator appends all live offsets anew and then moves the log start up to
//! where it began; retention drops the segments below that on every replica.
//!
//! ```text
//! log start                          S = log end at the beginning
//! ├ old commits, most of them dead ──┼ live offsets anew, and commits that came meanwhile ─→
//! └───────── cut once no visible offset and no commit on its way lies below S
//! ```
//!
//! An offset with a commit on its way is left alone: anew it would lie above that commit and hide it. It is looked at
//! again when the commit has ended.

use super::cell::Cell;
use super::coordinator::GroupError;
use super::settings::{REWRITE_AT_ONCE_MAX, REWRITE_FACTOR, REWRITE_RECORDS_MIN};
use super::shell::Shell;
use super::slot::Slot;
use crate::ids::Offset;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often logs are looked at.
const INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks at commits that are on their way.
const PAUSE: Duration = Duration::from_millis(20);
/// A rewrite that waits longer for commits to end gives up until the next look.
const WAITS_MAX: usize = 500;

/// Is it worth it?
pub fn is_due(records: i64, live: usize) -> bool {
    let records = usize::try_from(records).unwrap_or(0);
    records > REWRITE_RECORDS_MIN && records / REWRITE_FACTOR > live
}

/// Looks at this broker's partitions until the coordinator is gone.
pub async fn run(shell: Weak<Shell>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(shell) = shell.upgrade() else { return };
        for slot in shell.slots() {
            // What is still being loaded is looked at the next time.
            let Some(cells) = slot.all() else { continue };
            let live = cells.iter().map(|cell| cell.lock().offsets.len()).sum();
            let (start, end) = slot.log.range();
            if !slot.is_gone() && is_due(end.0 - start.0, live) {
                match rewrite(&shell, &slot).await {
                    Ok(cut) => {
                        tracing::info!(partition = slot.id.partition, live, %cut, "committed offsets were written anew")
                    }
                    Err(error) => {
                        tracing::warn!(partition = slot.id.partition, %error, "committed offsets were not written anew; the next look tries again");
                    }
                }
            }
        }
    }
}

/// Gives the new log start.
pub async fn rewrite(shell: &Shell, slot: &Arc<Slot>) -> Result<Offset, GroupError> {
    let (_, begun_at) = slot.log.range();
    for cell in slot.all().ok_or(GroupError::Loading)? {
        rewrite_group(shell, slot, &cell, begun_at).await?;
    }
    // A group that came meanwhile has nothing below, and those that went have nothing at all.
    slot.log.cut(begun_at)?;
    Ok(begun_at)
}

async fn rewrite_group(shell: &Shell, slot: &Arc<Slot>, cell: &Arc<Cell>, below: Offset) -> Result<(), GroupError> {
    let mut waits = 0;
    loop {
        if slot.is_gone() {
            return Err(GroupError::NotCoordinator);
        }
        let written = {
            let mut entry = cell.lock();
            if !entry.offsets.reaches_below(below) {
                return Ok(());
            }
            let records = entry.offsets.anew(&cell.group, below, REWRITE_AT_ONCE_MAX);
            if records.is_empty() { None } else { Some(shell.write_offsets(slot, cell, &mut entry, records)?) }
        };
        match written {
            Some(receiver) => shell.written(receiver).await?,
            None if waits == WAITS_MAX => return Err(GroupError::NotAvailable),
            None => {
                waits += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_log_and_one_that_is_mostly_alive_stay_as_they_are() {
        let many = i64::try_from(REWRITE_RECORDS_MIN).expect("small");
        assert!(!is_due(many, 0));
        assert!(is_due(many + 1, 0));
        assert!(is_due(4_000_000, 999_999) && !is_due(4_000_000, 1_000_000));
        assert!(!is_due(-1, 0));
    }
}
