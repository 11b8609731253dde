//! `highwater cluster`: who is alive, who leads, and what happens.

use super::events;
use super::output::{self, Format, Table, or_dash};
use super::reach::{self, Reach};
use super::watcher::Watcher;
use crate::admin::proto::{DescribeClusterRequest, DescribeClusterResponse, Liveness, Node};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::time::Duration;

/// Who is alive, who leads; events as they happen.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater cluster status
  highwater cluster watch                       every election, with its reason
  highwater cluster watch -o json --from 120    what came after index 120, one JSON object a line
  highwater cluster ready --admin host:9094     exit code 0 once that node serves (for health checks)")]
pub struct Cluster {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Nodes, controller, quorum and partitions, as one node sees them
    Status,
    /// Events as they happen, until Ctrl-C; goes on at another node if one is lost
    Watch {
        /// Begin with what came after this Raft index instead of with now
        #[arg(long, value_name = "INDEX")]
        from: Option<u64>,
        /// Also print once a second how far the node is
        #[arg(long)]
        progress: bool,
    },
    /// Whether the node serves: exit code 0 or 1
    Ready,
}

pub async fn run(cluster: Cluster, reach: &Reach, format: Format) -> anyhow::Result<()> {
    match cluster.command {
        Command::Status => status(reach, format).await,
        Command::Watch { from, progress } => watch(reach, format, from, progress).await,
        Command::Ready => ready(reach).await,
    }
}

pub async fn describe(reach: &Reach) -> anyhow::Result<DescribeClusterResponse> {
    let answer = reach.cluster().await?.describe(DescribeClusterRequest::default()).await;
    Ok(answer.map_err(|status| reach::refused(&status))?.into_inner())
}

async fn status(reach: &Reach, format: Format) -> anyhow::Result<()> {
    let cluster = describe(reach).await?;
    match format {
        Format::Json => output::json(&to_json(&cluster)),
        Format::Table => print(&cluster),
    }
}

fn print(cluster: &DescribeClusterResponse) -> anyhow::Result<()> {
    output::line(format!("cluster     {}", cluster.cluster_id))?;
    output::line(format!("controller  {} (term {})", or_dash(cluster.controller), cluster.term))?;
    output::line(format!(
        "metadata    committed {}, applied {} (on node {})",
        cluster.commit_index, cluster.applied_index, cluster.answered_by
    ))?;
    if let Some(partitions) = &cluster.partitions {
        output::line(format!(
            "partitions  {}, without leader {}, under-replicated {}",
            partitions.total, partitions.without_leader, partitions.under_replicated
        ))?;
        if partitions.damaged > 0 {
            output::line(format!(
                "damaged     {} replicas on node {}, under repair (its log tells which; ask each node with --admin)",
                partitions.damaged, cluster.answered_by
            ))?;
        }
    }
    output::line("")?;
    let mut table =
        Table::new(&["node", "state", "roles", "leaders", "replicas", "in sync", "kafka", "admin", "epoch", "rack"]);
    for node in &cluster.nodes {
        let kafka: Vec<&str> = node.kafka_listeners.iter().map(|listener| listener.address.as_str()).collect();
        table.row(vec![
            node.id.to_string(),
            if node.draining { format!("{}, drained", state(node)) } else { state(node).to_string() },
            roles(node, cluster.controller),
            node.leaders.to_string(),
            node.replicas.to_string(),
            node.in_sync.to_string(),
            kafka.join(" "),
            node.admin_address.clone(),
            or_dash(node.broker_epoch),
            or_dash(node.rack.as_ref()),
        ]);
    }
    table.print()
}

pub fn state(node: &Node) -> &'static str {
    match node.liveness() {
        Liveness::Unspecified => "-",
        Liveness::Alive => "alive",
        Liveness::Fenced => "fenced",
        Liveness::ShuttingDown => "stopping",
    }
}

/// "broker,controller*": the star marks the one that is in charge.
fn roles(node: &Node, controller: Option<i32>) -> String {
    let in_charge = if controller == Some(node.id) { "controller*" } else { "controller" };
    match (node.broker, node.controller) {
        (true, true) => format!("broker,{in_charge}"),
        (true, false) => "broker".to_string(),
        (false, _) => in_charge.to_string(),
    }
}

