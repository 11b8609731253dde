//! Committed offsets, lag, and what operators do with them: librdkafka and kafka-python on three real processes.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{Cluster, have, python, wait_for};

const SOON: Duration = Duration::from_secs(90);
const LAG_EVERY: &str = "highwater.group.lag.interval.ms=500";

struct Quiet;
impl ClientContext for Quiet {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: rdkafka::error::KafkaError, _: &str) {}
}
impl ConsumerContext for Quiet {}

fn produce(cluster: &Cluster, topic: &str, partitions: i32, count: i32) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap()).create().expect("a producer");
    for n in 0..count {
        let value = n.to_string();
        let record = BaseRecord::<(), _>::to(topic).payload(&value).partition(n % partitions);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(SOON).expect("delivered");
}

fn consumer(cluster: &Cluster, group: &str) -> BaseConsumer<Quiet> {
    ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap())
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", "10000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .create_with_context(Quiet)
        .expect("a consumer")
}

/// As a consumer that assigns partitions to itself.
fn commit(cluster: &Cluster, group: &str, topic: &str, offsets: &[i64]) {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(offsets) {
        list.add_partition_offset(topic, partition, Offset::Offset(*offset)).expect("an offset");
    }
    let client = consumer(cluster, group);
    wait_for("a commit", SOON, || client.commit(&list, CommitMode::Sync).ok());
}

fn cli(cluster: &Cluster, node: u16, arguments: &[&str]) -> Option<Value> {
    let finished = cluster.cli(node, &[arguments, &["-o", "json"]].concat());
    finished.ok().then(|| serde_json::from_str(&finished.stdout()).expect("JSON"))
}

fn committed(described: &Value, topic: &str) -> BTreeMap<i64, i64> {
    let rows = described["partitions"].as_array().expect("a list").iter();
    let rows = rows.filter(|row| row["topic"] == topic && !row["committed"].is_null());
    rows.map(|row| (row["partition"].as_i64().expect("a number"), row["committed"].as_i64().expect("a number")))
        .collect()
}

/// The samples of one metric, by their labels.
fn samples(cluster: &Cluster, metric: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for node in 1..=cluster.nodes {
        let Ok(mut stream) = TcpStream::connect(cluster.admin(node)) else { continue };
        let mut page = String::new();
        let asked = write!(stream, "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        if asked.is_err() || stream.read_to_string(&mut page).is_err() {
            continue;
        }
        for line in page.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')) {
            let (labels, value) = line.rsplit_once("} ").expect("a sample");
            found.insert(labels.to_string(), value.parse().expect("a number"));
        }
    }
    found
}

