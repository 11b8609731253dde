//! Golden scripts: `event -> effects`, a line each. Broker 1 leads; times in milliseconds; lag_time_max is 2000.

use super::super::parked::Parked;
use super::*;
use crate::platform::clock;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct Cluster {
    epochs: BTreeMap<BrokerId, BrokerEpoch>,
    inactive: BTreeSet<BrokerId>,
    seen: BTreeMap<BrokerId, Instant>,
}

impl Peers for Cluster {
    fn registered(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.epochs.get(&broker).copied()
    }
    fn active(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.registered(broker).filter(|_| !self.inactive.contains(&broker))
    }
    fn last_seen(&self, broker: BrokerId) -> Option<Instant> {
        self.seen.get(&broker).copied()
    }
}

fn brokers(list: &str) -> Vec<BrokerId> {
    list.split(',').map(|b| BrokerId(b.parse().unwrap())).collect()
}

fn image(isr: Vec<BrokerId>, partition_epoch: i32) -> PartitionImage {
    PartitionImage {
        replicas: brokers("1,2,3"),
        isr,
        elr: Vec::new(),
        leader: Some(BrokerId(1)),
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(partition_epoch),
        unclean_epoch: None,
        reassignment: None,
    }
}

struct Scene {
    leader: LeaderState,
    parked: Parked,
    waiting: Vec<(i64, super::super::parked::ReplyReceiver)>,
    cluster: Cluster,
    now: Instant,
    partition_epoch: i32,
    proposed: Option<PartitionEpoch>,
    min_isr: usize,
}

impl Scene {
    /// `isr 1,2,3 min 2 end 10 hw 8`
    fn begin(words: &[&str]) -> Scene {
        let now = clock::now();
        let end = Offset(words[5].parse().unwrap());
        let min_isr = words[3].parse().unwrap();
        let cluster = Cluster {
            epochs: brokers("1,2,3").into_iter().map(|b| (b, BrokerEpoch(100))).collect(),
            ..Cluster::default()
        };
        let (leader, _) = LeaderState::begin(
            Beginning {
                id: TopicPartition::new(TopicId::default(), 0),
                me: BrokerId(1),
                image: &image(brokers(words[1]), 1),
                min_isr,
                ends: Ends { log: end, counted: end },
                high_watermark: Offset(words[7].parse().unwrap()),
                lag_max: Duration::from_millis(2_000),
            },
            now,
        );
        Scene {
            leader,
            parked: Parked::default(),
            waiting: Vec::new(),
            cluster,
            now,
            partition_epoch: 1,
            proposed: None,
            min_isr,
        }
    }

    fn event(&mut self, words: &[&str]) -> Effects {
        let number = |at: usize| words[at].parse::<i64>().unwrap();
        let broker = |at: usize| BrokerId(words[at].parse().unwrap());
        match words[0] {
            // Appended, not flushed; the reply waits.
            "produce" => {
                let end = Offset(self.leader.ends.log.0 + number(1));
                let effects = self.leader.on_append(Ends { log: end, ..self.leader.ends }, self.now);
                self.waiting.push((end.0, self.parked.park(end)));
                effects
            }
            "flush" => self.leader.on_own_ends(Ends { counted: self.leader.ends.log, ..self.leader.ends }),
            "fetch" => {
                let broker_epoch = BrokerEpoch(words.get(3).map_or(100, |e| e.parse().unwrap()));
                let fetch =
                    FollowerFetch { broker: broker(1), broker_epoch, end: Offset(number(2)), log_start: Offset::ZERO };
                self.leader.on_follower_fetch(fetch, self.now, &self.cluster)
            }
            "seen" => {
                self.cluster.seen.insert(broker(1), self.now);
                Effects::default()
            }
            "inactive" => {
                self.cluster.inactive.insert(broker(1));
                Effects::default()
            }
            "active" => {
                self.cluster.inactive.remove(&broker(1));
                Effects::default()
            }
            "wait" => {
                self.now += Duration::from_millis(u64::try_from(number(1)).unwrap());
                Effects::default()
            }
            "tick" => self.leader.on_tick(self.now, &self.cluster),
            "image" => {
                self.partition_epoch += 1;
                let image = image(brokers(words[1]), self.partition_epoch);
                self.leader.on_image_change(&image, self.min_isr, self.now)
            }
            "answer" => {
                let verdict = match words[1] {
                    "accepted" => Verdict::Accepted,
                    "stale" => Verdict::Stale,
                    "refused" => Verdict::Refused,
                    "unknown" => Verdict::Unknown,
                    other => panic!("{other}?"),
                };
                self.leader.on_verdict(self.proposed.unwrap(), verdict, self.now)
            }
            other => panic!("{other}?"),
        }
    }

