//! OffsetForLeaderEpoch: where an epoch ends in the leader's log (KIP-101, KIP-320).

use crate::ids::*;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::{self, Code};
use crate::replica::partition::PartitionError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

pub async fn handle(context: &RequestContext, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    // Version 2 has no replica id: the crate's default stands for "not a replica".
    let forged = context.version >= 3 && request.replica_id.0 >= 0 && !context.is_replica_listener;
    let image = context.services.quorum.image();
    let topics = request.topics.into_iter().map(|topic| {
        let known = image.topic_by_name(&topic.topic);
        let partitions = topic.partitions.iter().map(|asked| {
            if forged {
                return failed(asked, Code::ClusterAuthorizationFailed);
            }
            let Some(known) = known.filter(|known| exists(asked.partition, known.partitions.len())) else {
                return failed(asked, Code::UnknownTopicOrPartition);
            };
            let Some(partition) = context.services.hosted.get(TopicPartition::new(known.id, asked.partition)) else {
                return failed(asked, Code::NotLeaderOrFollower);
            };
            let (current, epoch) = (LeaderEpoch(asked.current_leader_epoch), LeaderEpoch(asked.leader_epoch));
            found(asked, &partition.end_of_epoch(current, epoch))
        });
        OffsetForLeaderTopicResult::default().with_partitions(partitions.collect()).with_topic(topic.topic.clone())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn exists(partition: i32, count: usize) -> bool {
    usize::try_from(partition).is_ok_and(|partition| partition < count)
}

fn failed(asked: &OffsetForLeaderPartition, code: Code) -> EpochEndOffset {
    EpochEndOffset::default().with_partition(asked.partition).with_error_code(code.code())
}

fn found(
    asked: &OffsetForLeaderPartition,
    outcome: &Result<Option<(LeaderEpoch, Offset)>, PartitionError>,
) -> EpochEndOffset {
    match outcome {
        Ok(Some((epoch, end))) => {
            EpochEndOffset::default().with_partition(asked.partition).with_leader_epoch(epoch.0).with_end_offset(end.0)
        }
        Ok(None) => EpochEndOffset::default().with_partition(asked.partition),
        Err(error) => failed(asked, errors::partition(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::names::topic_name;
    use crate::kafka::versions::OFFSET_FOR_LEADER_EPOCH;

    #[test]
    fn every_version_encodes_found_unknown_and_failed() {
        let asked = OffsetForLeaderPartition::default().with_partition(3);
        let rows = vec![
            found(&asked, &Ok(Some((LeaderEpoch(4), Offset(100))))),
            found(&asked, &Ok(None)),
            found(&asked, &Err(PartitionError::UnknownEpoch)),
        ];
        assert_eq!((rows[0].leader_epoch, rows[0].end_offset), (4, 100));
        assert_eq!((rows[1].leader_epoch, rows[1].end_offset, rows[1].error_code), (-1, -1, 0));
        assert_eq!(rows[2].error_code, 75);
        let topic = OffsetForLeaderTopicResult::default().with_topic(topic_name("t")).with_partitions(rows);
        let response = OffsetForLeaderEpochResponse::default().with_topics(vec![topic]);
        for version in 2..=4 {
            testing::encodes(OFFSET_FOR_LEADER_EPOCH, version, &response);
        }
    }
}
