//! ListOffsets: an offset by its place in the log or by time.

use crate::ids::*;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::{self, Code};
use crate::metadata::image::topics::Topic;
use crate::replica::partition::{FoundOffset, OffsetSpec, PartitionError};
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};
use std::collections::HashMap;

const READ_COMMITTED: i8 = 1;

/// What the timestamp field asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Find(OffsetSpec),
    /// Something that this cluster never has, such as the end of tiered storage.
    Never,
    Unsupported,
}

fn asked(version: i16, timestamp: i64) -> Asked {
    match timestamp {
        0.. => Asked::Find(OffsetSpec::AtTime(timestamp)),
        -1 => Asked::Find(OffsetSpec::Latest),
        -2 => Asked::Find(OffsetSpec::Earliest),
        -3 if version >= 7 => Asked::Find(OffsetSpec::MaxTimestamp),
        // The earliest local offset: all are local.
        -4 if version >= 8 => Asked::Find(OffsetSpec::Earliest),
        -5 if version >= 9 => Asked::Never,
        _ => Asked::Unsupported,
    }
}

impl Asked {
    /// Whether batches must be read, and perhaps decompressed, to find it.
    fn searches(self) -> bool {
        matches!(self, Asked::Find(OffsetSpec::AtTime(_) | OffsetSpec::MaxTimestamp))
    }
}

/// How often each partition is named; more than once is an error, as in Kafka, and would be work without bound.
struct Named(HashMap<(TopicName, i32), usize>);

impl Named {
    fn of(request: &ListOffsetsRequest) -> Named {
        let mut named = HashMap::new();
        for topic in &request.topics {
            for wanted in &topic.partitions {
                *named.entry((topic.name.clone(), wanted.partition_index)).or_default() += 1;
            }
        }
        Named(named)
    }

    fn is_repeated(&self, topic: &TopicName, partition: i32) -> bool {
        self.0.get(&(topic.clone(), partition)).is_some_and(|count| *count > 1)
    }
}

pub async fn handle(context: &RequestContext, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let version = context.version;
    let committed = version >= 2 && request.isolation_level == READ_COMMITTED;
    let image = context.services.quorum.image();
    let named = Named::of(&request);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let known = image.topic_by_name(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let asked = asked(version, wanted.timestamp);
            let row = if named.is_repeated(&topic.name, wanted.partition_index) {
                failed(wanted, Code::InvalidRequest)
            } else {
                find(context, known.map(|known| &**known), wanted, asked, committed)
            };
            partitions.push(row);
            if asked.searches() {
                // One request may name thousands: others get their turn in between.
                tokio::task::yield_now().await;
            }
        }
        topics.push(ListOffsetsTopicResponse::default().with_partitions(partitions).with_name(topic.name));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

fn find(
    context: &RequestContext,
    topic: Option<&Topic>,
    wanted: &ListOffsetsPartition,
    asked: Asked,
    committed: bool,
) -> ListOffsetsPartitionResponse {
    let index = usize::try_from(wanted.partition_index).unwrap_or(usize::MAX);
    let Some(topic) = topic.filter(|topic| index < topic.partitions.len()) else {
        return failed(wanted, Code::UnknownTopicOrPartition);
    };
    let spec = match asked {
        Asked::Find(spec) => spec,
        Asked::Never => return found(context.version, wanted, &Ok(None)),
        Asked::Unsupported => return failed(wanted, Code::UnsupportedVersion),
    };
    let epoch = LeaderEpoch(wanted.current_leader_epoch);
    match context.services.hosted.get(TopicPartition::new(topic.id, wanted.partition_index)) {
        Some(partition) => found(context.version, wanted, &partition.find_offset(spec, committed, epoch)),
        None => failed(wanted, Code::NotLeaderOrFollower),
    }
}

fn failed(wanted: &ListOffsetsPartition, code: Code) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse::default().with_partition_index(wanted.partition_index).with_error_code(code.code())
}

fn found(
    version: i16,
    wanted: &ListOffsetsPartition,
    outcome: &Result<Option<FoundOffset>, PartitionError>,
) -> ListOffsetsPartitionResponse {
    match outcome {
        Ok(Some(found)) => {
            let mut row = ListOffsetsPartitionResponse::default()
                .with_partition_index(wanted.partition_index)
                .with_offset(found.offset.0)
                .with_timestamp(found.timestamp_ms);
            if version >= 4 {
                row.leader_epoch = found.epoch.0;
            }
            row
        }
        Ok(None) => ListOffsetsPartitionResponse::default().with_partition_index(wanted.partition_index),
        // Older clients do not know this code; the other makes them ask again as well.
        Err(PartitionError::OffsetNotAvailable) if version < 5 => failed(wanted, Code::LeaderNotAvailable),
        Err(error) => failed(wanted, errors::partition(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::names::topic_name;
    use crate::kafka::versions::LIST_OFFSETS;
    use kafka_protocol::messages::list_offsets_request::ListOffsetsTopic;

    #[test]
    fn special_timestamps_are_known_from_their_versions_on() {
        let latest = Asked::Find(OffsetSpec::Latest);
        let earliest = Asked::Find(OffsetSpec::Earliest);
        assert_eq!((asked(1, -1), asked(1, -2), asked(8, -4)), (latest, earliest, earliest));
        assert_eq!(asked(7, -3), Asked::Find(OffsetSpec::MaxTimestamp));
        assert_eq!(asked(1, 0), Asked::Find(OffsetSpec::AtTime(0)));
        assert_eq!(asked(9, -5), Asked::Never);
        for (version, timestamp) in [(6, -3), (7, -4), (8, -5), (10, -6), (10, i64::MIN)] {
            assert_eq!(asked(version, timestamp), Asked::Unsupported, "v{version} {timestamp}");
        }
    }

    #[test]
    fn a_partition_named_twice_is_known_and_searches_are_told_apart() {
        let partition = |index| ListOffsetsPartition::default().with_partition_index(index);
        let topic =
            |name, partitions| ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions);
        let topics = vec![
            topic("t", vec![partition(0), partition(1)]),
            topic("u", vec![partition(0)]),
            topic("t", vec![partition(1)]),
        ];
        let named = Named::of(&ListOffsetsRequest::default().with_topics(topics));
        let repeated = [("t", 0), ("t", 1), ("u", 0)].map(|(name, index)| named.is_repeated(&topic_name(name), index));
        assert_eq!(repeated, [false, true, false]);
        assert_eq!([5, -3, -1, -2].map(|timestamp| asked(7, timestamp).searches()), [true, true, false, false]);
    }

    #[test]
    fn every_version_encodes_found_none_and_failed() {
        let wanted = ListOffsetsPartition::default().with_partition_index(2);
        let some = FoundOffset { offset: Offset(9), timestamp_ms: 100, epoch: LeaderEpoch(3) };
        for version in 1..=10 {
            let rows = vec![
                found(version, &wanted, &Ok(Some(some))),
                found(version, &wanted, &Ok(None)),
                found(version, &wanted, &Err(PartitionError::OffsetNotAvailable)),
            ];
            assert_eq!(rows[1].offset, -1);
            assert_eq!(rows[2].error_code, if version < 5 { 5 } else { 78 });
            let topic = ListOffsetsTopicResponse::default().with_name(topic_name("t")).with_partitions(rows);
            let response = ListOffsetsResponse::default().with_topics(vec![topic]);
            testing::encodes(LIST_OFFSETS, version, &response);
        }
    }
}
