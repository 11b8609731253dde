//! Groups as operators see them: what the coordinator knows beside what the metadata holds.

use super::proto::{self, GroupPartition, GroupRebalance, GroupSummary, TopicSelection};
use crate::group::coordinator::{Coordinator, GroupError};
use crate::group::lag::{Lag, Total};
use crate::group::overview::{self, Partitions};
use crate::group::partitioner::coordinator_of;
use crate::ids::BrokerId;
use crate::metadata::group_change::{GroupHeader, GroupMember, Rebalance};
use crate::metadata::image::Image;
use crate::metadata::image::groups::Group;
use crate::platform::clock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn lag(total: Total) -> proto::GroupLag {
    proto::GroupLag { partitions: count(total.partitions), records: whole(total.records), age_ms: whole(total.age_ms) }
}

fn stored(name: &str, group: &Group, coordinator: Option<BrokerId>) -> GroupSummary {
    let kind = match &group.header {
        GroupHeader::Classic { .. } => "classic",
        GroupHeader::Consumer { .. } => "consumer",
    };
    GroupSummary {
        name: name.to_string(),
        protocol_type: group.header.protocol_type().to_string(),
        generation: group.header.epoch(),
        members: count(group.members.len()),
        state: String::new(),
        r#type: kind.to_string(),
        coordinator: coordinator.map(|broker| broker.0),
        lag: None,
    }
}

/// The groups that this broker coordinates.
pub fn local(groups: &Coordinator, image: &Image, me: BrokerId, now_ms: i64) -> Vec<GroupSummary> {
    let lags = groups.lags();
    let listed = groups.list().groups.into_iter().map(|listed| {
        let summary = image.groups.groups.get(&listed.group).map(|group| stored(&listed.group, group, Some(me)));
        GroupSummary {
            name: listed.group.clone(),
            protocol_type: listed.protocol_type,
            state: listed.state.to_string(),
            r#type: listed.kind.to_string(),
            coordinator: Some(me.0),
            lag: lags.total(&listed.group, now_ms).map(lag),
            ..summary.unwrap_or_default()
        }
    });
    listed.collect()
}

/// Groups whose coordinator does not tell, as far as the metadata knows them.
pub fn add_untold(told: &mut Vec<GroupSummary>, image: &Image) {
    let known: BTreeSet<String> = told.iter().map(|group| group.name.clone()).collect();
    let untold = image.groups.groups.iter().filter(|(name, _)| !known.contains(*name));
    told.extend(untold.map(|(name, group)| stored(name, group, coordinator_of(name, image))));
}

