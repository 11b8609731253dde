//! What is done to nodes of a cluster that is there.

use super::folder::{self, ClusterFile, Folder, Ports, dir_option};
use super::process::{self, RunState, Running};
use super::ready::{self, Outcome};
use super::up;
use crate::admin::proto::{DescribeClusterResponse, Node};
use crate::cli::cluster;
use crate::cli::output::{self, Format, Table, or_dash};
use crate::cli::reach::Reach;
use crate::platform::disk;
use anyhow::Context;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const KILL_DEADLINE: Duration = Duration::from_secs(10);
const PORTS_DEADLINE: Duration = Duration::from_secs(2);
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a foreground `dev` has to see a note.
const NOTE_DEADLINE: Duration = Duration::from_secs(5);
const STATUS_DEADLINE: Duration = Duration::from_secs(4);

fn open(dir: &Path, node: u16) -> anyhow::Result<(Folder, ClusterFile)> {
    let (folder, file) = Folder::open(dir)?;
    anyhow::ensure!(
        file.ids().contains(&node),
        "there is no node {node}: {} holds nodes 1 to {}",
        dir.display(),
        file.nodes
    );
    Ok((folder, file))
}

fn running(folder: &Folder, node: u16, dir: &Path) -> anyhow::Result<Running> {
    process::find(folder, node)?
        .with_context(|| format!("node {node} does not run; highwater dev start {node}{}", dir_option(dir)))
}

pub async fn kill(dir: &Path, node: u16) -> anyhow::Result<()> {
    let (folder, _) = open(dir, node)?;
    let found = running(&folder, node, dir)?;
    found.signal(Signal::KILL)?;
    anyhow::ensure!(found.gone(KILL_DEADLINE).await, "node {node} does not die: its disk may hang");
    output::line(format!(
        "killed node {node} (pid {}); highwater dev start {node}{}",
        found.pid.as_raw_nonzero(),
        dir_option(dir)
    ))
}

pub async fn pause(dir: &Path, node: u16) -> anyhow::Result<()> {
    let (folder, _) = open(dir, node)?;
    let found = running(&folder, node, dir)?;
    found.signal(Signal::STOP)?;
    // So that a `status` right after shows it; the kernel needs a moment.
    let until = Instant::now() + Duration::from_secs(1);
    while found.state() != RunState::Paused && Instant::now() < until {
        sleep(Duration::from_millis(5)).await;
    }
    output::line(format!(
        "paused node {node} (pid {}); highwater dev resume {node}{}",
        found.pid.as_raw_nonzero(),
        dir_option(dir)
    ))
}

pub fn resume(dir: &Path, node: u16) -> anyhow::Result<()> {
    let (folder, _) = open(dir, node)?;
    let found = running(&folder, node, dir)?;
    found.signal(Signal::CONT)?;
    output::line(format!("resumed node {node} (pid {})", found.pid.as_raw_nonzero()))
}

/// The ports of a killed process are let go of when its last thread has ended, a moment after the process is found dead.
async fn ports_come_free(file: &ClusterFile, node: u16) -> anyhow::Result<()> {
    let until = Instant::now() + PORTS_DEADLINE;
    loop {
        match up::ports_are_free(file, [node]).await {
            Err(_) if Instant::now() < until => sleep(Duration::from_millis(20)).await,
            result => return result,
        }
    }
}

pub async fn start(dir: &Path, node: u16) -> anyhow::Result<()> {
    let (folder, file) = open(dir, node)?;
    if let Some(found) = process::find(&folder, node)? {
        let hint = match found.state() {
            RunState::Running => String::new(),
            RunState::Paused => format!(", but is paused; highwater dev resume {node}{}", dir_option(dir)),
        };
        anyhow::bail!("node {node} runs already (pid {}){hint}", found.pid.as_raw_nonzero());
    }
    ports_come_free(&file, node).await?;
    if is_tended(&folder)? {
        let note = folder.start_wanted(node);
        disk::write_atomic(&note, b"").with_context(|| note.display().to_string())?;
        await_gone(&note, "the `highwater dev` that tends this cluster does not start the node").await?;
    } else {
        process::spawn(&folder, node, None)?;
    }
    let quorum = controllers_running(&folder, &file)? > usize::from(file.controllers() / 2);
    let deadline = if quorum { START_DEADLINE } else { Duration::ZERO };
    let outcome = ready::wait(&folder, &file, [node], deadline, |_| ()).await?;
    let kafka = format!("127.0.0.1:{}", file.ports(node).kafka);
    output::line(match outcome {
        Outcome::Ready => format!("node {node} is ready at {kafka}"),
        Outcome::NotYet(_) if quorum => {
            format!("node {node} runs, but is not ready after {START_DEADLINE:?}; see {}", folder.log(node).display())
        }
        Outcome::NotYet(_) => format!("node {node} runs, and waits for a majority of the controllers"),
    })
}

fn controllers_running(folder: &Folder, file: &ClusterFile) -> anyhow::Result<usize> {
    let mut count = 0;
    for node in 1..=file.controllers() {
        count += usize::from(process::find(folder, node)?.is_some());
    }
    Ok(count)
}

/// Whether a foreground `dev` (or one that is just starting nodes) holds the folder.
fn is_tended(folder: &Folder) -> anyhow::Result<bool> {
    match disk::FolderLock::acquire(&folder.root) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error).with_context(|| folder.root.display().to_string()),
    }
}

