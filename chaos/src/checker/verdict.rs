//! What can be wrong, and the whole judgement.

use super::{group, owners, polls, values};
use crate::history::History;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Acked with acks=all, not there at the end, though the log goes on above its offset.
    LostWrite,
    /// Acked with acks=all at an offset the log at the end does not reach.
    UnseenWrite,
    /// A value of a producer that promises each once is at two offsets.
    Duplicate,
    /// Two values at one offset, or an acked value elsewhere than the ack said.
    InconsistentOffset,
    /// A reader went back.
    NonMonotonicPoll,
    /// A reader jumped over offsets, each of which holds a record.
    SkippedPoll,
    /// Acked values of one producer are not in the order of its sends.
    NonMonotonicSend,
    /// A reader saw an offset that the final high watermark does not reach.
    AboveHighWatermark,
    /// Read, but never sent.
    Phantom,
    /// Read, but not the bytes that were sent.
    Corrupt,
    /// A reader was told that its position is not in the log.
    PositionLost,
    /// A producer that is idempotent and patient was given an error.
    ProducerFailed,
    /// A commit that was answered is gone: the group would start before it.
    CommitLost,
    /// Below the group's committed offset, but no member read it.
    CommitUnread,
    /// Two members owned a partition at once, and the first had not been expelled.
    TwoOwners,
    /// A member began below an offset that had been committed before it was given the partition.
    WentBack,
    /// A commit was taken from a member after the group had given the partition to another.
    ZombieCommit,
    /// A member did not poll for long, and the group did not go on without it.
    HungOwner,
    /// A part of the log below the high watermark could not be read at the end.
    Unreadable,
    /// The batches of an idempotent producer in a log do not follow one another.
    BrokenSequence,
    /// Replicas differ below the high watermark.
    ReplicasDiffer,
    /// Two nodes have different metadata at the same Raft index.
    ImagesDiffer,
    /// Not writable, or not in sync, in time after everything was healed.
    TooSlow,
    /// A node ended by itself.
    NodeEnded,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::LostWrite => "lost write",
            Kind::UnseenWrite => "unseen write",
            Kind::Duplicate => "duplicate",
            Kind::InconsistentOffset => "inconsistent offset",
            Kind::NonMonotonicPoll => "non-monotonic poll",
            Kind::SkippedPoll => "skipped poll",
            Kind::NonMonotonicSend => "non-monotonic send",
            Kind::AboveHighWatermark => "read above the high watermark",
            Kind::Phantom => "phantom",
            Kind::Corrupt => "corrupt",
            Kind::PositionLost => "position lost",
            Kind::ProducerFailed => "producer failed",
            Kind::CommitLost => "commit lost",
            Kind::CommitUnread => "committed unread",
            Kind::TwoOwners => "two owners",
            Kind::WentBack => "position went back",
            Kind::ZombieCommit => "zombie commit",
            Kind::HungOwner => "hung owner",
            Kind::Unreadable => "unreadable",
            Kind::BrokenSequence => "broken sequence",
            Kind::ReplicasDiffer => "replicas differ",
            Kind::ImagesDiffer => "images differ",
            Kind::TooSlow => "too slow",
            Kind::NodeEnded => "node ended",
        }
    }

    /// Shown by records, commits or metadata. The others a busy machine shows, too, so that they prove no deliberate bug.
    pub fn is_in_the_data(self) -> bool {
        !matches!(self, Kind::TooSlow | Kind::NodeEnded | Kind::Unreadable | Kind::HungOwner | Kind::ProducerFailed)
    }
}

/// `evidence` is the smallest piece of history that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    pub kind: Kind,
    pub evidence: String,
}

impl Anomaly {
    pub fn new(kind: Kind, evidence: impl Into<String>) -> Anomaly {
        Anomaly { kind, evidence: evidence.into() }
    }
}

/// Figures that are no anomalies by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acked: usize,
    pub unknown: usize,
    pub failed: usize,
    /// Of unknown outcome, and there.
    pub unknown_kept: usize,
    pub read: usize,
    /// Values of producers that do not promise otherwise that are there twice: their retries.
    pub retried_twice: usize,
    /// Acked with acks=1 and gone: allowed.
    pub acks_one_lost: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Sorted by kind.
    pub anomalies: Vec<Anomaly>,
    pub counts: Counts,
}

impl Verdict {
    /// A deliberate bug must be seen in what it did to the data; a run without one must be free of everything.
    pub fn is_as_expected(&self, has_bug: bool) -> bool {
        match has_bug {
            true => self.anomalies.iter().any(|anomaly| anomaly.kind.is_in_the_data()),
            false => self.anomalies.is_empty(),
        }
    }
}

pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    values::check(history, &mut verdict);
    polls::check(history, &mut verdict);
    group::check(history, &mut verdict);
    owners::check(history, &mut verdict);
    verdict.anomalies.sort_by_key(|anomaly| anomaly.kind);
    verdict
}
