//! What members ask, of any version, and what they are told.

use super::member;
use bytes::Bytes;
use std::collections::BTreeMap;

/// A JoinGroup request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join {
    pub group: String,
    /// Empty: a member that has no id yet.
    pub member: String,
    /// A static member's name (KIP-345).
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    /// Negative (version 0): the session timeout counts.
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<(String, Bytes)>,
    /// Version ≥ 4: a new member must come back with the id it is given.
    pub member_id_required: bool,
    /// Version ≥ 9: a static leader that returns may be told to keep the assignment as it is.
    pub skip_assignment_supported: bool,
    /// What the client gives as its reason (KIP-800).
    pub reason: Option<String>,
}

impl Join {
    /// About what the member takes that it would make.
    pub fn bytes(&self) -> usize {
        member::join_bytes(self, &self.member)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub member: String,
    pub generation: i32,
    pub protocol_type: String,
    pub protocol: String,
    pub leader: String,
    /// The leader gets everyone's metadata, others nobody's.
    pub members: Vec<JoinedMember>,
    pub skip_assignment: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    pub id: String,
    pub instance: Option<String>,
    pub metadata: Bytes,
}

/// A SyncGroup request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncGroup {
    pub group: String,
    pub member: String,
    pub instance: Option<String>,
    pub generation: i32,
    /// Version ≥ 5; must then be the group's.
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    /// By member; only the leader's count.
    pub assignments: BTreeMap<String, Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: String,
    pub protocol: String,
    pub assignment: Bytes,
}

/// One member of a LeaveGroup request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaver {
    /// Empty: whoever has the instance id.
    pub member: String,
    pub instance: Option<String>,
    /// What the client gives as its reason (KIP-800).
    pub reason: Option<String>,
}
