//! Two processes where there is root: the outer makes the namespaces, runs this program again inside the hub, and
//! removes everything however that ended. Without root there is only one.

use crate::args::Args;
use crate::cluster::layout::Layout;
use crate::cluster::namespaces;
use crate::run;
use anyhow::Context;
use rustix::process::{Pid, Signal, geteuid, getppid, kill_process, set_parent_process_death_signal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const EXIT_FOUND: u8 = 1;
pub const EXIT_FAILED: u8 = 2;
const ENDED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let seed = match args.seed {
        Some(seed) => seed,
        // Short enough to be typed.
        None => {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64 % 1_000_000_000)
        }
    };
    let is_outer = args.network_of.is_none() && geteuid().is_root();
    let interrupted = on_interrupt(!is_outer)?;
    match args.network_of {
        Some(pid) => inside(&args, seed, Some(pid), interrupted),
        None if geteuid().is_root() => outside(&args, seed, &interrupted),
        None => {
            let pid = std::process::id();
            let code = inside(&args, seed, None, interrupted);
            namespaces::remove(pid);
            code
        }
    }
}

/// Ctrl-C and SIGTERM set the flag. The outer process passes it on and waits for the inner one, which ends by force if
/// it does not end by itself: what it leaves behind is the outer's to remove.
fn on_interrupt(by_force: bool) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let of_thread = flag.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_string()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if !of_thread.swap(true, Ordering::Relaxed) && by_force {
                    std::thread::spawn(|| {
                        std::thread::sleep(ENDED_WITHIN);
                        std::process::exit(i32::from(EXIT_FAILED));
                    });
                }
            }
        });
    })?;
    Ok(flag)
}

fn outside(args: &Args, seed: u64, interrupted: &AtomicBool) -> anyhow::Result<ExitCode> {
    let pid = std::process::id();
    namespaces::remove_leftovers();
    let status = namespaces::make(pid, args.nodes).and_then(|()| {
        let this = std::env::current_exe().context("cannot find this executable")?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespaces::hub(pid)]).arg(this).args(std::env::args_os().skip(1));
        if args.seed.is_none() {
            command.args(["--seed", &seed.to_string()]);
        }
        command.args(["--network-of", &pid.to_string()]);
        let child = command.spawn().context("`ip netns exec` does not start")?;
        wait(child, interrupted)
    });
    namespaces::remove(pid);
    let code = status?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_FAILED);
    Ok(ExitCode::from(code))
}

fn wait(mut child: Child, interrupted: &AtomicBool) -> anyhow::Result<ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupted.load(Ordering::Relaxed) && !told {
            told = true;
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process has a number")?;
            kill_process(pid, Signal::TERM)?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn inside(args: &Args, seed: u64, network_of: Option<u32>, interrupted: Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    if let Some(pid) = network_of {
        // The namespaces' owner may be killed: then this ends, and with it the nodes.
        set_parent_process_death_signal(Some(Signal::TERM))?;
        let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
        anyhow::ensure!(parent == i32::try_from(pid).ok(), "the process that made the network is gone");
    }
    let folder = namespaces::folder(network_of.unwrap_or_else(std::process::id));
    let keep = args.keep.clone().unwrap_or_else(|| PathBuf::from(format!("chaos-runs/{seed}")));
    std::fs::create_dir_all(&keep).with_context(|| keep.display().to_string())?;
    let keep = std::fs::canonicalize(keep)?;
    let layout = Layout { nodes: args.nodes, network_of, folder, keep: keep.clone() };
    let verdict = run::run(args, seed, &layout, interrupted)?;
    let good = verdict.is_as_expected(args.bug.is_some());
    match &args.bug {
        Some(bug) if good => println!("the bug {bug} was caught"),
        Some(bug) => println!("the bug {bug} was NOT caught"),
        None => {}
    }
    if good && args.keep.is_none() {
        remove_kept(&keep);
    } else {
        keep_partitions(&layout);
        println!("logs, history and partitions: {}", keep.display());
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FOUND) })
}

/// The partitions as they lie on the nodes' disks, for whoever looks into what was found.
fn keep_partitions(layout: &Layout) {
    for node in layout.ids() {
        let (from, to) = (layout.data(node).join("partitions"), layout.keep.join(format!("node-{node}-partitions")));
        let copied = crate::shell::run_words(&["cp", "-r", &from.to_string_lossy(), &to.to_string_lossy()]);
        if let Err(error) = copied {
            eprintln!("node {node}'s partitions are not kept: {error:#}");
        }
    }
}

fn remove_kept(keep: &Path) {
    if let Err(error) = std::fs::remove_dir_all(keep) {
        eprintln!("{} is left behind: {error}", keep.display());
    }
    // The folder of all runs, if this was the only one.
    let _ = keep.parent().map(std::fs::remove_dir);
}
