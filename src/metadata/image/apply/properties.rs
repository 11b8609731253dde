//! Any sequence of commands leaves the image consistent, and the same sequence gives the same image everywhere.

use super::stories::{Restart, id, registration};
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::group_change::*;
use crate::metadata::group_partition::partition_for;
use crate::metadata::image::Image;
use crate::metadata::image::topics::Partition;
use crate::metadata::raft::snapshot::{decode_image, encode_image};
use crate::metadata::raft::types::{decode_message, encode_message};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A wish, made into a command by what the image says when its turn comes, so that most of them are not stale.
#[derive(Clone, Debug)]
enum Wish {
    Register {
        broker: i32,
        clean: bool,
        boot: u8,
        folder: u8,
        disk_failed: bool,
    },
    Fence(Vec<i32>),
    Unfence(i32),
    Stop(i32),
    Forget(i32),
    Create {
        topic: u8,
        assignments: Vec<Vec<i32>>,
        page_cache: bool,
    },
    Delete(u8),
    Grow {
        topic: u8,
        replicas: Vec<i32>,
    },
    /// By the leader of the moment, or by somebody else.
    Isr {
        topic: u8,
        partition: i32,
        members: Vec<i32>,
        caller: Option<i32>,
    },
    Elect {
        topic: u8,
        partition: i32,
        leader: i32,
        unclean: bool,
    },
    Damage {
        topic: u8,
        partition: i32,
        broker: i32,
    },
    MinIsr {
        topic: Option<u8>,
        value: Option<u8>,
    },
    Group {
        group: u8,
        /// By member how many of the blobs it names; `None` removes it.
        members: Vec<Option<usize>>,
        /// Blobs sent along.
        blobs: u64,
        is_whole: bool,
        removes: bool,
        /// How far ahead of the image the proposer is.
        ahead: u64,
    },
    /// To these replicas, or back.
    Move {
        topic: u8,
        partition: i32,
        replicas: Option<Vec<i32>>,
    },
    /// The leader takes in everyone who may join.
    AllJoin {
        topic: u8,
        partition: i32,
    },
    Drain {
        broker: i32,
        draining: bool,
    },
    Stale(Box<Wish>),
}

/// Member n names the first blobs, as many as `members` says.
fn group_write(members: &[Option<usize>], blobs: &u64, is_whole: bool) -> GroupWrite {
    let GroupWrite { header, .. } = super::stories::group_write(1, is_whole);
    let mut write = GroupWrite { header, put: Vec::new(), removed: Vec::new(), blobs: Vec::new(), rebalance: None };
    for (id, names) in members.iter().enumerate() {
        let id = format!("member-{id}");
        match names {
            None => write.removed.push(id),
            Some(names) => {
                let protocols = (0..*names).map(|blob| (String::new(), BlobId(blob as u64))).collect();
                write.put.push((id, GroupMember::Classic(ClassicMember { protocols, ..ClassicMember::default() })));
            }
        }
    }
    write.blobs = (0..*blobs).map(|blob| (BlobId(blob), vec![blob as u8].into())).collect();
    write
}

fn brokers() -> impl Strategy<Value = Vec<i32>> {
    prop::sample::subsequence(vec![1, 2, 3, 4], 1..=4).prop_shuffle()
}

