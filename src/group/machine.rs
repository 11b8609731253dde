//! A group's state machine, of whichever protocol: state + event + now → effects.
//!
//! The shell knows only this: it hands in events, performs effects in their order, and asks for the next deadline.

use super::classic::{self, Join, Joined, Leaver, SyncGroup, Synced};
use super::consumer::{self, Heartbeat, HeartbeatAnswer};
use super::coordinator::GroupError;
use super::settings::Rules;
use crate::metadata::group_change::{GroupHeader, GroupWrite};
use crate::metadata::image::{Image, groups};
use std::sync::Arc;

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
    /// The answer to a heartbeat of the consumer protocol.
    Beaten(Ticket, Result<HeartbeatAnswer, GroupError>),
    /// Commit the write through Raft and come back with [`Machine::committed`]. A newer attempt replaces an older one
    /// that has not been sent; it holds all of it.
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
    Consumer(consumer::Group),
}

impl Machine {
    /// A group that nobody has joined yet.
    pub fn new(rules: Rules, now: Millis) -> Machine {
        Machine::Classic(classic::Group::new(rules, now))
    }

    /// A new coordinator goes on from the committed state: same members, same generation, sessions start anew.
    pub fn restore(name: &str, rules: Rules, group: &groups::Group, image: &Arc<Image>, now: Millis) -> Machine {
        match &group.header {
            GroupHeader::Classic { .. } => {
                let (group, changed) = consumer::classic_of_torn(group, image);
                let mut group = classic::Group::restore(rules, &group, now);
                group.rewrite(&changed);
                Machine::Classic(group)
            }
            GroupHeader::Consumer { .. } => Machine::Consumer(consumer::Group::restore(name, rules, group, image, now)),
        }
    }

    /// What the coming event sees of topics and configs.
    pub fn see(&mut self, image: impl FnOnce() -> Arc<Image>) {
        if let Machine::Consumer(group) = self {
            group.see(&image());
        }
    }

    /// Does it want [`Machine::topics_changed`]?
    pub fn follows_topics(&self) -> bool {
        matches!(self, Machine::Consumer(_))
    }

    /// Topics came, went or grew.
    pub fn topics_changed(&mut self, now: Millis) -> Vec<Effect> {
        match self {
            Machine::Classic(_) => Vec::new(),
            Machine::Consumer(group) => group.topics_changed(now),
        }
    }

    /// A heartbeat of the consumer protocol. A member that joins takes a classic group over, where that may be.
    pub fn beat(
        &mut self,
        ticket: Ticket,
        name: &str,
        beat: Heartbeat,
        image: &Arc<Image>,
        now: Millis,
    ) -> Vec<Effect> {
        let former = match self {
            Machine::Classic(group) => group,
            Machine::Consumer(group) => return group.heartbeat(ticket, beat, now),
        };
        match upgraded(former, ticket, name, beat, image, now) {
            Ok((group, effects)) => {
                *self = Machine::Consumer(group);
                effects
            }
            Err(error) => vec![Effect::Beaten(ticket, Err(error))],
        }
    }

    /// After each event: a group of the consumer protocol that only classic members are left of becomes theirs.
    pub fn downgrade(&mut self, now: Millis) -> Vec<Effect> {
        match self {
            Machine::Consumer(group) if group.wants_downgrade() => self.become_classic(now),
            _ => Vec::new(),
        }
    }

    fn become_classic(&mut self, now: Millis) -> Vec<Effect> {
        let Machine::Consumer(group) = self else { return Vec::new() };
        let rules = *group.rules();
        let group = std::mem::replace(group, consumer::Group::new("", rules, 0, now));
        let (handover, mut effects) = group.hand_over();
        let (group, told) = classic::Group::take_over(rules, handover, now);
        effects.extend(told);
        *self = Machine::Classic(group);
        effects
    }

    pub fn join(&mut self, ticket: Ticket, join: &Join, fresh_id: String, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        if matches!(self, Machine::Consumer(group) if group.phase() == consumer::Phase::Empty) {
            effects = self.become_classic(now);
        }
        effects.extend(match self {
            Machine::Classic(group) => group.join(ticket, join, fresh_id, now),
            Machine::Consumer(group) => group.join(ticket, join, fresh_id, now),
        });
        effects
    }

    pub fn sync(&mut self, ticket: Ticket, sync: SyncGroup, now: Millis) -> Vec<Effect> {
        match self {
            Machine::Classic(group) => group.sync(ticket, sync, now),
            Machine::Consumer(group) => group.sync(ticket, &sync, now),
        }
    }

    /// A heartbeat of the classic protocol; answered at once.
    pub fn heartbeat(
        &mut self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        now: Millis,
    ) -> Result<(), GroupError> {
        match self {
            Machine::Classic(group) => group.heartbeat(member, instance, generation, now),
            Machine::Consumer(group) => group.classic_heartbeat(member, instance, generation, now),
        }
    }

    /// One result a member of a LeaveGroup, in the order given.
    pub fn leave(&mut self, members: &[Leaver], now: Millis) -> (Vec<Result<(), GroupError>>, Vec<Effect>) {
        match self {
            Machine::Classic(group) => group.leave(members, now),
            Machine::Consumer(group) => {
                let (outcomes, effects): (Vec<_>, Vec<_>) =
                    members.iter().map(|leaver| group.classic_leave(leaver, now)).unzip();
                (outcomes, effects.into_iter().flatten().collect())
            }
        }
    }

