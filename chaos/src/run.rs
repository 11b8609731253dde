//! A run from its beginning to its verdict.

use crate::admin::Admin;
use crate::args::Args;
use crate::chance::Chance;
use crate::checker::{self, Verdict};
use crate::clock::{Clock, seconds};
use crate::cluster::cli::{Abilities, Cli};
use crate::cluster::disk;
use crate::cluster::layout::{Layout, NodeId};
use crate::cluster::node::Launch;
use crate::cluster::nodes::Nodes;
use crate::faults::driver::Driver;
use crate::faults::inject::World;
use crate::faults::kind::Kind;
use crate::faults::plan::{self, Means};
use crate::faults::power;
use crate::history::History;
use crate::status::{self, Status};
use crate::verify;
use crate::workload::client_log::ClientLogs;
use crate::workload::load::{self, Load};
use crate::workload::topics::{TOPICS, places};
use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const FORMED_WITHIN: Duration = Duration::from_secs(30);
const ASK: Duration = Duration::from_secs(2);
const SHORT_TRIES: usize = 3;
/// Of each kind so many anomalies are printed; all are in the verdict file.
const PRINTED_MAX: usize = 3;

/// Which kinds can be done here; the others, with why not.
fn possible(kinds: &[Kind], abilities: Abilities, has_network: bool, has_power: bool) -> (Vec<Kind>, Vec<String>) {
    let (mut possible, mut left_out) = (Vec::new(), Vec::new());
    for kind in kinds {
        let why = match kind {
            kind if kind.is_partition() && !has_network => Some("needs root"),
            Kind::DiskFull if !has_network => Some("needs root"),
            kind if kind.needs_power_layer() && !has_power => {
                Some("the power-cut layer is not there: `cargo build --release -p powercut-shim`")
            }
            Kind::Drain if !abilities.drain => Some("the binary knows no `broker drain`"),
            Kind::Reassign if !abilities.reassign => Some("the binary knows no `topic reassign`"),
            Kind::Quorum if !abilities.quorum => Some("the binary knows no `quorum add` and `remove`"),
            _ => None,
        };
        match why {
            Some(why) => left_out.push(format!("{}: {why}", kind.name())),
            None => possible.push(*kind),
        }
    }
    (possible, left_out)
}

pub fn run(args: &Args, seed: u64, layout: &Layout, interrupted: Arc<AtomicBool>) -> anyhow::Result<Verdict> {
    let clock = Clock::start();
    std::fs::create_dir_all(&layout.keep)?;
    std::fs::create_dir_all(&layout.folder)?;
    let log = std::fs::File::create(layout.keep.join("run.log"))?;
    let status = Arc::new(Status::new(clock, log));
    let binary = binary(args)?;
    let abilities = Abilities::of(&binary)?;
    ensure!(args.bug.is_none() || abilities.bugs, "{} is built without the feature chaos-bugs", binary.display());
    let library = power::library(args.powercut.as_ref())?;
    let (kinds, left_out) = possible(&args.kinds(), abilities, layout.network_of.is_some(), library.is_some());
    ensure!(!kinds.is_empty(), "none of these faults can be made here: {}", left_out.join("; "));
    status.print(&format!("seed {seed}; again: {}", args.repeat(seed)));
    if layout.network_of.is_none() {
        status.print("not root: all nodes on loopback, the network's faults are left out");
    }
    if abilities.bugs && args.bug.is_none() {
        status.print("the binary has deliberate bugs built in, none of which is turned on");
    }
    if !left_out.is_empty() {
        status.print(&format!("left out: {}", left_out.join("; ")));
    }

    let mut chance = Chance::new(seed);
    let small_disks: Vec<NodeId> = match kinds.contains(&Kind::DiskFull) {
        true => vec![*chance.choose(&layout.ids().collect::<Vec<_>>())],
        false => Vec::new(),
    };
    let (nodes, voters) = (layout.nodes, layout.voters());
    let means = Means { kinds, nodes, voters, places: places().len(), small_disks };
    // The library costs the nodes a little: only where it is needed.
    let cuts_power = means.kinds.iter().any(|kind| kind.needs_power_layer());
    let preload = library.filter(|_| cuts_power);
    let power = preload.is_some().then(|| Box::new(power::Journals) as Box<dyn power::PowerCut>);
    let launch = Launch { binary: binary.clone(), has_bugs: abilities.bugs, bug: args.bug.clone(), preload };
    let nodes = Nodes::start(layout.clone(), launch, &means.small_disks, disk::small_bytes(args.time, args.rate))?;
    let admin = Admin::new(layout)?;
    let cli = Cli { binary, layout: layout.clone() };
    let progress = Arc::new(load::progress());
    let mut world = World::new(nodes, admin, cli, power, Chance::new(chance.next()), progress.clone());
    form(&mut world)?;
    if cuts_power {
        power::ensure_recording(layout)?;
    }
    status.say("the cluster is formed, its topics are in sync");

    let logs = ClientLogs::below(args.client_logs.then_some(&*layout.keep));
    let load = Load::start(&layout.bootstrap(), args.rate, progress, clock, &logs)?;
    let watching = status::watch(&status, &load.progress, layout)?;
    let mut driver = Driver::new(world, status.clone(), load.progress.clone(), clock, interrupted, args.bug.is_some());
    let mut history = History::default();
    let finished = break_things(&mut driver, args, &means, &mut chance).and_then(|()| {
        if driver.is_interrupted() {
            bail!("interrupted")
        }
        verify::finish(&mut driver, load, &mut history)
    });
    watching.stop();
    let mut verdict = match finished {
        Ok(()) => checker::check(&history),
        // With a deliberate bug nothing is proved by a run that could not be judged.
        Err(error) if !driver.anomalies.is_empty() && args.bug.is_none() => {
            status.print(&format!("not finished: {error:#}"));
            Verdict::default()
        }
        Err(error) => return Err(error),
    };
    verdict.anomalies.append(&mut driver.anomalies);
    verdict.anomalies.sort_by_key(|anomaly| anomaly.kind);
    tell(&status, &verdict, &driver.writable_ms, args, seed);
    write(&layout.keep, &history, &verdict)?;
    Ok(verdict)
}

