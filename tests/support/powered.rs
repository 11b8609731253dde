//! A cluster whose nodes run under the power-cut layer: each can lose its power, or its disk.

use super::{Cluster, HIGHWATER, wait_for};
use powercut::{Fault, Policy};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

pub struct Powered {
    pub cluster: Cluster,
    shim: PathBuf,
    journals: PathBuf,
    running: BTreeMap<u16, Child>,
    /// A deliberate bug of all nodes, where the binary has them.
    pub bug: String,
}

/// How a node is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    Nothing,
    /// No line of its log can be written.
    FullLog,
    Shim,
    /// Its syncs make nothing durable.
    ForgettingShim,
    /// Killed when its so manyth write, sync or change of a name is under way.
    EndingShim(u32),
}

impl Powered {
    /// Nodes with their configuration; none runs yet.
    pub fn new(name: &str, nodes: u16) -> Powered {
        let cluster = Cluster::reserve(name, nodes);
        let memory = Path::new("/dev/shm");
        let journals = if memory.is_dir() { memory } else { cluster.dir.as_path() };
        let journals = journals.join(format!("highwater-powercut-{name}-{}", std::process::id()));
        let shim = powercut::build_shim().expect("the shim builds");
        let powered = Powered { shim, journals, running: BTreeMap::new(), bug: String::new(), cluster };
        for node in 1..=nodes {
            fs::create_dir_all(powered.cluster.node_dir(node)).expect("a folder");
            fs::create_dir_all(&powered.journals).expect("a folder");
            fs::write(powered.config(node), powered.configuration(node)).expect("written");
        }
        powered
    }

    fn config(&self, node: u16) -> PathBuf {
        self.cluster.node_dir(node).join("highwater.toml")
    }

    pub fn data(&self, node: u16) -> PathBuf {
        self.cluster.node_dir(node).join("data")
    }

    pub fn journal(&self, node: u16) -> PathBuf {
        self.journals.join(node.to_string())
    }

    fn configuration(&self, node: u16) -> String {
        let port = self.cluster.kafka_port(node);
        let controllers: Vec<String> = (1..=self.cluster.nodes)
            .map(|id| format!("\"{id}@127.0.0.1:{}\"", self.cluster.kafka_port(id) + 1))
            .collect();
        let mut text = format!(
            "node_id = {node}\ndata_dir = {:?}\nroles = [\"broker\", \"controller\"]\ncontrollers = [{}]\n",
            self.data(node),
            controllers.join(", ")
        );
        let listeners = ["listeners.plaintext", "cluster_listener", "admin_listener", "replica_listener"];
        for (port, name) in (port..).zip(listeners) {
            text.push_str(&format!("[{name}]\nbind = \"127.0.0.1:{port}\"\nadvertised = \"127.0.0.1:{port}\"\n"));
        }
        text
    }