fn wish() -> impl Strategy<Value = Wish> {
    let one = 1..=4i32;
    let topic = 0..3u8;
    let plain = prop_oneof![
        3 => (one.clone(), any::<bool>(), 0..2u8, 0..8u8, 0..20u8).prop_map(|(broker, clean, boot, folder, fails)| {
            Wish::Register { broker, clean, boot, folder: u8::from(folder == 0), disk_failed: fails == 0 }
        }),
        3 => brokers().prop_map(Wish::Fence),
        6 => one.clone().prop_map(Wish::Unfence),
        2 => one.clone().prop_map(Wish::Stop),
        1 => one.clone().prop_map(Wish::Forget),
        2 => (topic.clone(), prop::collection::vec(brokers(), 1..3), any::<bool>())
            .prop_map(|(topic, assignments, page_cache)| Wish::Create { topic, assignments, page_cache }),
        1 => topic.clone().prop_map(Wish::Delete),
        1 => (topic.clone(), brokers()).prop_map(|(topic, replicas)| Wish::Grow { topic, replicas }),
        6 => (topic.clone(), 0..3i32, brokers(), prop::option::weighted(0.2, one.clone()))
            .prop_map(|(topic, partition, members, caller)| Wish::Isr { topic, partition, members, caller }),
        5 => (topic.clone(), 0..3i32, prop::option::weighted(0.8, brokers()))
            .prop_map(|(topic, partition, replicas)| Wish::Move { topic, partition, replicas }),
        5 => (topic.clone(), 0..3i32).prop_map(|(topic, partition)| Wish::AllJoin { topic, partition }),
        2 => (one.clone(), any::<bool>()).prop_map(|(broker, draining)| Wish::Drain { broker, draining }),
        2 => (topic.clone(), 0..3i32, one.clone())
            .prop_map(|(topic, partition, broker)| Wish::Damage { topic, partition, broker }),
        3 => (topic.clone(), 0..3i32, one, any::<bool>())
            .prop_map(|(topic, partition, leader, unclean)| Wish::Elect { topic, partition, leader, unclean }),
        2 => (prop::option::of(topic), prop::option::of(0..5u8)).prop_map(|(topic, value)| Wish::MinIsr { topic, value }),
        3 => (0..2u8, prop::collection::vec(prop::option::of(0..4usize), 0..5), 0..4u64, any::<bool>(), 0..8u8)
            .prop_map(|(group, members, blobs, is_whole, dice)| {
                let (removes, ahead) = (dice == 0, u64::from(dice == 1));
                Wish::Group { group, members, blobs, is_whole, removes, ahead }
            }),
    ];
    (plain, 0..10u8).prop_map(|(wish, stale)| if stale == 0 { Wish::Stale(Box::new(wish)) } else { wish })
}

fn topic_id(topic: u8) -> TopicId {
    TopicId(id(u128::from(topic) + 1))
}

fn name(topic: u8) -> String {
    format!("topic-{topic}")
}

fn ids(brokers: &[i32]) -> Vec<BrokerId> {
    brokers.iter().copied().map(BrokerId).collect()
}

