//! A broker's side of its session: register this process, then heartbeats to whoever is the controller.

use super::node::{Node, stopped};
use super::peers;
use super::proto::cluster_client::ClusterClient;
use super::proto::{Heartbeat, HeartbeatAnswer, RegisterRequest, heartbeat_answer, register_answer};
use crate::controller::controller::PROPOSE_TIMEOUT;
use crate::ids::*;
use crate::metadata::command::BrokerRegistration;
use crate::metadata::raft::types::{RaftNodeId, encode_message};
use crate::platform::clock;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Back-off between attempts: doubles from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));
/// Heartbeats not taken by the connection yet; more are left out, not queued.
const HEARTBEATS_MAX: usize = 4;
/// A repeated complaint is logged this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(3);

/// The epoch before the first registration.
pub const NOT_REGISTERED: BrokerEpoch = BrokerEpoch(-1);

/// What a session says of its broker, and what it learns.
pub struct SessionParts {
    pub node: Node,
    pub registration: BrokerRegistration,
    /// `broker.heartbeat.interval.ms`.
    pub heartbeat_every: Duration,
    /// Half the session timeout: without an answer for so long the stream is opened anew.
    pub silence_max: Duration,
    /// The logs are open and the replica listener takes fetches.
    pub ready: watch::Receiver<bool>,
    pub wants_shutdown: watch::Receiver<bool>,
    /// Set at each registration.
    pub epoch: watch::Sender<BrokerEpoch>,
    /// Told, once and for ever, that this node's image is not that of most others: the node must stop.
    pub diverged: watch::Sender<Option<String>>,
}

/// Why a stream to one controller ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Another node leads: go there at once.
    ControllerChanged,
    /// Register again.
    UnknownEpoch,
    Broken(String),
    Stopping,
}

/// Keeps the session until told to stop. Never gives up: a broker without a controller waits for one.
pub async fn run(parts: SessionParts, stop: watch::Receiver<bool>) {
    Session { parts, stop, registered: false, back_off: BACK_OFF.0, complained: None }.run().await;
}

struct Session {
    parts: SessionParts,
    stop: watch::Receiver<bool>,
    registered: bool,
    back_off: Duration,
    complained: Option<(String, Instant)>,
}

impl Session {
    async fn run(mut self) {
        while !*self.stop.borrow() {
            let ended = match self.parts.node.leader() {
                None => Ended::Broken("the cluster has no controller right now".to_string()),
                Some((leader, address)) => self.attend(leader, &address).await,
            };
            match ended {
                Ended::Stopping => return,
                Ended::ControllerChanged => {
                    self.back_off = BACK_OFF.0;
                    continue;
                }
                Ended::UnknownEpoch => {
                    tracing::warn!("the controller does not know this broker's epoch; registering again");
                    self.registered = false;
                }
                Ended::Broken(why) => self.complain(why),
            }
            let mut leadership = self.parts.node.quorum.leadership();
            leadership.borrow_and_update();
            tokio::select! {
                () = stopped(&mut self.stop) => return,
                _ = leadership.changed() => {}
                () = tokio::time::sleep(self.back_off) => {}
            }
            self.back_off = (self.back_off * 2).min(BACK_OFF.1);
        }
    }

