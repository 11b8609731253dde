//! Replicas move, brokers are drained and removed, all of it under load and with a kill -9 in the middle: every acked
//! record is read back exactly once.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::load::{Load, assert_exactly_once, read_all};
use support::{Cluster, HIGHWATER, have, python, wait_for};

const PARTITIONS: i32 = 4;
const BIG: i32 = 20_000;
const SOON: Duration = Duration::from_secs(90);

fn json(cluster: &Cluster, arguments: &[&str]) -> Option<Value> {
    let mut all = arguments.to_vec();
    all.extend(["-o", "json"]);
    serde_json::from_str(&cluster.cli(1, &all).stdout()).ok()
}

fn numbers(value: &Value) -> Vec<i64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_i64).collect()
}

/// Replicas and ISR of a partition, and its leader.
type Described = (Vec<i64>, Vec<i64>, i64);

fn partitions(cluster: &Cluster, topic: &str) -> Option<Vec<Described>> {
    let described = json(cluster, &["topic", "describe", topic])?;
    let rows = described["partitions"].as_array()?;
    Some(
        rows.iter()
            .map(|p| (numbers(&p["replicas"]), numbers(&p["isr"]), p["leader"].as_i64().unwrap_or(-1)))
            .collect(),
    )
}

fn wait_in_sync(cluster: &Cluster, topic: &str) {
    wait_for("every replica in sync", SOON, || {
        let found = partitions(cluster, topic)?;
        found.iter().all(|(replicas, isr, _)| replicas.len() == isr.len()).then_some(())
    });
}

fn broker(cluster: &Cluster, id: i64) -> Option<Value> {
    let brokers = json(cluster, &["broker", "list"])?;
    brokers["brokers"].as_array()?.iter().find(|b| b["id"] == id).cloned()
}

fn moving(cluster: &Cluster, topic: &str) -> Option<usize> {
    Some(json(cluster, &["topic", "reassign", topic, "--status"])?["reassignments"].as_array()?.len())
}

/// Folders of partitions on a node's disk.
fn folders(data: PathBuf, topic_id: &str) -> usize {
    fn count(dir: PathBuf, topic_id: &str) -> usize {
        let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
        let of = |entry: std::fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_partition = name.contains(topic_id) && !name.contains("deleted");
            usize::from(is_partition) + if entry.path().is_dir() { count(entry.path(), topic_id) } else { 0 }
        };
        entries.flatten().map(of).sum()
    }
    count(data, topic_id)
}

/// 20,000 records of 1,000 bytes: enough that a bounded copy takes a while.
fn fill(cluster: &Cluster, topic: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap())
        .set("enable.idempotence", "true")
        .create()
        .expect("a producer");
    let value = "x".repeat(1_000);
    for number in 0..BIG {
        let mut record = BaseRecord::<(), _>::to(topic).payload(&value).partition(number % PARTITIONS);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(SOON).expect("all acked");
}