fn command(image: &Image, index: u64, wish: &Wish) -> Command {
    let epoch = |broker: i32| image.brokers.get(&BrokerId(broker)).map_or(BrokerEpoch(-1), |b| b.epoch);
    let place = |topic: u8, partition: i32| TopicPartition::new(topic_id(topic), partition);
    match wish {
        Wish::Register { broker, clean, boot, folder, disk_failed } => {
            let how = Restart { clean: *clean, boot: *boot, folder: *folder, disk_failed: *disk_failed };
            Command::RegisterBroker(registration(*broker, u128::from(index), how))
        }
        Wish::Fence(brokers) => Command::FenceBrokers {
            brokers: brokers.iter().map(|b| (BrokerId(*b), epoch(*b))).collect(),
            reason: FenceReason::SessionExpired,
        },
        Wish::Unfence(broker) => Command::UnfenceBroker { broker: BrokerId(*broker), epoch: epoch(*broker) },
        Wish::Stop(broker) => Command::BeginShutdown { broker: BrokerId(*broker), epoch: epoch(*broker) },
        Wish::Forget(broker) => Command::UnregisterBroker { broker: BrokerId(*broker) },
        Wish::Create { topic, assignments, page_cache } => {
            let durability = if *page_cache { "page-cache" } else { "sync" };
            Command::CreateTopics {
                topics: vec![NewTopic {
                    name: name(*topic),
                    id: topic_id(*topic),
                    assignments: assignments.iter().map(|a| ids(a)).collect(),
                    configs: BTreeMap::from([("highwater.durability".into(), durability.into())]),
                }],
            }
        }
        Wish::Delete(topic) => Command::DeleteTopics { topics: vec![topic_id(*topic)] },
        Wish::Grow { topic, replicas } => {
            let count = image.topic(topic_id(*topic)).map_or(0, |t| t.partitions.len());
            Command::CreatePartitions {
                topics: vec![NewPartitions {
                    topic: topic_id(*topic),
                    expected_count: i32::try_from(count).unwrap(),
                    assignments: vec![ids(replicas)],
                }],
            }
        }
        Wish::Isr { topic, partition, members, caller } => {
            let state = image.partition(place(*topic, *partition));
            let caller = caller.map(BrokerId).or(state.and_then(|p| p.leader)).unwrap_or(BrokerId(1));
            Command::AlterIsr {
                broker: caller,
                epoch: epoch(caller.0),
                proposals: vec![IsrProposal {
                    partition: place(*topic, *partition),
                    leader_epoch: state.map_or(LeaderEpoch(0), |p| p.leader_epoch),
                    partition_epoch: state.map_or(PartitionEpoch(0), |p| p.partition_epoch),
                    isr: members.iter().map(|b| (BrokerId(*b), epoch(*b))).collect(),
                }],
            }
        }
        Wish::Elect { topic, partition, leader, unclean } => Command::ElectLeaders {
            elections: vec![Election {
                partition: place(*topic, *partition),
                partition_epoch: image
                    .partition(place(*topic, *partition))
                    .map_or(PartitionEpoch(0), |p| p.partition_epoch),
                leader: BrokerId(*leader),
                reason: if *unclean { ElectionReason::Unclean } else { ElectionReason::Preferred },
            }],
        },
        Wish::Damage { topic, partition, broker } => Command::ReportDamage {
            broker: BrokerId(*broker),
            epoch: epoch(*broker),
            reports: vec![DamageReport {
                partition: place(*topic, *partition),
                leader_epoch: image.partition(place(*topic, *partition)).map_or(LeaderEpoch(0), |p| p.leader_epoch),
                from: Offset(7),
            }],
        },
        Wish::MinIsr { topic, value } => Command::SetConfigs {
            changes: vec![ConfigChange {
                resource: topic.map_or(ConfigResource::BrokerDefault, |t| ConfigResource::Topic(name(t))),
                set: BTreeMap::from([("min.insync.replicas".into(), value.map(|v| v.to_string()))]),
            }],
        },
        Wish::Group { group, members, blobs, is_whole, removes, ahead } => {
            let group = format!("group-{group}");
            let known = image.groups.groups.get(&group);
            let expected = known.map_or(0, |known| known.revision) + ahead;
            let partitions = image.topic(place(0, 0).topic).map_or(1, |topic| topic.partitions.len());
            let coordinator = place(0, partition_for(&group, i32::try_from(partitions).expect("a few")));
            let change = GroupChange {
                group,
                coordinator,
                leader_epoch: image.partition(coordinator).map_or(LeaderEpoch(0), |p| p.leader_epoch),
                expected,
                revision: expected + 1,
                write: (!removes).then(|| group_write(members, blobs, *is_whole)),
            };
            Command::ChangeGroups { changes: vec![change.clone(), change] }
        }
        Wish::Move { topic, partition, replicas } => Command::AlterReassignments {
            changes: vec![ReassignmentChange {
                partition: place(*topic, *partition),
                partition_epoch: image
                    .partition(place(*topic, *partition))
                    .map_or(PartitionEpoch(0), |p| p.partition_epoch),
                replicas: replicas.as_ref().map(|r| ids(r)),
            }],
        },
        Wish::AllJoin { topic, partition } => {
            let state = image.partition(place(*topic, *partition));
            let all: Vec<BrokerId> = state.map_or(Vec::new(), |p| p.replicas.clone());
            let members = all.iter().filter(|b| image.is_active(**b)).map(|b| b.0).collect();
            let wish = Wish::Isr { topic: *topic, partition: *partition, members, caller: None };
            self::command(image, index, &wish)
        }
        Wish::Drain { broker, draining } => Command::SetDraining { broker: BrokerId(*broker), draining: *draining },
        // Made from an image long gone.
        Wish::Stale(wish) => command(&Image::default(), index, wish),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_consistent_and_repeats_itself(wishes in prop::collection::vec(wish(), 1..80)) {
        // Most of what may go wrong needs brokers that are alive, and partitions on them.
        let mut all: Vec<Wish> = (1..=4)
            .flat_map(|broker| {
                let folder = 0;
                [Wish::Register { broker, clean: true, boot: 0, folder, disk_failed: false }, Wish::Unfence(broker)]
            })
            .collect();
        let assignments = vec![vec![1, 2, 3], vec![2, 4]];
        all.push(Wish::Create { topic: 0, assignments, page_cache: false });
        all.extend(wishes);
        let wishes = all;
        let mut image = Image::default();
        // The other applies what went over the wire, and once is brought up from a snapshot.
        let mut other = Image::default();
        let restored_at = wishes.len() / 2;
        for (at, wish) in wishes.iter().enumerate() {
            let index = RaftIndex(at as u64 + 1);
            let command = command(&image, index.0, wish);
            let before = image.clone();
            let applied = image.apply(index, &command);
            image.assert_consistent();
            for event in &applied.events {
                if let Some(place) = event.partition() {
                    prop_assert_ne!(before.partition(place), image.partition(place), "an event of no change");
                }
            }
            let damage = match &command {
                Command::ReportDamage { broker, reports, .. } => Some((*broker, reports[0].partition)),
                _ => None,
            };
            let asked = matches!(command, Command::AlterReassignments { .. });
            check_epochs(&before, &image, damage, asked)?;
            if let (Some((broker, place)), Answer::Elections(results)) = (damage, &applied.answer)
                && results[0].is_ok()
                && let Some(new) = image.partition(place)
            {
                let relied_on = new.isr.contains(&broker) || new.elr.contains(&broker) || new.leader == Some(broker);
                prop_assert!(!relied_on, "a damaged copy is relied on: {:?}", new);
            }

            let sent: Command = decode_message(&encode_message(&command).unwrap()).unwrap();
            prop_assert_eq!(&sent, &command);
            let again = other.apply(index, &sent);
            prop_assert_eq!(again.answer, applied.answer);
            prop_assert_eq!(again.events, applied.events);
            if at == restored_at {
                other = decode_image(&encode_image(&other).unwrap()).unwrap();
            }
            prop_assert_eq!(other.hash(), image.hash());
        }
        prop_assert_eq!(other, image);
    }
}

/// Invariants over one command: epochs only grow, any change moves the partition epoch, a new leader a new leader epoch,
/// and only an unclean election takes a leader from outside ISR and ELR.
fn check_epochs(
    before: &Image,
    after: &Image,
    damage: Option<(BrokerId, TopicPartition)>,
    asked_to_move: bool,
) -> Result<(), TestCaseError> {
    for topic in before.topics.values() {
        for (number, old) in (0..).zip(topic.partitions.iter()) {
            let Some(new) = after.partition(TopicPartition::new(topic.id, number)) else { continue };
            if new == old {
                continue;
            }
            prop_assert!(new.partition_epoch == old.partition_epoch.next(), "{:?} to {:?}", old, new);
            let someone_left = old.replicas.iter().any(|b| !new.replicas.contains(b));
            // Damage renews the epoch of a leader that stays, so that it forgets what it knew of the damaged copy.
            let renewed = damage.is_some() && new.leader.is_some();
            prop_assert_eq!(new.leader_epoch != old.leader_epoch, renewed || new.leader != old.leader || someone_left);
            check_move(old, new, after.effective_min_isr(&topic.name, new.counted_replicas()), asked_to_move)?;
            prop_assert!(new.leader_epoch == old.leader_epoch || new.leader_epoch == old.leader_epoch.next());
            if let Some(leader) = new.leader.filter(|_| new.leader != old.leader) {
                // The proposal that completes a move brings the heir into the ISR in the same command.
                let moved = old.reassignment.is_some() && new.reassignment.is_none() && old.target().contains(&leader);
                let clean = old.isr.contains(&leader) || old.elr.contains(&leader) || moved;
                prop_assert!(clean || new.unclean_epoch == Some(new.leader_epoch), "{:?} to {:?}", old, new);
            }
        }
    }
    Ok(())
}

/// Rule 12: a replica that is in sync leaves the set only beside enough others, all that were to be added are in sync when
/// a move is complete, cancelling puts back what was, and no command about moves drops the last that holds all.
fn check_move(old: &Partition, new: &Partition, min_isr: usize, asked: bool) -> Result<(), TestCaseError> {
    let is_held = |p: &Partition| !p.isr.is_empty() || !p.elr.is_empty();
    prop_assert!(!asked || !is_held(old) || is_held(new), "the last copy goes: {:?} to {:?}", old, new);
    let Some(reassignment) = &old.reassignment else { return Ok(()) };
    if new.reassignment.is_some() {
        return Ok(());
    }
    if new.replicas == reassignment.original {
        let kept: Vec<_> = old.isr.iter().filter(|b| new.isr.contains(b)).collect();
        prop_assert!(old.isr.is_empty() || !kept.is_empty(), "{:?} to {:?}", old, new);
        return Ok(());
    }
    // Another target asked for may be complete at once; then others were to leave than before.
    prop_assert!(asked || reassignment.removing.iter().all(|b| !new.replicas.contains(b)));
    let added = reassignment.adding.iter().filter(|b| new.replicas.contains(b));
    prop_assert!(added.into_iter().all(|b| new.isr.contains(b)), "added, not in sync: {:?} to {:?}", old, new);
    prop_assert!(new.isr.len() >= min_isr, "too few left in sync: {:?} to {:?}", old, new);
    prop_assert!(new.leader.is_some(), "a move ended without a leader: {:?} to {:?}", old, new);
    Ok(())
}
