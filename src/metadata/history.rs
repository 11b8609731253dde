//! The kept history of events, for Watch: resumable from a Raft index, bounded.

use super::event::IndexedEvent;
use crate::ids::RaftIndex;
use std::collections::VecDeque;

/// Bound of what is kept.
pub const EVENTS_MAX: usize = 16_384;

/// The index asked for is older than what is kept.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("events before index {oldest} are gone; resume from {oldest}")]
pub struct HistoryGone {
    pub oldest: RaftIndex,
}

/// The newest [`EVENTS_MAX`] events.
///
/// Invariant: `events` is ordered by index, and every event after `complete_from` is in it.
#[derive(Default)]
pub struct History {
    events: VecDeque<IndexedEvent>,
    complete_from: RaftIndex,
}

impl History {
    /// Events after `index`.
    pub fn since(&self, index: RaftIndex) -> Result<Vec<IndexedEvent>, HistoryGone> {
        if index < self.complete_from {
            return Err(HistoryGone { oldest: self.complete_from });
        }
        let first = self.events.partition_point(|event| event.index <= index);
        Ok(self.events.range(first..).cloned().collect())
    }

    pub(super) fn push(&mut self, event: IndexedEvent) {
        if self.events.len() == EVENTS_MAX
            && let Some(gone) = self.events.pop_front()
        {
            self.complete_from = self.complete_from.max(gone.index);
        }
        self.events.push_back(event);
    }

    /// Starts anew after a snapshot: what led to it is not known event by event.
    pub(super) fn restart_at(&mut self, index: RaftIndex) {
        self.events.clear();
        self.complete_from = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::event::Event;

    fn event(index: u64) -> IndexedEvent {
        let event = Event::FeatureFinalized { name: index.to_string(), level: 0 };
        IndexedEvent { index: RaftIndex(index), event }
    }

    #[test]
    fn resumes_after_an_index() {
        let mut history = History::default();
        for index in [3, 3, 5] {
            history.push(event(index));
        }
        assert_eq!(history.since(RaftIndex(0)).map(|e| e.len()), Ok(3));
        assert_eq!(history.since(RaftIndex(3)), Ok(vec![event(5)]));
        assert_eq!(history.since(RaftIndex(9)), Ok(vec![]));
    }

    #[test]
    fn says_what_is_gone() {
        let mut history = History::default();
        let count = EVENTS_MAX as u64;
        (1..=count + 10).for_each(|index| history.push(event(index)));
        assert_eq!(history.since(RaftIndex(9)), Err(HistoryGone { oldest: RaftIndex(10) }));
        assert_eq!(history.since(RaftIndex(10)).map(|e| e.len()), Ok(EVENTS_MAX));

        history.restart_at(RaftIndex(count + 50));
        assert_eq!(history.since(RaftIndex(count)), Err(HistoryGone { oldest: RaftIndex(count + 50) }));
        assert_eq!(history.since(RaftIndex(count + 50)), Ok(vec![]));
    }
}
