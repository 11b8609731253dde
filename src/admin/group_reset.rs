//! Where a group goes on consuming, changed by hand.

use super::groups::of_group;
use super::proto::reset_offsets_request::To;
use super::proto::{ResetOffset, ResetOffsetsRequest, ResetOffsetsResponse, TopicSelection};
use crate::group::coordinator::{Committed, Coordinator, GroupError, OffsetCommit, OffsetWrite};
use crate::group::log_ends::{LogEnds, Question};
use crate::group::overview::Overview;
use crate::ids::*;
use crate::metadata::image::Image;
use crate::platform::clock;
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;

/// Partitions of one reset; an answer stays well under gRPC's bound.
const PARTITIONS_MAX: usize = 50_000;

/// What is wanted of every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Earliest,
    Latest,
    Offset(i64),
    ShiftBy(i64),
    /// In milliseconds since 1970.
    Time(i64),
}

impl Target {
    fn of(to: Option<To>, now_ms: i64) -> Result<Target, Status> {
        match to {
            Some(To::Earliest(_)) => Ok(Target::Earliest),
            Some(To::Latest(_)) => Ok(Target::Latest),
            Some(To::Offset(offset)) if offset >= 0 => Ok(Target::Offset(offset)),
            Some(To::Offset(offset)) => Err(Status::invalid_argument(format!("{offset} is no offset"))),
            Some(To::ShiftBy(records)) => Ok(Target::ShiftBy(records)),
            Some(To::TimeMs(time_ms)) if time_ms >= 0 => Ok(Target::Time(time_ms)),
            Some(To::AgoMs(ago_ms)) if ago_ms >= 0 => Ok(Target::Time(now_ms.saturating_sub(ago_ms).max(0))),
            Some(To::TimeMs(_) | To::AgoMs(_)) => Err(Status::invalid_argument("a time is negative")),
            None => Err(Status::invalid_argument("the request does not say what to reset the offsets to")),
        }
    }

    fn question(self, partition: TopicPartition) -> Question {
        let offsets_at = if let Target::Time(time_ms) = self { vec![time_ms] } else { Vec::new() };
        Question { offsets_at, ..Question::of(partition) }
    }

    fn offset(self, current: Option<i64>, ends: &LogEnds) -> Result<i64, String> {
        let (start, end) = (ends.log_start.0, ends.log_end.0.max(ends.log_start.0));
        Ok(match self {
            Target::Earliest => start,
            Target::Latest => end,
            Target::Offset(offset) => offset.clamp(start, end),
            Target::ShiftBy(records) => match current {
                Some(current) => current.saturating_add(records).clamp(start, end),
                None => return Err("nothing is committed to shift from".to_string()),
            },
            Target::Time(_) => ends.offsets.first().copied().flatten().map_or(end, |found| found.0.clamp(start, end)),
        })
    }
}

pub async fn reset(
    groups: &Coordinator,
    image: &Image,
    request: ResetOffsetsRequest,
) -> Result<ResetOffsetsResponse, Status> {
    let name = request.name;
    let target = Target::of(request.to, clock::wall_ms())?;
    let overview = match groups.overview(&name) {
        Ok(overview) => Some(overview),
        // It comes to be with its offsets.
        Err(GroupError::GroupNotFound) => None,
        Err(error) => return Err(of_group(&name, &error)),
    };
    if overview.as_ref().is_some_and(|overview| !overview.is_empty) {
        return Err(of_group(&name, &GroupError::NonEmptyGroup));
    }
    let current = committed(overview.as_ref());
    let wanted = wanted(image, &request.topics, request.all_topics, &current)?;
    let questions = wanted.iter().map(|(_, id)| target.question(*id)).collect();
    let ends = groups.log_ends(questions).await;
    let offsets: Vec<ResetOffset> = wanted
        .iter()
        .map(|(topic, id)| {
            row(topic, id.partition, current.get(&(topic.as_str(), id.partition)).copied(), target, ends.get(id))
        })
        .collect();
    if request.execute {
        if let Some(row) = offsets.iter().find(|row| row.problem.is_some()) {
            let problem = row.problem.as_deref().unwrap_or_default();
            return Err(Status::failed_precondition(format!(
                "nothing was changed: {}, partition {}: {problem}",
                row.topic, row.partition
            )));
        }
        // Checked once more under the group's lock: a member may have joined meanwhile.
        let commit = commit(&name, &offsets, clock::wall_ms());
        groups.commit_offsets(commit).await.map_err(|error| match error {
            GroupError::UnknownMember => of_group(&name, &GroupError::NonEmptyGroup),
            error => of_group(&name, &error),
        })?;
    }
    Ok(ResetOffsetsResponse { offsets, executed: request.execute })
}

