//! Leaders this node has just lost contact with, and brokers that were fenced lately.
//!
//! When a leader's process dies, its clients' connections break in the same moment as its followers'. The clients ask
//! another broker at once who leads now, some milliseconds before the controller has fenced the dead one, and many ask
//! again only much later. A broker that lost the same leader knows that its answer is about to change.
//!
//! Nor should an answer leave a broker out as soon as it is fenced: librdkafka (2.12 and later) then tears its handle down,
//! with all that is in flight on it, while it moves that broker's partitions to their new leaders. Partitions that lose this
//! race have no leader until its next refresh, up to `topic.metadata.refresh.interval.ms` later; what was in flight is sent
//! again as if it had never been. A consumer that has just asked such a broker for the end of an epoch may lock up for good
//! (librdkafka's issue 5476). So it stays listed as long as Kafka would list a dead one: by then its partitions have moved.
//! Not longer, for a client may choose any that is listed, and not each tries another one when nobody answers.
//!
//! Producers alone are not told of a broker that went silent (paused, or cut off). Its connections did not break, so they
//! would wait out their timeouts for what is in flight; that it is left out is what makes them send it to the new leader.

use crate::ids::{BrokerId, RaftIndex};
use crate::metadata::image::Image;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A fence takes some 20 ms, and an election of the controller before it as long; then the broker was not dead.
const DOUBT: Duration = Duration::from_millis(150);

/// Kafka's default `broker.session.timeout.ms`: there a dead broker is fenced, and left out, after it.
const LISTED: Duration = Duration::from_secs(9);

/// Bound: the registered brokers.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    lost: Mutex<BTreeMap<BrokerId, Instant>>,
    seen: Mutex<Seen>,
}

/// Of the images so far: who was alive in the last one, when each that was and is fenced now was first seen to be, and who of
/// them is known to have only gone silent.
#[derive(Debug, Default)]
struct Seen {
    /// Of that image.
    index: RaftIndex,
    alive: BTreeSet<BrokerId>,
    fenced: BTreeMap<BrokerId, Instant>,
    silent: BTreeSet<BrokerId>,
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
        lost.retain(|_, at| *at + DOUBT > now);
        let alive = lost.iter().filter(|(broker, _)| image.is_alive(**broker));
        alive.map(|(_, at)| *at + DOUBT).max()
    }

    /// Looks at who is fenced now and was not. Every image is shown, so that the time counts from the fence and not from the
    /// first request. `expired`: whose session expired on the way to this image.
    pub fn show(&self, image: &Image, expired: &BTreeSet<BrokerId>, now: Instant) {
        let mut seen = self.seen.lock();
        // A request may have looked at the image before this one was shown.
        if image.index < seen.index {
            return;
        }
        seen.index = image.index;
        let Seen { alive, fenced, silent, .. } = &mut *seen;
        let is_fenced = |broker: &BrokerId| image.brokers.get(broker).is_some_and(|b| b.fenced);
        fenced.retain(|broker, _| is_fenced(broker));
        fenced.extend(alive.iter().filter(|broker| is_fenced(broker)).map(|broker| (*broker, now)));
        silent.extend(expired);
        silent.retain(is_fenced);
        let live = || image.brokers.iter().filter(|(_, b)| !b.fenced).map(|(broker, _)| *broker);
        // Clients ask often, and seldom has anything changed.
        if !alive.iter().copied().eq(live()) {
            *alive = live().collect();
        }
    }

    /// Brokers to list, to a producer or another client, though they are fenced in `image`. That may be newer than the last
    /// one shown: why they were fenced is then heard with that.
    pub fn lately_fenced(&self, image: &Image, to_producer: bool, now: Instant) -> BTreeSet<BrokerId> {
        self.show(image, &BTreeSet::new(), now);
        let seen = self.seen.lock();
        let lately = seen.fenced.iter().filter(|(_, at)| **at + LISTED > now).map(|(broker, _)| *broker);
        lately.filter(|broker| !(to_producer && seen.silent.contains(broker))).collect()
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
        contacts.lost(BrokerId(3), now + DOUBT);
        contacts.regained(BrokerId(3));
        assert_eq!(contacts.in_doubt(&image, now + DOUBT), None);
    }

    fn without_two(image: &Image) -> Image {
        let mut image = image.clone();
        image.brokers.get_mut(&BrokerId(2)).unwrap().fenced = true;
        image
    }

    #[test]
    fn a_dead_broker_stays_listed_for_a_while() {
        let (image, now) = (testing::image(1, &[1, 2, 3], 1, 1, None), clock::now());
        let (fenced, nobody) = (without_two(&image), BTreeSet::new());
        let (contacts, almost) = (Contacts::default(), now + LISTED - Duration::from_millis(1));
        let two = BTreeSet::from([BrokerId(2)]);
        assert_eq!(contacts.lately_fenced(&fenced, true, now), nobody, "dead since before this node began");
        assert_eq!(contacts.lately_fenced(&image, false, now), nobody);
        assert_eq!(contacts.lately_fenced(&fenced, true, now), two, "an image that was not shown yet");
        assert_eq!(contacts.lately_fenced(&fenced, true, almost), two);
        assert_eq!(contacts.lately_fenced(&fenced, true, now + LISTED), nobody);
        // Back, and fenced anew.
        contacts.show(&image, &nobody, now + LISTED);
        contacts.show(&fenced, &nobody, now + 2 * LISTED);
        assert_eq!(contacts.lately_fenced(&fenced, true, almost + 2 * LISTED), two);
    }

    #[test]
    fn producers_are_not_told_of_a_silent_broker() {
        let (image, now) = (testing::image(1, &[1, 2, 3], 1, 1, None), clock::now());
        let (fenced, nobody, two) = (without_two(&image), BTreeSet::new(), BTreeSet::from([BrokerId(2)]));
        let contacts = Contacts::default();
        let listed = |to_producer| contacts.lately_fenced(&fenced, to_producer, now);
        contacts.show(&image, &nobody, now);
        contacts.show(&fenced, &two, now);
        assert_eq!((listed(true), listed(false)), (nobody.clone(), two.clone()));
        // A request still holds the image before.
        let newer = Image { index: RaftIndex(fenced.index.0 + 1), ..fenced.clone() };
        contacts.show(&newer, &nobody, now);
        contacts.show(&image, &nobody, now);
        assert_eq!((listed(true), listed(false)), (nobody.clone(), two.clone()));
        let contacts = Contacts::default();
        let listed = |to_producer| contacts.lately_fenced(&fenced, to_producer, now);
        // A request came before the reason was heard.
        contacts.show(&image, &nobody, now);
        assert_eq!(listed(true), two);
        contacts.show(&fenced, &two, now);
        assert_eq!((listed(true), listed(false)), (nobody.clone(), two.clone()));
        // Awake again, and dead.
        contacts.show(&image, &nobody, now);
        contacts.show(&fenced, &nobody, now);
        assert_eq!(listed(true), two);
    }
}
