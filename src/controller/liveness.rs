//! Which brokers are alive: sessions, lost connections, dials. Pure: events and the time in, effects out.
//!
//! ```text
//! heartbeat ──────────→ session renewed; unfence once ready and caught up to its registration
//! connection lost ────→ dial the same address once ─→ refused / unreachable / silent → fence now
//!                                                  └→ connected → proves nothing: the session decides
//! tick ───────────────→ sessions older than the timeout → fence (all in one command)
//! became controller ──→ clocks start anew; dial every unfenced broker at once
//! ```
//!
//! Fencing a live broker by mistake is safe (epochs keep it from acking), so this may be quick; it is slow only where
//! the controller itself may have been the one that was away: a late tick or a lost quorum restarts every clock.

use crate::ids::*;
use crate::metadata::command::FenceReason;
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::platform::probe;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often [`Liveness::tick`] is called.
pub const TICK_EVERY: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `broker.session.timeout.ms`: without an answered heartbeat for this long, a broker is fenced.
    pub session: Duration,
    /// A dial unanswered for this long after a lost connection counts as silence.
    pub dial: Duration,
    /// A tick later than this, or a quorum not heard from for this long, restarts all session clocks.
    pub away: Duration,
    /// A proposed fence or unfence that is not in the image yet is proposed again after this.
    pub propose_again: Duration,
}

impl Timing {
    pub fn with_session(session: Duration) -> Timing {
        Timing {
            session,
            dial: Duration::from_millis(50),
            away: Duration::from_millis(300),
            propose_again: Duration::from_millis(500),
        }
    }
}

/// One heartbeat as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    pub incarnation: IncarnationId,
    /// Names the stream it came on: the loss of an older stream says nothing about a newer one.
    pub connection: u64,
    pub applied: RaftIndex,
    pub ready: bool,
    pub wants_shutdown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Renewed {
        fenced: bool,
    },
    /// Not the registered epoch or incarnation: the broker must register again.
    UnknownEpoch,
    NotController,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Dial { broker: BrokerId, epoch: BrokerEpoch, target: probe::Target },
    Fence { brokers: Vec<(BrokerId, BrokerEpoch)>, reason: FenceReason },
    Unfence { broker: BrokerId, epoch: BrokerEpoch },
}

struct Session {
    epoch: BrokerEpoch,
    /// The last heartbeat, or when the clocks last started anew.
    heard: Instant,
    /// The stream the last heartbeat came on, until it is lost.
    connection: Option<u64>,
    dial: Option<Dial>,
    /// A dial found it gone, and no heartbeat came since: fenced whatever its clock says.
    gone: bool,
    fence_proposed: Option<Instant>,
    unfence_proposed: Option<Instant>,
}

/// A dial under way. Any heartbeat after it began makes its outcome meaningless, and clears it.
struct Dial {
    silence_counts: bool,
}

/// Invariant: acts only between `became_controller` and `resigned`; a session exists only for a registered epoch.
/// Bound: the registered brokers.
pub struct Liveness {
    me: BrokerId,
    timing: Timing,
    active: bool,
    last_tick: Option<Instant>,
    sessions: BTreeMap<BrokerId, Session>,
}

impl Liveness {
    pub fn new(me: BrokerId, timing: Timing) -> Liveness {
        Liveness { me, timing, active: false, last_tick: None, sessions: BTreeMap::new() }
    }

    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Starts every session anew and dials every unfenced broker instead of waiting its session out. `previous` is the
    /// controller before this one: the quorum found it gone, so for it silence counts as it does after a lost connection.
    pub fn became_controller(&mut self, now: Instant, image: &Image, previous: Option<BrokerId>) -> Vec<Effect> {
        self.active = true;
        self.last_tick = Some(now);
        self.sessions.clear();
        let mut effects = Vec::new();
        for (id, broker) in image.brokers.iter().filter(|(_, broker)| !broker.fenced) {
            let mut session = Session::new(broker.epoch, now);
            if *id != self.me {
                session.dial = Some(Dial { silence_counts: previous == Some(*id) });
                let endpoint = &broker.registration.cluster_endpoint;
                let target = probe::Target::Name(format!("{}:{}", endpoint.host, endpoint.port));
                effects.push(Effect::Dial { broker: *id, epoch: broker.epoch, target });
            }
            self.sessions.insert(*id, session);
        }
        effects
    }

