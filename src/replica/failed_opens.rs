//! Logs that could not be opened: what is done about each, and when. Pure.
//!
//! A full disk or too many open files pass: those logs are opened again, and what this broker leads meanwhile is handed to
//! whoever can serve it. Any other error is final for this process, since a recovery whose sync failed would believe the
//! page cache the second time (replication.md, rule 19): then the controller is told that this copy is out, as one that is
//! damaged.

use crate::ids::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Doubled each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const REPORT_PAUSE_MAX: Duration = Duration::from_secs(60);
/// As long at most is a log that could be opened again not served.
const OPEN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is due for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Handed over, too, if this broker is to lead it.
    Open,
    /// Told as long as the image relies on this copy.
    Report,
}

struct Failed {
    due: Due,
    at: Instant,
    turns: u32,
}

/// Bound: the partitions assigned here.
#[derive(Default)]
pub(super) struct FailedOpens(BTreeMap<TopicPartition, Failed>);

impl FailedOpens {
    /// Gives how many turns it had before.
    pub fn note(&mut self, id: TopicPartition, is_passing: bool, now: Instant) -> u32 {
        let due = if is_passing { Due::Open } else { Due::Report };
        let first = if is_passing { now + PAUSE_MIN } else { now };
        let failed = self.0.entry(id).or_insert(Failed { due, at: first, turns: 0 });
        if failed.due != due {
            *failed = Failed { due, at: first, turns: 0 };
        }
        // An attempt may take longer than the pause after it.
        failed.at = failed.at.max(first);
        failed.turns
    }

    /// It failed before, so that nobody waits for what comes of the next attempt.
    pub fn contains(&self, id: TopicPartition) -> bool {
        self.0.contains_key(&id)
    }

    /// It is open, or not wanted here any more. True: it was one of these.
    pub fn forget(&mut self, id: TopicPartition) -> bool {
        self.0.remove(&id).is_some()
    }

    /// The image says something new of it. True: it is not to be opened again.
    pub fn is_final(&mut self, id: TopicPartition, now: Instant) -> bool {
        let failed = self.0.get_mut(&id).filter(|failed| failed.due == Due::Report);
        failed.is_some_and(|failed| {
            failed.at = now;
            true
        })
    }

    pub fn ids(&self) -> impl Iterator<Item = TopicPartition> {
        self.0.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|failed| failed.at).min()
    }

    /// What is due now; each has its next turn after a longer pause.
    pub fn take_due(&mut self, now: Instant) -> Vec<(TopicPartition, Due)> {
        let due = self.0.iter_mut().filter(|(_, failed)| failed.at <= now);
        due.map(|(id, failed)| {
            failed.turns = failed.turns.saturating_add(1);
            let most = if failed.due == Due::Open { OPEN_PAUSE_MAX } else { REPORT_PAUSE_MAX };
            failed.at = now + (PAUSE_MIN * 2u32.saturating_pow(failed.turns.min(8))).min(most);
            (*id, failed.due)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock;
    use uuid::Uuid;

    #[test]
    fn what_passes_is_opened_again_and_what_is_final_is_reported() {
        let id = |partition| TopicPartition::new(TopicId(Uuid::from_u128(1)), partition);
        let (mut failed, start) = (FailedOpens::default(), clock::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(failed.next(), None);
        assert_eq!(failed.note(id(0), true, start), 0);
        assert_eq!(failed.note(id(1), false, start), 0);
        assert_eq!(failed.take_due(start), [(id(1), Due::Report)]);
        assert_eq!(failed.next(), Some(at(1)));
        assert_eq!(failed.take_due(at(1)), [(id(0), Due::Open)]);
        assert_eq!(failed.note(id(0), true, at(1)), 1);
        assert_eq!(failed.take_due(at(2)), [(id(1), Due::Report)], "pauses grow");
        assert_eq!(failed.take_due(at(3)), [(id(0), Due::Open)]);
        // The image changed.
        assert!(!failed.is_final(id(0), at(3)));
        assert!(failed.is_final(id(1), at(3)));
        assert_eq!(failed.take_due(at(3)), [(id(1), Due::Report)]);
        // A long attempt has its pause, too.
        assert_eq!(failed.note(id(3), true, at(3)), 0);
        assert_eq!(failed.take_due(at(4)), [(id(3), Due::Open)]);
        assert_eq!(failed.note(id(3), true, at(30)), 1);
        assert!(failed.contains(id(3)) && !failed.take_due(at(30)).contains(&(id(3), Due::Open)));
        assert!(failed.take_due(at(31)).contains(&(id(3), Due::Open)));
        assert!(failed.forget(id(3)) && !failed.contains(id(3)));
        // The disk gave up meanwhile.
        assert_eq!(failed.note(id(0), false, at(3)), 0);
        assert_eq!(failed.take_due(at(3)), [(id(0), Due::Report)]);
        assert_eq!(failed.note(id(2), true, start), 0);
        let tried = (1..=60).filter(|seconds| !failed.take_due(at(*seconds)).iter().all(|(due, _)| *due != id(2)));
        assert!(tried.count() > 60 / 5, "opened soon after there is room");
        assert!(failed.forget(id(2)));
        assert!(failed.forget(id(0)) && failed.forget(id(1)) && !failed.forget(id(1)));
        assert_eq!((failed.len(), failed.next()), (0, None));
    }
}