/// Sorted by name; a group that moved meanwhile may have been told twice.
pub fn filtered(mut groups: Vec<GroupSummary>, states: &[String], types: &[String]) -> Vec<GroupSummary> {
    let matches =
        |filter: &[String], name: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(name));
    groups.retain(|group| matches(states, &group.state) && matches(types, &group.r#type));
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    groups.dedup_by(|a, b| a.name == b.name);
    groups
}

pub async fn describe(
    groups: &Coordinator,
    image: &Image,
    me: BrokerId,
    name: &str,
) -> Result<proto::DescribeGroupResponse, GroupError> {
    let overview = groups.overview(name)?;
    let lags = groups.measure(name).await?;
    let now_ms = clock::wall_ms();
    let stored = image.groups.groups.get(name);
    let mut answer = proto::DescribeGroupResponse {
        name: name.to_string(),
        protocol_type: overview.protocol_type.clone(),
        state: overview.state.to_string(),
        r#type: overview.kind.to_string(),
        coordinator: me.0,
        lag: lags.total(name, now_ms).map(lag),
        ..proto::DescribeGroupResponse::default()
    };
    let mut rows = Rows::default();
    if let Some(stored) = stored {
        answer.generation = stored.header.epoch();
        (answer.protocol, answer.leader) = match &stored.header {
            GroupHeader::Classic { protocol, leader, .. } => (protocol.clone(), leader.clone()),
            GroupHeader::Consumer { assignor, .. } => (Some(assignor.clone()), None),
        };
        for (id, member) in &stored.members {
            let assigned = overview::assigned(member, &overview.protocol_type, image);
            rows.assign(id, &assigned);
            answer.members.push(shown(id, member, assigned));
        }
        answer.rebalances = stored.history.iter().map(told_rebalance).collect();
    }
    for (topic, partition, committed) in overview.offsets {
        let row = rows.row(&topic, partition);
        row.committed = Some(committed.offset);
        row.leader_epoch = committed.leader_epoch;
        row.metadata = committed.metadata.to_string();
        row.committed_at_ms = committed.commit_ms;
    }
    lags.of(name).iter().for_each(|lag| rows.measured(lag, now_ms));
    answer.partitions = rows.0.into_values().collect();
    Ok(answer)
}

#[derive(Default)]
struct Rows(BTreeMap<(Arc<str>, i32), GroupPartition>);

impl Rows {
    fn row(&mut self, topic: &str, partition: i32) -> &mut GroupPartition {
        self.0.entry((topic.into(), partition)).or_insert_with(|| GroupPartition {
            topic: topic.to_string(),
            partition,
            ..GroupPartition::default()
        })
    }

    fn assign(&mut self, member: &str, assigned: &Partitions) {
        for (topic, partitions) in assigned {
            for partition in partitions {
                self.row(topic, *partition).member = Some(member.to_string());
            }
        }
    }

    fn measured(&mut self, lag: &Lag, now_ms: i64) {
        let row = self.row(&lag.topic, lag.partition.partition);
        row.log_start = Some(lag.log_start.0);
        row.log_end = Some(lag.log_end.0);
        row.lag = Some(whole(lag.records()));
        row.lag_ms = lag.age_ms(now_ms).map(whole);
    }
}

fn shown(id: &str, member: &GroupMember, assigned: Partitions) -> proto::GroupMember {
    let (session_timeout_ms, rebalance_timeout_ms, epoch) = match member {
        GroupMember::Classic(member) => (member.session_timeout_ms, member.rebalance_timeout_ms, None),
        GroupMember::Consumer(member) => {
            let session = member.classic.as_ref().map_or(0, |classic| classic.session_timeout_ms);
            (session, member.rebalance_timeout_ms, Some(member.member_epoch))
        }
    };
    let (client_id, client_host) = member.client();
    proto::GroupMember {
        id: id.to_string(),
        instance_id: member.instance_id().map(Into::into),
        client_id: client_id.to_string(),
        client_host: client_host.to_string(),
        session_timeout_ms,
        rebalance_timeout_ms,
        assignment: assigned
            .into_iter()
            .map(|(topic, partitions)| TopicSelection { topic, partitions: partitions.into_iter().collect() })
            .collect(),
        epoch,
    }
}

fn told_rebalance(rebalance: &Rebalance) -> GroupRebalance {
    GroupRebalance {
        at_ms: rebalance.at_ms,
        generation: rebalance.epoch,
        members: rebalance.members,
        reason: rebalance.reason.name().to_string(),
        whom: rebalance.reason.whom().map(ToString::to_string),
        others: rebalance.others,
        said: rebalance.said.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(name: &str, state: &str, kind: &str) -> GroupSummary {
        GroupSummary { name: name.into(), state: state.into(), r#type: kind.into(), ..GroupSummary::default() }
    }

    #[test]
    fn lists_are_sorted_and_filtered_whatever_the_case() {
        let all = || {
            vec![
                summary("b", "Stable", "classic"),
                summary("a", "Empty", "consumer"),
                summary("b", "Stable", "classic"),
            ]
        };
        let names = |states: &[&str], types: &[&str]| {
            let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
            let found = filtered(all(), &words(states), &words(types));
            found.into_iter().map(|group| group.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], &[]), ["a", "b"]);
        assert_eq!(names(&["stable", "dead"], &[]), ["b"]);
        assert_eq!(names(&["EMPTY"], &["Consumer"]), ["a"]);
        assert!(names(&["Empty"], &["classic"]).is_empty());
    }

    #[test]
    fn a_partition_has_one_row_for_its_owner_and_its_offset() {
        let mut rows = Rows::default();
        rows.assign("m", &Partitions::from([("t".to_string(), BTreeSet::from([0, 1]))]));
        rows.row("t", 1).committed = Some(5);
        rows.row("s", 9).committed = Some(6);
        let told: Vec<_> =
            rows.0.into_values().map(|row| (row.topic, row.partition, row.member, row.committed)).collect();
        assert_eq!(
            told,
            [
                ("s".to_string(), 9, None, Some(6)),
                ("t".to_string(), 0, Some("m".to_string()), None),
                ("t".to_string(), 1, Some("m".to_string()), Some(5)),
            ]
        );
    }
}
