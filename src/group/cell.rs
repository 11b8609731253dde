//! One group under its lock: the state machine, its offsets, and the requests that are parked.

use super::classic::{Joined, Synced};
use super::consumer::HeartbeatAnswer;
use super::coordinator::GroupError;
use super::machine::{Attempt, Effect, Machine, Millis, Ticket};
use super::offsets::Offsets;
use super::revisions::Revisions;
use crate::metadata::group_change::GroupWrite;
use crate::platform::clock;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// A deadline looked at later than this was missed because this process did not run.
const OVERSLEPT_MS: Millis = 1_000;
/// Between two times that a group's sessions begin anew for that.
const RENEWAL_REST_MS: Millis = 120_000;

pub enum Parked {
    Join(oneshot::Sender<Result<Joined, GroupError>>),
    Sync(oneshot::Sender<Result<Synced, GroupError>>),
    /// Of the consumer protocol.
    Heartbeat(oneshot::Sender<Result<HeartbeatAnswer, GroupError>>),
}

/// What is to be committed of one group.
#[allow(clippy::large_enum_variant, reason = "nearly all are writes")]
pub enum Proposal {
    Write {
        attempt: Attempt,
        write: GroupWrite,
    },
    /// The group goes; tells how it went.
    Remove(oneshot::Sender<Result<(), GroupError>>),
}

/// What all groups of this broker take.
pub type Held = Arc<AtomicUsize>;

/// A group's share in it.
struct Share {
    held: Held,
    own: usize,
}

impl Share {
    fn set(&mut self, bytes: usize) {
        if bytes >= self.own {
            self.held.fetch_add(bytes - self.own, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(self.own - bytes, Ordering::Relaxed);
        }
        self.own = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

pub struct Cell {
    pub group: String,
    entry: Mutex<Entry>,
}

pub struct Entry {
    pub machine: Machine,
    pub offsets: Offsets,
    parked: BTreeMap<Ticket, Parked>,
    tickets: u64,
    /// What no one has begun to commit. Raft sees a group's writes one after the other.
    wanted: Option<Proposal>,
    is_committing: bool,
    /// For the committer.
    pub revisions: Revisions,
    share: Share,
    /// The deadline that the timers hold for this group.
    pub scheduled: Option<Millis>,
    /// The last look at a deadline was late.
    is_late: bool,
    renewed_at: Option<Millis>,
}

/// What is left to do once the lock is released.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Afterwards {
    /// The committer does not know of this group: tell it.
    pub starts_commit: bool,
    pub is_long_empty: bool,
}

impl Cell {
    pub fn new(group: String, machine: Machine, offsets: Offsets, held: Held) -> Cell {
        let mut share = Share { held, own: 0 };
        share.set(machine.bytes());
        let entry = Entry {
            machine,
            offsets,
            parked: BTreeMap::new(),
            tickets: 0,
            wanted: None,
            is_committing: false,
            revisions: Revisions::default(),
            share,
            scheduled: None,
            is_late: false,
            renewed_at: None,
        };
        Cell { group, entry: Mutex::new(entry) }
    }

    /// Never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock()
    }
}

impl Entry {
    /// Bound: a member has at most one request of a kind parked, and the group's size is bounded.
    pub fn park(&mut self, request: Parked) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.parked.insert(ticket, request);
        ticket
    }

    /// A deadline is looked at `late` by so much. Do sessions begin anew, since this process did not run? Not at each look
    /// of a machine that is always late: a member that is gone would never be found out.
    pub fn renews_sessions(&mut self, late: Millis, now: Millis) -> bool {
        let was_late = std::mem::replace(&mut self.is_late, late > OVERSLEPT_MS);
        let is_rested = self.renewed_at.is_none_or(|at| now.saturating_sub(at) >= RENEWAL_REST_MS);
        let renews = self.is_late && !was_late && is_rested;
        if renews {
            self.renewed_at = Some(now);
        }
        renews
    }

    pub fn parked_joins(&self) -> usize {
        self.parked.values().filter(|parked| matches!(parked, Parked::Join(_))).count()
    }

    /// Answers who is to be answered. A client that went away does not hear it, and that is all.
    pub fn perform(&mut self, effects: Vec<Effect>) -> Afterwards {
        let mut afterwards = Afterwards::default();
        for effect in effects {
            match effect {
                Effect::Joined(ticket, answer) => {
                    if let Some(Parked::Join(sender)) = self.parked.remove(&ticket) {
                        let _gone = sender.send(answer);
                    }
                }
                Effect::Synced(ticket, answer) => {
                    if let Some(Parked::Sync(sender)) = self.parked.remove(&ticket) {
                        let _gone = sender.send(answer);
                    }
                }
                Effect::Beaten(ticket, answer) => {
                    if let Some(Parked::Heartbeat(sender)) = self.parked.remove(&ticket) {
                        let _gone = sender.send(answer);
                    }
                }
                Effect::Commit { attempt, mut write } => {
                    if let Some(rebalance) = &mut write.rebalance {
                        rebalance.at_ms = clock::wall_ms();
                    }
                    afterwards.starts_commit |= self.want(Proposal::Write { attempt, write });
                }
                Effect::LongEmpty => afterwards.is_long_empty = true,
            }
        }
        self.share.set(self.machine.bytes());
        afterwards
    }

    /// Takes the place of what was wanted and not begun. True: the committer does not know yet.
    pub fn want(&mut self, proposal: Proposal) -> bool {
        self.wanted = Some(proposal);
        !std::mem::replace(&mut self.is_committing, true)
    }

    /// Another coordinator wrote the group: `machine` goes on from that. Who waits is to be answered by the caller.
    pub fn restart(&mut self, machine: Machine, revision: u64) {
        self.machine = machine;
        self.revisions = Revisions::at(revision);
        self.wanted = None;
    }

    /// For the committer, once for each time that it was told.
    pub fn take_wanted(&mut self) -> Option<Proposal> {
        self.wanted.take()
    }

    /// What the committer took is done. True: there is more.
    pub fn finish_commit(&mut self) -> bool {
        self.is_committing = self.wanted.is_some();
        self.is_committing
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;

    #[test]
    fn sessions_begin_anew_once_and_not_at_each_look_that_is_late() {
        let machine = Machine::new(Settings::for_tests().rules, 0);
        let cell = Cell::new("g".into(), machine, Offsets::default(), Held::default());
        let mut entry = cell.lock();
        assert!(!entry.renews_sessions(OVERSLEPT_MS, 50_000));
        assert!(entry.renews_sessions(OVERSLEPT_MS + 1, 100_000));
        assert!(!entry.renews_sessions(60_000, 900_000), "a whole session later it is late again");
        assert!(!entry.renews_sessions(0, 901_000), "in time");
        assert!(entry.renews_sessions(2_000, 902_000));
        assert!(!entry.renews_sessions(0, 903_000));
        assert!(!entry.renews_sessions(2_000, 904_000), "now and then in time");
        assert!(!entry.renews_sessions(0, 905_000));
        assert!(entry.renews_sessions(2_000, 902_000 + RENEWAL_REST_MS));
    }
}
