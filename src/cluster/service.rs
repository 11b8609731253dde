//! `highwater.cluster.v1.Cluster` as this node serves it.

use super::agreement::{Agreement, Finding};
use super::membership;
use super::node::{Node, parse_uuid};
use super::proto::*;
use super::sessions::Sessions;
use super::states::LocalReplicas;
use crate::controller::controller::{Controller, ControllerError};
use crate::controller::liveness::{self, Verdict};
use crate::ids::*;
use crate::metadata::command::{Answer, BrokerRegistration, MetadataError};
use crate::metadata::intent::Intent;
use crate::metadata::raft::types::{decode_message, encode_message};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Answers to heartbeats that the broker has not read yet; then its stream waits.
const ANSWERS_MAX: usize = 8;

pub struct ClusterService {
    node: Node,
    controller: Arc<Controller>,
    sessions: Sessions,
    replicas: LocalReplicas,
    connections: AtomicU64,
    agreement: Arc<Mutex<Agreement>>,
}

impl ClusterService {
    pub fn new(node: Node, controller: Arc<Controller>, sessions: Sessions, replicas: LocalReplicas) -> ClusterService {
        ClusterService {
            node,
            controller,
            sessions,
            replicas,
            connections: AtomicU64::new(0),
            agreement: Arc::default(),
        }
    }

    async fn is_initialized(&self) -> Result<bool, Status> {
        self.node.quorum.is_initialized().await.map_err(|e| Status::internal(e.to_string()))
    }

