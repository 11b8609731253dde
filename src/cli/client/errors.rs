//! What to do about a Kafka error code.

use crate::wire::error_code::ErrorCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// The leader is elsewhere, or not there yet.
    AskMetadata,
    /// Passes by itself.
    Retry,
    /// The offset is not, or no longer, in the log.
    OutOfRange,
    Final,
}

pub fn verdict(code: i16) -> Verdict {
    use ErrorCode::*;
    match ErrorCode::from_code(code) {
        // A duplicate is a batch that an earlier try placed already.
        Some(None | DuplicateSequenceNumber) => Verdict::Done,
        Some(OffsetOutOfRange) => Verdict::OutOfRange,
        Some(
            UnknownTopicOrPartition
            | UnknownTopicId
            | LeaderNotAvailable
            | NotLeaderOrFollower
            | BrokerNotAvailable
            | ReplicaNotAvailable
            | NetworkException
            | KafkaStorageError
            | FencedLeaderEpoch
            | UnknownLeaderEpoch
            | OffsetNotAvailable,
        ) => Verdict::AskMetadata,
        Some(
            RequestTimedOut
            | CoordinatorLoadInProgress
            | CoordinatorNotAvailable
            | NotEnoughReplicas
            | NotEnoughReplicasAfterAppend
            | ThrottlingQuotaExceeded,
        ) => Verdict::Retry,
        _ => Verdict::Final,
    }
}

/// A code by its name.
pub fn words(code: i16) -> String {
    ErrorCode::from_code(code).map_or_else(|| format!("error {code}"), |known| known.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_that_was_placed_is_done_and_a_gap_is_final() {
        assert_eq!(verdict(0), Verdict::Done);
        assert_eq!(verdict(46), Verdict::Done, "duplicate sequence number");
        assert_eq!(verdict(45), Verdict::Final, "out of order sequence number");
        assert_eq!(verdict(6), Verdict::AskMetadata, "not leader");
        assert_eq!(verdict(20), Verdict::Retry, "not enough replicas after append");
        assert_eq!(verdict(10), Verdict::Final, "message too large");
        assert_eq!(verdict(9_999), Verdict::Final);
        assert_eq!((words(6), words(9_999)), ("NOT_LEADER_OR_FOLLOWER".into(), "error 9999".into()));
    }
}
