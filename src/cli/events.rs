//! Events in words for people and as JSON for programs.

use super::output::list;
use crate::admin::proto::event::Kind;
use crate::admin::proto::{ElectionReason, Event, FenceReason};
use serde_json::{Value, json};

fn fence_words(reason: FenceReason) -> &'static str {
    match reason {
        FenceReason::Unspecified => "for an unknown reason",
        FenceReason::SessionExpired => "session expired",
        FenceReason::ConnectionLost => "connection lost",
        FenceReason::Shutdown => "stopped",
        FenceReason::Restarted => "restarted",
    }
}

fn election_words(reason: ElectionReason, fence: FenceReason) -> String {
    match reason {
        ElectionReason::Unspecified => "for an unknown reason".to_string(),
        ElectionReason::Created => "created".to_string(),
        ElectionReason::Fenced => format!("leader fenced: {}", fence_words(fence)),
        ElectionReason::Shutdown => "leader stops".to_string(),
        ElectionReason::Preferred => "back to the preferred replica".to_string(),
        ElectionReason::Returned => "a replica came back".to_string(),
        ElectionReason::Unclean => "unclean: acked records may be lost".to_string(),
        ElectionReason::Reassigned => "replicas moved".to_string(),
        ElectionReason::Drained => "leader is drained".to_string(),
        ElectionReason::Damaged => "a replica is damaged".to_string(),
        ElectionReason::Durability => "acks are synced from now on".to_string(),
    }
}

fn node(id: Option<i32>) -> String {
    id.map_or_else(|| "none".to_string(), |id| id.to_string())
}

/// One line, without time and index.
pub fn words(event: &Event) -> String {
    let Some(kind) = &event.kind else {
        return "an event that this version does not know".to_string();
    };
    match kind {
        Kind::BrokerRegistered(e) => {
            let how = if e.restarted { "again" } else { "for the first time" };
            format!("broker {} registered {how} (epoch {})", e.broker, e.epoch)
        }
        Kind::BrokerFenced(e) => format!("broker {} fenced: {}", e.broker, fence_words(e.reason())),
        Kind::BrokerUnfenced(e) => format!("broker {} unfenced", e.broker),
        Kind::BrokerShuttingDown(e) => format!("broker {} hands over before it stops", e.broker),
        Kind::BrokerUnregistered(e) => format!("broker {} removed", e.broker),
        Kind::TopicCreated(e) => format!("topic {} created with {} partitions", e.topic, e.partitions),
        Kind::TopicDeleted(e) => format!("topic {} deleted", e.topic),
        Kind::PartitionsAdded(e) => format!("topic {} grew from {} to {} partitions", e.topic, e.from, e.to),
        Kind::LeaderElected(e) => format!(
            "leader of {}-{} elected: {} → {} (epoch {}, {})",
            e.topic,
            e.partition,
            node(e.old_leader),
            node(e.new_leader),
            e.leader_epoch,
            election_words(e.reason(), e.fence_reason())
        ),
        Kind::IsrChanged(e) => {
            let elr = if e.elr.is_empty() { String::new() } else { format!(", eligible {}", list(&e.elr)) };
            format!("ISR of {}-{}: {} → {}{elr}", e.topic, e.partition, list(&e.old_isr), list(&e.new_isr))
        }
        Kind::ConfigChanged(e) => format!("config of {} changed: {}", e.resource, e.names.join(", ")),
        Kind::GroupChanged(e) => format!("group {}: generation {}, {} members", e.group, e.generation, e.members),
        Kind::FeatureFinalized(e) => format!("feature {} is now {}", e.name, e.level),
        Kind::ReplicaDamaged(e) => format!(
            "broker {}'s copy of {}-{} is damaged from offset {} on; it is fetched anew",
            e.broker, e.topic, e.partition, e.from_offset
        ),
        Kind::ControllerElected(e) => format!("controller elected: {} (term {})", node(e.controller), e.term),
        Kind::ReassignmentBegan(e) => {
            format!("move of {}-{} began: {} → {}", e.topic, e.partition, list(&e.from), list(&e.to))
        }
        Kind::ReassignmentCompleted(e) => {
            format!("move of {}-{} completed: replicas {}", e.topic, e.partition, list(&e.replicas))
        }
        Kind::ReassignmentCancelled(e) => {
            format!("move of {}-{} cancelled: replicas {}", e.topic, e.partition, list(&e.replicas))
        }
        Kind::BrokerDraining(e) if e.draining => format!("broker {} is drained", e.broker),
        Kind::BrokerDraining(e) => format!("broker {} is drained no more", e.broker),
    }
}

/// "FENCE_REASON_SESSION_EXPIRED" → "session_expired".
fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

fn fence_name(reason: FenceReason) -> String {
    short(reason.as_str_name(), "FENCE_REASON_")
}

