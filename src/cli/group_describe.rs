//! `highwater group describe`.

use super::output::{self, Format, Table, or_dash};
use super::reach::{self, Reach};
use super::times;
use crate::admin::proto::{
    DescribeGroupRequest, DescribeGroupResponse, GroupLag, GroupMember, GroupPartition, GroupRebalance, TopicSelection,
};
use serde_json::{Value, json};

pub async fn run(name: String, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let request = DescribeGroupRequest { name, local_only: false };
    let mut groups = reach.groups().await?;
    let group = groups.describe(request).await.map_err(|status| reach::refused(&status))?.into_inner();
    match format {
        Format::Json => output::json(&to_json(&group)),
        Format::Table => print(&group),
    }
}

fn print(group: &DescribeGroupResponse) -> anyhow::Result<()> {
    let kind = if group.protocol_type.is_empty() { "no members ever".to_string() } else { group.protocol_type.clone() };
    output::line(format!("group        {} ({}, {kind})", group.name, group.r#type))?;
    output::line(format!("state        {}, coordinator {}", group.state, group.coordinator))?;
    output::line(format!("generation   {}, assignor {}", group.generation, or_dash(group.protocol.as_ref())))?;
    output::line(format!("lag          {}", lag_words(group.lag.as_ref())))?;
    if !group.members.is_empty() {
        output::line("")?;
        members(group).print()?;
    }
    if !group.partitions.is_empty() {
        output::line("")?;
        partitions(group).print()?;
    }
    if !group.rebalances.is_empty() {
        output::line("")?;
        rebalances(&group.rebalances).print()?;
    }
    Ok(())
}

fn lag_words(lag: Option<&GroupLag>) -> String {
    match lag {
        None => "nothing is committed".to_string(),
        Some(lag) if lag.records == 0 => format!("none, over {} partitions", lag.partitions),
        Some(lag) => format!(
            "{} records over {} partitions, the oldest waits for {}",
            output::thousands(u64::try_from(lag.records).unwrap_or(0)),
            lag.partitions,
            times::age(lag.age_ms)
        ),
    }
}

fn members(group: &DescribeGroupResponse) -> Table {
    let mut table = Table::new(&["member", "instance", "client", "host", "session ms", "leads", "assigned"]);
    for member in &group.members {
        let leads = if group.leader.as_ref() == Some(&member.id) { "yes" } else { "" };
        table.row(vec![
            member.id.clone(),
            or_dash(member.instance_id.as_ref()),
            member.client_id.clone(),
            member.client_host.clone(),
            member.session_timeout_ms.to_string(),
            leads.to_string(),
            assigned(&member.assignment),
        ]);
    }
    table
}

/// "orders:0-2,5 users:1".
fn assigned(assignment: &[TopicSelection]) -> String {
    if assignment.is_empty() {
        return "-".to_string();
    }
    let topic = |selection: &TopicSelection| format!("{}:{}", selection.topic, ranges(&selection.partitions));
    assignment.iter().map(topic).collect::<Vec<_>>().join(" ")
}

/// Of ascending numbers.
fn ranges(numbers: &[i32]) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let shown = |(first, last): &(i32, i32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(shown).collect::<Vec<_>>().join(",")
}

fn partitions(group: &DescribeGroupResponse) -> Table {
    let client = |member: &String| {
        let found = group.members.iter().find(|known| known.id == *member);
        found.map_or_else(|| member.clone(), |known| known.instance_id.clone().unwrap_or_else(|| known.id.clone()))
    };
    let mut table =
        Table::new(&["topic", "partition", "committed", "log start", "log end", "lag", "oldest waits", "member"]);
    for row in &group.partitions {
        table.row(vec![
            row.topic.clone(),
            row.partition.to_string(),
            or_dash(row.committed),
            or_dash(row.log_start),
            or_dash(row.log_end),
            or_dash(row.lag),
            or_dash(row.lag_ms.map(times::age)),
            or_dash(row.member.as_ref().map(client)),
        ]);
    }
    table
}

/// The newest first.
fn rebalances(rebalances: &[GroupRebalance]) -> Table {
    let mut table = Table::new(&["rebalanced at (UTC)", "generation", "members", "reason"]);
    for rebalance in rebalances.iter().rev() {
        table.row(vec![
            times::shown(rebalance.at_ms),
            rebalance.generation.to_string(),
            rebalance.members.to_string(),
            reason(rebalance),
        ]);
    }
    table
}

/// "member joined: app-1, and 3 more (the consumer is being closed)".
fn reason(rebalance: &GroupRebalance) -> String {
    let mut words = rebalance.reason.replace('_', " ");
    if let Some(whom) = &rebalance.whom {
        words.push_str(&format!(": {whom}"));
    }
    if rebalance.others > 0 {
        words.push_str(&format!(", and {} more", rebalance.others));
    }
    if let Some(said) = &rebalance.said {
        words.push_str(&format!(" ({said})"));
    }
    words
}

pub fn lag_to_json(lag: &GroupLag) -> Value {
    json!({ "partitions": lag.partitions, "records": lag.records, "age_ms": lag.age_ms })
}

fn to_json(group: &DescribeGroupResponse) -> Value {
    json!({
        "name": group.name, "protocol_type": group.protocol_type, "protocol": group.protocol,
        "generation": group.generation, "leader": group.leader, "state": group.state, "type": group.r#type,
        "coordinator": group.coordinator, "lag": group.lag.as_ref().map(lag_to_json),
        "members": group.members.iter().map(member_to_json).collect::<Vec<_>>(),
        "partitions": group.partitions.iter().map(partition_to_json).collect::<Vec<_>>(),
        "rebalances": group.rebalances.iter().map(rebalance_to_json).collect::<Vec<_>>(),
    })
}

fn member_to_json(member: &GroupMember) -> Value {
    let assignment = member.assignment.iter().map(|topic| (topic.topic.clone(), json!(topic.partitions)));
    json!({
        "id": member.id, "instance_id": member.instance_id, "client_id": member.client_id,
        "client_host": member.client_host, "session_timeout_ms": member.session_timeout_ms,
        "rebalance_timeout_ms": member.rebalance_timeout_ms, "epoch": member.epoch,
        "assignment": assignment.collect::<serde_json::Map<_, _>>(),
    })
}

fn partition_to_json(row: &GroupPartition) -> Value {
    json!({
        "topic": row.topic, "partition": row.partition, "member": row.member, "committed": row.committed,
        "leader_epoch": row.leader_epoch, "metadata": row.metadata, "committed_at_ms": row.committed_at_ms,
        "log_start": row.log_start, "log_end": row.log_end, "lag": row.lag, "lag_ms": row.lag_ms,
    })
}

fn rebalance_to_json(rebalance: &GroupRebalance) -> Value {
    json!({
        "at_ms": rebalance.at_ms, "generation": rebalance.generation, "members": rebalance.members,
        "reason": rebalance.reason, "whom": rebalance.whom, "others": rebalance.others, "said": rebalance.said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_ranges() {
        let topic =
            |topic: &str, partitions: &[i32]| TopicSelection { topic: topic.into(), partitions: partitions.into() };
        assert_eq!(assigned(&[topic("orders", &[0, 1, 2, 5]), topic("users", &[1])]), "orders:0-2,5 users:1");
        assert_eq!(assigned(&[]), "-");
    }

    #[test]
    fn a_rebalance_tells_why() {
        let rebalance = GroupRebalance {
            reason: "member_left".into(),
            whom: Some("app-1".into()),
            others: 2,
            said: Some("the consumer is being closed".into()),
            ..GroupRebalance::default()
        };
        assert_eq!(reason(&rebalance), "member left: app-1, and 2 more (the consumer is being closed)");
        let moved = GroupRebalance { reason: "coordinator_moved".into(), ..GroupRebalance::default() };
        assert_eq!(reason(&moved), "coordinator moved");
    }

    #[test]
    fn the_total_says_what_there_is_to_do() {
        assert_eq!(lag_words(None), "nothing is committed");
        assert_eq!(lag_words(Some(&GroupLag { partitions: 3, records: 0, age_ms: 0 })), "none, over 3 partitions");
        let behind = GroupLag { partitions: 3, records: 12_345, age_ms: 61_000 };
        assert_eq!(lag_words(Some(&behind)), "12,345 records over 3 partitions, the oldest waits for 1m 01s");
    }
}
