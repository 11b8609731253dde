//! Moving partitions to other replicas, by a person's wish or away from a broker that is to go (KIP-455).

use super::placement::Load;
use super::plan::{Item, PARTITIONS_PER_COMMAND_MAX, Packer, Plan};
use crate::ids::*;
use crate::metadata::command::{Command, MetadataError, ReassignmentChange};
use crate::metadata::image::Image;
use crate::metadata::image::topics::Partition;
use crate::metadata::intent::{IntentError, ReassignmentWish};
use std::collections::{BTreeMap, BTreeSet};

/// Topics named in one refusal.
const TOPICS_NAMED_MAX: usize = 10;

/// Plans what was wished, one result a wish.
pub fn alter(image: &Image, wishes: Vec<ReassignmentWish>, keep_replication_factor: bool) -> Plan<()> {
    let mut seen = BTreeSet::new();
    let changes = wishes.into_iter().map(|wish| {
        if !seen.insert(wish.partition) {
            return Err(IntentError::InvalidRequest("the request names this partition more than once".into()));
        }
        check(image, wish, keep_replication_factor)
    });
    plan(changes)
}

fn plan(changes: impl Iterator<Item = Result<ReassignmentChange, IntentError>>) -> Plan<()> {
    let mut packer = Packer::new(PARTITIONS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let items = changes
        .map(|change| match change.map(|change| packer.add(change, 1)) {
            Err(error) => Item::Decided(Err(error)),
            Ok(Ok((command, position))) => Item::Proposed { command, position, outcome: () },
            Ok(Err(_)) => Item::Decided(Err(IntentError::InvalidReplicaAssignment("too many replicas".into()))),
        })
        .collect();
    Plan { commands: packer.into_commands(|changes| Command::AlterReassignments { changes }), items }
}

fn check(
    image: &Image,
    wish: ReassignmentWish,
    keep_replication_factor: bool,
) -> Result<ReassignmentChange, IntentError> {
    let partition = image.partition(wish.partition).ok_or(MetadataError::UnknownPartition)?;
    let wrong = |why: String| Err(IntentError::InvalidReplicaAssignment(why));
    match &wish.replicas {
        None if partition.reassignment.is_none() => return Err(MetadataError::NoReassignment.into()),
        None => {}
        Some(replicas) => {
            if replicas.is_empty() {
                return wrong("a partition needs at least one replica".into());
            }
            if replicas.iter().collect::<BTreeSet<_>>().len() != replicas.len() {
                return wrong("the replicas name a broker twice".into());
            }
            let factor = partition.original().len();
            if keep_replication_factor && replicas.len() != factor {
                return Err(IntentError::InvalidReplicationFactor(format!(
                    "{} replicas are wished where there are {factor}, and the request does not allow another number",
                    replicas.len()
                )));
            }
            for broker in replicas.iter().filter(|b| !partition.original().contains(b)) {
                match image.brokers.get(broker) {
                    None => return wrong(format!("broker {broker} is not registered")),
                    Some(known) if known.draining => {
                        return wrong(format!("broker {broker} is being drained: it gets no new replicas"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    Ok(ReassignmentChange {
        partition: wish.partition,
        partition_epoch: partition.partition_epoch,
        replicas: wish.replicas,
    })
}

/// Moves every replica of `broker` elsewhere, each to the broker that spreads the partition over most racks and carries
/// least. Partitions on their way off it are left as they are. Refused as a whole, naming topics, where too few other
/// brokers take new replicas.
pub fn away(image: &Image, loads: &mut BTreeMap<BrokerId, Load>, broker: BrokerId) -> Result<Plan<()>, IntentError> {
    if !image.brokers.contains_key(&broker) {
        return Err(MetadataError::UnknownBroker(broker).into());
    }
    let takers: Vec<BrokerId> = image
        .brokers
        .iter()
        .filter(|(id, state)| **id != broker && state.takes_replicas())
        .map(|(id, _)| *id)
        .collect();
    let (mut changes, mut stuck) = (Vec::new(), BTreeMap::<String, usize>::new());
    for place in image.partitions_on(broker) {
        let Some(partition) = image.partition(place) else { continue };
        let mut target = partition.target();
        let Some(at) = target.iter().position(|b| *b == broker) else { continue };
        match taker(image, loads, &takers, &target, broker) {
            Some(taker) => {
                target[at] = taker;
                let load = loads.entry(taker).or_default();
                load.replicas += 1;
                load.leaders += u64::from(at == 0);
                changes.push(ReassignmentChange {
                    partition: place,
                    partition_epoch: partition.partition_epoch,
                    replicas: Some(target),
                });
            }
            None => {
                let name = image.topic(place.topic).map_or_else(String::new, |topic| topic.name.clone());
                stuck.insert(name, target.len());
            }
        }
    }
    if !stuck.is_empty() {
        return Err(too_few(broker, takers.len(), &stuck));
    }
    Ok(plan(changes.into_iter().map(Ok)))
}

fn too_few(broker: BrokerId, takers: usize, stuck: &BTreeMap<String, usize>) -> IntentError {
    let named: Vec<String> =
        stuck.iter().take(TOPICS_NAMED_MAX).map(|(name, factor)| format!("{name} ({factor} replicas)")).collect();
    let more = match stuck.len().saturating_sub(TOPICS_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    IntentError::NotRemovable(format!(
        "broker {broker} holds replicas that no other broker can take: {}{more}; {takers} other brokers take replicas. Add \
         a broker, or reassign these topics to fewer replicas first",
        named.join(", ")
    ))
}

/// The one among `takers` that is no replica yet, by: rack of no other replica, least carried.
fn taker(
    image: &Image,
    loads: &BTreeMap<BrokerId, Load>,
    takers: &[BrokerId],
    replicas: &[BrokerId],
    leaving: BrokerId,
) -> Option<BrokerId> {
    let rack = |b: &BrokerId| image.brokers.get(b).and_then(|broker| broker.registration.rack.clone());
    let stays_in = |r: &String| replicas.iter().any(|o| *o != leaving && rack(o).as_ref() == Some(r));
    let shares = |b: &BrokerId| rack(b).is_some_and(|r| stays_in(&r));
    let carried = |b: &BrokerId| loads.get(b).map_or(0, |load| load.replicas);
    takers.iter().filter(|b| !replicas.contains(b)).min_by_key(|b| (shares(b), carried(b), **b)).copied()
}

/// May `broker` be forgotten? Its partitions must be elsewhere, or, with `force`, be held by others that may lead.
pub fn unregister(image: &Image, broker: BrokerId, force: bool) -> Result<Command, IntentError> {
    let state = image.brokers.get(&broker).ok_or(MetadataError::UnknownBroker(broker))?;
    if !state.fenced {
        return Err(IntentError::NotRemovable(format!("broker {broker} is alive; stop its process first")));
    }
    let hosted: Vec<(TopicPartition, &Partition)> =
        image.partitions_on(broker).filter_map(|place| Some((place, image.partition(place)?))).collect();
    let name = |place: &TopicPartition| {
        let topic = image.topic(place.topic).map_or("?", |topic| topic.name.as_str());
        format!("{topic}-{}", place.partition)
    };
    let held_elsewhere = |p: &Partition| p.isr.iter().chain(&p.elr).any(|b| *b != broker);
    let only: Vec<String> = hosted
        .iter()
        .filter(|(_, p)| !held_elsewhere(p))
        .map(|(place, _)| name(place))
        .take(TOPICS_NAMED_MAX)
        .collect();
    if !only.is_empty() {
        return Err(IntentError::NotRemovable(format!(
            "broker {broker} alone holds all that was acknowledged of {}: start it again and move its replicas away",
            only.join(", ")
        )));
    }
    if !hosted.is_empty() && !force {
        let named: Vec<String> = hosted.iter().map(|(place, _)| name(place)).take(TOPICS_NAMED_MAX).collect();
        return Err(IntentError::NotRemovable(format!(
            "broker {broker} is a replica of {} partitions ({} …); move them away first, or force it",
            hosted.len(),
            named.join(", ")
        )));
    }
    Ok(Command::UnregisterBroker { broker })
}

#[cfg(test)]
mod tests {
    use super::super::placement::count_loads;
    use super::super::testing::{edit, image_with, topic};
    use super::*;

    fn ids(brokers: &[i32]) -> Vec<BrokerId> {
        brokers.iter().copied().map(BrokerId).collect()
    }

    fn targets(plan: &Plan<()>) -> Vec<Vec<BrokerId>> {
        plan.commands
            .iter()
            .flat_map(|command| match command {
                Command::AlterReassignments { changes } => changes.clone(),
                other => panic!("{other:?}"),
            })
            .map(|change| change.replicas.unwrap())
            .collect()
    }

    #[test]
    fn a_wish_is_checked_before_it_is_proposed() {
        let mut image = image_with(&[1, 2, 3, 4]);
        let id = topic(&mut image, "t", 1, &[&[1, 2, 3]]);
        image.brokers.get_mut(&BrokerId(4)).unwrap().draining = true;
        let partition = TopicPartition::new(id, 0);
        let ask = |replicas: Option<&[i32]>, keep| {
            let wish = ReassignmentWish { partition, replicas: replicas.map(ids) };
            match alter(&image, vec![wish], keep).items.pop().unwrap() {
                Item::Decided(Err(error)) => Err(error),
                _ => Ok(()),
            }
        };
        assert_eq!(ask(Some(&[3, 2, 1]), true), Ok(()));
        assert_eq!(ask(Some(&[3, 2]), false), Ok(()));
        assert!(matches!(ask(Some(&[3, 2]), true), Err(IntentError::InvalidReplicationFactor(_))));
        assert!(matches!(ask(Some(&[]), false), Err(IntentError::InvalidReplicaAssignment(_))));
        assert!(matches!(ask(Some(&[1, 1]), false), Err(IntentError::InvalidReplicaAssignment(_))));
        assert!(matches!(ask(Some(&[1, 2, 9]), false), Err(IntentError::InvalidReplicaAssignment(_))));
        assert!(matches!(ask(Some(&[1, 2, 4]), false), Err(IntentError::InvalidReplicaAssignment(_))), "drained");
        assert_eq!(ask(None, false), Err(MetadataError::NoReassignment.into()));
    }

    #[test]
    fn replicas_leave_a_broker_for_free_racks_first_and_then_for_the_idlest() {
        let mut image = image_with(&[1, 2, 3, 4, 5]);
        for (broker, rack) in [(1, "a"), (2, "b"), (3, "c"), (4, "b"), (5, "c")] {
            image.brokers.get_mut(&BrokerId(broker)).unwrap().registration.rack = Some(rack.into());
        }
        topic(&mut image, "t", 1, &[&[1, 2, 3], &[3, 1, 4], &[5, 1, 2]]);
        let mut loads = count_loads(&image);
        let plan = away(&image, &mut loads, BrokerId(3)).unwrap();
        // Rack c has only 5 left, and is free in both.
        assert_eq!(targets(&plan), [ids(&[1, 2, 5]), ids(&[5, 1, 4])]);
        image.brokers.get_mut(&BrokerId(5)).unwrap().fenced = true;
        let plan = away(&image, &mut count_loads(&image), BrokerId(3)).unwrap();
        assert_eq!(targets(&plan), [ids(&[1, 2, 4]), ids(&[2, 1, 4])], "one rack twice, rather than one copy fewer");
    }

    #[test]
    fn too_few_brokers_are_told_with_the_topics_and_what_is_under_way_stays() {
        let mut image = image_with(&[1, 2, 3]);
        let id = topic(&mut image, "orders", 1, &[&[1, 2, 3]]);
        topic(&mut image, "small", 2, &[&[3]]);
        let refused = away(&image, &mut BTreeMap::new(), BrokerId(3)).unwrap_err().to_string();
        assert!(refused.contains("orders (3 replicas)") && !refused.contains("small"), "{refused}");
        image.brokers.insert(BrokerId(4), super::super::testing::broker(4));
        let change = ReassignmentChange {
            partition: TopicPartition::new(id, 0),
            partition_epoch: PartitionEpoch(1),
            replicas: Some(ids(&[1, 2, 4])),
        };
        image.apply(RaftIndex(50), &Command::AlterReassignments { changes: vec![change] });
        let plan = away(&image, &mut BTreeMap::new(), BrokerId(3)).unwrap();
        assert_eq!(targets(&plan).len(), 1, "only the other topic");
    }

    #[test]
    fn a_broker_is_forgotten_only_if_nothing_is_lost_by_it() {
        let mut image = image_with(&[1, 2, 3]);
        let id = TopicPartition::new(topic(&mut image, "t", 1, &[&[1, 2]]), 0);
        assert!(unregister(&image, BrokerId(2), true).is_err(), "alive");
        image.brokers.get_mut(&BrokerId(2)).unwrap().fenced = true;
        edit(&mut image, id, |p| p.isr = ids(&[1]));
        assert!(unregister(&image, BrokerId(2), false).is_err(), "a replica");
        assert_eq!(unregister(&image, BrokerId(2), true), Ok(Command::UnregisterBroker { broker: BrokerId(2) }));
        edit(&mut image, id, |p| (p.isr, p.leader) = (ids(&[2]), None));
        let refused = unregister(&image, BrokerId(2), true).unwrap_err().to_string();
        assert!(refused.contains("t-0"), "{refused}");
        assert_eq!(unregister(&image, BrokerId(9), true), Err(MetadataError::UnknownBroker(BrokerId(9)).into()));
    }
}
