//! When a group must be looked at: one ordered set of deadlines and one task for all groups of this broker.
//!
//! A group has at most one entry, its earliest deadline. A heartbeat only moves deadlines back, so it leaves the
//! entry alone: the group is looked at too early once, and asks for its true deadline then. A group with nothing to
//! wait for has no entry and costs nothing.

use super::machine::Millis;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A group that is due: its offsets partition and its name.
pub type Due = (i32, String);

#[derive(Default)]
struct State {
    deadlines: BTreeSet<(Millis, i32, String)>,
    closed: bool,
}

pub struct Timers {
    state: Mutex<State>,
    earlier: Notify,
    /// Deadlines count milliseconds from here.
    started: Instant,
}

impl Timers {
    pub fn new() -> Arc<Timers> {
        Arc::new(Timers { state: Mutex::default(), earlier: Notify::new(), started: crate::platform::clock::now() })
    }

    pub fn now(&self) -> Millis {
        u64::try_from(crate::platform::clock::now().duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    pub fn schedule(&self, at: Millis, partition: i32, group: &str) {
        let mut state = self.state.lock();
        let is_first = state.deadlines.first().is_none_or(|(first, ..)| at < *first);
        state.deadlines.insert((at, partition, group.to_string()));
        drop(state);
        if is_first {
            self.earlier.notify_one();
        }
    }

    pub fn cancel(&self, at: Millis, partition: i32, group: &str) {
        self.state.lock().deadlines.remove(&(at, partition, group.to_string()));
    }

    #[cfg(test)]
    pub fn holds(&self, at: Millis, partition: i32, group: &str) -> bool {
        self.state.lock().deadlines.contains(&(at, partition, group.to_string()))
    }

    /// Ends the task.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.earlier.notify_one();
    }

    /// The groups that are due, and the next deadline after them.
    fn take_due(&self, now: Millis) -> (Vec<Due>, Option<Millis>) {
        let mut state = self.state.lock();
        let mut due = Vec::new();
        while state.deadlines.first().is_some_and(|(at, ..)| *at <= now) {
            if let Some((_, partition, group)) = state.deadlines.pop_first() {
                due.push((partition, group));
            }
        }
        (due, state.deadlines.first().map(|(at, ..)| *at))
    }

    /// Calls `look` for each group that is due, until closed.
    pub async fn run(self: Arc<Self>, look: impl Fn(Due) + Send) {
        loop {
            let (due, next) = self.take_due(self.now());
            if self.state.lock().closed {
                return;
            }
            let was_idle = due.is_empty();
            due.into_iter().for_each(&look);
            if !was_idle {
                continue;
            }
            match next {
                None => self.earlier.notified().await,
                Some(at) => {
                    // Deadlines are whole milliseconds: one more makes sure that the next look finds it due.
                    let wait = Duration::from_millis(at.saturating_sub(self.now()) + 1);
                    let _woken_or_due = tokio::time::timeout(wait, self.earlier.notified()).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[test]
    fn due_groups_come_in_order_and_once() {
        let timers = Timers::new();
        timers.schedule(30, 1, "late");
        timers.schedule(10, 2, "early");
        timers.schedule(20, 2, "gone");
        timers.cancel(20, 2, "gone");
        assert_eq!(timers.take_due(9), (vec![], Some(10)));
        assert_eq!(timers.take_due(29), (vec![(2, "early".to_string())], Some(30)));
        assert_eq!(timers.take_due(30), (vec![(1, "late".to_string())], None));
        assert_eq!(timers.take_due(100), (vec![], None));
    }

    #[tokio::test]
    async fn an_earlier_deadline_wakes_the_task_and_close_ends_it() {
        let timers = Timers::new();
        let (sender, mut looked) = mpsc::unbounded_channel();
        let task = tokio::spawn(timers.clone().run(move |due| {
            let _ = sender.send(due);
        }));
        timers.schedule(timers.now() + 3_600_000, 0, "far");
        tokio::task::yield_now().await;
        timers.schedule(timers.now() + 1, 7, "near");
        assert_eq!(looked.recv().await, Some((7, "near".to_string())));
        timers.close();
        task.await.expect("the task ends");
    }
}
