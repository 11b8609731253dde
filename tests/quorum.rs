//! The metadata quorum as an operator changes it, on real processes.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use serde_json::Value;
use std::time::Duration;
use support::load::{Load, assert_exactly_once, read_all};
use support::{Cluster, Finished, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn describe(cluster: &Cluster, node: u16) -> Option<Value> {
    serde_json::from_str(&cluster.cli(node, &["quorum", "describe", "-o", "json"]).stdout()).ok()
}

/// (node, directory) of the voters.
fn voters(described: &Value) -> Vec<(i64, String)> {
    let members = described["members"].as_array().expect("members");
    let voting = members.iter().filter(|m| m["voter"] == true);
    voting.map(|m| (m["node"].as_i64().unwrap(), m["directory_id"].as_str().unwrap().to_string())).collect()
}

fn ids(described: &Value) -> Vec<i64> {
    voters(described).into_iter().map(|(node, _)| node).collect()
}

fn refused(finished: &Finished, words: &str) {
    assert!(!finished.ok() && finished.stderr().contains(words), "{}: {}", finished.command, finished.stderr());
}

#[test]
fn voters_are_added_and_removed_under_load_and_the_controller_may_leave() {
    let cluster = Cluster::start("voters", 4, &[]);
    cluster.create_topic("t", 3, 3, &[]);
    let mut load = Load::start(&cluster.bootstrap(), "t", 3);
    load.wait_acked(200, SOON);
    let before = wait_for("every member holds the log", SOON, || {
        let told = describe(&cluster, 4)?;
        let members = told["members"].as_array()?;
        (members.len() == 4 && members.iter().all(|m| m["lag"] == 0 && m["last_caught_up_ms"].is_i64())).then_some(told)
    });
    assert_eq!(ids(&before), [1, 2, 3], "the fourth is only a broker");
    assert!(before["warning"].is_null());

    refused(&cluster.cli(1, &["quorum", "add", "9"]), "no member");
    refused(&cluster.cli(1, &["quorum", "remove", "4"]), "not a voter");
    let added = cluster.cli(4, &["quorum", "add", "4"]);
    added.assert_ok("quorum add");
    assert!(added.stderr().contains("4 voters survive the loss of 1"), "{}", added.stderr());
    assert_eq!(ids(&describe(&cluster, 1).expect("described")), [1, 2, 3, 4]);

    let leader = describe(&cluster, 1).expect("described")["leader"].as_i64().expect("a leader");
    let asked = if leader == 1 { 2 } else { 1 };
    cluster.cli(asked, &["quorum", "remove", &leader.to_string()]).assert_ok("the controller leaves");
    let after = wait_for("a voter leads, and the one that left follows", SOON, || {
        let told = describe(&cluster, asked)?;
        let left = told["members"].as_array()?.iter().find(|m| m["node"] == leader)?.clone();
        (told["leader"] != leader && left["voter"] == false && left["lag"] == 0).then_some(told)
    });
    assert_eq!(ids(&after).len(), 3);
    load.wait_acked(200, SOON);

    // One of three dies: another one may not leave, the dead one may.
    let leader = after["leader"].as_i64().unwrap();
    let others: Vec<i64> = ids(&after).into_iter().filter(|id| *id != leader).collect();
    let (dead, alive) = (others[0], others[1]);
    cluster.kill(u16::try_from(dead).unwrap());
    let asked = u16::try_from(alive).unwrap();
    let remove = |id: i64| cluster.cli(asked, &["quorum", "remove", &id.to_string()]);
    wait_for("the dead voter is missed", SOON, || {
        let told = describe(&cluster, asked)?;
        let silent = told["now_ms"].as_i64()?
            - told["members"].as_array()?.iter().find(|m| m["node"] == dead)?["last_fetch_ms"].as_i64()?;
        (silent > 2_500).then_some(())
    });
    refused(&remove(alive), "--force");
    let removed = remove(dead);
    removed.assert_ok("the dead one is removed");
    assert!(removed.stderr().contains("warning: 2 voters"), "{}", removed.stderr());
    cluster.start_node(u16::try_from(dead).unwrap());
    wait_for("it is back, and follows", SOON, || {
        let told = describe(&cluster, asked)?;
        let member = told["members"].as_array()?.iter().find(|m| m["node"] == dead)?.clone();
        (member["voter"] == false && member["lag"] == 0).then_some(())
    });
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", 3));
}

#[test]
fn a_lost_data_folder_is_replaced_by_the_printed_command_and_refilled() {
    let cluster = Cluster::start("lost", 3, &[]);
    cluster.create_topic("t", 6, 3, &[]);
    let mut load = Load::start(&cluster.bootstrap(), "t", 6);
    load.wait_acked(1_000, SOON);
    let old = voters(&describe(&cluster, 1).expect("described"));
    refused(&cluster.cli(1, &["quorum", "replace", "3"]), "no new data folder");
    cluster.kill(3);
    std::fs::remove_dir_all(cluster.node_dir(3).join("data")).expect("node 3's data is wiped");
    cluster.start_node(3);
    let replaced = cluster.cli(1, &["quorum", "replace", "3"]);
    let told = wait_for("the new folder votes and the old one is gone", SOON, || {
        let told = describe(&cluster, 1)?;
        let now = voters(&told);
        (now.len() == 3 && now[2].1 != old[2].1 && told["members"].as_array()?.len() == 3).then_some(told)
    });
    assert_eq!(ids(&told), [1, 2, 3]);
    // On a slow machine the automatic replacement may have come first.
    assert!(replaced.ok() || replaced.stderr().contains("no new data folder"), "{}", replaced.stderr());

    let log = cluster.log(3);
    for said in ["this data folder is empty", "highwater quorum replace 3", "are fetched again from their leaders"] {
        assert!(log.contains(said), "node 3 does not say '{said}'");
    }
    wait_for("node 3 says that it is refilled, and that it votes", SOON, || {
        let log = cluster.log(3);
        (log.contains("every replica of this node is in sync again") && log.contains("votes now")).then_some(())
    });
    // What it was refilled with must stand alone: the others' copies go, one after the other.
    load.wait_acked(200, SOON);
    cluster.kill(1);
    load.wait_acked(200, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", 6));
}

#[test]
fn a_wiped_broker_without_a_vote_comes_back_as_a_new_folder_and_is_refilled() {
    let cluster = Cluster::start("wiped", 4, &[]);
    cluster.create_topic("t", 4, 3, &[]);
    cluster.cli(1, &["topic", "reassign", "t", "--replicas", "4,1,2"]).assert_ok("node 4 has a copy of all");
    let mut load = Load::start(&cluster.bootstrap(), "t", 4);
    load.wait_acked(1_000, SOON);
    let learner = |told: &Value| {
        let members = told["members"].as_array()?;
        let mut fours = members.iter().filter(|m| m["node"] == 4);
        let found = fours.next()?.clone();
        (members.len() == 4 && fours.next().is_none() && found["voter"] == false).then_some(found)
    };
    let old = learner(&describe(&cluster, 1).expect("described")).expect("node 4 only learns");
    cluster.kill(4);
    std::fs::remove_dir_all(cluster.node_dir(4).join("data")).expect("node 4's data is wiped");
    cluster.start_node(4);
    let new = wait_for("the new folder follows, and the old one is forgotten", SOON, || {
        let found = learner(&describe(&cluster, 1)?)?;
        (found["directory_id"] != old["directory_id"] && found["lag"] == 0).then_some(found)
    });
    assert_eq!(ids(&describe(&cluster, 1).expect("described")), [1, 2, 3], "{new}");
    wait_for("node 4 says that it is refilled", SOON, || {
        cluster.log(4).contains("every replica of this node is in sync again").then_some(())
    });
    let log = cluster.log(4);
    assert!(log.contains("are fetched again from their leaders"), "it says what was lost");
    assert!(!log.contains("voted with another one") && !log.contains("votes now"), "it had no vote");
    wait_for("it is in every ISR, and leads again where it is preferred", SOON, || {
        let told: Value =
            serde_json::from_str(&cluster.cli(1, &["topic", "describe", "t", "-o", "json"]).stdout()).ok()?;
        let rows = told["partitions"].as_array()?;
        let whole = |row: &Value| {
            row["isr"].as_array().is_some_and(|isr| isr.len() == 3) && row["leader"] == row["replicas"][0]
        };
        (rows.len() == 4 && rows.iter().all(whole)).then_some(())
    });
    // What it was refilled with must stand alone: the others' copies go, one after the other.
    load.wait_acked(200, SOON);
    cluster.kill(1);
    load.wait_acked(200, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", 4));
}
