//! The fetch sessions of one kind of fetcher, bounded in number and in partitions.

use super::fetch_session::Session;
use crate::kafka::errors::Code;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of the wire: a fetch outside any session, and the first of a new one.
pub const EPOCH_NONE: i32 = -1;
pub const EPOCH_FIRST: i32 = 0;

/// A client's session unused for so long makes room for a new one; before that, the new one goes without.
const IDLE_BEFORE_EVICTION: Duration = Duration::from_secs(120);

/// `session` is `None` while a request works with it.
struct Slot {
    session: Option<Box<Session>>,
    next_epoch: i32,
    used: Instant,
    partitions: usize,
    by_id: bool,
}

/// Invariant: `partitions` is the sum over the slots.
#[derive(Default)]
struct Slots {
    slots: HashMap<i32, Slot>,
    partitions: usize,
}

pub struct SessionCache {
    slots_max: usize,
    partitions_max: usize,
    idle_before_eviction: Duration,
    inner: Mutex<Slots>,
}

impl SessionCache {
    pub fn of_clients(slots_max: usize, partitions_max: usize) -> Arc<SessionCache> {
        Arc::new(Self {
            slots_max,
            partitions_max,
            idle_before_eviction: IDLE_BEFORE_EVICTION,
            inner: Mutex::default(),
        })
    }

    /// A follower always gets a session: the one unused for longest goes, left behind by a restart.
    pub fn of_replicas(slots_max: usize, partitions_max: usize) -> Arc<SessionCache> {
        Arc::new(Self { slots_max, partitions_max, idle_before_eviction: Duration::ZERO, inner: Mutex::default() })
    }

    /// Takes a session out for one request; it comes back when the answer is dropped. Each epoch is good once.
    pub fn take(self: &Arc<Self>, id: i32, epoch: i32, by_id: bool, now: Instant) -> Result<CheckedOut, Code> {
        let mut inner = self.inner.lock();
        let slot = inner.slots.get_mut(&id).ok_or(Code::FetchSessionIdNotFound)?;
        if slot.by_id != by_id {
            return Err(Code::FetchSessionTopicIdError);
        }
        if slot.next_epoch != epoch {
            return Err(Code::InvalidFetchSessionEpoch);
        }
        // Another request of the session is still at work.
        let session = slot.session.take().ok_or(Code::InvalidFetchSessionEpoch)?;
        slot.next_epoch = next_epoch(epoch);
        slot.used = now;
        Ok(CheckedOut { cache: self.clone(), id, session: Some(session) })
    }

    /// Keeps a new session, if there is room, under an id that `draw` proposes. 0: there is none.
    pub fn insert(&self, session: Box<Session>, by_id: bool, now: Instant, mut draw: impl FnMut() -> i32) -> i32 {
        let partitions = session.len();
        let mut inner = self.inner.lock();
        while inner.slots.len() >= self.slots_max || inner.partitions + partitions > self.partitions_max {
            let oldest = inner.slots.iter().min_by_key(|(_, slot)| slot.used).map(|(id, slot)| (*id, slot.used));
            match oldest {
                Some((id, used)) if now.duration_since(used) >= self.idle_before_eviction => inner.remove(id),
                _ => return 0,
            }
        }
        let id = loop {
            let id = draw();
            if id > 0 && !inner.slots.contains_key(&id) {
                break id;
            }
        };
        inner.partitions += partitions;
        let slot = Slot { session: Some(session), next_epoch: next_epoch(EPOCH_FIRST), used: now, partitions, by_id };
        inner.slots.insert(id, slot);
        id
    }

    /// Ends a session, if it is there.
    pub fn remove(&self, id: i32) {
        self.inner.lock().remove(id);
    }

    fn put_back(&self, id: i32, session: Box<Session>) {
        let mut inner = self.inner.lock();
        let Slots { slots, partitions } = &mut *inner;
        // Ended or evicted meanwhile: then it goes.
        let Some(slot) = slots.get_mut(&id) else { return };
        *partitions = *partitions - slot.partitions + session.len();
        slot.partitions = session.len();
        slot.session = Some(session);
        if *partitions > self.partitions_max {
            inner.remove(id);
        }
    }
}