async fn await_gone(note: &Path, otherwise: &str) -> anyhow::Result<()> {
    let until = Instant::now() + NOTE_DEADLINE;
    while disk::exists(note) {
        if Instant::now() >= until {
            folder::clear(note)?;
            anyhow::bail!("{otherwise}");
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub async fn stop(dir: &Path) -> anyhow::Result<()> {
    let (folder, file) = Folder::open(dir)?;
    if is_tended(&folder)? {
        // It ends by itself when it has seen this; the nodes are stopped here, whatever becomes of it.
        let note = folder.stop_wanted();
        disk::write_atomic(&note, b"").with_context(|| note.display().to_string())?;
    }
    let stopped = up::stop_nodes(&folder, &file, output::tell, std::future::pending()).await?;
    let until = Instant::now() + NOTE_DEADLINE;
    while is_tended(&folder)? && Instant::now() < until {
        sleep(Duration::from_millis(20)).await;
    }
    folder::clear(&folder.stop_wanted())?;
    output::line(match stopped {
        0 => format!("no node of {} runs", dir.display()),
        count => format!("stopped {count} nodes; their data stays in {}", dir.display()),
    })
}

/// One node as `status` shows it.
struct Line {
    node: u16,
    state: &'static str,
    pid: Option<i32>,
    ports: Ports,
    described: Option<Node>,
    is_controller: bool,
}

pub async fn status(dir: &Path, format: Format) -> anyhow::Result<()> {
    let (folder, file) = Folder::open(dir)?;
    let found: Vec<Option<Running>> =
        file.ids().map(|node| process::find(&folder, node)).collect::<anyhow::Result<_>>()?;
    let described = if found.iter().any(Option::is_some) { describe(&file).await } else { None };
    let lines: Vec<Line> = file
        .ids()
        .zip(&found)
        .map(|(node, found)| Line {
            node,
            state: match found.as_ref().map(Running::state) {
                None => "stopped",
                Some(RunState::Running) => "running",
                Some(RunState::Paused) => "paused",
            },
            pid: found.as_ref().map(|found| found.pid.as_raw_nonzero().get()),
            ports: file.ports(node),
            described: described
                .as_ref()
                .and_then(|cluster| cluster.nodes.iter().find(|described| described.id == i32::from(node)).cloned()),
            is_controller: described.as_ref().is_some_and(|cluster| cluster.controller == Some(i32::from(node))),
        })
        .collect();
    if format == Format::Json {
        let nodes: Vec<Value> = lines.iter().map(to_json).collect();
        return output::json(&json!({
            "dir": folder.root, "nodes": nodes,
            "controller_id": described.as_ref().and_then(|cluster| cluster.controller),
        }));
    }
    let mut table = Table::new(&[
        "node",
        "process",
        "pid",
        "kafka",
        "cluster",
        "admin",
        "replica",
        "in cluster",
        "controller",
        "leaders",
        "in sync",
    ]);
    for line in &lines {
        let described = line.described.as_ref();
        table.row(vec![
            line.node.to_string(),
            line.state.to_string(),
            or_dash(line.pid),
            line.ports.kafka.to_string(),
            line.ports.cluster.to_string(),
            line.ports.admin.to_string(),
            line.ports.replica.to_string(),
            or_dash(described.map(cluster::state)),
            if line.is_controller { "*".to_string() } else { String::new() },
            or_dash(described.map(|node| node.leaders)),
            or_dash(described.map(|node| format!("{}/{}", node.in_sync, node.replicas))),
        ]);
    }
    table.print()
}

async fn describe(file: &ClusterFile) -> Option<DescribeClusterResponse> {
    let reach = Reach::of_dev(file);
    tokio::time::timeout(STATUS_DEADLINE, cluster::describe(&reach)).await.ok()?.ok()
}

fn to_json(line: &Line) -> Value {
    json!({
        "node": line.node, "process": line.state, "pid": line.pid,
        "kafka_port": line.ports.kafka, "cluster_port": line.ports.cluster,
        "admin_port": line.ports.admin, "replica_port": line.ports.replica,
        "state": line.described.as_ref().map(cluster::state),
        "leaders": line.described.as_ref().map(|node| node.leaders),
        "replicas": line.described.as_ref().map(|node| node.replicas),
        "in_sync": line.described.as_ref().map(|node| node.in_sync),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_unknown_node_and_a_folder_without_a_cluster_are_named() {
        let place = tempfile::tempdir().unwrap();
        let missing = open(&place.path().join("nowhere"), 1).unwrap_err().to_string();
        assert!(missing.contains("nowhere") && missing.contains("highwater dev --dir"), "{missing}");
        let folder = Folder::create(place.path()).unwrap();
        folder.write_nodes(&ClusterFile { nodes: 3, port: 9092, set: BTreeMap::new(), racks: Vec::new() }).unwrap();
        let unknown = open(place.path(), 4).unwrap_err().to_string();
        assert!(unknown.contains("no node 4") && unknown.contains("1 to 3"), "{unknown}");
        let stopped = running(&folder, 2, place.path()).unwrap_err().to_string();
        assert!(stopped.contains("dev start 2"), "{stopped}");
    }

    #[test]
    fn the_lock_tells_whether_somebody_tends_the_nodes() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::create(place.path()).unwrap();
        assert!(!is_tended(&folder).unwrap());
        let _held = disk::FolderLock::acquire(&folder.root).unwrap();
        assert!(is_tended(&folder).unwrap());
    }
}