    pub fn start(&mut self, node: u16, under: Under) {
        let log = match under {
            Under::FullLog => PathBuf::from("/dev/full"),
            _ => self.cluster.node_dir(node).join("log"),
        };
        let log = File::options().create(true).append(true).open(log);
        let mut command = Command::new(HIGHWATER);
        command.args(["serve", "--config"]).arg(self.config(node)).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log.expect("a log"));
        if cfg!(feature = "chaos-bugs") {
            command.arg("--i-want-chaos-bugs").env("HIGHWATER_CHAOS_BUG", &self.bug);
        }
        if !matches!(under, Under::Nothing | Under::FullLog) {
            command.envs(powercut::environment(&self.shim, &self.journal(node), &self.data(node)));
        }
        if under == Under::ForgettingShim {
            command.env(powercut::FORGET_SYNCS_VARIABLE, "1");
        }
        if let Under::EndingShim(operations) = under {
            command.env(powercut::END_AT_VARIABLE, operations.to_string());
        }
        self.running.insert(node, command.spawn().expect("the node starts"));
    }

    /// Starts a node whose data folder is a file system of its own in memory, of so many MiB. It lives in the node's mount
    /// namespace and ends with it: look at it through [`Powered::own_disk`].
    pub fn start_on_small_disk(&mut self, node: u16, mib: u32) {
        fs::create_dir_all(self.data(node)).expect("a folder");
        let log = File::options().create(true).append(true).open(self.cluster.node_dir(node).join("log"));
        let mut command = Command::new("unshare");
        // Both exec, so the child is the node.
        command.args(["-rm", "sh", "-c", "mount -t tmpfs -o size=$0m highwater $1 && shift && exec \"$@\""]);
        command.arg(mib.to_string()).arg(self.data(node)).arg(HIGHWATER).args(["serve", "--config"]);
        command.arg(self.config(node)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log"));
        if cfg!(feature = "chaos-bugs") {
            command.arg("--i-want-chaos-bugs");
        }
        self.running.insert(node, command.spawn().expect("the node starts"));
    }

    /// The data folder as the running node sees it.
    pub fn own_disk(&self, node: u16) -> PathBuf {
        let pid = self.running.get(&node).expect("it runs").id();
        let data = self.data(node);
        Path::new("/proc").join(pid.to_string()).join("root").join(data.strip_prefix("/").expect("absolute"))
    }

    pub fn is_running(&mut self, node: u16) -> bool {
        self.running.get_mut(&node).is_some_and(|child| child.try_wait().expect("a child").is_none())
    }

    pub fn start_all(&mut self, under: Under) {
        (1..=self.cluster.nodes).for_each(|node| self.start(node, under));
    }

    pub fn kill(&mut self, node: u16) {
        let mut child = self.running.remove(&node).expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    /// SIGTERM, and the whole way down.
    pub fn stop(&mut self, node: u16) {
        let child = self.running.get(&node).expect("it runs");
        let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
        assert!(stopped.success());
        assert!(self.wait_end(node).success(), "node {node} stops cleanly");
    }

    /// Waits until the node has ended by itself.
    pub fn wait_end(&mut self, node: u16) -> ExitStatus {
        let child = self.running.get_mut(&node).expect("it runs");
        let status = wait_for("the node ends", SOON, || child.try_wait().expect("a child"));
        self.running.remove(&node);
        status
    }

    /// Of dead nodes.
    pub fn cut(&self, node: u16, policy: Policy) -> powercut::Rewound {
        assert!(!self.running.contains_key(&node));
        powercut::rewind(&self.journal(node), policy).expect("rewound")
    }

    /// What a dead node has written counts as durable: its files may be changed by others then.
    pub fn forget(&self, node: u16) {
        assert!(!self.running.contains_key(&node));
        powercut::forget(&self.journal(node)).expect("forgotten");
    }

    pub fn set_faults(&self, node: u16, faults: &[Fault]) {
        powercut::set_faults(&self.journal(node), faults).expect("told");
    }

    /// Creates a topic once the cluster takes it.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        // A broker that is still fenced is chosen as a replica, and leads nothing.
        wait_for("every broker is alive", SOON, || {
            let told = self.cluster.cli(1, &["broker", "list", "-o", "json"]).stdout();
            let told: serde_json::Value = serde_json::from_str(&told).ok()?;
            let alive = told["brokers"].as_array()?.iter().filter(|broker| broker["liveness"] == "alive").count();
            (alive == usize::from(self.cluster.nodes)).then_some(())
        });
        let (partitions, replicas) = (partitions.to_string(), self.cluster.nodes.to_string());
        wait_for("a topic can be created", SOON, || {
            let arguments = ["topic", "create", name, "--partitions", &partitions, "--replication-factor", &replicas];
            let created = self.cluster.cli(1, &arguments);
            (created.ok() || created.stderr().contains("exists")).then_some(())
        });
        self.wait_in_sync(name);
    }

    /// (leader, ISR) by partition, as a client sees them.
    pub fn partitions(&self, topic: &str) -> Option<Vec<(i32, Vec<i32>)>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap())
            .set("reconnect.backoff.ms", "20")
            .set("log_level", "0")
            .create()
            .expect("a client");
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
        let topic = metadata.topics().first()?;
        Some(topic.partitions().iter().map(|p| (p.leader(), p.isr().to_vec())).collect())
    }

    pub fn wait_in_sync(&self, topic: &str) {
        wait_for("every partition has a leader and all replicas in sync", SOON, || {
            let found = self.partitions(topic)?;
            let all = usize::from(self.cluster.nodes);
            let is_whole = |(leader, isr): &(i32, Vec<i32>)| *leader > 0 && isr.len() == all;
            (!found.is_empty() && found.iter().all(is_whole)).then_some(())
        });
    }

    pub fn log(&self, node: u16) -> String {
        fs::read_to_string(self.cluster.node_dir(node).join("log")).unwrap_or_default()
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.journals);
    }
}