impl Slots {
    fn remove(&mut self, id: i32) {
        if let Some(slot) = self.slots.remove(&id) {
            self.partitions -= slot.partitions;
        }
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

/// A session at work; dropped, it is back in its cache, even when the request ends early.
pub struct CheckedOut {
    cache: Arc<SessionCache>,
    pub id: i32,
    session: Option<Box<Session>>,
}

impl Deref for CheckedOut {
    type Target = Session;
    fn deref(&self) -> &Session {
        self.session.as_ref().expect("it is there until dropped")
    }
}

impl DerefMut for CheckedOut {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is there until dropped")
    }
}

impl Drop for CheckedOut {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.cache.put_back(self.id, session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fetch_session::{TopicKey, wish};
    use super::*;
    use crate::ids::TopicId;
    use crate::platform::clock;

    fn session(partitions: i32) -> Box<Session> {
        let mut session = Box::new(Session::default());
        for partition in 0..partitions {
            session.put(TopicKey::Id(TopicId::default()), partition, wish(0));
        }
        session
    }

    fn ids(from: i32) -> impl FnMut() -> i32 {
        let mut next = from;
        move || {
            next += 1;
            next - 1
        }
    }

    #[test]
    fn each_epoch_is_good_once() {
        let (cache, now) = (SessionCache::of_clients(10, 100), clock::now());
        let id = cache.insert(session(1), true, now, ids(5));
        assert_eq!(id, 5);
        let out = cache.take(id, 1, true, now).unwrap();
        assert_eq!(cache.take(id, 2, true, now).err(), Some(Code::InvalidFetchSessionEpoch), "still at work");
        drop(out);
        assert_eq!(cache.take(id, 1, true, now).err(), Some(Code::InvalidFetchSessionEpoch));
        assert_eq!(cache.take(id, 2, false, now).err(), Some(Code::FetchSessionTopicIdError));
        assert!(cache.take(id, 2, true, now).is_ok());
        cache.remove(id);
        assert_eq!(cache.take(id, 3, true, now).err(), Some(Code::FetchSessionIdNotFound));
        assert_eq!(next_epoch(i32::MAX), 1, "epoch 0 is kept for new sessions");
    }

    #[test]
    fn a_full_cache_makes_room_only_by_sessions_long_unused() {
        let (cache, start) = (SessionCache::of_clients(2, 100), clock::now());
        let first = cache.insert(session(1), true, start, ids(1));
        let second = cache.insert(session(1), true, start + Duration::from_secs(1), ids(1));
        assert_eq!((first, second), (1, 2), "an id that is taken is not drawn twice");
        assert_eq!(cache.insert(session(1), true, start + Duration::from_secs(60), ids(3)), 0);
        let later = start + IDLE_BEFORE_EVICTION;
        assert_eq!(cache.insert(session(1), true, later, ids(3)), 3);
        assert_eq!(cache.take(first, 1, true, later).err(), Some(Code::FetchSessionIdNotFound), "the oldest went");
        assert!(cache.take(second, 1, true, later).is_ok());
    }

    #[test]
    fn partitions_are_bounded_over_all_sessions() {
        let (cache, now) = (SessionCache::of_clients(10, 10), clock::now());
        let id = cache.insert(session(6), true, now, ids(1));
        assert_eq!(cache.insert(session(5), true, now, ids(2)), 0);
        assert_eq!(cache.insert(session(4), true, now, ids(2)), 2);
        let mut out = cache.take(id, 1, true, now).unwrap();
        out.put(TopicKey::Id(TopicId::default()), 77, wish(0));
        drop(out);
        assert_eq!(cache.take(id, 2, true, now).err(), Some(Code::FetchSessionIdNotFound), "it grew too large");
        assert_eq!(cache.insert(session(6), true, now, ids(3)), 3, "and its room is free again");
    }

    #[test]
    fn a_session_that_ended_while_at_work_does_not_come_back() {
        let (cache, now) = (SessionCache::of_clients(10, 10), clock::now());
        let id = cache.insert(session(6), true, now, ids(1));
        let out = cache.take(id, 1, true, now).unwrap();
        cache.remove(id);
        drop(out);
        assert!(cache.inner.lock().slots.is_empty());
        assert_eq!(cache.inner.lock().partitions, 0);
    }

    #[test]
    fn a_follower_always_gets_a_session() {
        let (cache, now) = (SessionCache::of_replicas(1, 10), clock::now());
        assert_eq!(cache.insert(session(1), true, now, ids(1)), 1);
        assert_eq!(cache.insert(session(1), true, now, ids(2)), 2);
        assert!(cache.take(1, 1, true, now).is_err());
    }
}