    pub fn resigned(&mut self) {
        self.active = false;
        self.sessions.clear();
        self.last_tick = None;
    }

    pub fn heartbeat(&mut self, now: Instant, image: &Image, beat: &Heartbeat) -> (Verdict, Vec<Effect>) {
        if !self.active {
            return (Verdict::NotController, Vec::new());
        }
        let Some(broker) = image.brokers.get(&beat.broker) else {
            return (Verdict::UnknownEpoch, Vec::new());
        };
        if broker.epoch != beat.epoch || broker.registration.incarnation != beat.incarnation {
            return (Verdict::UnknownEpoch, Vec::new());
        }
        let propose_again = self.timing.propose_again;
        let session = self.session(beat.broker, broker, now);
        session.heard = now;
        session.connection = Some(beat.connection);
        session.dial = None;
        session.gone = false;
        let mut effects = Vec::new();
        if may_unfence(broker, beat) && due(session.unfence_proposed, now, propose_again) {
            session.unfence_proposed = Some(now);
            effects.push(Effect::Unfence { broker: beat.broker, epoch: beat.epoch });
        }
        (Verdict::Renewed { fenced: broker.fenced }, effects)
    }

    /// The stream ended, by whatever error. A hint, not proof: dial once where it came from.
    pub fn connection_lost(
        &mut self,
        now: Instant,
        image: &Image,
        id: BrokerId,
        epoch: BrokerEpoch,
        connection: u64,
        peer: Option<SocketAddr>,
    ) -> Vec<Effect> {
        let Some(broker) = self.registered(image, id, epoch) else { return Vec::new() };
        let session = self.session(id, broker, now);
        if session.connection != Some(connection) {
            return Vec::new();
        }
        session.connection = None;
        if broker.fenced && session.unfence_proposed.is_none() {
            return Vec::new();
        }
        session.dial = Some(Dial { silence_counts: true });
        let endpoint = &broker.registration.cluster_endpoint;
        let target = match peer {
            Some(peer) => probe::Target::Address(SocketAddr::new(peer.ip(), endpoint.port)),
            None => probe::Target::Name(format!("{}:{}", endpoint.host, endpoint.port)),
        };
        vec![Effect::Dial { broker: id, epoch, target }]
    }

    pub fn dialed(
        &mut self,
        now: Instant,
        image: &Image,
        id: BrokerId,
        epoch: BrokerEpoch,
        outcome: probe::Outcome,
    ) -> Vec<Effect> {
        let Some(broker) = self.registered(image, id, epoch) else { return Vec::new() };
        let session = self.session(id, broker, now);
        let Some(dial) = session.dial.take() else { return Vec::new() };
        let gone = match outcome {
            probe::Outcome::Refused | probe::Outcome::Unreachable => true,
            probe::Outcome::Silent => dial.silence_counts,
            probe::Outcome::Connected | probe::Outcome::Unclear => false,
        };
        if !gone {
            return Vec::new();
        }
        session.gone = true;
        if broker.fenced {
            // Its unfence may be under way; then a tick fences it.
            return Vec::new();
        }
        session.fence_proposed = Some(now);
        vec![Effect::Fence { brokers: vec![(id, epoch)], reason: FenceReason::ConnectionLost }]
    }

