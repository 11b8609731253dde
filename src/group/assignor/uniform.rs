//! Every member about as many partitions as any other, with as few moves as that takes.
//!
//! How many partitions of a class each member gets is settled first, in numbers only: what members hold stays, free
//! partitions go to whoever has least, and what is left of a difference of two or more is moved. Which partitions these
//! are comes second: members near a replica first, the others in turn, so that a topic is spread.

use super::classes::Class;
use super::problem::{Owned, Subscriber, Topics};
use crate::ids::TopicId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

type Partitions = Vec<(TopicId, i32)>;

/// A guard, not a limit that is met: each round but the last makes the loads more even.
const ROUNDS_MAX: usize = 1_000;

/// One class on its way to an assignment. Members are meant by their position in `class.members`.
struct Shares<'a> {
    class: &'a Class,
    /// What each holds of the class, ascending.
    held: Vec<Partitions>,
    free: Partitions,
    /// How many each is to have.
    counts: Vec<usize>,
}

/// Where a class is: its number, and each topic's owners so far.
struct Place {
    class: usize,
    taken: Vec<bool>,
}

pub fn assign(members: &[Subscriber<'_>], topics: &Topics, classes: &[Class]) -> Vec<Owned> {
    let mut shares = retain(members, topics, classes);
    let mut loads = vec![0; members.len()];
    for share in &shares {
        for (position, member) in share.class.members.iter().enumerate() {
            loads[*member] += share.counts[position];
        }
    }
    shares.iter_mut().for_each(|share| share.fill(&mut loads));
    for _ in 0..ROUNDS_MAX {
        // Every class has its turn in each round.
        let moved: usize = shares.iter_mut().map(|share| usize::from(share.level(&mut loads))).sum();
        if moved == 0 {
            break;
        }
    }
    let mut targets = vec![Owned::new(); members.len()];
    for share in shares {
        share.deal(members, topics, &mut targets);
    }
    targets
}

/// What members hold and may keep; a partition that two claim stays with the first.
fn retain<'a>(members: &[Subscriber<'_>], topics: &Topics, classes: &'a [Class]) -> Vec<Shares<'a>> {
    let mut places: BTreeMap<TopicId, Place> = BTreeMap::new();
    let mut shares: Vec<Shares<'a>> = classes.iter().map(Shares::new).collect();
    for (class, topic) in classes.iter().enumerate().flat_map(|(i, class)| class.topics.iter().map(move |t| (i, t))) {
        let count = usize::try_from(topics[topic].partitions).unwrap_or(0);
        places.insert(*topic, Place { class, taken: vec![false; count] });
    }
    for (member, subscriber) in members.iter().enumerate() {
        for (topic, partitions) in subscriber.held {
            let Some(place) = places.get_mut(topic) else { continue };
            let share = &mut shares[place.class];
            let Ok(position) = share.class.members.binary_search(&member) else { continue };
            for partition in partitions {
                let taken = usize::try_from(*partition).ok().and_then(|index| place.taken.get_mut(index));
                if let Some(taken) = taken.filter(|taken| !**taken) {
                    *taken = true;
                    share.held[position].push((*topic, *partition));
                    share.counts[position] += 1;
                }
            }
        }
    }
    for (topic, place) in places {
        let free = (0..).zip(&place.taken).filter(|(_, taken)| !**taken).map(|(partition, _)| (topic, partition));
        shares[place.class].free.extend(free);
    }
    shares
}

