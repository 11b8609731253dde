//! A process whose output goes to a file: killed, started again, and shown when a test fails.

use super::support::wait_for;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const SHOWN_LINES: usize = 40;
const SHOWN_CHARS: usize = 240;

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Its output is appended to `log`.
    pub fn start(name: &str, mut command: Command, log: PathBuf) -> Process {
        let out = || File::options().create(true).append(true).open(&log).expect("a log");
        command.stdin(Stdio::piped()).stdout(out()).stderr(out());
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Process { name: name.to_string(), child, log }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its complaints, each kind once: what a log line says without its numbers.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let complains = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
        let plain = |line: &str| line.chars().filter(|c| !c.is_ascii_digit()).take(SHOWN_CHARS).collect::<String>();
        let kinds: BTreeMap<String, &str> = log.lines().filter(complains).map(|line| (plain(line), line)).collect();
        kinds.into_values().map(|line| line.chars().take(SHOWN_CHARS).collect()).collect()
    }

    pub fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("{} ended by itself: {status}", self.name);
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// Closes its standard input, and waits for its end.
    pub fn close(&mut self) {
        drop(self.child.stdin.take());
        let child = &mut self.child;
        let status = wait_for(&format!("{} ends", self.name), SOON, || child.try_wait().expect("a child"));
        assert!(status.success(), "{} ended with {status}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {}, last lines of its output", self.name);
            eprintln!("{}", lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n"));
        }
    }
}
