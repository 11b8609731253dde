//! Raft calls from peers.

use super::client::FRAME_BYTES;
use super::failover::Failover;
use super::identity::ClusterIdentity;
use super::proto::RaftMessage;
use super::proto::raft_server::{self, RaftServer};
use super::standing::PreVote;
use super::types::*;
use openraft::error::{Fatal, InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use openraft::{SnapshotSegmentId, error::SnapshotMismatch};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The gRPC service `highwater.raft.v1.Raft`, to be mounted on the cluster port.
///
/// A caller that gave up does not undo its request: the core finishes an append it was given, and finds the entries there
/// when the caller tries again, so a disk slower than the caller's patience still makes progress.
#[derive(Clone)]
pub struct RaftService {
    raft: Raft,
    failover: Failover,
    me: RaftNodeId,
    cluster: Arc<ClusterIdentity>,
    /// The snapshot being received: its id and how many bytes came.
    receiving: Arc<Mutex<(String, u64)>>,
}

impl RaftService {
    pub(crate) fn new(raft: Raft, failover: Failover, me: RaftNodeId, cluster: Arc<ClusterIdentity>) -> RaftService {
        RaftService { raft, failover, me, cluster, receiving: Arc::default() }
    }

    /// The tonic service, with its bounds of message sizes.
    pub fn server(&self) -> RaftServer<RaftService> {
        RaftServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX + FRAME_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES_MAX + FRAME_BYTES)
    }

    /// Only a member of this cluster that means this very folder is let in.
    fn open<T: DeserializeOwned>(&self, request: Request<RaftMessage>) -> Result<T, Status> {
        let message = request.into_inner();
        let mine = self.me.directory.to_string();
        if message.target_directory_id != mine {
            let why = format!("this is node {}, not directory {}", self.me, message.target_directory_id);
            return Err(Status::failed_precondition(why));
        }
        self.cluster.admit(&message.cluster_id).map_err(|e| Status::failed_precondition(e.to_string()))?;
        decode_message(&message.payload).map_err(|e| Status::invalid_argument(e.to_string()))
    }

    fn seal<T: Serialize>(&self, answer: &T) -> Result<Response<RaftMessage>, Status> {
        let payload = encode_message(answer).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(RaftMessage { payload, ..RaftMessage::default() }))
    }

    /// Pieces come in order, or again; one that would leave a hole is answered as openraft answers an unknown stream, so
    /// that the sender starts over. openraft itself would seek anywhere it is told to.
    fn check_piece(&self, piece: &InstallSnapshotRequest<Types>) -> Result<Result<(), InstallSnapshotError>, Status> {
        let mut receiving = self.receiving.lock();
        let id = &piece.meta.snapshot_id;
        if piece.offset == 0 {
            *receiving = (id.clone(), 0);
        }
        let come = if receiving.0 == *id { receiving.1 } else { 0 };
        if piece.offset > come {
            let at = |offset| SnapshotSegmentId { id: id.clone(), offset };
            return Ok(Err(SnapshotMismatch { expect: at(come), got: at(piece.offset) }.into()));
        }
        let end = piece.offset.saturating_add(piece.data.len() as u64);
        if end > SNAPSHOT_BYTES_MAX as u64 {
            return Err(Status::resource_exhausted("the snapshot is larger than this release takes"));
        }
        receiving.1 = come.max(end);
        Ok(Ok(()))
    }
}

fn stopped(e: &Fatal<RaftNodeId>) -> Status {
    Status::unavailable(format!("the Raft core stopped: {e}"))
}

fn fatal(e: RaftError<RaftNodeId>) -> Status {
    match e {
        RaftError::Fatal(e) => stopped(&e),
        RaftError::APIError(never) => match never {},
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let request: AppendEntriesRequest<Types> = self.open(request)?;
        self.failover.heard(&request.vote);
        self.seal(&self.raft.append_entries(request).await.map_err(fatal)?)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let request: VoteRequest<RaftNodeId> = self.open(request)?;
        self.failover.keep_promise(&request.vote).await.map_err(|e| stopped(&e))?;
        self.seal(&self.raft.vote(request).await.map_err(fatal)?)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let asked: PreVote = self.open(request)?;
        self.seal(&self.failover.pre_vote(&asked).await.map_err(|e| Status::internal(e.to_string()))?)
    }

    async fn install_snapshot(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let request: InstallSnapshotRequest<Types> = self.open(request)?;
        self.failover.heard(&request.vote);
        if let Err(mismatch) = self.check_piece(&request)? {
            return self.seal(&Err::<(), _>(mismatch));
        }
        match self.raft.install_snapshot(request).await {
            Ok(answer) => self.seal(&Ok::<_, InstallSnapshotError>(answer)),
            Err(RaftError::APIError(mismatch)) => self.seal(&Err::<(), _>(mismatch)),
            Err(RaftError::Fatal(e)) => Err(stopped(&e)),
        }
    }
}
