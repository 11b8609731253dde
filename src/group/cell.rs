//! One group under its lock: the state machine, its offsets, and the requests that are parked.

use super::classic::{Effect, Group, Joined, Millis, Synced, Ticket};
use super::coordinator::GroupError;
use super::offsets::Offsets;
use crate::metadata::command::GroupState;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

pub enum Parked {
    Join(oneshot::Sender<Result<Joined, GroupError>>),
    Sync(oneshot::Sender<Result<Synced, GroupError>>),
}

pub struct Cell {
    pub group: String,
    entry: Mutex<Entry>,
}

pub struct Entry {
    pub machine: Group,
    pub offsets: Offsets,
    parked: BTreeMap<Ticket, Parked>,
    tickets: u64,
    /// The newest state to commit that no one has begun to. Raft sees a group's states one after the other.
    wanted: Option<(u64, GroupState)>,
    is_committing: bool,
    /// The deadline that the timers hold for this group.
    pub scheduled: Option<Millis>,
}

/// What is left to do once the lock is released.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Afterwards {
    /// Nobody commits this group's states yet: begin.
    pub starts_committer: bool,
    pub is_long_empty: bool,
}

impl Cell {
    pub fn new(group: String, machine: Group, offsets: Offsets) -> Cell {
        let entry = Entry {
            machine,
            offsets,
            parked: BTreeMap::new(),
            tickets: 0,
            wanted: None,
            is_committing: false,
            scheduled: None,
        };
        Cell { group, entry: Mutex::new(entry) }
    }

    /// Never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock()
    }
}

impl Entry {
    /// Bound: a member has at most one join and one sync parked, and the group's size is bounded.
    pub fn park(&mut self, request: Parked) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.parked.insert(ticket, request);
        ticket
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
                Effect::Commit { attempt, state } => {
                    self.wanted = Some((attempt, state));
                    afterwards.starts_committer |= !self.is_committing;
                    self.is_committing = true;
                }
                Effect::LongEmpty => afterwards.is_long_empty = true,
            }
        }
        afterwards
    }

    /// The next state for the committer; `None` ends it.
    pub fn take_wanted(&mut self) -> Option<(u64, GroupState)> {
        let wanted = self.wanted.take();
        self.is_committing = wanted.is_some();
        wanted
    }
}
