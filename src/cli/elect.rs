//! `highwater topic elect`: hand leadership back, or, as the last resort, choose a leader that may lack records.

use super::output::{self, Format, Table, or_dash};
use super::reach::{self, Reach, TopicsClient};
use crate::admin::proto::{
    DescribeTopicRequest, DescribeTopicResponse, ElectLeadersRequest, ElectionOutcome, ElectionResult,
};
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, BufRead, IsTerminal};

#[derive(Debug, Args)]
pub struct Elect {
    name: String,
    /// Only this partition; may be repeated [default: all that an election could be for]
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Partitions without a leader get one that was not in sync: acknowledged records may be lost for good
    #[arg(long)]
    unclean: bool,
    /// Do not ask before an unclean election
    #[arg(long, requires = "unclean")]
    yes: bool,
}

pub async fn run(elect: Elect, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let Elect { name, mut partition, unclean, yes } = elect;
    let mut topics = reach.topics().await?;
    if unclean {
        let leaderless = without_leader(&describe(&mut topics, &name).await?, &partition);
        if leaderless.is_empty() {
            return match format {
                Format::Json => output::json(&json!({"topic": name, "unclean": true, "results": []})),
                Format::Table => {
                    output::line(format!("every partition of topic {name} that was asked for has a leader"))
                }
            };
        }
        output::tell(&warning(&name, &leaderless));
        if !yes {
            confirm(&name)?;
        }
        // What was confirmed, and nothing that lost its leader meanwhile.
        partition = leaderless;
    }
    let request = ElectLeadersRequest { topic: name.clone(), partitions: partition, unclean };
    let results = topics.elect_leaders(request).await.map_err(|status| reach::refused(&status))?.into_inner().results;
    match format {
        Format::Json => {
            let rows: Vec<Value> = results.iter().map(to_json).collect();
            output::json(&json!({"topic": name, "unclean": unclean, "results": rows}))?;
        }
        Format::Table => print(&results)?,
    }
    let refused = results.iter().filter(|result| result.outcome() == ElectionOutcome::Refused).count();
    anyhow::ensure!(refused == 0, "{refused} of {} elections of topic {name} were refused", results.len());
    Ok(())
}

async fn describe(topics: &mut TopicsClient, name: &str) -> anyhow::Result<DescribeTopicResponse> {
    let request = DescribeTopicRequest { name: name.to_string(), local_only: true };
    Ok(topics.describe(request).await.map_err(|status| reach::refused(&status))?.into_inner())
}

/// Of those wanted, or of all; one that does not exist stays, for the cluster to refuse.
fn without_leader(topic: &DescribeTopicResponse, wanted: &[i32]) -> Vec<i32> {
    let led: Vec<i32> = topic.partitions.iter().filter(|p| p.leader.is_some()).map(|p| p.partition).collect();
    let all: Vec<i32> = topic.partitions.iter().map(|p| p.partition).collect();
    let wanted = if wanted.is_empty() { &all } else { wanted };
    wanted.iter().copied().filter(|partition| !led.contains(partition)).collect()
}

fn warning(name: &str, partitions: &[i32]) -> String {
    format!(
        "warning: an unclean election of topic {name}, partitions {}: ACKNOWLEDGED RECORDS MAY BE LOST FOR GOOD\n\
         Of the replicas that are alive the one with the longest log will lead. Records that only the absent replicas \
         hold are cut off there too when these come back. If one of them can still be started, start it instead.",
        output::list(partitions)
    )
}

/// Typed by a person; a script says --yes.
fn confirm(name: &str) -> anyhow::Result<()> {
    let stdin = io::stdin();
    anyhow::ensure!(
        stdin.is_terminal(),
        "nothing was done: --yes confirms an unclean election where nobody can be asked"
    );
    output::tell("Type the topic's name to go on:");
    let mut typed = String::new();
    stdin.lock().read_line(&mut typed)?;
    anyhow::ensure!(typed.trim() == name, "nothing was done: that is not the topic's name");
    Ok(())
}

fn outcome(result: &ElectionResult) -> &'static str {
    match result.outcome() {
        ElectionOutcome::Unspecified => "-",
        ElectionOutcome::Elected => "elected",
        ElectionOutcome::NotNeeded => "not needed",
        ElectionOutcome::Refused => "refused",
    }
}

fn print(results: &[ElectionResult]) -> anyhow::Result<()> {
    let mut table = Table::new(&["partition", "outcome", "leader", "why not"]);
    for result in results {
        table.row(vec![
            result.partition.to_string(),
            outcome(result).to_string(),
            or_dash(result.leader),
            or_dash(result.refused.as_ref()),
        ]);
    }
    table.print()
}

fn to_json(result: &ElectionResult) -> Value {
    json!({
        "partition": result.partition, "outcome": outcome(result), "leader": result.leader, "refused": result.refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::proto::Partition;

    #[test]
    fn only_what_has_no_leader_is_elected_uncleanly_and_the_warning_names_it() {
        let partition = |number, leader| Partition { partition: number, leader, ..Partition::default() };
        let partitions = vec![partition(0, Some(1)), partition(1, None), partition(2, None)];
        let topic = DescribeTopicResponse { partitions, ..DescribeTopicResponse::default() };
        assert_eq!(without_leader(&topic, &[]), [1, 2]);
        assert_eq!(without_leader(&topic, &[0, 2]), [2]);
        assert_eq!(without_leader(&topic, &[9]), [9]);
        assert!(warning("t", &[1, 2]).contains("topic t, partitions 1,2: ACKNOWLEDGED RECORDS MAY BE LOST"));
    }
}
