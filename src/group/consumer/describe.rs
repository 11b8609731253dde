//! What ConsumerGroupDescribe, ListGroups and operators are shown.

use super::Group;
use crate::metadata::group_change::TopicPartitions;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Empty,
    Assigning,
    Reconciling,
    Stable,
    Dead,
}

impl Phase {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::Assigning => "Assigning",
            Phase::Reconciling => "Reconciling",
            Phase::Stable => "Stable",
            Phase::Dead => "Dead",
        }
    }

    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Phase::Empty => "empty",
            Phase::Assigning => "assigning",
            Phase::Reconciling => "reconciling",
            Phase::Stable => "stable",
            Phase::Dead => "dead",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub phase: Phase,
    pub epoch: i32,
    pub assignment_epoch: i32,
    pub assignor: &'static str,
    pub members: Vec<MemberDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    pub id: String,
    pub instance: Option<String>,
    pub rack: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub epoch: i32,
    pub topics: Vec<String>,
    pub regex: Option<String>,
    pub assigned: TopicPartitions,
    pub target: TopicPartitions,
    /// It speaks the classic protocol (migration).
    pub is_classic: bool,
}

impl Group {
    pub fn describe(&self) -> Description {
        let members = self.members.iter().map(|(id, member)| {
            let stored = &member.stored;
            MemberDescription {
                id: id.clone(),
                instance: stored.instance_id.clone(),
                rack: stored.rack_id.clone(),
                client_id: stored.client_id.clone(),
                client_host: stored.client_host.clone(),
                epoch: stored.member_epoch,
                topics: stored.subscribed_topics.clone(),
                regex: stored.subscribed_regex.clone(),
                assigned: stored.assigned.clone(),
                target: stored.target.clone(),
                is_classic: member.is_classic(),
            }
        });
        Description {
            phase: self.phase(),
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor: self.assignor.name(),
            members: members.collect(),
        }
    }

    /// Members are subscribed to the topic, by name or pattern.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        let id = self.image.topic_ids.get(topic);
        let matches =
            |text: &String| id.is_some_and(|id| self.patterns.get(text).is_some_and(|topics| topics.contains(id)));
        self.members.values().any(|member| {
            let stored = &member.stored;
            stored.subscribed_topics.iter().any(|name| name == topic)
                || stored.subscribed_regex.as_ref().is_some_and(matches)
        })
    }
}
