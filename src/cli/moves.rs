//! `highwater topic reassign`, and how far moves have got.

use super::output::{self, Format, Table, list, or_dash};
use super::reach::{self, Reach, ReassignmentsClient};
use crate::admin::proto::{
    AlterReassignmentsRequest, DescribeTopicRequest, ListReassignmentsRequest, Reassignment, ReassignmentChange,
};
use clap::Args;
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const LINE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct Reassign {
    name: String,
    /// Only this partition [default: all, the preferred leaders in turn]
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// The brokers to be on, the preferred leader first
    #[arg(
        long,
        short = 'r',
        value_name = "ID,…",
        value_delimiter = ',',
        required_unless_present_any = ["status", "cancel"],
        conflicts_with_all = ["status", "cancel"]
    )]
    replicas: Vec<i32>,
    /// Tell how far the moves under way have got
    #[arg(long, conflicts_with = "cancel")]
    status: bool,
    /// Put the old replicas back
    #[arg(long)]
    cancel: bool,
    /// Do not wait until the moves are complete
    #[arg(long)]
    no_wait: bool,
}

/// What moves have left to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub bytes_total: i64,
    pub bytes_left: i64,
    pub records_left: i64,
    /// Moves whose leader does not tell.
    pub unknown: usize,
}

impl Left {
    pub fn of(moves: &[Reassignment]) -> Left {
        let mut left = Left::default();
        for r in moves {
            left.bytes_total += r.bytes_total.unwrap_or(0);
            left.bytes_left += r.bytes_left.unwrap_or(0);
            left.records_left += r.records_left.unwrap_or(0);
            left.unknown += usize::from(r.bytes_left.is_none());
        }
        left
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: i64| output::thousands(u64::try_from(n).unwrap_or(0));
        write!(
            f,
            "{} of {} bytes and {} records to copy",
            number(self.bytes_left),
            number(self.bytes_total),
            number(self.records_left)
        )?;
        if self.unknown > 0 {
            write!(f, " ({} leaders do not tell)", self.unknown)?;
        }
        Ok(())
    }
}

pub fn change(topic: &str, partition: i32, replicas: Vec<i32>) -> ReassignmentChange {
    ReassignmentChange { topic: topic.to_string(), partition, replicas }
}

/// Fails with every refusal, after all that could be done was done.
pub async fn alter(client: &mut ReassignmentsClient, changes: Vec<ReassignmentChange>) -> anyhow::Result<()> {
    let request = AlterReassignmentsRequest { changes };
    let results = client.alter(request).await.map_err(|status| reach::refused(&status))?.into_inner().results;
    let refused: Vec<String> = results
        .into_iter()
        .filter_map(|result| Some(format!("{}-{}: {}", result.topic, result.partition, result.refused?)))
        .collect();
    anyhow::ensure!(refused.is_empty(), "{}", refused.join("\n"));
    Ok(())
}

/// Partition n prefers the n-th of the brokers, and falls back to the next ones in turn.
fn in_turn(replicas: &[i32], partition: i32) -> Vec<i32> {
    let mut turned = replicas.to_vec();
    let by = usize::try_from(partition).unwrap_or(0) % turned.len().max(1);
    turned.rotate_left(by);
    turned
}

