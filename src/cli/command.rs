//! What may be typed, and what it calls.

use super::output::{self, Format};
use super::{broker, cluster, consume, dev, group, produce, quorum, reach::Reach, serve, topic};
use clap::{Args, Parser, Subcommand};
use std::io;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  highwater dev --demo                       three nodes here, with load and a line a second
  highwater dev kill 2                       kill -9 one of them; `highwater dev start 2` brings it back
  highwater topic create orders --partitions 6
  echo 'a book' | highwater produce orders
  highwater consume orders --from-beginning
  highwater cluster watch                    elections and ISR changes as they happen
  highwater serve --config highwater.toml    one node of a cluster";

/// A binary with deliberate bugs says so.
const VERSION: &str = if cfg!(feature = "chaos-bugs") {
    concat!(env!("CARGO_PKG_VERSION"), " chaos-bugs (has deliberate bugs; never for data)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Highwater: a Kafka-compatible, clustered event-streaming broker.
///
/// Kafka clients talk to it unchanged. This command runs nodes, and looks at and changes a cluster through the admin
/// port (gRPC) and the Kafka port of its nodes.
#[derive(Debug, Parser)]
#[command(name = "highwater", version = VERSION, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Admin addresses of the cluster, tried in turn [default: those of ./highwater-dev, or 127.0.0.1:9094]
    #[arg(long, global = true, env = "HIGHWATER_ADMIN", value_name = "HOST:PORT,…", help_heading = "Global options")]
    pub admin: Option<String>,
    /// Kafka addresses of the cluster, tried in turn [default: those of ./highwater-dev, or 127.0.0.1:9092]
    #[arg(
        long,
        global = true,
        env = "HIGHWATER_BOOTSTRAP",
        value_name = "HOST:PORT,…",
        help_heading = "Global options"
    )]
    pub bootstrap: Option<String>,
    /// Tables for people, JSON for programs
    #[arg(short = 'o', long, global = true, value_enum, default_value_t, help_heading = "Global options")]
    pub output: Format,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node until SIGTERM or SIGINT
    Serve(serve::Serve),
    /// Run a whole cluster on this machine, and break it
    Dev(dev::Dev),
    /// Who is alive, who leads; events as they happen
    Cluster(cluster::Cluster),
    /// Who votes on metadata; add, remove and replace voters
    Quorum(quorum::Quorum),
    /// Create, list, describe, grow, reassign and delete topics; elect their leaders
    Topic(topic::Topic),
    /// List brokers, drain them, and take them out of the cluster
    Broker(broker::Broker),
    /// List, describe and delete consumer groups; reset their offsets
    Group(group::Group),
    /// Write lines from standard input to a topic
    Produce(produce::Produce),
    /// Print a topic's records
    Consume(consume::Consume),
}

/// Parses the command line, runs it and gives the exit code: 0 done, 1 failed, 2 wrong usage or configuration.
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let command = match command {
        Command::Serve(serve) => return serve::run(serve),
        command => command,
    };
    // One thread: nodes started by `dev` ask to die with the thread that started them, and this is the main one.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("the runtime does not start")),
    };
    let done = runtime.block_on(async move {
        let reach = Reach::of(&global)?;
        let format = global.output;
        match command {
            Command::Serve(_) => unreachable!("handled above"),
            Command::Dev(dev) => dev::run(dev, format).await,
            Command::Cluster(cluster) => cluster::run(cluster, &reach, format).await,
            Command::Quorum(quorum) => quorum::run(quorum, &reach, format).await,
            Command::Topic(topic) => topic::run(topic, &reach, format).await,
            Command::Broker(broker) => broker::run(broker, &reach, format).await,
            Command::Group(group) => group::run(group, &reach, format).await,
            Command::Produce(produce) => produce::run(produce, &reach, format).await,
            Command::Consume(consume) => consume::run(consume, &reach, format).await,
        }
    });
    // A reader of standard input may still be blocked in the kernel.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// `highwater … | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    output::tell(&format!("highwater: {error:#}"));
    ExitCode::FAILURE
}

/// `name=value`, as `--set` and `--config` take it.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_string(), value.trim().to_string())),
        _ => Err(format!("'{text}' is not of the form NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_after_the_command() {
        let cli = Cli::try_parse_from(["highwater", "topic", "list", "--admin", "a:1,b:2", "-o", "json"]).unwrap();
        assert_eq!(cli.global.admin.as_deref(), Some("a:1,b:2"));
        assert_eq!(cli.global.output, Format::Json);
    }

    #[test]
    fn a_value_may_hold_the_sign_and_a_name_may_not_be_empty() {
        assert_eq!(pair("a.b=c=d").unwrap(), ("a.b".to_string(), "c=d".to_string()));
        assert_eq!(pair("a=").unwrap(), ("a".to_string(), String::new()));
        assert!(pair("=1").is_err() && pair("a").is_err());
    }
}
