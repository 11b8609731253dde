//! The task that takes ISR proposals to the controller: those of many partitions in one intent.

use super::isr::Verdict;
use super::node::{Node, Proposed};
use crate::ids::*;
use crate::metadata::command::MetadataError;
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer, IntentError};
use crate::platform::clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Keeps a command well below the 256 KiB that one Raft entry may have.
const PROPOSALS_MAX: usize = 1_000;
/// After it the outcome is unknown, and the partition asks again at its next tick.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn send_proposals(
    node: Arc<Node>,
    controller: Arc<dyn ControllerChannel>,
    mut waiting: mpsc::UnboundedReceiver<Proposed>,
) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, PROPOSALS_MAX).await > 0 {
        let proposals = batch.iter().map(|p| p.proposal.clone()).collect();
        let intent = Intent::AlterIsr { broker: node.broker, epoch: node.epoch(), proposals };
        let verdicts = match controller.submit(intent, ANSWER_TIMEOUT).await {
            Ok(IntentAnswer::Isr(results)) if results.len() == batch.len() => {
                results.iter().map(|result| verdict(node.broker, result)).collect()
            }
            Ok(other) => {
                tracing::warn!(?other, "the controller refused ISR proposals as a whole; asking again");
                vec![Verdict::Unknown; batch.len()]
            }
            Err(error) => {
                tracing::debug!(%error, count = batch.len(), "ISR proposals are without an answer; asking again");
                vec![Verdict::Unknown; batch.len()]
            }
        };
        let now = clock::now();
        for (proposed, verdict) in batch.drain(..).zip(verdicts) {
            if verdict == Verdict::Refused {
                tracing::info!(partition = ?proposed.partition, isr = ?proposed.proposal.isr, "an ISR proposal was refused");
            }
            proposed.partition.on_verdict(proposed.proposal.partition_epoch, verdict, now);
        }
    }
}

fn verdict(me: BrokerId, result: &Result<PartitionEpoch, IntentError>) -> Verdict {
    match result {
        Ok(_) => Verdict::Accepted,
        Err(IntentError::Metadata(error)) => match error {
            MetadataError::StalePartitionEpoch { .. }
            | MetadataError::StaleLeaderEpoch { .. }
            | MetadataError::NotLeader(_)
            | MetadataError::UnknownTopic
            | MetadataError::UnknownPartition => Verdict::Stale,
            // Another process registered in this one's place: nothing it proposes counts any more.
            MetadataError::StaleBrokerEpoch { broker, .. } if *broker == me => Verdict::Stale,
            _ => Verdict::Refused,
        },
        Err(_) => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_out_of_date_waits_for_the_image_and_the_rest_is_refused() {
        let me = BrokerId(1);
        let refused = |error| verdict(me, &Err(IntentError::Metadata(error)));
        let stale = MetadataError::StalePartitionEpoch { given: PartitionEpoch(1), current: PartitionEpoch(2) };
        assert_eq!(refused(stale), Verdict::Stale);
        assert_eq!(refused(MetadataError::IneligibleReplica(BrokerId(2))), Verdict::Refused);
        assert_eq!(verdict(me, &Ok(PartitionEpoch(3))), Verdict::Accepted);
    }
}
