//! Stories of leaders handed back and handed over, over the real `apply` (replication.md, rules 16 and 17). Each
//! line of a log is "milliseconds what happened"; a tick comes every 100 ms.

use super::super::replica_states::FollowerProgress;
use super::super::testing::{image_with, topic};
use super::*;
use crate::metadata::command::{Answer, Command, FenceReason, IsrProposal};
use crate::metadata::event::Event;

struct Story {
    image: Image,
    index: u64,
    topic: TopicId,
    elections: PreferredElections,
    start: Instant,
    now: u64,
    /// How many bytes a preferred replica has still to fetch, as leaders tell.
    behind: BTreeMap<i32, u64>,
    log: Vec<String>,
}

impl Story {
    fn new(brokers: &[i32], partitions: &[&[i32]]) -> Story {
        let mut image = image_with(brokers);
        let topic = topic(&mut image, "t", 1, partitions);
        let start = crate::platform::clock::now();
        let mut elections = PreferredElections::default();
        elections.rebuild(&image, start);
        Story { image, index: 100, topic, elections, start, now: 0, behind: BTreeMap::new(), log: Vec::new() }
    }

    fn id(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(self.topic, partition)
    }

    fn epoch(&self, broker: i32) -> BrokerEpoch {
        self.image.brokers[&BrokerId(broker)].epoch
    }

    fn commit(&mut self, command: Command) {
        self.index += 1;
        let applied = self.image.apply(RaftIndex(self.index), &command);
        match applied.answer {
            Answer::Refused(error) => self.log.push(format!("{} refused: {error}", self.now)),
            Answer::Isr(results) => assert!(results.iter().all(Result::is_ok), "{results:?}"),
            Answer::Elections(results) => {
                let errors = results.into_iter().filter_map(Result::err);
                self.log.extend(errors.map(|error| format!("{} refused: {error}", self.now)));
            }
            _ => {}
        }
        let mut moved: BTreeMap<String, usize> = BTreeMap::new();
        let mut changed = Vec::new();
        for event in &applied.events {
            if let Event::LeaderElected { new, reason, .. } = event {
                let leader = new.map_or("nobody".into(), |b| format!("broker {b}"));
                *moved.entry(format!("{leader} leads ({reason:?})")).or_default() += 1;
            }
            match event {
                Event::BrokerDraining { broker, .. } => changed.extend(self.image.partitions_on(*broker)),
                event => changed.extend(event.partition()),
            }
        }
        let moved = moved.into_iter().map(|(what, count)| format!("{} {what}: {count}", self.now));
        self.log.extend(moved);
        self.elections.observe(&self.image, changed, self.start + Duration::from_millis(self.now));
    }

    fn fence(&mut self, broker: i32) {
        let brokers = vec![(BrokerId(broker), self.epoch(broker))];
        self.commit(Command::FenceBrokers { brokers, reason: FenceReason::SessionExpired });
    }

    fn unfence(&mut self, broker: i32) {
        self.commit(Command::UnfenceBroker { broker: BrokerId(broker), epoch: self.epoch(broker) });
    }

    fn asks_to_stop(&mut self, broker: i32) {
        self.commit(Command::BeginShutdown { broker: BrokerId(broker), epoch: self.epoch(broker) });
    }

    fn drain(&mut self, broker: i32) {
        self.commit(Command::SetDraining { broker: BrokerId(broker), draining: true });
    }

    /// The partition's leader proposes the ISR with `broker` in it.
    fn joins(&mut self, broker: i32, partition: i32) {
        let state = self.image.partition(self.id(partition)).unwrap().clone();
        let leader = state.leader.unwrap();
        let members = state.isr.iter().copied().chain([BrokerId(broker)]);
        let isr = members.map(|b| (b, self.epoch(b.0))).collect();
        let proposal = IsrProposal {
            partition: self.id(partition),
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr,
        };
        let epoch = self.epoch(leader.0);
        self.commit(Command::AlterIsr { broker: leader, epoch, proposals: vec![proposal] });
    }

    /// What the leader of an election's partition tells of its followers.
    fn told(&self, election: &Election) -> ReplicaState {
        let partition = self.image.partition(election.partition).unwrap();
        // Few records, however many bytes.
        let end = Offset(999_999);
        let lag_bytes = Some(self.behind.get(&election.partition.partition).copied().unwrap_or(0));
        ReplicaState {
            partition: election.partition,
            is_leader: true,
            leader_epoch: partition.leader_epoch,
            last_epoch: partition.leader_epoch,
            log_start: Offset(0),
            log_end: Offset(1_000_000),
            durable_end: Offset(1_000_000),
            high_watermark: end,
            size_bytes: 0,
            followers: vec![FollowerProgress { broker: election.leader, end: Some(end), lag_bytes }],
        }
    }

