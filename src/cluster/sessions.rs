//! The controller's side of broker sessions: one task owns [`Liveness`] and performs what it decides.

use super::node::{Node, stopped};
use crate::controller::controller::Controller;
use crate::controller::liveness::*;
use crate::ids::*;
use crate::metadata::quorum::Leadership;
use crate::platform::{clock, probe};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Events waiting for the task; a sender waits when it is full.
const EVENTS_MAX: usize = 1024;

enum Event {
    Beat { beat: Heartbeat, reply: oneshot::Sender<Verdict> },
    Lost { broker: BrokerId, epoch: BrokerEpoch, connection: u64, peer: Option<SocketAddr> },
    Dialed { broker: BrokerId, epoch: BrokerEpoch, outcome: probe::Outcome },
    MayRegister { broker: BrokerId, incarnation: IncarnationId, reply: oneshot::Sender<bool> },
    Answers { broker: BrokerId, reply: oneshot::Sender<bool> },
}

/// Cheap to clone; all clones speak to one task.
#[derive(Clone)]
pub struct Sessions {
    events: mpsc::Sender<Event>,
}

impl Sessions {
    /// Spawns the task on the current runtime.
    pub fn start(node: Node, controller: Arc<Controller>, timing: Timing, stop: watch::Receiver<bool>) -> Sessions {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        let shell = Shell {
            liveness: Liveness::new(node.me.node, timing),
            node,
            controller,
            timing,
            events: sender.downgrade(),
            acting_in: None,
            last_other: None,
        };
        tokio::spawn(shell.run(receiver, stop));
        Sessions { events: sender }
    }

    pub async fn heartbeat(&self, beat: Heartbeat) -> Verdict {
        let (reply, verdict) = oneshot::channel();
        if self.events.send(Event::Beat { beat, reply }).await.is_err() {
            return Verdict::NotController;
        }
        verdict.await.unwrap_or(Verdict::NotController)
    }

    pub async fn lost(&self, broker: BrokerId, epoch: BrokerEpoch, connection: u64, peer: Option<SocketAddr>) {
        // The task is gone only when the node stops, and then nobody is fenced from here.
        let _ = self.events.send(Event::Lost { broker, epoch, connection, peer }).await;
    }

    pub async fn may_register(&self, broker: BrokerId, incarnation: IncarnationId) -> bool {
        let (reply, answer) = oneshot::channel();
        let sent = self.events.send(Event::MayRegister { broker, incarnation, reply }).await;
        sent.is_ok() && answer.await.unwrap_or(false)
    }

    /// Whether the registered process of this broker still answers the controller, which is this node.
    pub async fn answers(&self, broker: BrokerId) -> bool {
        let (reply, answer) = oneshot::channel();
        let sent = self.events.send(Event::Answers { broker, reply }).await;
        sent.is_ok() && answer.await.unwrap_or(false)
    }
}

struct Shell {
    node: Node,
    controller: Arc<Controller>,
    timing: Timing,
    liveness: Liveness,
    /// Weak: the task ends when the service that feeds it is gone.
    events: mpsc::WeakSender<Event>,
    /// The term in which this node acts as the controller.
    acting_in: Option<u64>,
    /// The last leader that was another node.
    last_other: Option<BrokerId>,
}

impl Shell {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut stop: watch::Receiver<bool>) {
        let mut leadership = self.node.quorum.leadership();
        let mut tick = tokio::time::interval(TICK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let first = *leadership.borrow_and_update();
        self.follow(first);
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = *leadership.borrow_and_update();
                    self.follow(now);
                }
                event = events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                _ = tick.tick() => {
                    let age = self.node.quorum.quorum_ack_age();
                    let effects = self.liveness.tick(clock::now(), &self.node.quorum.image(), age);
                    self.perform(effects);
                }
            }
        }
    }

    fn follow(&mut self, leadership: Leadership) {
        let acting_in = leadership.is_controller.then_some(leadership.term);
        if acting_in != self.acting_in {
            self.acting_in = acting_in;
            if acting_in.is_some() {
                tracing::info!(term = leadership.term, "this node is the controller");
                let image = self.node.quorum.image();
                let effects = self.liveness.became_controller(clock::now(), &image, self.last_other);
                self.perform(effects);
            } else if self.liveness.is_active() {
                tracing::info!(term = leadership.term, "this node is no longer the controller");
                self.liveness.resigned();
            }
        }
        if let Some(other) = leadership.leader.filter(|leader| *leader != self.node.me) {
            self.last_other = Some(other.node);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = clock::now();
        let image = self.node.quorum.image();
        let effects = match event {
            Event::Beat { beat, reply } => {
                let (verdict, effects) = self.liveness.heartbeat(now, &image, &beat);
                // A stream that ended meanwhile needs no answer.
                let _ = reply.send(verdict);
                effects
            }
            Event::Lost { broker, epoch, connection, peer } => {
                self.liveness.connection_lost(now, &image, broker, epoch, connection, peer)
            }
            Event::Dialed { broker, epoch, outcome } => self.liveness.dialed(now, &image, broker, epoch, outcome),
            Event::MayRegister { broker, incarnation, reply } => {
                let _ = reply.send(self.liveness.may_register(now, &image, broker, incarnation));
                Vec::new()
            }
            Event::Answers { broker, reply } => {
                let _ = reply.send(self.liveness.answers(now, &image, broker));
                Vec::new()
            }
        };
        self.perform(effects);
    }

    fn perform(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial { broker, epoch, target } => self.dial(broker, epoch, target),
                Effect::Fence { brokers, reason } => {
                    for (broker, epoch) in &brokers {
                        tracing::warn!(%broker, %epoch, ?reason, "fencing");
                    }
                    let controller = self.controller.clone();
                    tokio::spawn(async move {
                        if let Err(error) = controller.fence(brokers, reason).await {
                            tracing::warn!(%error, "could not fence; will try again");
                        }
                    });
                }
                Effect::Unfence { broker, epoch } => {
                    let controller = self.controller.clone();
                    tokio::spawn(async move {
                        match controller.unfence(broker, epoch).await {
                            Ok(_) => tracing::info!(%broker, %epoch, "unfenced"),
                            Err(error) => tracing::warn!(%broker, %error, "could not unfence; will try again"),
                        }
                    });
                }
            }
        }
    }

    fn dial(&self, broker: BrokerId, epoch: BrokerEpoch, target: probe::Target) {
        let events = self.events.clone();
        let timeout = self.timing.dial;
        tokio::spawn(async move {
            let outcome = probe::probe(&target, timeout).await;
            tracing::debug!(%broker, ?target, ?outcome, "dialed");
            if let Some(events) = events.upgrade() {
                let _ = events.send(Event::Dialed { broker, epoch, outcome }).await;
            }
        });
    }
}
