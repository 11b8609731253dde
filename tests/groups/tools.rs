//! Kafka's own commands for groups and moves and its admin client for the quorum, from Kafka's jars, against our brokers.

use super::programs;
use super::support::{Cluster, Finished, wait_for};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const GROUP: &str = "shop";

fn tool(cluster: &Cluster, class: &str, arguments: &[&str]) -> Finished {
    let mut java = programs::java(class).expect("it was there");
    java.args(["--bootstrap-server", &cluster.bootstrap()]).args(arguments);
    let output = java.output().expect("java starts");
    Finished { command: format!("{class} {}", arguments.join(" ")), output }
}

fn command(cluster: &Cluster, arguments: &[&str]) -> Finished {
    let all = [&["--timeout", "60000"], arguments].concat();
    tool(cluster, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &all)
}

/// partition → (committed, end, lag), by the table that `--describe` prints.
fn described(finished: &Finished) -> BTreeMap<i32, (i64, i64, i64)> {
    finished.assert_ok("describe");
    let text = finished.stdout();
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.first() == Some(&GROUP) && row.get(1) == Some(&"sold"))
        .map(|row| {
            let number = |at: usize| row[at].parse::<i64>().unwrap_or_else(|_| panic!("{row:?}"));
            // Kafka 4.1 put the leader epoch between the partition and the offset.
            let shift = usize::from(text.contains("LEADER-EPOCH"));
            let partition = i32::try_from(number(2)).expect("a partition");
            (partition, (number(3 + shift), number(4 + shift), number(5 + shift)))
        })
        .collect()
}

#[test]
fn kafkas_command_for_groups_lists_describes_resets_and_deletes() {
    if programs::java("GroupMember").is_none() {
        return;
    }
    let cluster = Cluster::start("tools", 3, &["group.initial.rebalance.delay.ms=0"]);
    cluster.create_topic("sold", 3, 3, &[]);
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap()).create().expect("a producer");
    for n in 0..300 {
        producer.send(BaseRecord::<(), _>::to("sold").payload(&format!("{n}")).partition(n % 3)).expect("queued");
    }
    producer.flush(SOON).expect("delivered");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap())
        .set("group.id", GROUP)
        .set("client.id", "till")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    consumer.subscribe(&["sold"]).expect("subscribed");
    wait_for("the member owns all", SOON, || {
        let _ = consumer.poll(Duration::from_millis(50));
        (consumer.assignment().expect("an assignment").count() == 3).then_some(())
    });
    let mut offsets = TopicPartitionList::new();
    for partition in 0..3 {
        let offset = Offset::Offset(40 + i64::from(partition));
        offsets.add_partition_offset("sold", partition, offset).expect("an offset");
    }
    consumer.commit(&offsets, CommitMode::Sync).expect("committed");

    let listed = command(&cluster, &["--list"]);
    assert!(listed.assert_ok("list").stdout().lines().any(|line| line.trim() == GROUP), "{}", listed.stdout());
    let states = command(&cluster, &["--list", "--state"]);
    assert!(states.assert_ok("list --state").stdout().contains("Stable"), "{}", states.stdout());
    let while_used = command(&cluster, &["--describe", "--group", GROUP]);
    let expected: BTreeMap<i32, _> = (0..3).map(|p| (p, (40 + i64::from(p), 100, 60 - i64::from(p)))).collect();
    assert_eq!(described(&while_used), expected, "{}", while_used.stdout());
    assert!(while_used.stdout().contains("till"), "the member is named: {}", while_used.stdout());
    let members = command(&cluster, &["--describe", "--group", GROUP, "--members", "--verbose"]);
    assert!(members.assert_ok("members").stdout().contains("sold"), "{}", members.stdout());
    let refused = command(&cluster, &["--delete", "--group", GROUP]);
    assert!(!refused.ok() || refused.stdout().contains("not empty"), "{}{}", refused.stdout(), refused.stderr());

    drop(consumer);
    let reset = ["--reset-offsets", "--group", GROUP, "--all-topics"];
    let dry = command(&cluster, &[&reset[..], &["--to-earliest", "--dry-run"]].concat());
    dry.assert_ok("dry run");
    assert_eq!(described(&command(&cluster, &["--describe", "--group", GROUP])), expected, "a dry run changes nothing");
    command(&cluster, &[&reset[..], &["--to-offset", "7", "--execute"]].concat()).assert_ok("to an offset");
    let expected: BTreeMap<i32, _> = (0..3).map(|p| (p, (7, 100, 93))).collect();
    assert_eq!(described(&command(&cluster, &["--describe", "--group", GROUP])), expected);
    command(&cluster, &[&reset[..], &["--to-latest", "--execute"]].concat()).assert_ok("to the latest");
    let expected: BTreeMap<i32, _> = (0..3).map(|p| (p, (100, 100, 0))).collect();
    assert_eq!(described(&command(&cluster, &["--describe", "--group", GROUP])), expected);

    command(&cluster, &["--delete", "--group", GROUP]).assert_ok("delete");
    let listed = command(&cluster, &["--list"]);
    assert!(!listed.assert_ok("list").stdout().contains(GROUP), "{}", listed.stdout());
}