#[test]
fn replicas_move_under_load_with_the_target_killed_and_then_a_broker_is_removed() {
    let cluster = Cluster::start("moves", 4, &["follower.replication.throttled.rate=2000000"]);
    cluster.cli(1, &["topic", "create", "t", "--partitions", "4", "--replication-factor", "3"]).assert_ok("create");
    cluster.cli(1, &["topic", "reassign", "t", "--replicas", "1,2,3"]).assert_ok("all on the first three");
    wait_in_sync(&cluster, "t");
    cluster.cli(1, &["topic", "create", "big", "--partitions", "4", "--replication-factor", "3"]).assert_ok("create");
    cluster.cli(1, &["topic", "reassign", "big", "--replicas", "1,2,3"]).assert_ok("all on the first three");
    fill(&cluster, "big");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(2_000, SOON);

    // Onto 4, which is killed in the middle.
    let began = Instant::now();
    cluster.cli(1, &["topic", "reassign", "big", "--replicas", "2,3,4", "--no-wait"]).assert_ok("reassign");
    cluster.cli(1, &["topic", "reassign", "t", "--replicas", "2,3,4", "--no-wait"]).assert_ok("reassign");
    cluster.kill(4);
    load.wait_acked(500, SOON);
    assert_eq!(moving(&cluster, "big"), Some(4), "a dead target holds the move up, and nothing else");
    cluster.start_node(4);
    let followed = cluster.cli(1, &["topic", "reassign", "big", "--partition", "0", "--replicas", "2,3,4"]);
    assert!(followed.assert_ok("the same again").stdout().contains("bytes"), "{}", followed.stdout());
    wait_for("the moves complete", SOON, || (moving(&cluster, "t")? + moving(&cluster, "big")? == 0).then_some(()));
    // 20 MB at 2 MB a second, less what a second's savings and one large answer let through.
    assert!(began.elapsed() > Duration::from_secs(5), "the bound was not kept: {:?}", began.elapsed());
    wait_in_sync(&cluster, "t");
    for (replicas, _, leader) in partitions(&cluster, "t").expect("described") {
        let mut sorted = replicas.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [2, 3, 4]);
        assert!(replicas.contains(&leader));
    }
    load.wait_acked(500, SOON);
    let topic_id =
        json(&cluster, &["topic", "describe", "t"]).expect("described")["id"].as_str().unwrap().replace('-', "");
    wait_for("what left broker 1 leaves its disk", SOON, || {
        (folders(cluster.node_dir(1).join("data"), &topic_id) == 0).then_some(())
    });
    assert!(folders(cluster.node_dir(4).join("data"), &topic_id) > 0, "the folders are found by this name");

    // Back, and cancelled on the way.
    cluster
        .cli(1, &["topic", "reassign", "t", "--partition", "0", "--replicas", "1,3,4", "--no-wait"])
        .assert_ok("again");
    let _ = cluster.cli(1, &["topic", "reassign", "t", "--cancel"]);
    wait_for("nothing moves", SOON, || (moving(&cluster, "t")? == 0).then_some(()));

    // Drained: it leads nothing, and keeps up.
    cluster.cli(1, &["broker", "drain", "2"]).assert_ok("drain");
    wait_for("broker 2 leads nothing", SOON, || (broker(&cluster, 2)?["leaders"] == 0).then_some(()));
    load.wait_acked(500, SOON);
    cluster.kill(2);
    load.wait_acked(500, SOON);
    cluster.start_node(2);
    wait_for("it is drained still", SOON, || {
        let state = broker(&cluster, 2)?;
        (state["liveness"] == "alive" && state["draining"] == true).then_some(())
    });
    cluster.cli(1, &["broker", "undrain", "2"]).assert_ok("undrain");

    // Killed, and taken out of the cluster: the others hold everything.
    cluster.kill(4);
    wait_for("it is fenced", SOON, || (broker(&cluster, 4)?["liveness"] == "fenced").then_some(()));
    let removed = cluster.cli(1, &["broker", "remove", "4"]);
    removed.assert_ok("remove");
    assert!(removed.stdout().contains("partitions left"), "progress is told: {}", removed.stdout());
    assert!(broker(&cluster, 4).is_none(), "forgotten");
    wait_in_sync(&cluster, "t");
    load.wait_acked(500, SOON);

    // Nobody could take its replicas.
    let refused = cluster.cli(1, &["broker", "remove", "3"]);
    assert!(!refused.ok() && refused.stderr().contains("t (3 replicas)"), "{}", refused.stderr());
    assert_eq!(broker(&cluster, 3).expect("listed")["draining"], false);

    // Back as a new broker with an empty replica of nothing; then a live one goes.
    cluster.start_node(4);
    wait_for("it is back", SOON, || (broker(&cluster, 4)?["liveness"] == "alive").then_some(()));
    let (admin, mut removing) = (cluster.admin(1), Command::new(HIGHWATER));
    removing
        .args(["broker", "remove", "3", "--admin", &admin])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut removing = Served(removing.spawn().expect("the command starts"));
    let said = Arc::new(Mutex::new(String::new()));
    let reader = std::thread::spawn({
        let (said, stderr) = (said.clone(), removing.0.stderr.take().expect("piped"));
        move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                said.lock().unwrap().push_str(&line);
            }
        }
    });
    wait_for("broker 3 holds nothing", SOON, || (broker(&cluster, 3)?["replicas"] == 0).then_some(()));
    assert_eq!(broker(&cluster, 3).expect("alive, and still known")["liveness"], "alive");
    wait_for("a word of what to do", SOON, || {
        said.lock().unwrap().contains("its process still runs: stop it now").then_some(())
    });
    cluster.kill(3);
    wait_for("it is forgotten", SOON, || broker(&cluster, 3).is_none().then_some(()));
    assert!(removing.0.wait().expect("it ends").success());
    reader.join().expect("stderr is read");
    load.wait_acked(500, SOON);
    wait_in_sync(&cluster, "t");

    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
    assert_eq!(read_all(&cluster.bootstrap(), "big", PARTITIONS).len(), usize::try_from(BIG).unwrap());
}

