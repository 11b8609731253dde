//! Disks that fail or are full under real nodes.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use powercut::Fault;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use support::load::{Load, assert_exactly_once, read_all};
use support::powered::{Powered, Under};
use support::{have, wait_for};

const SOON: Duration = Duration::from_secs(90);

fn leader(powered: &Powered) -> u16 {
    wait_for("a leader", SOON, || u16::try_from(powered.partitions("t")?.first()?.0).ok().filter(|id| *id > 0))
}

/// Replication's rule 19 from end to end: `below` of the leader's disk can sync nothing any more.
fn a_leader_whose_disk_fails(name: &str, below: &str) {
    let mut powered = Powered::new(name, 3);
    powered.start_all(Under::Shim);
    powered.create_topic("t", 3);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 3);
    load.wait_acked(300, SOON);
    let victim = leader(&powered);
    powered.set_faults(victim, &[Fault::Sync { below: powered.data(victim).join(below) }]);
    assert!(!powered.wait_end(victim).success(), "a node without a disk ends, and not as if all were well");
    load.wait_acked(300, SOON);
    wait_for("the others lead", SOON, || {
        let found = powered.partitions("t")?;
        found.iter().all(|(id, _)| *id > 0 && *id != i32::from(victim)).then_some(())
    });
    let (loss, metadata) =
        (powered.data(victim).join("partitions/.lossy"), powered.data(victim).join("metadata/lossy"));
    assert!(loss.exists() || metadata.exists(), "the next registration must report the loss");
    powered.set_faults(victim, &[]);
    if metadata.exists() {
        // What failed first is a matter of chance, where nothing can be synced.
        assert!(below.is_empty(), "the metadata's disk is well");
        refused_then_replaced(&mut powered, victim);
    } else {
        powered.start(victim, Under::Shim);
    }
    powered.wait_in_sync("t");
    assert!(!loss.exists(), "it was reported, and the replica is in sync again");
    load.wait_acked(300, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&powered.cluster.bootstrap(), "t", 3));
}

#[test]
fn nodes_go_on_where_no_line_of_their_logs_can_be_written() {
    let mut powered = Powered::new("full-log", 3);
    powered.start_all(Under::FullLog);
    powered.create_topic("t", 3);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 3);
    load.wait_acked(300, SOON);
    powered.kill(2);
    load.wait_acked(300, SOON);
    powered.start(2, Under::FullLog);
    powered.wait_in_sync("t");
    assert!((1..=3).all(|node| powered.is_running(node)));
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&powered.cluster.bootstrap(), "t", 3));
}

#[test]
fn a_leader_that_cannot_sync_its_logs_ends_and_comes_back() {
    a_leader_whose_disk_fails("eio-logs", "partitions");
}

#[test]
fn a_leader_that_cannot_sync_anything_ends_and_comes_back() {
    a_leader_whose_disk_fails("eio-all", "");
}

/// With which folder `node` votes, as `asked` knows.
fn voter(powered: &Powered, asked: u16, node: u16) -> Option<String> {
    let told = powered.cluster.cli(asked, &["quorum", "describe", "-o", "json"]).stdout();
    let told: serde_json::Value = serde_json::from_str(&told).ok()?;
    let mut members = told["members"].as_array()?.iter();
    let found = members.find(|member| member["voter"] == true && member["node"] == node)?;
    Some(found["directory_id"].as_str()?.to_string())
}

/// A node whose metadata may be lost does not vote with it again: it says so, and does what its message tells.
fn refused_then_replaced(powered: &mut Powered, victim: u16) {
    powered.start(victim, Under::Shim);
    assert!(!powered.wait_end(victim).success(), "it does not serve");
    let command = format!("highwater quorum replace {victim}");
    assert!(powered.log(victim).contains(&command), "the message names the command");
    powercut::forget(&powered.journal(victim)).expect("forgotten");
    std::fs::rename(powered.data(victim), powered.data(victim).with_extension("lost")).expect("moved aside");
    let other = (1..=3).find(|node| *node != victim).expect("three nodes");
    let before = voter(powered, other, victim).expect("it voted");
    powered.start(victim, Under::Shim);
    let id = victim.to_string();
    wait_for("the vote is passed on", SOON, || {
        // It passes by itself, too.
        let _ = powered.cluster.cli(other, &["quorum", "replace", &id]);
        voter(powered, other, victim).is_some_and(|directory| directory != before).then_some(())
    });
}

