//! A response on its way out.

use super::budget::Lease;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::IoSlice;

/// One whole response frame, length first, in as many pieces as it was made of: records are not copied together.
#[derive(Debug, Default)]
pub struct Reply {
    pub segments: VecDeque<Bytes>,
    /// Given back when the last byte is with the kernel.
    pub held: Option<Lease>,
}

impl Reply {
    pub fn of(frame: Bytes) -> Reply {
        Reply { segments: VecDeque::from([frame]), held: None }
    }

    pub fn len(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Replies of one connection that wait to be written, in order.
///
/// Invariants: no empty segment and no reply without a segment is kept; `bytes` is the sum of all.
#[derive(Debug, Default)]
pub struct Outbox {
    replies: VecDeque<Reply>,
    bytes: usize,
}

impl Outbox {
    pub fn push(&mut self, mut reply: Reply) {
        reply.segments.retain(|segment| !segment.is_empty());
        if !reply.segments.is_empty() {
            self.bytes += reply.len();
            self.replies.push_back(reply);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Replies not yet wholly written.
    pub fn count(&self) -> usize {
        self.replies.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The front of what is to be written; returns how many slices were filled.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.replies.iter().flat_map(|reply| &reply.segments);
        slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    /// `count` more bytes were written.
    pub fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "more bytes written than were there");
        self.bytes -= count;
        while count > 0 {
            let reply = self.replies.front_mut().expect("bytes is the sum of the replies");
            let segment = reply.segments.front_mut().expect("no reply is without a segment");
            let step = count.min(segment.len());
            segment.advance(step);
            count -= step;
            if segment.is_empty() {
                reply.segments.pop_front();
            }
            if reply.segments.is_empty() {
                self.replies.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_partial_writes_give_the_bytes_in_order(
            replies in proptest::collection::vec(proptest::collection::vec(0usize..9, 0..4), 0..6),
            steps in proptest::collection::vec(1usize..7, 1..100),
        ) {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for sizes in &replies {
                let mut reply = Reply::default();
                for size in sizes {
                    let bytes: Vec<u8> = (0..*size).map(|i| (expected.len() + i) as u8).collect();
                    expected.extend_from_slice(&bytes);
                    reply.segments.push_back(Bytes::from(bytes));
                }
                outbox.push(reply);
            }
            prop_assert_eq!(outbox.bytes(), expected.len());
            let mut written = Vec::new();
            for step in steps.iter().cycle() {
                if outbox.is_empty() {
                    break;
                }
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = outbox.fill(&mut slices);
                let front: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                let count = (*step).min(front.len());
                written.extend_from_slice(&front[..count]);
                outbox.advance(count);
            }
            prop_assert_eq!(written, expected);
            prop_assert_eq!(outbox.bytes(), 0);
        }
    }
}
