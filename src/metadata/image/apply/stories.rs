//! What happens to partitions when brokers come and go, told as scripts.
//!
//! A partition reads `leader 1 · isr 1 2 · elr 3 · epochs 4/7` (leader epoch / partition epoch).

use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;
use crate::metadata::group_change::*;
use crate::metadata::image::Image;
use crate::metadata::raft::types::{decode, encode};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A cluster's image and the next Raft index; every command leaves it consistent, and its snapshot brings it back.
pub struct World {
    pub image: Image,
    next: u64,
    processes: u128,
    pub events: Vec<Event>,
}

/// How a broker comes back.
#[derive(Clone, Copy)]
pub struct Restart {
    pub clean: bool,
    pub boot: u8,
    pub folder: u8,
    pub disk_failed: bool,
}

pub const AFTER_KILL: Restart = Restart { clean: false, boot: 1, folder: 1, disk_failed: false };
pub const AFTER_POWER_LOSS: Restart = Restart { boot: 2, ..AFTER_KILL };
pub const WIPED: Restart = Restart { folder: 2, ..AFTER_KILL };

pub fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

pub fn registration(broker: i32, process: u128, how: Restart) -> BrokerRegistration {
    let endpoint = |port| Endpoint { listener: "A".into(), host: format!("b{broker}"), port };
    BrokerRegistration {
        broker: BrokerId(broker),
        directory: DirectoryId(id(broker as u128 * 100 + u128::from(how.folder))),
        incarnation: IncarnationId(id(process)),
        boot_id: format!("boot-{}", how.boot),
        clean_stop: how.clean,
        data_lost: how.disk_failed,
        kafka_endpoints: vec![endpoint(9092)],
        replica_endpoint: endpoint(9095),
        cluster_endpoint: endpoint(9093),
        admin_endpoint: endpoint(9094),
        rack: None,
        version: "0.1.0".into(),
    }
}

impl World {
    pub fn empty() -> World {
        World { image: Image::default(), next: 1, processes: 0, events: Vec::new() }
    }

    /// Brokers 1 to 3, alive, and a topic `t` of one partition on all of them.
    pub fn three() -> World {
        Self::three_with(&[])
    }

    pub fn three_with(configs: &[(&str, &str)]) -> World {
        let mut world = World::empty();
        for broker in 1..=3 {
            world.registers(broker, AFTER_KILL);
            world.unfences(broker);
        }
        world.creates("t", &[1, 2, 3], configs);
        world.reads("leader 1 · isr 1 2 3 · elr - · epochs 0/0");
        world
    }

    pub fn does(&mut self, command: &Command) -> Answer {
        let index = RaftIndex(self.next);
        self.next += 1;
        let applied = self.image.apply(index, command);
        self.image.assert_consistent();
        self.events.extend(applied.events);
        applied.answer
    }

    pub fn registers(&mut self, broker: i32, how: Restart) -> Answer {
        self.processes += 1;
        self.does(&Command::RegisterBroker(registration(broker, self.processes, how)))
    }

    pub fn epoch(&self, broker: i32) -> BrokerEpoch {
        self.image.brokers.get(&BrokerId(broker)).map_or(BrokerEpoch(-1), |b| b.epoch)
    }

    pub fn unfences(&mut self, broker: i32) {
        let command = Command::UnfenceBroker { broker: BrokerId(broker), epoch: self.epoch(broker) };
        assert_eq!(self.does(&command), Answer::Done);
    }

    pub fn fences(&mut self, brokers: &[i32]) {
        let brokers = brokers.iter().map(|b| (BrokerId(*b), self.epoch(*b))).collect();
        assert_eq!(self.does(&Command::FenceBrokers { brokers, reason: FenceReason::SessionExpired }), Answer::Done);
    }

    pub fn stops(&mut self, broker: i32) {
        let command = Command::BeginShutdown { broker: BrokerId(broker), epoch: self.epoch(broker) };
        assert_eq!(self.does(&command), Answer::Done);
    }

