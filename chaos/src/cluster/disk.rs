//! A node's disk: filled, wiped, damaged. The node must be stopped for the latter two.

use super::layout::{Layout, NodeId};
use super::node::journal;
use crate::chance::Chance;
use crate::logs;
use crate::shell::run;
use anyhow::Context;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

/// A small disk without a run's data: the node's own files, with room for segments allocated ahead.
const SMALL_DISK_BYTES: u64 = 256 << 20;
/// What a record takes at most: payload, header and batch around it, and its rows in the indexes.
const RECORD_BYTES: u64 = 600;
/// Faults outlast the time a little, and then everything is healed.
const AFTER: Duration = Duration::from_secs(300);
/// The ballast grows in steps down to this.
const BALLAST_STEP_MIN: u64 = 4 * 1024;
const BALLAST_STEP_MAX: u64 = 64 * 1024 * 1024;
/// Damage happens in so many bytes at a log's end, of so many partitions.
const TAIL_BYTES: u64 = 4 * 1024;
const DAMAGED_PARTITIONS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Truncate,
    Flip,
}

/// Makes the node's disk a small file system of its own. The mount is this process's and its nodes' alone, since
/// `ip netns exec` started it in a mount namespace of its own: it is gone with them.
pub fn make_small(layout: &Layout, node: NodeId, bytes: u64) -> anyhow::Result<()> {
    let disk = layout.disk(node);
    std::fs::create_dir_all(&disk)?;
    run(&format!("mount -t tmpfs -o size={bytes} chaos {}", disk.display()))?;
    Ok(())
}

/// Small enough to be filled at once, large enough for all that the run sends, had the node a replica of all of it: the
/// data itself must not fill the disk. Memory backs it only as far as it is used.
pub fn small_bytes(time: Duration, rate: u32) -> u64 {
    SMALL_DISK_BYTES + (time + AFTER).as_secs() * u64::from(rate) * RECORD_BYTES
}

fn ballast(layout: &Layout, node: NodeId) -> PathBuf {
    layout.disk(node).join("ballast")
}

/// Takes all room there is.
pub fn fill(layout: &Layout, node: NodeId) -> anyhow::Result<()> {
    let file = File::create(ballast(layout, node))?;
    let (mut end, mut step) = (0, BALLAST_STEP_MAX);
    while step >= BALLAST_STEP_MIN {
        match fallocate(&file, FallocateFlags::empty(), end, step) {
            Ok(()) => end += step,
            Err(rustix::io::Errno::NOSPC) => step /= 2,
            Err(error) => return Err(error).context("the ballast file"),
        }
    }
    Ok(())
}

pub fn free(layout: &Layout, node: NodeId) -> anyhow::Result<()> {
    match std::fs::remove_file(ballast(layout, node)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

pub fn wipe(layout: &Layout, node: NodeId) -> anyhow::Result<()> {
    let data = layout.data(node);
    std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
    std::fs::create_dir(&data)?;
    forget_journal(layout, node)
}

/// Whether its data folder is one that was taken into the cluster.
pub fn is_member(layout: &Layout, node: NodeId) -> bool {
    let identity = std::fs::read_to_string(layout.data(node).join("meta.json")).unwrap_or_default();
    knows_cluster(&identity)
}

fn knows_cluster(identity: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(identity).is_ok_and(|identity| identity["cluster_id"].is_string())
}

/// After a failed sync the page cache shows what may not be on the disk. Whether the node knows that it may not vote with
/// its metadata any more.
pub fn has_lossy_metadata(layout: &Layout, node: NodeId) -> bool {
    layout.data(node).join("metadata/lossy").exists()
}

/// What was changed behind the node's back is on the disk: a later power cut has nothing to take back before it.
fn forget_journal(layout: &Layout, node: NodeId) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(journal(layout, node)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Damages the tails of some partitions' last segments; answers what was done.
pub fn damage(layout: &Layout, node: NodeId, how: Damage, chance: &mut Chance) -> anyhow::Result<Vec<String>> {
    let partitions = logs::partitions(&layout.data(node))?;
    let mut done = Vec::new();
    for (name, path) in chance.some(&partitions, partitions.len()) {
        if done.len() == DAMAGED_PARTITIONS {
            break;
        }
        let Some(segment) = logs::segments(&path)?.pop() else { continue };
        let bytes = std::fs::read(&segment)?;
        let end = logs::batches(&bytes).last().map_or(0, |batch| batch.bytes.end as u64);
        if end == 0 {
            continue;
        }
        let file = File::options().read(true).write(true).open(&segment)?;
        let at = chance.between(end.saturating_sub(TAIL_BYTES), end);
        match how {
            Damage::Truncate => file.set_len(at)?,
            Damage::Flip => {
                let index = usize::try_from(at)?;
                file.write_all_at(&[bytes[index] ^ (1 << chance.between(0, 8))], at)?;
            }
        }
        file.sync_all()?;
        done.push(format!("{name} at byte {at} of {end}"));
    }
    forget_journal(layout, node)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::PAYLOAD_BYTES_MAX;

    #[test]
    fn a_folder_is_a_members_once_it_names_the_cluster() {
        for (identity, is_member) in [
            ("", false),
            (r#"{"node_id": 1, "cluster_id": null}"#, false),
            (r#"{"node_id": 1, "cluster_id": "ab474cce-9cd3-4e69-8087-dd23c4ca3d2a"}"#, true),
        ] {
            assert_eq!(knows_cluster(identity), is_member, "{identity}");
        }
    }

    #[test]
    fn a_small_disk_holds_all_that_a_run_sends() {
        // A batch of one record has 61 bytes of its own, and there are index rows.
        const { assert!(RECORD_BYTES > PAYLOAD_BYTES_MAX + 100) };
        for (minutes, rate) in [(0, 4), (3, 300), (60, 300), (600, 5_000)] {
            let time = Duration::from_secs(60 * minutes);
            let sent = (time.as_secs() + 60) * u64::from(rate) * RECORD_BYTES;
            assert!(small_bytes(time, rate) >= sent + (200 << 20), "{minutes} minutes at {rate} a second");
        }
        assert!(small_bytes(Duration::from_secs(180), 300) < 400 << 20, "a short run's is small");
    }
}
