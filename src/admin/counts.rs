//! How often things happened in the cluster since this node looks: events of committed commands, counted as they come.

use crate::ids::RaftIndex;
use crate::metadata::command::{ElectionReason, FenceReason};
use crate::metadata::event::{Event, IndexedEvent};
use crate::metadata::quorum::Quorum;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

/// By reason, in the words of `telemetry::metrics`.
pub type ByReason = BTreeMap<&'static str, u64>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub elections: ByReason,
    pub fencings: ByReason,
    pub isr_shrinks: u64,
    pub isr_expands: u64,
}

/// Cheap to clone; all clones are the same counts.
#[derive(Clone, Default)]
pub struct Counts {
    inner: Arc<Mutex<Inner>>,
}

/// Invariant: what happened up to `through` is counted, or was before the counting began, and is not counted again.
#[derive(Default)]
struct Inner {
    through: RaftIndex,
    totals: Totals,
}

impl Counts {
    pub fn totals(&self) -> Totals {
        self.inner.lock().totals.clone()
    }

    fn begin_after(&self, index: RaftIndex) {
        self.inner.lock().through = index;
    }

    fn through(&self) -> RaftIndex {
        self.inner.lock().through
    }

    /// `events` are all there were between some index already counted and `index`.
    fn take(&self, events: &[IndexedEvent], index: RaftIndex) {
        let mut inner = self.inner.lock();
        let new = inner.through;
        events.iter().filter(|event| event.index > new).for_each(|event| inner.totals.count(&event.event));
        inner.through = new.max(index);
    }
}

impl Totals {
    fn count(&mut self, event: &Event) {
        match event {
            Event::LeaderElected { reason, .. } => *self.elections.entry(election(*reason)).or_default() += 1,
            Event::BrokerFenced { reason, .. } => *self.fencings.entry(fencing(*reason)).or_default() += 1,
            // One change may be both; one of the ELR alone is neither.
            Event::IsrChanged { old, new, .. } => {
                self.isr_shrinks += u64::from(old.iter().any(|broker| !new.contains(broker)));
                self.isr_expands += u64::from(new.iter().any(|broker| !old.contains(broker)));
            }
            _ => {}
        }
    }
}

fn election(reason: ElectionReason) -> &'static str {
    match reason {
        ElectionReason::Created => "created",
        ElectionReason::Fenced(_) => "fenced",
        ElectionReason::Shutdown => "shutdown",
        ElectionReason::Preferred => "preferred",
        ElectionReason::Returned => "returned",
        ElectionReason::Unclean => "unclean",
        ElectionReason::Reassigned => "reassigned",
        ElectionReason::Drained => "drained",
        ElectionReason::Damaged => "damaged",
        ElectionReason::Durability => "durability",
    }
}

fn fencing(reason: FenceReason) -> &'static str {
    match reason {
        FenceReason::SessionExpired => "session_expired",
        FenceReason::ConnectionLost => "connection_lost",
        FenceReason::Shutdown => "shutdown",
        FenceReason::Restarted => "restarted",
    }
}

