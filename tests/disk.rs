//! Disks that fail or are full under real nodes.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use powercut::Fault;
use std::time::{Duration, Instant};
use support::load::{Load, assert_exactly_once, read_all};
use support::powered::{Powered, Under};
use support::wait_for;

const SOON: Duration = Duration::from_secs(90);

fn leader(powered: &Powered) -> u16 {
    wait_for("a leader", SOON, || u16::try_from(powered.partitions("t")?.first()?.0).ok().filter(|id| *id > 0))
}

/// REPLICATION's rule 19 from end to end: `below` of the leader's disk can sync nothing any more.
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