pub async fn run(reassign: Reassign, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let Reassign { name, partition, replicas, status, cancel, no_wait } = reassign;
    let mut client = reach.reassignments().await?;
    if status {
        let moving = moving(&mut client, &name, partition).await?;
        return match format {
            Format::Json => output::json(&json!({"reassignments": moving.iter().map(to_json).collect::<Vec<_>>()})),
            Format::Table => print(&moving),
        };
    }
    if cancel {
        let moving = moving(&mut client, &name, partition).await?;
        anyhow::ensure!(!moving.is_empty(), "nothing of topic {name} is being moved");
        let changes = moving.iter().map(|r| change(&name, r.partition, Vec::new())).collect();
        alter(&mut client, changes).await?;
        return match format {
            Format::Json => output::json(&json!({"topic": name, "cancelled": moving.len()})),
            Format::Table => output::line(format!("cancelled {} moves of topic {name}", moving.len())),
        };
    }
    let changes = match partition {
        Some(partition) => vec![change(&name, partition, replicas)],
        None => {
            let request = DescribeTopicRequest { name: name.clone(), local_only: true };
            let described = reach.topics().await?.describe(request).await.map_err(|status| reach::refused(&status))?;
            let numbers = described.into_inner().partitions.into_iter().map(|p| p.partition);
            numbers.map(|number| change(&name, number, in_turn(&replicas, number))).collect()
        }
    };
    let count = changes.len();
    alter(&mut client, changes).await?;
    if no_wait {
        return match format {
            Format::Json => output::json(&json!({"topic": name, "moving": count})),
            Format::Table => output::line(format!("{count} partitions of topic {name} are on their way")),
        };
    }
    wait(&mut client, &name, partition, format).await
}

/// A line a second until nothing moves. Ctrl-C ends the watching, not the moving.
async fn wait(
    client: &mut ReassignmentsClient,
    name: &str,
    partition: Option<i32>,
    format: Format,
) -> anyhow::Result<()> {
    let mut ticks = interval(LINE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let moving = moving(client, name, partition).await?;
        if moving.is_empty() {
            return match format {
                Format::Json => output::json_line(&json!({"topic": name, "partitions_left": 0})),
                Format::Table => output::line(format!("topic {name} is where it should be")),
            };
        }
        let left = Left::of(&moving);
        match format {
            Format::Json => output::json_line(&json!({
                "topic": name, "partitions_left": moving.len(), "bytes_left": left.bytes_left,
                "bytes_total": left.bytes_total, "records_left": left.records_left,
            }))?,
            Format::Table => output::line(format!(
                "{}  topic {name}: {} partitions left, {left}",
                output::time_of_day(),
                moving.len()
            ))?,
        }
    }
}

async fn moving(
    client: &mut ReassignmentsClient,
    topic: &str,
    partition: Option<i32>,
) -> anyhow::Result<Vec<Reassignment>> {
    let request = ListReassignmentsRequest { topic: Some(topic.to_string()), broker: None };
    let found = client.list(request).await.map_err(|status| reach::refused(&status))?.into_inner().reassignments;
    Ok(found.into_iter().filter(|r| partition.is_none_or(|p| p == r.partition)).collect())
}

fn print(moving: &[Reassignment]) -> anyhow::Result<()> {
    let head = &["partition", "leader", "from", "to", "adding", "removing", "in sync", "bytes left", "records left"];
    let mut table = Table::new(head);
    for r in moving {
        table.row(vec![
            r.partition.to_string(),
            or_dash(r.leader),
            list(&r.from),
            list(&r.to),
            list(&r.adding),
            list(&r.removing),
            list(&r.isr),
            or_dash(r.bytes_left),
            or_dash(r.records_left),
        ]);
    }
    table.print()
}

fn to_json(r: &Reassignment) -> Value {
    json!({
        "topic": r.topic, "partition": r.partition, "leader": r.leader, "from": r.from, "to": r.to,
        "adding": r.adding, "removing": r.removing, "isr": r.isr, "bytes_total": r.bytes_total,
        "bytes_left": r.bytes_left, "records_left": r.records_left,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_prefer_the_brokers_in_turn() {
        assert_eq!(in_turn(&[1, 2, 4], 0), [1, 2, 4]);
        assert_eq!(in_turn(&[1, 2, 4], 1), [2, 4, 1]);
        assert_eq!(in_turn(&[1, 2, 4], 5), [4, 1, 2]);
    }

    #[test]
    fn what_is_left_is_told_in_words() {
        let r = Reassignment {
            bytes_total: Some(2_000_000),
            bytes_left: Some(1_500),
            records_left: Some(7),
            ..Reassignment::default()
        };
        let told = Left::of(&[r, Reassignment::default()]).to_string();
        assert_eq!(told, "1,500 of 2,000,000 bytes and 7 records to copy (1 leaders do not tell)");
    }
}