/// Counts until told to stop. Asleep while no metadata changes.
pub async fn follow(quorum: Quorum, counts: Counts, mut stop: watch::Receiver<bool>) {
    let mut updates = quorum.subscribe();
    counts.begin_after(quorum.image().index);
    loop {
        let update = tokio::select! {
            // A sender that is gone tells to stop as well.
            _ = stop.wait_for(|stop| *stop) => return,
            update = updates.recv() => update,
        };
        match update {
            Ok(update) => counts.take(&update.events, update.image.index),
            // The updates that were missed are in the history; those still waiting are in it too, and then known.
            Err(RecvError::Lagged(_)) => {
                let index = quorum.image().index;
                let missed = quorum.events_since(counts.through());
                let missed = missed.or_else(|gone| quorum.events_since(gone.oldest)).unwrap_or_default();
                let until = missed.partition_point(|event| event.index <= index);
                counts.take(&missed[..until], index);
            }
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use crate::telemetry::metrics::{BROKER_FENCINGS, LEADER_ELECTIONS, Metric};

    fn at(index: u64, event: Event) -> IndexedEvent {
        IndexedEvent { index: RaftIndex(index), event }
    }

    fn elected(reason: ElectionReason) -> Event {
        let partition = TopicPartition::new(TopicId::default(), 0);
        Event::LeaderElected { partition, topic: "t".into(), old: None, new: None, epoch: LeaderEpoch(1), reason }
    }

    fn isr(old: &[i32], new: &[i32]) -> Event {
        let ids = |brokers: &[i32]| brokers.iter().copied().map(BrokerId).collect();
        Event::IsrChanged {
            partition: TopicPartition::new(TopicId::default(), 0),
            topic: "t".into(),
            old: ids(old),
            new: ids(new),
            elr: vec![],
            epoch: PartitionEpoch(1),
        }
    }

    #[test]
    fn events_are_counted_once_whether_they_come_as_updates_or_from_the_history() {
        let counts = Counts::default();
        counts.begin_after(RaftIndex(5));
        let fenced =
            Event::BrokerFenced { broker: BrokerId(1), epoch: BrokerEpoch(1), reason: FenceReason::ConnectionLost };
        let seven = [
            at(7, fenced),
            at(7, elected(ElectionReason::Fenced(FenceReason::ConnectionLost))),
            at(7, elected(ElectionReason::Fenced(FenceReason::ConnectionLost))),
        ];
        counts.take(&[at(5, elected(ElectionReason::Created))], RaftIndex(5));
        counts.take(&seven, RaftIndex(7));
        counts.take(&seven, RaftIndex(7));
        // A controller is told of at the next index, before what that index brings.
        counts.take(&[at(8, Event::ControllerElected { controller: None, term: 2 })], RaftIndex(7));
        counts.take(&[at(8, elected(ElectionReason::Unclean))], RaftIndex(8));
        let totals = counts.totals();
        assert_eq!(totals.elections, ByReason::from([("fenced", 2), ("unclean", 1)]));
        assert_eq!(totals.fencings, ByReason::from([("connection_lost", 1)]));
    }

    #[test]
    fn an_isr_shrinks_expands_does_both_or_neither() {
        let mut totals = Totals::default();
        let mut change = |old: &[i32], new: &[i32]| {
            totals.count(&isr(old, new));
            (totals.isr_shrinks, totals.isr_expands)
        };
        assert_eq!(change(&[1, 2, 3], &[1, 3]), (1, 0));
        assert_eq!(change(&[1, 3], &[1, 2, 3]), (1, 1));
        assert_eq!(change(&[1, 2], &[2, 3]), (2, 2), "a move that is complete");
        assert_eq!(change(&[2, 3], &[2, 3]), (2, 2), "confirmed, or a change of the ELR");
    }

    /// A reason without a line on the page would be counted and never told.
    #[test]
    fn every_reason_has_its_line() {
        use ElectionReason::*;
        let any = FenceReason::Shutdown;
        let elections =
            [Created, Fenced(any), Shutdown, Preferred, Returned, Unclean, Reassigned, Drained, Damaged, Durability]
                .map(election);
        let fences =
            [FenceReason::SessionExpired, FenceReason::ConnectionLost, FenceReason::Shutdown, FenceReason::Restarted];
        let listed = |metric: &Metric| metric.label.as_ref().unwrap().values.to_vec();
        let sorted = |mut reasons: Vec<&'static str>| {
            reasons.sort_unstable();
            reasons
        };
        assert_eq!(sorted(elections.to_vec()), listed(&LEADER_ELECTIONS));
        assert_eq!(sorted(fences.map(fencing).to_vec()), listed(&BROKER_FENCINGS));
    }
}
