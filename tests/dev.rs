//! `highwater dev` as a person uses it: start, look, kill, start again, and every mistake answered clearly.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Cluster, HIGHWATER, run, wait_for};

const SOON: Duration = Duration::from_secs(30);

fn says(finished: &support::Finished, words: &[&str]) {
    let text = finished.stderr() + &finished.stdout();
    assert!(!finished.ok(), "{} should fail", finished.command);
    for word in words {
        assert!(text.contains(word), "'{word}' is not in what {} said:\n{text}", finished.command);
    }
}

fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_node_is_killed_paused_and_started_again_with_its_data() {
    let cluster = Cluster::start("dev-verbs", 3, &[]);
    for file in ["pid", "log", "highwater.toml", "data"] {
        assert!(cluster.node_dir(2).join(file).exists(), "node-2/{file}");
    }
    cluster.create_topic("kept", 3, 3, &[]);
    let before = cluster.pid(2).expect("a pid");
    cluster.kill(2);
    wait_for("node 2 is gone", SOON, || (!is_running(before)).then_some(()));
    let status = cluster.dev(&["status"]);
    status.assert_ok("status with a node missing");
    assert!(status.stdout().lines().count() >= 4, "a row a node:\n{}", status.stdout());
    cluster.start_node(2);
    let after = cluster.pid(2).expect("a pid");
    assert!(after != before && is_running(after));
    wait_for("node 2 knows the topic", SOON, || {
        cluster.cli(2, &["topic", "list"]).stdout().contains("kept").then_some(())
    });
    cluster.dev(&["pause", "3"]).assert_ok("pause");
    wait_for("node 3 is shown as paused", SOON, || cluster.dev(&["status"]).stdout().contains("paused").then_some(()));
    cluster.dev(&["resume", "3"]).assert_ok("resume");
    wait_for("node 3 runs", SOON, || (!cluster.dev(&["status"]).stdout().contains("paused")).then_some(()));
    says(&cluster.dev(&["kill", "9"]), &["9"]);
    cluster.dev(&["stop"]).assert_ok("stop");
    assert!(!is_running(after), "stop waits for the nodes");
}

#[test]
fn mistakes_are_answered_with_what_to_do() {
    let cluster = Cluster::start("dev-mistakes", 1, &[]);
    let (port, folder) = (cluster.port.to_string(), cluster.dir.to_str().expect("utf-8 path").to_string());
    let second = run(HIGHWATER, &["dev", "--nodes", "1", "--port", "1024", "--detach", "--dir", &folder]);
    says(&second, &[&folder]);
    let other = format!("{folder}-other");
    let taken = run(HIGHWATER, &["dev", "--nodes", "1", "--port", &port, "--detach", "--dir", &other]);
    says(&taken, &[&port]);
    let fresh = run(HIGHWATER, &["dev", "--nodes", "1", "--fresh", "--detach", "--dir", &folder]);
    says(&fresh, &[&folder]);
    let unknown = run(HIGHWATER, &["dev", "--nodes", "1", "--detach", "--dir", &other, "--set", "num.partition=3"]);
    says(&unknown, &["num.partitions"]);
    says(&run(HIGHWATER, &["dev", "status", "--dir", "/nowhere/at/all"]), &["/nowhere/at/all"]);
    says(&run(HIGHWATER, &["serve", "--config", "/nowhere.toml"]), &["/nowhere.toml"]);
    let _ = std::fs::remove_dir_all(&other);
}

#[test]
fn ctrl_c_stops_every_node_of_a_cluster_in_the_foreground() {
    let cluster = Cluster::start("dev-ports", 1, &[]); // takes free ports, then lets them go
    cluster.dev(&["stop"]).assert_ok("stop");
    let folder = cluster.dir.join("foreground");
    let port = cluster.port.to_string();
    let mut child = Command::new(HIGHWATER)
        .args(["dev", "--nodes", "1", "--port", &port, "--dir", folder.to_str().expect("utf-8 path")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("dev starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let ready = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("bootstrap.servers")));
    assert!(ready.is_some(), "dev printed how to reach it");
    let pid: u32 = std::fs::read_to_string(folder.join("node-1/pid")).unwrap().trim().parse().unwrap();
    assert!(is_running(pid));
    run("kill", &["-INT", &child.id().to_string()]).assert_ok("kill -INT");
    std::thread::spawn(move || lines.for_each(drop));
    let status = wait_for("dev ended", SOON, || child.try_wait().expect("waitable"));
    assert!(status.success(), "a clean stop: {status}");
    assert!(!is_running(pid));
}
