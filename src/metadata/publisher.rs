//! Where each new image is shown to the rest of the node, with the events that led to it.

use super::event::{Event, IndexedEvent};
use super::history::{History, HistoryGone};
use super::image::Image;
use super::quorum::Update;
use crate::ids::RaftIndex;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// Bound of what a slow subscriber may fall behind by before it must compare with the whole image.
const UPDATES_MAX: usize = 1_024;
/// Entries between two hashes of the image: one takes as long as writing the image out.
const HASHED_EVERY: u64 = 1_000;

/// Invariant: the image, the history and the updates sent move together, under the history's lock; so a subscriber that
/// subscribes first and takes the image next misses nothing.
pub struct Publisher {
    image: ArcSwap<Image>,
    history: Mutex<History>,
    updates: broadcast::Sender<Update>,
    applied: watch::Sender<RaftIndex>,
    /// By index; the same on every node (invariant 5).
    newest_hash: Mutex<Option<(RaftIndex, u64)>>,
}

impl Publisher {
    pub fn new() -> Publisher {
        Publisher {
            image: ArcSwap::from_pointee(Image::default()),
            history: Mutex::new(History::default()),
            updates: broadcast::Sender::new(UPDATES_MAX),
            applied: watch::Sender::new(RaftIndex(0)),
            newest_hash: Mutex::default(),
        }
    }

    /// Called with the image after each entry: at every [`HASHED_EVERY`]th its hash is taken, beside whatever goes on.
    pub fn hash_in_turn(self: &Arc<Self>, image: &Image) {
        if image.index.0 > 0 && image.index.0.is_multiple_of(HASHED_EVERY) {
            let (own, image) = (self.clone(), image.clone());
            tokio::task::spawn_blocking(move || own.keep_hash(image.index, image.hash()));
        }
    }

    fn keep_hash(&self, index: RaftIndex, hash: u64) {
        let mut newest = self.newest_hash.lock();
        if newest.is_none_or(|(known, _)| known < index) {
            *newest = Some((index, hash));
        }
    }

    /// The newest hash taken, and its index.
    pub fn newest_hash(&self) -> Option<(RaftIndex, u64)> {
        *self.newest_hash.lock()
    }

    pub fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Update> {
        self.updates.subscribe()
    }

    pub fn applied(&self) -> watch::Receiver<RaftIndex> {
        self.applied.subscribe()
    }

    pub fn events_since(&self, index: RaftIndex) -> Result<Vec<IndexedEvent>, HistoryGone> {
        self.history.lock().since(index)
    }

    /// An image that `events` led to from the one before.
    pub fn advance(&self, image: Image, events: Vec<IndexedEvent>) {
        let mut history = self.history.lock();
        events.iter().for_each(|event| history.push(event.clone()));
        self.show(Arc::new(image), events, false);
    }

    /// An image from a snapshot: what led to it is not known.
    pub fn replace(&self, image: Image) {
        let mut history = self.history.lock();
        history.restart_at(image.index);
        self.show(Arc::new(image), Vec::new(), true);
    }

    /// Something that no command caused, such as a new controller. Recorded before whatever comes next, at the next index:
    /// a reader that resumes from the newest index it saw then gets it, perhaps twice, but never misses it.
    pub fn record(&self, event: Event) {
        let mut history = self.history.lock();
        let image = self.image.load_full();
        let event = IndexedEvent { index: RaftIndex(image.index.0 + 1), event };
        history.push(event.clone());
        self.show(image, vec![event], false);
    }

    /// The caller holds the history's lock.
    fn show(&self, image: Arc<Image>, events: Vec<IndexedEvent>, resync: bool) {
        self.image.store(image.clone());
        self.applied.send_replace(image.index);
        // Nobody listening is no failure.
        let _ = self.updates.send(Update { image, events: events.into(), resync });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::Command;

    fn image(entries: u64, odd: bool) -> Image {
        let mut image = Image::default();
        for index in 1..=entries {
            image.apply(RaftIndex(index), &Command::FinalizeFeature { name: "f".into(), level: (index % 7) as i16 });
        }
        if odd {
            image.next_producer_id += 1;
        }
        image
    }

    #[tokio::test]
    async fn an_image_that_went_another_way_is_noticed() {
        let hashed = |image: Image| async move {
            let publisher = Arc::new(Publisher::new());
            publisher.hash_in_turn(&image);
            publisher.hash_in_turn(&Image { index: RaftIndex(1_001), ..image.clone() });
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
            while publisher.newest_hash().is_none() {
                assert!(tokio::time::Instant::now() < deadline, "no hash was taken");
                tokio::task::yield_now().await;
            }
            publisher
        };
        let (ours, same, other) =
            (hashed(image(1_000, false)).await, hashed(image(1_000, false)).await, hashed(image(1_000, true)).await);
        let (index, hash) = same.newest_hash().unwrap();
        assert_eq!(index, RaftIndex(1_000), "every thousandth");
        assert_eq!(ours.newest_hash(), Some((index, hash)));
        let (index, hash) = other.newest_hash().unwrap();
        assert_ne!(ours.newest_hash(), Some((index, hash)));
    }

    #[tokio::test]
    async fn nothing_is_hashed_before_there_is_anything() {
        let publisher = Arc::new(Publisher::new());
        publisher.hash_in_turn(&Image::default());
        tokio::task::yield_now().await;
        assert_eq!(publisher.newest_hash(), None, "index 0 stands for no hash");
    }

    #[test]
    fn the_newest_hash_stays() {
        let publisher = Publisher::new();
        [1_000, 3_000, 2_000].into_iter().for_each(|index| publisher.keep_hash(RaftIndex(index), index));
        assert_eq!(publisher.newest_hash(), Some((RaftIndex(3_000), 3_000)));
    }
}
