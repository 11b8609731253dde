//! The `Events` service: kept history, then what comes, pulled at the reader's pace.
//!
//! Nothing is queued for a reader: the stream is made when its connection has room. A reader that is slower than the
//! node's bounded channel of updates reads on from the kept history, and is told where to resume if that is gone too.

use super::proto::events_server::Events;
use super::proto::{WatchRequest, WatchResponse};
use super::{errors, events};
use crate::ids::RaftIndex;
use crate::metadata::event::{Event, IndexedEvent};
use crate::metadata::quorum::{Quorum, Update};
use futures::Stream;
use futures::stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Request, Response, Status};

/// Bound: each watcher may hold one read of the kept history.
const WATCHERS_MAX: usize = 128;
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct EventsService {
    quorum: Quorum,
    stop: watch::Receiver<bool>,
    places: Arc<Semaphore>,
}

impl EventsService {
    pub fn new(quorum: Quorum, stop: watch::Receiver<bool>) -> EventsService {
        EventsService { quorum, stop, places: Arc::new(Semaphore::new(WATCHERS_MAX)) }
    }
}

#[tonic::async_trait]
impl Events for EventsService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let from = request.into_inner().from_index.map(RaftIndex);
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{WATCHERS_MAX} watchers are served already; resume later or elsewhere"))
        })?;
        // Subscribed before the image and the history are read, so that nothing falls between.
        let updates = self.quorum.subscribe();
        let applied = self.quorum.image().index;
        let mut cursor = Cursor { told: from.unwrap_or(applied), term: (0, false) };
        let mut pending = VecDeque::new();
        if let Some(from) = from {
            let kept = self.quorum.events_since(from).map_err(|gone| errors::of_gone(&gone))?;
            pending.extend(cursor.advance(&kept, applied));
        }
        let leadership = *self.quorum.leadership().borrow();
        cursor.term = cursor.term.max((leadership.term, leadership.leader.is_some()));
        let mut ticks = interval(PROGRESS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let feed = Feed {
            quorum: self.quorum.clone(),
            updates,
            cursor,
            pending,
            ticks,
            stop: self.stop.clone(),
            ended: false,
            _place: place,
        };
        Ok(Response::new(Box::pin(stream::unfold(feed, |mut feed| async move {
            let item = feed.next().await?;
            Some((item, feed))
        }))))
    }
}

/// How far one watcher has been told.
///
/// Invariant: every event of an index ≤ `told` has been told or was not asked for.
#[derive(Debug)]
struct Cursor {
    told: RaftIndex,
    /// The newest term told, and whether with its controller: a node learns of these outside the log, so their indexes
    /// do not order them, and it may learn of a term before it learns who won it.
    term: (u64, bool),
}

impl Cursor {
    /// The messages for `events` that are news here; the node is at `applied` with them.
    fn advance(&mut self, events: &[IndexedEvent], applied: RaftIndex) -> Vec<WatchResponse> {
        let mut told = Vec::new();
        for same in events.chunk_by(|a, b| a.index == b.index) {
            let index = same[0].index;
            let news: Vec<_> = same
                .iter()
                .filter(|indexed| match indexed.event {
                    Event::ControllerElected { term, controller } => {
                        let known = (term, controller.is_some());
                        let newer = known > self.term;
                        self.term = self.term.max(known);
                        newer
                    }
                    _ => index > self.told,
                })
                .map(|indexed| events::event(&indexed.event))
                .collect();
            self.told = self.told.max(index);
            if !news.is_empty() {
                told.extend(events::messages(self.told, news));
            }
        }
        self.told = self.told.max(applied);
        told
    }

    fn take(&mut self, update: &Update) -> Result<Vec<WatchResponse>, Status> {
        if update.resync && update.image.index > self.told {
            return Err(errors::of_resync(update.image.index.0));
        }
        Ok(self.advance(&update.events, update.image.index))
    }
}

