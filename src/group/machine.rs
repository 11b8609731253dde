//! A group's state machine, of whichever protocol: state + event + now → effects.
//!
//! The shell knows only this: it hands in events, performs effects in their order, and asks for the next deadline.

use super::classic::{self, Joined, Synced};
use super::coordinator::GroupError;
use super::settings::Rules;
use crate::metadata::group_change::{GroupHeader, GroupWrite};
use crate::metadata::image::groups;

/// Milliseconds on the coordinator's own clock.
pub type Millis = u64;

/// A parked request: the shell keeps who is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One write of a group; they count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u64);

/// What the shell must do after an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Joined(Ticket, Result<Joined, GroupError>),
    Synced(Ticket, Result<Synced, GroupError>),
    /// Commit the write through Raft and come back with [`Machine::committed`]. A newer attempt replaces an older one
    /// that has not been sent; it holds all of it (see [`super::draft`]).
    Commit {
        attempt: Attempt,
        write: GroupWrite,
    },
    /// Empty for long: the group may go if it has no offsets.
    LongEmpty,
}

#[derive(Clone, Debug)]
pub enum Machine {
    Classic(classic::Group),
}

impl Machine {
    /// A group that nobody has joined yet.
    pub fn new(rules: Rules, now: Millis) -> Machine {
        Machine::Classic(classic::Group::new(rules, now))
    }

    /// A new coordinator goes on from the committed state: same members, same generation, sessions start anew.
    pub fn restore(rules: Rules, group: &groups::Group, now: Millis) -> Machine {
        match &group.header {
            GroupHeader::Classic { .. } => Machine::Classic(classic::Group::restore(rules, group, now)),
            // Until the new protocol's groups are served nobody writes such a one.
            GroupHeader::Consumer { .. } => Machine::new(rules, now),
        }
    }

    /// The outcome of a commit.
    pub fn committed(&mut self, attempt: Attempt, outcome: Result<(), GroupError>, now: Millis) -> Vec<Effect> {
        match self {
            Machine::Classic(group) => group.committed(attempt, outcome, now),
        }
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Millis) -> Vec<Effect> {
        match self {
            Machine::Classic(group) => group.tick(now),
        }
    }

    /// When [`Machine::tick`] has something to do, if nothing happens before. May be too early, never too late.
    pub fn next_deadline(&self) -> Option<Millis> {
        match self {
            Machine::Classic(group) => group.next_deadline(),
        }
    }

    /// The coordinator itself was asleep: it has no right to call its members silent.
    pub fn restart_sessions(&mut self, now: Millis) {
        match self {
            Machine::Classic(group) => group.restart_sessions(now),
        }
    }

    /// The coordinator moved, or the group is deleted: everyone parked is told `why`, and so is whoever comes later.
    pub fn end(&mut self, why: GroupError) -> Vec<Effect> {
        match self {
            Machine::Classic(group) => group.end(why),
        }
    }

    /// A deletion that failed: the group is as it was, empty.
    pub fn revive_empty(&mut self, now: Millis) {
        match self {
            Machine::Classic(group) => group.revive_empty(now),
        }
    }

    /// Neither members nor an end of it: what may be deleted.
    pub fn is_empty(&self) -> bool {
        match self {
            Machine::Classic(group) => group.phase() == classic::Phase::Empty,
        }
    }

    /// Deleted, or another broker's by now.
    pub fn is_dead(&self) -> bool {
        match self {
            Machine::Classic(group) => group.phase() == classic::Phase::Dead,
        }
    }

    /// Kafka's name of its state.
    pub fn state_name(&self) -> &'static str {
        match self {
            Machine::Classic(group) => group.phase().name(),
        }
    }

    /// The state as a label of a metric.
    pub fn state_label(&self) -> &'static str {
        match self {
            Machine::Classic(group) => group.phase().label(),
        }
    }

    /// What its members take (without what is assigned to them), and ids given out.
    pub fn bytes(&self) -> usize {
        match self {
            Machine::Classic(group) => group.bytes(),
        }
    }

    /// Kafka's name of the group's type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Machine::Classic(_) => "classic",
        }
    }

    pub fn protocol_type(&self) -> &str {
        match self {
            Machine::Classic(group) => group.protocol_type(),
        }
    }

    pub fn member_count(&self) -> usize {
        match self {
            Machine::Classic(group) => group.member_count(),
        }
    }

    /// May this caller commit offsets now?
    pub fn check_offset_commit(
        &mut self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<(), GroupError> {
        match self {
            Machine::Classic(group) => group.check_offset_commit(member, instance, generation, now),
        }
    }

    /// The classic protocol's state machine, for its requests.
    pub fn classic(&mut self) -> &mut classic::Group {
        match self {
            Machine::Classic(group) => group,
        }
    }
}
