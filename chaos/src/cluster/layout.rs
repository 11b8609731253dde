//! Where each node is and what its configuration says.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Node numbers count from 1.
pub type NodeId = u16;

/// More voters cost latency and survive more failures.
const CONTROLLERS_MAX: u16 = 5;
const LOOPBACK_PORT: u16 = 33_092;

#[derive(Clone, Debug)]
pub struct Layout {
    pub nodes: u16,
    /// The process that made the namespaces, by which they are named; `None`: all on loopback.
    pub network_of: Option<u32>,
    /// Data, configurations and mounts; gone at the end.
    pub folder: PathBuf,
    /// Logs and history.
    pub keep: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Kafka = 0,
    Cluster = 1,
    Admin = 2,
    Replica = 3,
}

impl Layout {
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + Clone + use<> {
        1..=self.nodes
    }

    pub fn host(&self, node: NodeId) -> String {
        match self.network_of {
            Some(_) => format!("10.77.0.{node}"),
            None => "127.0.0.1".to_string(),
        }
    }

    pub fn address(&self, node: NodeId, port: Port) -> String {
        let number = match self.network_of {
            Some(_) => 9_092 + port as u16,
            None => LOOPBACK_PORT + 10 * node + port as u16,
        };
        format!("{}:{number}", self.host(node))
    }

    pub fn bootstrap(&self) -> String {
        self.ids().map(|node| self.address(node, Port::Kafka)).collect::<Vec<_>>().join(",")
    }

    pub fn node_folder(&self, node: NodeId) -> PathBuf {
        self.folder.join(format!("node-{node}"))
    }

    /// What may be a file system of its own.
    pub fn disk(&self, node: NodeId) -> PathBuf {
        self.node_folder(node).join("disk")
    }

    pub fn data(&self, node: NodeId) -> PathBuf {
        self.disk(node).join("data")
    }

    /// How many nodes vote, the first ones: an odd number.
    pub fn voters(&self) -> NodeId {
        let most = self.nodes.min(CONTROLLERS_MAX);
        if most.is_multiple_of(2) { most - 1 } else { most }
    }

    pub fn config(&self, node: NodeId) -> PathBuf {
        self.node_folder(node).join("highwater.toml")
    }

    pub fn log(&self, node: NodeId) -> PathBuf {
        self.keep.join(format!("node-{node}.log"))
    }

    pub fn write_config(&self, node: NodeId) -> std::io::Result<()> {
        std::fs::create_dir_all(self.data(node))?;
        std::fs::write(self.config(node), self.config_text(node, &self.data(node)))
    }

    fn config_text(&self, node: NodeId, data: &Path) -> String {
        let voters = self.voters();
        let roles = if node <= voters { r#"["broker", "controller"]"# } else { r#"["broker"]"# };
        let controllers: Vec<String> =
            (1..=voters).map(|id| format!("\"{id}@{}\"", self.address(id, Port::Cluster))).collect();
        let mut text = format!("node_id = {node}\ndata_dir = \"{}\"\nroles = {roles}\n", data.display());
        let _ = writeln!(text, "controllers = [{}]", controllers.join(", "));
        let listeners = [
            ("listeners.plaintext", Port::Kafka),
            ("cluster_listener", Port::Cluster),
            ("admin_listener", Port::Admin),
            ("replica_listener", Port::Replica),
        ];
        for (name, port) in listeners {
            let address = self.address(node, port);
            let _ = writeln!(text, "\n[{name}]\nbind = \"{address}\"\nadvertised = \"{address}\"");
        }
        let _ = writeln!(text, "\n[kafka]");
        for (name, value) in [
            ("auto.create.topics.enable", "false"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("offsets.topic.num.partitions", "4"),
        ] {
            let _ = writeln!(text, "\"{name}\" = \"{value}\"");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_number_of_nodes_votes_and_each_has_its_own_address() {
        let layout = Layout { nodes: 4, network_of: Some(7), folder: "/f".into(), keep: "/k".into() };
        assert_eq!([1, 2, 3, 4, 5].map(|nodes| Layout { nodes, ..layout.clone() }.voters()), [1, 1, 3, 3, 5]);
        let text = layout.config_text(4, Path::new("/d"));
        assert!(text.contains("roles = [\"broker\"]\n") && text.contains("\"3@10.77.0.3:9093\"]"), "{text}");
        let loopback = Layout { network_of: None, ..layout };
        assert_eq!(loopback.address(1, Port::Admin), "127.0.0.1:33104");
        assert_eq!(loopback.bootstrap().split(',').count(), 4);
    }
}