#[test]
fn a_voter_that_cannot_sync_its_metadata_is_replaced() {
    a_voter_whose_metadata_fails("eio-metadata", |below| Fault::Sync { below });
}

#[test]
fn a_voter_that_cannot_write_its_metadata_is_replaced() {
    a_voter_whose_metadata_fails("eio-metadata-writes", |below| Fault::Write { below });
}

fn a_voter_whose_metadata_fails(name: &str, fault: fn(std::path::PathBuf) -> Fault) {
    let mut powered = Powered::new(name, 3);
    powered.start_all(Under::Shim);
    powered.create_topic("t", 3);
    let victim = leader(&powered);
    powered.set_faults(victim, &[fault(powered.data(victim).join("metadata"))]);
    let other = (1..=3).find(|node| *node != victim).expect("three nodes");
    // Metadata to write down.
    let created =
        powered.cluster.cli(other, &["topic", "create", "u", "--partitions", "1", "--replication-factor", "3"]);
    assert!(created.ok() || !powered.wait_end(victim).success(), "{}", created.stderr());
    if created.ok() {
        assert!(!powered.wait_end(victim).success(), "a voter without a disk ends, and not as if all were well");
    }
    powered.set_faults(victim, &[]);
    refused_then_replaced(&mut powered, victim);
    powered.wait_in_sync("t");
}

/// Invariant 8: a full disk refuses produce and keeps serving reads; with room again all goes on.
#[test]
fn a_full_disk_refuses_produce_and_serves_reads() {
    let mut powered = Powered::new("full", 1);
    powered.start_all(Under::Shim);
    powered.create_topic("t", 1);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 1);
    load.wait_acked(300, SOON);
    let logs = powered.data(1).join("partitions");
    powered.set_faults(1, &[Fault::Full { below: logs, bytes: 0 }]);
    let (mut before, mut since) = (0, Instant::now());
    wait_for("nothing is acknowledged any more", SOON, || {
        let now = load.acks.count();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    assert!(read_all(&powered.cluster.bootstrap(), "t", 1).len() >= before, "reads go on");
    powered.set_faults(1, &[]);
    load.wait_acked(300, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&powered.cluster.bootstrap(), "t", 1));
}

const SMALL_DISK_MIB: u32 = 128;
/// A sixteenth of it.
const RESERVE_BYTES: u64 = 8 << 20;

/// Takes all room to the last byte.
fn fill(ballast: &Path) {
    let mut file = File::options().create(true).append(true).open(ballast).expect("a file");
    for piece in [1 << 20, 4 << 10, 1] {
        while file.write_all(&vec![0; piece]).is_ok() {}
    }
}

fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.ms", "20")
        .create()
        .expect("a client")
}

/// Creates topics with these names and a config of their own, gives them more partitions, and deletes them.
async fn change_metadata(admin: &AdminClient<DefaultClientContext>, names: &[String], replicas: i32) {
    let options = AdminOptions::new().request_timeout(Some(SOON)).operation_timeout(Some(SOON));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(replicas)).set("retention.ms", "86400000"))
        .collect();
    for created in admin.create_topics(&topics, &options).await.expect("answered") {
        created.expect("created");
    }
    let grown: Vec<NewPartitions<'_>> = names.iter().map(|name| NewPartitions::new(name, 2)).collect();
    for grown in admin.create_partitions(&grown, &options).await.expect("answered") {
        grown.expect("grown");
    }
    for deleted in admin.delete_topics(&names, &options).await.expect("answered") {
        deleted.expect("deleted");
    }
}