    fn run(&mut self, ms: u64) {
        while self.now < ms {
            self.now += 100;
            let due = self.elections.due(&self.image, self.start + Duration::from_millis(self.now));
            let ready = |election: &Election| {
                election.reason != ElectionReason::Preferred
                    || is_caught_up(&self.image, election, &[self.told(election)])
            };
            let elections: Vec<Election> = due.into_iter().filter(ready).collect();
            if !elections.is_empty() {
                self.commit(Command::ElectLeaders { elections });
            }
        }
    }

    fn isr(&self, partition: i32) -> Vec<i32> {
        self.image.partition(self.id(partition)).unwrap().isr.iter().map(|b| b.0).collect()
    }

    fn expect(&mut self, lines: &[&str]) {
        assert_eq!(std::mem::take(&mut self.log), lines);
    }
}

#[test]
fn leadership_goes_home_when_the_replica_is_in_sync_and_has_stayed_so() {
    let mut story = Story::new(&[1, 2], &[&[1, 2]]);
    story.fence(1);
    story.expect(&["0 broker 2 leads (Fenced(SessionExpired)): 1"]);
    story.unfence(1);
    story.run(10_000);
    story.expect(&[]); // alive is not in sync
    story.joins(1, 0);
    story.run(14_000);
    story.fence(1); // it flaps: the clock starts anew
    story.run(14_500);
    story.unfence(1);
    story.joins(1, 0);
    story.run(19_400);
    story.expect(&[]);
    story.run(30_000);
    story.expect(&["19500 broker 1 leads (Preferred): 1"]);
}

#[test]
fn leadership_waits_for_a_replica_that_is_far_behind() {
    let mut story = Story::new(&[1, 2], &[&[1, 2]]);
    story.fence(1);
    story.unfence(1);
    story.joins(1, 0);
    story.log.clear();
    story.behind.insert(0, LAG_BYTES_MAX + 1);
    story.run(12_000);
    story.expect(&[]); // looked at after 5 s, and after 10
    story.behind.insert(0, LAG_BYTES_MAX);
    story.run(20_000);
    story.expect(&["15000 broker 1 leads (Preferred): 1"]);
}

#[test]
fn a_returning_broker_gets_its_leaders_back_a_few_at_a_time() {
    let replicas: Vec<&[i32]> = vec![&[1, 2]; 25];
    let mut story = Story::new(&[1, 2], &replicas);
    story.fence(1);
    story.unfence(1);
    (0..25).for_each(|partition| story.joins(1, partition));
    story.expect(&["0 broker 2 leads (Fenced(SessionExpired)): 25"]);
    story.run(9_000);
    story.expect(&[
        "5000 broker 1 leads (Preferred): 10",
        "5100 broker 1 leads (Preferred): 10",
        "5200 broker 1 leads (Preferred): 5",
    ]);
}

#[test]
fn a_broker_that_stops_hands_over_all_at_once_and_the_rest_as_soon_as_others_can() {
    let mut replicas: Vec<&[i32]> = vec![&[1, 2, 3]; 24];
    replicas.push(&[1, 2]);
    let mut story = Story::new(&[1, 2, 3], &replicas);
    story.fence(2);
    story.unfence(2);
    story.asks_to_stop(1);
    story.expect(&["0 broker 3 leads (Shutdown): 24"]);
    assert_eq!(story.isr(0), [1, 3], "at the minimum its copy counts until it is gone");
    story.run(1_000);
    story.expect(&[]); // 1 is the only one in sync of the last: it leads until somebody can take over
    assert_eq!(story.isr(24), [1]);
    story.joins(2, 24);
    story.run(2_000);
    story.expect(&["1100 broker 2 leads (Shutdown): 1"]);
    story.joins(2, 0);
    story.run(9_000);
    story.expect(&[]); // 1 stays away from leadership while it stops
    story.fence(1);
    story.expect(&[]); // nothing was left to take from it
}

#[test]
fn a_broker_that_stops_hands_over_to_a_drained_one_where_there_is_no_other() {
    let mut story = Story::new(&[1, 2], &[&[1, 2]]);
    story.fence(2);
    story.unfence(2);
    story.drain(2);
    story.asks_to_stop(1);
    story.run(1_000);
    story.expect(&[]);
    story.joins(2, 0);
    story.run(2_000);
    story.expect(&["1100 broker 2 leads (Shutdown): 1"]);
}

#[test]
fn a_drained_broker_hands_over_what_it_had_to_lead_alone() {
    let mut story = Story::new(&[1, 2], &[&[1, 2], &[1, 2]]);
    story.fence(2);
    story.unfence(2);
    story.joins(2, 0);
    story.drain(1);
    story.expect(&["0 broker 2 leads (Drained): 1"]);
    assert_eq!(story.isr(0), [1, 2], "its copy goes on counting");
    story.run(1_000);
    story.expect(&[]); // alone in sync in the other
    story.joins(2, 1);
    story.run(20_000);
    story.expect(&["1100 broker 2 leads (Drained): 1"]);
}
