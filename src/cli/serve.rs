//! `highwater serve`: one node, until it is told to stop.

use super::command::pair;
use super::logging;
use crate::broker;
use crate::config::broker::NodeConfig;
use crate::platform::disk;
use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Data work beyond this many threads gains nothing: partitions share the disk and the network.
const WORKERS_MAX: usize = 4;
const EXIT_CONFIGURATION: u8 = 2;
/// What shells show for an interrupted program.
const EXIT_AT_ONCE: i32 = 130;

/// Run one node until SIGTERM or SIGINT.
///
/// The first signal stops cleanly: leadership is handed over, logs are flushed and closed. A second one exits at once,
/// which is safe too, but the next start has to recover. The log goes to standard error; HIGHWATER_LOG filters it
/// (`info`, `debug`, `info,highwater::replica=debug`).
///
/// Configuration: the TOML file, then HIGHWATER_… variables (HIGHWATER_NODE_ID, HIGHWATER_KAFKA_NUM_PARTITIONS), then
/// --set. Exit codes: 0 stopped cleanly, 1 failed, 2 wrong configuration, 130 second signal.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater serve --config /etc/highwater.toml
  highwater serve --config n1.toml --set rack=a --set num.partitions=6
  HIGHWATER_NODE_ID=1 HIGHWATER_DATA_DIR=/var/lib/highwater highwater serve")]
pub struct Serve {
    /// The node's TOML file; without one, variables and --set must tell all
    #[arg(long, env = "HIGHWATER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A key of the file or a Kafka broker config; wins over both
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Die with this process, which must be the parent (`highwater dev` in the foreground)
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    /// Serve in spite of deliberate bugs; HIGHWATER_CHAOS_BUG names one
    #[cfg(feature = "chaos-bugs")]
    #[arg(long, hide = true)]
    i_want_chaos_bugs: bool,
}

pub fn run(serve: Serve) -> ExitCode {
    logging::start();
    #[cfg(feature = "chaos-bugs")]
    if let Err(message) = crate::platform::bugs::start(serve.i_want_chaos_bugs) {
        tracing::error!("{message}");
        return ExitCode::from(EXIT_CONFIGURATION);
    }
    if let Some(parent) = serve.parent {
        // The kernel's SIGKILL reaches a paused or hanging node too. The parent may have died before this was set.
        let armed = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
        if !armed || getppid() != Pid::from_raw(parent) {
            tracing::error!("the process that started this node is gone");
            return ExitCode::FAILURE;
        }
    }
    let config = match configuration(&serve) {
        Ok(config) => config,
        Err(message) => {
            tracing::error!("{message}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    let workers = std::thread::available_parallelism().map_or(WORKERS_MAX, |cores| cores.get().min(WORKERS_MAX));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).thread_name("data").enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime does not start");
            return ExitCode::FAILURE;
        }
    };
    let node = config.node_id;
    let served = runtime.block_on(async {
        match stop_signal() {
            Ok(stop) => broker::run(config, stop).await.map_err(anyhow::Error::new),
            Err(error) => Err(anyhow::Error::new(error).context("signals cannot be handled")),
        }
    });
    // Nothing that still runs holds what the stop has not flushed.
    runtime.shutdown_background();
    match served {
        Ok(()) => {
            tracing::info!(%node, "stopped cleanly");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(%node, "stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn configuration(serve: &Serve) -> Result<NodeConfig, String> {
    let text = match &serve.config {
        None => None,
        Some(path) => {
            let read = disk::read_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let bytes = read.ok_or_else(|| format!("{}: there is no such file", path.display()))?;
            Some(String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8 text", path.display()))?)
        }
    };
    let file = serve.config.as_deref().zip(text.as_deref());
    // `vars` would panic on a variable that is not UTF-8, whosever it is.
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    NodeConfig::load(file, environment, &serve.set).map_err(|error| error.to_string())
}

/// Resolves at the first SIGTERM or SIGINT; from then on the next one ends the process.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            match first.take() {
                Some(first) => {
                    tracing::info!("{name}: stopping; a second one exits at once");
                    let _ = first.send(());
                }
                None => {
                    tracing::warn!("{name} again: exiting at once");
                    std::process::exit(EXIT_AT_ONCE);
                }
            }
        }
    });
    Ok(async move {
        // The task above never ends without sending.
        let _ = stopped.await;
    })
}
