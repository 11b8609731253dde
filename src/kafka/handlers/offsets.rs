//! OffsetCommit and OffsetFetch: the versions' shapes, and which topics there are.

use crate::group::coordinator::{Committed, FetchedOffsets, GroupError, OffsetCommit, OffsetWrite};
use crate::ids::TopicId;
use crate::kafka::context::RequestContext;
use crate::kafka::errors;
use crate::kafka::repeated::{each_partition_once, first_of_each};
use crate::metadata::image::Image;
use crate::platform::clock;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// Topics go by id from this version on.
const BY_ID: i16 = 10;
/// Members of the consumer protocol commit from this version on (KIP-848).
const WITH_EPOCHS: i16 = 9;
/// Several groups a request from this version on.
const BY_GROUP: i16 = 8;

pub async fn commit(context: &RequestContext, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let image = context.services.quorum.image();
    let groups = &context.services.groups;
    let bytes_max = groups.offset_metadata_bytes_max();
    let now_ms = clock::wall_ms();
    let expire_ms = expiry(context.version, request.retention_time_ms, now_ms);
    let mut commit = OffsetCommit {
        group: request.group_id.to_string(),
        member: request.member_id.to_string(),
        instance: request.group_instance_id.as_ref().map(ToString::to_string),
        generation: request.generation_id_or_member_epoch,
        knows_epochs: context.version >= WITH_EPOCHS,
        offsets: Vec::new(),
    };
    let mut answered = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = topic_name(&image, context.version, &topic.name, topic.topic_id);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let metadata = wanted.committed_metadata.map(|text| text.to_string()).unwrap_or_default();
            let checked =
                name.clone().and_then(|name| check(&image, name, wanted.partition_index, &metadata, bytes_max));
            partitions.push((wanted.partition_index, checked.as_ref().err().cloned()));
            if let Ok(topic) = checked {
                let committed = Committed {
                    offset: wanted.committed_offset,
                    leader_epoch: wanted.committed_leader_epoch,
                    metadata: metadata.into(),
                    commit_ms: now_ms,
                    expire_ms,
                };
                commit.offsets.push(OffsetWrite { topic, partition: wanted.partition_index, committed });
            }
        }
        answered.push(CommittedTopic { name: topic.name, id: topic.topic_id, partitions });
    }
    let outcome = groups.commit_offsets(commit).await;
    commit_response(context.version, answered, &outcome)
}

/// Versions 2 to 4 may say how long an offset is kept, from now on; −1 leaves it to the broker (KIP-211).
fn expiry(version: i16, retention_ms: i64, now_ms: i64) -> Option<i64> {
    ((2..=4).contains(&version) && retention_ms != -1).then(|| now_ms.saturating_add(retention_ms.max(0)))
}

struct CommittedTopic {
    name: TopicName,
    id: Uuid,
    /// With what was wrong before the commit was tried.
    partitions: Vec<(i32, Option<GroupError>)>,
}

fn topic_name(image: &Image, version: i16, name: &TopicName, id: Uuid) -> Result<String, GroupError> {
    if version < BY_ID {
        return Ok(name.to_string());
    }
    image.topic(TopicId(id)).map(|topic| topic.name.clone()).ok_or(GroupError::UnknownTopicId)
}

fn check(image: &Image, name: String, partition: i32, metadata: &str, bytes_max: usize) -> Result<String, GroupError> {
    let count = image.topic_by_name(&name).map_or(0, |topic| topic.partitions.len());
    if usize::try_from(partition).is_ok_and(|partition| partition < count) {
        if metadata.len() > bytes_max { Err(GroupError::OffsetMetadataTooLarge) } else { Ok(name) }
    } else {
        Err(GroupError::UnknownTopicOrPartition)
    }
}

fn commit_response(
    version: i16,
    topics: Vec<CommittedTopic>,
    outcome: &Result<(), GroupError>,
) -> OffsetCommitResponse {
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|(partition, refused)| {
            let error = refused.as_ref().or(outcome.as_ref().err());
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition)
                .with_error_code(error.map_or(0, errors::group))
        });
        let answer = OffsetCommitResponseTopic::default().with_partitions(partitions.collect());
        if version >= BY_ID { answer.with_topic_id(topic.id) } else { answer.with_name(topic.name) }
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// A fetched topic as it was asked for, or as it was found.
struct FetchedTopic {
    name: TopicName,
    id: Uuid,
    partitions: Vec<(i32, Result<Option<Committed>, GroupError>)>,
}

