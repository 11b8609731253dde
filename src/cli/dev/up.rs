//! Starting a dev cluster, tending it in the foreground, stopping it.

use super::folder::{self, ClusterFile, Folder};
use super::process::{self, RunState, Running};
use super::ready::{self, Outcome};
use crate::cli::demo;
use crate::cli::output::{self, Table};
use crate::cli::reach::Reach;
use crate::platform::{clock, disk, network};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep};

const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const DEFAULT_NODES: u16 = 3;
const DEFAULT_PORT: u16 = 9092;
/// How often the foreground looks for ended children and notes.
const TEND_EVERY: Duration = Duration::from_millis(100);

/// What was asked for.
pub struct Wanted {
    pub dir: PathBuf,
    pub nodes: Option<u16>,
    pub port: Option<u16>,
    pub set: Vec<(String, String)>,
    /// As before if empty.
    pub racks: Vec<String>,
    pub detach: bool,
    pub fresh: bool,
    pub demo: bool,
}

/// The cluster to start: what the folder holds, with what was asked for. A cluster with data keeps its shape, since its
/// nodes know each other by number and address.
fn settle(wanted: &Wanted, held: Option<ClusterFile>) -> anyhow::Result<ClusterFile> {
    let held = held.filter(|_| !wanted.fresh);
    if let Some(held) = &held {
        let asked = (wanted.nodes.unwrap_or(held.nodes), wanted.port.unwrap_or(held.port));
        anyhow::ensure!(
            asked == (held.nodes, held.port),
            "{} holds a cluster of {} nodes from port {} on; leave --nodes and --port out to go on with it, or give \
             --fresh to remove its data",
            wanted.dir.display(),
            held.nodes,
            held.port
        );
    }
    let mut file = held.unwrap_or_else(|| ClusterFile {
        nodes: wanted.nodes.unwrap_or(DEFAULT_NODES),
        port: wanted.port.unwrap_or(DEFAULT_PORT),
        set: BTreeMap::new(),
        racks: Vec::new(),
    });
    if !wanted.racks.is_empty() {
        file.racks.clone_from(&wanted.racks);
    }
    file.set.extend(wanted.set.iter().cloned());
    file.check()?;
    Ok(file)
}

pub async fn run(wanted: Wanted) -> anyhow::Result<()> {
    let folder = Folder::create(&wanted.dir)?;
    let dir = wanted.dir.display();
    let lock = disk::FolderLock::acquire(&folder.root).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => anyhow::anyhow!(
            "another `highwater dev` runs in {dir}; stop it (highwater dev stop --dir {dir}), or give another --dir and --port"
        ),
        _ => anyhow::Error::new(error).context(folder.root.display().to_string()),
    })?;
    let held = ClusterFile::read(&folder.root)?;
    for node in held.iter().flat_map(ClusterFile::ids) {
        if let Some(found) = process::find(&folder, node)? {
            anyhow::bail!(
                "node {node} of {dir} runs already (pid {}); highwater dev stop --dir {dir}",
                found.pid.as_raw_nonzero()
            );
        }
    }
    let file = settle(&wanted, held)?;
    ports_are_free(&file, file.ids()).await?;
    if wanted.fresh {
        folder.remove_nodes()?;
    }
    folder.write_nodes(&file)?;

    let mut stop = Interrupts::new()?;
    let began = clock::now();
    let parent = (!wanted.detach).then(std::process::id);
    let mut children = Children::default();
    let mut come_up = async || {
        for node in file.ids() {
            children.add(node, process::spawn(&folder, node, parent)?);
        }
        ready::wait(&folder, &file, file.ids(), READY_DEADLINE, |node| output::tell(&format!("node {node} is ready")))
            .await
    };
    let ready = tokio::select! {
        ready = come_up() => Some(ready),
        () = stop.next() => None,
    };
    match ready {
        Some(Ok(Outcome::Ready)) => {}
        other => {
            stop_nodes(&folder, &file, output::tell, stop.next()).await?;
            return match other {
                None => Ok(()),
                Some(Err(error)) => Err(error),
                Some(Ok(Outcome::Ready)) => unreachable!("matched above"),
                Some(Ok(Outcome::NotYet(nodes))) => {
                    let first = nodes.first().copied().unwrap_or(1);
                    Err(anyhow::anyhow!(
                        "nodes {nodes:?} were not ready within {READY_DEADLINE:?}; the last lines of {}:\n{}",
                        folder.log(first).display(),
                        folder.log_tail(first, 12)
                    ))
                }
            };
        }
    }
    greet(&folder, &file, &wanted, began.elapsed())?;
    if wanted.detach {
        return Ok(());
    }
    let demo = async { if wanted.demo { demo::run(Reach::of_dev(&file)).await } else { std::future::pending().await } };
    let hint = folder::dir_option(&wanted.dir);
    let ended = tokio::select! {
        ended = demo => ended,
        () = stop.next() => Ok(()),
        tended = tend(&folder, &file, &mut children, &hint) => tended,
    };
    output::tell("\nstopping; Ctrl-C again kills");
    stop_nodes(&folder, &file, output::tell, stop.next()).await?;
    folder::clear(&folder.stop_wanted())?;
    drop(lock);
    ended
}

