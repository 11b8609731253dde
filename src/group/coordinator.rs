//! The coordinator of all groups whose offsets partition this broker leads.

use bytes::Bytes;

/// Why a group request failed; translated to Kafka's codes in `kafka/errors.rs`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("this broker does not coordinate the group")]
    NotCoordinator,
    #[error("the coordinator is loading the group's partition")]
    Loading,
    #[error("the coordinator is not available")]
    NotAvailable,
    #[error("unknown member id")]
    UnknownMember,
    #[error("join again with the member id given")]
    MemberIdRequired(String),
    #[error("the generation is not the current one")]
    IllegalGeneration,
    #[error("the group is rebalancing; join again")]
    RebalanceInProgress,
    #[error("no protocol in common with the group's members")]
    InconsistentProtocol,
    #[error("the session timeout is outside the broker's bounds")]
    InvalidSessionTimeout,
    #[error("the group id is not valid")]
    InvalidGroupId,
    #[error("a newer member has this instance id")]
    FencedInstance,
    #[error("the group has its maximum size")]
    GroupFull,
    #[error("the offset's metadata is too large")]
    OffsetMetadataTooLarge,
    #[error("unknown topic or partition")]
    UnknownTopicOrPartition,
    #[error("the group is not empty")]
    NonEmptyGroup,
    #[error("the group does not exist")]
    GroupNotFound,
}

/// A JoinGroup request, of any version.
#[derive(Clone, Debug)]
pub struct Join {
    pub group: String,
    pub member: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<(String, Bytes)>,
    /// Version ≥ 4: a new member must come back with the id it is given.
    pub member_id_required: bool,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {}