/// What a client is told who writes to one partition and waits a while.
fn produce(bootstrap: &str, topic: &str, partition: i32) -> Result<(), String> {
    let told = std::sync::Arc::new(std::sync::Mutex::new(None));
    #[derive(Clone)]
    struct Context(std::sync::Arc<std::sync::Mutex<Option<Result<(), String>>>>);
    impl rdkafka::ClientContext for Context {}
    impl rdkafka::producer::ProducerContext for Context {
        type DeliveryOpaque = ();
        fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
            *self.0.lock().unwrap() = Some(result.as_ref().map(drop).map_err(|(error, _)| error.to_string()));
        }
    }
    let producer: BaseProducer<Context> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .set("message.timeout.ms", "5000")
        .create_with_context(Context(told.clone()))
        .expect("a producer");
    producer.send(BaseRecord::<(), _>::to(topic).payload("more").partition(partition)).expect("queued");
    producer.flush(SOON).expect("flushed");
    told.lock().unwrap().take().expect("delivered or not")
}

/// Invariant 8 where nothing at all is left: the metadata store lives on its reserve. The node stays, votes, serves reads
/// and deletes; with room again it takes produce, and the reserve is whole.
#[test]
fn a_node_outlives_a_disk_that_is_full_to_the_last_byte() {
    if !have("unshare", &["-rm", "true"]) {
        return;
    }
    let full = 2;
    let mut powered = Powered::new("last-byte", 3);
    powered.start(1, Under::Nothing);
    powered.start(3, Under::Nothing);
    powered.start_on_small_disk(full, SMALL_DISK_MIB);
    powered.create_topic("t", 6);
    powered.create_topic("u", 3);
    let bootstrap = powered.cluster.bootstrap();
    let mut load = Load::start(&bootstrap, "t", 6);
    load.wait_acked(300, SOON);
    load.finish();
    let led = powered.partitions("t").expect("metadata").iter().position(|(leader, _)| *leader == i32::from(full));
    let led = i32::try_from(led.expect("it leads some")).unwrap();
    let disk = powered.own_disk(full);
    let reserve = disk.join("metadata/reserve");
    let reserved = || std::fs::metadata(&reserve).map_or(0, |found| found.len());
    wait_for("the reserve is whole", SOON, || (reserved() == RESERVE_BYTES).then_some(()));

    let ballast = disk.join("ballast");
    fill(&ballast);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = admin(&bootstrap);
    for round in 0..10 {
        let names: Vec<String> = (0..20).map(|i| format!("passing-{round}-{i}")).collect();
        runtime.block_on(change_metadata(&client, &names, 3));
    }
    assert!(powered.is_running(full), "it stays");
    assert!(reserved() < RESERVE_BYTES, "it lives on the reserve");
    assert!(produce(&bootstrap, "t", led).is_err(), "produce is refused");
    assert_exactly_once(&load.acks, &read_all(&bootstrap, "t", 6));
    wait_for("deleted topics leave the full disk", SOON, || {
        let mut folders = std::fs::read_dir(disk.join("partitions")).expect("a folder");
        (!folders.any(|found| found.unwrap().file_name().to_string_lossy().starts_with("passing"))).then_some(())
    });

    // Without its vote and its acks nothing is elected or committed now.
    let other = wait_for("a controller", SOON, || {
        let told = powered.cluster.cli(1, &["cluster", "status", "-o", "json"]).stdout();
        let status: serde_json::Value = serde_json::from_str(&told).ok()?;
        u16::try_from(status.get("controller_id")?.as_i64()?).ok()
    });
    let victim = if other == full { 1 } else { other };
    powered.kill(victim);
    let create = ["topic", "create", "voted", "--partitions", "1", "--replication-factor", "1"];
    wait_for("two of three elect and commit", SOON, || powered.cluster.cli(full, &create).ok().then_some(()));
    let names: Vec<String> = (0..20).map(|i| format!("two-of-three-{i}")).collect();
    runtime.block_on(change_metadata(&client, &names, 1));
    assert!(powered.is_running(full), "it votes");

    powered.start(victim, Under::Nothing);
    std::fs::remove_file(&ballast).expect("removed");
    wait_for("the reserve is whole again", SOON, || (reserved() == RESERVE_BYTES).then_some(()));
    powered.wait_in_sync("t");
    powered.wait_in_sync("u");
    wait_for("produce is taken again", SOON, || produce(&bootstrap, "t", led).ok());
    let mut load = Load::start(&bootstrap, "u", 3);
    load.wait_acked(300, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&bootstrap, "u", 3));
    assert!(powered.is_running(full));
}
