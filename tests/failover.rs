//! Nodes are killed under load: every acked record is read back exactly once.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::time::Duration;
use support::load::{Load, assert_exactly_once, read_all};
use support::{Cluster, wait_for};

const PARTITIONS: i32 = 6;
const SOON: Duration = Duration::from_secs(60);

/// (leader, ISR) by partition, as a client sees them.
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

fn wait_in_sync(cluster: &Cluster, topic: &str) {
    wait_for("every partition has a leader and three replicas in sync", SOON, || {
        let found = partitions(cluster, topic)?;
        (found.len() == 6 && found.iter().all(|(leader, isr)| *leader > 0 && *isr == 3)).then_some(())
    });
}

fn status(cluster: &Cluster, node: u16) -> Option<serde_json::Value> {
    serde_json::from_str(&cluster.cli(node, &["cluster", "status", "-o", "json"]).stdout()).ok()
}

fn controller(cluster: &Cluster) -> u16 {
    wait_for("a controller", SOON, || {
        (1..=3).find_map(|node| {
            let id = status(cluster, node)?.get("controller_id")?.as_i64()?;
            u16::try_from(id).ok().filter(|id| *id > 0)
        })
    })
}

#[test]
fn leaders_killed_one_after_another_under_load_lose_and_duplicate_nothing() {
    let cluster = Cluster::start("leaders", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "t");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(500, SOON);
    for _ in 0..3 {
        let leader = wait_for("a leader", SOON, || Some(partitions(&cluster, "t")?.first()?.0).filter(|id| *id > 0));
        let victim = u16::try_from(leader).unwrap();
        cluster.kill(victim);
        load.wait_acked(500, SOON);
        cluster.start_node(victim);
        wait_in_sync(&cluster, "t");
        load.wait_acked(200, SOON);
    }
    let sent = load.finish();
    let records = read_all(&cluster.bootstrap(), "t", PARTITIONS);
    assert_exactly_once(&load.acks, &records);
    eprintln!("sent {sent}, acked {}, longest gap between acks {:?}", load.acks.count(), load.acks.longest_gap());
}

#[test]
fn the_controller_killed_under_load_loses_nothing_and_another_takes_over() {
    let cluster = Cluster::start("controller", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "t");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(500, SOON);
    let first = controller(&cluster);
    cluster.kill(first);
    load.wait_acked(500, SOON);
    let other = if first == 1 { 2 } else { 1 };
    cluster
        .cli(other, &["topic", "create", "after", "--partitions", "1", "--replication-factor", "2"])
        .assert_ok("create");
    assert_ne!(controller(&cluster), first, "a new controller was elected");
    cluster.start_node(first);
    wait_in_sync(&cluster, "t");
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
}

/// The term a node knows, and who leads in it.
fn term(cluster: &Cluster, node: u16) -> Option<(i64, i64)> {
    let status = status(cluster, node)?;
    Some((status.get("term")?.as_i64()?, status.get("controller_id")?.as_i64()?))
}

fn is_fenced(cluster: &Cluster, asked: u16, node: u16) -> Option<bool> {
    let status = status(cluster, asked)?;
    let found = status.get("nodes")?.as_array()?.iter().find(|n| n["id"].as_i64() == Some(i64::from(node)))?;
    Some(found["state"].as_str()? == "fenced")
}

#[test]
fn a_paused_node_that_wakes_deposes_nobody() {
    let cluster = Cluster::start("paused", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "t");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(500, SOON);

    let leads = controller(&cluster);
    let follower = if leads == 1 { 2 } else { 1 };
    let before = term(&cluster, leads).expect("a term");
    cluster.dev(&["pause", &follower.to_string()]).assert_ok("pause");
    wait_for("the follower is fenced", SOON, || is_fenced(&cluster, leads, follower).filter(|fenced| *fenced));
    cluster.dev(&["resume", &follower.to_string()]).assert_ok("resume");
    wait_in_sync(&cluster, "t");
    assert_eq!(term(&cluster, leads), Some(before), "the woken follower called an election");

    cluster.dev(&["pause", &leads.to_string()]).assert_ok("pause");
    let elected = wait_for("another controller", SOON, || {
        term(&cluster, follower).filter(|(_, id)| *id > 0 && *id != i64::from(leads))
    });
    load.wait_acked(500, SOON);
    cluster.dev(&["resume", &leads.to_string()]).assert_ok("resume");
    wait_in_sync(&cluster, "t");
    assert_eq!(term(&cluster, follower), Some(elected), "the woken controller called an election");

    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
}

