//! ElectLeaders: back to the preferred replicas, or, where nothing else is left, uncleanly (KIP-460).

use super::topics::{Failed, ask, timeout};
use crate::ids::*;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::Code;
use crate::kafka::names::{text, topic_name};
use crate::metadata::image::Image;
use crate::metadata::intent::{Intent, TopicOutcome};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

/// A partition as the request names it, and as the image knows it.
struct Asked {
    topic: String,
    number: i32,
    id: Option<TopicPartition>,
}

pub async fn elect(context: &RequestContext, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let services = &context.services;
    let election = if context.version >= 1 { request.election_type } else { PREFERRED };
    if election != PREFERRED && election != UNCLEAN {
        return ElectLeadersResponse::default().with_error_code(Code::InvalidRequest.code());
    }
    let is_unclean = election == UNCLEAN;
    let asked = asked(&services.quorum.image(), &request, is_unclean);
    let items = asked
        .iter()
        .map(|asked| asked.id.ok_or_else(|| Failed::new(Code::UnknownTopicOrPartition, "no topic has this name")));
    let results = ask(items.collect(), async |partitions| {
        let intent = match is_unclean {
            true => Intent::ElectUnclean { partitions },
            false => Intent::ElectPreferred { partitions },
        };
        services.controller.submit(intent, timeout(request.timeout_ms)).await
    })
    .await;
    answer(request.topic_partitions.is_none(), &asked, results)
}

/// Null asks for all partitions: of these only the ones that an election could be for.
fn asked(image: &Image, request: &ElectLeadersRequest, is_unclean: bool) -> Vec<Asked> {
    let Some(topics) = &request.topic_partitions else {
        let mut all = Vec::new();
        for topic in image.topics.values() {
            for (number, partition) in (0..).zip(topic.partitions.iter()) {
                let concerned = match is_unclean {
                    true => partition.leader.is_none(),
                    false => partition.leader != partition.replicas.first().copied(),
                };
                if concerned {
                    let id = Some(TopicPartition::new(topic.id, number));
                    all.push(Asked { topic: topic.name.clone(), number, id });
                }
            }
        }
        return all;
    };
    let of_topic = |row: &kafka_protocol::messages::elect_leaders_request::TopicPartitions| {
        let id = image.topic_by_name(&row.topic).map(|topic| topic.id);
        let topic = row.topic.to_string();
        row.partitions
            .iter()
            .map(|number| Asked {
                topic: topic.clone(),
                number: *number,
                id: id.map(|id| TopicPartition::new(id, *number)),
            })
            .collect::<Vec<_>>()
    };
    topics.iter().flat_map(of_topic).collect()
}

/// One row a topic, in the order they were first named. Asked for all, nobody wants to read of those that were fine.
fn answer(all: bool, asked: &[Asked], results: Vec<Result<Option<TopicOutcome>, Failed>>) -> ElectLeadersResponse {
    let mut rows: Vec<ReplicaElectionResult> = Vec::new();
    for (asked, result) in asked.iter().zip(results) {
        let partition = PartitionResult::default().with_partition_id(asked.number).with_error_message(None);
        let partition = match result {
            Ok(_) => partition,
            Err(Failed { code: Code::ElectionNotNeeded, .. }) if all => continue,
            Err(Failed { code, message }) => {
                partition.with_error_code(code.code()).with_error_message(Some(text(&message)))
            }
        };
        match rows.last_mut().filter(|row| *row.topic == *asked.topic) {
            Some(row) => row.partition_result.push(partition),
            None => rows.push(
                ReplicaElectionResult::default()
                    .with_topic(topic_name(&asked.topic))
                    .with_partition_result(vec![partition]),
            ),
        }
    }
    ElectLeadersResponse::default().with_replica_election_results(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::ELECT_LEADERS;
    use crate::metadata::intent::IntentError;
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;

    fn named(topic: &str, partitions: &[i32]) -> TopicPartitions {
        TopicPartitions::default().with_topic(topic_name(topic)).with_partitions(partitions.to_vec())
    }

    #[test]
    fn all_means_those_that_an_election_could_be_for() {
        let image = testing::image();
        let all = ElectLeadersRequest::default().with_topic_partitions(None);
        let numbers = |unclean| asked(&image, &all, unclean).iter().map(|a| a.number).collect::<Vec<_>>();
        // orders-0 is led by 1, its first replica; orders-1 by nobody; orders-2 and the offsets by 2.
        assert_eq!(numbers(false), [1, 2, 0]);
        assert_eq!(numbers(true), [1]);
    }

    #[test]
    fn every_partition_has_its_own_code() {
        let image = testing::image();
        let request = ElectLeadersRequest::default()
            .with_topic_partitions(Some(vec![named("orders", &[0, 1]), named("missing", &[0])]));
        let asked = asked(&image, &request, false);
        let failed = |error: IntentError| Err(Failed::from(&error));
        let results = || {
            vec![
                failed(IntentError::ElectionNotNeeded),
                failed(IntentError::PreferredLeaderNotAvailable("away".into())),
                Err(Failed::new(Code::UnknownTopicOrPartition, "?")),
            ]
        };
        let codes = |response: &ElectLeadersResponse| {
            let rows = response.replica_election_results.iter();
            rows.flat_map(|row| row.partition_result.iter().map(|p| p.error_code)).collect::<Vec<_>>()
        };
        for version in 0..=2 {
            let response = answer(false, &asked, results());
            testing::encodes(ELECT_LEADERS, version, &response);
            assert_eq!((response.replica_election_results.len(), codes(&response)), (2, vec![84, 80, 3]));
        }
        assert_eq!(codes(&answer(true, &asked, results())), [80, 3]);
        let none = Failed::from(&IntentError::EligibleLeadersNotAvailable(String::new()));
        assert_eq!(none.code.code(), 83);
    }
}
