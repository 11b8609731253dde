//! The kept history of events, for Watch: resumable from a Raft index, bounded.

use super::event::IndexedEvent;
use crate::ids::RaftIndex;

/// The index asked for is older than what is kept.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("events before index {oldest} are gone; resume from {oldest}")]
pub struct HistoryGone {
    pub oldest: RaftIndex,
}

/// Bound: the newest 16,384 events.
#[derive(Default)]
pub struct History {}

impl History {
    pub fn since(&self, index: RaftIndex) -> Result<Vec<IndexedEvent>, HistoryGone> {
        let _ = index;
        todo!()
    }
}
