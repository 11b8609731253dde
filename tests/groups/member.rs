//! One member of a group: a process that somebody else's client runs in, and what it tells.

use super::history::{Line, Told};
use super::support::{run, wait_for};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of what a member says on standard error the end is shown, and so much is kept.
const COMPLAINTS_MAX: usize = 200;
const SOON: Duration = Duration::from_secs(60);

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_millis()).expect("milliseconds fit")
}

/// What a member is at the moment, by its own word.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub owned: BTreeSet<i32>,
    pub generation: Option<i32>,
    pub records: usize,
    pub left: bool,
}

#[derive(Default)]
struct Heard {
    told: Told,
    standing: Standing,
    complaints: Vec<String>,
}

impl Heard {
    fn take(&mut self, line: Line) {
        let standing = &mut self.standing;
        match &line {
            Line::Assigned { generation, partitions, .. } => {
                standing.owned.extend(partitions);
                standing.generation = *generation;
            }
            Line::Revoked { partitions, .. } | Line::Lost { partitions, .. } => {
                standing.owned.retain(|partition| !partitions.contains(partition));
            }
            Line::Record { .. } => standing.records += 1,
            Line::Left { .. } => {
                standing.owned.clear();
                standing.left = true;
            }
            Line::Committing { .. } | Line::Committed { .. } | Line::Note { .. } => {}
        }
        self.told.lines.push(line);
    }
}

pub struct Member {
    pub name: String,
    child: Child,
    /// The member leaves when it is closed.
    stdin: Option<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Member {
    pub fn start(name: &str, mut command: Command) -> Member {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let heard = Arc::new(Mutex::new(Heard::default()));
        heard.lock().unwrap().told.name = name.to_string();
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let threads = vec![
            std::thread::spawn({
                let heard = heard.clone();
                move || listen(stdout, &heard)
            }),
            std::thread::spawn({
                let heard = heard.clone();
                move || complain(stderr, &heard)
            }),
        ];
        Member { name: name.to_string(), stdin: child.stdin.take(), child, heard, threads }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    pub fn standing(&self) -> Standing {
        self.heard().standing.clone()
    }

    /// What it told so far.
    pub fn told(&self) -> Told {
        self.heard().told.clone()
    }

    /// Adds the values of the records it told of since `from` lines; returns how many lines there are.
    pub fn processed_since(&self, from: usize, into: &mut BTreeSet<u64>) -> usize {
        let heard = self.heard();
        for line in &heard.told.lines[from..] {
            if let Line::Record { value, .. } = line {
                into.insert(*value);
            }
        }
        heard.told.lines.len()
    }

    /// The end of what it said on standard error, and its last notes.
    pub fn complaints(&self) -> String {
        let heard = self.heard();
        let notes = heard.told.lines.iter().filter_map(|line| match line {
            Line::Note { text } => Some(text.clone()),
            _ => None,
        });
        let mut all: Vec<String> = notes.collect();
        all.extend(heard.complaints.iter().cloned());
        all[all.len().saturating_sub(40)..].join("\n")
    }

    pub fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("{} ended by itself ({status}):\n{}", self.name, self.complaints());
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
        let at = now_ms();
        self.join();
        self.heard().told.killed = Some(at);
        self.heard().standing.owned.clear();
    }

    /// SIGSTOP, or SIGCONT: it hangs, and later goes on as if nothing had happened.
    pub fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.child.id().to_string()]).assert_ok(signal);
    }

    /// Commits, leaves the group, and ends.
    pub fn leave(&mut self) {
        drop(self.stdin.take());
        let status = wait_for(&format!("{} leaves", self.name), SOON, || self.child.try_wait().expect("a child"));
        self.join();
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.complaints());
        assert!(self.standing().left, "{} did not say that it left:\n{}", self.name, self.complaints());
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().expect("a listener's thread");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.complaints());
        }
    }
}

fn listen(stdout: ChildStdout, heard: &Mutex<Heard>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        // Without its end it is torn: the member was killed while it printed.
        if line.last() == Some(&b'\n') {
            let text = String::from_utf8_lossy(&line);
            let mut heard = heard.lock().unwrap();
            match Line::parse(text.trim_end()) {
                Some(line) => heard.take(line),
                None => heard.complaints.push(format!("not understood: {text}")),
            }
        }
        line.clear();
    }
}

fn complain(stderr: ChildStderr, heard: &Mutex<Heard>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let complaints = &mut heard.lock().unwrap().complaints;
        if complaints.len() >= COMPLAINTS_MAX {
            complaints.remove(0);
        }
        complaints.push(line);
    }
}
