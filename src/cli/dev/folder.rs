//! The dev cluster's folder: what is where, which ports, and each node's configuration.

use crate::platform::disk;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub const DEFAULT_FOLDER: &str = "highwater-dev";
const CLUSTER_FILE: &str = "cluster.json";
/// Between the Kafka ports of two nodes.
const STRIDE: u16 = 10;
/// More voters cost latency and survive more failures; five survive two.
const CONTROLLERS_MAX: u16 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub kafka: u16,
    pub cluster: u16,
    pub admin: u16,
    pub replica: u16,
}

impl Ports {
    /// Of node `node` (from 1) with `base` as node 1's Kafka port.
    pub fn of(base: u16, node: u16) -> Option<Ports> {
        let kafka = node.checked_sub(1)?.checked_mul(STRIDE)?.checked_add(base)?;
        let replica = kafka.checked_add(3)?;
        Some(Ports { kafka, cluster: kafka + 1, admin: kafka + 2, replica })
    }

    pub fn named(self) -> [(&'static str, u16); 4] {
        [("Kafka", self.kafka), ("cluster", self.cluster), ("admin", self.admin), ("replica", self.replica)]
    }
}

/// What the folder's cluster is: fixed once it has data, but for the configs.
///
/// Invariant: the ports of all nodes fit (checked when it is made or read).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    pub nodes: u16,
    pub port: u16,
    /// Broker configs that `--set` gave, now and earlier.
    pub set: BTreeMap<String, String>,
    /// Node i is in rack (i − 1) mod their number; in none if there are none.
    #[serde(default)]
    pub racks: Vec<String>,
}

impl ClusterFile {
    /// `None` if the folder holds no cluster.
    pub fn read(folder: &Path) -> anyhow::Result<Option<ClusterFile>> {
        let path = folder.join(CLUSTER_FILE);
        let name = || path.display().to_string();
        let Some(bytes) = disk::read_file(&path).with_context(name)? else { return Ok(None) };
        let file: ClusterFile = serde_json::from_slice(&bytes).with_context(name)?;
        file.check().with_context(name)?;
        Ok(Some(file))
    }

    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(CLUSTER_FILE);
        let bytes = serde_json::to_vec_pretty(self).context("the cluster file")?;
        disk::write_atomic(&path, &bytes).with_context(|| path.display().to_string())
    }

    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.nodes > 0, "a cluster has at least one node");
        anyhow::ensure!(
            Ports::of(self.port, self.nodes).is_some(),
            "{} nodes from port {} on do not fit below port 65536",
            self.nodes,
            self.port
        );
        Ok(())
    }

    pub fn ports(&self, node: u16) -> Ports {
        Ports::of(self.port, node).expect("the ports of all nodes fit")
    }

    pub fn ids(&self) -> std::ops::RangeInclusive<u16> {
        1..=self.nodes
    }

    pub fn addresses(&self, port: impl Fn(Ports) -> u16) -> Vec<String> {
        self.ids().map(|node| format!("127.0.0.1:{}", port(self.ports(node)))).collect()
    }

    /// An odd number, so that each voter counts: the first nodes.
    pub fn controllers(&self) -> u16 {
        let most = self.nodes.min(CONTROLLERS_MAX);
        if most.is_multiple_of(2) { most - 1 } else { most }
    }

    /// The node's `highwater.toml`.
    pub fn node_config(&self, node: u16, data: &Path) -> anyhow::Result<String> {
        let data = data.to_str().with_context(|| format!("{} is not UTF-8", data.display()))?;
        let ports = self.ports(node);
        let roles = if node <= self.controllers() { r#"["broker", "controller"]"# } else { r#"["broker"]"# };
        let controllers: Vec<String> = (1..=self.controllers())
            .map(|id| format!("{}", quoted(&format!("{id}@127.0.0.1:{}", self.ports(id).cluster))))
            .collect();
        let mut text = String::from("# Written by `highwater dev` at each start.\n");
        let _ = writeln!(text, "node_id = {node}\ndata_dir = {}\nroles = {roles}", quoted(data));
        let _ = writeln!(text, "controllers = [{}]", controllers.join(", "));
        if !self.racks.is_empty() {
            let rack = &self.racks[usize::from(node - 1) % self.racks.len()];
            let _ = writeln!(text, "rack = {}", quoted(rack));
        }
        let listeners = [
            ("listeners.plaintext", ports.kafka),
            ("cluster_listener", ports.cluster),
            ("admin_listener", ports.admin),
            ("replica_listener", ports.replica),
        ];
        for (name, port) in listeners {
            let _ = writeln!(text, "\n[{name}]\nbind = \"127.0.0.1:{port}\"\nadvertised = \"127.0.0.1:{port}\"");
        }
        let _ = writeln!(text, "\n[kafka]");
        // A person who starts one consumer should not wait for more of its group.
        let defaults = BTreeMap::from([("group.initial.rebalance.delay.ms".to_string(), "0".to_string())]);
        for (name, value) in defaults.into_iter().chain(self.set.clone()).collect::<BTreeMap<_, _>>() {
            let _ = writeln!(text, "{} = {}", quoted(&name), quoted(&value));
        }
        Ok(text)
    }
}

