//! Runs rounds of faults in time, restarts nodes that end by themselves, and waits after each round until every place
//! takes writes again.

use super::inject::{Begun, World};
use super::kind::Kind as FaultKind;
use super::plan::{Fault, Round};
use crate::checker::{Anomaly, Kind};
use crate::clock::{Clock, seconds};
use crate::status::Status;
use crate::workload::progress::Progress;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Every partition takes writes so soon after everything is healed.
pub const WRITABLE_WITHIN_MS: u32 = 10_000;
/// Longer than a round takes as a rule: what every thread does is written down.
const LOOKED_AT_MS: u32 = 5_000;
/// Given up, to go on with the next round.
const WRITABLE_GIVEN_UP_MS: u32 = 40_000;
/// With a deliberate bug something may never come; what it did to the data is there by then.
const BUG_WAITS_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);
/// As a supervisor would.
const RESTART_AFTER_MS: u32 = 1_000;
/// The same node ending again and again tells nothing new.
const ENDS_TOLD_MAX: usize = 5;

pub struct Driver {
    pub world: World,
    pub status: Arc<Status>,
    pub progress: Arc<Progress>,
    pub clock: Clock,
    /// Ctrl-C.
    pub interrupted: Arc<AtomicBool>,
    pub anomalies: Vec<Anomaly>,
    /// After each round, how long until every place took writes.
    pub writable_ms: Vec<u32>,
    /// Not those that were left out.
    made: BTreeSet<FaultKind>,
    has_bug: bool,
    restarts: Vec<(u32, u16)>,
    ends: usize,
}

impl Driver {
    pub fn new(
        world: World,
        status: Arc<Status>,
        progress: Arc<Progress>,
        clock: Clock,
        interrupted: Arc<AtomicBool>,
        has_bug: bool,
    ) -> Driver {
        let (anomalies, writable_ms, restarts) = (Vec::new(), Vec::new(), Vec::new());
        Driver {
            world,
            status,
            progress,
            clock,
            interrupted,
            anomalies,
            writable_ms,
            made: BTreeSet::new(),
            has_bug,
            restarts,
            ends: 0,
        }
    }

    pub fn has_made(&self, kind: FaultKind) -> bool {
        self.made.contains(&kind)
    }

    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub fn round(&mut self, round: &Round) -> anyhow::Result<()> {
        let start = self.clock.ms();
        let mut waiting: Vec<_> = round.steps.iter().collect();
        let mut held: Vec<(u32, &Fault)> = Vec::new();
        while (!waiting.is_empty() || !held.is_empty()) && !self.is_interrupted() {
            let due = |at: u32| self.clock.ms() >= at;
            if let Some(at) = waiting.iter().position(|step| due(start + step.begin_ms)) {
                let step = waiting.remove(at);
                if self.begin(&step.fault)? {
                    held.push((self.clock.ms() + step.hold_ms, &step.fault));
                }
            } else if let Some(at) = held.iter().position(|(until, _)| due(*until)) {
                let (_, fault) = held.remove(at);
                self.end(fault)?;
            }
            self.tick()?;
        }
        if round.steps.is_empty() {
            return Ok(());
        }
        if let Some(complaint) = self.world.undo_operator() {
            self.found(Anomaly::new(Kind::TooSlow, complaint));
        }
        self.wait_writable(&round.to_string())
    }

