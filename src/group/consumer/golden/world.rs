//! One group on its coordinator, and what Raft has of it.

use super::show;
use crate::group::consumer::{Heartbeat, embedded};
use crate::group::coordinator::GroupError;
use crate::group::machine::{Attempt, Effect, Machine, Millis, Ticket};
use crate::group::settings::{Rules, Settings};
use crate::ids::TopicId;
use crate::metadata::group_change::{GroupMember, GroupWrite, TopicPartitions};
use crate::metadata::image::{Image, groups};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const NAME: &str = "g";

/// Invariant, checked after each line: no partition is owned by two members as far as they have been told, and Raft
/// knows whatever anybody was told.
pub struct World {
    pub rules: Rules,
    pub image: Arc<Image>,
    pub machine: Machine,
    pub now: Millis,
    /// What Raft has.
    pub stored: Option<groups::Group>,
    pub revision: u64,
    /// Writes wait for `lands` and the like.
    pub holds: bool,
    pub writing: Option<(Attempt, GroupWrite)>,
    pub tickets: u64,
    pub asking: BTreeMap<Ticket, String>,
    /// By member, what it was told that it has, until it says that it has less.
    pub told: BTreeMap<String, TopicPartitions>,
    /// What each member's first heartbeat said that later ones do not repeat.
    pub known: BTreeMap<String, Heartbeat>,
    pub outputs: Vec<String>,
}

impl World {
    pub fn new() -> World {
        let rules = Settings::for_tests().rules;
        World {
            rules,
            image: Arc::default(),
            machine: Machine::new(rules, 0),
            now: 0,
            stored: None,
            revision: 0,
            holds: false,
            writing: None,
            tickets: 0,
            asking: BTreeMap::new(),
            told: BTreeMap::new(),
            known: BTreeMap::new(),
            outputs: Vec::new(),
        }
    }

    pub fn ticket(&mut self, who: &str) -> Ticket {
        self.tickets += 1;
        self.asking.insert(Ticket(self.tickets), who.to_string());
        Ticket(self.tickets)
    }

    /// One event, and everything that comes of it.
    pub fn event<T>(&mut self, act: impl FnOnce(&mut Machine, Millis) -> (T, Vec<Effect>)) -> T {
        let image = self.image.clone();
        self.machine.see(|| image);
        let (value, effects) = act(&mut self.machine, self.now);
        self.perform(effects);
        let effects = self.machine.downgrade(self.now);
        self.perform(effects);
        while !self.holds && self.writing.is_some() {
            self.land();
        }
        value
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let output = match effect {
                Effect::Commit { attempt, write } => {
                    let shown = show::write(&self.image, &write);
                    self.writing = Some((attempt, write));
                    shown
                }
                Effect::Beaten(ticket, answer) => {
                    let who = self.asking.remove(&ticket).expect("an answer to a question");
                    match &answer {
                        Ok(answer) if answer.epoch < 0 => self.owns(&who, None),
                        // It abandons what it has.
                        Err(GroupError::FencedMemberEpoch | GroupError::UnknownMember) => self.owns(&who, None),
                        Ok(answer) if answer.assignment.is_some() => self.owns(&who, answer.assignment.clone()),
                        _ => {}
                    }
                    show::beaten(&self.image, &who, &answer)
                }
                Effect::Joined(ticket, answer) => {
                    let who = self.asking.remove(&ticket).expect("an answer to a question");
                    if answer == Err(GroupError::UnknownMember) {
                        self.owns(&who, None);
                    }
                    show::joined(&who, &answer)
                }
                Effect::Synced(ticket, answer) => {
                    let who = self.asking.remove(&ticket).expect("an answer to a question");
                    if let Ok(synced) = &answer {
                        let named = embedded::read_assignment(&synced.assignment).expect("a consumer's assignment");
                        let ids = named.into_iter().map(|(name, list)| (self.image.topic_ids[&name], list));
                        let ids = ids.collect();
                        self.owns(&who, Some(ids));
                    }
                    show::synced(&who, &answer)
                }
                Effect::LongEmpty => "empty for long".to_string(),
            };
            self.outputs.push(output);
        }
    }

    /// What is being written is committed.
    pub fn land(&mut self) {
        let (attempt, write) = self.writing.take().expect("something is being written");
        self.store(&write);
        let effects = self.machine.committed(attempt, Ok(()), self.now);
        self.perform(effects);
    }

    /// Nobody knows what became of the write; `lands`: it was committed all the same.
    pub fn fail(&mut self, lands: bool) {
        let (attempt, write) = self.writing.take().expect("something is being written");
        if lands {
            self.store(&write);
        }
        let effects = self.machine.committed(attempt, Err(GroupError::NotAvailable), self.now);
        self.perform(effects);
    }

    /// Only these members of what is being written are committed: the coordinator died between two commands.
    pub fn tear(&mut self, members: &[&str]) {
        let (_, write) = self.writing.take().expect("something is being written");
        let put = write.put.iter().filter(|(id, _)| members.contains(&id.as_str())).cloned().collect();
        let removed = write.removed.iter().filter(|id| members.contains(&id.as_str())).cloned().collect();
        let part = GroupWrite { header: write.header.torn(), put, removed, rebalance: None, blobs: write.blobs };
        self.store(&part);
    }

    fn store(&mut self, write: &GroupWrite) {
        self.revision += 1;
        let before = self.stored.clone().unwrap_or_else(|| groups::Group::new(write.header.clone()));
        self.stored = Some(before.after(write, self.revision).expect("a write fits what was written before"));
    }

    /// Another broker goes on from what Raft has.
    pub fn move_coordinator(&mut self) {
        let effects = self.machine.end(GroupError::NotCoordinator);
        self.perform(effects);
        self.writing = None;
        self.machine = match &self.stored {
            Some(stored) => Machine::restore(NAME, self.rules, stored, &self.image, self.now),
            None => Machine::new(self.rules, self.now),
        };
        self.event(|machine, now| ((), machine.topics_changed(now)));
    }

    pub fn change_image(&mut self, change: impl FnOnce(&mut Image)) {
        change(Arc::make_mut(&mut self.image));
        self.event(|machine, now| ((), machine.topics_changed(now)));
    }

    /// What a member has from now on; `None`: it is gone.
    pub fn owns(&mut self, who: &str, owned: Option<TopicPartitions>) {
        match owned {
            None => self.told.remove(who),
            Some(owned) => self.told.insert(who.to_string(), owned),
        };
    }

    pub fn check(&self) -> Result<(), String> {
        if let Machine::Consumer(group) = &self.machine
            && !group.is_counted()
        {
            return Err("the members' bytes are not what is counted".into());
        }
        let mut owners: BTreeMap<(TopicId, i32), &str> = BTreeMap::new();
        for (who, topics) in &self.told {
            for (topic, partition) in topics.iter().flat_map(|(t, list)| list.iter().map(move |p| (*t, *p))) {
                if let Some(other) = owners.insert((topic, partition), who) {
                    return Err(format!("{who} and {other} both own {topic}-{partition}"));
                }
                let Some(stored) = self.stored.as_ref().and_then(|group| group.members.get(who)) else { continue };
                let GroupMember::Consumer(stored) = stored.as_ref() else { continue };
                let has = |list: &TopicPartitions| list.get(&topic).is_some_and(|list| list.contains(&partition));
                let is_committed = has(&stored.assigned) || has(&stored.pending_revocation);
                if !is_committed {
                    return Err(format!("{who} was told of {topic}-{partition}, which is not committed"));
                }
            }
        }
        Ok(())
    }
}
