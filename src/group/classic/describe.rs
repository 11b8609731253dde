//! What DescribeGroups and the leader of a generation are shown.

use super::group::{Group, Phase};
use super::requests::JoinedMember;
use bytes::Bytes;
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub phase: Phase,
    pub protocol_type: String,
    /// Empty unless the group is stable, and so are its members' metadata and assignments.
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

impl Group {
    pub fn describe(&self) -> Description {
        let is_settled = self.phase == Phase::Stable;
        let protocol = self.protocol.clone().filter(|_| is_settled).unwrap_or_default();
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: if is_settled { member.metadata(&protocol, &self.draft) } else { Bytes::new() },
            assignment: if is_settled { member.assignment.clone() } else { Bytes::new() },
        });
        let members = members.collect();
        Description { phase: self.phase, protocol_type: self.protocol_type.clone(), protocol, members }
    }

    /// What its members say of themselves, each distinct text once.
    pub fn metadata(&self) -> impl Iterator<Item = Bytes> + '_ {
        let named = self.members.values().flat_map(|member| member.protocols.iter().map(|(_, blob)| *blob));
        named.collect::<BTreeSet<_>>().into_iter().map(|blob| self.draft.bytes(blob))
    }

    pub(super) fn everyone(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members
            .iter()
            .map(|(id, member)| JoinedMember {
                id: id.clone(),
                instance: member.instance.clone(),
                metadata: member.metadata(protocol, &self.draft),
            })
            .collect()
    }
}
