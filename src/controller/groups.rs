//! Changes of groups: packed into commands as they are. Their coordinators choose, `apply` checks the epochs.

use super::plan::{Item, PARTITIONS_PER_COMMAND_MAX, Packer, Plan};
use crate::metadata::command::{Command, GroupChange};
use crate::metadata::intent::IntentError;

/// One result a change; in order, so that the parts of a torn write follow each other.
pub fn plan(changes: Vec<GroupChange>) -> Plan<()> {
    let mut packer = Packer::new(PARTITIONS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let items = changes
        .into_iter()
        .map(|change| match packer.add(change, 1) {
            Ok((command, position)) => Item::Proposed { command, position, outcome: () },
            Err(too_large) => Item::Decided(Err(IntentError::InvalidRequest(format!(
                "the change takes {} bytes, more than one metadata command may have",
                too_large.bytes
            )))),
        })
        .collect();
    Plan { commands: packer.into_commands(|changes| Command::ChangeGroups { changes }), items }
}

#[cfg(test)]
mod tests {
    use super::super::plan::COMMAND_BYTES_MAX;
    use super::*;
    use crate::ids::*;
    use crate::metadata::group_change::{GroupHeader, GroupWrite};

    fn change(group: &str, bytes: usize) -> GroupChange {
        let header = GroupHeader::Classic {
            protocol_type: "x".repeat(bytes),
            protocol: None,
            generation: 1,
            leader: None,
            is_whole: true,
        };
        GroupChange {
            group: group.into(),
            coordinator: TopicPartition::new(TopicId::default(), 0),
            leader_epoch: LeaderEpoch(0),
            expected: 0,
            revision: 1,
            write: Some(GroupWrite { header, put: vec![], removed: vec![], blobs: vec![], rebalance: None }),
        }
    }

    #[test]
    fn many_groups_share_a_command_and_what_is_too_large_is_refused_alone() {
        let third = COMMAND_BYTES_MAX / 3;
        let changes = vec![
            change("a", third),
            change("b", third),
            change("too large", COMMAND_BYTES_MAX),
            change("c", third),
            change("d", 1),
        ];
        let plan = plan(changes);
        let places = plan.items.iter().map(|item| match item {
            Item::Proposed { command, position, .. } => Some((*command, *position)),
            Item::Decided(Err(_)) => None,
            Item::Decided(Ok(())) => panic!("nothing is decided without a commit"),
        });
        assert_eq!(places.collect::<Vec<_>>(), [Some((0, 0)), Some((0, 1)), None, Some((1, 0)), Some((1, 1))]);
    }
}
