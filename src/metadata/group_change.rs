//! Changes of consumer groups, as their coordinators write them: what must outlive a coordinator.
//!
//! A group is one header and its members. A write carries the members that changed, each whole, so that a rebalance of
//! a large group in which little changes is a small command. Opaque bytes that many members have alike (their
//! subscriptions) are named by [`BlobId`] and stored once a group.
//!
//! A write that is larger than a command is made of several changes, all but the last with a header that is not whole:
//! nobody has been told of a torn one.

use crate::ids::*;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One group's next state, written by its coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupChange {
    pub group: String,
    /// The `__consumer_offsets` partition that coordinates the group, and the leader epoch the coordinator acts in.
    pub coordinator: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    /// The group's revision that this was computed from; 0: the group does not exist.
    pub expected: u64,
    /// The group's revision from now on, above `expected`. A coordinator uses a number once: of two writes with unknown
    /// outcomes no part of one can follow a part of the other.
    pub revision: u64,
    /// `None` removes the group.
    pub write: Option<GroupWrite>,
}

/// Removals count before additions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupWrite {
    pub header: GroupHeader,
    /// New or changed members, each whole.
    pub put: Vec<(String, GroupMember)>,
    /// Who is no member any more; to name one that never was is no error.
    pub removed: Vec<String>,
    /// Bytes that `put` names. Those that the group has already may be left out.
    pub blobs: Vec<(BlobId, Bytes)>,
    /// For the group's history.
    pub rebalance: Option<Rebalance>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GroupHeader {
    Classic {
        /// `consumer`, `connect` …: opaque to the broker.
        protocol_type: String,
        protocol: Option<String>,
        generation: i32,
        leader: Option<String>,
        is_whole: bool,
    },
    /// KIP-848.
    Consumer {
        epoch: i32,
        /// The epoch that the members' targets were computed for.
        assignment_epoch: i32,
        /// Of what the subscribed topics looked like at `epoch`.
        topics_hash: u64,
        assignor: String,
        is_whole: bool,
    },
}

impl GroupHeader {
    /// Generation or epoch.
    pub fn epoch(&self) -> i32 {
        match self {
            GroupHeader::Classic { generation, .. } => *generation,
            GroupHeader::Consumer { epoch, .. } => *epoch,
        }
    }

    pub fn is_whole(&self) -> bool {
        match self {
            GroupHeader::Classic { is_whole, .. } | GroupHeader::Consumer { is_whole, .. } => *is_whole,
        }
    }

    /// The header of a part of a write that is not its last.
    pub fn torn(&self) -> GroupHeader {
        let mut torn = self.clone();
        match &mut torn {
            GroupHeader::Classic { is_whole, .. } | GroupHeader::Consumer { is_whole, .. } => *is_whole = false,
        }
        torn
    }

    /// Kafka's name of the kind of protocol that the members speak among themselves.
    pub fn protocol_type(&self) -> &str {
        match self {
            GroupHeader::Classic { protocol_type, .. } => protocol_type,
            GroupHeader::Consumer { .. } => "consumer",
        }
    }
}

/// Names bytes within one group. A hash of them, or a number above it where another has that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobId(pub u64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GroupMember {
    Classic(ClassicMember),
    Consumer(ConsumerMember),
}

