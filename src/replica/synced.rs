//! One flush of a log at a time, and waiting for the flush of several.
//!
//! Group commit stays what it is: what is appended while a flush is under way shares the next one, which is queued as soon
//! as this one ends.

use super::partition::Partition;
use crate::log::flush::Flusher;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Dropped when the flush that it waits for has ended.
pub(super) type Waiter = mpsc::Sender<()>;

/// A log's flushes. Invariant: at most one is under way, see [`crate::log::flush::Flushable`].
#[derive(Debug, Default)]
pub(super) struct Flushing {
    under_way: bool,
    /// One was asked for meanwhile.
    again: bool,
    /// For the next flush. Bound: one a round of this log's fetcher.
    waiting: Vec<Waiter>,
    /// For the one under way.
    served: Vec<Waiter>,
}

impl Flushing {
    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    pub fn wait(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// False: one is under way, and the next is asked for.
    pub fn may_begin(&mut self) -> bool {
        self.again |= self.under_way;
        !self.under_way
    }

    /// `has_task`: there is something to flush. Answers who need not wait.
    #[must_use = "dropped once no lock is held"]
    pub fn begin(&mut self, has_task: bool) -> Vec<Waiter> {
        assert!(!self.under_way, "one flush of a log at a time");
        self.under_way = has_task;
        let waiting = std::mem::take(&mut self.waiting);
        if has_task {
            self.served = waiting;
            return Vec::new();
        }
        waiting
    }

    /// Whether the next was asked for, and who waited for this one.
    #[must_use = "dropped once no lock is held"]
    pub fn end(&mut self) -> (bool, Vec<Waiter>) {
        self.under_way = false;
        (std::mem::take(&mut self.again), std::mem::take(&mut self.served))
    }

    /// There is no next flush: the flusher has stopped.
    #[must_use = "dropped once no lock is held"]
    pub fn give_up(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.waiting)
    }
}

/// Hands each log to the flusher, which syncs them in parallel, and returns when it is through with all that they hold
/// now. How it went shows in the logs' durable ends.
pub(super) async fn sync_all(flusher: &Flusher, partitions: Vec<Arc<Partition>>) {
    // Nothing is sent: the channel closes with the last of its senders.
    let (open, mut closed) = mpsc::channel::<()>(1);
    for partition in partitions {
        partition.state.lock().flushing.wait(open.clone());
        if !flusher.enqueue(partition.clone()) {
            partition.no_flush_follows();
        }
    }
    drop(open);
    let _ = closed.recv().await;
}
