//! `apply`: a command turns one image into the next, deterministically.

mod brokers;
mod configs;
mod damage;
mod elections;
mod groups;
mod isr;
mod moving;
#[cfg(test)]
mod moving_stories;
#[cfg(test)]
mod power_stories;
#[cfg(test)]
mod properties;
mod reassignments;
#[cfg(test)]
mod stories;
mod topics;
mod transition;

use super::Image;
use crate::ids::*;
use crate::metadata::command::{Answer, Command, ElectionReason, MetadataError};
use crate::metadata::event::Event;
use std::sync::Arc;
use transition::{Next, settle};

/// What applying one command gave.
pub struct Applied {
    pub answer: Answer,
    pub events: Vec<Event>,
}

impl Image {
    /// Applies the command committed at `index`. Reads nothing but `self` and the command.
    ///
    /// A refused command changes nothing but `index`; a command with one result an item may be refused in part.
    pub fn apply(&mut self, index: RaftIndex, command: &Command) -> Applied {
        self.index = index;
        let mut change = Change { image: self, index, events: Vec::new() };
        let answer = match command {
            Command::RegisterBroker(registration) => change.register(registration),
            Command::FenceBrokers { brokers, reason } => change.fence(brokers, *reason),
            Command::UnfenceBroker { broker, epoch } => change.unfence(*broker, *epoch),
            Command::BeginShutdown { broker, epoch } => change.begin_shutdown(*broker, *epoch),
            Command::UnregisterBroker { broker } => change.unregister(*broker),
            Command::CreateTopics { topics } => Ok(change.create_topics(topics)),
            Command::DeleteTopics { topics } => Ok(change.delete_topics(topics)),
            Command::CreatePartitions { topics } => Ok(change.create_partitions(topics)),
            Command::AlterIsr { broker, epoch, proposals } => change.alter_isr(*broker, *epoch, proposals),
            Command::ElectLeaders { elections } => Ok(change.elect_leaders(elections)),
            Command::SetConfigs { changes } => Ok(change.set_configs(changes)),
            Command::AllocateProducerIds { broker, epoch, count } => {
                change.allocate_producer_ids(*broker, *epoch, *count)
            }
            Command::ChangeGroups { changes } => Ok(change.change_groups(changes)),
            Command::FinalizeFeature { name, level } => Ok(change.finalize_feature(name, *level)),
            Command::FormCluster { cluster_id } => change.form_cluster(*cluster_id),
            Command::AlterReassignments { changes } => Ok(change.alter_reassignments(changes)),
            Command::SetDraining { broker, draining } => change.set_draining(*broker, *draining),
            Command::ReportDamage { broker, epoch, reports } => change.report_damage(*broker, *epoch, reports),
        };
        let events = change.events;
        Applied { answer: answer.unwrap_or_else(Answer::Refused), events }
    }
}

/// One command being applied: the image it changes and the events so far.
struct Change<'a> {
    image: &'a mut Image,
    index: RaftIndex,
    events: Vec<Event>,
}

impl Change<'_> {
    /// The broker is registered under exactly this epoch.
    fn check_epoch(&self, broker: BrokerId, given: BrokerEpoch) -> Result<(), MetadataError> {
        let current = self.image.brokers.get(&broker).ok_or(MetadataError::UnknownBroker(broker))?.epoch;
        if current == given { Ok(()) } else { Err(MetadataError::StaleBrokerEpoch { broker, given, current }) }
    }

    /// Makes a partition what `decide` says, works out its ELR and epochs, and records the events of what changed.
    /// `decide` answers `None` for "as it is".
    fn change_partition(
        &mut self,
        place: TopicPartition,
        reason: ElectionReason,
        decide: impl FnOnce(&Image, &str, &super::topics::Partition) -> Option<Next>,
    ) {
        let Some(topic) = self.image.topics.get(&place.topic) else { return };
        let Some(old) = self.image.partition(place) else { return };
        let Some(next) = decide(self.image, &topic.name, old) else { return };
        let min_isr = |replicas| self.image.effective_min_isr(&topic.name, replicas);
        let (chosen, began) = (next.leader, next.replicas.is_some());
        let next = moving::complete(old, next, self.image, min_isr);
        let new = settle(old, next, min_isr);
        if new == *old {
            return;
        }
        let (name, old) = (topic.name.clone(), old.clone());
        self.tell_of_move(place, &name, &old, &new, began);
        // Not this command's choice, but what a move that is complete makes of it.
        let stays = new.leader == old.leader && new.replicas != old.replicas;
        let reason = if new.leader != chosen || stays { ElectionReason::Reassigned } else { reason };
        if new.leader_epoch != old.leader_epoch {
            self.events.push(Event::LeaderElected {
                partition: place,
                topic: name.clone(),
                old: old.leader,
                new: new.leader,
                epoch: new.leader_epoch,
                reason,
            });
        }
        if new.isr != old.isr || new.elr != old.elr {
            self.events.push(Event::IsrChanged {
                partition: place,
                topic: name,
                old: old.isr.clone(),
                new: new.isr.clone(),
                elr: new.elr.clone(),
                epoch: new.partition_epoch,
            });
        }
        let unindexed: Vec<BrokerId> = old.replicas.iter().copied().filter(|b| !new.replicas.contains(b)).collect();
        self.image.unindex_replicas(place, &unindexed);
        if new.replicas.iter().any(|b| !old.replicas.contains(b)) {
            self.image.index_replicas(place, &new.replicas);
        }
        let topic = self.image.topics.get_mut(&place.topic).expect("the topic was found above");
        let number = usize::try_from(place.partition).expect("the partition was found above");
        Arc::make_mut(topic).partitions.set(number, new);
    }

    /// The partitions of a broker, as they stand before any of them changes.
    fn partitions_on(&self, broker: BrokerId) -> impl Iterator<Item = TopicPartition> + use<> {
        self.image.replicas_on.get(&broker).cloned().unwrap_or_default().into_iter()
    }
}
