//! `Topics.ElectLeaders`: back to the preferred replicas, or, where nothing else is left, uncleanly (KIP-460).

use super::errors;
use super::proto::{ElectLeadersRequest, ElectLeadersResponse, ElectionOutcome, ElectionResult};
use super::topics::INTENT_TIMEOUT;
use crate::ids::TopicPartition;
use crate::metadata::image::Image;
use crate::metadata::image::topics::Topic;
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer, IntentError};
use crate::metadata::quorum::Quorum;
use std::collections::BTreeSet;
use tonic::Status;

/// Partitions in one request.
const PARTITIONS_MAX: usize = 50_000;

pub async fn elect(
    quorum: &Quorum,
    controller: &dyn ControllerChannel,
    request: ElectLeadersRequest,
) -> Result<ElectLeadersResponse, Status> {
    let image = quorum.image();
    let topic = image.topic_by_name(&request.topic).ok_or_else(|| errors::no_topic(&request.topic))?;
    let asked = asked(topic, request.partitions)?;
    if asked.is_empty() {
        return Ok(ElectLeadersResponse::default());
    }
    let partitions = asked.clone();
    let intent = match request.unclean {
        true => Intent::ElectUnclean { partitions },
        false => Intent::ElectPreferred { partitions },
    };
    let answer = controller.submit(intent, INTENT_TIMEOUT).await;
    let IntentAnswer::Results(results) = answer.map_err(|error| errors::of_submit(&error))? else {
        return Err(errors::of_mismatch());
    };
    if results.len() != asked.len() {
        return Err(errors::of_mismatch());
    }
    // This node's image is as new as the answer.
    Ok(ElectLeadersResponse { results: rows(&quorum.image(), &asked, results) })
}

/// None named: all of the topic.
fn asked(topic: &Topic, mut partitions: Vec<i32>) -> Result<Vec<TopicPartition>, Status> {
    if partitions.is_empty() {
        partitions = (0..).zip(topic.partitions.iter()).map(|(number, _)| number).collect();
    }
    if partitions.len() > PARTITIONS_MAX {
        return Err(Status::invalid_argument(format!(
            "at most {PARTITIONS_MAX} partitions may be asked for at a time"
        )));
    }
    let mut named = BTreeSet::new();
    if let Some(twice) = partitions.iter().find(|number| !named.insert(**number)) {
        return Err(Status::invalid_argument(format!("partition {twice} is named more than once")));
    }
    Ok(partitions.into_iter().map(|number| TopicPartition::new(topic.id, number)).collect())
}

fn rows(image: &Image, asked: &[TopicPartition], results: Vec<Result<(), IntentError>>) -> Vec<ElectionResult> {
    let row = |(id, result): (&TopicPartition, Result<(), IntentError>)| {
        let (outcome, refused) = match result {
            Ok(()) => (ElectionOutcome::Elected, None),
            Err(IntentError::ElectionNotNeeded) => (ElectionOutcome::NotNeeded, None),
            Err(error) => (ElectionOutcome::Refused, Some(error.to_string())),
        };
        ElectionResult {
            partition: id.partition,
            outcome: outcome.into(),
            refused,
            leader: image.partition(*id).and_then(|partition| partition.leader).map(|leader| leader.0),
        }
    };
    asked.iter().zip(results).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use crate::metadata::command::MetadataError;
    use crate::metadata::image::topics::Partition;
    use std::sync::Arc;

    fn image() -> (Image, Topic) {
        let id = TopicId::default();
        let partition = |leader: Option<i32>| Partition {
            replicas: vec![BrokerId(1), BrokerId(2)],
            isr: vec![BrokerId(1)],
            elr: vec![],
            leader: leader.map(BrokerId),
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(4),
            unclean_epoch: None,
            reassignment: None,
        };
        let partitions = [partition(Some(1)), partition(Some(2)), partition(None)].into_iter().collect();
        let topic = Topic { id, name: "t".into(), partitions };
        let mut image = Image::default();
        image.topics.insert(id, Arc::new(topic.clone()));
        (image, topic)
    }

    #[test]
    fn none_named_means_all_and_one_named_twice_is_refused() {
        let (_, topic) = image();
        let numbers = |wanted: &[i32]| {
            asked(&topic, wanted.to_vec()).map(|ids| ids.iter().map(|id| id.partition).collect::<Vec<_>>())
        };
        assert_eq!(numbers(&[]).unwrap(), [0, 1, 2]);
        assert_eq!(numbers(&[2, 7]).unwrap(), [2, 7], "the controller answers for one that is not there");
        assert!(numbers(&[1, 1]).unwrap_err().message().contains("partition 1"));
    }

    #[test]
    fn every_partition_has_its_own_outcome_and_the_leader_there_is_now() {
        let (image, topic) = image();
        let asked = asked(&topic, vec![0, 1, 2, 7]).unwrap();
        let results = vec![
            Ok(()),
            Err(IntentError::ElectionNotNeeded),
            Err(IntentError::EligibleLeadersNotAvailable("all away".into())),
            Err(IntentError::Metadata(MetadataError::UnknownPartition)),
        ];
        let rows = rows(&image, &asked, results);
        let told: Vec<_> = rows.iter().map(|row| (row.partition, row.outcome(), row.leader)).collect();
        use ElectionOutcome::*;
        assert_eq!(told, [(0, Elected, Some(1)), (1, NotNeeded, Some(2)), (2, Refused, None), (7, Refused, None)]);
        assert_eq!(rows[1].refused, None);
        assert_eq!(rows[2].refused.as_deref(), Some("all away"));
        assert!(rows[3].refused.is_some());
    }
}