/// An object with `index`, `event` and the event's fields, under the names of the admin API.
pub fn to_json(index: u64, event: &Event) -> Value {
    let (name, fields) = match &event.kind {
        None => ("unknown", json!({})),
        Some(Kind::BrokerRegistered(e)) => {
            ("broker_registered", json!({"broker": e.broker, "epoch": e.epoch, "restarted": e.restarted}))
        }
        Some(Kind::BrokerFenced(e)) => {
            ("broker_fenced", json!({"broker": e.broker, "epoch": e.epoch, "reason": fence_name(e.reason())}))
        }
        Some(Kind::BrokerUnfenced(e)) => ("broker_unfenced", json!({"broker": e.broker, "epoch": e.epoch})),
        Some(Kind::BrokerShuttingDown(e)) => ("broker_shutting_down", json!({"broker": e.broker})),
        Some(Kind::BrokerUnregistered(e)) => ("broker_unregistered", json!({"broker": e.broker})),
        Some(Kind::TopicCreated(e)) => {
            ("topic_created", json!({"topic": e.topic, "topic_id": e.topic_id, "partitions": e.partitions}))
        }
        Some(Kind::TopicDeleted(e)) => {
            ("topic_deleted", json!({"topic": e.topic, "topic_id": e.topic_id, "partitions": e.partitions}))
        }
        Some(Kind::PartitionsAdded(e)) => {
            ("partitions_added", json!({"topic": e.topic, "topic_id": e.topic_id, "from": e.from, "to": e.to}))
        }
        Some(Kind::LeaderElected(e)) => (
            "leader_elected",
            json!({
                "topic": e.topic, "topic_id": e.topic_id, "partition": e.partition,
                "old_leader": e.old_leader, "new_leader": e.new_leader, "leader_epoch": e.leader_epoch,
                "reason": short(e.reason().as_str_name(), "ELECTION_REASON_"),
                "fence_reason": (e.reason() == ElectionReason::Fenced).then(|| fence_name(e.fence_reason())),
            }),
        ),
        Some(Kind::IsrChanged(e)) => (
            "isr_changed",
            json!({
                "topic": e.topic, "topic_id": e.topic_id, "partition": e.partition,
                "old_isr": e.old_isr, "new_isr": e.new_isr, "elr": e.elr, "partition_epoch": e.partition_epoch,
            }),
        ),
        Some(Kind::ConfigChanged(e)) => ("config_changed", json!({"resource": e.resource, "names": e.names})),
        Some(Kind::GroupChanged(e)) => {
            ("group_changed", json!({"group": e.group, "generation": e.generation, "members": e.members}))
        }
        Some(Kind::FeatureFinalized(e)) => ("feature_finalized", json!({"name": e.name, "level": e.level})),
        Some(Kind::ReassignmentBegan(e)) => (
            "reassignment_began",
            json!({
                "topic": e.topic, "topic_id": e.topic_id, "partition": e.partition, "from": e.from, "to": e.to,
            }),
        ),
        Some(Kind::ReassignmentCompleted(e)) => (
            "reassignment_completed",
            json!({
                "topic": e.topic, "topic_id": e.topic_id, "partition": e.partition, "replicas": e.replicas,
            }),
        ),
        Some(Kind::ReassignmentCancelled(e)) => (
            "reassignment_cancelled",
            json!({
                "topic": e.topic, "topic_id": e.topic_id, "partition": e.partition, "replicas": e.replicas,
            }),
        ),
        Some(Kind::BrokerDraining(e)) => ("broker_draining", json!({"broker": e.broker, "draining": e.draining})),
        Some(Kind::ControllerElected(e)) => ("controller_elected", json!({"controller": e.controller, "term": e.term})),
        Some(Kind::ReplicaDamaged(e)) => (
            "replica_damaged",
            json!({
                "topic": e.topic, "topic_id": e.topic_id, "partition": e.partition, "broker": e.broker,
                "from_offset": e.from_offset,
            }),
        ),
    };
    let mut object = json!({"index": index, "event": name});
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::proto::LeaderElected;

    #[test]
    fn an_election_tells_who_from_whom_and_why() {
        let event = Event {
            kind: Some(Kind::LeaderElected(LeaderElected {
                topic: "orders".into(),
                topic_id: "id".into(),
                partition: 3,
                old_leader: Some(2),
                new_leader: Some(1),
                leader_epoch: 7,
                reason: ElectionReason::Fenced.into(),
                fence_reason: FenceReason::ConnectionLost.into(),
            })),
        };
        let line = words(&event);
        assert_eq!(line, "leader of orders-3 elected: 2 → 1 (epoch 7, leader fenced: connection lost)");
        let object = to_json(9, &event);
        assert_eq!(object["event"], "leader_elected");
        assert_eq!((object["index"].as_u64(), object["new_leader"].as_i64()), (Some(9), Some(1)));
        assert_eq!((&object["reason"], &object["fence_reason"]), (&json!("fenced"), &json!("connection_lost")));
    }
}