/// One watcher's stream.
struct Feed {
    quorum: Quorum,
    updates: broadcast::Receiver<Update>,
    cursor: Cursor,
    pending: VecDeque<WatchResponse>,
    ticks: Interval,
    stop: watch::Receiver<bool>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        if self.ended {
            return None;
        }
        let item = self.message().await;
        self.ended = item.is_err();
        Some(item)
    }

    async fn message(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(message) = self.pending.pop_front() {
                return Ok(message);
            }
            tokio::select! {
                biased;
                () = told_to_stop(&mut self.stop) => {
                    let told = self.cursor.told;
                    return Err(Status::unavailable(format!("this node is stopping; resume from {told} on another")));
                }
                update = self.updates.recv() => match update {
                    Ok(update) => self.pending.extend(self.cursor.take(&update)?),
                    Err(RecvError::Lagged(_)) => self.catch_up()?,
                    Err(RecvError::Closed) => return Err(Status::unavailable("this node's metadata log stopped")),
                },
                _ = self.ticks.tick() => return Ok(events::progress(self.cursor.told)),
            }
        }
    }

    /// Updates were missed: what they told is in the kept history, or gone.
    fn catch_up(&mut self) -> Result<(), Status> {
        let applied = self.quorum.image().index;
        let kept = self.quorum.events_since(self.cursor.told).map_err(|gone| errors::of_slow_watcher(&gone))?;
        self.pending.extend(self.cursor.advance(&kept, applied));
        Ok(())
    }
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BrokerEpoch, BrokerId};
    use crate::metadata::image::Image;

    fn fact(index: u64, broker: i32) -> IndexedEvent {
        let event = Event::BrokerUnfenced { broker: BrokerId(broker), epoch: BrokerEpoch(1) };
        IndexedEvent { index: RaftIndex(index), event }
    }

    fn elected(index: u64, term: u64, controller: Option<i32>) -> IndexedEvent {
        let event = Event::ControllerElected { controller: controller.map(BrokerId), term };
        IndexedEvent { index: RaftIndex(index), event }
    }

    fn indexes(messages: &[WatchResponse]) -> Vec<(u64, usize)> {
        messages.iter().map(|message| (message.index, message.events.len())).collect()
    }

    #[test]
    fn history_and_updates_that_overlap_tell_each_event_once() {
        let mut cursor = Cursor { told: RaftIndex(4), term: (0, false) };
        let history = [fact(5, 1), fact(5, 2), fact(7, 1)];
        assert_eq!(indexes(&cursor.advance(&history, RaftIndex(7))), [(5, 2), (7, 1)]);
        assert_eq!(indexes(&cursor.advance(&[fact(7, 1), fact(8, 1)], RaftIndex(8))), [(8, 1)]);
    }

    #[test]
    fn an_index_without_events_moves_the_place_to_resume() {
        let mut cursor = Cursor { told: RaftIndex(4), term: (0, false) };
        assert!(cursor.advance(&[], RaftIndex(9)).is_empty());
        assert_eq!(cursor.told, RaftIndex(9));
        assert!(cursor.advance(&[], RaftIndex(8)).is_empty());
        assert_eq!(cursor.told, RaftIndex(9), "an older image never moves it back");
    }

    #[test]
    fn a_term_and_who_won_it_are_told_whatever_their_index_but_once() {
        let mut cursor = Cursor { told: RaftIndex(9), term: (3, true) };
        let mut told = |term, controller| cursor.advance(&[elected(9, term, controller)], RaftIndex(9)).len();
        assert_eq!(told(4, None), 1);
        assert_eq!(told(4, Some(1)), 1);
        assert_eq!(told(4, Some(1)), 0);
        assert_eq!(told(4, None), 0);
        assert_eq!(told(3, Some(1)), 0);
    }

    #[test]
    fn a_snapshot_in_place_of_events_ends_the_watch_with_where_to_go_on() {
        let mut cursor = Cursor { told: RaftIndex(4), term: (0, false) };
        let at = |index: u64, resync: bool| Update {
            image: Arc::new(Image { index: RaftIndex(index), ..Image::default() }),
            events: Arc::from([]),
            resync,
        };
        let refused = cursor.take(&at(20, true)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange);
        assert!(refused.message().contains("20"));
        assert!(cursor.take(&at(4, true)).is_ok(), "nothing was missed");
        assert!(cursor.take(&at(20, false)).is_ok());
    }
}
