//! Events of the metadata log in the form that watchers get.

use super::proto::event::Kind;
use super::proto::{self, WatchResponse};
use crate::ids::{BrokerId, RaftIndex};
use crate::metadata::command::{ConfigResource, ElectionReason, FenceReason};
use crate::metadata::event::Event;

/// Bound of one message: an index that caused more (a broker with many partitions was fenced) takes several.
const EVENTS_PER_MESSAGE: usize = 1_000;

/// The messages of one index.
pub fn messages(index: RaftIndex, events: Vec<proto::Event>) -> impl Iterator<Item = WatchResponse> {
    let mut rest = events;
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let tail = rest.split_off(EVENTS_PER_MESSAGE.min(rest.len()));
        let events = std::mem::replace(&mut rest, tail);
        ended = rest.is_empty();
        Some(WatchResponse { index: index.0, events, partial: !ended })
    })
}

/// A message without events: this node is at `index`.
pub fn progress(index: RaftIndex) -> WatchResponse {
    WatchResponse { index: index.0, events: Vec::new(), partial: false }
}

fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

fn fence_reason(reason: FenceReason) -> proto::FenceReason {
    match reason {
        FenceReason::SessionExpired => proto::FenceReason::SessionExpired,
        FenceReason::ConnectionLost => proto::FenceReason::ConnectionLost,
        FenceReason::Shutdown => proto::FenceReason::Shutdown,
        FenceReason::Restarted => proto::FenceReason::Restarted,
    }
}

fn election_reason(reason: ElectionReason) -> (proto::ElectionReason, proto::FenceReason) {
    let plain = |reason| (reason, proto::FenceReason::Unspecified);
    match reason {
        ElectionReason::Created => plain(proto::ElectionReason::Created),
        ElectionReason::Fenced(why) => (proto::ElectionReason::Fenced, fence_reason(why)),
        ElectionReason::Shutdown => plain(proto::ElectionReason::Shutdown),
        ElectionReason::Preferred => plain(proto::ElectionReason::Preferred),
        ElectionReason::Returned => plain(proto::ElectionReason::Returned),
        ElectionReason::Unclean => plain(proto::ElectionReason::Unclean),
        ElectionReason::Reassigned => plain(proto::ElectionReason::Reassigned),
        ElectionReason::Drained => plain(proto::ElectionReason::Drained),
        ElectionReason::Damaged => plain(proto::ElectionReason::Damaged),
        ElectionReason::Durability => plain(proto::ElectionReason::Durability),
    }
}

fn resource(resource: &ConfigResource) -> String {
    match resource {
        ConfigResource::Topic(name) => format!("topic {name}"),
        ConfigResource::Broker(id) => format!("broker {id}"),
        ConfigResource::BrokerDefault => "brokers".to_string(),
        ConfigResource::Group(name) => format!("group {name}"),
    }
}

