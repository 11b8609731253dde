//! Leaders this node has just lost contact with.
//!
//! When a leader's process dies, its clients' connections break in the same moment as its followers'. The clients ask
//! another broker at once who leads now, some milliseconds before the controller has fenced the dead one, and many ask
//! again only much later. A broker that lost the same leader knows that its answer is about to change.
//!
//! Nor should the first answer leave the dead broker out: librdkafka (2.12 and later) then tears its handle down while it
//! moves that broker's partitions to their new leaders, and partitions that lose this race have no leader until its next
//! refresh, up to `topic.metadata.refresh.interval.ms` later. So it is listed for a moment longer.

use crate::ids::BrokerId;
use crate::metadata::image::Image;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A fence takes some 20 ms, and an election of the controller before it as long; then the broker was not dead.
const DOUBT: Duration = Duration::from_millis(150);

/// A client that is told of new leaders has moved its partitions by then.
const LISTED: Duration = Duration::from_secs(2);

/// Bound: the brokers this node follows.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    lost: Mutex<BTreeMap<BrokerId, Instant>>,
}

impl Contacts {
    /// An established connection to this leader broke.
    pub fn lost(&self, leader: BrokerId, now: Instant) {
        self.lost.lock().insert(leader, now);
    }

    pub fn regained(&self, leader: BrokerId) {
        self.lost.lock().remove(&leader);
    }

    /// Until when what the image says of leaders is in doubt: contact with a broker that is not fenced broke just now.
    pub fn in_doubt(&self, image: &Image, now: Instant) -> Option<Instant> {
        let mut lost = self.lost.lock();
        lost.retain(|_, at| *at + LISTED > now);
        let alive = lost.iter().filter(|(broker, at)| **at + DOUBT > now && image.is_alive(**broker));
        alive.map(|(_, at)| *at + DOUBT).max()
    }

    /// Brokers to list though they are fenced: contact broke a moment ago.
    pub fn lately_lost(&self, now: Instant) -> BTreeSet<BrokerId> {
        self.lost.lock().iter().filter(|(_, at)| **at + LISTED > now).map(|(broker, _)| *broker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::platform::clock;

    #[test]
    fn a_lost_leader_is_in_doubt_until_it_is_fenced_or_time_has_passed() {
        let (image, now) = (testing::image(1, &[1, 2, 3], 1, 1, None), clock::now());
        let contacts = Contacts::default();
        assert_eq!(contacts.in_doubt(&image, now), None);
        contacts.lost(BrokerId(2), now);
        assert_eq!(contacts.in_doubt(&image, now), Some(now + DOUBT));
        let mut fenced = image.clone();
        fenced.brokers.get_mut(&BrokerId(2)).unwrap().fenced = true;
        assert_eq!(contacts.in_doubt(&fenced, now), None);
        assert_eq!(contacts.in_doubt(&image, now + DOUBT), None);
        assert_eq!(contacts.lately_lost(now + DOUBT), BTreeSet::from([BrokerId(2)]), "listed a little longer");
        assert_eq!(contacts.lately_lost(now + LISTED), BTreeSet::new());
        contacts.lost(BrokerId(3), now + DOUBT);
        contacts.regained(BrokerId(3));
        assert_eq!(contacts.in_doubt(&image, now + DOUBT), None);
    }
}