fn quoted(text: &str) -> toml::Value {
    toml::Value::String(text.to_string())
}

/// Invariant: `root` is absolute and without links, so that every command names a node's files by the same words.
#[derive(Clone, Debug)]
pub struct Folder {
    pub root: PathBuf,
}

impl Folder {
    pub fn create(dir: &Path) -> anyhow::Result<Folder> {
        disk::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Folder { root: dir.canonicalize().with_context(|| dir.display().to_string())? })
    }

    /// A folder that holds a cluster.
    pub fn open(dir: &Path) -> anyhow::Result<(Folder, ClusterFile)> {
        let file = ClusterFile::read(dir)?
            .with_context(|| format!("{} holds no dev cluster; start one: highwater dev --dir {0}", dir.display()))?;
        Ok((Folder { root: dir.canonicalize().with_context(|| dir.display().to_string())? }, file))
    }

    pub fn node(&self, node: u16) -> PathBuf {
        self.root.join(format!("node-{node}"))
    }
    pub fn config(&self, node: u16) -> PathBuf {
        self.node(node).join("highwater.toml")
    }
    pub fn pid(&self, node: u16) -> PathBuf {
        self.node(node).join("pid")
    }
    pub fn log(&self, node: u16) -> PathBuf {
        self.node(node).join("log")
    }
    pub fn data(&self, node: u16) -> PathBuf {
        self.node(node).join("data")
    }

    /// A note to a foreground `dev`: start this node as your child.
    pub fn start_wanted(&self, node: u16) -> PathBuf {
        self.node(node).join("start-wanted")
    }
    /// A note to a foreground `dev`: stop.
    pub fn stop_wanted(&self) -> PathBuf {
        self.root.join("stop-wanted")
    }

    /// Writes each node's folder and configuration anew; data stays.
    pub fn write_nodes(&self, file: &ClusterFile) -> anyhow::Result<()> {
        for node in file.ids() {
            let path = self.config(node);
            disk::create_dir_all(&self.node(node)).with_context(|| path.display().to_string())?;
            let text = file.node_config(node, &self.data(node))?;
            disk::write_atomic(&path, text.as_bytes()).with_context(|| path.display().to_string())?;
            clear(&self.start_wanted(node))?;
        }
        clear(&self.stop_wanted())?;
        file.write(&self.root)
    }

    /// Removes what an earlier cluster left: folders of nodes that this command wrote, and nothing else.
    pub fn remove_nodes(&self) -> anyhow::Result<()> {
        let entries = disk::list(&self.root).with_context(|| self.root.display().to_string())?;
        for entry in entries {
            let node = entry.name.strip_prefix("node-").and_then(|number| number.parse::<u16>().ok());
            if let Some(node) = node.filter(|node| disk::exists(&self.config(*node))) {
                let path = self.node(node);
                disk::remove_dir_all(&path).with_context(|| path.display().to_string())?;
            }
        }
        clear(&self.root.join(CLUSTER_FILE))
    }

    /// The last lines of a node's log.
    pub fn log_tail(&self, node: u16, lines: usize) -> String {
        let text = disk::read_file(&self.log(node)).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// How a hint must name the folder: nothing, or " --dir D".
pub fn dir_option(dir: &Path) -> String {
    if dir.as_os_str() == DEFAULT_FOLDER { String::new() } else { format!(" --dir {}", dir.display()) }
}

pub fn clear(path: &Path) -> anyhow::Result<()> {
    disk::remove_file(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::broker::NodeConfig;

    fn cluster(nodes: u16) -> ClusterFile {
        ClusterFile { nodes, port: 9092, set: BTreeMap::new(), racks: Vec::new() }
    }

    #[test]
    fn ports_are_ten_apart_and_never_wrap() {
        let second = Ports { kafka: 9102, cluster: 9103, admin: 9104, replica: 9105 };
        assert_eq!(Ports::of(9092, 2), Some(second));
        assert_eq!(Ports::of(65_532, 1).map(|ports| ports.replica), Some(65_535));
        assert_eq!(Ports::of(65_533, 1), None);
        assert_eq!(Ports::of(65_532, 2), None);
        assert_eq!(Ports::of(9092, 0), None, "nodes count from 1");
        assert!(ClusterFile { nodes: 50, port: 65_100, set: BTreeMap::new(), racks: Vec::new() }.check().is_err());
    }

    #[test]
    fn voters_are_odd_in_number() {
        let voters: Vec<u16> = (1..=7).map(|nodes| cluster(nodes).controllers()).collect();
        assert_eq!(voters, [1, 1, 3, 3, 5, 5, 5]);
    }

    #[test]
    fn the_written_configuration_is_read_back_as_meant() {
        let mut file = cluster(4);
        file.set.insert("num.partitions".into(), "6".into());
        file.racks = vec!["a".into(), "b".into(), "c".into()];
        let text = file.node_config(4, Path::new("/tmp/a \"b\"/data")).unwrap();
        let config = NodeConfig::load(Some((Path::new("highwater.toml"), &text)), Vec::new(), &[]).unwrap();
        assert_eq!((config.node_id.0, config.is_broker, config.is_controller), (4, true, false));
        assert_eq!(config.rack.as_deref(), Some("a"), "the fourth begins anew");
        assert_eq!(config.data_dir, Path::new("/tmp/a \"b\"/data"));
        assert_eq!(config.kafka_listeners[0].bind, "127.0.0.1:9122");
        assert_eq!(config.replica_listener.advertised, "127.0.0.1:9125");
        assert_eq!(config.controllers.len(), 3);
        assert_eq!(config.controllers[2].1, "127.0.0.1:9113");
        assert_eq!(config.kafka.int("num.partitions"), 6);
        assert_eq!(config.kafka.int("group.initial.rebalance.delay.ms"), 0);
    }

    #[test]
    fn fresh_removes_nodes_and_leaves_what_is_not_ours() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::create(&place.path().join("d")).unwrap();
        folder.write_nodes(&cluster(2)).unwrap();
        let mine = folder.root.join("node-mine");
        disk::create_dir_all(&mine).unwrap();
        disk::create_dir_all(&folder.root.join("node-9")).unwrap();
        assert_eq!(ClusterFile::read(&folder.root).unwrap(), Some(cluster(2)));
        folder.remove_nodes().unwrap();
        let left: Vec<String> = disk::list(&folder.root).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(left, ["node-9", "node-mine"]);
        assert!(Folder::open(&folder.root).unwrap_err().to_string().contains("no dev cluster"));
    }
}