type Current<'a> = BTreeMap<(&'a str, i32), i64>;

fn committed(overview: Option<&Overview>) -> Current<'_> {
    let offsets = overview.into_iter().flat_map(|overview| &overview.offsets);
    offsets.map(|(topic, partition, committed)| ((&**topic, *partition), committed.offset)).collect()
}

/// Which partitions, each once and sorted.
fn wanted(
    image: &Image,
    topics: &[TopicSelection],
    all_topics: bool,
    current: &Current<'_>,
) -> Result<Vec<(String, TopicPartition)>, Status> {
    let mut wanted = BTreeSet::new();
    if all_topics {
        if !topics.is_empty() {
            return Err(Status::invalid_argument("either topics are named or all are meant"));
        }
        // An offset of a topic that is just being deleted is on its way out.
        wanted.extend(current.keys().filter_map(|(topic, partition)| {
            let id = image.topic_by_name(topic)?.id;
            Some((topic.to_string(), TopicPartition::new(id, *partition)))
        }));
        if wanted.is_empty() {
            return Err(Status::failed_precondition("the group has no committed offsets; name the topics"));
        }
    } else if topics.is_empty() {
        return Err(Status::invalid_argument("no topic is named"));
    }
    for selection in topics {
        let name = &selection.topic;
        let topic =
            image.topic_by_name(name).ok_or_else(|| Status::not_found(format!("there is no topic '{name}'")))?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if let Some(missing) = selection.partitions.iter().find(|partition| !(0..count).contains(*partition)) {
            return Err(Status::not_found(format!("topic '{name}' has no partition {missing}; it has {count}")));
        }
        let all: Vec<i32> = (0..count).collect();
        let partitions = if selection.partitions.is_empty() { &all } else { &selection.partitions };
        wanted.extend(partitions.iter().map(|partition| (name.clone(), TopicPartition::new(topic.id, *partition))));
    }
    if wanted.len() > PARTITIONS_MAX {
        return Err(Status::invalid_argument(format!("at most {PARTITIONS_MAX} partitions can be reset at a time")));
    }
    Ok(wanted.into_iter().collect())
}

fn row(topic: &str, partition: i32, current: Option<i64>, target: Target, ends: Option<&LogEnds>) -> ResetOffset {
    let new = match ends {
        Some(ends) => target.offset(current, ends),
        None => Err("it has no leader, or that does not answer; retry".to_string()),
    };
    ResetOffset {
        topic: topic.to_string(),
        partition,
        current,
        new: new.as_ref().ok().copied(),
        log_start: ends.map(|ends| ends.log_start.0),
        log_end: ends.map(|ends| ends.log_end.0),
        problem: new.err(),
    }
}

