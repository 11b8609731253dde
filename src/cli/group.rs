//! `highwater group`: consumer groups as their coordinators committed them.

use super::output::{self, Format, Table, or_dash};
use super::reach::{self, Reach};
use crate::admin::proto::{DescribeGroupRequest, ListGroupsRequest};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// List and describe consumer groups.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater group list
  highwater group describe shop -o json")]
pub struct Group {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List groups
    List,
    /// The members of a group
    Describe { name: String },
}

pub async fn run(group: Group, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let mut groups = reach.groups().await?;
    let refused = |status: tonic::Status| reach::refused(&status);
    match group.command {
        Command::List => {
            let found = groups.list(ListGroupsRequest {}).await.map_err(refused)?.into_inner().groups;
            if format == Format::Json {
                let groups: Vec<Value> = found
                    .iter()
                    .map(|group| {
                        json!({
                            "name": group.name, "protocol_type": group.protocol_type,
                            "generation": group.generation, "members": group.members,
                        })
                    })
                    .collect();
                return output::json(&json!({ "groups": groups }));
            }
            let mut table = Table::new(&["group", "type", "generation", "members"]);
            for group in found {
                table.row(vec![
                    group.name,
                    group.protocol_type,
                    group.generation.to_string(),
                    group.members.to_string(),
                ]);
            }
            table.print()
        }
        Command::Describe { name } => {
            let group = groups.describe(DescribeGroupRequest { name }).await.map_err(refused)?.into_inner();
            if format == Format::Json {
                let members: Vec<Value> = group
                    .members
                    .iter()
                    .map(|member| {
                        json!({
                            "id": member.id, "instance_id": member.instance_id, "client_id": member.client_id,
                            "client_host": member.client_host, "session_timeout_ms": member.session_timeout_ms,
                            "rebalance_timeout_ms": member.rebalance_timeout_ms,
                        })
                    })
                    .collect();
                return output::json(&json!({
                    "name": group.name, "protocol_type": group.protocol_type, "protocol": group.protocol,
                    "generation": group.generation, "leader": group.leader, "members": members,
                }));
            }
            output::line(format!("group       {} ({})", group.name, group.protocol_type))?;
            output::line(format!("generation  {}, assignor {}", group.generation, or_dash(group.protocol.as_ref())))?;
            output::line("")?;
            let mut table = Table::new(&["member", "client", "host", "session ms", "leads"]);
            for member in group.members {
                let leads = if group.leader.as_ref() == Some(&member.id) { "yes" } else { "" };
                table.row(vec![
                    member.id,
                    member.client_id,
                    member.client_host,
                    member.session_timeout_ms.to_string(),
                    leads.to_string(),
                ]);
            }
            table.print()
        }
    }
}