fn replica_sets(cluster: &Cluster, topics: &[&str]) -> Vec<Vec<i64>> {
    let of = |topic: &&str| partitions(cluster, topic).expect("described").into_iter().map(|(replicas, ..)| replicas);
    topics.iter().flat_map(of).collect()
}

#[test]
fn what_is_cancelled_goes_back_and_what_is_forced_is_made_good_while_a_producer_writes() {
    let cluster = Cluster::start("cancel", 4, &["follower.replication.throttled.rate=1000000"]);
    let topics = ["t", "big"];
    for topic in topics {
        cluster.create_topic(topic, PARTITIONS, 3, &[]);
        cluster.cli(1, &["topic", "reassign", topic, "--replicas", "1,2,3"]).assert_ok("all on the first three");
        wait_in_sync(&cluster, topic);
    }
    fill(&cluster, "big");
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(1_000, SOON);
    let before = replica_sets(&cluster, &topics);
    // Nothing is an added replica any more, so nothing is throttled.
    let is_as_before = || {
        wait_for("nothing moves", SOON, || {
            let still = |id| broker(&cluster, id).is_some_and(|b| b["arriving"] == 0 && b["leaving"] == 0);
            ((1..=4).all(still) && moving(&cluster, "t")? + moving(&cluster, "big")? == 0).then_some(())
        });
        assert_eq!(replica_sets(&cluster, &topics), before);
        topics.iter().for_each(|topic| wait_in_sync(&cluster, topic));
    };

    // A move of 20 MB at 1 MB a second.
    cluster.cli(1, &["topic", "reassign", "big", "--replicas", "4,1,2", "--no-wait"]).assert_ok("reassign");
    assert_eq!(moving(&cluster, "big"), Some(4));
    load.wait_acked(300, SOON);
    cluster.cli(1, &["topic", "reassign", "big", "--cancel"]).assert_ok("cancel");
    is_as_before();

    let (admin, mut removing) = (cluster.admin(1), Command::new(HIGHWATER));
    removing.args(["broker", "remove", "3", "--admin", &admin]).stdin(Stdio::null()).stdout(Stdio::null());
    let watching = Served(removing.spawn().expect("the command starts"));
    wait_for("broker 3 is on its way out", SOON, || {
        let leaving = broker(&cluster, 3)?["leaving"].as_i64()?;
        (leaving > 0 && moving(&cluster, "big")? > 0).then_some(())
    });
    load.wait_acked(300, SOON);
    drop(watching);
    let cancelled = cluster.cli(1, &["broker", "remove", "3", "--cancel"]);
    assert!(cancelled.assert_ok("cancel").stdout().contains("cancelled"), "{}", cancelled.stdout());
    // What was moved before the cancellation is moved: the small topic's replicas may have been quick enough.
    for (replicas, was) in replica_sets(&cluster, &["big"]).iter().zip(&before[PARTITIONS as usize..]) {
        assert_eq!(replicas, was);
    }
    assert_eq!(broker(&cluster, 3).expect("listed")["draining"], false);
    cluster.cli(1, &["topic", "reassign", "t", "--replicas", "1,2,3"]).assert_ok("all where it was");
    is_as_before();
    load.wait_acked(300, SOON);

    // Dead, and forgotten before its copies are made good.
    cluster.kill(3);
    wait_for("it is fenced", SOON, || (broker(&cluster, 3)?["liveness"] == "fenced").then_some(()));
    cluster.cli(1, &["broker", "remove", "3", "--force"]).assert_ok("remove --force");
    assert!(broker(&cluster, 3).is_none(), "forgotten");
    assert!(moving(&cluster, "big").expect("listed") > 0, "20 MB are not copied in a moment");
    load.wait_acked(300, SOON);
    wait_for("the copies are made good", SOON, || {
        (moving(&cluster, "big")? + moving(&cluster, "t")? == 0).then_some(())
    });
    topics.iter().for_each(|topic| wait_in_sync(&cluster, topic));
    assert!(replica_sets(&cluster, &topics).iter().all(|replicas| replicas.len() == 3 && !replicas.contains(&3)));
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
    assert_eq!(read_all(&cluster.bootstrap(), "big", PARTITIONS).len(), usize::try_from(BIG).unwrap());
}