    pub fn creates(&mut self, name: &str, replicas: &[i32], configs: &[(&str, &str)]) {
        let topic = NewTopic {
            name: name.into(),
            id: TopicId(id(7)),
            assignments: vec![replicas.iter().copied().map(BrokerId).collect()],
            configs: configs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        };
        assert_eq!(self.does(&Command::CreateTopics { topics: vec![topic] }), Answer::Topics(vec![Ok(TopicId(id(7)))]));
    }

    pub fn place() -> TopicPartition {
        TopicPartition::new(TopicId(id(7)), 0)
    }

    /// The leader proposes an ISR, by what the image says now; the answer to it.
    pub fn proposes(&mut self, leader: i32, isr: &[i32]) -> Result<PartitionEpoch, MetadataError> {
        let partition = self.image.partition(Self::place()).unwrap();
        let proposal = IsrProposal {
            partition: Self::place(),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(|b| (BrokerId(*b), self.epoch(*b))).collect(),
        };
        self.sends(leader, proposal)
    }

    pub fn sends(&mut self, leader: i32, proposal: IsrProposal) -> Result<PartitionEpoch, MetadataError> {
        let command =
            Command::AlterIsr { broker: BrokerId(leader), epoch: self.epoch(leader), proposals: vec![proposal] };
        match self.does(&command) {
            Answer::Isr(mut results) => results.pop().unwrap(),
            Answer::Refused(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub fn elects(&mut self, leader: i32, reason: ElectionReason) -> Result<(), MetadataError> {
        let partition_epoch = self.image.partition(Self::place()).unwrap().partition_epoch;
        let election = Election { partition: Self::place(), partition_epoch, leader: BrokerId(leader), reason };
        match self.does(&Command::ElectLeaders { elections: vec![election] }) {
            Answer::Elections(mut results) => results.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub fn sets(&mut self, resource: ConfigResource, name: &str, value: Option<&str>) {
        assert_eq!(self.tries_to_set(resource, name, value), Ok(()));
    }

    pub fn tries_to_set(
        &mut self,
        resource: ConfigResource,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), MetadataError> {
        let set = BTreeMap::from([(name.to_string(), value.map(str::to_string))]);
        match self.does(&Command::SetConfigs { changes: vec![ConfigChange { resource, set }] }) {
            Answer::Configs(mut results) => results.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn reads(&self, expected: &str) {
        let partition = self.image.partition(Self::place()).unwrap();
        let list = |set: &[BrokerId]| {
            let text: Vec<String> = set.iter().map(|b| b.to_string()).collect();
            if text.is_empty() { "-".to_string() } else { text.join(" ") }
        };
        let leader = partition.leader.map_or("-".to_string(), |b| b.to_string());
        let (isr, elr) = (list(&partition.isr), list(&partition.elr));
        let (leader_epoch, epoch) = (partition.leader_epoch, partition.partition_epoch);
        let read = format!("leader {leader} · isr {isr} · elr {elr} · epochs {leader_epoch}/{epoch}");
        let moving = partition.reassignment.as_ref().map_or(String::new(), |r| {
            let (target, adding, removing) = (list(&partition.target()), list(&r.adding), list(&r.removing));
            format!(" · to {target}: adding {adding}, removing {removing}")
        });
        assert_eq!(format!("{read}{moving}"), expected);
        let again: Image = decode(&encode(&self.image, 1 << 20).unwrap(), 1 << 20).unwrap();
        assert_eq!(again, self.image, "a snapshot brings back the same image");
        assert_eq!(again.hash(), self.image.hash());
    }

    pub fn moves(&mut self, replicas: &[i32]) -> Result<(), MetadataError> {
        self.reassigns(Some(replicas.iter().copied().map(BrokerId).collect()))
    }

    pub fn cancels(&mut self) -> Result<(), MetadataError> {
        self.reassigns(None)
    }

    fn reassigns(&mut self, replicas: Option<Vec<BrokerId>>) -> Result<(), MetadataError> {
        let partition_epoch = self.image.partition(Self::place()).unwrap().partition_epoch;
        let change = ReassignmentChange { partition: Self::place(), partition_epoch, replicas };
        match self.does(&Command::AlterReassignments { changes: vec![change] }) {
            Answer::Reassignments(mut results) => results.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub fn drains(&mut self, broker: i32, draining: bool) {
        let command = Command::SetDraining { broker: BrokerId(broker), draining };
        assert_eq!(self.does(&command), Answer::Done);
    }

    /// A broker beside the first three.
    pub fn gains(&mut self, broker: i32) {
        self.registers(broker, AFTER_KILL);
        self.unfences(broker);
    }

    pub fn replicas(&self) -> Vec<i32> {
        self.image.partition(Self::place()).unwrap().replicas.iter().map(|b| b.0).collect()
    }
}

#[test]
fn a_leader_dies_and_returns() {
    let mut w = World::three();
    w.events.clear();
    w.fences(&[1]);
    w.reads("leader 2 · isr 2 3 · elr - · epochs 1/1");
    assert_eq!(w.events.len(), 3, "fenced, elected, ISR changed: {:?}", w.events);
    assert!(matches!(
        w.events[1],
        Event::LeaderElected {
            old: Some(BrokerId(1)),
            new: Some(BrokerId(2)),
            epoch: LeaderEpoch(1),
            reason: ElectionReason::Fenced(FenceReason::SessionExpired),
            ..
        }
    ));
    w.registers(1, AFTER_KILL);
    w.unfences(1);
    w.reads("leader 2 · isr 2 3 · elr - · epochs 1/1");
    assert_eq!(w.proposes(2, &[2, 3, 1]), Ok(PartitionEpoch(2)));
    w.reads("leader 2 · isr 1 2 3 · elr - · epochs 1/2");
    assert_eq!(w.elects(1, ElectionReason::Preferred), Ok(()));
    w.reads("leader 1 · isr 1 2 3 · elr - · epochs 2/3");
}

#[test]
fn one_after_another_dies_and_the_eligible_ones_are_kept() {
    let mut w = World::three();
    w.fences(&[1]);
    w.reads("leader 2 · isr 2 3 · elr - · epochs 1/1");
    w.fences(&[2]);
    // Below min.insync.replicas the high watermark stands still, so 2 still holds all that was ever acked.
    w.reads("leader 3 · isr 3 · elr 2 · epochs 2/2");
    w.fences(&[3]);
    w.reads("leader - · isr 3 · elr 2 · epochs 3/3");
    // 1 was out of sync before: it may not lead.
    w.registers(1, AFTER_KILL);
    w.unfences(1);
    w.reads("leader - · isr 3 · elr 2 · epochs 3/3");
    w.registers(2, AFTER_KILL);
    w.unfences(2);
    w.reads("leader 2 · isr 2 · elr 3 · epochs 4/4");
    assert!(matches!(
        w.events.last_chunk::<2>().unwrap()[0],
        Event::LeaderElected { reason: ElectionReason::Returned, .. }
    ));
    // The ISR reaches min.insync.replicas: eligibility ends.
    assert!(w.proposes(2, &[2, 1]).is_ok());
    w.reads("leader 2 · isr 1 2 · elr - · epochs 4/5");
}

#[test]
fn a_live_eligible_replica_takes_over_from_the_last_in_sync() {
    let mut w = World::three();
    w.fences(&[1, 2]);
    w.reads("leader 3 · isr 3 · elr 1 2 · epochs 1/1");
    w.registers(2, AFTER_KILL);
    w.unfences(2);
    w.reads("leader 3 · isr 3 · elr 1 2 · epochs 1/1");
    w.fences(&[3]);
    w.reads("leader 2 · isr 2 · elr 1 3 · epochs 2/2");
}

#[test]
fn all_die_at_once_and_any_of_the_last_in_sync_may_lead() {
    let mut w = World::three_with(&[("min.insync.replicas", "1")]);
    w.fences(&[3]);
    w.reads("leader 1 · isr 1 2 · elr - · epochs 0/1");
    w.fences(&[1, 2]);
    w.reads("leader - · isr 1 2 · elr - · epochs 1/2");
    w.registers(3, AFTER_KILL);
    w.unfences(3);
    w.reads("leader - · isr 1 2 · elr - · epochs 1/2");
    w.registers(2, AFTER_KILL);
    w.unfences(2);
    w.reads("leader 2 · isr 2 · elr - · epochs 2/3");
}

#[test]
fn a_fast_restart_is_seen_though_no_session_ended() {
    let mut w = World::three();
    w.events.clear();
    w.registers(1, AFTER_KILL);
    w.reads("leader 2 · isr 2 3 · elr - · epochs 1/1");
    assert!(matches!(w.events[0], Event::BrokerFenced { reason: FenceReason::Restarted, .. }));
    assert!(matches!(w.events.last(), Some(Event::BrokerRegistered { restarted: true, .. })));
    // The same process asking again gets the same epoch: its first answer may have been lost.
    let epoch = w.epoch(1);
    let process = w.processes;
    let again = w.does(&Command::RegisterBroker(registration(1, process, AFTER_KILL)));
    assert_eq!(again, Answer::Registered { epoch });
}

#[test]
fn stale_words_change_nothing() {
    let mut w = World::three();
    let old = w.epoch(1);
    w.registers(1, AFTER_KILL);
    let stale = Command::FenceBrokers { brokers: vec![(BrokerId(1), old)], reason: FenceReason::SessionExpired };
    let before = w.image.clone();
    assert!(matches!(w.does(&stale), Answer::Refused(MetadataError::StaleBrokerEpoch { .. })));
    let unfence = Command::UnfenceBroker { broker: BrokerId(1), epoch: old };
    assert!(matches!(w.does(&unfence), Answer::Refused(MetadataError::StaleBrokerEpoch { .. })));
    assert_eq!(Image { index: before.index, ..w.image.clone() }, before);
}

#[test]
fn an_isr_change_is_a_compare_and_set() {
    let mut w = World::three();
    let proposal = |w: &World, isr: &[i32]| {
        let partition = w.image.partition(World::place()).unwrap();
        IsrProposal {
            partition: World::place(),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(|b| (BrokerId(*b), w.epoch(*b))).collect(),
        }
    };
    let first = proposal(&w, &[1, 2]);
    assert_eq!(w.sends(2, first.clone()), Err(MetadataError::NotLeader(BrokerId(2))));
    assert_eq!(w.sends(1, first.clone()), Ok(PartitionEpoch(1)));
    w.reads("leader 1 · isr 1 2 · elr - · epochs 0/1");
    let (given, current) = (PartitionEpoch(0), PartitionEpoch(1));
    assert_eq!(w.sends(1, first), Err(MetadataError::StalePartitionEpoch { given, current }));
    let late = IsrProposal { leader_epoch: LeaderEpoch(-1), ..proposal(&w, &[1, 2, 3]) };
    let (given, current) = (LeaderEpoch(-1), LeaderEpoch(0));
    assert_eq!(w.sends(1, late), Err(MetadataError::StaleLeaderEpoch { given, current }));
    assert!(matches!(w.proposes(1, &[2]), Err(MetadataError::Invalid(_))));
    assert!(matches!(w.proposes(1, &[1, 2, 2]), Err(MetadataError::Invalid(_))));

    // 3 restarted after the leader last heard of it: what it holds must be told anew.
    let known_before = proposal(&w, &[1, 2, 3]);
    w.registers(3, AFTER_KILL);
    w.unfences(3);
    assert_eq!(w.sends(1, known_before), Err(MetadataError::IneligibleReplica(BrokerId(3))));
    assert!(w.proposes(1, &[1, 2, 3]).is_ok());
    // A fenced one may not join, nor one that is shutting down, nor a stranger.
    w.fences(&[2]);
    assert_eq!(w.proposes(1, &[1, 2, 3]), Err(MetadataError::IneligibleReplica(BrokerId(2))));
    w.registers(2, AFTER_KILL);
    w.unfences(2);
    w.stops(2);
    assert_eq!(w.proposes(1, &[1, 2, 3]), Err(MetadataError::IneligibleReplica(BrokerId(2))));
    w.registers(4, AFTER_KILL);
    w.unfences(4);
    assert_eq!(w.proposes(1, &[1, 3, 4]), Err(MetadataError::IneligibleReplica(BrokerId(4))));
    // The ISR that stands, proposed again, moves the epoch: that is how a lost answer is cleared up.
    w.reads("leader 1 · isr 1 3 · elr - · epochs 0/3");
    assert_eq!(w.proposes(1, &[3, 1]), Ok(PartitionEpoch(4)));
}

#[test]
fn a_clean_stop_hands_over_and_leaves_where_others_suffice() {
    let mut w = World::three();
    w.stops(1);
    w.reads("leader 2 · isr 2 3 · elr - · epochs 1/1");
    // Now 3 alone would be too few: 2 hands over but stays in sync until it is gone.
    w.stops(2);
    w.reads("leader 3 · isr 2 3 · elr - · epochs 2/2");
    w.fences(&[2]);
    w.reads("leader 3 · isr 3 · elr 2 · epochs 2/3");
    // Nobody to hand over to: 3 leads until it is fenced.
    w.stops(3);
    w.reads("leader 3 · isr 3 · elr 2 · epochs 2/3");
    // 1 is back and joins beside a leader that is going; asked again, 3 hands over.
    w.fences(&[1]);
    w.registers(1, Restart { clean: true, ..AFTER_KILL });
    w.unfences(1);
    assert!(w.proposes(3, &[3, 1]).is_ok());
    w.stops(3);
    w.reads("leader 1 · isr 1 3 · elr - · epochs 3/5");
    let unfence = Command::UnfenceBroker { broker: BrokerId(3), epoch: w.epoch(3) };
    assert_eq!(w.does(&unfence), Answer::Done, "it is not fenced, so there is nothing to do");
}

#[test]
fn a_wiped_folder_is_an_empty_replica() {
    let mut w = World::three();
    w.fences(&[1]);
    w.fences(&[2]);
    w.reads("leader 3 · isr 3 · elr 2 · epochs 2/2");
    // 2 comes back without its data: not eligible any more.
    w.registers(2, WIPED);
    w.unfences(2);
    w.reads("leader 3 · isr 3 · elr - · epochs 2/3");
    // The last one, too: nobody alive can vouch for anything; offline until a person chooses.
    w.registers(3, WIPED);
    w.reads("leader - · isr - · elr - · epochs 3/4");
    w.unfences(3);
    w.reads("leader - · isr - · elr - · epochs 3/4");
    assert_eq!(w.elects(2, ElectionReason::Preferred), Err(MetadataError::IneligibleLeader(BrokerId(2))));
    assert_eq!(w.elects(2, ElectionReason::Unclean), Ok(()));
    w.reads("leader 2 · isr 2 · elr - · epochs 4/5");
    assert_eq!(w.image.partition(World::place()).unwrap().unclean_epoch, Some(LeaderEpoch(4)));
    // 1 was away all the while; a later clean election does not hide from it what happened.
    w.registers(2, WIPED);
    w.reads("leader - · isr 2 · elr - · epochs 5/6");
    w.unfences(2);
    w.reads("leader 2 · isr 2 · elr - · epochs 6/7");
    assert_eq!(w.image.partition(World::place()).unwrap().unclean_epoch, Some(LeaderEpoch(4)));
}

#[test]
fn a_failed_disk_and_a_forgotten_broker_count_as_empty() {
    let mut w = World::three();
    w.registers(1, Restart { disk_failed: true, ..AFTER_KILL });
    w.reads("leader 2 · isr 2 3 · elr - · epochs 1/1");
    w.fences(&[2]);
    w.fences(&[3]);
    w.reads("leader - · isr 3 · elr 2 · epochs 3/3");
    let forget = |w: &mut World, broker| w.does(&Command::UnregisterBroker { broker: BrokerId(broker) });
    assert_eq!(forget(&mut w, 2), Answer::Done);
    w.reads("leader - · isr 3 · elr 2 · epochs 3/3");
    w.registers(2, AFTER_KILL);
    w.reads("leader - · isr 3 · elr - · epochs 3/4");
    w.unfences(2);
    assert!(matches!(forget(&mut w, 2), Answer::Refused(MetadataError::Invalid(_))), "it is alive");
    assert_eq!(forget(&mut w, 9), Answer::Refused(MetadataError::UnknownBroker(BrokerId(9))));
}

#[test]
fn min_insync_replicas_decides_who_stays_eligible() {
    let mut w = World::three();
    w.fences(&[1, 2]);
    w.reads("leader 3 · isr 3 · elr 1 2 · epochs 1/1");
    // From here on 3 alone may ack, so the others are no longer good enough.
    w.sets(ConfigResource::Topic("t".into()), "min.insync.replicas", Some("1"));
    w.reads("leader 3 · isr 3 · elr - · epochs 1/2");
    w.sets(ConfigResource::Topic("t".into()), "min.insync.replicas", None);
    w.reads("leader 3 · isr 3 · elr - · epochs 1/2");

    let mut w = World::three_with(&[("min.insync.replicas", "9")]);
    w.fences(&[1]);
    w.reads("leader 2 · isr 2 3 · elr 1 · epochs 1/1");
    w.sets(ConfigResource::BrokerDefault, "min.insync.replicas", Some("1"));
    w.reads("leader 2 · isr 2 3 · elr 1 · epochs 1/1");
    w.sets(ConfigResource::Topic("t".into()), "min.insync.replicas", None);
    w.reads("leader 2 · isr 2 3 · elr - · epochs 1/2");
}

#[test]
fn topics_come_grow_and_go() {
    let mut w = World::three_with(&[("retention.ms", "5")]);
    let topic = |name: &str, n, assignments: &[&[i32]]| NewTopic {
        name: name.into(),
        id: TopicId(id(n)),
        assignments: assignments.iter().map(|a| a.iter().copied().map(BrokerId).collect()).collect(),
        configs: BTreeMap::new(),
    };
    w.fences(&[2]);
    let answer = w.does(&Command::CreateTopics {
        topics: vec![
            topic("t", 8, &[&[1]]),
            topic("u", 9, &[&[2, 3, 1], &[1, 3]]),
            topic("v", 10, &[&[2]]),
            topic("w", 11, &[&[1, 1]]),
            topic("x", 12, &[&[1, 5]]),
            topic("y", 13, &[]),
            topic("u", 14, &[&[1]]),
        ],
    });
    let Answer::Topics(results) = answer else { panic!("{answer:?}") };
    assert_eq!(results[0], Err(MetadataError::TopicExists("t".into())));
    assert_eq!(results[1], Ok(TopicId(id(9))));
    assert!(matches!(results[2], Err(MetadataError::Invalid(_))), "no broker of it is alive");
    assert!(matches!(results[3], Err(MetadataError::Invalid(_))));
    assert_eq!(results[4], Err(MetadataError::UnknownBroker(BrokerId(5))));
    assert!(matches!(results[5], Err(MetadataError::Invalid(_))));
    assert_eq!(results[6], Err(MetadataError::TopicExists("u".into())));
    let partition = w.image.partition(TopicPartition::new(TopicId(id(9)), 0)).unwrap();
    assert_eq!((partition.leader, partition.isr.len()), (Some(BrokerId(3)), 2), "the fenced one is not in sync");

    let grow = |expected_count| NewPartitions {
        topic: TopicId(id(9)),
        expected_count,
        assignments: vec![vec![BrokerId(3), BrokerId(1)]],
    };
    let answer = w.does(&Command::CreatePartitions { topics: vec![grow(2), grow(2)] });
    assert_eq!(answer, Answer::Topics(vec![Ok(TopicId(id(9))), Err(MetadataError::PartitionCountChanged)]));
    assert_eq!(w.image.partitions_on(BrokerId(3)).count(), 4);

    let answer = w.does(&Command::DeleteTopics { topics: vec![TopicId(id(7)), TopicId(id(7))] });
    assert_eq!(answer, Answer::Topics(vec![Ok(TopicId(id(7))), Err(MetadataError::UnknownTopic)]));
    assert!(w.image.configs.of_topic("t").is_empty(), "its configs went with it");
    assert!(w.image.topic_by_name("t").is_none());
}

pub fn group_write(generation: i32, is_whole: bool) -> GroupWrite {
    let header =
        GroupHeader::Classic { protocol_type: "consumer".into(), protocol: None, generation, leader: None, is_whole };
    GroupWrite { header, put: Vec::new(), removed: Vec::new(), blobs: Vec::new(), rebalance: None }
}

#[test]
fn groups_and_producer_ids_refuse_the_stale() {
    let mut w = World::three();
    let change = |group: &str, expected, generation: Option<i32>, epoch| GroupChange {
        group: group.into(),
        coordinator: World::place(),
        leader_epoch: LeaderEpoch(epoch),
        expected,
        revision: expected + 5,
        write: generation.map(|generation| group_write(generation, true)),
    };
    let does = |w: &mut World, changes: &[GroupChange]| match w.does(&Command::ChangeGroups { changes: changes.into() })
    {
        Answer::Groups(results) => results,
        answer => panic!("{answer:?}"),
    };
    let stale = Err(MetadataError::StaleGroup);
    assert_eq!(does(&mut w, &[change("g", 1, Some(1), 0)]), std::slice::from_ref(&stale), "there is no such group");
    let first = change("g", 0, Some(1), 0);
    assert_eq!(
        does(&mut w, &[first.clone(), first.clone(), change("h", 0, Some(1), 0)]),
        [Ok(()), stale.clone(), Ok(())]
    );
    let backwards = GroupChange { revision: 5, ..change("g", 5, Some(2), 0) };
    assert_eq!(does(&mut w, &[backwards, change("g", 5, Some(2), 0)]), [stale.clone(), Ok(())]);
    let torn = GroupChange { write: Some(group_write(3, false)), ..change("g", 10, None, 0) };
    assert_eq!(does(&mut w, &[torn, change("g", 15, Some(3), 0)]), [Ok(()), Ok(())], "one after the other");
    w.fences(&[1]);
    assert_eq!(does(&mut w, &[change("g", 20, Some(4), 0)]), [stale], "another broker coordinates the group now");
    assert_eq!(does(&mut w, &[change("g", 20, None, 1), change("h", 5, None, 1)]), [Ok(()), Ok(())]);
    assert!(w.image.groups.groups.is_empty());

    let ids = |w: &mut World, broker, count| {
        let epoch = w.epoch(broker);
        w.does(&Command::AllocateProducerIds { broker: BrokerId(broker), epoch, count })
    };
    assert_eq!(ids(&mut w, 2, 1000), Answer::ProducerIds { first: ProducerId(0), count: 1000 });
    assert_eq!(ids(&mut w, 3, 1000), Answer::ProducerIds { first: ProducerId(1000), count: 1000 });
    assert!(matches!(ids(&mut w, 3, 0), Answer::Refused(MetadataError::Invalid(_))));
    assert!(matches!(ids(&mut w, 3, i64::MAX), Answer::Refused(MetadataError::Invalid(_))));
    assert_eq!(ids(&mut w, 9, 1), Answer::Refused(MetadataError::UnknownBroker(BrokerId(9))));
}

#[test]
fn a_cluster_is_named_once() {
    let mut w = World::empty();
    let name = |n| Command::FormCluster { cluster_id: ClusterId(id(n)) };
    assert_eq!(w.does(&name(1)), Answer::Done);
    assert_eq!(w.does(&name(1)), Answer::Done);
    assert!(matches!(w.does(&name(2)), Answer::Refused(MetadataError::Invalid(_))));
    assert_eq!(w.image.cluster_id, ClusterId(id(1)));
}
