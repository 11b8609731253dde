//! Real processes under the preloaded shim, killed and rewound.

use powercut::{Fault, Policy, environment, rewind, set_faults};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| powercut::build_shim().expect("the shim builds"))
}

const WRITER: &str = env!("CARGO_BIN_EXE_powercut-writer");

struct Disk {
    _folder: tempfile::TempDir,
    root: PathBuf,
    journal: PathBuf,
}

impl Disk {
    fn new() -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("root");
        Disk { root, journal: folder.path().join("journal"), _folder: folder }
    }

    fn spawn(&self, operations: &str) -> Child {
        Command::new(WRITER)
            .arg(&self.root)
            .args(operations.split_whitespace())
            .envs(environment(shim(), &self.journal, &self.root))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a writer through its operations, kills it and gives what it told.
    fn run(&self, operations: &str, count: usize) -> Vec<String> {
        let mut child = self.spawn(operations);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.take(count).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        told
    }

    fn all_ok(&self, operations: &str, count: usize) {
        for line in self.run(operations, count) {
            assert!(line.contains(" ok"), "{line}");
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.root.join(name)).ok()
    }

    fn cut(&self, policy: Policy) {
        rewind(&self.journal, policy).unwrap();
    }
}

#[test]
fn what_was_synced_stays_and_the_rest_goes() {
    let disk = Disk::new();
    disk.all_ok("append a one append b lost sync a syncdir . append a two append c lost", 6);
    assert_eq!(disk.read("a").unwrap(), "onetwo", "the page cache outlives a kill");
    disk.cut(Policy::DropAll);
    assert_eq!(disk.read("a").unwrap(), "one");
    assert_eq!(disk.read("b").unwrap(), "", "its name was synced with the folder, its bytes were not");
    assert_eq!(disk.read("c"), None);
}

#[test]
fn a_synced_file_without_a_synced_name_is_gone() {
    let disk = Disk::new();
    disk.all_ok("append a one sync a", 2);
    disk.cut(Policy::DropAll);
    assert_eq!(disk.read("a"), None);
}

#[test]
fn replacing_a_file_is_whole_or_not_at_all() {
    let disk = Disk::new();
    disk.all_ok("put a old sync a syncdir . put a.tmp new sync a.tmp rename a.tmp a", 6);
    assert_eq!(disk.read("a").unwrap(), "new");
    disk.cut(Policy::DropAll);
    assert_eq!((disk.read("a").unwrap().as_str(), disk.read("a.tmp")), ("old", None));
    disk.all_ok("put a.tmp new sync a.tmp rename a.tmp a syncdir .", 4);
    disk.cut(Policy::DropAll);
    assert_eq!((disk.read("a").unwrap().as_str(), disk.read("a.tmp")), ("new", None));
}

#[test]
fn removed_cut_copied_and_emptied_files_come_back() {
    let disk = Disk::new();
    disk.all_ok(
        "mkdir d put d/a content put d/b content reserve d/c 9000 sync d/a sync d/b sync d/c syncdir d syncdir .",
        9,
    );
    disk.all_ok("remove d/a cut d/b 2 put d/c short copy d/b d/e", 4);
    assert_eq!(disk.read("d/e").unwrap(), "co");
    disk.cut(Policy::DropAll);
    assert_eq!(disk.read("d/a").unwrap(), "content");
    assert_eq!(disk.read("d/b").unwrap(), "content");
    assert_eq!(disk.read("d/c").unwrap(), "\0".repeat(9000));
    assert_eq!(disk.read("d/e"), None);
}

#[test]
fn a_kill_alone_makes_nothing_durable() {
    let disk = Disk::new();
    disk.all_ok("append a one sync a syncdir . append a two", 4);
    disk.all_ok("append a three", 1);
    disk.cut(Policy::DropAll);
    assert_eq!(disk.read("a").unwrap(), "one");
    disk.all_ok("append a four sync a append a five", 3);
    disk.cut(Policy::DropAll);
    assert_eq!(disk.read("a").unwrap(), "onefour");
}

#[test]
fn a_cut_is_another_boot() {
    let disk = Disk::new();
    let real = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let first = disk.run("bootid", 1);
    assert_eq!(first, [format!("bootid ok {}", real.trim())]);
    assert_eq!(disk.run("bootid", 1), first);
    disk.cut(Policy::KeepAll);
    let second = disk.run("bootid", 1);
    assert!(second != first && second[0].len() == first[0].len(), "{second:?}");
}