/// One event as watchers see it.
pub fn event(event: &Event) -> proto::Event {
    let kind = match event {
        Event::BrokerRegistered { broker, epoch, restarted } => {
            Kind::BrokerRegistered(proto::BrokerRegistered { broker: broker.0, epoch: epoch.0, restarted: *restarted })
        }
        Event::BrokerFenced { broker, epoch, reason } => Kind::BrokerFenced(proto::BrokerFenced {
            broker: broker.0,
            epoch: epoch.0,
            reason: fence_reason(*reason).into(),
        }),
        Event::BrokerUnfenced { broker, epoch } => {
            Kind::BrokerUnfenced(proto::BrokerUnfenced { broker: broker.0, epoch: epoch.0 })
        }
        Event::BrokerShuttingDown { broker } => {
            Kind::BrokerShuttingDown(proto::BrokerShuttingDown { broker: broker.0 })
        }
        Event::BrokerUnregistered { broker } => {
            Kind::BrokerUnregistered(proto::BrokerUnregistered { broker: broker.0 })
        }
        Event::TopicCreated { topic, name, partitions } => Kind::TopicCreated(proto::TopicCreated {
            topic: name.clone(),
            topic_id: topic.to_string(),
            partitions: *partitions,
        }),
        Event::TopicDeleted { topic, name, partitions } => Kind::TopicDeleted(proto::TopicDeleted {
            topic: name.clone(),
            topic_id: topic.to_string(),
            partitions: *partitions,
        }),
        Event::PartitionsAdded { topic, name, from, to } => Kind::PartitionsAdded(proto::PartitionsAdded {
            topic: name.clone(),
            topic_id: topic.to_string(),
            from: *from,
            to: *to,
        }),
        Event::LeaderElected { partition, topic, old, new, epoch, reason } => {
            let (reason, why) = election_reason(*reason);
            Kind::LeaderElected(proto::LeaderElected {
                topic: topic.clone(),
                topic_id: partition.topic.to_string(),
                partition: partition.partition,
                old_leader: old.map(|broker| broker.0),
                new_leader: new.map(|broker| broker.0),
                leader_epoch: epoch.0,
                reason: reason.into(),
                fence_reason: why.into(),
            })
        }
        Event::IsrChanged { partition, topic, old, new, elr, epoch } => Kind::IsrChanged(proto::IsrChanged {
            topic: topic.clone(),
            topic_id: partition.topic.to_string(),
            partition: partition.partition,
            old_isr: ids(old),
            new_isr: ids(new),
            elr: ids(elr),
            partition_epoch: epoch.0,
        }),
        Event::ConfigChanged { resource: changed, names } => {
            Kind::ConfigChanged(proto::ConfigChanged { resource: resource(changed), names: names.clone() })
        }
        Event::GroupChanged { group, generation, members } => {
            Kind::GroupChanged(proto::GroupChanged { group: group.clone(), generation: *generation, members: *members })
        }
        Event::FeatureFinalized { name, level } => {
            Kind::FeatureFinalized(proto::FeatureFinalized { name: name.clone(), level: i32::from(*level) })
        }
        Event::ControllerElected { controller, term } => Kind::ControllerElected(proto::ControllerElected {
            controller: controller.map(|broker| broker.0),
            term: *term,
        }),
        Event::ReassignmentBegan { partition, topic, from, to } => Kind::ReassignmentBegan(proto::ReassignmentBegan {
            topic: topic.clone(),
            topic_id: partition.topic.to_string(),
            partition: partition.partition,
            from: ids(from),
            to: ids(to),
        }),
        Event::ReassignmentCompleted { partition, topic, replicas } => {
            Kind::ReassignmentCompleted(proto::ReassignmentCompleted {
                topic: topic.clone(),
                topic_id: partition.topic.to_string(),
                partition: partition.partition,
                replicas: ids(replicas),
            })
        }
        Event::ReassignmentCancelled { partition, topic, replicas } => {
            Kind::ReassignmentCancelled(proto::ReassignmentCancelled {
                topic: topic.clone(),
                topic_id: partition.topic.to_string(),
                partition: partition.partition,
                replicas: ids(replicas),
            })
        }
        Event::BrokerDraining { broker, draining } => {
            Kind::BrokerDraining(proto::BrokerDraining { broker: broker.0, draining: *draining })
        }
        Event::ReplicaDamaged { partition, topic, broker, from } => Kind::ReplicaDamaged(proto::ReplicaDamaged {
            topic: topic.clone(),
            topic_id: partition.topic.to_string(),
            partition: partition.partition,
            broker: broker.0,
            from_offset: from.0,
        }),
    };
    proto::Event { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_index_takes_several_messages_and_only_the_last_is_a_place_to_resume() {
        let many = vec![event(&Event::BrokerShuttingDown { broker: BrokerId(1) }); 2 * EVENTS_PER_MESSAGE + 1];
        let told: Vec<_> = messages(RaftIndex(9), many).collect();
        assert_eq!(told.iter().map(|message| message.events.len()).collect::<Vec<_>>(), [1_000, 1_000, 1]);
        assert_eq!(told.iter().map(|message| message.partial).collect::<Vec<_>>(), [true, true, false]);
        assert!(told.iter().all(|message| message.index == 9));
    }

    #[test]
    fn a_full_message_is_not_followed_by_an_empty_one() {
        let exactly = vec![event(&Event::BrokerShuttingDown { broker: BrokerId(1) }); EVENTS_PER_MESSAGE];
        let told: Vec<_> = messages(RaftIndex(9), exactly).collect();
        assert_eq!(told.len(), 1);
        assert!(!told[0].partial);
    }
}