/// What kafka-python's admin client was answered.
fn ask(cluster: &Cluster, arguments: &[&str]) -> Value {
    let bootstrap = cluster.bootstrap();
    let mut all = vec![bootstrap.as_str()];
    all.extend(arguments);
    let finished = python("python_moves.py", &all);
    serde_json::from_str(&finished.assert_ok("python_moves.py").stdout()).expect("JSON")
}

#[test]
fn a_clients_moves_and_elections_have_kafkas_codes_and_the_last_resort_is_asked_for() {
    if !have("python3", &["-c", "import kafka"]) {
        return;
    }
    let cluster = Cluster::start("elections", 4, &["min.insync.replicas=1"]);
    cluster.cli(1, &["topic", "create", "u", "--partitions", "1", "--replication-factor", "2"]).assert_ok("create");
    assert_eq!(ask(&cluster, &["alter", "u", "0", "9,1"]), serde_json::json!([39]), "INVALID_REPLICA_ASSIGNMENT");
    assert_eq!(ask(&cluster, &["alter", "u", "0", "-"]), serde_json::json!([85]), "NO_REASSIGNMENT_IN_PROGRESS");
    assert_eq!(ask(&cluster, &["alter", "missing", "0", "1"]), serde_json::json!([3]));
    assert_eq!(ask(&cluster, &["alter", "u", "0", "3,4"]), serde_json::json!([0]));
    wait_for("the move completes", SOON, || (ask(&cluster, &["list"]) == serde_json::json!({})).then_some(()));
    wait_in_sync(&cluster, "u");
    let elected = ask(&cluster, &["elect", "0", "u", "0"]);
    assert!(elected == serde_json::json!([0]) || elected == serde_json::json!([84]), "{elected}");
    wait_for("3 leads", SOON, || (partitions(&cluster, "u")?[0].2 == 3).then_some(()));
    assert_eq!(ask(&cluster, &["elect", "0", "u", "0"]), serde_json::json!([84]), "ELECTION_NOT_NEEDED");
    assert_eq!(ask(&cluster, &["elect", "1", "u", "0"]), serde_json::json!([84]), "it has a leader");
    let elected = json(&cluster, &["topic", "elect", "u"]).expect("told");
    assert_eq!(elected["results"][0]["outcome"], "not needed", "{elected}");
    assert_eq!(elected["results"][0]["leader"], 3, "{elected}");
    let none = cluster.cli(1, &["topic", "elect", "u", "--unclean"]);
    assert!(none.assert_ok("nothing to elect").stdout().contains("has a leader"), "{}", none.stdout());

    // A move that cannot go on is listed, and cancelled.
    cluster.kill(2);
    assert_eq!(ask(&cluster, &["alter", "u", "0", "3,2"]), serde_json::json!([0]));
    let listed = ask(&cluster, &["list"]);
    assert_eq!(listed["u-0"]["adding_replicas"], serde_json::json!([2]), "{listed}");
    assert_eq!(ask(&cluster, &["alter", "u", "0", "-"]), serde_json::json!([0]));
    assert_eq!(partitions(&cluster, "u").expect("described")[0].0, [3, 4]);
    cluster.start_node(2);

    // As `u`, but it would rather lose than wait.
    let config = "unclean.leader.election.enable=true";
    cluster.cli(1, &["topic", "create", "v", "-p", "1", "-r", "2", "--config", config]).assert_ok("create");
    cluster.cli(1, &["topic", "reassign", "v", "--replicas", "3,4"]).assert_ok("reassign");
    wait_in_sync(&cluster, "v");
    // As `u`, and asked for by command.
    cluster.cli(1, &["topic", "create", "w", "-p", "1", "-r", "2"]).assert_ok("create");
    cluster.cli(1, &["topic", "reassign", "w", "--replicas", "3,4"]).assert_ok("reassign");
    wait_in_sync(&cluster, "w");

    let mut load = Load::start(&cluster.bootstrap(), "u", 1);
    load.wait_acked(100, SOON);
    cluster.kill(3);
    load.wait_acked(100, SOON);
    assert_eq!(ask(&cluster, &["elect", "0", "u", "0"]), serde_json::json!([80]), "PREFERRED_LEADER_NOT_AVAILABLE");
    load.finish();
    cluster.kill(4);
    for topic in ["u", "v", "w"] {
        wait_for("nobody leads", SOON, || (partitions(&cluster, topic)?[0].2 == -1).then_some(()));
    }
    assert_eq!(ask(&cluster, &["elect", "1", "u", "0"]), serde_json::json!([83]), "ELIGIBLE_LEADERS_NOT_AVAILABLE");
    let unclean = ["topic", "elect", "w", "--unclean", "--yes"];
    let refused = cluster.cli(1, &unclean);
    assert!(!refused.ok() && refused.stdout().contains("refused"), "nobody is there: {}", refused.stdout());
    cluster.start_node(3);
    let unconfirmed = cluster.cli(1, &unclean[..4]);
    let told = unconfirmed.stderr();
    assert!(!unconfirmed.ok() && told.contains("ACKNOWLEDGED RECORDS") && told.contains("--yes"), "{told}");
    assert_eq!(partitions(&cluster, "w").expect("described")[0].2, -1, "nothing was done");
    wait_for("3 is elected by command", SOON, || cluster.cli(1, &unclean).ok().then_some(()));
    assert_eq!(partitions(&cluster, "w").expect("described")[0].2, 3);
    wait_for("3 is elected uncleanly, once it tells what it holds", SOON, || {
        (ask(&cluster, &["elect", "1", "u", "0"]) == serde_json::json!([0])).then_some(())
    });
    assert_eq!(partitions(&cluster, "u").expect("described")[0].2, 3);
    wait_for("3 leads the other topic unasked", SOON, || (partitions(&cluster, "v")?[0].2 == 3).then_some(()));
    let held = read_all(&cluster.bootstrap(), "u", 1).len();
    // The other gives up what only it had, and follows.
    cluster.start_node(4);
    wait_in_sync(&cluster, "u");
    assert_eq!(read_all(&cluster.bootstrap(), "u", 1).len(), held);
}

