//! Replies to acks=all that wait for the high watermark.

use super::partition::PartitionError;
use crate::ids::Offset;
use std::collections::VecDeque;
use tokio::sync::oneshot;

pub(super) type ReplySender = oneshot::Sender<Result<(), PartitionError>>;
pub(super) type ReplyReceiver = oneshot::Receiver<Result<(), PartitionError>>;

struct Waiting {
    /// The high watermark must reach this.
    required: Offset,
    reply: ReplySender,
}

/// Invariant: ordered by `required`. Bound: the requests in flight that connections allow.
#[derive(Default)]
pub(super) struct Parked {
    waiting: VecDeque<Waiting>,
}

/// An idle partition keeps no large queue.
const KEPT_CAPACITY: usize = 64;

impl Parked {
    pub fn park(&mut self, required: Offset) -> ReplyReceiver {
        let (reply, receiver) = oneshot::channel();
        // An append comes last; only a retry of an earlier batch is sorted in.
        let at = match self.waiting.back() {
            Some(last) if last.required > required => self.waiting.partition_point(|w| w.required <= required),
            _ => self.waiting.len(),
        };
        self.waiting.insert(at, Waiting { required, reply });
        receiver
    }

    /// The replies that the high watermark has reached; to be sent outside the lock.
    pub fn release(&mut self, high_watermark: Offset) -> Vec<ReplySender> {
        if self.waiting.front().is_none_or(|first| first.required > high_watermark) {
            return Vec::new();
        }
        let reached = self.waiting.partition_point(|w| w.required <= high_watermark);
        let released = self.waiting.drain(..reached).map(|w| w.reply).collect();
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT_CAPACITY {
            self.waiting = VecDeque::new();
        }
        released
    }

    /// All of them: they will never be answered well here.
    pub fn take_all(&mut self) -> Vec<ReplySender> {
        std::mem::take(&mut self.waiting).into_iter().map(|w| w.reply).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_as_the_high_watermark_passes_them() {
        let mut parked = Parked::default();
        let mut ten = parked.park(Offset(10));
        let mut twenty = parked.park(Offset(20));
        // A retry of the first batch comes after the second.
        let mut again = parked.park(Offset(10));
        assert!(parked.release(Offset(9)).is_empty());
        let released = parked.release(Offset(19));
        assert_eq!(released.len(), 2);
        released.into_iter().for_each(|reply| reply.send(Ok(())).unwrap());
        assert!(ten.try_recv().unwrap().is_ok());
        assert!(again.try_recv().unwrap().is_ok());
        assert!(twenty.try_recv().is_err(), "not yet");
        parked.take_all().into_iter().for_each(|r| r.send(Err(PartitionError::NotHosted)).unwrap());
        assert!(matches!(twenty.try_recv().unwrap(), Err(PartitionError::NotHosted)));
    }
}
