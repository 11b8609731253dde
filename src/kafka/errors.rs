//! Where the rooms' errors become Kafka's codes: here and nowhere else.
//!
//! The code decides what a client does. Retriable ones (a leader that moved, a disk that is full for now, a controller
//! that is away) make it try again, most of them after a metadata refresh; the others end in the application.

use crate::group::coordinator::GroupError;
use crate::log::partition_log::AppendError;
use crate::metadata::command::MetadataError;
use crate::metadata::intent::{IntentError, SubmitError};
use crate::metadata::voters::VoterError;
use crate::records::RecordError;
use crate::replica::partition::{LeaderHint, PartitionError};
pub use kafka_protocol::ResponseError as Code;

pub fn partition(error: &PartitionError) -> Code {
    match error {
        PartitionError::NotLeader(_) | PartitionError::NotHosted => Code::NotLeaderOrFollower,
        PartitionError::FencedEpoch(_) => Code::FencedLeaderEpoch,
        PartitionError::UnknownEpoch => Code::UnknownLeaderEpoch,
        PartitionError::NotEnoughReplicas => Code::NotEnoughReplicas,
        PartitionError::NotEnoughReplicasAfterAppend => Code::NotEnoughReplicasAfterAppend,
        PartitionError::OffsetNotAvailable => Code::OffsetNotAvailable,
        PartitionError::OutOfRange { .. } => Code::OffsetOutOfRange,
        PartitionError::UnknownReplica => Code::ReplicaNotAvailable,
        PartitionError::Append(error) => append(error),
        // Retriable, with a metadata refresh: the partition is on its way to a replica that is whole.
        PartitionError::Storage(_) | PartitionError::Damaged { .. } => Code::KafkaStorageError,
    }
}

/// The leader that an error names, if it is one that does.
pub fn leader_hint(error: &PartitionError) -> Option<LeaderHint> {
    match error {
        PartitionError::NotLeader(hint) | PartitionError::FencedEpoch(hint) => Some(*hint),
        _ => None,
    }
}

/// Whether an answer with this code says who leads now (KIP-951).
pub fn wants_leader(code: Code) -> bool {
    matches!(code, Code::NotLeaderOrFollower | Code::FencedLeaderEpoch)
}

pub fn append(error: &AppendError) -> Code {
    match error {
        AppendError::Invalid(error) => record(error),
        AppendError::TooLarge { .. } => Code::MessageTooLarge,
        AppendError::TimestampOutOfBounds { .. } => Code::InvalidTimestamp,
        AppendError::OutOfOrderSequence { .. } => Code::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch { .. } => Code::InvalidProducerEpoch,
        AppendError::UnknownProducer(_) => Code::UnknownProducerId,
        // Only a follower's append: it never answers a client.
        AppendError::NotContiguous { .. } => Code::UnknownServerError,
        AppendError::NoRoom | AppendError::Disk(_) | AppendError::Offline => Code::KafkaStorageError,
    }
}

pub fn record(error: &RecordError) -> Code {
    match error {
        // Damaged on the way, perhaps: sent again it may be whole.
        RecordError::TooShort(_) | RecordError::BadLength { .. } | RecordError::BadCrc { .. } => Code::CorruptMessage,
        RecordError::UnsupportedMagic(_) => Code::UnsupportedForMessageFormat,
        RecordError::UnknownCompression(_) => Code::UnsupportedCompressionType,
        RecordError::TooLarge(_) => Code::MessageTooLarge,
        RecordError::ControlBatch | RecordError::BadCount { .. } | RecordError::Malformed(_) | RecordError::Empty => {
            Code::InvalidRecord
        }
    }
}