fn quorum(cluster: &Cluster, arguments: &[&str]) -> Finished {
    let mut java = programs::java("Quorum").expect("it was there");
    java.arg(cluster.bootstrap()).args(arguments);
    let output = java.output().expect("java starts");
    Finished { command: format!("Quorum {}", arguments.join(" ")), output }
}

/// (role, node, directory, lag) of each member.
fn members(finished: &Finished) -> Vec<(String, i32, String, i64)> {
    let text = finished.assert_ok("describe").stdout();
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| match row.as_slice() {
        [role, node, directory, lag] => {
            Some((role.to_string(), node.parse().ok()?, directory.to_string(), lag.parse().ok()?))
        }
        _ => None,
    })
    .collect()
}

#[test]
fn kafkas_admin_client_describes_the_quorum_and_changes_who_votes() {
    if programs::java("Quorum").is_none() {
        return;
    }
    let cluster = Cluster::start("kraft", 4, &[]);
    let described = wait_for("four members without lag", SOON, || {
        let found = members(&quorum(&cluster, &["describe"]));
        (found.len() == 4 && found.iter().all(|(.., lag)| *lag == 0)).then_some(found)
    });
    let voting = |members: &[(String, i32, String, i64)]| {
        members.iter().filter(|m| m.0 == "voter").map(|m| m.1).collect::<Vec<_>>()
    };
    assert_eq!(voting(&described), [1, 2, 3]);
    let folder = |node: i32| described.iter().find(|m| m.1 == node).expect("a member").2.clone();
    let cluster_port = (cluster.kafka_port(4) + 1).to_string();
    quorum(&cluster, &["add", "4", &folder(4), "127.0.0.1", &cluster_port]).assert_ok("added");
    assert_eq!(voting(&members(&quorum(&cluster, &["describe"]))), [1, 2, 3, 4]);
    quorum(&cluster, &["remove", "3", &folder(3)]).assert_ok("removed");
    assert_eq!(voting(&members(&quorum(&cluster, &["describe"]))), [1, 2, 4]);
    let again = quorum(&cluster, &["remove", "3", &folder(3)]);
    assert!(!again.ok() && again.stderr().contains("VoterNotFound"), "{}", again.stderr());
}

fn reassign(cluster: &Cluster, arguments: &[&str]) -> Finished {
    tool(cluster, "org.apache.kafka.tools.reassign.ReassignPartitionsCommand", arguments)
}

