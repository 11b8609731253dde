//! `highwater group`: list, describe, reset-offsets, delete.

use super::output::{self, Format, Table, or_dash};
use super::reach::{self, Reach};
use super::{group_describe, group_reset, times};
use crate::admin::proto::{DeleteGroupRequest, GroupSummary, ListGroupsRequest};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Consumer groups: who is in them, how far behind they are, and where they go on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater group list
  highwater group list --state Stable --state Empty
  highwater group describe shop
  highwater group reset-offsets shop --topic orders --to-earliest              shows what would be done
  highwater group reset-offsets shop --topic orders --to-earliest --execute
  highwater group delete shop")]
pub struct Group {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Groups with their states, types, members and total lag
    List {
        /// Only groups in this state: Empty, PreparingRebalance, CompletingRebalance, Stable, Assigning, Reconciling; may
        /// be repeated
        #[arg(long, value_name = "STATE")]
        state: Vec<String>,
        /// Only groups of this type: classic or consumer; may be repeated
        #[arg(long = "type", value_name = "TYPE")]
        kind: Vec<String>,
    },
    /// Members, what each is assigned, committed offsets with their lag, and the last rebalances with their reasons
    Describe { name: String },
    /// Change where a group without members goes on consuming; shows what would be done unless --execute is given
    #[command(after_help = group_reset::EXAMPLES)]
    ResetOffsets(group_reset::ResetOffsets),
    /// Delete a group without members, with its committed offsets, for good
    Delete { name: String },
}

pub async fn run(group: Group, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let refused = |status: tonic::Status| reach::refused(&status);
    match group.command {
        Command::List { state, kind } => {
            let request = ListGroupsRequest { local_only: false, states: state, types: kind };
            let found = reach.groups().await?.list(request).await.map_err(refused)?.into_inner();
            if !found.silent_brokers.is_empty() {
                output::tell(&format!(
                    "warning: brokers {} do not tell: the groups they coordinate lack state and lag, or are missing",
                    output::list(&found.silent_brokers)
                ));
            }
            match format {
                Format::Json => {
                    let groups: Vec<Value> = found.groups.iter().map(to_json).collect();
                    output::json(&json!({ "groups": groups, "silent_brokers": found.silent_brokers }))
                }
                Format::Table => table(found.groups).print(),
            }
        }
        Command::Describe { name } => group_describe::run(name, reach, format).await,
        Command::ResetOffsets(reset) => group_reset::run(reset, reach, format).await,
        Command::Delete { name } => {
            let request = DeleteGroupRequest { name: name.clone(), local_only: false };
            reach.groups().await?.delete(request).await.map_err(refused)?;
            match format {
                Format::Json => output::json(&json!({ "deleted": name })),
                Format::Table => output::line(format!("deleted group {name} with its offsets")),
            }
        }
    }
}

fn table(groups: Vec<GroupSummary>) -> Table {
    let mut table =
        Table::new(&["group", "state", "type", "protocol", "members", "lag records", "oldest waits", "coordinator"]);
    for group in groups {
        table.row(vec![
            group.name,
            or_dash(Some(group.state).filter(|state| !state.is_empty())),
            group.r#type,
            or_dash(Some(group.protocol_type).filter(|kind| !kind.is_empty())),
            group.members.to_string(),
            or_dash(group.lag.as_ref().map(|lag| lag.records)),
            or_dash(group.lag.as_ref().map(|lag| times::age(lag.age_ms))),
            or_dash(group.coordinator),
        ]);
    }
    table
}

fn to_json(group: &GroupSummary) -> Value {
    json!({
        "name": group.name, "protocol_type": group.protocol_type, "generation": group.generation,
        "members": group.members, "state": group.state, "type": group.r#type, "coordinator": group.coordinator,
        "lag": group.lag.as_ref().map(group_describe::lag_to_json),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::proto::GroupLag;

    #[test]
    fn a_group_whose_coordinator_is_silent_is_listed_with_what_is_known() {
        let told = GroupSummary {
            name: "shop".into(),
            protocol_type: "consumer".into(),
            generation: 3,
            members: 2,
            state: "Stable".into(),
            r#type: "classic".into(),
            coordinator: Some(1),
            lag: Some(GroupLag { partitions: 6, records: 1_500, age_ms: 65_000 }),
        };
        let silent = GroupSummary { name: "x".into(), r#type: "classic".into(), ..GroupSummary::default() };
        assert_eq!(
            table(vec![told, silent]).lines(),
            [
                "group  state   type     protocol  members  lag records  oldest waits  coordinator",
                "shop   Stable  classic  consumer        2         1500  1m 05s                  1",
                "x      -       classic  -               0            -  -                       -",
            ]
        );
    }
}
