//! Real nodes lose their power: what was acknowledged is there when they come back.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use powercut::Policy;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::load::{Load, assert_exactly_once, read_all};
use support::powered::{Powered, Under};
use support::wait_for;

const SOON: Duration = Duration::from_secs(90);

/// Every file and folder below a folder, with its content.
fn tree(folder: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    fn visit(folder: &Path, name: &str, found: &mut BTreeMap<String, Option<Vec<u8>>>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            let is_dir = entry.path().is_dir();
            found.insert(name.clone(), (!is_dir).then(|| fs::read(entry.path()).expect("a file")));
            if is_dir {
                visit(&entry.path(), &name, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(folder, "", &mut found);
    found
}

fn assert_same(before: &BTreeMap<String, Option<Vec<u8>>>, after: &BTreeMap<String, Option<Vec<u8>>>) {
    let names = |tree: &BTreeMap<String, Option<Vec<u8>>>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(after));
    for (name, content) in before {
        assert!(*content == after[name], "{name} differs");
    }
}

/// A year of work in a minute: a topic is made, filled, deleted; segments roll; the node is killed in the midst.
fn work(powered: &mut Powered) {
    powered.create_topic("gone", 1);
    powered.create_topic("t", 2);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 2);
    load.wait_acked(500, SOON);
    powered.cluster.cli(1, &["topic", "delete", "gone"]).assert_ok("topic delete");
    load.wait_acked(500, SOON);
    load.finish();
    powered.kill(1);
}

/// The proof that the layer sees every call that changes a file: with syncs forgotten, a rewind undoes all of a run.
#[test]
fn every_change_of_a_run_can_be_undone() {
    let mut powered = Powered::new("undone", 1);
    powered.start(1, Under::Nothing);
    powered.create_topic("before", 2);
    powered.stop(1);
    let before = tree(&powered.data(1));
    powered.start(1, Under::ForgettingShim);
    work(&mut powered);
    assert!(tree(&powered.data(1)) != before);
    let rewound = powered.cut(1, Policy::DropAll);
    assert!(rewound.files > 3 && rewound.names > 5, "{rewound:?}");
    assert_same(&before, &tree(&powered.data(1)));
    powered.start(1, Under::Nothing);
    powered.wait_in_sync("before");
}

#[test]
fn a_cut_that_keeps_everything_changes_nothing() {
    let mut powered = Powered::new("kept", 1);
    powered.start(1, Under::Shim);
    work(&mut powered);
    let before = tree(&powered.data(1));
    powered.cut(1, Policy::KeepAll);
    assert_same(&before, &tree(&powered.data(1)));
}

#[test]
fn a_power_cut_of_all_nodes_loses_nothing_that_was_acknowledged() {
    let mut powered = Powered::new("all", 3);
    powered.start_all(Under::Shim);
    powered.create_topic("t", 3);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 3);
    load.wait_acked(300, SOON);
    for policy in [Policy::DropAll, Policy::Random { seed: 1 }, Policy::Random { seed: 2 }] {
        (1..=3).for_each(|node| powered.kill(node));
        let rewound: Vec<_> = (1..=3).map(|node| powered.cut(node, policy)).collect();
        eprintln!("{policy:?}: {rewound:?}");
        assert!(rewound.iter().any(|rewound| rewound.unsynced_calls > 0), "something was under way");
        powered.start_all(Under::Shim);
        load.wait_acked(300, SOON);
    }
    load.finish();
    powered.wait_in_sync("t");
    assert_exactly_once(&load.acks, &read_all(&powered.cluster.bootstrap(), "t", 3));
}

/// What the log of partition 0 of a topic remembers.
fn recovery_point(data: &Path, topic: &str) -> Option<i64> {
    let folders = fs::read_dir(data.join("partitions")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let name = format!("{topic}-0.");
    let of = |folder: &PathBuf| folder.file_name().is_some_and(|own| own.to_string_lossy().starts_with(&name));
    let text = fs::read_to_string(folders.into_iter().find(of)?.join("checkpoint")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("recovery_point ")?.parse().ok())
}

#[test]
fn what_was_found_durable_need_not_be_recovered_again_after_a_power_cut() {
    let mut powered = Powered::new("checkpoint", 1);
    powered.start(1, Under::Shim);
    powered.create_topic("before", 1);
    powered.cluster.create_topic("t", 1, 1, &["segment.bytes=16384"]);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 1);
    let data = powered.data(1);
    for more in 1..4 {
        let is_enough = |known: &i64| *known >= more * 500;
        let known = wait_for("segments are durable", SOON, || recovery_point(&data, "t").filter(is_enough));
        // A name can be seen before it is synced; the next one is made only afterwards.
        wait_for("another recovery point", SOON, || recovery_point(&data, "t").filter(|next| *next > known));
        powered.kill(1);
        powered.cut(1, Policy::DropAll);
        let kept = recovery_point(&data, "t");
        assert!(kept >= Some(known), "a recovery point of {known} was lost: {kept:?}");
        powered.start(1, Under::Shim);
    }
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&powered.cluster.bootstrap(), "t", 1));
}