impl GroupMember {
    /// The bytes this member names, once for each time that it names them.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> + '_ {
        let protocols = match self {
            GroupMember::Classic(member) => member.protocols.as_slice(),
            GroupMember::Consumer(member) => member.classic.as_ref().map_or(&[][..], |classic| &classic.protocols),
        };
        protocols.iter().map(|(_, blob)| *blob)
    }

    pub fn instance_id(&self) -> Option<&str> {
        match self {
            GroupMember::Classic(member) => member.instance_id.as_deref(),
            GroupMember::Consumer(member) => member.instance_id.as_deref(),
        }
    }

    /// The client's name and address.
    pub fn client(&self) -> (&str, &str) {
        match self {
            GroupMember::Classic(member) => (&member.client_id, &member.client_host),
            GroupMember::Consumer(member) => (&member.client_id, &member.client_host),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassicMember {
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    /// In the member's order of preference.
    pub protocols: Vec<(String, BlobId)>,
    pub assignment: Bytes,
}

/// By topic, ascending partitions.
pub type TopicPartitions = BTreeMap<TopicId, Vec<i32>>;

/// A member's state in the reconciliation of KIP-848.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Has what it should have.
    #[default]
    Stable,
    /// Has been asked to revoke partitions, and has not said yet that it did.
    Unrevoked,
    /// Waits for partitions that others have still.
    Unreleased,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConsumerMember {
    pub instance_id: Option<String>,
    pub rack_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub subscribed_topics: Vec<String>,
    pub subscribed_regex: Option<String>,
    pub assignor: Option<String>,
    pub member_epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    /// What it owns, and has been told so.
    pub assigned: TopicPartitions,
    pub pending_revocation: TopicPartitions,
    pub target: TopicPartitions,
    /// A member of the classic protocol in a group of the new one.
    pub classic: Option<ClassicPart>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassicPart {
    pub session_timeout_ms: i32,
    pub protocols: Vec<(String, BlobId)>,
}

/// One rebalance that was carried through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rebalance {
    /// By the coordinator's wall clock.
    pub at_ms: i64,
    /// Generation or epoch that it led to.
    pub epoch: i32,
    pub members: i32,
    /// What came first.
    pub reason: RebalanceReason,
    /// How many more reasons came before it was done.
    pub others: i32,
    /// What the client gave as its reason (KIP-800).
    pub said: Option<String>,
}

/// Bounds: member ids, instance ids and topics have bounds of their own where they come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebalanceReason {
    MemberJoined(String),
    MemberLeft(String),
    /// No heartbeat for its session timeout.
    MemberTimedOut(String),
    /// Did not join again, did not ask for its assignment or did not revoke within the rebalance timeout.
    MemberTooSlow(String),
    SubscriptionChanged(String),
    /// A static member came back with other protocols.
    MemberReplaced(String),
    /// The leader of a classic group joined anew: it wants to assign anew.
    LeaderRejoined(String),
    /// The partitions of this topic.
    PartitionsChanged(String),
    /// The write of its last coordinator was torn, or an assignment was on its way when the coordinator moved.
    CoordinatorMoved,
    /// An assignment could not be committed.
    NotCommitted,
    /// To this one.
    AssignorChanged(String),
    /// From the classic protocol to the new one, or back.
    ProtocolChanged,
    /// A client's or operator's request that is none of the above.
    Requested,
    /// The member grew beyond what can be stored of one, or what it assigned as the leader did.
    MemberTooLarge(String),
}

impl RebalanceReason {
    /// The reason without whom it names: a label of a metric.
    pub fn name(&self) -> &'static str {
        match self {
            RebalanceReason::MemberJoined(_) => "member_joined",
            RebalanceReason::MemberLeft(_) => "member_left",
            RebalanceReason::MemberTimedOut(_) => "member_timed_out",
            RebalanceReason::MemberTooSlow(_) => "member_too_slow",
            RebalanceReason::SubscriptionChanged(_) => "subscription_changed",
            RebalanceReason::MemberReplaced(_) => "member_replaced",
            RebalanceReason::LeaderRejoined(_) => "leader_rejoined",
            RebalanceReason::PartitionsChanged(_) => "partitions_changed",
            RebalanceReason::CoordinatorMoved => "coordinator_moved",
            RebalanceReason::NotCommitted => "not_committed",
            RebalanceReason::AssignorChanged(_) => "assignor_changed",
            RebalanceReason::ProtocolChanged => "protocol_changed",
            RebalanceReason::Requested => "requested",
            RebalanceReason::MemberTooLarge(_) => "member_too_large",
        }
    }

    /// The member or topic it names.
    pub fn whom(&self) -> Option<&str> {
        match self {
            RebalanceReason::MemberJoined(whom)
            | RebalanceReason::MemberLeft(whom)
            | RebalanceReason::MemberTimedOut(whom)
            | RebalanceReason::MemberTooSlow(whom)
            | RebalanceReason::MemberTooLarge(whom)
            | RebalanceReason::SubscriptionChanged(whom)
            | RebalanceReason::MemberReplaced(whom)
            | RebalanceReason::LeaderRejoined(whom)
            | RebalanceReason::PartitionsChanged(whom)
            | RebalanceReason::AssignorChanged(whom) => Some(whom),
            RebalanceReason::CoordinatorMoved
            | RebalanceReason::NotCommitted
            | RebalanceReason::ProtocolChanged
            | RebalanceReason::Requested => None,
        }
    }
}
