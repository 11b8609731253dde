//! What a leader knows of each other replica, and of a proposal under way.

use crate::ids::*;
use crate::metadata::command::IsrProposal;
use std::time::{Duration, Instant};

/// The brokers as this node's image and its fetch handler know them.
pub(super) trait Peers {
    /// The epoch of a broker's registration.
    fn registered(&self, broker: BrokerId) -> Option<BrokerEpoch>;
    /// The same, of one that may join an ISR: neither fenced nor shutting down.
    fn active(&self, broker: BrokerId) -> Option<BrokerEpoch>;
    /// When its newest fetch came, whatever it was about: fetch sessions do not mention unchanged partitions.
    fn last_seen(&self, broker: BrokerId) -> Option<Instant>;
}

/// One follower, as its fetches in this leader epoch told.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub broker: BrokerId,
    /// The broker epoch of the newest fetch.
    pub broker_epoch: Option<BrokerEpoch>,
    /// What it holds durably: its fetch offset. `None` before its first agreeing fetch in this leader epoch.
    pub end: Option<Offset>,
    pub log_start: Offset,
    /// The newest fetch; before the first, when leadership began.
    pub fetched_at: Instant,
    /// The leader's log end at that fetch.
    leader_end: Offset,
    /// When it last held all that there was.
    caught_up_at: Instant,
}

impl Progress {
    pub fn new(broker: BrokerId, now: Instant) -> Progress {
        Progress {
            broker,
            broker_epoch: None,
            end: None,
            log_start: Offset::ZERO,
            fetched_at: now,
            leader_end: Offset(i64::MAX),
            caught_up_at: now,
        }
    }

    pub fn on_fetch(&mut self, epoch: BrokerEpoch, end: Offset, log_start: Offset, log_end: Offset, now: Instant) {
        if end >= log_end {
            self.caught_up_at = now;
        } else if end >= self.leader_end {
            // It holds all that there was at its previous fetch.
            self.caught_up_at = self.caught_up_at.max(self.fetched_at);
        }
        self.broker_epoch = Some(epoch);
        self.end = Some(end);
        self.log_start = log_start;
        self.leader_end = log_end;
        self.fetched_at = now;
    }

    /// The log is about to grow beyond `log_end`: whoever held all of it did so until now.
    pub fn on_append(&mut self, log_end: Offset, now: Instant) {
        if self.end == Some(log_end) {
            self.caught_up_at = now;
        }
    }

    /// It was let in a moment ago: its time to keep up starts now.
    pub fn grace(&mut self, now: Instant) {
        self.caught_up_at = self.caught_up_at.max(now);
    }

    pub fn is_silent(&self, seen: Option<Instant>, now: Instant, lag_max: Duration) -> bool {
        let newest = seen.map_or(self.fetched_at, |seen| seen.max(self.fetched_at));
        now.saturating_duration_since(newest) > lag_max
    }

    pub fn is_lagging(&self, log_end: Offset, seen: Option<Instant>, now: Instant, lag_max: Duration) -> bool {
        let behind = self.end != Some(log_end) && now.saturating_duration_since(self.caught_up_at) > lag_max;
        behind || self.is_silent(seen, now, lag_max)
    }
}

/// How the controller answered a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Committed; the image will show it.
    Accepted,
    /// An epoch was not the current one: this node's image is behind and will show a newer one.
    Stale,
    Refused,
    /// No answer: it may be committed, now or later.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    InFlight,
    /// Answered; only the image ends it.
    AwaitingImage,
    /// To be asked again.
    Again,
}

/// A proposal whose end the image has not shown. Invariant: `additions` count for the high watermark until then.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub proposal: IsrProposal,
    pub additions: Vec<BrokerId>,
    pub stage: Stage,
    /// An attempt got no answer: a later refusal says nothing about that one.
    pub unknown: bool,
}
