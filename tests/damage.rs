//! Bits flip on the disks of real nodes: nothing acked is lost, and the damaged copies are whole again afterwards.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::load::{Load, assert_exactly_once, read_all};
use support::metrics::sum;
use support::{Cluster, HIGHWATER, wait_for};

const PARTITIONS: i32 = 3;
const SOON: Duration = Duration::from_secs(60);

/// One flipped bit: where, and the byte as it was.
struct Flipped {
    path: PathBuf,
    position: usize,
    was: u8,
}

impl Flipped {
    fn is_repaired(&self) -> bool {
        fs::read(&self.path).is_ok_and(|bytes| bytes.get(self.position) == Some(&self.was))
    }
}

/// In the first batch of every partition of topic `t` on a node.
fn flip(cluster: &Cluster, node: u16) -> Vec<Flipped> {
    let partitions = cluster.node_dir(node).join("data/partitions");
    let folders = fs::read_dir(&partitions).expect("the node has partitions").flatten();
    let ours = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with("t-"));
    let flipped: Vec<Flipped> = ours.map(|folder| flip_one(&folder.path().join("00000000000000000000.log"))).collect();
    assert_eq!(flipped.len(), PARTITIONS as usize);
    flipped
}

fn flip_one(path: &Path) -> Flipped {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a segment");
    let mut length = [0; 4];
    file.read_exact_at(&mut length, 8).expect("a batch");
    let position = 12 + u32::from_be_bytes(length) as usize - 3;
    let mut byte = [0];
    file.read_exact_at(&mut byte, position as u64).expect("a record");
    file.write_all_at(&[byte[0] ^ 4], position as u64).expect("flipped");
    Flipped { path: path.to_path_buf(), position, was: byte[0] }
}

fn wait_repaired(flipped: &[Flipped]) {
    wait_for("every damaged copy is whole again", SOON, || flipped.iter().all(Flipped::is_repaired).then_some(()));
}

/// `cluster watch`, into a file.
struct Watch {
    child: Child,
    path: PathBuf,
}

impl Watch {
    fn start(cluster: &Cluster) -> Watch {
        let path = cluster.dir.join("watch.json");
        let out = fs::File::create(&path).expect("a file");
        let mut command = Command::new(HIGHWATER);
        command.args(["cluster", "watch", "-o", "json", "--admin", &cluster.admin(1)]).stdin(Stdio::null()).stdout(out);
        Watch { child: command.spawn().expect("it starts"), path }
    }

    fn has(&self, event: &str, broker: u16) -> bool {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.any(|told| told["event"] == event && told["broker"] == broker)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_scrub_finds_flipped_bits_and_the_node_repairs_itself_under_load() {
    let sets = ["highwater.scrub.interval.ms=1000", "highwater.scrub.bytes.per.second=100000000"];
    let cluster = Cluster::start("scrub", 3, &sets);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    let watch = Watch::start(&cluster);
    load.wait_acked(1_000, SOON);
    // It leads some of them and follows in the others.
    let flipped = flip(&cluster, 1);
    wait_repaired(&flipped);
    load.wait_acked(500, SOON);
    wait_for("Watch tells of it", SOON, || watch.has("replica_damaged", 1).then_some(()));
    wait_for("the numbers tell that it was found and is repaired", SOON, || {
        let found = sum(&cluster, &[1], "highwater_damage_found_total")?;
        (found >= 1.0 && sum(&cluster, &[1], "highwater_replicas_damaged")? == 0.0).then_some(())
    });
    assert!(cluster.log(1).contains("damage"), "its log tells of it");
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
}

#[test]
fn bits_that_flipped_while_a_node_was_down_are_fetched_anew_before_it_is_trusted() {
    let cluster = Cluster::start("flipped", 3, &[]);
    cluster.create_topic("t", PARTITIONS, 3, &[]);
    let mut load = Load::start(&cluster.bootstrap(), "t", PARTITIONS);
    load.wait_acked(1_000, SOON);
    cluster.kill(2);
    let flipped = flip(&cluster, 2);
    cluster.start_node(2);
    wait_repaired(&flipped);
    load.wait_acked(500, SOON);
    load.finish();
    assert_exactly_once(&load.acks, &read_all(&cluster.bootstrap(), "t", PARTITIONS));
}