    fn shown(&mut self, effects: &Effects) -> String {
        let mut said = Vec::new();
        if let Some(high_watermark) = effects.high_watermark {
            said.push(format!("hw {high_watermark}"));
            let released = self.parked.release(high_watermark);
            released.into_iter().for_each(|reply| reply.send(Ok(())).unwrap());
        }
        if effects.fail_parked {
            said.push("below-min".into());
            let failed = self.parked.take_all();
            failed.into_iter().for_each(|r| r.send(Err(super::super::partition::PartitionError::NotHosted)).unwrap());
        }
        self.waiting.retain_mut(|(end, reply)| match reply.try_recv() {
            Ok(outcome) => {
                said.push(format!("{} {end}", if outcome.is_ok() { "ack" } else { "fail" }));
                false
            }
            Err(_) => true,
        });
        if let Some(proposal) = &effects.propose {
            self.proposed = Some(proposal.partition_epoch);
            let isr: Vec<String> = proposal.isr.iter().map(|(b, _)| b.to_string()).collect();
            said.push(format!("propose {}", isr.join(",")));
        }
        said.join(" ")
    }
}

fn play(script: &str) {
    let mut lines = script.lines().map(str::trim).filter(|l| !l.is_empty());
    let first: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    let mut stage = Scene::begin(&first);
    for (number, line) in lines.enumerate() {
        let (event, expected) = line.split_once("->").unwrap_or((line, ""));
        let effects = stage.event(&event.split_whitespace().collect::<Vec<_>>());
        assert_eq!(stage.shown(&effects), expected.trim(), "line {}: {line}", number + 1);
    }
}

#[test]
fn the_high_watermark_is_what_all_hold_durably() {
    play(
        "isr 1,2,3 min 2 end 0 hw 0
         fetch 2 0
         fetch 3 0
         produce 10
         fetch 2 10
         fetch 3 10
         flush      -> hw 10 ack 10
         produce 5
         flush
         fetch 3 15
         fetch 2 12 -> hw 12
         fetch 2 15 -> hw 15 ack 15",
    );
}

#[test]
fn a_new_leader_waits_for_all_to_report_in_its_epoch() {
    play(
        "isr 1,2,3 min 2 end 10 hw 7
         fetch 2 10
         fetch 3 8  -> hw 8
         fetch 3 10 -> hw 10",
    );
}

#[test]
fn alone_in_the_isr_it_needs_only_itself_where_one_copy_suffices() {
    play(
        "isr 1 min 1 end 0 hw 0
         produce 3
         flush      -> hw 3 ack 3",
    );
}

#[test]
fn below_the_minimum_nothing_moves_and_the_parked_are_told() {
    play(
        "isr 1,2,3 min 2 end 0 hw 0
         produce 3
         flush
         fetch 2 3
         image 1      -> below-min fail 3
         fetch 2 3    -> propose 1,2
         answer accepted
         fetch 2 3
         image 1,2    -> hw 3",
    );
}

#[test]
fn a_pending_member_holds_the_high_watermark_but_does_not_count_for_the_minimum() {
    play(
        "isr 1,2 min 2 end 10 hw 10
         fetch 2 10
         fetch 3 9
         fetch 3 10     -> propose 1,2,3
         produce 1
         flush
         fetch 2 11
         answer accepted
         fetch 3 11     -> hw 11 ack 11
         image 1,2,3",
    );
}

#[test]
fn joining_needs_the_high_watermark_and_the_epochs_start() {
    play(
        "isr 1,2 min 2 end 10 hw 5
         fetch 3 5
         fetch 3 9
         fetch 2 10     -> hw 10
         inactive 3
         fetch 3 10
         tick
         active 3
         fetch 3 10 99
         fetch 3 10     -> propose 1,2,3",
    );
}

#[test]
fn a_silent_follower_leaves_after_the_lag_time() {
    play(
        "isr 1,2,3 min 2 end 0 hw 0
         fetch 2 0
         fetch 3 0
         produce 4
         flush
         fetch 2 4
         wait 1900
         fetch 2 4
         tick
         wait 200
         fetch 2 4
         tick           -> propose 1,2
         tick
         answer accepted
         image 1,2      -> hw 4 ack 4",
    );
}

#[test]
fn an_idle_follower_in_a_fetch_session_stays() {
    play(
        "isr 1,2,3 min 2 end 0 hw 0
         fetch 2 0
         fetch 3 0
         wait 60000
         seen 2
         seen 3
         tick
         produce 1
         tick
         wait 1000
         seen 2
         seen 3
         tick
         fetch 2 1
         wait 1100
         seen 2
         seen 3
         tick           -> propose 1,2",
    );
}

#[test]
fn a_follower_that_keeps_pace_stays_though_it_never_reaches_the_end() {
    play(
        "isr 1,2,3 min 2 end 0 hw 0
         fetch 2 0
         fetch 3 0
         produce 10
         wait 900
         fetch 2 10
         fetch 3 10
         produce 10
         wait 900
         fetch 2 20
         fetch 3 10
         produce 10
         wait 900
         fetch 2 30
         fetch 3 20
         tick
         produce 10
         wait 900
         fetch 2 40
         fetch 3 21
         tick
         wait 900
         fetch 2 40
         fetch 3 22
         tick           -> propose 1,2",
    );
}