#[test]
fn all_three_killed_at_once_come_back_with_everything_acked() {
    let cluster = Cluster::start("all", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "t");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(2_000, SOON);
    for node in 1..=3 {
        cluster.kill(node);
    }
    for node in 1..=3 {
        cluster.start_node(node);
    }
    load.wait_acked(500, SOON);
    load.finish();
    wait_in_sync(&cluster, "t");
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
}

#[test]
fn a_clean_restart_of_all_keeps_topics_and_records() {
    let cluster = Cluster::start("restart", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "t");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(1_000, SOON);
    load.finish();
    cluster.dev(&["stop"]).assert_ok("dev stop");
    for node in 1..=3 {
        cluster.start_node(node);
    }
    wait_in_sync(&cluster, "t");
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
}

/// Gone, or a zombie that its new parent has not reaped.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

#[test]
fn a_rolling_restart_under_load_shows_a_default_client_no_error() {
    let cluster = Cluster::start("rolling", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "t");
    let mut load = Load::start_with_defaults(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(500, SOON);
    for node in 1..=3 {
        let pid = cluster.pid(node).expect("it runs");
        support::run("kill", &["-TERM", &pid.to_string()]).assert_ok("SIGTERM");
        wait_for("the node stops", SOON, || has_ended(pid).then_some(()));
        load.wait_acked(200, SOON);
        cluster.start_node(node);
        wait_in_sync(&cluster, "t");
        load.wait_acked(200, SOON);
    }
    let sent = load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
    eprintln!("sent {sent}, acked {}, longest gap between acks {:?}", load.acks.count(), load.acks.longest_gap());
}

#[test]
fn a_node_that_nobody_answers_stops_all_the_same() {
    let cluster = Cluster::start("unanswered", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "t");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(500, SOON);
    // Nobody is left to take over, and connections stay open.
    cluster.dev(&["pause", "2"]).assert_ok("pause");
    cluster.dev(&["pause", "3"]).assert_ok("pause");
    let pid = cluster.pid(1).expect("it runs");
    support::run("kill", &["-TERM", &pid.to_string()]).assert_ok("SIGTERM");
    wait_for("the node stops by itself", SOON, || has_ended(pid).then_some(()));
    cluster.dev(&["resume", "2"]).assert_ok("resume");
    cluster.dev(&["resume", "3"]).assert_ok("resume");
    cluster.start_node(1);
    wait_in_sync(&cluster, "t");
    load.wait_acked(500, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
}

#[test]
fn a_wiped_node_is_refilled_and_nothing_is_lost() {
    let cluster = Cluster::start("wiped", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "t");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(1_000, SOON);
    cluster.kill(3);
    std::fs::remove_dir_all(cluster.node_dir(3).join("data")).expect("node 3's data is wiped");
    cluster.start_node(3);
    wait_in_sync(&cluster, "t");
    load.wait_acked(200, SOON);
    wait_for("the wiped node's new identity votes in place of the old one", SOON, || {
        let status = status(&cluster, 1)?;
        let directory = status["nodes"].as_array()?.iter().find(|node| node["id"] == 3)?["directory_id"].clone();
        let voters: Vec<_> = status["quorum"].as_array()?.iter().filter(|m| m["voter"] == true).collect();
        (voters.len() == 3 && voters.iter().any(|m| m["directory_id"] == directory)).then_some(())
    });
    // What node 3 was refilled with must stand alone: another replica goes.
    cluster.kill(1);
    load.wait_acked(500, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
}