    async fn register_checked(&self, registration: BrokerRegistration) -> register_answer::Outcome {
        use register_answer::Outcome;
        if !self.node.leadership().is_controller {
            return Outcome::NotController(self.node.not_controller());
        }
        let broker = registration.broker;
        let duplicate = || {
            Outcome::Duplicate(format!(
                "another process of broker {broker} still answers: give each node its own node.id, or wait for the other \
                 one to stop"
            ))
        };
        if !self.sessions.may_register(broker, registration.incarnation).await {
            return duplicate();
        }
        match self.controller.register(registration).await {
            Ok((_, Answer::Registered { epoch })) => Outcome::BrokerEpoch(epoch.0),
            Ok((_, Answer::Refused(MetadataError::DuplicateBroker(_)))) => duplicate(),
            Ok((_, Answer::Refused(error))) => Outcome::Refused(error.to_string()),
            Ok((_, other)) => Outcome::Refused(format!("the registration was answered with {other:?}")),
            Err(ControllerError::NotController(_)) => Outcome::NotController(self.node.not_controller()),
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }

    async fn submit_checked(&self, intent: Intent) -> submit_answer::Outcome {
        use submit_answer::Outcome;
        match self.controller.handle(intent).await {
            Ok((index, answer)) => match encode_message(&answer) {
                Ok(answer) => Outcome::Answered(Answered { raft_index: index.0, answer }),
                // Committed, but the answer cannot be told.
                Err(error) => Outcome::Unknown(error.to_string()),
            },
            Err(ControllerError::NotController(_)) => Outcome::NotController(self.node.not_controller()),
            Err(ControllerError::Refused(why)) => Outcome::Refused(why),
            Err(error @ (ControllerError::Unknown(_) | ControllerError::Stopped(_))) => {
                Outcome::Unknown(error.to_string())
            }
        }
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    async fn describe(&self, request: Request<DescribeRequest>) -> Result<Response<DescribeAnswer>, Status> {
        self.node.cluster.check_if_given(&request.get_ref().cluster_id)?;
        Ok(Response::new(DescribeAnswer {
            cluster_id: self.node.cluster.text(),
            node_id: self.node.me.node.0,
            directory_id: self.node.me.directory.to_string(),
            initialized: self.is_initialized().await?,
            controller: self.node.controller_hint(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinAnswer>, Status> {
        let request = request.into_inner();
        self.node.cluster.check_if_given(&request.cluster_id)?;
        Ok(Response::new(membership::join(&self.node, &self.sessions, request).await?))
    }

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterAnswer>, Status> {
        let request = request.into_inner();
        self.node.cluster.check(&request.cluster_id)?;
        let registration =
            decode_message(&request.registration).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let outcome = Some(self.register_checked(registration).await);
        Ok(Response::new(RegisterAnswer { cluster_id: self.node.cluster.text(), outcome }))
    }

    type SessionStream = ReceiverStream<Result<HeartbeatAnswer, Status>>;

    async fn session(&self, request: Request<Streaming<Heartbeat>>) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.remote_addr();
        let mut inbound = request.into_inner();
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (node, sessions, agreement) = (self.node.clone(), self.sessions.clone(), self.agreement.clone());
        let (answers, outbound) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(async move {
            let mut heard: Option<(BrokerId, BrokerEpoch)> = None;
            // However the stream ends, it is a hint that the broker may be gone.
            while let Ok(Some(message)) = inbound.message().await {
                let answer = match checked_beat(&node, &message, connection) {
                    Ok(_) if differs(&node, &agreement, &message) => {
                        tracing::error!(
                            broker = message.broker_id,
                            index = message.hashed_index,
                            "this broker's metadata image is not that of most others: it is told to stop"
                        );
                        Ok(HeartbeatAnswer {
                            cluster_id: node.cluster.text(),
                            verdict: heartbeat_answer::Verdict::Diverged.into(),
                            fenced: true,
                        })
                    }
                    Ok(beat) => {
                        heard = Some((beat.broker, beat.epoch));
                        Ok(answer_of(&node, sessions.heartbeat(beat).await))
                    }
                    Err(status) => Err(status),
                };
                let refused = answer.is_err();
                if answers.send(answer).await.is_err() || refused {
                    break;
                }
            }
            if let Some((broker, epoch)) = heard {
                sessions.lost(broker, epoch, connection, peer).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignAnswer>, Status> {
        let request = request.into_inner();
        self.node.cluster.check(&request.cluster_id)?;
        // A delayed request must not depose whoever leads by now.
        if self.node.leadership().term != request.term {
            return Err(Status::failed_precondition("the term is not the current one"));
        }
        self.node.quorum.campaign().await.map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(Response::new(CampaignAnswer { cluster_id: self.node.cluster.text() }))
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitAnswer>, Status> {
        let request = request.into_inner();
        self.node.cluster.check(&request.cluster_id)?;
        let intent = decode_message(&request.intent).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let outcome = Some(self.submit_checked(intent).await);
        Ok(Response::new(SubmitAnswer { cluster_id: self.node.cluster.text(), outcome }))
    }

    async fn partition_states(
        &self,
        request: Request<PartitionStatesRequest>,
    ) -> Result<Response<PartitionStatesAnswer>, Status> {
        self.node.cluster.check(&request.get_ref().cluster_id)?;
        Ok(Response::new(self.replicas.answer(&self.node, request.get_ref())?))
    }

    async fn log_ends(&self, request: Request<LogEndsRequest>) -> Result<Response<LogEndsAnswer>, Status> {
        self.node.cluster.check(&request.get_ref().cluster_id)?;
        Ok(Response::new(self.replicas.answer_log_ends(&self.node, request.get_ref()).await?))
    }
}

/// Only the controller judges: others may not have heard of all.
fn differs(node: &Node, agreement: &Mutex<Agreement>, beat: &Heartbeat) -> bool {
    let image = node.quorum.image();
    let Some(broker) = image.brokers.get(&BrokerId(beat.broker_id)) else { return false };
    if !node.leadership().is_controller || broker.epoch.0 != beat.broker_epoch {
        return false;
    }
    let mut agreement = agreement.lock();
    agreement.retain(|broker| image.brokers.contains_key(&broker));
    let index = RaftIndex(beat.hashed_index);
    match agreement.report(BrokerId(beat.broker_id), index, beat.image_hash, &broker.registration.version) {
        Finding::Agrees => false,
        Finding::Differs => true,
        Finding::Disputed => {
            tracing::error!(broker = beat.broker_id, %index, "two nodes hold different metadata, and no majority holds either");
            false
        }
    }
}

fn checked_beat(node: &Node, message: &Heartbeat, connection: u64) -> Result<liveness::Heartbeat, Status> {
    node.cluster.check(&message.cluster_id)?;
    Ok(liveness::Heartbeat {
        broker: BrokerId(message.broker_id),
        epoch: BrokerEpoch(message.broker_epoch),
        incarnation: IncarnationId(parse_uuid(&message.incarnation_id)?),
        connection,
        applied: RaftIndex(message.applied_index),
        ready: message.ready,
        wants_shutdown: message.wants_shutdown,
    })
}

fn answer_of(node: &Node, verdict: Verdict) -> HeartbeatAnswer {
    use heartbeat_answer::Verdict as Wire;
    let (verdict, fenced) = match verdict {
        Verdict::Renewed { fenced } => (Wire::Renewed, fenced),
        Verdict::UnknownEpoch => (Wire::UnknownEpoch, true),
        Verdict::NotController => (Wire::NotController, true),
    };
    HeartbeatAnswer { cluster_id: node.cluster.text(), verdict: verdict.into(), fenced }
}
