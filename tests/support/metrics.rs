//! `/metrics` of a node, as Prometheus scrapes it.

use super::Cluster;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A sample with its labels, such as `highwater_cluster_brokers{state="alive"}`, and its value.
pub type Samples = BTreeMap<String, f64>;

/// `None` while the node does not answer.
pub fn get(cluster: &Cluster, node: u16, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(cluster.admin(node)).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
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

pub fn scrape(cluster: &Cluster, node: u16) -> Option<Samples> {
    let (head, body) = get(cluster, node, "/metrics")?;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    Some(parse(&body))
}

pub fn sum(cluster: &Cluster, nodes: &[u16], name: &str) -> Option<f64> {
    nodes.iter().map(|node| scrape(cluster, *node)?.get(name).copied()).sum()
}
