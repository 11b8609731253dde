//! `highwater quorum`: who votes on metadata.

use super::output::{self, Format, Table, or_dash};
use super::reach::{self, Reach};
use crate::admin::proto::{
    AddVoterRequest, DescribeQuorumRequest, DescribeQuorumResponse, RemoveVoterRequest, ReplaceLostRequest,
    VotersResponse,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Describe and change the metadata quorum.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater quorum describe
  highwater quorum add 4              a node that has joined votes from now on
  highwater quorum remove 2           it only follows the log from now on; the controller may remove itself
  highwater quorum replace 3          node 3 lost its data folder and came back with an empty one

A majority of the voters must run for anything to change: three survive the loss of one, five of two.")]
pub struct Quorum {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The voters and who only follows, and how far each is
    Describe,
    /// A node that has joined votes from now on
    Add {
        node: i32,
        /// Only with this data folder
        #[arg(long, value_name = "UUID", default_value = "")]
        directory: String,
        /// How long it may take to catch up
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
        timeout: u32,
    },
    /// A voter votes no more
    Remove {
        node: i32,
        /// Only if it votes with this data folder
        #[arg(long, value_name = "UUID", default_value = "")]
        directory: String,
        /// Even where no majority of the rest answers: nothing can be committed then until one does
        #[arg(long)]
        force: bool,
    },
    /// The vote of a node whose data folder is lost goes to its new folder
    Replace {
        node: i32,
        /// Even where the old folder still answers
        #[arg(long)]
        force: bool,
        /// How long the new folder may take to catch up
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
        timeout: u32,
    },
}

pub async fn run(quorum: Quorum, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let mut client = reach.quorum().await?;
    let changed = match quorum.command {
        Command::Describe => {
            let told = client.describe(DescribeQuorumRequest {}).await.map_err(|status| reach::refused(&status))?;
            return describe(&told.into_inner(), format);
        }
        Command::Add { node, directory, timeout } => {
            client.add(AddVoterRequest { node, directory_id: directory, timeout_ms: timeout * 1_000 }).await
        }
        Command::Remove { node, directory, force } => {
            client.remove(RemoveVoterRequest { node, directory_id: directory, force }).await
        }
        Command::Replace { node, force, timeout } => {
            client.replace_lost(ReplaceLostRequest { node, force, timeout_ms: timeout * 1_000 }).await
        }
    };
    tell(&changed.map_err(|status| reach::refused(&status))?.into_inner(), format)
}

fn tell(changed: &VotersResponse, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        let voters: Vec<Value> =
            changed.voters.iter().map(|v| json!({ "node": v.node, "directory_id": v.directory_id })).collect();
        return output::json(&json!({ "voters": voters, "warning": changed.warning }));
    }
    let voters: Vec<i32> = changed.voters.iter().map(|voter| voter.node).collect();
    output::line(format!("voters: {}", output::list(&voters)))?;
    warn(changed.warning.as_ref());
    Ok(())
}

fn warn(warning: Option<&String>) {
    if let Some(warning) = warning {
        output::tell(&format!("warning: {warning}"));
    }
}

fn describe(quorum: &DescribeQuorumResponse, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return output::json(&to_json(quorum));
    }
    output::line(format!("leader     {} (term {})", quorum.leader, quorum.term))?;
    output::line(format!("log end    {}", quorum.last_log_index))?;
    output::line(format!("committed  {}", quorum.committed_index))?;
    output::line("")?;
    let mut table = Table::new(&["node", "role", "index", "lag", "answered", "caught up", "address", "directory"]);
    let leads = (quorum.leader, &quorum.leader_directory_id);
    for member in &quorum.members {
        let role = match member.voter {
            true if (member.node, &member.directory_id) == leads => "leader",
            true => "voter",
            false => "learner",
        };
        table.row(vec![
            member.node.to_string(),
            role.to_string(),
            or_dash(member.matched_index),
            or_dash(member.lag),
            or_dash(member.last_fetch_ms.map(|at| ago(quorum.now_ms - at))),
            or_dash(member.last_caught_up_ms.map(|at| ago(quorum.now_ms - at))),
            member.address.clone(),
            member.directory_id.clone(),
        ]);
    }
    table.print()?;
    warn(quorum.warning.as_ref());
    Ok(())
}

/// "20 ms ago", "3.1 s ago"
fn ago(ms: i64) -> String {
    let ms = ms.max(0);
    if ms < 1_000 { format!("{ms} ms ago") } else { format!("{}.{} s ago", ms / 1_000, ms % 1_000 / 100) }
}

fn to_json(quorum: &DescribeQuorumResponse) -> Value {
    let members: Vec<Value> = quorum
        .members
        .iter()
        .map(|member| {
            json!({
                "node": member.node, "directory_id": member.directory_id, "address": member.address,
                "voter": member.voter, "matched_index": member.matched_index, "lag": member.lag,
                "last_fetch_ms": member.last_fetch_ms, "last_caught_up_ms": member.last_caught_up_ms,
            })
        })
        .collect();
    json!({
        "leader": quorum.leader, "leader_directory_id": quorum.leader_directory_id, "term": quorum.term,
        "last_log_index": quorum.last_log_index, "committed_index": quorum.committed_index,
        "now_ms": quorum.now_ms, "warning": quorum.warning, "members": members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        assert_eq!([-5, 20, 3_140].map(ago), ["0 ms ago", "20 ms ago", "3.1 s ago"]);
    }
}