#[test]
fn a_group_is_seen_measured_reset_and_deleted() {
    let cluster = Cluster::start("offsets", 3, &["group.initial.rebalance.delay.ms=0", LAG_EVERY]);
    cluster.create_topic("t", 3, 3, &[]);
    cluster.create_topic("other", 1, 3, &[]);
    produce(&cluster, "t", 3, 90);
    produce(&cluster, "other", 1, 9);
    commit(&cluster, "shop", "other", &[4]);

    let member = consumer(&cluster, "shop");
    member.subscribe(&["t"]).expect("subscribed");
    let mut seen = 0;
    wait_for("all records are read", SOON, || {
        while member.poll(Duration::from_millis(50)).is_some_and(|record| record.is_ok()) {
            seen += 1;
        }
        (seen >= 90).then_some(())
    });
    wait_for("their offsets are committed", SOON, || member.commit_consumer_state(CommitMode::Sync).ok());

    // Any node answers for a group that another one coordinates.
    let described: Vec<Value> =
        (1..=3).map(|node| cli(&cluster, node, &["group", "describe", "shop"]).expect("described")).collect();
    for told in &described {
        assert_eq!((&told["state"], &told["type"]), (&json!("Stable"), &json!("classic")), "{told}");
        assert_eq!(told["members"][0]["assignment"], json!({"t": [0, 1, 2]}), "{told}");
        assert_eq!(committed(told, "t"), BTreeMap::from([(0, 30), (1, 30), (2, 30)]), "{told}");
        assert_eq!(told["lag"]["records"], 5, "of the other topic: {told}");
        assert_eq!(told["rebalances"][0]["reason"], "member_joined", "{told}");
    }
    let coordinator = described[0]["coordinator"].as_u64().expect("a number");

    produce(&cluster, "t", 3, 30);
    let lags = wait_for("the lag shows", SOON, || {
        let _polled = member.poll(Duration::ZERO);
        let totals = samples(&cluster, "highwater_group_total_lag_records");
        (totals.get("group=\"shop\"") == Some(&35.0)).then(|| samples(&cluster, "highwater_group_lag_records"))
    });
    assert_eq!(lags.get("group=\"shop\",topic=\"t\",partition=\"1\""), Some(&10.0), "{lags:?}");
    wait_for("the oldest record not consumed grows old", SOON, || {
        let ages = samples(&cluster, "highwater_group_lag_seconds");
        (*ages.get("group=\"shop\",topic=\"other\",partition=\"0\"")? >= 1.0).then_some(())
    });
    let listed = cli(&cluster, 1, &["group", "list", "--state", "stable"]).expect("listed");
    assert_eq!(listed["groups"][0]["name"], "shop", "{listed}");
    assert_eq!(listed["groups"][0]["lag"]["records"], 35, "{listed}");

    if have("python3", &["-c", "import kafka; assert int(kafka.__version__.split('.')[0]) >= 3"]) {
        let finished = python("python_group_admin.py", &[&cluster.bootstrap(), "shop", "t", "other"]);
        finished.assert_ok("python_group_admin.py");
        let told: Value = serde_json::from_str(finished.stdout().trim()).expect("JSON");
        assert_eq!((&told["stable"], &told["empty"]), (&json!(["shop"]), &json!([])), "{told}");
        assert_eq!((&told["classic"], &told["share"]), (&json!(["shop"]), &json!([])), "{told}");
        assert_eq!((&told["state"], &told["members"]), (&json!("Stable"), &json!(1)), "{told}");
        let of_t =
            [["t", "0"], ["t", "1"], ["t", "2"]].map(|[topic, p]| json!([topic, p.parse::<i32>().unwrap(), 30, ""]));
        assert_eq!(told["before"].as_array().map(Vec::len), Some(4), "{told}");
        assert_eq!(told["after"], json!(of_t), "{told}");
        let deleted =
            json!({"t-0": "GroupSubscribedToTopicError", "other-0": "NoError", "no-0": "UnknownTopicOrPartitionError"});
        assert_eq!((&told["deleted"], &told["unknown"]), (&deleted, &json!("GroupIdNotFoundError")), "{told}");
    }

    let refused = cluster.cli(2, &["group", "reset-offsets", "shop", "--topic", "t", "--to-earliest"]);
    assert!(
        !refused.ok() && refused.stderr().contains("has members; stop its consumers first"),
        "{}",
        refused.stderr()
    );
    let refused = cluster.cli(2, &["group", "delete", "shop"]);
    assert!(!refused.ok() && refused.stderr().contains("has members"), "{}", refused.stderr());

    // The coordinator dies: the next one loads what was committed.
    let dead = u16::try_from(coordinator).expect("a node");
    let left = if dead == 1 { 2 } else { 1 };
    cluster.kill(dead);
    let told = wait_for("a new coordinator tells", SOON, || {
        let _polled = member.poll(Duration::ZERO);
        cli(&cluster, left, &["group", "describe", "shop"])
    });
    assert_eq!(committed(&told, "t"), BTreeMap::from([(0, 30), (1, 30), (2, 30)]), "{told}");
    assert_ne!(told["coordinator"].as_u64(), Some(coordinator), "{told}");
    drop(member);
    wait_for("the member is gone", SOON, || {
        let told = cli(&cluster, left, &["group", "describe", "shop"])?;
        (told["state"] == "Empty").then_some(())
    });

    let back = ["group", "reset-offsets", "shop", "--topic", "t:0,2", "--shift-by", "-12"];
    let shown = wait_for("all leaders answer", SOON, || {
        let shown = cli(&cluster, left, &back)?;
        shown["offsets"].as_array()?.iter().all(|row| row["problem"].is_null()).then_some(shown)
    });
    assert_eq!((&shown["executed"], &shown["offsets"][0]["new"]), (&json!(false), &json!(18)), "{shown}");
    let told = cli(&cluster, left, &["group", "describe", "shop"]).expect("described");
    assert_eq!(committed(&told, "t")[&0], 30, "a dry run changes nothing: {told}");
    cluster.cli(left, &[&back[..], &["--execute"]].concat()).assert_ok("reset-offsets --execute");
    let told = cli(&cluster, left, &["group", "describe", "shop"]).expect("described");
    assert_eq!(committed(&told, "t"), BTreeMap::from([(0, 18), (1, 30), (2, 18)]), "{told}");

    let reset = |to: &[&str]| {
        let words = [&["group", "reset-offsets", "shop", "--topic", "t:1", "--execute"], to].concat();
        let told = cli(&cluster, left, &words).unwrap_or_else(|| panic!("{to:?} is refused"));
        told["offsets"][0]["new"].as_i64().expect("a number")
    };
    assert_eq!(reset(&["--to-earliest"]), 0);
    assert_eq!(reset(&["--to-latest"]), 40);
    assert_eq!(reset(&["--to-offset", "1000"]), 40, "the nearest there is");
    assert_eq!(reset(&["--by-duration", "1h"]), 0, "all are younger");
    assert_eq!(reset(&["--to-datetime", "2100-01-01T00:00:00Z"]), 40, "all are older");

    cluster.cli(left, &["group", "delete", "shop"]).assert_ok("group delete");
    let gone = cluster.cli(left, &["group", "describe", "shop"]);
    assert!(!gone.ok() && gone.stderr().contains("there is no consumer group 'shop'"), "{}", gone.stderr());
    wait_for("its lag is told no more", SOON, || {
        samples(&cluster, "highwater_group_total_lag_records").is_empty().then_some(())
    });
}

#[test]
fn offsets_that_nobody_uses_expire_with_their_group() {
    let sets = ["offsets.retention.minutes=1", "offsets.retention.check.interval.ms=500", LAG_EVERY];
    let cluster = Cluster::start("expiry", 1, &sets);
    cluster.create_topic("t", 1, 1, &[]);
    commit(&cluster, "passing", "t", &[0]);
    assert!(cli(&cluster, 1, &["group", "describe", "passing"]).is_some());
    wait_for("the offset is gone after its minute, and the group with it", Duration::from_secs(150), || {
        cli(&cluster, 1, &["group", "describe", "passing"]).is_none().then_some(())
    });
}
