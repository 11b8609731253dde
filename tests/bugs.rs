//! The deliberate bugs of `--features chaos-bugs`: a binary that has them says so, and they are caught.
#![cfg(feature = "chaos-bugs")]
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use powercut::Policy;
use std::collections::BTreeSet;
use std::time::Duration;
use support::load::{Load, read_all};
use support::powered::{Powered, Under};
use support::{HIGHWATER, run};

const SOON: Duration = Duration::from_secs(90);

#[test]
fn such_a_binary_says_so_and_serves_only_when_told_to() {
    assert!(run(HIGHWATER, &["--version"]).stdout().contains("chaos-bugs"));
    let refused = run(HIGHWATER, &["serve"]);
    assert_eq!(refused.output.status.code(), Some(2));
    assert!(refused.stderr().contains("--i-want-chaos-bugs"), "{}", refused.stderr());
}

/// How many acknowledged records a power cut of all nodes takes with it.
fn lost(name: &str, bug: &str) -> usize {
    let mut powered = Powered::new(name, 3);
    powered.bug = bug.to_string();
    powered.start_all(Under::Shim);
    powered.create_topic("t", 3);
    let mut load = Load::start(&powered.cluster.bootstrap(), "t", 3);
    load.wait_acked(300, SOON);
    load.finish();
    (1..=3).for_each(|node| powered.kill(node));
    for node in 1..=3 {
        powered.cut(node, Policy::DropAll);
    }
    powered.start_all(Under::Shim);
    powered.wait_in_sync("t");
    let found: BTreeSet<Vec<u8>> =
        read_all(&powered.cluster.bootstrap(), "t", 3).into_iter().map(|(_, _, _, value)| value).collect();
    let acked = load.acks.acked.lock().unwrap();
    acked.keys().filter(|value| !found.contains(value.to_string().as_bytes())).count()
}

#[test]
fn without_a_bug_nothing_is_lost() {
    assert_eq!(lost("sound", ""), 0);
}

#[test]
fn a_missing_fsync_is_caught() {
    assert!(lost("unsynced", "no-fsync") > 0);
}