/// The code of a group error.
pub fn group(error: &GroupError) -> i16 {
    let code = match error {
        GroupError::NotCoordinator => Code::NotCoordinator,
        GroupError::Loading => Code::CoordinatorLoadInProgress,
        GroupError::NotAvailable => Code::CoordinatorNotAvailable,
        GroupError::UnknownMember => Code::UnknownMemberId,
        GroupError::MemberIdRequired(_) => Code::MemberIdRequired,
        GroupError::IllegalGeneration => Code::IllegalGeneration,
        GroupError::RebalanceInProgress => Code::RebalanceInProgress,
        GroupError::InconsistentProtocol => Code::InconsistentGroupProtocol,
        GroupError::InvalidSessionTimeout => Code::InvalidSessionTimeout,
        GroupError::InvalidGroupId => Code::InvalidGroupId,
        GroupError::FencedInstance => Code::FencedInstanceId,
        GroupError::GroupFull | GroupError::MemberTooLarge => Code::GroupMaxSizeReached,
        GroupError::OffsetMetadataTooLarge => Code::OffsetMetadataTooLarge,
        GroupError::UnknownTopicOrPartition => Code::UnknownTopicOrPartition,
        GroupError::NonEmptyGroup => Code::NonEmptyGroup,
        GroupError::GroupNotFound => Code::GroupIdNotFound,
        GroupError::UnstableOffset => Code::UnstableOffsetCommit,
        GroupError::UnknownTopicId => Code::UnknownTopicId,
        GroupError::UnsupportedCoordinator | GroupError::InvalidRequest(_) => Code::InvalidRequest,
        GroupError::FencedMemberEpoch => Code::FencedMemberEpoch,
        GroupError::UnreleasedInstance => Code::UnreleasedInstanceId,
        GroupError::UnsupportedAssignor => Code::UnsupportedAssignor,
        GroupError::StaleMemberEpoch => Code::StaleMemberEpoch,
        GroupError::InvalidRegex => Code::InvalidRegularExpression,
        GroupError::SubscribedToTopic => Code::GroupSubscribedToTopic,
        GroupError::UnsupportedVersion => Code::UnsupportedVersion,
    };
    code.code()
}

/// Of a change of the quorum's voters. What passes by itself is a timeout, as in Kafka: the caller's was spent waiting.
pub fn voter(error: &VoterError) -> Code {
    match error {
        VoterError::AlreadyVotes(_) | VoterError::VotesWithOtherFolder { .. } => Code::DuplicateVoter,
        VoterError::NotAVoter(_) | VoterError::NotAMember(_) => Code::VoterNotFound,
        VoterError::OtherDirectory { .. } => Code::InvalidVoterKey,
        VoterError::Unreachable(_)
        | VoterError::NotCaughtUp { .. }
        | VoterError::InProgress
        | VoterError::NoMajority { .. }
        | VoterError::Unknown => Code::RequestTimedOut,
        VoterError::LastVoter(_)
        | VoterError::WouldLoseMajority { .. }
        | VoterError::NoNewFolder(_)
        | VoterError::NotLost(_)
        | VoterError::Refused(_) => Code::InvalidRequest,
    }
}

pub fn intent(error: &IntentError) -> Code {
    match error {
        IntentError::Metadata(error) => metadata(error),
        IntentError::InvalidTopicName(_) => Code::InvalidTopicException,
        IntentError::InvalidPartitions(_) => Code::InvalidPartitions,
        IntentError::InvalidReplicationFactor(_) => Code::InvalidReplicationFactor,
        IntentError::InvalidReplicaAssignment(_) => Code::InvalidReplicaAssignment,
        IntentError::InvalidConfig(_) => Code::InvalidConfig,
        IntentError::InvalidRequest(_) => Code::InvalidRequest,
        IntentError::ElectionNotNeeded => Code::ElectionNotNeeded,
        IntentError::PreferredLeaderNotAvailable(_) => Code::PreferredLeaderNotAvailable,
        IntentError::EligibleLeadersNotAvailable(_) => Code::EligibleLeadersNotAvailable,
        IntentError::NotRemovable(_) => Code::InvalidRequest,
    }
}

pub fn metadata(error: &MetadataError) -> Code {
    match error {
        MetadataError::TopicExists(_) => Code::TopicAlreadyExists,
        MetadataError::UnknownTopic | MetadataError::UnknownPartition => Code::UnknownTopicOrPartition,
        MetadataError::PartitionCountChanged => Code::InvalidPartitions,
        MetadataError::UnknownBroker(_) => Code::BrokerIdNotRegistered,
        MetadataError::StaleBrokerEpoch { .. } => Code::StaleBrokerEpoch,
        MetadataError::DuplicateBroker(_) => Code::DuplicateBrokerRegistration,
        MetadataError::StaleLeaderEpoch { .. } => Code::FencedLeaderEpoch,
        MetadataError::StalePartitionEpoch { .. } => Code::InvalidUpdateVersion,
        MetadataError::NotLeader(_) => Code::NotLeaderOrFollower,
        MetadataError::IneligibleReplica(_) => Code::IneligibleReplica,
        MetadataError::IneligibleLeader(_) | MetadataError::NoOtherReplica(_) => Code::EligibleLeadersNotAvailable,
        MetadataError::StaleGroup => Code::NotCoordinator,
        MetadataError::Invalid(_) => Code::InvalidRequest,
        MetadataError::NoReassignment => Code::NoReassignmentInProgress,
        MetadataError::InvalidAssignment(_) => Code::InvalidReplicaAssignment,
    }
}