    /// One connection to one controller, of its own: its end then means that a process ended.
    async fn attend(&mut self, leader: RaftNodeId, address: &str) -> Ended {
        let mut client = match peers::client(address) {
            Ok(client) => client,
            Err(status) => return Ended::Broken(status.message().to_string()),
        };
        let mut stop = self.stop.clone();
        if !self.registered {
            let registering = register(&self.parts, &mut client);
            let result = tokio::select! {
                () = stopped(&mut stop) => return Ended::Stopping,
                () = other_leader(&self.parts.node, leader) => return Ended::ControllerChanged,
                result = registering => result,
            };
            match result {
                Ok(epoch) => {
                    tracing::info!(%epoch, controller = %leader.node, "registered");
                    self.registered = true;
                    self.parts.epoch.send_replace(epoch);
                }
                Err(why) => return Ended::Broken(why),
            }
        }
        let (sender, receiver) = mpsc::channel(HEARTBEATS_MAX);
        let _ = sender.try_send(self.beat());
        let opened = tokio::select! {
            () = stopped(&mut stop) => return Ended::Stopping,
            () = other_leader(&self.parts.node, leader) => return Ended::ControllerChanged,
            opened = tokio::time::timeout(self.parts.silence_max, client.session(ReceiverStream::new(receiver))) => opened,
        };
        let mut answers = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Ended::Broken(format!("{address}: {}", status.message())),
            Err(_) => return Ended::Broken(format!("{address} does not answer")),
        };
        let mut tick = tokio::time::interval(self.parts.heartbeat_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut answered = clock::now();
        let node = self.parts.node.clone();
        let mut other_leader = std::pin::pin!(other_leader(&node, leader));
        let (mut ready, mut wants_shutdown) = (self.parts.ready.clone(), self.parts.wants_shutdown.clone());
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return Ended::Stopping,
                () = &mut other_leader => return Ended::ControllerChanged,
                Ok(()) = ready.changed() => { let _ = sender.try_send(self.beat()); }
                Ok(()) = wants_shutdown.changed() => { let _ = sender.try_send(self.beat()); }
                _ = tick.tick() => {
                    if clock::now().saturating_duration_since(answered) > self.parts.silence_max {
                        return Ended::Broken(format!("controller {} does not answer", leader.node));
                    }
                    // Full means the connection is stuck; the silence above ends it.
                    let _ = sender.try_send(self.beat());
                }
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        answered = clock::now();
                        if let Some(ended) = self.verdict(&answer) {
                            return ended;
                        }
                        self.back_off = BACK_OFF.0;
                    }
                    Ok(None) => return Ended::Broken(format!("controller {} closed the session", leader.node)),
                    Err(status) => return Ended::Broken(format!("controller {}: {}", leader.node, status.message())),
                },
            }
        }
    }

    fn verdict(&self, answer: &HeartbeatAnswer) -> Option<Ended> {
        match answer.verdict() {
            heartbeat_answer::Verdict::Diverged => {
                let why = "the metadata image of this node is not that of most others at the same index: one of them \
                           applied a command differently. Move this node's metadata folder aside, so that it is \
                           fetched anew, and report this";
                tracing::error!("{why}");
                self.parts.diverged.send_replace(Some(why.to_string()));
                Some(Ended::Stopping)
            }
            heartbeat_answer::Verdict::Renewed => None,
            heartbeat_answer::Verdict::UnknownEpoch => Some(Ended::UnknownEpoch),
            heartbeat_answer::Verdict::NotController | heartbeat_answer::Verdict::Unspecified => {
                Some(Ended::Broken("the node asked is not the controller yet".to_string()))
            }
        }
    }

    fn beat(&self) -> Heartbeat {
        let (hashed_index, image_hash) = self.parts.node.quorum.image_hash().unwrap_or_default();
        Heartbeat {
            cluster_id: self.parts.node.cluster.text(),
            broker_id: self.parts.registration.broker.0,
            broker_epoch: self.parts.epoch.borrow().0,
            incarnation_id: self.parts.registration.incarnation.to_string(),
            applied_index: self.parts.node.quorum.image().index.0,
            ready: *self.parts.ready.borrow(),
            wants_shutdown: *self.parts.wants_shutdown.borrow(),
            hashed_index: hashed_index.0,
            image_hash,
        }
    }

    fn complain(&mut self, why: String) {
        let now = clock::now();
        let repeated = self.complained.as_ref().is_some_and(|(said, at)| *said == why && now - *at < COMPLAIN_EVERY);
        if !repeated {
            tracing::warn!("no session with the controller: {why}");
            self.complained = Some((why, now));
        }
    }
}

/// Registers this process; safe to repeat, since the incarnation id is the same.
async fn register(parts: &SessionParts, client: &mut ClusterClient<Channel>) -> Result<BrokerEpoch, String> {
    use register_answer::Outcome;
    let registration = encode_message(&parts.registration).map_err(|e| e.to_string())?;
    let request = RegisterRequest { cluster_id: parts.node.cluster.text(), registration };
    let answer = tokio::time::timeout(PROPOSE_TIMEOUT + Duration::from_secs(1), client.register(request))
        .await
        .map_err(|_| "the registration was not answered".to_string())?
        .map_err(|status| format!("cannot register: {}", status.message()))?;
    match answer.into_inner().outcome {
        Some(Outcome::BrokerEpoch(epoch)) => Ok(BrokerEpoch(epoch)),
        Some(Outcome::NotController(_)) => Err("the node asked is not the controller yet".to_string()),
        Some(Outcome::Duplicate(why) | Outcome::Refused(why)) => Err(format!("cannot register: {why}")),
        None => Err("cannot register: an answer this version does not know".to_string()),
    }
}

/// Resolves when another node than `leader` is known to lead.
async fn other_leader(node: &Node, leader: RaftNodeId) {
    let mut leadership = node.quorum.leadership();
    if leadership.wait_for(|now| now.leader.is_some_and(|l| l != leader)).await.is_err() {
        std::future::pending::<()>().await;
    }
}
