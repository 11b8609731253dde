//! Clients that nobody here wrote: librdkafka, kafka-python and kcat, on three real processes.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::load::{assert_exactly_once, read_all};
use support::{Cluster, have, python, shell, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
}

#[test]
fn librdkafka_produces_with_every_codec_and_acks_and_keys_stay_on_their_partition() {
    let cluster = Cluster::start("rdkafka", 3, &["num.partitions=4"]);
    let mut expected = BTreeMap::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for acks in ["0", "1", "all"] {
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", cluster.bootstrap())
                .set("compression.codec", codec)
                .set("acks", acks)
                .set("partitioner", "murmur2_random")
                .create()
                .expect("a producer");
            for n in 0..40 {
                let (key, value) = (format!("key-{n}"), format!("{codec}-{acks}-{n}-{}", "x".repeat(200)));
                producer.send(BaseRecord::to("codecs").key(&key).payload(&value)).expect("queued");
                expected.insert(value, key);
            }
            producer.flush(SOON).expect("delivered");
        }
    }
    let records = wait_for("every record, acks=0 too", SOON, || {
        let records = read_all(&cluster.bootstrap(), "codecs", 4);
        (records.len() >= expected.len()).then_some(records)
    });
    assert_eq!(records.len(), expected.len());
    let mut partition_of = BTreeMap::new();
    for (partition, _, key, value) in records {
        let (key, value) = (String::from_utf8(key.expect("a key")).unwrap(), String::from_utf8(value).unwrap());
        assert_eq!(expected.get(&value), Some(&key));
        assert_eq!(*partition_of.entry(key).or_insert(partition), partition, "a key stays on one partition");
    }
    assert!(partition_of.values().collect::<BTreeSet<_>>().len() > 1, "keys spread over partitions");
}

#[test]
fn kcat_lists_produces_and_consumes_every_codec() {
    if !have("kcat", &["-V"]) {
        return;
    }
    let cluster = Cluster::start("kcat", 3, &[]);
    cluster.create_topic("k", 3, 3, &[]);
    let bootstrap = cluster.bootstrap();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        shell(
            "seq 1 500 | sed \"s/^/$3-/\" | kcat -P -b \"$1\" -t \"$2\" -z \"$3\" -X acks=all",
            &[&bootstrap, "k", codec],
        )
        .assert_ok(codec);
    }
    let consumed = shell("kcat -C -b \"$1\" -t k -o beginning -e -q", &[&bootstrap]);
    consumed.assert_ok("consume");
    let text = consumed.stdout();
    let lines: BTreeSet<&str> = text.lines().collect();
    assert_eq!((text.lines().count(), lines.len()), (2_500, 2_500));
    let listed = shell("kcat -L -b \"$1\"", &[&bootstrap]);
    listed.assert_ok("list");
    assert!(listed.stdout().contains("3 brokers") && listed.stdout().contains("topic \"k\" with 3 partitions"));
    let first = shell("kcat -Q -b \"$1\" -t k:0:-2 -t k:0:-1", &[&bootstrap]);
    first.assert_ok("offsets by time");
}

#[test]
fn kafka_python_shares_a_topic_in_a_group_and_rebalances() {
    if !have("python3", &["-c", "import kafka"]) {
        return;
    }
    let cluster = Cluster::start("python", 3, &["group.initial.rebalance.delay.ms=500"]);
    cluster.create_topic("g", 6, 3, &[]);
    let finished = python("python_group.py", &[&cluster.bootstrap(), "g", "3000"]);
    finished.assert_ok("python_group.py");
    let seen = json(&finished.stdout());
    assert_eq!(seen["acked"], 3000, "{seen}");
    assert_eq!(seen["missing"], serde_json::json!([]), "{seen}");
    assert_eq!(seen["keys_on_many_partitions"], serde_json::json!([]), "{seen}");
    assert_eq!(seen["conflicting_offsets"], false, "{seen}");
    assert_eq!(seen["alone"], serde_json::json!([0, 1, 2, 3, 4, 5]), "the one left owns all: {seen}");
    let shares: Vec<usize> = [0, 1].map(|m| seen["shared"][m.to_string()].as_array().map_or(0, Vec::len)).to_vec();
    assert_eq!(shares.iter().sum::<usize>(), 6, "the two shared the topic: {seen}");
}

