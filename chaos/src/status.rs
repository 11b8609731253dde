//! One line a second while it runs: what is done, what is broken right now, who leads.

use crate::admin::Admin;
use crate::clock::{Clock, seconds};
use crate::cluster::layout::{Layout, NodeId};
use crate::workload::progress::Progress;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_millis(300);

/// Everything said goes here, too.
pub struct Status {
    clock: Clock,
    faults: Mutex<Vec<String>>,
    log: Mutex<std::fs::File>,
    stop: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

impl Status {
    pub fn new(clock: Clock, log: std::fs::File) -> Status {
        Status { clock, faults: Mutex::default(), log: Mutex::new(log), stop: AtomicBool::new(false) }
    }

    pub fn say(&self, line: &str) {
        self.print(&format!("{:>7}  {line}", seconds(self.clock.ms())));
    }

    /// Without the time.
    pub fn print(&self, line: &str) {
        use std::io::Write;
        println!("{line}");
        // What cannot be kept was shown at least.
        let _ = writeln!(locked(&self.log), "{line}");
    }

    pub fn begin(&self, fault: &str) {
        self.say(&format!("begin {fault}"));
        locked(&self.faults).push(fault.to_string());
    }

    pub fn end(&self, fault: &str) {
        self.say(&format!("end   {fault}"));
        locked(&self.faults).retain(|other| other != fault);
    }

    /// No more lines by the second.
    pub fn be_quiet(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn faults(&self) -> String {
        locked(&self.faults).join(", ")
    }
}

pub struct Watching {
    status: Arc<Status>,
    thread: JoinHandle<()>,
}

impl Watching {
    pub fn stop(self) {
        self.status.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the status thread does not panic");
    }
}

pub fn watch(status: &Arc<Status>, progress: &Arc<Progress>, layout: &Layout) -> anyhow::Result<Watching> {
    let admin = Admin::new(layout)?;
    let (of_thread, progress, nodes) = (status.clone(), progress.clone(), layout.nodes);
    let thread = std::thread::Builder::new().name("status".to_string()).spawn(move || {
        let count = || {
            let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            [get(&progress.acked), get(&progress.unknown), get(&progress.read)]
        };
        let (mut before, mut at) = (count(), Instant::now());
        while !of_thread.stop.load(Ordering::Relaxed) {
            let leaders = leaders(&admin, nodes);
            while at.elapsed() < EVERY && !of_thread.stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let (now, took) = (count(), at.elapsed().as_secs_f64());
            at = Instant::now();
            let rate = |i: usize| (now[i] - before[i]) as f64 / took;
            let faults = of_thread.faults();
            of_thread.say(&format!(
                "{:>5.0} acked/s {:>5} unknown {:>5.0} read/s  {leaders}{}{faults}",
                rate(0),
                now[1],
                rate(2),
                if faults.is_empty() { "" } else { "  | " }
            ));
            before = now;
        }
    })?;
    Ok(Watching { status: status.clone(), thread })
}

/// `leaders 3 5 4  controller 2  short 0`, as the first node that answers sees it.
fn leaders(admin: &Admin, nodes: NodeId) -> String {
    let Some(answer) = (1..=nodes).find_map(|node| admin.describe(node, false, ASK)) else {
        return "nobody answers".to_string();
    };
    let leaders: Vec<String> = answer.nodes.iter().map(|node| node.leaders.to_string()).collect();
    let controller = answer.controller.map_or_else(|| "-".to_string(), |id| id.to_string());
    let partitions = answer.partitions.unwrap_or_default();
    format!(
        "leaders {}  controller {controller}  leaderless {} short {}",
        leaders.join(" "),
        partitions.without_leader,
        partitions.under_replicated
    )
}
