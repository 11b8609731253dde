//! The story every client goes through: members join, one dies, one leaves; the coordinator dies, another broker dies.

use super::checker::{self, End, Report};
use super::history::{History, Line};
use super::member::Member;
use super::support::load::Load;
use super::support::{Cluster, wait_for};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 12;
const TOPIC: &str = "work";
/// Long enough for a session to expire and a rebalance to follow on a machine that does much else.
const SOON: Duration = Duration::from_secs(90);
/// What the members ask for.
const SESSION: Duration = Duration::from_secs(6);
/// A few hundred a second: each record is a line of text.
const PAUSE: Duration = Duration::from_millis(50);

/// How to start a member: bootstrap servers, topic, group, protocol.
pub type Start<'a> = &'a dyn Fn(&str, &str, &str, &str) -> Command;

/// The partition of `__consumer_offsets` that a group belongs to: Kafka's rule, the size of a Java string's hash.
fn offsets_partition(group: &str, partitions: usize) -> usize {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    usize::try_from(hash.checked_abs().unwrap_or(0)).expect("not negative") % partitions
}

/// (leader, replicas in sync) by partition, as a client sees them.
fn partitions(cluster: &Cluster, topic: &str) -> Option<Vec<(i32, usize)>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap())
        .set("reconnect.backoff.ms", "20")
        .set("log_level", "0")
        .create()
        .expect("a client");
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
    let topic = metadata.topics().first()?;
    Some(topic.partitions().iter().map(|p| (p.leader(), p.isr().len())).collect())
}

pub fn wait_in_sync(cluster: &Cluster, topic: &str) {
    wait_for(&format!("every partition of {topic} has a leader and three replicas in sync"), SOON, || {
        let found = partitions(cluster, topic)?;
        (!found.is_empty() && found.iter().all(|(leader, isr)| *leader > 0 && *isr == 3)).then_some(())
    });
}

pub fn coordinator(cluster: &Cluster, group: &str) -> u16 {
    wait_for("the group's coordinator", SOON, || {
        let found = partitions(cluster, "__consumer_offsets")?;
        let (leader, _) = *found.get(offsets_partition(group, found.len().max(1)))?;
        u16::try_from(leader).ok().filter(|id| *id > 0)
    })
}

/// The members, and what of the acked records they have processed.
struct Team<'a> {
    name: &'a str,
    start: Start<'a>,
    /// Of members that join: see the programs in tests/clients.
    protocol: &'a str,
    cluster: &'a Cluster,
    members: Vec<Member>,
    seen: Vec<usize>,
    /// Their values.
    processed: BTreeSet<u64>,
    began: Instant,
}