/// Fails naming the first port that is taken, and the node that needs it.
pub async fn ports_are_free(file: &ClusterFile, nodes: impl IntoIterator<Item = u16>) -> anyhow::Result<()> {
    for node in nodes {
        for (purpose, port) in file.ports(node).named() {
            if let Err(error) = network::listen(&format!("127.0.0.1:{port}")).await {
                anyhow::bail!(
                    "port {port}, which node {node} needs ({purpose}), cannot be used: {error}. \
                     Stop what uses it, or give another --port (with --fresh, or another --dir)"
                );
            }
        }
    }
    Ok(())
}

fn greet(folder: &Folder, file: &ClusterFile, wanted: &Wanted, took: Duration) -> anyhow::Result<()> {
    output::line(format!(
        "\nHighwater {}: {} nodes in {}, ready after {:.1} s\n",
        env!("CARGO_PKG_VERSION"),
        file.nodes,
        wanted.dir.display(),
        took.as_secs_f64()
    ))?;
    let mut table = Table::new(&["node", "pid", "kafka", "admin", "log"]);
    for node in file.ids() {
        let ports = file.ports(node);
        table.row(vec![
            node.to_string(),
            output::or_dash(process::find(folder, node)?.map(|found| found.pid.as_raw_nonzero())),
            format!("127.0.0.1:{}", ports.kafka),
            format!("127.0.0.1:{}", ports.admin),
            wanted.dir.join(format!("node-{node}")).join("log").display().to_string(),
        ]);
    }
    table.print()?;
    let dir = folder::dir_option(&wanted.dir);
    let elsewhere = if dir.is_empty() {
        String::new()
    } else {
        format!(" --admin {}", file.addresses(|ports| ports.admin).join(","))
    };
    let victim = file.nodes.min(2);
    output::line(format!(
        "\nbootstrap.servers={}\n\nTry in another shell:\n  \
         highwater cluster watch{elsewhere}\n  \
         highwater topic create orders --partitions 6{elsewhere}\n  \
         highwater dev kill {victim}{dir}     and then: highwater dev start {victim}{dir}\n",
        file.addresses(|ports| ports.kafka).join(",")
    ))?;
    output::line(if wanted.detach {
        format!("Running in the background; highwater dev stop{dir}")
    } else {
        "Ctrl-C stops all nodes; their data stays.".to_string()
    })
}