/// All are retriable: admin clients look for another broker or ask again.
pub fn submit(error: &SubmitError) -> Code {
    match error {
        SubmitError::NoController | SubmitError::Stopping => Code::NotController,
        SubmitError::Timeout(_) | SubmitError::Unreachable(_) => Code::RequestTimedOut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use std::io;
    use std::time::Duration;

    const HINT: LeaderHint = LeaderHint { leader: Some(BrokerId(1)), epoch: LeaderEpoch(4) };

    #[test]
    fn what_a_producer_should_try_again_is_retriable_and_what_it_cannot_mend_is_not() {
        let again = [
            PartitionError::NotLeader(HINT),
            PartitionError::NotHosted,
            PartitionError::FencedEpoch(HINT),
            PartitionError::UnknownEpoch,
            PartitionError::NotEnoughReplicas,
            PartitionError::NotEnoughReplicasAfterAppend,
            PartitionError::OffsetNotAvailable,
            PartitionError::UnknownReplica,
            PartitionError::Append(AppendError::NoRoom),
            PartitionError::Append(AppendError::Disk(io::Error::other("x"))),
            PartitionError::Append(AppendError::Offline),
            PartitionError::Append(AppendError::Invalid(RecordError::BadCrc { stored: 1, computed: 2 })),
            PartitionError::Storage(String::new()),
        ];
        for error in again {
            assert!(partition(&error).is_retriable(), "{error}");
        }
        let never = [
            PartitionError::OutOfRange { asked: Offset(9), start: Offset(0), end: Offset(1) },
            PartitionError::Append(AppendError::TooLarge { size: 2, limit: 1 }),
            PartitionError::Append(AppendError::TimestampOutOfBounds { timestamp_ms: 0 }),
            PartitionError::Append(AppendError::OutOfOrderSequence { producer: ProducerId(1), given: 3, expected: 2 }),
            PartitionError::Append(AppendError::UnknownProducer(ProducerId(1))),
            PartitionError::Append(AppendError::Invalid(RecordError::ControlBatch)),
            PartitionError::Append(AppendError::Invalid(RecordError::UnsupportedMagic(1))),
            PartitionError::Append(AppendError::Invalid(RecordError::UnknownCompression(7))),
        ];
        for error in never {
            assert!(!partition(&error).is_retriable(), "{error}");
        }
    }

    #[test]
    fn the_codes_clients_act_on_have_kafkas_numbers() {
        let fenced = AppendError::InvalidProducerEpoch {
            producer: ProducerId(1),
            given: ProducerEpoch(0),
            current: ProducerEpoch(1),
        };
        for (code, number) in [
            (partition(&PartitionError::NotLeader(HINT)), 6),
            (partition(&PartitionError::FencedEpoch(HINT)), 74),
            (partition(&PartitionError::UnknownEpoch), 75),
            (partition(&PartitionError::NotEnoughReplicas), 19),
            (partition(&PartitionError::NotEnoughReplicasAfterAppend), 20),
            (partition(&PartitionError::OffsetNotAvailable), 78),
            (append(&fenced), 47),
            (append(&AppendError::UnknownProducer(ProducerId(1))), 59),
            (append(&AppendError::NoRoom), 56),
            (record(&RecordError::TooShort(3)), 2),
            (record(&RecordError::Empty), 87),
        ] {
            assert_eq!(code.code(), number);
        }
    }

    #[test]
    fn a_controller_that_is_away_is_worth_another_try() {
        let errors = [
            SubmitError::NoController,
            SubmitError::Stopping,
            SubmitError::Timeout(Duration::from_secs(1)),
            SubmitError::Unreachable(String::new()),
        ];
        assert!(errors.iter().all(|error| submit(error).is_retriable()));
    }

    #[test]
    fn only_errors_about_leadership_name_the_leader() {
        assert_eq!(leader_hint(&PartitionError::FencedEpoch(HINT)), Some(HINT));
        assert_eq!(leader_hint(&PartitionError::UnknownEpoch), None);
        assert!(wants_leader(Code::NotLeaderOrFollower) && !wants_leader(Code::UnknownLeaderEpoch));
    }
}
