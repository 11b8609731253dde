//! `highwater topic`: create, list, describe, grow, reassign, elect, delete.

use super::command::pair;
use super::output::{self, Format, Table, list, or_dash};
use super::reach::{self, Reach};
use super::{elect, moves};
use crate::admin::proto::{
    CreatePartitionsRequest, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest, DescribeTopicResponse,
    ListTopicsRequest, Partition,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Create, list, describe, grow, reassign and delete topics, and elect their leaders.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater topic create orders --partitions 6 --replication-factor 3
  highwater topic create events --config retention.ms=86400000 --config highwater.durability=page-cache
  highwater topic list
  highwater topic describe orders -o json
  highwater topic grow orders --partitions 12
  highwater topic reassign orders --partition 2 --replicas 1,2,4
  highwater topic elect orders
  highwater topic delete orders")]
pub struct Topic {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a topic
    Create {
        name: String,
        /// How many partitions [default: the brokers' num.partitions]
        #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Replicas of each partition [default: the brokers' default.replication.factor]
        #[arg(long, short = 'r', visible_alias = "replicas", value_parser = clap::value_parser!(i32).range(1..))]
        replication_factor: Option<i32>,
        /// A topic config under Kafka's name
        #[arg(long, short = 'c', value_name = "NAME=VALUE", value_parser = pair)]
        config: Vec<(String, String)>,
        /// Check only, create nothing
        #[arg(long)]
        validate_only: bool,
    },
    /// List topics
    List {
        /// Also the brokers' own, whose names begin with two underscores
        #[arg(long)]
        internal: bool,
    },
    /// Leaders, replicas and offsets of each partition
    Describe { name: String },
    /// Add partitions; keys may map to other partitions from then on
    Grow {
        name: String,
        /// The new total
        #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(1..))]
        partitions: i32,
    },
    /// Move partitions to other brokers, tell how far that is, or cancel it
    #[command(after_help = "\
Examples:
  highwater topic reassign orders --partition 2 --replicas 1,2,4
  highwater topic reassign orders --replicas 2,3,4
  highwater topic reassign orders --status
  highwater topic reassign orders --cancel")]
    Reassign(moves::Reassign),
    /// Hand leadership back to the preferred replicas; --unclean is the last resort for partitions without a leader
    #[command(after_help = "\
Examples:
  highwater topic elect orders                                the first replica of each partition leads, if it is in sync
  highwater topic elect orders --partition 2 --unclean        asks first: acknowledged records may be lost")]
    Elect(elect::Elect),
    /// Delete a topic with all its records, for good
    Delete { name: String },
}

pub async fn run(topic: Topic, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let topic = match topic.command {
        Command::Reassign(reassign) => return moves::run(reassign, reach, format).await,
        Command::Elect(elect) => return elect::run(elect, reach, format).await,
        command => Topic { command },
    };
    let mut topics = reach.topics().await?;
    let refused = |status: tonic::Status| reach::refused(&status);
    match topic.command {
        Command::Create { name, partitions, replication_factor, config, validate_only } => {
            let configs = config.into_iter().collect();
            let request =
                CreateTopicRequest { name: name.clone(), partitions, replication_factor, configs, validate_only };
            let created = topics.create(request).await.map_err(refused)?.into_inner();
            match format {
                Format::Json => output::json(&json!({
                    "name": name, "id": created.id, "partitions": created.partitions,
                    "replication_factor": created.replication_factor, "validate_only": validate_only,
                })),
                Format::Table => output::line(format!(
                    "{} topic {name}: {} partitions with {} replicas each",
                    if validate_only { "could create" } else { "created" },
                    created.partitions,
                    created.replication_factor
                )),
            }
        }
        Command::List { internal } => {
            let request = ListTopicsRequest { include_internal: internal };
            let found = topics.list(request).await.map_err(refused)?.into_inner().topics;
            if format == Format::Json {
                let topics: Vec<Value> = found
                    .iter()
                    .map(|topic| {
                        json!({
                            "name": topic.name, "id": topic.id, "internal": topic.internal,
                            "partitions": topic.partitions, "replication_factor": topic.replication_factor,
                            "without_leader": topic.without_leader, "under_replicated": topic.under_replicated,
                        })
                    })
                    .collect();
                return output::json(&json!({ "topics": topics }));
            }
            let mut table = Table::new(&["topic", "partitions", "replicas", "without leader", "under-replicated"]);
            for topic in found {
                table.row(vec![
                    topic.name,
                    topic.partitions.to_string(),
                    topic.replication_factor.to_string(),
                    topic.without_leader.to_string(),
                    topic.under_replicated.to_string(),
                ]);
            }
            table.print()
        }
        Command::Describe { name } => {
            let request = DescribeTopicRequest { name, local_only: false };
            let topic = topics.describe(request).await.map_err(refused)?.into_inner();
            match format {
                Format::Json => output::json(&to_json(&topic)),
                Format::Table => print(&topic),
            }
        }
        Command::Grow { name, partitions } => {
            let request = CreatePartitionsRequest { topic: name.clone(), count: partitions, validate_only: false };
            topics.create_partitions(request).await.map_err(refused)?;
            match format {
                Format::Json => output::json(&json!({"name": name, "partitions": partitions})),
                Format::Table => output::line(format!("topic {name} has {partitions} partitions now")),
            }
        }
        Command::Reassign(_) | Command::Elect(_) => unreachable!("handled above"),
        Command::Delete { name } => {
            let deleted = topics.delete(DeleteTopicRequest { name: name.clone() }).await.map_err(refused)?;
            match format {
                Format::Json => output::json(&json!({"name": name, "id": deleted.into_inner().id})),
                Format::Table => output::line(format!("deleted topic {name}")),
            }
        }
    }
}

fn print(topic: &DescribeTopicResponse) -> anyhow::Result<()> {
    output::line(format!("topic    {} ({})", topic.name, topic.id))?;
    let configs: BTreeMap<_, _> = topic.configs.iter().collect();
    let configs: Vec<String> = configs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    output::line(format!("configs  {}", if configs.is_empty() { "all default".into() } else { configs.join(" ") }))?;
    output::line("")?;
    let mut table = Table::new(&[
        "partition",
        "leader",
        "epoch",
        "replicas",
        "in sync",
        "eligible",
        "log start",
        "high watermark",
        "log end",
        "bytes",
    ]);
    for partition in &topic.partitions {
        let offsets = partition.offsets.as_ref();
        table.row(vec![
            partition.partition.to_string(),
            or_dash(partition.leader),
            partition.leader_epoch.to_string(),
            replicas(partition),
            list(&partition.isr),
            list(&partition.elr),
            or_dash(offsets.map(|offsets| offsets.log_start)),
            or_dash(offsets.map(|offsets| offsets.high_watermark)),
            or_dash(offsets.map(|offsets| offsets.log_end)),
            or_dash(offsets.map(|offsets| offsets.size_bytes)),
        ]);
    }
    table.print()
}

/// "2,3,4,1 (+4 -1)": 4 is new, and 1 leaves once 4 is in sync.
fn replicas(partition: &Partition) -> String {
    let signed = |sign: char, ids: &[i32]| ids.iter().map(|id| format!("{sign}{id}")).collect::<Vec<_>>();
    let moves = [signed('+', &partition.adding), signed('-', &partition.removing)].concat();
    let all = list(&partition.replicas);
    if moves.is_empty() { all } else { format!("{all} ({})", moves.join(" ")) }
}

fn to_json(topic: &DescribeTopicResponse) -> Value {
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .map(|partition| {
            let offsets = partition.offsets.as_ref().map(|offsets| {
                json!({
                    "told_by": offsets.told_by, "told_by_leader": offsets.told_by_leader,
                    "log_start": offsets.log_start, "high_watermark": offsets.high_watermark,
                    "log_end": offsets.log_end, "durable_end": offsets.durable_end,
                    "size_bytes": offsets.size_bytes,
                })
            });
            json!({
                "partition": partition.partition, "leader": partition.leader,
                "leader_epoch": partition.leader_epoch, "partition_epoch": partition.partition_epoch,
                "replicas": partition.replicas, "isr": partition.isr, "elr": partition.elr, "offsets": offsets,
                "adding": partition.adding, "removing": partition.removing,
            })
        })
        .collect();
    json!({
        "name": topic.name, "id": topic.id, "internal": topic.internal, "configs": topic.configs,
        "partitions": partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_seen_beside_the_replicas() {
        let mut partition = Partition { replicas: vec![2, 3, 4, 1], ..Partition::default() };
        assert_eq!(replicas(&partition), "2,3,4,1");
        (partition.adding, partition.removing) = (vec![4], vec![1]);
        assert_eq!(replicas(&partition), "2,3,4,1 (+4 -1)");
    }
}
