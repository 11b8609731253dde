//! The compare-and-set of an ISR (replication.md, rule 1).

use super::Change;
use super::transition::Next;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;
use crate::metadata::image::Image;
use crate::metadata::image::topics::Partition;
use std::collections::BTreeSet;

impl Change<'_> {
    pub(super) fn alter_isr(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
        proposals: &[IsrProposal],
    ) -> Result<Answer, MetadataError> {
        self.check_epoch(broker, epoch)?;
        Ok(Answer::Isr(proposals.iter().map(|proposal| self.alter_one(broker, proposal)).collect()))
    }

    fn alter_one(&mut self, broker: BrokerId, proposal: &IsrProposal) -> Result<PartitionEpoch, MetadataError> {
        let place = proposal.partition;
        let old = find(self.image, place)?;
        let isr = check(self.image, old, broker, proposal)?;
        if isr.iter().collect::<BTreeSet<_>>() == old.isr.iter().collect::<BTreeSet<_>>() {
            return self.confirm(place);
        }
        // The reason names no election: an ISR change never moves the leader.
        self.change_partition(place, ElectionReason::Preferred, |_, _, old| Some(Next::new(isr, old.leader)));
        Ok(find(self.image, place)?.partition_epoch)
    }

    /// The proposed ISR is the one that stands. The epoch moves all the same: it is how a leader whose answer was lost
    /// learns that its proposal is no longer pending.
    fn confirm(&mut self, place: TopicPartition) -> Result<PartitionEpoch, MetadataError> {
        let topic = self.image.topics.get_mut(&place.topic).ok_or(MetadataError::UnknownTopic)?;
        let topic = std::sync::Arc::make_mut(topic);
        let number = usize::try_from(place.partition).map_err(|_| MetadataError::UnknownPartition)?;
        let partition = topic.partitions.get_mut(number).ok_or(MetadataError::UnknownPartition)?;
        partition.partition_epoch = partition.partition_epoch.next();
        self.events.push(Event::IsrChanged {
            partition: place,
            topic: topic.name.clone(),
            old: partition.isr.clone(),
            new: partition.isr.clone(),
            elr: partition.elr.clone(),
            epoch: partition.partition_epoch,
        });
        Ok(partition.partition_epoch)
    }
}

pub(super) fn find(image: &Image, place: TopicPartition) -> Result<&Partition, MetadataError> {
    let topic = image.topic(place.topic).ok_or(MetadataError::UnknownTopic)?;
    let number = usize::try_from(place.partition).map_err(|_| MetadataError::UnknownPartition)?;
    topic.partitions.get(number).ok_or(MetadataError::UnknownPartition)
}

/// The proposed ISR, or why it is refused.
///
/// Each member must be a live replica under the broker epoch that the leader knows. One that is shutting down may not
/// *join*, but may stay: where it is the last but one, the others must be able to join beside it so that it can leave.
fn check(
    image: &Image,
    old: &Partition,
    caller: BrokerId,
    proposal: &IsrProposal,
) -> Result<Vec<BrokerId>, MetadataError> {
    if old.leader != Some(caller) {
        return Err(MetadataError::NotLeader(caller));
    }
    if old.leader_epoch != proposal.leader_epoch {
        return Err(MetadataError::StaleLeaderEpoch { given: proposal.leader_epoch, current: old.leader_epoch });
    }
    if old.partition_epoch != proposal.partition_epoch {
        return Err(MetadataError::StalePartitionEpoch {
            given: proposal.partition_epoch,
            current: old.partition_epoch,
        });
    }
    let isr: Vec<BrokerId> = proposal.isr.iter().map(|(broker, _)| *broker).collect();
    if !isr.contains(&caller) {
        return Err(MetadataError::Invalid("a leader does not leave its own ISR".into()));
    }
    if isr.iter().collect::<BTreeSet<_>>().len() != isr.len() {
        return Err(MetadataError::Invalid("the ISR names a broker twice".into()));
    }
    for (member, epoch) in &proposal.isr {
        let eligible = image.brokers.get(member).is_some_and(|state| {
            state.epoch == *epoch && (state.is_active() || (!state.fenced && old.isr.contains(member)))
        });
        if !eligible || !old.replicas.contains(member) {
            return Err(MetadataError::IneligibleReplica(*member));
        }
    }
    Ok(isr)
}