#[test]
fn a_refusal_is_thought_over_and_a_silence_asked_again() {
    play(
        "isr 1,2 min 1 end 0 hw 0
         fetch 2 0
         fetch 3 0        -> propose 1,2,3
         answer refused
         fetch 3 0
         wait 100
         fetch 3 0        -> propose 1,2,3
         answer unknown
         fetch 3 0
         produce 1
         flush
         fetch 2 1
         tick             -> propose 1,2,3
         answer refused
         tick             -> propose 1,2
         answer accepted
         tick
         image 1,2        -> hw 1 ack 1",
    );
}

#[test]
fn a_stale_proposal_waits_for_the_image() {
    play(
        "isr 1,2 min 1 end 0 hw 0
         fetch 2 0
         fetch 3 0       -> propose 1,2,3
         answer stale
         tick
         fetch 3 0
         image 1,2
         fetch 3 0       -> propose 1,2,3",
    );
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Flush,
    Fetch(bool, u8),
    Tick(u16),
    Image(Option<u8>),
    Answer(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u8..5).prop_map(Step::Append),
        Just(Step::Flush),
        (any::<bool>(), 0u8..4).prop_map(|(who, more)| Step::Fetch(who, more)),
        (0u16..1500).prop_map(Step::Tick),
        proptest::option::of(0u8..4).prop_map(Step::Image),
        (0u8..4).prop_map(Step::Answer),
    ]
}

proptest! {
    /// Invariant 2 and 3: monotone, and never above what any member of the maximal ISR holds on disk, where maximal is
    /// judged from outside: every ISR that is, or may yet become, committed.
    #[test]
    fn the_high_watermark_never_lies(min in 1usize..4, steps in proptest::collection::vec(step(), 1..120)) {
        let line = format!("isr 1,2,3 min {min} end 0 hw 0");
        let mut stage = Scene::begin(&line.split_whitespace().collect::<Vec<_>>());
        let mut durable: BTreeMap<BrokerId, Offset> = brokers("1,2,3").into_iter().map(|b| (b, Offset::ZERO)).collect();
        let mut committed = brokers("1,2,3");
        // Proposals that the controller may still commit, all under the present partition epoch.
        let mut possible: Vec<Vec<BrokerId>> = Vec::new();
        for step in steps {
            let before = stage.leader.high_watermark;
            let effects = match step {
                Step::Append(count) => stage.event(&["produce", &count.to_string()]),
                Step::Flush => {
                    durable.insert(BrokerId(1), stage.leader.ends.log);
                    stage.event(&["flush"])
                }
                Step::Fetch(second, more) => {
                    let who = BrokerId(if second { 2 } else { 3 });
                    let end = Offset(durable[&who].0 + i64::from(more)).min(stage.leader.ends.log);
                    durable.insert(who, end);
                    stage.event(&["fetch", &who.to_string(), &end.to_string()])
                }
                Step::Tick(ms) => {
                    stage.event(&["wait", &ms.to_string()]);
                    stage.event(&["tick"])
                }
                // The controller commits a possible proposal, or fences a follower.
                Step::Image(which) => {
                    let next = match which.map(usize::from) {
                        Some(at) if at < possible.len() => possible[at].clone(),
                        _ => committed.iter().copied().filter(|b| *b != BrokerId(3)).collect(),
                    };
                    possible.clear();
                    committed = next;
                    let list: Vec<String> = committed.iter().map(ToString::to_string).collect();
                    stage.event(&["image", &list.join(",")])
                }
                Step::Answer(_) if stage.proposed.is_none() => Effects::default(),
                Step::Answer(which) => {
                    let unknown = stage.leader.pending.as_ref().is_some_and(|p| p.unknown);
                    let words = ["accepted", "stale", "refused", "unknown"];
                    // A refusal of the only attempt is final.
                    if which == 2 && !unknown && stage.leader.pending.as_ref().is_some_and(|p| p.stage == super::super::isr::Stage::InFlight) {
                        possible.clear();
                    }
                    stage.event(&["answer", words[usize::from(which)]])
                }
            };
            if let Some(proposal) = &effects.propose {
                stage.proposed = Some(proposal.partition_epoch);
                possible.push(proposal.isr.iter().map(|(b, _)| *b).collect());
            }
            let after = stage.leader.high_watermark;
            prop_assert!(after >= before, "it went down");
            if after > before {
                prop_assert!(committed.len() >= min);
                for member in committed.iter().chain(possible.iter().flatten()) {
                    prop_assert!(after <= durable[member], "{member} holds less than {after}");
                }
            }
        }
    }
}
