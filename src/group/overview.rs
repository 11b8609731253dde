//! What operators are shown of a group and its offsets.

use super::coordinator::{Coordinator, GroupError, check_group_id_length};
use super::offsets::Committed;
use super::subscription;
use crate::ids::*;
use crate::metadata::group_change::GroupMember;
use crate::metadata::image::Image;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Partitions by topic.
pub type Partitions = BTreeMap<String, BTreeSet<i32>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    pub protocol_type: String,
    /// Kafka's names of its state and type.
    pub state: &'static str,
    pub kind: &'static str,
    /// It has no members, so its offsets may be changed by hand.
    pub is_empty: bool,
    /// Sorted.
    pub offsets: Vec<(Arc<str>, i32, Committed)>,
}

impl Coordinator {
    /// Errors: [`GroupError::GroupNotFound`], and where another broker coordinates the group or this one still loads.
    pub fn overview(&self, group: &str) -> Result<Overview, GroupError> {
        check_group_id_length(group)?;
        let (_, cell) = self.find(group)?.ok_or(GroupError::GroupNotFound)?;
        let entry = cell.lock();
        if entry.machine.is_dead() {
            return Err(GroupError::GroupNotFound);
        }
        Ok(Overview {
            protocol_type: entry.machine.protocol_type().to_string(),
            state: entry.machine.state_name(),
            kind: entry.machine.type_name(),
            is_empty: entry.machine.is_empty(),
            offsets: entry
                .offsets
                .all()
                .map(|(topic, partition, committed)| (topic.clone(), partition, committed))
                .collect(),
        })
    }
}

/// What a member owns; nothing where that cannot be read.
pub fn assigned(member: &GroupMember, protocol_type: &str, image: &Image) -> Partitions {
    match member {
        GroupMember::Classic(_) if protocol_type != subscription::CONSUMER => Partitions::new(),
        GroupMember::Classic(member) => subscription::assignment(&member.assignment).unwrap_or_default(),
        GroupMember::Consumer(member) => {
            let named = |(topic, partitions): (&TopicId, &Vec<i32>)| {
                Some((image.topic(*topic)?.name.clone(), partitions.iter().copied().collect()))
            };
            member.assigned.iter().filter_map(named).collect()
        }
    }
}
