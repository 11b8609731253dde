//! A fetch session (KIP-227): the partitions a fetcher follows, kept so that a fetch names only what changed.
//!
//! ```text
//! named by a request, marked by the watcher ─→ hot ─→ read ─→ empty and watched ─→ cold, until marked or named again
//! ```
//!
//! Only hot partitions are read, so a fetch over thousands of idle ones costs nothing.

use crate::ids::*;
use crate::replica::partition::Partition;
use crate::replica::watcher::Watcher;
use kafka_protocol::messages::TopicName;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// A topic as the request named it: by name up to Fetch 12, by id from 13 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicKey {
    Name(TopicName),
    Id(TopicId),
}

/// What the fetcher wants of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub offset: Offset,
    pub max_bytes: usize,
    pub current_leader_epoch: LeaderEpoch,
    pub last_fetched_epoch: LeaderEpoch,
    pub log_start: Offset,
    /// A follower says that what it was sent from here before was damaged.
    pub refused: bool,
    /// A follower fills damage from this offset on.
    pub fills: bool,
}

/// What the fetcher was last told besides records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub high_watermark: Offset,
    pub last_stable: Offset,
    pub log_start: Offset,
}

#[derive(Debug)]
pub struct Entry {
    pub topic: TopicKey,
    pub partition: i32,
    pub wish: Wish,
    pub sent: Option<Sent>,
    /// The partition that marks this entry's token; dangling while none does.
    pub watched: Weak<Partition>,
    /// Its place in the order of reading.
    place: u64,
}

/// Invariants: `tokens` and `entries` name each other; `hot` is ordered by place and holds only entries that exist; no
/// two entries share a place.
#[derive(Default)]
pub struct Session {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    tokens: HashMap<(TopicKey, i32), u32>,
    hot: BTreeMap<u64, u32>,
    next_place: u64,
    /// Made when the session first subscribes.
    pub watcher: Option<Arc<Watcher>>,
    /// When all partitions were last made hot.
    pub swept: Option<Instant>,
}

impl Session {
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Adds a partition, or changes what is wanted of it. It is hot either way.
    pub fn put(&mut self, topic: TopicKey, partition: i32, wish: Wish) -> u32 {
        if let Some(&token) = self.tokens.get(&(topic.clone(), partition)) {
            self.entry_mut(token).expect("tokens name entries").wish = wish;
            self.heat(token);
            return token;
        }
        let place = self.new_place();
        let entry = Entry { topic: topic.clone(), partition, wish, sent: None, watched: Weak::new(), place };
        let token = match self.free.pop() {
            Some(token) => token,
            None => {
                self.entries.push(None);
                u32::try_from(self.entries.len() - 1).expect("a request is too small to name so many partitions")
            }
        };
        self.entries[token as usize] = Some(entry);
        self.tokens.insert((topic, partition), token);
        self.hot.insert(place, token);
        token
    }

    /// Takes a partition out of the session.
    pub fn forget(&mut self, topic: &TopicKey, partition: i32) -> Option<Entry> {
        let token = self.tokens.remove(&(topic.clone(), partition))?;
        let entry = self.entries[token as usize].take()?;
        self.hot.remove(&entry.place);
        self.free.push(token);
        Some(entry)
    }

    pub fn entry(&self, token: u32) -> Option<&Entry> {
        self.entries.get(token as usize)?.as_ref()
    }

    pub fn entry_mut(&mut self, token: u32) -> Option<&mut Entry> {
        self.entries.get_mut(token as usize)?.as_mut()
    }

    /// The token is to be read. One that names nothing any more (a late mark) is passed over.
    pub fn heat(&mut self, token: u32) {
        if let Some(place) = self.entry(token).map(|entry| entry.place) {
            self.hot.insert(place, token);
        }
    }

    pub fn heat_all(&mut self) {
        let all = (0u32..).zip(&self.entries).filter_map(|(token, entry)| Some((entry.as_ref()?.place, token)));
        self.hot = all.collect();
    }

    pub fn cool(&mut self, token: u32) {
        if let Some(place) = self.entry(token).map(|entry| entry.place) {
            self.hot.remove(&place);
        }
    }

    /// Others come first next time: one busy partition must not starve the rest.
    pub fn to_back(&mut self, token: u32) {
        let place = self.new_place();
        let Some(entry) = self.entry_mut(token) else { return };
        let old = std::mem::replace(&mut entry.place, place);
        if self.hot.remove(&old).is_some() {
            self.hot.insert(place, token);
        }
    }

    /// What is to be read, in order.
    pub fn hot(&self) -> Vec<u32> {
        self.hot.values().copied().collect()
    }

    /// The order of reading of a token.
    pub fn place(&self, token: u32) -> Option<u64> {
        self.entry(token).map(|entry| entry.place)
    }

    fn new_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }
}

#[cfg(test)]
pub(super) fn wish(offset: i64) -> Wish {
    Wish {
        offset: Offset(offset),
        max_bytes: 1_000,
        current_leader_epoch: LeaderEpoch::NONE,
        last_fetched_epoch: LeaderEpoch::NONE,
        refused: false,
        fills: false,
        log_start: Offset(-1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing::{OFFSETS, ORDERS};

    const A: TopicKey = TopicKey::Id(ORDERS);
    const B: TopicKey = TopicKey::Id(OFFSETS);

    #[test]
    fn partitions_are_read_when_named_or_marked_and_rest_when_cold() {
        let mut session = Session::default();
        let (a, b) = (session.put(A, 0, wish(1)), session.put(B, 0, wish(1)));
        assert_eq!(session.hot(), [a, b]);
        session.cool(a);
        session.cool(b);
        assert!(session.hot().is_empty());
        session.heat(b);
        session.heat(99);
        assert_eq!(session.hot(), [b]);
        assert_eq!(session.put(A, 0, wish(5)), a, "named again it keeps its token");
        assert_eq!(session.hot(), [a, b]);
        assert_eq!(session.entry(a).unwrap().wish.offset, Offset(5));
    }

    #[test]
    fn who_had_data_goes_to_the_back() {
        let mut session = Session::default();
        let tokens = [0, 1, 2].map(|partition| session.put(A, partition, wish(0)));
        session.to_back(tokens[0]);
        assert_eq!(session.hot(), [tokens[1], tokens[2], tokens[0]]);
        session.cool(tokens[1]);
        session.to_back(tokens[1]);
        assert_eq!(session.hot(), [tokens[2], tokens[0]], "moving does not heat");
        session.heat_all();
        assert_eq!(session.hot(), [tokens[2], tokens[0], tokens[1]]);
    }

    #[test]
    fn a_forgotten_partition_leaves_nothing_and_its_token_serves_again() {
        let mut session = Session::default();
        let a = session.put(A, 0, wish(0));
        assert!(session.forget(&A, 0).is_some() && session.forget(&A, 0).is_none());
        assert!(session.is_empty() && session.hot().is_empty());
        session.heat(a);
        assert!(session.hot().is_empty(), "a late mark is passed over");
        assert_eq!(session.put(B, 3, wish(0)), a);
        assert_eq!((session.len(), session.hot()), (1, vec![a]));
    }
}
