//! One member, and what it takes.

use super::Join;
use crate::group::draft::Draft;
use crate::group::machine::{Millis, Ticket};
use crate::metadata::group_change::{BlobId, ClassicMember, GroupMember};
use bytes::Bytes;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout: Millis,
    pub rebalance_timeout: Millis,
    /// In its order of preference; the bytes are in the group's draft.
    pub protocols: Vec<(String, BlobId)>,
    /// As last committed.
    pub assignment: Bytes,
    /// Of a new member: until when its join is parked.
    pub session_deadline: Millis,
    pub joining: Option<Ticket>,
    pub syncing: Option<Ticket>,
    /// Its first join is parked: it may have gone away without knowing its id, and others wait for it.
    pub is_new: bool,
    pub skip_assignment_supported: bool,
}

impl Member {
    pub fn restore(stored: &ClassicMember, now: Millis) -> Member {
        let session_timeout = milliseconds(stored.session_timeout_ms);
        Member {
            instance: stored.instance_id.clone(),
            client_id: stored.client_id.clone(),
            client_host: stored.client_host.clone(),
            session_timeout,
            rebalance_timeout: milliseconds(stored.rebalance_timeout_ms),
            protocols: stored.protocols.clone(),
            assignment: stored.assignment.clone(),
            session_deadline: now + session_timeout,
            joining: None,
            syncing: None,
            is_new: false,
            skip_assignment_supported: false,
        }
    }

    pub fn stored(&self, assignment: Bytes) -> GroupMember {
        GroupMember::Classic(ClassicMember {
            instance_id: self.instance.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            session_timeout_ms: i32::try_from(self.session_timeout).unwrap_or(i32::MAX),
            rebalance_timeout_ms: i32::try_from(self.rebalance_timeout).unwrap_or(i32::MAX),
            protocols: self.protocols.clone(),
            assignment,
        })
    }

    /// While a request of it is parked, a member is plainly there, unless it is new: its join is parked for a bounded
    /// time.
    pub fn expires_at(&self) -> Option<Millis> {
        let is_there = !self.is_new && (self.joining.is_some() || self.syncing.is_some());
        (!is_there).then_some(self.session_deadline)
    }

    pub fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// Each once.
    pub fn protocol_names(&self) -> BTreeSet<&str> {
        self.protocols.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub fn metadata(&self, protocol: &str, draft: &Draft) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, blob)| draft.bytes(*blob)).unwrap_or_default()
    }

    /// The same protocols in the same order, with the same metadata.
    pub fn has_protocols(&self, protocols: &[(String, Bytes)], draft: &Draft) -> bool {
        let same = |((mine, blob), (name, metadata)): (&(String, BlobId), &(String, Bytes))| {
            mine == name && draft.bytes(*blob) == *metadata
        };
        self.protocols.len() == protocols.len() && self.protocols.iter().zip(protocols).all(same)
    }

    /// About what a member takes in the committed state with all that it names, without its assignment.
    pub fn bytes(&self, id: &str, draft: &Draft) -> usize {
        let protocols = self.protocols.iter().map(|(name, blob)| name.len() + draft.bytes(*blob).len());
        let instance = self.instance.as_deref().unwrap_or_default();
        member_bytes([id, instance, &self.client_id, &self.client_host], protocols)
    }
}

/// As [`Member::bytes`] of the member that this join would make under this id.
pub(super) fn join_bytes(join: &Join, id: &str) -> usize {
    let protocols = join.protocols.iter().map(|(name, metadata)| name.len() + metadata.len());
    let instance = join.instance.as_deref().unwrap_or_default();
    member_bytes([id, instance, &join.client_id, &join.client_host], protocols)
}

/// The encoding's length before each text, and a member's fixed fields.
const LENGTH_BYTES: usize = 8;
const MEMBER_BYTES: usize = 40;

fn member_bytes(texts: [&str; 4], protocols: impl Iterator<Item = usize>) -> usize {
    let texts: usize = texts.iter().map(|text| text.len() + LENGTH_BYTES).sum();
    let protocols: usize = protocols.map(|bytes| bytes + 2 * LENGTH_BYTES).sum();
    MEMBER_BYTES + texts + protocols
}

/// What an id that was given out and not used yet takes.
pub(super) fn pending_bytes(id: &str) -> usize {
    MEMBER_BYTES + LENGTH_BYTES + id.len()
}

pub(super) fn milliseconds(given: i32) -> Millis {
    Millis::try_from(given).unwrap_or(0)
}

pub(super) fn rebalance_timeout(join: &Join) -> Millis {
    milliseconds(if join.rebalance_timeout_ms < 0 { join.session_timeout_ms } else { join.rebalance_timeout_ms })
}