fn to_json(cluster: &DescribeClusterResponse) -> Value {
    let nodes: Vec<Value> = cluster
        .nodes
        .iter()
        .map(|node| {
            let mut roles = Vec::new();
            roles.extend(node.broker.then_some("broker"));
            roles.extend(node.controller.then_some("controller"));
            let listeners: serde_json::Map<String, Value> =
                node.kafka_listeners.iter().map(|l| (l.name.clone(), json!(l.address))).collect();
            json!({
                "id": node.id, "roles": roles, "state": state(node), "draining": node.draining, "broker_epoch": node.broker_epoch,
                "directory_id": node.directory_id, "rack": node.rack, "version": node.version,
                "kafka_listeners": listeners, "replica_address": node.replica_address,
                "cluster_address": node.cluster_address, "admin_address": node.admin_address,
                "leaders": node.leaders, "replicas": node.replicas, "in_sync": node.in_sync,
            })
        })
        .collect();
    let quorum: Vec<Value> = cluster
        .quorum
        .iter()
        .map(|member| {
            json!({
                "node": member.node, "directory_id": member.directory_id, "address": member.address,
                "voter": member.voter, "matched_index": member.matched_index,
            })
        })
        .collect();
    let partitions = cluster.partitions.as_ref().map(|partitions| {
        json!({
            "total": partitions.total, "without_leader": partitions.without_leader,
            "under_replicated": partitions.under_replicated, "damaged": partitions.damaged,
        })
    });
    json!({
        "cluster_id": cluster.cluster_id, "answered_by": cluster.answered_by, "controller_id": cluster.controller,
        "term": cluster.term, "last_log_index": cluster.last_log_index, "commit_index": cluster.commit_index,
        "applied_index": cluster.applied_index, "snapshot_index": cluster.snapshot_index,
        "nodes": nodes, "quorum": quorum, "partitions": partitions,
    })
}

async fn watch(reach: &Reach, format: Format, from: Option<u64>, progress: bool) -> anyhow::Result<()> {
    let mut watcher = Watcher::connect(reach.admin.clone(), from).await?;
    if format == Format::Table {
        output::line(format!("watching {}; times are UTC, numbers are Raft indexes; Ctrl-C ends", watcher.address()))?;
    }
    loop {
        let message = watcher.next(|lost| output::tell(&format!("{} {lost}", output::time_of_day()))).await;
        let message = message.map_err(|status| reach::refused(&status))?;
        for event in &message.events {
            match format {
                Format::Json => output::json_line(&events::to_json(message.index, event))?,
                Format::Table => {
                    output::line(format!("{} {:>6} {}", output::time_of_day(), message.index, events::words(event)))?;
                }
            }
        }
        if progress && message.events.is_empty() {
            match format {
                Format::Json => output::json_line(&json!({"index": message.index, "event": "progress"}))?,
                Format::Table => output::line(format!("{} {:>6}", output::time_of_day(), message.index))?,
            }
        }
    }
}

async fn ready(reach: &Reach) -> anyhow::Result<()> {
    for address in &reach.admin {
        let probed = tokio::time::timeout(Duration::from_secs(3), reach::probe(address)).await;
        match probed.unwrap_or_else(|_| Err("no answer".to_string())) {
            Ok((_, true)) => {
                output::line(format!("{address} is ready"))?;
            }
            Ok((_, false)) => anyhow::bail!("{address} is starting, or cut off from the cluster"),
            Err(error) => anyhow::bail!("{address}: {error}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_the_controller_by_id_or_null() {
        let mut cluster = DescribeClusterResponse { controller: Some(2), ..DescribeClusterResponse::default() };
        assert_eq!(to_json(&cluster)["controller_id"], 2);
        cluster.controller = None;
        assert!(to_json(&cluster)["controller_id"].is_null());
    }

    #[test]
    fn the_star_marks_the_controller_in_charge() {
        let node = Node { id: 2, broker: true, controller: true, ..Node::default() };
        assert_eq!(roles(&node, Some(2)), "broker,controller*");
        assert_eq!(roles(&node, Some(1)), "broker,controller");
    }
}