impl<'a> Team<'a> {
    fn new(name: &'a str, start: Start<'a>, protocol: &'a str, cluster: &'a Cluster) -> Team<'a> {
        let (members, seen, processed) = (Vec::new(), Vec::new(), BTreeSet::new());
        Team { name, start, protocol, cluster, members, seen, processed, began: Instant::now() }
    }

    fn generation(&self, member: usize) -> Option<i32> {
        self.members[member].standing().generation
    }

    fn join(&mut self) {
        let member = format!("member {}", char::from(b'a' + u8::try_from(self.members.len()).expect("a few")));
        let command = (self.start)(&self.cluster.bootstrap(), TOPIC, self.name, self.protocol);
        self.members.push(Member::start(&member, command));
        self.seen.push(0);
    }

    fn say(&self, what: &str) {
        let seconds = self.began.elapsed().as_secs_f32();
        let standings: Vec<String> = self
            .members
            .iter()
            .map(|member| {
                let standing = member.standing();
                let generation = standing.generation.map_or_else(|| "-".to_string(), |number| number.to_string());
                format!("{}@{generation}:{}", standing.owned.len(), standing.records)
            })
            .collect();
        eprintln!("{} {seconds:6.1} s  {what}  (owned@generation:records {})", self.name, standings.join(" "));
    }

    /// Each of these owns something, the others nothing, together everything.
    fn wait_shared(&mut self, by: &[usize], what: &str) {
        for number in by {
            self.members[*number].assert_runs();
        }
        let members = &self.members;
        wait_for(what, SOON, || {
            let owned: Vec<usize> = members.iter().map(|member| member.standing().owned.len()).collect();
            let each = owned.iter().enumerate().all(|(number, count)| (*count > 0) == by.contains(&number));
            (each && owned.iter().sum::<usize>() == 12).then_some(())
        });
        self.say(what);
    }

    /// Everything acked so far is processed. By value: librdkafka does not always learn at what offset.
    fn wait_processed(&mut self, load: &Load, what: &str) {
        let acked = load.acks.acked.lock().unwrap().clone();
        let Team { members, seen, processed, .. } = self;
        let began = Instant::now();
        loop {
            for (member, from) in members.iter().zip(seen.iter_mut()) {
                *from = member.processed_since(*from, processed);
            }
            let missed: BTreeMap<_, _> =
                acked.iter().filter(|(value, _)| !processed.contains(value)).take(20).collect();
            if missed.is_empty() {
                break;
            }
            assert!(
                began.elapsed() < SOON,
                "not within {SOON:?}: {what}; values not processed, with places: {missed:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self.say(what);
    }
}

fn start_cluster(name: &str) -> Cluster {
    let sets = [
        "group.initial.rebalance.delay.ms=500",
        // What members of the classic protocol ask for themselves.
        "group.consumer.session.timeout.ms=6000",
        "group.consumer.heartbeat.interval.ms=500",
    ];
    let cluster = Cluster::start(name, 3, &sets);
    cluster.create_topic(TOPIC, PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, TOPIC);
    cluster
}

/// Plays the whole story with one kind of client, and checks what its members told.
pub fn play(name: &str, start: Start<'_>, protocol: &str) {
    let cluster = start_cluster(name);
    let mut load = Load::start_slow(&cluster.bootstrap(), TOPIC, PARTITIONS, PAUSE);
    let mut team = Team::new(name, start, protocol, &cluster);
    (0..3).for_each(|_| team.join());
    team.wait_shared(&[0, 1, 2], "three members share");
    load.wait_acked(200, SOON);
    team.wait_processed(&load, "everything acked is processed");

    team.members[1].kill();
    team.wait_shared(&[0, 2], "one was killed, two share");
    team.join();
    team.wait_shared(&[0, 2, 3], "one joined, three share");
    team.members[2].leave();
    team.wait_shared(&[0, 3], "one left, two share");
    team.wait_processed(&load, "everything acked is processed");

    for what in ["the coordinator", "another broker"] {
        team.wait_shared(&[0, 3], "two share");
        let coordinates = coordinator(&cluster, name);
        let victim = if what == "the coordinator" { coordinates } else { coordinates % 3 + 1 };
        let (killed, generation) = (Instant::now(), team.generation(0));
        cluster.kill(victim);
        load.wait_acked(200, SOON);
        team.wait_processed(&load, &format!("{what} was killed, everything acked is processed"));
        // On a machine that stands still for longer sessions may expire.
        if killed.elapsed() < SESSION / 2 && team.generation(0) != generation {
            let told = cluster.cli(victim % 3 + 1, &["group", "describe", name]);
            let (was, is) = (generation, team.generation(0));
            panic!("{what} was killed, and members had to join again: {was:?}, then {is:?}\n{}", told.stdout());
        }
        cluster.start_node(victim);
        wait_in_sync(&cluster, TOPIC);
        wait_in_sync(&cluster, "__consumer_offsets");
        load.wait_acked(100, SOON);
    }
    team.wait_shared(&[0, 3], "two share");
    load.finish();
    team.wait_processed(&load, "everything is processed");
    team.members[0].leave();
    team.members[3].leave();
    team.say("all left");
    judge(name, &team, &load);
}

/// A member hangs for so long that the group goes on without it; when it wakes, it finds out before it does harm.
pub fn play_hung(name: &str, start: Start<'_>, protocol: &str) {
    let cluster = start_cluster(name);
    let mut load = Load::start_slow(&cluster.bootstrap(), TOPIC, PARTITIONS, PAUSE);
    let mut team = Team::new(name, start, protocol, &cluster);
    (0..2).for_each(|_| team.join());
    team.wait_shared(&[0, 1], "two share");
    load.wait_acked(100, SOON);
    team.wait_processed(&load, "everything acked is processed");
    team.members[1].signal("-STOP");
    let owner = &team.members[0];
    wait_for("the other owns all", SOON, || (owner.standing().owned.len() == 12).then_some(()));
    load.wait_acked(100, SOON);
    team.wait_processed(&load, "one hangs, everything acked is processed");
    team.members[1].signal("-CONT");
    team.wait_shared(&[0, 1], "it goes on, two share");
    load.finish();
    team.wait_processed(&load, "everything is processed");
    (0..2).for_each(|member| team.members[member].leave());
    let report = judge(name, &team, &load);
    assert!(report.ended(End::Lost) > 0, "it was told that it had lost what it owned");
}

/// A live group passes from the classic protocol to the consumer protocol and back, member by member.
pub fn play_migration(name: &str, start: Start<'_>, classic: &str) {
    let cluster = start_cluster(name);
    let mut load = Load::start_slow(&cluster.bootstrap(), TOPIC, PARTITIONS, PAUSE);
    let mut team = Team::new(name, start, classic, &cluster);
    (0..2).for_each(|_| team.join());
    team.wait_shared(&[0, 1], "two classic members share");
    load.wait_acked(100, SOON);
    team.wait_processed(&load, "everything acked is processed");

    team.protocol = "consumer";
    team.join();
    team.wait_shared(&[0, 1, 2], "one of the consumer protocol joined");
    let victim = coordinator(&cluster, name);
    cluster.kill(victim);
    load.wait_acked(100, SOON);
    team.wait_processed(&load, "the coordinator was killed, everything acked is processed");
    cluster.start_node(victim);
    wait_in_sync(&cluster, "__consumer_offsets");
    team.wait_shared(&[0, 1, 2], "three share");
    team.members[0].leave();
    team.wait_shared(&[1, 2], "one classic member left");
    team.members[1].leave();
    team.wait_shared(&[2], "no classic member is left");

    team.protocol = classic;
    team.join();
    team.wait_shared(&[2, 3], "a classic member joined");
    team.members[2].leave();
    team.wait_shared(&[3], "no member of the consumer protocol is left");
    team.join();
    team.wait_shared(&[3, 4], "two classic members share");
    load.wait_acked(100, SOON);
    load.finish();
    team.wait_processed(&load, "everything is processed");
    (3..5).for_each(|member| team.members[member].leave());
    judge(name, &team, &load);
}

fn judge(name: &str, team: &Team<'_>, load: &Load) -> Report {
    let failed = load.acks.failed.lock().unwrap();
    assert!(failed.is_empty(), "{} deliveries failed, first: {}", failed.len(), failed[0]);
    let acked = load.acks.acked.lock().unwrap();
    let acked = acked.iter().filter(|(_, (_, offset))| *offset >= 0).map(|(value, place)| (*place, *value)).collect();
    let history = History { members: team.members.iter().map(Member::told).collect(), acked };
    let report = checker::check(&history);
    let longest: Vec<String> = report.longest_without_owner.values().map(ToString::to_string).collect();
    eprintln!(
        "{name}: {} acked, {} processed again, {} ownerships ({} lost), {} commits refused; longest without an owner by \
         partition, ms: {}",
        history.acked.len(),
        report.repeated,
        report.ownerships.len(),
        report.ended(End::Lost),
        report.commits_refused,
        longest.join(" ")
    );
    for told in &history.members {
        for line in told.lines.iter().filter(|line| matches!(line, Line::Lost { .. })) {
            eprintln!("{name}: {} was told {line:?}", told.name);
        }
    }
    if !report.findings.is_empty() {
        let kept = team.cluster.dir.join("history.txt");
        let lines = history.members.iter().flat_map(|told| {
            let line = move |line| format!("{} {line:?}\n", told.name);
            told.lines.iter().map(line)
        });
        std::fs::write(&kept, lines.collect::<String>()).expect("written");
        eprintln!("what the members told is in {}", kept.display());
        for member in &team.members {
            eprintln!("--- {}\n{}", member.name, member.complaints());
        }
    }
    let first = &report.findings[..report.findings.len().min(10)];
    assert!(report.findings.is_empty(), "{} findings, first: {first:#?}", report.findings.len());
    report
}

#[test]
fn a_group_belongs_to_the_partition_that_kafka_says() {
    // "abc".hashCode() is 96354 in Java, that of "go-cooperative" -2002123290; "polygenelubricants" is i32::MIN, counted as 0.
    assert_eq!(offsets_partition("abc", 50), 96_354 % 50);
    assert_eq!(offsets_partition("go-cooperative", 50), 2_002_123_290 % 50);
    assert_eq!(offsets_partition("polygenelubricants", 50), 0);
}