#[test]
fn what_a_failed_disk_lost_is_lost_in_the_same_boot_and_names_stay() {
    let disk = Disk::new();
    disk.all_ok("append a one sync a syncdir .", 3);
    let boot = disk.run("append a two append b three bootid", 3).pop();
    powercut::lose(&disk.journal, Policy::DropAll).unwrap();
    assert_eq!((disk.read("a").unwrap().as_str(), disk.read("b").unwrap().as_str()), ("one", ""));
    assert_eq!(disk.run("bootid", 1).pop(), boot);
    disk.cut(Policy::DropAll);
    assert_eq!(disk.read("b").unwrap(), "", "what was lost is settled");
}

#[test]
fn what_is_forgotten_is_durable_in_the_same_boot() {
    let disk = Disk::new();
    let boot = disk.run("append a one bootid", 2).pop();
    powercut::forget(&disk.journal).unwrap();
    fs::write(disk.root.join("a"), "by another").unwrap();
    assert_eq!(disk.run("append b two bootid", 2).pop(), boot);
    disk.cut(Policy::DropAll);
    assert_eq!((disk.read("a").unwrap().as_str(), disk.read("b")), ("by another", None));
}

#[test]
fn a_failing_disk_fails_and_never_makes_durable_again() {
    let disk = Disk::new();
    disk.all_ok("put a one put b one sync a sync b syncdir .", 5);
    set_faults(&disk.journal, &[Fault::Sync { below: disk.root.clone() }]).unwrap();
    assert_eq!(disk.run("append a two sync a", 2), ["append ok ", "sync failed 5"]);
    set_faults(&disk.journal, &[Fault::Write { below: disk.root.join("b") }]).unwrap();
    assert_eq!(disk.run("append b two append a three", 2), ["append failed 5", "append ok "]);
    set_faults(&disk.journal, &[]).unwrap();
    assert_eq!(disk.run("sync a append b two sync b", 3), ["sync ok ", "append ok ", "sync ok "]);
    disk.cut(Policy::DropAll);
    assert_eq!(disk.read("a").unwrap(), "one", "the kernel forgot that it was dirty");
    assert_eq!(disk.read("b").unwrap(), "onetwo");
}

#[test]
fn a_full_disk_has_room_again_after_a_removal() {
    let disk = Disk::new();
    set_faults(&disk.journal, &[Fault::Full { below: disk.root.clone(), bytes: 10 }]).unwrap();
    let told = disk.run("append a 12345678 append b 123 cut a 2 append b 123 reserve c 99", 5);
    assert_eq!(told, ["append ok ", "append failed 28", "cut ok ", "append ok ", "reserve failed 28"]);
}

#[test]
fn faults_reach_a_running_process() {
    let disk = Disk::new();
    let mut child = disk.spawn("threads f");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("synced"));
    set_faults(&disk.journal, &[Fault::Sync { below: disk.root.clone() }]).unwrap();
    // Its threads give up at the first error.
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it still runs");
        let _ = lines.next();
    }
}

/// Killed at whatever instant, eight threads writing and syncing: what was told to be synced is there, in any policy.
#[test]
fn a_kill_at_any_instant_leaves_a_journal_that_can_be_played_back() {
    for round in 0..12u64 {
        let disk = Disk::new();
        disk.all_ok("put f x sync f syncdir .", 3);
        let mut child = disk.spawn("threads f");
        let mut synced = Vec::new();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            let numbers: Vec<u64> = line.split(' ').skip(1).filter_map(|word| word.parse().ok()).collect();
            if let [lane, turn] = numbers[..] {
                synced.push((lane, turn));
            }
            if synced.len() as u64 == 20 + 37 * round {
                child.kill().unwrap();
            }
        }
        assert_eq!(child.wait().unwrap().signal(), Some(9), "it ended before it was killed");
        let policy = if round % 3 == 0 { Policy::DropAll } else { Policy::Random { seed: round } };
        disk.cut(policy);
        let bytes = fs::read(disk.root.join("f")).unwrap();
        for (lane, turn) in synced {
            for turn in 0..=turn {
                let at = (turn * 8 + lane) as usize * 8;
                let found = bytes.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
                assert_eq!(found, Some(turn * 8 + lane + 1), "round {round}: lane {lane}, turn {turn}");
            }
        }
    }
}
