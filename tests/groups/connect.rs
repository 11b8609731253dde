//! Kafka Connect in distributed mode: a file's lines into a topic, and out of it into another file.

use super::process::Process;
use super::programs;
use super::scenario::{coordinator, wait_in_sync};
use super::support::{Cluster, wait_for};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
const GROUP: &str = "connect-workers";

struct Worker<'a> {
    cluster: &'a Cluster,
    port: u16,
}

impl Worker<'_> {
    fn start(&self) -> Process {
        let settings = self.cluster.dir.join("connect.properties");
        let mut text = format!(
            "bootstrap.servers={}\ngroup.id={GROUP}\nlisteners=http://127.0.0.1:{}\n",
            self.cluster.bootstrap(),
            self.port
        );
        for storage in ["config", "offset", "status"] {
            text.push_str(&format!(
                "{storage}.storage.topic=connect-{storage}\n{storage}.storage.replication.factor=3\n"
            ));
        }
        for line in [
            "offset.storage.partitions=3",
            "status.storage.partitions=3",
            "key.converter=org.apache.kafka.connect.storage.StringConverter",
            "value.converter=org.apache.kafka.connect.storage.StringConverter",
            "offset.flush.interval.ms=500",
            "session.timeout.ms=6000",
            "heartbeat.interval.ms=500",
            "scheduled.rebalance.max.delay.ms=1000",
            "plugin.discovery=service_load",
            "consumer.session.timeout.ms=6000",
            "consumer.heartbeat.interval.ms=500",
            "consumer.metadata.max.age.ms=2000",
            "reconnect.backoff.max.ms=300",
        ] {
            text.push_str(line);
            text.push('\n');
        }
        std::fs::write(&settings, text).expect("written");
        let mut command = programs::java("org.apache.kafka.connect.cli.ConnectDistributed").expect("it was there");
        command.arg(settings);
        Process::start("connect", command, self.cluster.dir.join("connect.log"))
    }

    /// The status and the body of an answer, if there was one.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let head = format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_string()))
    }

    /// Creates the connector, or finds it there from a try whose answer did not come.
    fn create(&self, process: &mut Process, name: &str, config: &serde_json::Value) {
        let body = config.to_string();
        // A worker that has just started answers, but does not know this path yet.
        let mut last = None;
        let created = |last: &mut Option<(u16, String)>| {
            *last = self.ask("PUT", &format!("/connectors/{name}/config"), &body);
            matches!(last, Some((200 | 201, _))).then_some(())
        };
        wait_for(&format!("the connector {name}"), SOON, || {
            process.assert_runs();
            let before = last.clone();
            let done = created(&mut last);
            if done.is_none() && last != before {
                eprintln!("connect: {name}: {last:?}");
            }
            done
        });
        wait_for(&format!("the task of {name} runs"), SOON, || {
            process.assert_runs();
            let (_, status) = self.ask("GET", &format!("/connectors/{name}/status"), "")?;
            let at = status.find('{')?;
            let status: serde_json::Value = serde_json::from_str(&status[at..=status.rfind('}')?]).ok()?;
            let task = status["tasks"].get(0)?;
            assert_ne!(task["state"], "FAILED", "{task}");
            (task["state"] == "RUNNING").then_some(())
        });
        eprintln!("connect: {name} runs");
    }
}

struct Files {
    from: PathBuf,
    to: PathBuf,
    written: BTreeSet<String>,
}

impl Files {
    fn write(&mut self, count: usize) {
        let mut file = File::options().create(true).append(true).open(&self.from).expect("a file");
        for _ in 0..count {
            let line = format!("line {}", self.written.len());
            writeln!(file, "{line}").expect("written");
            self.written.insert(line);
        }
    }

    fn wait_arrived(&self, process: &mut Process, what: &str) {
        let lines = wait_for(what, SOON, || {
            process.assert_runs();
            let text = std::fs::read_to_string(&self.to).unwrap_or_default();
            let there: BTreeSet<&str> = text.lines().collect();
            self.written.iter().all(|line| there.contains(line.as_str())).then(|| text.lines().count())
        });
        eprintln!("connect: {what}: {} lines, {lines} at the other end", self.written.len());
    }
}

#[test]
fn kafka_connect_carries_every_line_while_its_worker_and_its_coordinator_are_killed() {
    if programs::java("GroupMember").is_none() {
        return;
    }
    let cluster = Cluster::start("connect", 3, &["group.initial.rebalance.delay.ms=500"]);
    cluster.create_topic("carried", 3, 3, &[]);
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let worker = Worker { cluster: &cluster, port: free.port() };
    let mut files =
        Files { from: cluster.dir.join("from.txt"), to: cluster.dir.join("to.txt"), written: BTreeSet::new() };
    files.write(300);
    let mut process = worker.start();
    let source = serde_json::json!({
        "connector.class": "FileStreamSource", "tasks.max": "1", "file": files.from, "topic": "carried"
    });
    let sink = serde_json::json!({
        "connector.class": "FileStreamSink", "tasks.max": "1", "file": files.to, "topics": "carried"
    });
    worker.create(&mut process, "source", &source);
    worker.create(&mut process, "sink", &sink);
    files.wait_arrived(&mut process, "the first lines arrived");

    process.kill();
    files.write(300);
    let mut process = worker.start();
    files.wait_arrived(&mut process, "the worker was killed and started again");

    let victim = coordinator(&cluster, GROUP);
    cluster.kill(victim);
    files.write(300);
    files.wait_arrived(&mut process, "its coordinator was killed");
    cluster.start_node(victim);
    wait_in_sync(&cluster, "connect-offset");
    files.write(100);
    files.wait_arrived(&mut process, "and started again");
    process.complaints().iter().for_each(|line| eprintln!("connect says: {line}"));
}