    fn begin(&mut self, fault: &Fault) -> anyhow::Result<bool> {
        self.status.begin(&fault.to_string());
        match self.world.begin(fault)? {
            Begun::Done(told) => {
                self.made.insert(fault.kind());
                if !told.is_empty() {
                    self.status.say(&format!("{fault}: {told}"));
                }
            }
            Begun::LeftOut(why) => {
                self.status.say(&format!("{fault} is left out: {why}"));
                self.status.end(&fault.to_string());
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn end(&mut self, fault: &Fault) -> anyhow::Result<()> {
        if let Some(complaint) = self.world.end(fault)? {
            self.found(Anomaly::new(Kind::TooSlow, complaint));
        }
        self.status.end(&fault.to_string());
        Ok(())
    }

    fn found(&mut self, anomaly: Anomaly) {
        self.status.say(&format!("{}: {}", anomaly.kind.name(), anomaly.evidence));
        self.anomalies.push(anomaly);
    }

    /// Restarts what has ended by itself.
    pub fn tick(&mut self) -> anyhow::Result<()> {
        for (node, told) in self.world.nodes.ended() {
            if self.world.is_broken(node) {
                self.status.say(&format!("node {node} has ended, as it should without a disk"));
                continue;
            }
            let now = self.clock.ms();
            self.restarts.push((now + RESTART_AFTER_MS, node));
            self.ends += 1;
            if self.ends <= ENDS_TOLD_MAX {
                let during = self.status.faults();
                let during = if during.is_empty() { "no fault".to_string() } else { during };
                self.found(Anomaly::new(Kind::NodeEnded, format!("at {} during {during}: {told}", seconds(now))));
            }
        }
        let now = self.clock.ms();
        while let Some(at) = self.restarts.iter().position(|(at, _)| *at <= now) {
            let (_, node) = self.restarts.remove(at);
            self.world.nodes.start_node(node)?;
        }
        std::thread::sleep(TICK);
        Ok(())
    }

    /// Everything is healed now: waits until each place has acked something sent since.
    pub fn wait_writable(&mut self, after: &str) -> anyhow::Result<()> {
        let healed = self.clock.ms();
        let (mut told, mut looked_at) = (false, false);
        loop {
            let mut silent = self.progress.silent_since(healed);
            silent.retain(|place| self.world.is_used(*place));
            let took = self.clock.ms() - healed;
            if silent.is_empty() {
                self.writable_ms.push(took);
                self.status.say(&format!("writable everywhere {} after {after}", seconds(took)));
                return Ok(());
            }
            if self.is_interrupted() {
                return Ok(());
            }
            if took > LOOKED_AT_MS && !looked_at {
                looked_at = true;
                self.keep_threads();
            }
            if took > WRITABLE_WITHIN_MS && !told {
                told = true;
                let names: Vec<String> =
                    silent.iter().map(|place| self.world.places.names[usize::from(*place)].to_string()).collect();
                let told = format!(
                    "{} after {after} these take no writes: {}; {}",
                    seconds(took),
                    names.join(" "),
                    self.world.standing()
                );
                self.found(Anomaly::new(Kind::TooSlow, told));
            }
            if took > self.given_up_after_ms() {
                self.writable_ms.push(took);
                return Ok(());
            }
            self.tick()?;
        }
    }

    /// A place that a deliberate bug has broken stays so: the next fault may show in the data what this one did not.
    fn given_up_after_ms(&self) -> u32 {
        if self.has_bug { WRITABLE_WITHIN_MS } else { WRITABLE_GIVEN_UP_MS }
    }

    /// Looked at while it lasts: logs do not tell what a thread waits for.
    fn keep_threads(&self) {
        let path = self.world.nodes.layout.keep.join(format!("threads-{}.txt", self.clock.ms()));
        if let Err(error) = std::fs::write(&path, self.world.nodes.threads()) {
            self.status.say(&format!("{}: {error}", path.display()));
        }
    }

    /// How long [`wait`](Self::wait) waits.
    pub fn patience(&self, deadline: Duration) -> Duration {
        if self.has_bug { deadline.min(BUG_WAITS_MAX) } else { deadline }
    }

    /// Ticks on until the condition holds; false at the deadline.
    pub fn wait(&mut self, deadline: Duration, mut condition: impl FnMut(&mut World) -> bool) -> anyhow::Result<bool> {
        let until = std::time::Instant::now() + self.patience(deadline);
        loop {
            if condition(&mut self.world) {
                return Ok(true);
            }
            if std::time::Instant::now() >= until || self.is_interrupted() {
                return Ok(false);
            }
            self.tick()?;
        }
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faults: Vec<String> = self.steps.iter().map(|step| step.fault.to_string()).collect();
        f.write_str(&faults.join(", "))
    }
}