pub async fn fetch(context: &RequestContext, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let stable = request.require_stable;
    if context.version < BY_GROUP {
        let topics = request
            .topics
            .map(|topics| topics.into_iter().map(|topic| (topic.name, Uuid::nil(), topic.partition_indexes)).collect());
        let outcome = fetch_group(context, &request.group_id, NOBODY, topics, stable);
        return single_response(context.version, outcome);
    }
    let groups = first_of_each(request.groups, |group| group.group_id.clone());
    let groups = groups.into_iter().map(|group| {
        let topics = group.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name, topic.topic_id, topic.partition_indexes)).collect()
        });
        let asker = (group.member_id.as_deref(), group.member_epoch);
        let outcome = fetch_group(context, &group.group_id, asker, topics, stable);
        group_response(context.version, group.group_id, outcome)
    });
    OffsetFetchResponse::default().with_groups(groups.collect())
}

/// A member and its epoch, from version 9 on (KIP-848).
type Asker<'a> = (Option<&'a str>, i32);
const NOBODY: Asker<'static> = (None, -1);

type AskedTopics = Vec<(TopicName, Uuid, Vec<i32>)>;
/// On failure of the whole group, what was asked for: version 1 has no place for an error but the partition.
type GroupOutcome = Result<Vec<FetchedTopic>, (GroupError, AskedTopics)>;

fn fetch_group(
    context: &RequestContext,
    group: &str,
    (member, epoch): Asker<'_>,
    asked: Option<AskedTopics>,
    stable: bool,
) -> GroupOutcome {
    let groups = &context.services.groups;
    if let Err(error) = groups.check_offset_fetch(group, member, epoch) {
        return Err((error, asked.unwrap_or_default()));
    }
    let image = context.services.quorum.image();
    let Some(mut asked) = asked else {
        let found = groups.fetch_offsets(group, None, stable).map_err(|error| (error, Vec::new()))?;
        return Ok(found_topics(&image, context.version, found));
    };
    each_partition_once(&mut asked, |(name, id, _)| (name.clone(), *id), |(.., partitions)| partitions);
    let names: Vec<Result<String, GroupError>> =
        asked.iter().map(|(name, id, _)| topic_name(&image, context.version, name, *id)).collect();
    let wanted: Vec<(String, Vec<i32>)> = names
        .iter()
        .zip(&asked)
        .filter_map(|(name, (.., partitions))| Some((name.as_ref().ok()?.clone(), partitions.clone())))
        .collect();
    let mut found = match groups.fetch_offsets(group, Some(&wanted), stable) {
        Ok(found) => found.into_iter(),
        Err(error) => return Err((error, asked)),
    };
    let topics = asked.into_iter().zip(names).map(|((name, id, partitions), known)| {
        let partitions = match known {
            Ok(_) => found.next().map(|(_, partitions)| partitions).unwrap_or_default(),
            Err(error) => partitions.into_iter().map(|partition| (partition, Err(error.clone()))).collect(),
        };
        FetchedTopic { name, id, partitions }
    });
    Ok(topics.collect())
}

/// All that a group has. By id, topics that are gone cannot be told.
fn found_topics(image: &Image, version: i16, found: FetchedOffsets) -> Vec<FetchedTopic> {
    found
        .into_iter()
        .filter_map(|(name, partitions)| {
            let id = image.topic_by_name(&name).map(|topic| topic.id.0);
            let id = if version >= BY_ID { id? } else { Uuid::nil() };
            Some(FetchedTopic { name: TopicName(StrBytes::from_string(name)), id, partitions })
        })
        .collect()
}

/// What a partition's row says: offset, leader epoch, metadata, error.
fn row(outcome: Result<Option<Committed>, GroupError>) -> (i64, i32, StrBytes, i16) {
    match outcome {
        Ok(Some(committed)) => {
            (committed.offset, committed.leader_epoch, StrBytes::from_string(committed.metadata.to_string()), 0)
        }
        Ok(None) => (-1, -1, StrBytes::default(), 0),
        Err(error) => (-1, -1, StrBytes::default(), errors::group(&error)),
    }
}

fn single_response(version: i16, outcome: GroupOutcome) -> OffsetFetchResponse {
    let mut response = OffsetFetchResponse::default();
    let topics = match outcome {
        Ok(topics) => topics,
        Err((error, _)) if version >= 2 => return response.with_error_code(errors::group(&error)),
        Err((error, asked)) => asked
            .into_iter()
            .map(|(name, id, partitions)| FetchedTopic {
                name,
                id,
                partitions: partitions.into_iter().map(|partition| (partition, Err(error.clone()))).collect(),
            })
            .collect(),
    };
    for topic in topics {
        let partitions = topic.partitions.into_iter().map(|(partition, outcome)| {
            let (offset, leader_epoch, metadata, error) = row(outcome);
            let row = OffsetFetchResponsePartition::default()
                .with_partition_index(partition)
                .with_committed_offset(offset)
                .with_metadata(Some(metadata))
                .with_error_code(error);
            if version >= 5 { row.with_committed_leader_epoch(leader_epoch) } else { row }
        });
        let partitions = partitions.collect();
        response.topics.push(OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions));
    }
    response
}

