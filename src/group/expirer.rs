//! Looks for offsets that are old enough to go, and for groups of which nothing is left, now and then.

use super::cell::Cell;
use super::expiry::Expiry;
use super::machine::Effect;
use super::settings::{EXPIRED_PER_GROUP_MAX, EXPIRED_PER_PASS_MAX};
use super::shell::Shell;
use super::slot::Slot;
use super::standing::Standing;
use crate::platform::clock;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// After a pass that was not allowed to do all of its work.
const PAUSE: Duration = Duration::from_secs(1);

/// Bound: the groups that this broker coordinates.
#[derive(Default)]
pub struct Expirer {
    /// Since when groups are known to be empty, where nobody wrote down when they became so.
    empty_since: BTreeMap<String, i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Whole,
    /// Stopped at its bound; what is left is for the next.
    Bounded,
}

impl Expirer {
    /// Until the coordinator is gone.
    pub async fn run(shell: Weak<Shell>, interval: Duration) {
        let mut expirer = Expirer::default();
        let mut wait = interval;
        loop {
            tokio::time::sleep(wait).await;
            let Some(shell) = shell.upgrade() else { return };
            // Some hundred thousand offsets are looked at: not on a thread that serves.
            let passed = tokio::task::spawn_blocking(move || {
                let pass = expirer.pass(&shell, clock::wall_ms());
                (expirer, pass)
            });
            let Ok((back, pass)) = passed.await else { return };
            expirer = back;
            wait = if pass == Pass::Whole { interval } else { PAUSE.min(interval) };
        }
    }

    /// Looks at every group; writes tombstones and does not wait for them.
    pub fn pass(&mut self, shell: &Shell, now_ms: i64) -> Pass {
        let mut left = EXPIRED_PER_PASS_MAX;
        let mut seen = BTreeMap::new();
        for slot in shell.slots() {
            for cell in slot.all().unwrap_or_default() {
                if left == 0 {
                    self.empty_since.extend(seen);
                    return Pass::Bounded;
                }
                left -= self.look(shell, &slot, &cell, now_ms, left, &mut seen);
            }
        }
        self.empty_since = seen;
        Pass::Whole
    }

    /// Gives how many offsets it buries.
    fn look(
        &self,
        shell: &Shell,
        slot: &Arc<Slot>,
        cell: &Arc<Cell>,
        now_ms: i64,
        most: usize,
        seen: &mut BTreeMap<String, i64>,
    ) -> usize {
        let mut entry = cell.lock();
        shell.bury(slot, cell, &mut entry);
        // Under the lock: no older than what the group was told of.
        let image = shell.image();
        let mut standing = Standing::of(&cell.group, &entry, &image);
        let known = self.empty_since.get(&cell.group).copied().unwrap_or(now_ms);
        let since = match &mut standing {
            Standing::Empty { since_ms } => Some(*since_ms.get_or_insert(known)),
            Standing::Standalone if entry.offsets.is_empty() => Some(known),
            Standing::Standalone | Standing::Live { .. } | Standing::Dead => None,
        };
        if let Some(since) = since {
            seen.insert(cell.group.clone(), since);
        }
        if entry.offsets.is_empty() {
            drop(entry);
            let interval_ms = shell.settings.expiry_interval_ms;
            if since.is_some_and(|since| now_ms.saturating_sub(since) >= interval_ms) {
                shell.with(slot, cell, |entry, _| {
                    ((), if entry.machine.is_empty() { vec![Effect::LongEmpty] } else { Vec::new() })
                });
            }
            return 0;
        }
        let expiry = Expiry { standing: &standing, retention_ms: shell.settings.offsets_retention_ms, now_ms };
        let tombstones = expiry.tombstones(&cell.group, &entry.offsets, most.min(EXPIRED_PER_GROUP_MAX));
        let count = tombstones.len();
        if count == 0 {
            return 0;
        }
        match shell.write_offsets(slot, cell, &mut entry, tombstones) {
            Ok(_heard_by_nobody) => tracing::info!(group = cell.group, offsets = count, "offsets expired"),
            Err(error) => tracing::warn!(group = cell.group, %error, "expired offsets stay for now"),
        }
        count
    }
}