/// partition → bytes, as `kafka-log-dirs` tells of a topic's replicas on a broker.
fn sizes(cluster: &Cluster, topic: &str, broker: i64) -> BTreeMap<i64, i64> {
    let wanted = broker.to_string();
    let arguments = ["--describe", "--topic-list", topic, "--broker-list", &wanted];
    let told = tool(cluster, "org.apache.kafka.tools.LogDirsCommand", &arguments);
    let text = told.assert_ok("kafka-log-dirs").stdout();
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
    let told: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let folder = &told["brokers"][0]["logDirs"][0];
    assert_eq!((&told["brokers"][0]["broker"], &folder["error"]), (&broker.into(), &serde_json::Value::Null), "{told}");
    let name = |row: &serde_json::Value| row["partition"].as_str()?.strip_prefix(&format!("{topic}-"))?.parse().ok();
    let rows = folder["partitions"].as_array().unwrap_or_else(|| panic!("{told}"));
    rows.iter().map(|row| (name(row).expect("of the topic"), row["size"].as_i64().expect("bytes"))).collect()
}

#[test]
fn kafkas_command_moves_partitions_with_a_throttle_and_tells_how_far_they_are() {
    if programs::java("GroupMember").is_none() {
        return;
    }
    let cluster = Cluster::start("reassign", 4, &[]);
    cluster.create_topic("moved", 2, 3, &[]);
    cluster.cli(1, &["topic", "reassign", "moved", "--replicas", "1,2,3"]).assert_ok("all on the first three");
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap()).create().expect("a producer");
    let payload = [7u8; 1_000];
    for n in 0..10_000 {
        producer.send(BaseRecord::<(), _>::to("moved").payload(&payload).partition(n % 2)).expect("queued");
    }
    producer.flush(SOON).expect("delivered");
    wait_for("broker 4 has no replica of it", SOON, || sizes(&cluster, "moved", 4).is_empty().then_some(()));

    let folder = tempfile::tempdir().expect("a folder");
    let plan = folder.path().join("plan.json");
    let plan = plan.to_str().expect("a path");
    let row = |partition| format!(r#"{{"topic":"moved","partition":{partition},"replicas":[4,2,3]}}"#);
    std::fs::write(plan, format!(r#"{{"version":1,"partitions":[{},{}]}}"#, row(0), row(1))).expect("written");
    // 5 MB of each, at 100 kB a second.
    let begun = reassign(&cluster, &["--reassignment-json-file", plan, "--execute", "--throttle", "100000"]);
    let told = begun.assert_ok("execute").stdout();
    assert!(told.contains("Successfully started partition reassignments for moved-0,moved-1"), "{told}");
    let verify = || reassign(&cluster, &["--reassignment-json-file", plan, "--verify", "--preserve-throttles"]);
    let told = verify().assert_ok("verify").stdout();
    assert!(told.contains("Reassignment of partition moved-0 is still in progress."), "{told}");
    let told = reassign(&cluster, &["--list"]).assert_ok("list").stdout();
    assert!(told.contains("moved-1") && told.contains("adding: 4"), "{told}");

    // Twice, as a person would who has waited long enough: cancelled, and begun again without a bound.
    let told = reassign(&cluster, &["--reassignment-json-file", plan, "--cancel"]);
    let told = told.assert_ok("cancel").stdout();
    assert!(told.contains("Successfully cancelled partition reassignments for: moved-0,moved-1"), "{told}");
    reassign(&cluster, &["--reassignment-json-file", plan, "--execute"]).assert_ok("execute");
    wait_for("both are moved", SOON, || {
        let told = verify().assert_ok("verify").stdout();
        told.contains("Reassignment of partition moved-0 is completed.").then_some(())?;
        told.contains("Reassignment of partition moved-1 is completed.").then_some(())
    });
    let arrived = sizes(&cluster, "moved", 4);
    assert!(arrived.len() == 2 && arrived.values().all(|bytes| *bytes > 5_000_000), "{arrived:?}");
    let told = reassign(&cluster, &["--reassignment-json-file", plan, "--verify"]).assert_ok("verify").stdout();
    assert!(told.contains("Clearing broker-level throttles"), "{told}");
    wait_for("broker 1 gave its replicas up", SOON, || sizes(&cluster, "moved", 1).is_empty().then_some(()));
}
