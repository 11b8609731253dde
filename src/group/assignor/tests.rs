//! What holds for every input, and a few pictures.

use super::*;
use crate::ids::TopicId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

fn topic(number: u8) -> TopicId {
    TopicId(Uuid::from_u128(u128::from(number) + 1))
}

/// A group that can be assigned again and again.
#[derive(Clone, Debug, Default)]
struct World {
    topics: Topics,
    members: BTreeMap<String, (BTreeSet<TopicId>, Option<String>)>,
    held: BTreeMap<String, Owned>,
}

impl World {
    fn of(sizes: &[i32], members: &[(&str, &[u8])]) -> World {
        let topics = (0..).zip(sizes).map(|(n, size)| (topic(n), TopicShape { partitions: *size, racks: vec![] }));
        let mut world = World { topics: topics.collect(), ..World::default() };
        members.iter().for_each(|(id, wanted)| world.join(id, wanted));
        world
    }

    fn join(&mut self, id: &str, wanted: &[u8]) {
        self.members.insert(id.to_string(), (wanted.iter().map(|n| topic(*n)).collect(), None));
    }

    fn leave(&mut self, id: &str) {
        self.members.remove(id);
        self.held.remove(id);
    }

    /// How many partitions changed hands that had an owner who is still there.
    fn assign(&mut self, assignor: Assignor) -> usize {
        let nothing = Owned::new();
        let members: Vec<_> = self
            .members
            .iter()
            .map(|(id, (topics, rack))| Subscriber {
                id,
                instance: None,
                rack: rack.as_deref(),
                topics,
                held: self.held.get(id).unwrap_or(&nothing),
            })
            .collect();
        let targets = assign(assignor, &members, &self.topics);
        assert_eq!(targets, assign(assignor, &members, &self.topics), "the same for the same input");
        let before = owners(&self.held);
        self.held = self.members.keys().cloned().zip(targets).collect();
        let after = owners(&self.held);
        before.iter().filter(|(partition, owner)| after.get(*partition).is_some_and(|now| now != *owner)).count()
    }

    fn loads(&self) -> Vec<usize> {
        self.held.values().map(|owned| owned.values().map(Vec::len).sum()).collect()
    }

    fn is_balanced(&self) -> bool {
        let loads = self.loads();
        loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0) <= 1
    }

    /// Every partition of a topic that anybody wants has one owner, who wants it; ranges ascend.
    fn check(&self) {
        let mut seen = BTreeSet::new();
        for (id, owned) in &self.held {
            for (topic, partitions) in owned {
                assert!(self.members[id].0.contains(topic), "{id} did not ask for {topic}");
                assert!(!partitions.is_empty() && partitions.is_sorted(), "{partitions:?}");
                for partition in partitions {
                    assert!((0..self.topics[topic].partitions).contains(partition));
                    assert!(seen.insert((*topic, *partition)), "{topic}-{partition} has two owners");
                }
            }
        }
        let wanted: BTreeSet<_> = self.members.values().flat_map(|(wanted, _)| wanted).collect();
        let count: i32 = self.topics.iter().filter(|(id, _)| wanted.contains(id)).map(|(_, t)| t.partitions).sum();
        assert_eq!(i32::try_from(seen.len()).unwrap(), count, "a partition has no owner");
    }

    /// No subscriber has two fewer than one who could give it a partition.
    fn check_fair(&self) {
        let loads: BTreeMap<&String, usize> = self.held.keys().zip(self.loads()).collect();
        for (giver, owned) in &self.held {
            for (taker, (wanted, _)) in &self.members {
                let could = owned.keys().any(|topic| wanted.contains(topic));
                assert!(!could || loads[giver] <= loads[taker] + 1, "{giver} could give {taker} one: {loads:?}");
            }
        }
    }
}

fn owners(held: &BTreeMap<String, Owned>) -> BTreeMap<(TopicId, i32), String> {
    let each = held.iter().flat_map(|(id, owned)| {
        owned.iter().flat_map(move |(topic, partitions)| partitions.iter().map(move |p| ((*topic, *p), id.clone())))
    });
    each.collect()
}