/// Ctrl-C, SIGTERM, or the terminal closed.
struct Interrupts {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Interrupts {
    fn new() -> io::Result<Interrupts> {
        let signals =
            [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
        Ok(Interrupts { signals })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The foreground's own children: they have to be waited for, or they stay as zombies.
#[derive(Default)]
struct Children {
    by_node: BTreeMap<u16, Child>,
}

impl Children {
    fn add(&mut self, node: u16, child: Child) {
        // One that is replaced has ended: it was found not to run.
        self.by_node.insert(node, child);
    }

    /// Nodes that have ended since the last call, and how.
    fn ended(&mut self) -> Vec<(u16, String)> {
        let ended: Vec<(u16, String)> = self
            .by_node
            .iter_mut()
            .filter_map(|(node, child)| Some((*node, child.try_wait().ok()??.to_string())))
            .collect();
        for (node, _) in &ended {
            self.by_node.remove(node);
        }
        ended
    }
}

/// Tells of nodes that end, starts those that notes ask for; returns when a note asks to stop.
async fn tend(folder: &Folder, file: &ClusterFile, children: &mut Children, dir: &str) -> anyhow::Result<()> {
    let mut ticks = interval(TEND_EVERY);
    loop {
        ticks.tick().await;
        let ended = children.ended();
        if disk::exists(&folder.stop_wanted()) {
            return Ok(());
        }
        for (node, how) in ended {
            output::tell(&format!(
                "{} node {node} ended: {how}; highwater dev start {node}{dir}",
                output::time_of_day()
            ));
        }
        for node in file.ids() {
            let note = folder.start_wanted(node);
            if !disk::exists(&note) {
                continue;
            }
            if process::find(folder, node)?.is_none() {
                children.add(node, process::spawn(folder, node, Some(std::process::id()))?);
                output::tell(&format!("{} node {node} starts again", output::time_of_day()));
            }
            // After the start: who wrote it waits for this.
            folder::clear(&note)?;
        }
    }
}

/// SIGTERM to all that run, then SIGKILL to those that are there still at the deadline or when `hurry` resolves.
/// Gives how many ran.
pub async fn stop_nodes(
    folder: &Folder,
    file: &ClusterFile,
    tell: impl Fn(&str),
    hurry: impl Future<Output = ()>,
) -> anyhow::Result<usize> {
    let mut running: Vec<(u16, Running)> = Vec::new();
    for node in file.ids() {
        if let Some(found) = process::find(folder, node)? {
            running.push((node, found));
        }
    }
    for (_, found) in &running {
        found.signal(Signal::TERM)?;
        if found.state() == RunState::Paused {
            found.signal(Signal::CONT)?;
        }
    }
    let count = running.len();
    let until = Instant::now() + STOP_DEADLINE;
    let all_gone = async {
        while Instant::now() < until {
            let mut left = Vec::new();
            for (node, found) in running.drain(..) {
                if found.gone(Duration::ZERO).await {
                    tell(&format!("node {node} stopped"));
                } else {
                    left.push((node, found));
                }
            }
            running = left;
            if running.is_empty() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = all_gone => {}
        () = hurry => {}
    }
    for node in file.ids() {
        if let Some(found) = process::find(folder, node)? {
            tell(&format!("node {node} is killed"));
            found.signal(Signal::KILL)?;
            anyhow::ensure!(
                found.gone(Duration::from_secs(5)).await,
                "node {node} (pid {}) does not die",
                found.pid.as_raw_nonzero()
            );
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(nodes: Option<u16>, fresh: bool) -> Wanted {
        let set = vec![("num.partitions".to_string(), "6".to_string())];
        Wanted { dir: "d".into(), nodes, port: None, set, racks: Vec::new(), detach: false, fresh, demo: false }
    }

    #[test]
    fn a_cluster_with_data_keeps_its_shape_and_its_configs() {
        let set = BTreeMap::from([("log.retention.ms".to_string(), "1000".to_string())]);
        let held = ClusterFile { nodes: 5, port: 19_092, set, racks: Vec::new() };
        let settled = settle(&wanted(None, false), Some(held.clone())).unwrap();
        assert_eq!((settled.nodes, settled.port, settled.set.len()), (5, 19_092, 2));
        let refused = settle(&wanted(Some(3), false), Some(held.clone())).unwrap_err().to_string();
        assert!(refused.contains("5 nodes") && refused.contains("--fresh"), "{refused}");
        let fresh = settle(&wanted(None, true), Some(held)).unwrap();
        assert_eq!((fresh.nodes, fresh.port, fresh.set.len()), (3, 9092, 1));
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_node() {
        let taken = network::listen("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        // The taken port is node 2's admin port.
        let Some(base) = port.checked_sub(12).filter(|base| *base > 1_024) else { return };
        let file = ClusterFile { nodes: 2, port: base, set: BTreeMap::new(), racks: Vec::new() };
        if file.check().is_err() {
            return;
        }
        let refused = ports_are_free(&file, [2]).await.unwrap_err().to_string();
        // Another process may hold one of the three before it.
        assert!(refused.contains("node 2"), "{refused}");
    }
}