impl<'a> Shares<'a> {
    fn new(class: &'a Class) -> Shares<'a> {
        let size = class.members.len();
        Shares { class, held: vec![Vec::new(); size], free: Vec::new(), counts: vec![0; size] }
    }

    /// Free partitions go to whoever has least, of all classes together.
    fn fill(&mut self, loads: &mut [usize]) {
        let order = self.class.members.iter().enumerate().map(|(position, member)| Reverse((loads[*member], position)));
        let mut least: BinaryHeap<_> = if self.free.is_empty() { return } else { order.collect() };
        for _ in &self.free {
            let mut top = least.peek_mut().expect("a class has members");
            top.0.0 += 1;
            let position = top.0.1;
            self.counts[position] += 1;
            loads[self.class.members[position]] += 1;
        }
    }

    /// Moves from whoever has most to whoever has least while they differ by two; true if anything moved.
    fn level(&mut self, loads: &mut [usize]) -> bool {
        let own = || self.class.members.iter().enumerate().map(|(position, member)| (loads[*member], position));
        let most = own().filter(|(_, position)| self.counts[*position] > 0).max();
        let least = own().min();
        if most.zip(least).is_none_or(|(most, least)| most.0 < least.0 + 2) {
            return false;
        }
        let mut all: BTreeSet<(usize, usize)> = own().collect();
        let mut givers: BTreeSet<(usize, usize)> = own().filter(|(_, position)| self.counts[*position] > 0).collect();
        while let (Some(most), Some(least)) = (givers.last().copied(), all.first().copied()) {
            if most.0 < least.0 + 2 {
                break;
            }
            for (was, now) in [(most, most.0 - 1), (least, least.0 + 1)] {
                all.remove(&was);
                givers.remove(&was);
                let position = was.1;
                if now > was.0 {
                    self.counts[position] += 1
                } else {
                    self.counts[position] -= 1
                }
                loads[self.class.members[position]] = now;
                all.insert((now, position));
                if self.counts[position] > 0 {
                    givers.insert((now, position));
                }
            }
        }
        true
    }

    /// Settles which partitions are meant by the counts.
    fn deal(mut self, members: &[Subscriber<'_>], topics: &Topics, targets: &mut [Owned]) {
        let rack = |position: usize| members[self.class.members[position]].rack;
        let is_near = |position: usize, (topic, partition): (TopicId, i32)| {
            let racks = usize::try_from(partition).ok().and_then(|index| topics[&topic].racks.get(index));
            rack(position).zip(racks).is_some_and(|(rack, racks)| racks.contains(rack))
        };
        for position in 0..self.held.len() {
            let surplus = self.held[position].len().saturating_sub(self.counts[position]);
            let (kept, shed) = shed(std::mem::take(&mut self.held[position]), surplus, |one| is_near(position, one));
            self.held[position] = kept;
            self.free.extend(shed);
        }
        self.free.sort_unstable();
        let mut room: Vec<usize> = self.counts.iter().zip(&self.held).map(|(count, held)| count - held.len()).collect();
        let free = self.near_first(rack, topics, &mut room);
        let mut turn: VecDeque<usize> = (0..room.len()).filter(|position| room[*position] > 0).collect();
        for partition in free {
            let position = turn.pop_front().expect("the counts add up to the partitions");
            self.held[position].push(partition);
            room[position] -= 1;
            if room[position] > 0 {
                turn.push_back(position);
            }
        }
        for (position, held) in self.held.into_iter().enumerate() {
            let target = &mut targets[self.class.members[position]];
            for (topic, partition) in held {
                target.entry(topic).or_default().push(partition);
            }
        }
    }

    /// Gives free partitions to members in a rack of a replica, of these racks the one with most room; what is left.
    fn near_first<'r>(
        &mut self,
        rack: impl Fn(usize) -> Option<&'r str>,
        topics: &Topics,
        room: &mut [usize],
    ) -> Partitions {
        let mut racks: BTreeMap<&str, (usize, VecDeque<usize>)> = BTreeMap::new();
        for position in (0..room.len()).filter(|position| room[*position] > 0) {
            if let Some(rack) = rack(position) {
                let (total, turn) = racks.entry(rack).or_default();
                *total += room[position];
                turn.push_back(position);
            }
        }
        let free = std::mem::take(&mut self.free);
        if racks.is_empty() {
            return free;
        }
        let mut left = Vec::new();
        for (topic, partition) in free {
            let near = usize::try_from(partition).ok().and_then(|index| topics[&topic].racks.get(index));
            let near = near.into_iter().flatten().filter_map(|rack| Some((racks.get(rack.as_str())?.0, rack.as_str())));
            let Some((_, best)) = near.filter(|(total, _)| *total > 0).max_by_key(|(total, _)| *total) else {
                left.push((topic, partition));
                continue;
            };
            let (total, turn) = racks.get_mut(best).expect("it was found there");
            let position = turn.pop_front().expect("a rack with room has a member with room");
            *total -= 1;
            room[position] -= 1;
            if room[position] > 0 {
                turn.push_back(position);
            }
            self.held[position].push((topic, partition));
        }
        left
    }
}

/// Takes `surplus` of what one holds: first what is far from it, and else evenly over its topics.
fn shed(held: Partitions, surplus: usize, is_near: impl Fn((TopicId, i32)) -> bool) -> (Partitions, Partitions) {
    if surplus == 0 {
        return (held, Vec::new());
    }
    let (near, far): (Vec<_>, Vec<_>) = held.into_iter().partition(|one| is_near(*one));
    let from_far = surplus.min(far.len());
    let (mut kept, mut shed) = thin(far, from_far);
    let (kept_near, shed_near) = thin(near, surplus - from_far);
    kept.extend(kept_near);
    shed.extend(shed_near);
    (kept, shed)
}

/// Takes `count` at even distances; (rest, taken).
fn thin(all: Partitions, count: usize) -> (Partitions, Partitions) {
    let size = all.len();
    let (taken, rest): (Vec<_>, Vec<_>) =
        all.into_iter().enumerate().partition(|(index, _)| (index + 1) * count / size > index * count / size);
    let values = |list: Vec<(usize, (TopicId, i32))>| list.into_iter().map(|(_, one)| one).collect();
    (values(rest), values(taken))
}