#[test]
fn a_newcomer_takes_its_share_and_no_more_moves_than_that() {
    let mut world = World::of(&[6, 6], &[("a", &[0, 1]), ("b", &[0, 1])]);
    assert_eq!(world.assign(Assignor::Uniform), 0);
    assert_eq!(world.loads(), [6, 6]);
    world.join("c", &[0, 1]);
    assert_eq!(world.assign(Assignor::Uniform), 4);
    assert_eq!(world.loads(), [4, 4, 4]);
    world.leave("a");
    assert_eq!(world.assign(Assignor::Uniform), 0, "only what a had moves");
    assert_eq!(world.loads(), [6, 6]);
    let topics: Vec<_> = world.held.values().map(|owned| owned.len()).collect();
    assert_eq!(topics, [2, 2], "a topic is spread over the members");
}

#[test]
fn the_extra_partition_stays_with_who_has_it() {
    let mut world = World::of(&[3], &[("b", &[0])]);
    world.assign(Assignor::Uniform);
    world.join("a", &[0]);
    assert_eq!(world.assign(Assignor::Uniform), 1);
    assert_eq!(world.loads(), [1, 2], "the first by name would be a");
}

#[test]
fn topics_with_few_subscribers_are_given_out_first() {
    let mut world = World::of(&[4, 4], &[("a", &[0, 1]), ("b", &[1])]);
    world.assign(Assignor::Uniform);
    assert_eq!(world.loads(), [4, 4]);
    world.join("b", &[0, 1]);
    assert_eq!(world.assign(Assignor::Uniform), 0);
}

#[test]
fn a_member_gets_what_has_a_replica_in_its_rack() {
    let racks = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
    let mut world = World::of(&[6], &[("a", &[0]), ("b", &[0]), ("c", &[0])]);
    for (id, rack) in [("a", "r3"), ("b", "r1"), ("c", "r2")] {
        world.members.get_mut(id).unwrap().1 = Some(rack.to_string());
    }
    let all = [racks(&["r1", "r2"]), racks(&["r2", "r3"]), racks(&["r3", "r1"])];
    world.topics.get_mut(&topic(0)).unwrap().racks = (0..6).map(|n| all[n % 3].clone()).collect();
    world.assign(Assignor::Uniform);
    world.check();
    assert!(world.is_balanced());
    for (id, owned) in &world.held {
        let rack = world.members[id].1.as_ref().unwrap();
        for partition in &owned[&topic(0)] {
            assert!(world.topics[&topic(0)].racks[*partition as usize].contains(rack), "{id} reads from afar");
        }
    }
    assert_eq!(world.assign(Assignor::Uniform), 0);
}

#[test]
fn what_is_far_is_given_up_first() {
    let racks = |name: &str| BTreeSet::from([name.to_string()]);
    let mut world = World::of(&[4], &[("a", &[0])]);
    world.members.get_mut("a").unwrap().1 = Some("near".into());
    world.topics.get_mut(&topic(0)).unwrap().racks = vec![racks("far"), racks("near"), racks("far"), racks("near")];
    world.assign(Assignor::Uniform);
    world.join("b", &[0]);
    world.assign(Assignor::Uniform);
    assert_eq!(world.held["a"][&topic(0)], [1, 3]);
}

#[test]
fn ranges_are_cut_alike_and_newcomers_come_last() {
    let mut world = World::of(&[5, 5, 2], &[("m", &[0, 1, 2]), ("n", &[0, 1, 2])]);
    world.assign(Assignor::Range);
    assert_eq!(
        world.held["m"],
        Owned::from([(topic(0), vec![0, 1, 2]), (topic(1), vec![0, 1, 2]), (topic(2), vec![0])])
    );
    world.join("a", &[0, 1, 2]);
    assert_eq!(world.assign(Assignor::Range), 2 * 2, "2 from m to n, 4 from n to a, in both topics");
    assert_eq!(world.held["a"], Owned::from([(topic(0), vec![4]), (topic(1), vec![4])]));
}

#[test]
fn nobody_and_nothing_are_no_problem() {
    for assignor in Assignor::ALL {
        assert_eq!(Assignor::named(assignor.name()), Some(assignor));
        assert!(assign(assignor, &[], &Topics::new()).is_empty());
        let mut world = World::of(&[0, 3], &[("a", &[0, 7]), ("b", &[])]);
        world.assign(assignor);
        assert_eq!(world.loads(), [0, 0]);
    }
}