/// As a client without a generation commits.
fn commit(group: &str, rows: &[ResetOffset], now_ms: i64) -> OffsetCommit {
    let write = |row: &ResetOffset| {
        let committed = Committed { offset: row.new?, leader_epoch: -1, commit_ms: now_ms, ..Committed::default() };
        Some(OffsetWrite { topic: row.topic.clone(), partition: row.partition, committed })
    };
    OffsetCommit {
        group: group.to_string(),
        generation: -1,
        offsets: rows.iter().filter_map(write).collect(),
        ..OffsetCommit::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::topics::{Partition, Topic};
    use std::sync::Arc;
    use uuid::Uuid;

    fn ends(found: Option<i64>) -> LogEnds {
        LogEnds {
            partition: TopicPartition::new(TopicId(Uuid::nil()), 0),
            log_start: Offset(10),
            log_end: Offset(100),
            times: Vec::new(),
            offsets: vec![found.map(Offset)],
        }
    }

    #[test]
    fn a_new_offset_is_always_within_the_log() {
        let to = |target: Target, current| target.offset(current, &ends(None));
        assert_eq!((to(Target::Earliest, None), to(Target::Latest, None)), (Ok(10), Ok(100)));
        assert_eq!([5, 50, 500].map(|offset| to(Target::Offset(offset), None)), [Ok(10), Ok(50), Ok(100)]);
        let shifted = [-5, 7, i64::MIN, i64::MAX].map(|records| to(Target::ShiftBy(records), Some(20)));
        assert_eq!(shifted, [Ok(15), Ok(27), Ok(10), Ok(100)]);
        assert!(to(Target::ShiftBy(1), None).is_err());
        let at = |found| Target::Time(5).offset(None, &ends(found));
        assert_eq!((at(Some(42)), at(None)), (Ok(42), Ok(100)), "all records are older: the end");
    }

    #[test]
    fn times_are_absolute_or_before_now() {
        let of = |to| Target::of(Some(to), 10_000).map_err(|status| status.code());
        assert_eq!((of(To::AgoMs(4_000)), of(To::TimeMs(7))), (Ok(Target::Time(6_000)), Ok(Target::Time(7))));
        assert_eq!(of(To::AgoMs(60_000)), Ok(Target::Time(0)));
        for wrong in [To::Offset(-1), To::TimeMs(-1), To::AgoMs(-1)] {
            assert_eq!(of(wrong), Err(tonic::Code::InvalidArgument));
        }
        assert!(Target::of(None, 0).is_err());
        let id = TopicPartition::new(TopicId(Uuid::nil()), 0);
        assert_eq!(Target::Time(7).question(id).offsets_at, [7]);
        assert!(Target::Latest.question(id).offsets_at.is_empty());
    }

    #[test]
    fn a_partition_without_an_answer_is_told_and_keeps_its_offset() {
        let row = row("t", 3, Some(20), Target::Latest, None);
        assert_eq!((row.current, row.new, row.problem.is_some()), (Some(20), None, true));
        assert!(commit("g", &[row], 0).offsets.is_empty());
    }

    #[test]
    fn partitions_are_named_or_all_that_are_committed() {
        let id = TopicId(Uuid::from_u128(5));
        let partition = Partition {
            replicas: Vec::new(),
            isr: Vec::new(),
            elr: Vec::new(),
            leader: None,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            unclean_epoch: None,
            reassignment: None,
        };
        let topic = Topic { id, name: "t".into(), partitions: [partition.clone(), partition].into_iter().collect() };
        let mut image = Image::default();
        image.topics.insert(id, Arc::new(topic));
        image.topic_ids.insert("t".into(), id);
        let current = Current::from([(("t", 1), 5), (("gone", 0), 6)]);
        let found = |topics: &[(&str, &[i32])], all| {
            let topics: Vec<_> = topics
                .iter()
                .map(|(topic, partitions)| TopicSelection { topic: topic.to_string(), partitions: partitions.to_vec() })
                .collect();
            let wanted = wanted(&image, &topics, all, &current).map_err(|status| status.code())?;
            Ok::<_, tonic::Code>(wanted.into_iter().map(|(_, id)| id.partition).collect::<Vec<_>>())
        };
        assert_eq!(found(&[("t", &[])], false), Ok(vec![0, 1]));
        assert_eq!(found(&[("t", &[1, 1])], false), Ok(vec![1]));
        assert_eq!(found(&[], true), Ok(vec![1]), "a topic that is gone has no log");
        assert_eq!(found(&[("t", &[2])], false), Err(tonic::Code::NotFound));
        assert_eq!(found(&[("x", &[])], false), Err(tonic::Code::NotFound));
        assert_eq!(found(&[], false), Err(tonic::Code::InvalidArgument));
        assert_eq!(found(&[("t", &[])], true), Err(tonic::Code::InvalidArgument));
    }
}