#[test]
fn kafka_python_goes_on_while_a_node_is_killed() {
    if !have("python3", &["-c", "import kafka"]) {
        return;
    }
    let cluster = Cluster::start("python-kill", 3, &["group.initial.rebalance.delay.ms=500"]);
    cluster.create_topic("g", 6, 3, &[]);
    let ready = cluster.dir.join("ready");
    let finished = std::thread::scope(|scope| {
        let client =
            scope.spawn(|| python("python_group.py", &[&cluster.bootstrap(), "g", "3000", ready.to_str().unwrap()]));
        wait_for("a third of the records", Duration::from_secs(120), || {
            (ready.exists() || client.is_finished()).then_some(())
        });
        cluster.kill(2);
        client.join().expect("the client's thread")
    });
    finished.assert_ok("python_group.py");
    let seen = json(&finished.stdout());
    assert_eq!(seen["acked"], 3000, "{seen}");
    assert_eq!(seen["missing"], serde_json::json!([]), "{seen}");
}

#[test]
fn a_group_resumes_from_its_commits_also_after_all_nodes_restarted() {
    if !have("python3", &["-c", "import kafka"]) {
        return;
    }
    let cluster = Cluster::start("resume", 3, &["group.initial.rebalance.delay.ms=0"]);
    cluster.create_topic("r", 3, 3, &[]);
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap()).create().expect("a producer");
    for n in 0..400 {
        producer.send(BaseRecord::<(), _>::to("r").payload(&format!("{n}")).partition(n % 3)).expect("queued");
    }
    producer.flush(SOON).expect("delivered");
    let finished = python("python_resume.py", &[&cluster.bootstrap(), "r", "400"]);
    finished.assert_ok("python_resume.py");
    let seen = json(&finished.stdout());
    let (all, overlap) = (seen["all"].as_i64(), seen["overlap"].as_i64());
    assert_eq!((all, overlap), (Some(400), Some(0)), "{seen}\n{}", finished.stderr());

    for node in 1..=3 {
        cluster.kill(node);
    }
    for node in 1..=3 {
        cluster.start_node(node);
    }
    let consumer: BaseConsumer<_> = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap())
        .set("group.id", "r-resume")
        .create_with_context(QuietConsumer)
        .expect("a consumer");
    let mut asked = rdkafka::TopicPartitionList::new();
    for partition in 0..3 {
        asked.add_partition("r", partition);
    }
    let total = wait_for("committed offsets after the restart", SOON, || {
        let offsets = consumer.committed_offsets(asked.clone(), Duration::from_secs(5)).ok()?;
        offsets.elements().iter().map(|e| e.offset().to_raw()).sum::<Option<i64>>().filter(|sum| *sum > 0)
    });
    assert_eq!(total, 400);
}

struct QuietConsumer;
impl ClientContext for QuietConsumer {}
impl rdkafka::consumer::ConsumerContext for QuietConsumer {}

#[test]
fn librdkafka_consumers_share_rebalance_and_commit() {
    let cluster = Cluster::start("rdgroup", 3, &["group.initial.rebalance.delay.ms=0"]);
    cluster.create_topic("s", 4, 3, &[]);
    let mut load = support::load::Load::start(&cluster.bootstrap(), "s", 4);
    let consumer = || -> BaseConsumer<QuietConsumer> {
        let consumer: BaseConsumer<_> = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap())
            .set("group.id", "sharing")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "300")
            .create_with_context(QuietConsumer)
            .expect("a consumer");
        consumer.subscribe(&["s"]).expect("subscribed");
        consumer
    };
    let shares = |consumers: &[&BaseConsumer<QuietConsumer>]| -> Vec<BTreeSet<i32>> {
        consumers
            .iter()
            .map(|consumer| {
                for _ in 0..20 {
                    let _ = consumer.poll(Duration::from_millis(5));
                }
                let assignment = consumer.assignment().expect("an assignment");
                assignment.elements().iter().map(|e| e.partition()).collect()
            })
            .collect()
    };
    let first = consumer();
    wait_for("the first member owns all", SOON, || (shares(&[&first])[0].len() == 4).then_some(()));
    let second = consumer();
    wait_for("two members share", SOON, || {
        let found = shares(&[&first, &second]);
        (found[0].len() == 2 && found[1].len() == 2 && found[0].is_disjoint(&found[1])).then_some(())
    });
    drop(second);
    wait_for("the first owns all again", SOON, || (shares(&[&first])[0].len() == 4).then_some(()));
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "s", 4));
}
