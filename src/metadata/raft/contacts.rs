//! When each peer was asked what it last answered this leader: openraft 0.9 tells how far a peer's log is, but not when that
//! was heard.

use super::types::RaftNodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contact {
    heard_at: Instant,
    caught_up_at: Option<Instant>,
}

/// How long ago a peer last answered, and last held all of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContactAges {
    pub heard: Option<Duration>,
    pub caught_up: Option<Duration>,
}

/// Written by the calls to peers, read by whoever describes the quorum. Bound: one entry a member, by [`retain`](Self::retain).
#[derive(Debug, Default)]
pub struct Contacts {
    peers: Mutex<BTreeMap<RaftNodeId, Contact>>,
}

impl Contacts {
    /// The peer answered an AppendEntries that was sent at `asked`.
    pub fn heard(&self, peer: RaftNodeId, asked: Instant) {
        let mut peers = self.peers.lock();
        let contact = peers.entry(peer).or_insert(Contact { heard_at: asked, caught_up_at: None });
        contact.heard_at = contact.heard_at.max(asked);
    }

    /// The peer's log was found to end where the leader's does.
    pub fn caught_up(&self, peer: RaftNodeId) {
        if let Some(contact) = self.peers.lock().get_mut(&peer) {
            contact.caught_up_at = Some(contact.heard_at);
        }
    }

    pub fn ages(&self, peer: RaftNodeId, now: Instant) -> ContactAges {
        let contact = self.peers.lock().get(&peer).copied();
        let since = |at: Instant| now.saturating_duration_since(at);
        ContactAges {
            heard: contact.map(|c| since(c.heard_at)),
            caught_up: contact.and_then(|c| c.caught_up_at).map(since),
        }
    }

    /// Forgets who is no member any more.
    pub fn retain(&self, is_member: impl Fn(&RaftNodeId) -> bool) {
        self.peers.lock().retain(|peer, _| is_member(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock;

    #[test]
    fn a_peer_was_last_caught_up_when_it_last_said_so() {
        let (contacts, peer) = (Contacts::default(), RaftNodeId::from(2));
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(contacts.ages(peer, at(0)), ContactAges::default(), "never heard of");
        contacts.caught_up(peer);
        assert_eq!(contacts.ages(peer, at(0)), ContactAges::default(), "what was never heard holds nothing");
        contacts.heard(peer, at(10));
        contacts.caught_up(peer);
        contacts.heard(peer, at(30));
        let ages = contacts.ages(peer, at(50));
        assert_eq!((ages.heard, ages.caught_up), (Some(Duration::from_millis(20)), Some(Duration::from_millis(40))));
        contacts.retain(|_| false);
        assert_eq!(contacts.ages(peer, at(60)), ContactAges::default());
    }
}