#[test]
fn leaders_that_lose_their_power_under_load_lose_nothing() {
    let mut powered = Powered::new("one", 3);
    powered.start_all(Under::Shim);
    powered.create_topic("t", 3);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 3);
    for round in 0..3 {
        load.wait_acked(200, SOON);
        let leader = wait_for("a leader", SOON, || Some(powered.partitions("t")?.first()?.0).filter(|id| *id > 0));
        let victim = u16::try_from(leader).expect("an id");
        powered.kill(victim);
        powered.cut(victim, Policy::Random { seed: round });
        load.wait_acked(200, SOON);
        powered.start(victim, Under::Shim);
        powered.wait_in_sync("t");
    }
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&powered.cluster.bootstrap(), "t", 3));
}

/// Any end but by the layer's SIGKILL fails the test.
fn wait_cut(powered: &mut Powered) {
    let signal = powered.wait_end(1).signal();
    assert_eq!(signal, Some(Signal::KILL.as_raw()), "it ended by itself: {}", powered.log(1));
}

/// Starts the node; `true` once it is ready, `false` if its power was cut before.
fn comes_up(powered: &mut Powered, under: Under) -> bool {
    let ready = |powered: &Powered| powered.log(1).matches("telemetry::health: ready").count();
    let before = ready(powered);
    powered.start(1, under);
    let ended = wait_for("the node is ready, or its power is cut", SOON, || {
        let ended = !powered.is_running(1);
        (ended || ready(powered) > before).then_some(ended)
    });
    if ended {
        wait_cut(powered);
    }
    !ended
}

fn policy(cut: u32) -> Policy {
    let cut = cut + number("POWERCUT_SEED", 0);
    match cut % 4 {
        0 => Policy::DropAll,
        1 => Policy::KeepAll,
        _ => Policy::Random { seed: u64::from(cut) },
    }
}

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Every so manyth moment of a start.
fn stride() -> usize {
    number("POWERCUT_STRIDE", 7) as usize
}

#[test]
fn a_new_node_that_loses_its_power_while_it_starts_starts_again() {
    let mut powered = Powered::new("first", 1);
    for moment in (1..).step_by(stride()) {
        let is_up = comes_up(&mut powered, Under::EndingShim(moment));
        if is_up {
            powered.kill(1);
        }
        powered.cut(1, policy(moment));
        assert!(comes_up(&mut powered, Under::Shim), "nothing is cut");
        powered.kill(1);
        if is_up {
            eprintln!("a first start has {moment} moments");
            assert!(moment > 20, "the moments are counted");
            break;
        }
        powered.forget(1);
        fs::remove_dir_all(powered.data(1)).expect("wiped");
    }
}

/// More than a start has.
fn moments() -> u32 {
    number("POWERCUT_MOMENTS", 130)
}

#[test]
fn a_node_that_loses_its_power_while_it_starts_has_everything_when_it_starts_again() {
    let mut powered = Powered::new("again", 1);
    powered.start(1, Under::Shim);
    powered.create_topic("before", 1);
    powered.cluster.create_topic("t", 2, 1, &["segment.bytes=16384"]);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 2);
    load.wait_acked(1_000, SOON);
    powered.kill(1);
    powered.cut(1, Policy::Random { seed: 0 });
    // The load goes on, so there are as many moments as are asked for.
    for moment in (1..moments()).step_by(stride()) {
        powered.start(1, Under::EndingShim(moment));
        wait_cut(&mut powered);
        powered.cut(1, policy(moment));
    }
    assert!(comes_up(&mut powered, Under::Shim), "nothing is cut");
    load.wait_acked(100, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&powered.cluster.bootstrap(), "t", 2));
}
