//! `/metrics` as Prometheus scrapes it from real nodes.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{Cluster, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// A sample with its labels, such as `highwater_cluster_brokers{state="alive"}`, and its value.
type Samples = BTreeMap<String, f64>;

/// `None` while the node does not answer.
fn get(cluster: &Cluster, node: u16, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(cluster.admin(node)).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_ascii_lowercase(), body.to_string()))
}

/// Fails on what is not the text exposition format: HELP and TYPE once and first, then that metric's samples.
fn parse(page: &str) -> Samples {
    let (mut samples, mut named, mut current) = (Samples::new(), BTreeSet::new(), (String::new(), String::new()));
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help text");
            assert!(!text.is_empty() && named.insert(name.to_string()), "{line}");
            current = (name.to_string(), String::new());
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').expect("a type");
            assert!(name == current.0 && ["gauge", "counter"].contains(&kind), "{line}");
            current.1 = kind.to_string();
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line:?}"));
            let name = sample.split('{').next().expect("a name");
            assert!(name == current.0 && !current.1.is_empty(), "a sample without HELP and TYPE: {line}");
            assert_eq!(name.ends_with("_total"), current.1 == "counter", "{line}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(value >= 0.0 && samples.insert(sample.to_string(), value).is_none(), "{line}");
        }
    }
    samples
}

fn scrape(cluster: &Cluster, node: u16) -> Option<Samples> {
    let (head, body) = get(cluster, node, "/metrics")?;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    Some(parse(&body))
}

fn sum(cluster: &Cluster, nodes: &[u16], name: &str) -> Option<f64> {
    nodes.iter().map(|node| scrape(cluster, *node)?.get(name).copied()).sum()
}

#[test]
fn a_kill_is_seen_in_the_numbers_and_so_is_the_return() {
    let cluster = Cluster::start("metrics", 3, &[]);
    cluster.create_topic("t", 6, 3, &[]);
    wait_for("each node follows", SOON, || {
        (sum(&cluster, &[1, 2, 3], "highwater_replicas_hosted")? == 18.0).then_some(())
    });
    wait_for("all is in sync", SOON, || {
        let led = sum(&cluster, &[1, 2, 3], "highwater_partitions_led")?;
        let behind = sum(&cluster, &[1, 2, 3], "highwater_partitions_under_replicated")?;
        (led == 6.0 && behind == 0.0).then_some(())
    });
    assert_eq!(sum(&cluster, &[1, 2, 3], "highwater_controller_active"), Some(1.0));
    let before = scrape(&cluster, 1).expect("it answers");
    assert_eq!(before["highwater_cluster_partitions"], 6.0);
    assert_eq!(before["highwater_cluster_brokers{state=\"alive\"}"], 3.0);
    assert_eq!(before["highwater_leader_elections_total{reason=\"created\"}"], 6.0);
    assert_eq!(before["highwater_broker_fencings_total{reason=\"connection_lost\"}"], 0.0);
    assert_eq!(before["highwater_replicas_damaged"], 0.0);
    assert!(before["highwater_process_resident_memory_bytes"] > 1e6);
    assert!(before["highwater_raft_applied_index"] >= 1.0 && before["highwater_raft_term"] >= 1.0);

    cluster.kill(3);
    wait_for("the loss shows", SOON, || {
        let left = [1, 2];
        let behind = sum(&cluster, &left, "highwater_partitions_under_replicated")?;
        (sum(&cluster, &left, "highwater_partitions_led")? == 6.0 && behind == 6.0).then_some(())
    });
    for node in [1, 2] {
        // The one may be a step behind the other.
        let after = wait_for("every survivor knows", SOON, || {
            let now = scrape(&cluster, node)?;
            (now["highwater_cluster_brokers{state=\"fenced\"}"] == 1.0).then_some(now)
        });
        assert_eq!(after["highwater_cluster_brokers{state=\"alive\"}"], 2.0);
        assert_eq!(after["highwater_cluster_partitions_under_replicated"], 6.0);
        assert_eq!(after["highwater_cluster_partitions_offline"], 0.0);
        let fencings: f64 = after
            .iter()
            .filter(|(name, _)| name.starts_with("highwater_broker_fencings_total"))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(fencings, 1.0);
        assert!(after["highwater_leader_elections_total{reason=\"fenced\"}"] >= 1.0);
        assert_eq!(after["highwater_isr_shrinks_total"], 6.0);
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "always the same lines");
    }
    let expands = scrape(&cluster, 1).expect("it answers")["highwater_isr_expands_total"];

    cluster.start_node(3);
    wait_for("all is in sync again", SOON, || {
        let now = scrape(&cluster, 1)?;
        (now["highwater_cluster_partitions_under_replicated"] == 0.0).then_some(())
    });
    assert_eq!(scrape(&cluster, 1).expect("it answers")["highwater_isr_expands_total"], expands + 6.0);
    assert!(get(&cluster, 1, "/metric").expect("it answers").0.starts_with("http/1.1 404"));
}
