//! The one place where the house's errors become gRPC statuses.

use crate::group::coordinator::GroupError;
use crate::metadata::command::MetadataError;
use crate::metadata::history::HistoryGone;
use crate::metadata::intent::{IntentError, SubmitError};
use crate::metadata::voters::VoterError;
use tonic::{Code, Status};

/// No answer to the intent as a whole. The codes keep "nothing happened" apart from "nobody knows".
pub fn of_submit(error: &SubmitError) -> Status {
    let code = match error {
        SubmitError::NoController | SubmitError::Stopping => Code::Unavailable,
        SubmitError::Timeout(_) => Code::DeadlineExceeded,
        SubmitError::Unreachable(_) => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

/// The controller refused the item.
pub fn of_intent(error: &IntentError) -> Status {
    let code = match error {
        IntentError::Metadata(error) => code_of_metadata(error),
        IntentError::InvalidTopicName(_)
        | IntentError::InvalidPartitions(_)
        | IntentError::InvalidReplicationFactor(_)
        | IntentError::InvalidReplicaAssignment(_)
        | IntentError::InvalidConfig(_)
        | IntentError::InvalidRequest(_) => Code::InvalidArgument,
        IntentError::ElectionNotNeeded
        | IntentError::PreferredLeaderNotAvailable(_)
        | IntentError::EligibleLeadersNotAvailable(_)
        | IntentError::NotRemovable(_) => Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}

/// A group's coordinator refused, or is not there.
pub fn of_group(error: &GroupError) -> Status {
    let code = match error {
        GroupError::NotCoordinator | GroupError::Loading | GroupError::NotAvailable => Code::Unavailable,
        GroupError::GroupNotFound => Code::NotFound,
        GroupError::InvalidGroupId | GroupError::OffsetMetadataTooLarge | GroupError::UnknownTopicOrPartition => {
            Code::InvalidArgument
        }
        _ => Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}

/// The controller did not change the voters.
pub fn of_voter(error: &VoterError) -> Status {
    let code = match error {
        VoterError::AlreadyVotes(_) | VoterError::VotesWithOtherFolder { .. } => Code::AlreadyExists,
        VoterError::NotAVoter(_) | VoterError::NotAMember(_) => Code::NotFound,
        VoterError::Unreachable(_) | VoterError::NotCaughtUp { .. } | VoterError::InProgress => Code::Aborted,
        VoterError::Unknown => Code::DeadlineExceeded,
        VoterError::OtherDirectory { .. }
        | VoterError::LastVoter(_)
        | VoterError::WouldLoseMajority { .. }
        | VoterError::NoMajority { .. }
        | VoterError::NoNewFolder(_)
        | VoterError::NotLost(_)
        | VoterError::Refused(_) => Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}

fn code_of_metadata(error: &MetadataError) -> Code {
    match error {
        MetadataError::TopicExists(_) => Code::AlreadyExists,
        MetadataError::UnknownTopic | MetadataError::UnknownPartition | MetadataError::UnknownBroker(_) => {
            Code::NotFound
        }
        MetadataError::PartitionCountChanged
        | MetadataError::StaleBrokerEpoch { .. }
        | MetadataError::StaleLeaderEpoch { .. }
        | MetadataError::StalePartitionEpoch { .. }
        | MetadataError::StaleGroup => Code::Aborted,
        MetadataError::DuplicateBroker(_)
        | MetadataError::NotLeader(_)
        | MetadataError::IneligibleReplica(_)
        | MetadataError::IneligibleLeader(_)
        | MetadataError::NoOtherReplica(_) => Code::FailedPrecondition,
        MetadataError::Invalid(_) => Code::InvalidArgument,
        MetadataError::NoReassignment | MetadataError::InvalidAssignment(_) => Code::FailedPrecondition,
    }
}

/// The watcher asked for events that are no longer kept.
pub fn of_gone(gone: &HistoryGone) -> Status {
    Status::out_of_range(format!("{gone}; describe the cluster for what changed before that"))
}

/// The watcher read so slowly that what it missed is no longer kept.
pub fn of_slow_watcher(gone: &HistoryGone) -> Status {
    Status::resource_exhausted(format!("this watcher read too slowly: {gone}"))
}

/// A snapshot took the place of the events after `last`; `index` is where the image is now.
pub fn of_resync(index: u64) -> Status {
    Status::out_of_range(format!(
        "this node caught up by a snapshot, so the events up to index {index} are not here; resume from {index}, \
         or on another node"
    ))
}

pub fn no_topic(name: &str) -> Status {
    Status::not_found(format!("there is no topic '{name}'"))
}

/// An answer of a kind that the intent cannot have.
pub fn of_mismatch() -> Status {
    Status::internal("the controller's answer does not fit the question; see the node's log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_may_have_happened_is_never_told_as_retry() {
        assert_eq!(of_submit(&SubmitError::NoController).code(), Code::Unavailable);
        assert_eq!(of_submit(&SubmitError::Timeout(Duration::from_secs(1))).code(), Code::DeadlineExceeded);
        assert_eq!(of_submit(&SubmitError::Unreachable("reset".into())).code(), Code::Unknown);
    }

    #[test]
    fn refusals_keep_their_meaning_and_their_words() {
        let taken = of_intent(&MetadataError::TopicExists("orders".into()).into());
        assert_eq!(taken.code(), Code::AlreadyExists);
        assert!(taken.message().contains("orders"));
        assert_eq!(of_intent(&IntentError::InvalidConfig("no".into())).code(), Code::InvalidArgument);
        assert_eq!(of_intent(&MetadataError::PartitionCountChanged.into()).code(), Code::Aborted);
    }
}