fn group_response(version: i16, group: GroupId, outcome: GroupOutcome) -> OffsetFetchResponseGroup {
    let response = OffsetFetchResponseGroup::default().with_group_id(group);
    let topics = match outcome {
        Ok(topics) => topics,
        Err((error, _)) => return response.with_error_code(errors::group(&error)),
    };
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|(partition, outcome)| {
            let (offset, leader_epoch, metadata, error) = row(outcome);
            OffsetFetchResponsePartitions::default()
                .with_partition_index(partition)
                .with_committed_offset(offset)
                .with_committed_leader_epoch(leader_epoch)
                .with_metadata(Some(metadata))
                .with_error_code(error)
        });
        let answer = OffsetFetchResponseTopics::default().with_partitions(partitions.collect());
        if version >= BY_ID { answer.with_topic_id(topic.id) } else { answer.with_name(topic.name) }
    });
    response.with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    fn name() -> TopicName {
        TopicName(StrBytes::from_static_str("t"))
    }

    #[test]
    fn only_versions_2_to_4_say_how_long_an_offset_is_kept() {
        assert_eq!([2, 3, 4].map(|version| expiry(version, 5_000, 1_000)), [Some(6_000); 3]);
        assert_eq!([5, 10].map(|version| expiry(version, 5_000, 1_000)), [None; 2]);
        assert_eq!(expiry(2, -1, 1_000), None, "the broker's retention counts");
        assert_eq!(expiry(2, i64::MIN, 1_000), Some(1_000));
        assert_eq!(expiry(2, i64::MAX, 1_000), Some(i64::MAX));
    }

    #[test]
    fn commit_responses_encode_in_every_version() {
        for version in 2..=10 {
            let topics = || {
                let partitions = vec![(0, None), (1, Some(GroupError::OffsetMetadataTooLarge))];
                vec![CommittedTopic { name: name(), id: Uuid::from_u128(7), partitions }]
            };
            let codes = |outcome: Result<(), GroupError>| {
                let response = commit_response(version, topics(), &outcome);
                response.encode(&mut BytesMut::new(), version).expect("encodes");
                response.topics[0].partitions.iter().map(|p| p.error_code).collect::<Vec<_>>()
            };
            assert_eq!(codes(Ok(())), [0, 12]);
            assert_eq!(codes(Err(GroupError::IllegalGeneration)), [22, 12]);
        }
    }

    fn fetched() -> Vec<FetchedTopic> {
        let committed = Committed { offset: 5, leader_epoch: 3, metadata: "m".into(), commit_ms: 1, expire_ms: None };
        let partitions = vec![(0, Ok(Some(committed))), (1, Ok(None)), (2, Err(GroupError::UnstableOffset))];
        vec![FetchedTopic { name: name(), id: Uuid::from_u128(7), partitions }]
    }

    #[test]
    fn fetch_responses_of_one_group_encode_in_every_version() {
        for version in 1..=7 {
            let response = single_response(version, Ok(fetched()));
            response.encode(&mut BytesMut::new(), version).expect("encodes");
            let offsets: Vec<i64> = response.topics[0].partitions.iter().map(|p| p.committed_offset).collect();
            assert_eq!(offsets, [5, -1, -1]);
            let failed = single_response(version, Err((GroupError::Loading, vec![(name(), Uuid::nil(), vec![4])])));
            failed.encode(&mut BytesMut::new(), version).expect("encodes");
            assert_eq!(failed.error_code, if version >= 2 { 14 } else { 0 });
            assert_eq!(failed.topics.first().map(|t| t.partitions[0].error_code), (version == 1).then_some(14));
        }
    }

    #[test]
    fn fetch_responses_of_several_groups_encode_in_every_version() {
        for version in 8..=10 {
            let group = GroupId(StrBytes::from_static_str("g"));
            let good = group_response(version, group.clone(), Ok(fetched()));
            let bad = group_response(version, group, Err((GroupError::NotCoordinator, Vec::new())));
            assert_eq!((good.topics[0].partitions[0].committed_leader_epoch, bad.error_code), (3, 16));
            let response = OffsetFetchResponse::default().with_groups(vec![good, bad]);
            response.encode(&mut BytesMut::new(), version).expect("encodes");
        }
    }
}
