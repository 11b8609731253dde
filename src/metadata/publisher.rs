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

/// Invariant: the image, the history and the updates sent move together, under the history's lock; so a subscriber that
/// subscribes first and takes the image next misses nothing.
pub struct Publisher {
    image: ArcSwap<Image>,
    history: Mutex<History>,
    updates: broadcast::Sender<Update>,
    applied: watch::Sender<RaftIndex>,
}

impl Publisher {
    pub fn new() -> Publisher {
        Publisher {
            image: ArcSwap::from_pointee(Image::default()),
            history: Mutex::new(History::default()),
            updates: broadcast::Sender::new(UPDATES_MAX),
            applied: watch::Sender::new(RaftIndex(0)),
        }
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