/// A `highwater serve` process, killed when dropped.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_fourth_node_joins_by_the_others_addresses_and_takes_replicas() {
    let cluster = Cluster::start("grow", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(1_000, SOON);

    let dir = cluster.node_dir(4);
    std::fs::create_dir_all(&dir).expect("a folder");
    let at = |offset: u16| format!("127.0.0.1:{}", cluster.port + 30 + offset);
    let controllers: Vec<String> =
        (1..=3u16).map(|id| format!("\"{id}@127.0.0.1:{}\"", cluster.kafka_port(id) + 1)).collect();
    let mut config = format!(
        "node_id = 4\ndata_dir = \"{}\"\nroles = [\"broker\"]\ncontrollers = [{}]\n",
        dir.join("data").display(),
        controllers.join(", ")
    );
    for (name, offset) in
        [("listeners.plaintext", 0), ("cluster_listener", 1), ("admin_listener", 2), ("replica_listener", 3)]
    {
        config.push_str(&format!("\n[{name}]\nbind = \"{0}\"\nadvertised = \"{0}\"\n", at(offset)));
    }
    std::fs::write(dir.join("highwater.toml"), config).expect("written");
    let log = std::fs::File::create(dir.join("log")).expect("a log");
    let _node = Served(
        Command::new(HIGHWATER)
            .args(["serve", "--config", dir.join("highwater.toml").to_str().expect("utf-8 path")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("node 4 starts"),
    );
    wait_for("node 4 is alive", SOON, || (broker(&cluster, 4)?["liveness"] == "alive").then_some(()));
    let moved = cluster.cli(1, &["topic", "reassign", "t", "--replicas", "4,2,3"]);
    moved.assert_ok("reassign onto node 4");
    load.wait_acked(500, SOON);
    // What it was given must stand alone: another one goes.
    cluster.kill(1);
    load.wait_acked(500, SOON);
    load.finish();
    let bootstrap = format!("{},{}", cluster.bootstrap(), at(0));
    assert_exactly_once(&load.acks, &read_all(&bootstrap, "t", PARTITIONS));
}