    /// For DescribeGroups, which knows classic groups.
    pub fn describe(&self) -> Option<classic::Description> {
        match self {
            Machine::Classic(group) => Some(group.describe()),
            Machine::Consumer(_) => None,
        }
    }

    pub fn describe_consumer(&self) -> Option<consumer::Description> {
        match self {
            Machine::Consumer(group) if group.phase() != consumer::Phase::Dead => Some(group.describe()),
            _ => None,
        }
    }

    /// May this caller fetch offsets now? `None`: it names no member.
    pub fn check_offset_fetch(&self, member: Option<&str>, epoch: i32) -> Result<(), GroupError> {
        match self {
            // Of a classic group anybody may.
            Machine::Classic(_) => Ok(()),
            Machine::Consumer(group) => group.check_offset_fetch(member, epoch),
        }
    }

    /// The outcome of a commit.
    pub fn committed(&mut self, attempt: Attempt, outcome: Result<(), GroupError>, now: Millis) -> Vec<Effect> {
        match self {
            Machine::Classic(group) => group.committed(attempt, outcome, now),
            Machine::Consumer(group) => group.committed(attempt, outcome, now),
        }
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Millis) -> Vec<Effect> {
        match self {
            Machine::Classic(group) => group.tick(now),
            Machine::Consumer(group) => group.tick(now),
        }
    }

    /// When [`Machine::tick`] has something to do, if nothing happens before. May be too early, never too late.
    pub fn next_deadline(&self) -> Option<Millis> {
        match self {
            Machine::Classic(group) => group.next_deadline(),
            Machine::Consumer(group) => group.next_deadline(),
        }
    }

    /// The coordinator itself was asleep: it has no right to call its members silent.
    pub fn restart_sessions(&mut self, now: Millis) {
        match self {
            Machine::Classic(group) => group.restart_sessions(now),
            Machine::Consumer(group) => group.restart_sessions(now),
        }
    }

    /// The coordinator moved, or the group is deleted: everyone parked is told `why`, and so is whoever comes later.
    pub fn end(&mut self, why: GroupError) -> Vec<Effect> {
        match self {
            Machine::Classic(group) => group.end(why),
            Machine::Consumer(group) => group.end(why),
        }
    }

    /// A deletion that failed: the group is as it was, empty.
    pub fn revive_empty(&mut self, now: Millis) {
        match self {
            Machine::Classic(group) => group.revive_empty(now),
            Machine::Consumer(group) => group.revive_empty(now),
        }
    }

    /// Neither members nor an end of it: what may be deleted.
    pub fn is_empty(&self) -> bool {
        match self {
            Machine::Classic(group) => group.phase() == classic::Phase::Empty,
            Machine::Consumer(group) => group.phase() == consumer::Phase::Empty,
        }
    }

    /// Deleted, or another broker's by now.
    pub fn is_dead(&self) -> bool {
        match self {
            Machine::Classic(group) => group.phase() == classic::Phase::Dead,
            Machine::Consumer(group) => group.phase() == consumer::Phase::Dead,
        }
    }

    /// Kafka's name of its state.
    pub fn state_name(&self) -> &'static str {
        match self {
            Machine::Classic(group) => group.phase().name(),
            Machine::Consumer(group) => group.phase().name(),
        }
    }

    /// The state as a label of a metric.
    pub fn state_label(&self) -> &'static str {
        match self {
            Machine::Classic(group) => group.phase().label(),
            Machine::Consumer(group) => group.phase().label(),
        }
    }

    /// What its members take (without what is assigned to them), and ids given out.
    pub fn bytes(&self) -> usize {
        match self {
            Machine::Classic(group) => group.bytes(),
            Machine::Consumer(group) => group.bytes(),
        }
    }

    /// Kafka's name of the group's type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Machine::Classic(_) => "classic",
            Machine::Consumer(_) => "consumer",
        }
    }

    pub fn protocol_type(&self) -> &str {
        match self {
            Machine::Classic(group) => group.protocol_type(),
            Machine::Consumer(_) => "consumer",
        }
    }

    pub fn member_count(&self) -> usize {
        match self {
            Machine::Classic(group) => group.member_count(),
            Machine::Consumer(group) => group.member_count(),
        }
    }

    /// May this caller commit offsets now? `knows_epochs`: the request's version knows of member epochs (KIP-848).
    pub fn check_offset_commit(
        &mut self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        knows_epochs: bool,
        now: Millis,
    ) -> Result<(), GroupError> {
        match self {
            Machine::Classic(group) => group.check_offset_commit(member, instance, generation, now),
            Machine::Consumer(group) => group.check_offset_commit(member, instance, generation, knows_epochs),
        }
    }
}

/// What becomes of a classic group when this member comes. One that is refused leaves it untouched: neither are its
/// parked joins disturbed nor does its generation end.
fn upgraded(
    former: &classic::Group,
    ticket: Ticket,
    name: &str,
    beat: Heartbeat,
    image: &Arc<Image>,
    now: Millis,
) -> Result<(consumer::Group, Vec<Effect>), GroupError> {
    former.check_alive()?;
    let rules = *former.rules();
    match beat.epoch {
        consumer::JOIN => consumer::may_upgrade(former, &rules)?,
        // A member that was only late: it joins anew, and takes the group over.
        _ if consumer::is_upgradable(former, &rules) => return Err(GroupError::UnknownMember),
        _ => return Err(GroupError::GroupNotFound),
    }
    let (handover, mut effects) = former.clone().hand_over();
    let mut group = consumer::Group::take_over(name, rules, handover, image, now);
    effects.extend(group.first_heartbeat(ticket, beat, now)?);
    Ok((group, effects))
}