/// The one beside this executable, as built by `cargo build --release`.
fn binary(args: &Args) -> anyhow::Result<PathBuf> {
    let binary = match &args.binary {
        Some(path) => path.clone(),
        None => {
            let this = std::env::current_exe().context("cannot find this executable")?;
            let target = this.parent().and_then(Path::parent).context("this executable is in no target folder")?;
            target.join("release/highwater")
        }
    };
    ensure!(binary.exists(), "{} is not there: run `cargo build --release` or give --binary", binary.display());
    Ok(std::fs::canonicalize(binary)?)
}

fn form(world: &mut World) -> anyhow::Result<()> {
    let until = Instant::now() + FORMED_WITHIN;
    let mut missing: Vec<_> = TOPICS.iter().collect();
    let mut why = String::new();
    while Instant::now() < until {
        if let Some((node, told)) = world.nodes.ended().pop() {
            bail!("node {node} does not start: {told}");
        }
        let all_alive = world.admin.describe(1, false, ASK).is_some_and(|answer| {
            let alive = answer.nodes.iter().filter(|node| node.broker && node.liveness() as i32 == 1).count();
            alive == usize::from(world.nodes.layout.nodes)
        });
        if all_alive {
            missing.retain(|topic| match world.admin.create(1, topic, ASK) {
                Ok(()) => false,
                Err(error) => {
                    why = error;
                    true
                }
            });
            if missing.is_empty() && world.in_sync_within(FORMED_WITHIN) {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("no cluster and topics within {FORMED_WITHIN:?}: {why}")
}

fn break_things(driver: &mut Driver, args: &Args, means: &Means, chance: &mut Chance) -> anyhow::Result<()> {
    // Something is written before the first fault.
    driver.wait_writable("the beginning")?;
    if args.short {
        return every_fault_once(driver, means, chance);
    }
    let until = Instant::now() + args.time;
    while Instant::now() < until && !driver.is_interrupted() {
        driver.round(&plan::round(chance, means))?;
    }
    Ok(())
}

/// What is left out, since the cluster was busy with something else just then, is tried again.
fn every_fault_once(driver: &mut Driver, means: &Means, chance: &mut Chance) -> anyhow::Result<()> {
    let mut missing = means.clone();
    for _ in 0..SHORT_TRIES {
        plan::short(chance, &missing).iter().try_for_each(|round| driver.round(round))?;
        missing.kinds.retain(|kind| !driver.has_made(*kind));
        if missing.kinds.is_empty() || driver.is_interrupted() {
            return Ok(());
        }
    }
    let names: Vec<&str> = missing.kinds.iter().map(|kind| kind.name()).collect();
    bail!("in {SHORT_TRIES} tries these faults could not be made (the log says why): {}", names.join(", "))
}

fn tell(status: &Status, verdict: &Verdict, writable_ms: &[u32], args: &Args, seed: u64) {
    let counts = verdict.counts;
    status.print(&format!(
        "{} acked, {} unknown ({} of them there), {} refused by the client, {} read; allowed: {} retried twice, \
         {} acks=1 lost",
        counts.acked,
        counts.unknown,
        counts.unknown_kept,
        counts.failed,
        counts.read,
        counts.retried_twice,
        counts.acks_one_lost
    ));
    if let Some(worst) = writable_ms.iter().max() {
        let mut sorted = writable_ms.to_vec();
        sorted.sort_unstable();
        let median = sorted[sorted.len() / 2];
        status.print(&format!(
            "writable everywhere after {} healings: median {}, worst {}",
            sorted.len(),
            seconds(median),
            seconds(*worst)
        ));
    }
    let mut shown: Vec<checker::Kind> = Vec::new();
    for anomaly in &verdict.anomalies {
        let before = shown.iter().filter(|kind| **kind == anomaly.kind).count();
        shown.push(anomaly.kind);
        if before < PRINTED_MAX {
            status.print(&format!("ANOMALY {}: {}", anomaly.kind.name(), anomaly.evidence));
        }
    }
    match verdict.anomalies.len() {
        0 => status.print("VERDICT nothing wrong"),
        count => status.print(&format!("VERDICT {count} anomalies")),
    }
    status.print(&format!("seed {seed}; again: {}", args.repeat(seed)));
}

fn write(keep: &Path, history: &History, verdict: &Verdict) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(keep.join("history.txt"))?);
    history.write(&mut out)?;
    let lines: Vec<String> =
        verdict.anomalies.iter().map(|anomaly| format!("{}: {}\n", anomaly.kind.name(), anomaly.evidence)).collect();
    std::fs::write(keep.join("anomalies.txt"), lines.concat())?;
    Ok(())
}
