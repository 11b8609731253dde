//! After the last fault: heal, let the clients finish, read everything back, compare the nodes.

use crate::admin::proto;
use crate::checker::{Anomaly, Kind};
use crate::cluster::layout::NodeId;
use crate::faults::driver::Driver;
use crate::faults::inject::World;
use crate::history::{History, Place};
use crate::logs;
use crate::workload::load::Load;
use crate::workload::topics::TOPICS;
use crate::workload::{group, reader};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const ASK: Duration = Duration::from_secs(3);
const IN_SYNC_WITHIN: Duration = Duration::from_secs(60);
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
const READ_WITHIN: Duration = Duration::from_secs(30);

/// What the leaders tell of each place at the end.
struct Ends {
    high_watermarks: BTreeMap<Place, i64>,
    /// All replicas, or there is a complaint already.
    in_sync: BTreeMap<Place, Vec<NodeId>>,
    /// Where the high watermark is below the log's end, or replicas come and go.
    unsettled: Vec<String>,
}

/// Fills the history in; what is wrong with the cluster itself goes to the driver's anomalies.
pub fn finish(driver: &mut Driver, mut load: Load, history: &mut History) -> anyhow::Result<()> {
    let say = |driver: &Driver, line: &str| driver.status.say(line);
    say(driver, "healing everything");
    if let Some(complaint) = driver.world.heal()? {
        driver.anomalies.push(Anomaly::new(Kind::TooSlow, complaint));
    }
    driver.wait_writable("the last healing")?;
    if !driver.wait(IN_SYNC_WITHIN, |world| world.out_of_sync().is_none())? {
        let why = driver.world.out_of_sync().unwrap_or_default();
        driver.anomalies.push(Anomaly::new(
            Kind::TooSlow,
            format!("not in sync {:?} after: {why}", driver.patience(IN_SYNC_WITHIN)),
        ));
    }
    say(driver, "all in sync; waiting for the last outcomes");
    load.stop_sending(history);

    let mut ends = None;
    driver.wait(SETTLED_WITHIN, |world| {
        ends = ask_ends(world, &load).or(ends.take());
        ends.as_ref().is_some_and(|ends| ends.unsettled.is_empty())
    })?;
    let ends = ends.context("the end of the logs is not known, so the history cannot be judged")?;
    for told in &ends.unsettled {
        let told = format!("{:?} after the last send {told}", driver.patience(SETTLED_WITHIN));
        driver.anomalies.push(Anomaly::new(Kind::TooSlow, told));
    }
    history.high_watermarks.clone_from(&ends.high_watermarks);
    say(driver, "reading everything back");
    let bootstrap = driver.world.nodes.layout.bootstrap();
    history.last = reader::read_all(&bootstrap, &load.places, &ends.high_watermarks, driver.clock)?;
    let (progress, high_watermarks) = (load.progress.clone(), ends.high_watermarks.clone());
    if !driver.wait(READ_WITHIN, |_| progress.behind(&high_watermarks).is_empty())? {
        for (reader, place, at) in progress.behind(&high_watermarks) {
            let told = format!(
                "{:?} after the end reader {reader} is at {at} of {} in {}",
                driver.patience(READ_WITHIN),
                high_watermarks[&place],
                load.places.names[usize::from(place)]
            );
            driver.anomalies.push(Anomaly::new(Kind::TooSlow, told));
        }
    }
    let places = load.places.clone();
    load.stop_reading(history)?;
    history.committed = group::committed(&bootstrap, &places)?;
    if driver.world.page_cache_lost {
        history.forget_page_cache();
    }
    compare_images(driver)?;
    say(driver, "stopping all, to compare the logs");
    driver.status.be_quiet();
    let unclean = driver.world.nodes.stop_all()?;
    if !unclean.is_empty() {
        let told = format!("told to stop all together, these nodes did not stop cleanly: {unclean:?}");
        driver.anomalies.push(Anomaly::new(Kind::TooSlow, told));
    }
    compare_replicas(driver, history, &ends)
}

