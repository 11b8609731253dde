//! Racks on real processes: replicas are spread over them, and consumers read from the replica in their own (KIP-392).
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::message::Message;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::load::{Load, assert_exactly_once, read_all};
use support::{Cluster, wait_for};

const SOON: Duration = Duration::from_secs(60);
const SELECTOR: &str = "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// Four nodes in two racks: 1 and 3 in a, 2 and 4 in b.
fn rack(node: i32) -> &'static str {
    if node % 2 == 1 { "a" } else { "b" }
}

/// (leader, replicas, ISR size) by partition.
fn partitions(cluster: &Cluster, topic: &str) -> Option<Vec<(i32, Vec<i32>, usize)>> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap()).set("log_level", "0").create().ok()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
    let topic = metadata.topics().first()?;
    Some(topic.partitions().iter().map(|p| (p.leader(), p.replicas().to_vec(), p.isr().len())).collect())
}

/// The broker that partition 0 of "t" is fetched from, by librdkafka's statistics.
#[derive(Clone, Default)]
struct FetchedFrom(Arc<Mutex<Option<i32>>>);

impl ClientContext for FetchedFrom {
    fn stats(&self, statistics: Statistics) {
        let partition = statistics.topics.get("t").and_then(|topic| topic.partitions.get(&0));
        *self.0.lock().unwrap() = partition.map(|partition| partition.broker);
    }
}

impl ConsumerContext for FetchedFrom {}

#[test]
fn replicas_are_spread_over_racks_and_consumers_read_in_their_own() {
    let cluster = Cluster::start_in("racks", 4, &[SELECTOR, "min.insync.replicas=1"], &["a", "b"]);
    cluster.create_topic("spread", 16, 2, &[]);
    cluster.create_topic("t", 1, 2, &[]);
    for (_, replicas, _) in partitions(&cluster, "spread").expect("metadata") {
        assert_ne!(rack(replicas[0]), rack(replicas[1]), "both replicas {replicas:?} are in one rack");
    }
    let (leader, replicas, _) = wait_for("both replicas are in sync", SOON, || {
        partitions(&cluster, "t")?.pop().filter(|(leader, _, isr)| *leader > 0 && *isr == 2)
    });
    let follower = *replicas.iter().find(|id| **id != leader).unwrap();

    let mut load = Load::start(&cluster.bootstrap(), "t", 1);
    load.wait_acked(500, SOON);
    let consume = |rack: &str| {
        let from = FetchedFrom::default();
        let consumer: BaseConsumer<FetchedFrom> = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap())
            .set("client.rack", rack)
            .set("group.id", "g")
            .set("enable.auto.commit", "false")
            .set("statistics.interval.ms", "100")
            .set("reconnect.backoff.ms", "20")
            .set("log_level", "0")
            .create_with_context(from.clone())
            .expect("a consumer");
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset("t", 0, Offset::Beginning).unwrap();
        consumer.assign(&assignment).expect("assigned");
        (consumer, from)
    };
    // Offsets come one after the other, whichever replica they come from.
    let next = |consumer: &BaseConsumer<FetchedFrom>, expected: &mut i64| {
        while let Some(Ok(message)) = consumer.poll(Duration::from_millis(10)) {
            assert_eq!(message.offset(), *expected, "a record is missing or came twice");
            *expected += 1;
            if *expected % 100 == 0 {
                return;
            }
        }
    };
    let read_until_from = |consumer: &_, from: &FetchedFrom, expected: &mut i64, broker: i32, count: i64| {
        let until = *expected + count;
        wait_for(&format!("{count} records, and the last of them from node {broker}"), SOON, || {
            next(consumer, expected);
            (*expected >= until && *from.0.lock().unwrap() == Some(broker)).then_some(())
        });
    };
    let (near, near_from) = consume(rack(follower));
    let mut near_offset = 0;
    read_until_from(&near, &near_from, &mut near_offset, follower, 500);
    // It keeps up with what is written: the follower learns of commits as they happen.
    load.wait_acked(500, SOON);
    read_until_from(&near, &near_from, &mut near_offset, follower, 300);
    let (home, home_from) = consume(rack(leader));
    let mut home_offset = 0;
    read_until_from(&home, &home_from, &mut home_offset, leader, 500);
    let (nowhere, nowhere_from) = consume("z");
    let mut nowhere_offset = 0;
    read_until_from(&nowhere, &nowhere_from, &mut nowhere_offset, leader, 100);
    drop((home, nowhere));

    // The follower dies: its consumers go on at the leader. (librdkafka follows another hint only a minute later.)
    cluster.kill(u16::try_from(follower).unwrap());
    read_until_from(&near, &near_from, &mut near_offset, leader, 300);
    drop(near);
    cluster.start_node(u16::try_from(follower).unwrap());
    wait_for("the follower is in sync again", SOON, || {
        partitions(&cluster, "t")?.pop().filter(|(_, _, isr)| *isr == 2).map(drop)
    });
    let (again, again_from) = consume(rack(follower));
    let mut again_offset = 0;
    read_until_from(&again, &again_from, &mut again_offset, follower, 300);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", 1));
}
