//! OffsetDelete: a group's offsets of topics that it does not read any more.

use crate::group::coordinator::{DeletedOffsets, GroupError};
use crate::kafka::context::RequestContext;
use crate::kafka::errors;
use crate::kafka::repeated::each_partition_once;
use crate::metadata::image::Image;
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse, TopicName};

type Asked = Vec<(TopicName, Vec<i32>)>;

pub async fn delete(context: &RequestContext, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let image = context.services.quorum.image();
    let mut asked: Asked = request
        .topics
        .into_iter()
        .map(|topic| (topic.name, topic.partitions.iter().map(|partition| partition.partition_index).collect()))
        .collect();
    each_partition_once(&mut asked, |(name, _)| name.clone(), |(_, partitions)| partitions);
    let wanted: Vec<(String, Vec<i32>)> = asked
        .iter()
        .map(|(name, partitions)| {
            let known = partitions.iter().copied().filter(|partition| exists(&image, name, *partition));
            (name.to_string(), known.collect())
        })
        .collect();
    let outcome = context.services.groups.delete_offsets(&request.group_id, &wanted).await;
    response(&asked, outcome)
}

fn exists(image: &Image, topic: &str, partition: i32) -> bool {
    let count = image.topic_by_name(topic).map_or(0, |topic| topic.partitions.len());
    usize::try_from(partition).is_ok_and(|partition| partition < count)
}

/// In the order asked; what the coordinator was not asked for does not exist.
fn response(asked: &Asked, outcome: Result<DeletedOffsets, GroupError>) -> OffsetDeleteResponse {
    let deleted = match outcome {
        Ok(deleted) => deleted,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(errors::group(&error)),
    };
    let topics = asked.iter().zip(deleted).map(|((name, partitions), (_, outcomes))| {
        // Those that exist, in the same order.
        let mut outcomes = outcomes.into_iter().peekable();
        let partitions = partitions.iter().map(|partition| {
            let code = match outcomes.next_if(|(known, _)| known == partition) {
                Some((_, Ok(()))) => 0,
                Some((_, Err(error))) => errors::group(&error),
                None => errors::group(&GroupError::UnknownTopicOrPartition),
            };
            OffsetDeleteResponsePartition::default().with_partition_index(*partition).with_error_code(code)
        });
        OffsetDeleteResponseTopic::default().with_name(name.clone()).with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::names::topic_name;
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn each_partition_has_its_own_answer_and_a_refused_group_has_one() {
        let asked = vec![(topic_name("t"), vec![9, 0, 8, 2]), (topic_name("u"), vec![1])];
        let deleted = vec![
            ("t".to_string(), vec![(0, Ok(())), (2, Ok(()))]),
            ("u".to_string(), vec![(1, Err(GroupError::SubscribedToTopic))]),
        ];
        let answer = response(&asked, Ok(deleted));
        let codes: Vec<Vec<i16>> = answer
            .topics
            .iter()
            .map(|topic| topic.partitions.iter().map(|partition| partition.error_code).collect())
            .collect();
        assert_eq!(codes, [vec![3, 0, 3, 0], vec![86]]);
        answer.encode(&mut BytesMut::new(), 0).expect("encodes");
        let refused = response(&asked, Err(GroupError::NonEmptyGroup));
        assert_eq!((refused.error_code, refused.topics.len()), (68, 0));
    }
}
