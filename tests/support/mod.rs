//! A real cluster for a test: `highwater dev` processes on ports of their own, driven as a user would drive them.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod load;
pub mod metrics;
pub mod powered;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");

/// Waits until `condition` gives a value, or fails with `what` at the deadline.
pub fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// True where a missing tool must fail the test instead of skipping it.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Whether a tool can be run; says loudly that the test is skipped where not, and fails in CI.
pub fn have(tool: &str, arguments: &[&str]) -> bool {
    let found = Command::new(tool)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(found || !in_ci(), "{tool} {arguments:?} does not run here, and CI may not skip");
    if !found {
        eprintln!("\n*** SKIPPED: {tool} {arguments:?} does not run here; install it to run this test ***\n");
    }
    found
}

/// A base port with room for `nodes` nodes. Test binaries run one after another; within one, tests count up.
fn free_base_port(nodes: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = 20_000 + (u16::try_from(std::process::id() % 97).unwrap_or(0) * 100 + step * 100) % 12_000;
        let all_free = (0..nodes)
            .flat_map(|node| (0..4).map(move |offset| base + 10 * node + offset))
            .all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
        if all_free {
            return base;
        }
    }
}

/// A detached dev cluster; stopped, and its folder removed, when dropped (the folder stays if the test failed).
pub struct Cluster {
    pub dir: PathBuf,
    pub port: u16,
    pub nodes: u16,
}

impl Cluster {
    pub fn start(name: &str, nodes: u16, sets: &[&str]) -> Cluster {
        Cluster::start_in(name, nodes, sets, &[])
    }

    /// The nodes are in these racks in turn.
    pub fn start_in(name: &str, nodes: u16, sets: &[&str], racks: &[&str]) -> Cluster {
        let cluster = Cluster::reserve(name, nodes);
        let (count, port) = (nodes.to_string(), cluster.port.to_string());
        let mut arguments = vec!["dev", "--nodes", &count, "--port", &port, "--detach"];
        for set in sets {
            arguments.extend(["--set", set]);
        }
        let racks = racks.join(",");
        if !racks.is_empty() {
            arguments.extend(["--racks", &racks]);
        }
        cluster.dev(&arguments[1..]).assert_ok("dev --detach");
        cluster
    }

    /// A folder and ports; nothing runs yet.
    pub fn reserve(name: &str, nodes: u16) -> Cluster {
        let dir = std::env::temp_dir().join(format!("highwater-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Cluster { port: free_base_port(nodes), dir, nodes }
    }

    /// Runs `highwater dev … --dir DIR`.
    pub fn dev(&self, arguments: &[&str]) -> Finished {
        let mut all = vec!["dev"];
        all.extend(arguments);
        all.extend(["--dir", self.dir.to_str().expect("utf-8 path")]);
        run(HIGHWATER, &all)
    }

    pub fn kill(&self, node: u16) {
        self.dev(&["kill", &node.to_string()]).assert_ok("dev kill");
    }

    pub fn start_node(&self, node: u16) {
        self.dev(&["start", &node.to_string()]).assert_ok("dev start");
    }

    pub fn node_dir(&self, node: u16) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    /// What the node logged, over all its runs.
    pub fn log(&self, node: u16) -> String {
        std::fs::read_to_string(self.node_dir(node).join("log")).unwrap_or_default()
    }

    pub fn pid(&self, node: u16) -> Option<u32> {
        std::fs::read_to_string(self.node_dir(node).join("pid")).ok()?.trim().parse().ok()
    }

    pub fn kafka_port(&self, node: u16) -> u16 {
        self.port + 10 * (node - 1)
    }

    pub fn admin(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.kafka_port(node) + 2)
    }

    pub fn bootstrap(&self) -> String {
        (1..=self.nodes).map(|node| format!("127.0.0.1:{}", self.kafka_port(node))).collect::<Vec<_>>().join(",")
    }

    /// Runs a `highwater` command against the admin port of `node`.
    pub fn cli(&self, node: u16, arguments: &[&str]) -> Finished {
        let (admin, bootstrap) = (self.admin(node), self.bootstrap());
        let mut all: Vec<&str> = arguments.to_vec();
        all.extend(["--admin", &admin, "--bootstrap", &bootstrap]);
        run(HIGHWATER, &all)
    }

    pub fn create_topic(&self, name: &str, partitions: i32, replicas: i32, configs: &[&str]) {
        let (partitions, replicas) = (partitions.to_string(), replicas.to_string());
        let mut arguments =
            vec!["topic", "create", name, "--partitions", &partitions, "--replication-factor", &replicas];
        for config in configs {
            arguments.extend(["--config", config]);
        }
        self.cli(1, &arguments).assert_ok("topic create");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.dev(&["stop"]);
        if std::thread::panicking() {
            eprintln!("the cluster's folder is kept: {}", self.dir.display());
            for node in 1..=self.nodes {
                let log = std::fs::read_to_string(self.node_dir(node).join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- node {node}, last lines of its log");
                for line in lines.iter().skip(lines.len().saturating_sub(25)) {
                    eprintln!("{line}");
                }
            }
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// A command that ended, with what it printed.
pub struct Finished {
    pub command: String,
    pub output: Output,
}

impl Finished {
    pub fn ok(&self) -> bool {
        self.output.status.success()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub fn assert_ok(&self, what: &str) -> &Finished {
        assert!(
            self.ok(),
            "{what} failed: {}\n{}\nstdout:\n{}\nstderr:\n{}",
            self.command,
            self.output.status,
            self.stdout(),
            self.stderr()
        );
        self
    }
}

pub fn run(program: &str, arguments: &[&str]) -> Finished {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("HIGHWATER_ADMIN")
        .env_remove("HIGHWATER_BOOTSTRAP")
        .output()
        .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    Finished { command: format!("{program} {}", arguments.join(" ")), output }
}

/// Runs a shell line with `$1…` arguments, for pipes into other people's tools.
pub fn shell(script: &str, arguments: &[&str]) -> Finished {
    let mut all = vec!["-c", script, "sh"];
    all.extend(arguments);
    run("sh", &all)
}

pub fn python(script: &str, arguments: &[&str]) -> Finished {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut all = vec![path.to_str().expect("utf-8 path")];
    all.extend(arguments);
    run("python3", &all)
}
