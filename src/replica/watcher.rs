//! How a parked fetch learns which of its partitions changed: marks, and one wake-up.
//!
//! A fetch session subscribes once to each partition and keeps its watcher; a change marks a token and wakes the
//! session, so a fetch over thousands of idle partitions costs nothing.
//!
//! No wake-up is lost if the reader takes the marks *before* it reads the partitions: a change after the read marks
//! again.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// What happened to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The log grew.
    Data,
    HighWatermark,
    /// Leadership, epoch, or the partition is gone.
    Epoch,
}

/// Who waits: appends concern followers only, and to them a mere move of the high watermark can wait a little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Audience {
    #[default]
    Everything,
    Consumer,
}

/// Invariant: `hard` counts the tokens marked hard. Bound: one mark a token, one token a partition of the session.
#[derive(Default)]
struct Marks {
    tokens: HashMap<u32, bool>,
    hard: usize,
}

#[derive(Default)]
pub struct Watcher {
    audience: Audience,
    marks: Mutex<Marks>,
    changed: Notify,
}

impl Watcher {
    /// Sees everything: appends and epochs as hard marks, moves of the high watermark as soft ones.
    pub fn new() -> Arc<Watcher> {
        Arc::new(Watcher::default())
    }

    /// For a consumer's fetch: it is not woken by appends, which it may not read yet; all its marks are hard.
    pub fn of_consumer() -> Arc<Watcher> {
        Arc::new(Watcher { audience: Audience::Consumer, ..Watcher::default() })
    }

    /// Called by partitions. Cheap, never blocks; marking twice is marking once.
    pub fn mark(&self, token: u32) {
        self.put(token, true);
    }

    /// As [`mark`](Watcher::mark), for what can wait a few milliseconds: does not wake [`marked_hard`](Watcher::marked_hard).
    pub fn mark_soft(&self, token: u32) {
        self.put(token, false);
    }

    fn put(&self, token: u32, hard: bool) {
        let wake = {
            let mut marks = self.marks.lock();
            let first = marks.tokens.is_empty();
            let known = marks.tokens.entry(token).or_insert(false);
            let hardens = hard && !*known;
            *known |= hard;
            marks.hard += usize::from(hardens);
            // Whoever waits saw no mark, or no hard one: only these two steps concern them.
            first || (hardens && marks.hard == 1)
        };
        if wake {
            self.changed.notify_waiters();
        }
    }

    /// Takes the marked tokens.
    pub fn take(&self) -> Vec<u32> {
        let mut marks = self.marks.lock();
        marks.hard = 0;
        marks.tokens.drain().map(|(token, _)| token).collect()
    }

    /// Waits until something is marked.
    pub async fn marked(&self) {
        self.wait(|marks| !marks.tokens.is_empty()).await;
    }

    /// Waits until something is marked hard.
    pub async fn marked_hard(&self) {
        self.wait(|marks| marks.hard > 0).await;
    }

    async fn wait(&self, enough: impl Fn(&Marks) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Enrolled before the look, so that a mark in between wakes us.
            changed.as_mut().enable();
            if enough(&self.marks.lock()) {
                return;
            }
            changed.await;
        }
    }
}

/// The watchers of one partition. Bound: one a fetch session; those that were dropped are swept as the list grows.
#[derive(Default)]
pub(super) struct Watchers {
    list: Vec<(Weak<Watcher>, u32)>,
    swept_at: usize,
}

impl Watchers {
    pub fn add(&mut self, watcher: &Arc<Watcher>, token: u32) {
        if let Some(known) = self.list.iter_mut().find(|(known, _)| known.as_ptr() == Arc::as_ptr(watcher)) {
            known.1 = token;
            return;
        }
        if self.list.len() >= self.swept_at.max(4) {
            self.list.retain(|(known, _)| known.strong_count() > 0);
            self.swept_at = self.list.len() * 2;
        }
        self.list.push((Arc::downgrade(watcher), token));
    }

    pub fn remove(&mut self, watcher: &Arc<Watcher>) {
        self.list.retain(|(known, _)| known.strong_count() > 0 && known.as_ptr() != Arc::as_ptr(watcher));
        if self.list.is_empty() {
            *self = Watchers::default();
        }
    }

    pub fn tell(&self, change: Change) {
        for (watcher, token) in &self.list {
            let Some(watcher) = watcher.upgrade() else { continue };
            match (change, watcher.audience) {
                (Change::Data, Audience::Consumer) => {}
                (Change::HighWatermark, Audience::Everything) => watcher.mark_soft(*token),
                (Change::Data | Change::HighWatermark | Change::Epoch, _) => watcher.mark(*token),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn marking_twice_is_marking_once() {
        let watcher = Watcher::new();
        watcher.mark(3);
        watcher.mark_soft(3);
        watcher.mark(3);
        assert_eq!(watcher.take(), vec![3]);
        assert!(watcher.take().is_empty());
        assert!(watcher.marked().now_or_never().is_none(), "taking leaves nothing to wait for");
    }

    #[test]
    fn a_soft_mark_does_not_wake_who_waits_for_hard_ones() {
        let watcher = Watcher::new();
        let mut hard = Box::pin(watcher.marked_hard());
        let mut any = Box::pin(watcher.marked());
        assert!(hard.as_mut().now_or_never().is_none());
        assert!(any.as_mut().now_or_never().is_none());
        watcher.mark_soft(1);
        assert!(any.as_mut().now_or_never().is_some());
        assert!(hard.as_mut().now_or_never().is_none());
        watcher.mark(1);
        assert!(hard.as_mut().now_or_never().is_some(), "a soft mark that hardens wakes");
    }

    #[test]
    fn an_append_concerns_followers_and_a_high_watermark_consumers() {
        let (follower, consumer) = (Watcher::new(), Watcher::of_consumer());
        let mut watchers = Watchers::default();
        watchers.add(&follower, 1);
        watchers.add(&consumer, 2);
        watchers.tell(Change::Data);
        assert!(follower.marked_hard().now_or_never().is_some());
        assert!(consumer.take().is_empty());
        follower.take();
        watchers.tell(Change::HighWatermark);
        assert!(follower.marked_hard().now_or_never().is_none());
        assert_eq!(follower.take(), vec![1]);
        assert!(consumer.marked_hard().now_or_never().is_some());
        watchers.remove(&consumer);
        consumer.take();
        watchers.tell(Change::Epoch);
        assert!(consumer.take().is_empty());
        assert_eq!(follower.take(), vec![1]);
    }

    #[test]
    fn dropped_watchers_are_swept() {
        let mut watchers = Watchers::default();
        for token in 0..1_000 {
            watchers.add(&Watcher::new(), token);
        }
        assert!(watchers.list.len() <= 8, "{} kept", watchers.list.len());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost() {
        const ROUNDS: u32 = 20_000;
        let watcher = Watcher::new();
        let marker = {
            let watcher = watcher.clone();
            tokio::task::spawn_blocking(move || (0..ROUNDS).for_each(|token| watcher.mark(token)))
        };
        let mut seen = 0;
        while seen < ROUNDS {
            tokio::time::timeout(std::time::Duration::from_secs(10), watcher.marked()).await.expect("a mark wakes");
            seen += u32::try_from(watcher.take().len()).unwrap();
        }
        marker.await.unwrap();
        assert_eq!(seen, ROUNDS);
    }
}
