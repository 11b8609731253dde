//! What `highwater dev` takes.

use super::folder::DEFAULT_FOLDER;
use super::{control, up};
use crate::cli::command::pair;
use crate::cli::output::Format;
use crate::config::broker;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Run a whole cluster on this machine, and break it.
///
/// Each node is a process of its own with a folder of its own (D/node-1 … with `log`, `highwater.toml`, `data/`), so
/// that it can be killed, paused and started again. Node i listens on port P+10(i-1) for Kafka, and on the next three
/// for other nodes, operators and followers. Data stays in the folder until --fresh.
///
/// In the foreground Ctrl-C stops all nodes; with --detach they run on until `highwater dev stop`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  highwater dev                              three nodes: Kafka on 127.0.0.1:9092, 9102, 9112
  highwater dev --demo                       with load, and a line a second that shows what a failure costs
  highwater dev --nodes 1 --port 19092 --detach
  highwater dev --set min.insync.replicas=1 --set log.retention.ms=60000
  highwater dev status
  highwater dev kill 2                       kill -9 node 2; its data stays
  highwater dev start 2
  highwater dev pause 3                      SIGSTOP: hangs without dying; `resume` lets it go on
  highwater dev stop"
)]
pub struct Dev {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    up: UpArgs,
}

#[derive(Debug, Args)]
struct UpArgs {
    /// How many nodes [default: 3, or as many as the folder holds]
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u16).range(1..=50))]
    nodes: Option<u16>,
    /// Kafka port of node 1 [default: 9092, or as the folder says]
    #[arg(long, short = 'p', value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// A broker config under Kafka's name, for all nodes; kept in the folder
    #[arg(long, value_name = "KEY=VALUE", value_parser = checked_pair)]
    set: Vec<(String, String)>,
    /// The nodes' racks in turn, as in a,b,c; kept in the folder
    #[arg(long, value_name = "RACK,…", value_delimiter = ',')]
    racks: Vec<String>,
    /// Leave the nodes running in the background
    #[arg(long, conflicts_with = "demo")]
    detach: bool,
    /// Remove the folder's old data first
    #[arg(long)]
    fresh: bool,
    /// Produce and consume all the time, and print a line a second
    #[arg(long)]
    demo: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Debug, Args)]
struct FolderArgs {
    /// Where the nodes' folders are
    #[arg(long, short = 'd', value_name = "D", default_value = DEFAULT_FOLDER)]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct OneNode {
    /// The node's number, from 1
    #[arg(value_name = "I")]
    node: u16,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Which nodes run, where, and what they lead
    Status(FolderArgs),
    /// Stop all nodes cleanly; data stays
    Stop(FolderArgs),
    /// kill -9 a node
    Kill(OneNode),
    /// SIGSTOP a node: it hangs without dying
    Pause(OneNode),
    /// SIGCONT a paused node
    Resume(OneNode),
    /// Start a node that was killed or stopped, with its data
    Start(OneNode),
}

fn checked_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = pair(text)?;
    broker::validate(&name, &value).map_err(|error| error.to_string())?;
    Ok((name, value))
}

pub async fn run(dev: Dev, format: Format) -> anyhow::Result<()> {
    match dev.command {
        None => {
            let UpArgs { nodes, port, set, racks, detach, fresh, demo, folder } = dev.up;
            up::run(up::Wanted { dir: folder.dir, nodes, port, set, racks, detach, fresh, demo }).await
        }
        Some(Command::Status(folder)) => control::status(&folder.dir, format).await,
        Some(Command::Stop(folder)) => control::stop(&folder.dir).await,
        Some(Command::Kill(one)) => control::kill(&one.folder.dir, one.node).await,
        Some(Command::Pause(one)) => control::pause(&one.folder.dir, one.node).await,
        Some(Command::Resume(one)) => control::resume(&one.folder.dir, one.node),
        Some(Command::Start(one)) => control::start(&one.folder.dir, one.node).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_config_is_refused_with_the_nearest() {
        let refused = checked_pair("min.insync.replica=2").unwrap_err();
        assert!(refused.contains("min.insync.replicas"), "{refused}");
        assert!(checked_pair("min.insync.replicas=2").is_ok());
        assert!(checked_pair("min.insync.replicas=many").is_err());
    }
}