/// `None` until every leader has told.
fn ask_ends(world: &World, load: &Load) -> Option<Ends> {
    let mut ends = Ends { high_watermarks: BTreeMap::new(), in_sync: BTreeMap::new(), unsettled: Vec::new() };
    for topic in &TOPICS {
        let first = load.places.number(topic.name, 0)?;
        if !world.is_used(first) {
            continue;
        }
        for partition in world.admin.topic(1, topic.name, ASK)?.partitions {
            let place = load.places.number(topic.name, partition.partition)?;
            let offsets: proto::PartitionOffsets = partition.offsets?;
            if !offsets.told_by_leader {
                return None;
            }
            if offsets.high_watermark != offsets.log_end {
                let (end, name) = (offsets.log_end, &load.places.names[usize::from(place)]);
                ends.unsettled
                    .push(format!("{name}'s high watermark is {}, its log ends at {end}", offsets.high_watermark));
            }
            if !partition.adding.is_empty() || !partition.removing.is_empty() {
                ends.unsettled.push(format!("{} is still being moved", load.places.names[usize::from(place)]));
            }
            ends.high_watermarks.insert(place, offsets.high_watermark);
            let in_sync = partition.isr.iter().filter_map(|node| NodeId::try_from(*node).ok()).collect();
            ends.in_sync.insert(place, in_sync);
        }
    }
    Some(ends)
}

/// At the same Raft index all nodes have the same metadata.
fn compare_images(driver: &mut Driver) -> anyhow::Result<()> {
    let mut hashes = Vec::new();
    if driver.world.admin.describe(1, true, ASK).is_some_and(|answer| answer.image_hash.is_none()) {
        driver.status.say("this binary tells no hash of its image: not compared");
        return Ok(());
    }
    let same_index = driver.wait(SETTLED_WITHIN, |world| {
        hashes = world
            .nodes
            .layout
            .ids()
            .filter_map(|node| {
                let answer = world.admin.describe(node, true, ASK)?;
                Some((node, answer.image_index, answer.image_hash?))
            })
            .collect();
        hashes.len() == usize::from(world.nodes.layout.nodes)
            && hashes.iter().all(|(_, index, _)| *index == hashes[0].1)
    })?;
    if !same_index {
        let told = format!(
            "{:?} long the nodes were never at the same Raft index: {hashes:?}",
            driver.patience(SETTLED_WITHIN)
        );
        driver.anomalies.push(Anomaly::new(Kind::TooSlow, told));
    } else if hashes.iter().any(|(_, _, hash)| *hash != hashes[0].2) {
        driver.anomalies.push(Anomaly::new(Kind::ImagesDiffer, format!("(node, index, hash): {hashes:x?}")));
    } else {
        driver.status.say(&format!("image {:016x} at index {} on all nodes", hashes[0].2, hashes[0].1));
    }
    Ok(())
}

fn compare_replicas(driver: &mut Driver, history: &History, ends: &Ends) -> anyhow::Result<()> {
    let layout = driver.world.nodes.layout.clone();
    let mut folders: BTreeMap<(NodeId, String), PathBuf> = BTreeMap::new();
    for node in layout.ids() {
        for (name, path) in logs::partitions(&layout.data(node))? {
            folders.insert((node, name), path);
        }
    }
    let mut compared = 0;
    for (place, high_watermark) in &ends.high_watermarks {
        let name = history.place(*place).to_string();
        let mut replicas = Vec::new();
        for node in &ends.in_sync[place] {
            match folders.get(&(*node, name.clone())) {
                Some(path) => replicas.push((*node, path.clone())),
                None => driver
                    .anomalies
                    .push(Anomaly::new(Kind::ReplicasDiffer, format!("{name}: node {node} has no folder of it"))),
            }
        }
        if let Some((node, path)) = replicas.first() {
            for broken in logs::broken_sequences(path)? {
                let told = format!("{name} on node {node}: {broken}");
                driver.anomalies.push(Anomaly::new(Kind::BrokenSequence, told));
            }
        }
        for difference in logs::differences(&replicas, *high_watermark)? {
            driver.anomalies.push(Anomaly::new(Kind::ReplicasDiffer, format!("{name}: {difference}")));
        }
        compared += replicas.len();
    }
    driver.status.say(&format!("{compared} replicas compared"));
    Ok(())
}