/// Not a bound: shown with `--ignored --nocapture`, in release.
#[test]
#[ignore = "a measurement"]
fn a_thousand_members_and_ten_thousand_partitions() {
    let wanted: Vec<u8> = (0..100).collect();
    for assignor in Assignor::ALL {
        for is_mixed in [false, true] {
            let mut world = World::of(&[100; 100], &[]);
            for member in 0..1_000_usize {
                let own: Vec<u8> =
                    wanted.iter().copied().filter(|n| !is_mixed || (usize::from(*n) + member) % 7 != 0).collect();
                world.join(&format!("member-{member:04}"), &own);
            }
            let started = crate::platform::clock::now();
            world.assign(assignor);
            let first = started.elapsed() / 2;
            world.leave("member-0500");
            world.join("member-1000", &wanted);
            let started = crate::platform::clock::now();
            let moves = world.assign(assignor);
            println!("{assignor:?} mixed {is_mixed}: {first:?}, then {:?} with {moves} moves", started.elapsed() / 2);
            world.check();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join(u8, Vec<u8>),
    Leave(u8),
    Grow(u8, i32),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let subscription = prop::collection::vec(0..5_u8, 0..5);
    let step = prop_oneof![
        4 => (0..8_u8, subscription).prop_map(|(id, wanted)| Step::Join(id, wanted)),
        2 => (0..8_u8).prop_map(Step::Leave),
        2 => (0..5_u8, 1..9).prop_map(|(topic, more)| Step::Grow(topic, more)),
        1 => (0..5_u8).prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 1..25)
}

impl World {
    fn step(&mut self, step: Step, is_homogeneous: bool) {
        match step {
            Step::Join(id, _) if is_homogeneous => self.join(&format!("m{id}"), &[0, 1, 2, 3, 4]),
            Step::Join(id, wanted) => self.join(&format!("m{id}"), &wanted),
            Step::Leave(id) => self.leave(&format!("m{id}")),
            Step::Grow(n, more) => self.topics.entry(topic(n)).or_default().partitions += more,
            Step::Delete(n) => {
                self.topics.remove(&topic(n));
            }
        }
    }
}

proptest! {
    #[test]
    fn every_partition_has_one_owner_whatever_happens(steps in steps()) {
        for assignor in Assignor::ALL {
            let mut world = World::of(&[3, 4], &[]);
            for step in steps.clone() {
                world.step(step, false);
                world.assign(assignor);
                world.check();
                let settled = world.held.clone();
                prop_assert_eq!(world.assign(assignor), 0, "nothing happened, nothing moves");
                prop_assert_eq!(&world.held, &settled);
                if assignor == Assignor::Uniform {
                    world.check_fair();
                }
            }
        }
    }

    #[test]
    fn alike_subscriptions_are_balanced_within_one_and_only_what_must_moves(steps in steps()) {
        let mut world = World::of(&[3, 4], &[]);
        for step in steps {
            world.step(step, true);
            let nothing = Owned::new();
            let before: Vec<usize> = world.members.keys().map(|id| {
                let held = world.held.get(id).unwrap_or(&nothing);
                held.iter().filter(|(t, _)| world.topics.contains_key(t)).map(|(_, p)| p.len()).sum()
            }).collect();
            let moves = world.assign(Assignor::Uniform);
            world.check();
            prop_assert!(world.is_balanced(), "{:?}", world.loads());
            prop_assert_eq!(moves, fewest_moves(before, world.loads().iter().sum()));
        }
    }

    #[test]
    fn ranges_are_neighbours_and_alike_topics_are_cut_alike(steps in steps()) {
        let mut world = World::of(&[3, 4], &[]);
        for step in steps {
            world.step(step, true);
            world.assign(Assignor::Range);
            for owned in world.held.values() {
                for (topic, partitions) in owned {
                    prop_assert!(partitions.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                    let size = world.topics[topic].partitions;
                    for (other, shape) in &world.topics {
                        if shape.partitions == size {
                            prop_assert_eq!(owned.get(other), Some(partitions));
                        }
                    }
                }
            }
        }
    }
}

/// With `total` partitions spread evenly, what each must give up of what it has: the larger shares go to those who have
/// most.
fn fewest_moves(mut held: Vec<usize>, total: usize) -> usize {
    if held.is_empty() {
        return 0;
    }
    held.sort_unstable_by(|a, b| b.cmp(a));
    let (share, larger) = (total / held.len(), total % held.len());
    held.iter().enumerate().map(|(n, have)| have.saturating_sub(share + usize::from(n < larger))).sum()
}