    /// `quorum_ack_age`: how long ago a majority last answered this leader, where that is known.
    pub fn tick(&mut self, now: Instant, image: &Image, quorum_ack_age: Option<Duration>) -> Vec<Effect> {
        if !self.active {
            return Vec::new();
        }
        let since_tick = self.last_tick.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last_tick = Some(now);
        self.follow(image, now);
        // It was this process that was away (or cut off): what it did not hear says nothing about the brokers.
        let away =
            since_tick > TICK_EVERY + self.timing.away || quorum_ack_age.is_some_and(|age| age > self.timing.away);
        if away {
            self.sessions.values_mut().for_each(|session| session.heard = now);
            return Vec::new();
        }
        let (mut expired, mut gone) = (Vec::new(), Vec::new());
        for (id, session) in &mut self.sessions {
            let unfenced = image.brokers.get(id).is_some_and(|b| !b.fenced);
            let silent = now.saturating_duration_since(session.heard) >= self.timing.session;
            let to_fence = unfenced && (session.gone || silent);
            if to_fence && due(session.fence_proposed, now, self.timing.propose_again) {
                session.fence_proposed = Some(now);
                if session.gone { &mut gone } else { &mut expired }.push((*id, session.epoch));
            }
        }
        let fence = |brokers: Vec<_>, reason| (!brokers.is_empty()).then_some(Effect::Fence { brokers, reason });
        let expired = fence(expired, FenceReason::SessionExpired);
        expired.into_iter().chain(fence(gone, FenceReason::ConnectionLost)).collect()
    }

    /// May this process register? Not while another one of the same broker still answers, fenced or not: that would be two
    /// processes under one id, of which one may have lost what the other holds. A restarted process finds its old stream
    /// lost, or its session expired within the timeout.
    pub fn may_register(&self, now: Instant, image: &Image, id: BrokerId, incarnation: IncarnationId) -> bool {
        let is_it = image.brokers.get(&id).is_some_and(|broker| broker.registration.incarnation == incarnation);
        is_it || !self.answers(now, image, id)
    }

    /// Whether the registered process of this broker still answers, fenced or not.
    pub fn answers(&self, now: Instant, image: &Image, id: BrokerId) -> bool {
        let Some(broker) = image.brokers.get(&id) else { return false };
        self.sessions.get(&id).is_some_and(|session| {
            let is_recent = now.saturating_duration_since(session.heard) < self.timing.session;
            session.epoch == broker.epoch && session.connection.is_some() && is_recent
        })
    }

    /// The broker, if this is the controller and the epoch is the registered one.
    fn registered<'a>(&self, image: &'a Image, id: BrokerId, epoch: BrokerEpoch) -> Option<&'a Broker> {
        image.brokers.get(&id).filter(|broker| self.active && broker.epoch == epoch)
    }

    /// The session of the registered epoch; an older one is replaced.
    fn session(&mut self, id: BrokerId, broker: &Broker, now: Instant) -> &mut Session {
        let session = self.sessions.entry(id).or_insert_with(|| Session::new(broker.epoch, now));
        if session.epoch != broker.epoch {
            *session = Session::new(broker.epoch, now);
        }
        session
    }

    /// Sessions for exactly the brokers of the image.
    fn follow(&mut self, image: &Image, now: Instant) {
        self.sessions.retain(|id, _| image.brokers.contains_key(id));
        for (id, broker) in image.brokers.iter().filter(|(_, broker)| !broker.fenced) {
            self.session(*id, broker, now);
        }
    }
}

impl Session {
    fn new(epoch: BrokerEpoch, now: Instant) -> Session {
        Session {
            epoch,
            heard: now,
            connection: None,
            dial: None,
            gone: false,
            fence_proposed: None,
            unfence_proposed: None,
        }
    }
}

fn due(proposed: Option<Instant>, now: Instant, again: Duration) -> bool {
    proposed.is_none_or(|at| now.saturating_duration_since(at) >= again)
}

/// A broker epoch is the Raft index of the registration: an image at or past it has seen its own registration, hence
/// every topic and epoch that was committed before.
fn may_unfence(broker: &Broker, beat: &Heartbeat) -> bool {
    let registered_at = u64::try_from(beat.epoch.0).unwrap_or(u64::MAX);
    broker.fenced && !broker.shutting_down && beat.ready && !beat.wants_shutdown && beat.applied.0 >= registered_at
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
