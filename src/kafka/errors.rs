//! Where the rooms' errors become Kafka's codes.

use crate::group::coordinator::GroupError;
use kafka_protocol::ResponseError;

/// The code of a group error.
pub fn group(error: &GroupError) -> i16 {
    let code = match error {
        GroupError::NotCoordinator => ResponseError::NotCoordinator,
        GroupError::Loading => ResponseError::CoordinatorLoadInProgress,
        GroupError::NotAvailable => ResponseError::CoordinatorNotAvailable,
        GroupError::UnknownMember => ResponseError::UnknownMemberId,
        GroupError::MemberIdRequired(_) => ResponseError::MemberIdRequired,
        GroupError::IllegalGeneration => ResponseError::IllegalGeneration,
        GroupError::RebalanceInProgress => ResponseError::RebalanceInProgress,
        GroupError::InconsistentProtocol => ResponseError::InconsistentGroupProtocol,
        GroupError::InvalidSessionTimeout => ResponseError::InvalidSessionTimeout,
        GroupError::InvalidGroupId => ResponseError::InvalidGroupId,
        GroupError::FencedInstance => ResponseError::FencedInstanceId,
        GroupError::GroupFull => ResponseError::GroupMaxSizeReached,
        GroupError::OffsetMetadataTooLarge => ResponseError::OffsetMetadataTooLarge,
        GroupError::UnknownTopicOrPartition => ResponseError::UnknownTopicOrPartition,
        GroupError::NonEmptyGroup => ResponseError::NonEmptyGroup,
        GroupError::GroupNotFound => ResponseError::GroupIdNotFound,
        GroupError::UnstableOffset => ResponseError::UnstableOffsetCommit,
        GroupError::UnknownTopicId => ResponseError::UnknownTopicId,
        GroupError::UnsupportedCoordinator => ResponseError::InvalidRequest,
    };
    code.code()
}
