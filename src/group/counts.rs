//! What the coordinator counts, for whoever asks.

use super::shell::Shell;
use crate::metadata::group_change::Rebalance;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Since the process started.
#[derive(Default)]
pub struct Counts {
    commits: AtomicU64,
    commands: AtomicU64,
    /// By the name of the reason that came first.
    rebalances: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counts {
    /// A group's write is committed.
    pub fn commit(&self, rebalance: Option<&Rebalance>) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        if let Some(rebalance) = rebalance {
            *self.rebalances.lock().entry(rebalance.reason.name()).or_default() += 1;
        }
    }

    /// Writes of one or many groups are submitted to the controller.
    pub fn command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }
}

/// The groups that this broker coordinates, and what it did since its process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// How many groups are in each state, by its label.
    pub by_state: BTreeMap<&'static str, u64>,
    pub members: u64,
    pub parked_joins: u64,
    /// What members take.
    pub bytes: u64,
    pub commits: u64,
    pub commands: u64,
    /// By reason.
    pub rebalances: BTreeMap<&'static str, u64>,
}

impl Gauges {
    /// Looks at every group.
    pub(super) fn of(shell: &Shell) -> Gauges {
        let mut gauges = Gauges {
            bytes: shell.held.load(Ordering::Relaxed) as u64,
            commits: shell.counts.commits.load(Ordering::Relaxed),
            commands: shell.counts.commands.load(Ordering::Relaxed),
            rebalances: shell.counts.rebalances.lock().clone(),
            ..Gauges::default()
        };
        for cell in shell.slots().into_iter().filter_map(|slot| slot.all()).flatten() {
            let entry = cell.lock();
            if entry.machine.is_dead() {
                continue;
            }
            *gauges.by_state.entry(entry.machine.state_label()).or_default() += 1;
            gauges.members += entry.machine.member_count() as u64;
            gauges.parked_joins += entry.parked_joins() as u64;
        }
        gauges
    }
}
