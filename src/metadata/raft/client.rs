//! Raft calls to peers: tonic channels, shared by address.

use super::contacts::Contacts;
use super::identity::ClusterIdentity;
use super::proto::RaftMessage;
use super::proto::raft_client::RaftClient;
use super::standing::{PreVote, PreVoteAnswer};
use super::types::*;
use crate::platform::clock;
use openraft::error::{
    InstallSnapshotError, NetworkError, PayloadTooLarge, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::*;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// A peer that vanished without a word closes no connection; these find it.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(1_000);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Between tries to an unreachable peer.
const BACKOFF: Duration = Duration::from_millis(50);
/// Bound of the pool. A group has a few members; channels of those that left are dropped when it is full.
const CHANNELS_MAX: usize = 256;

/// Snapshots go over a connection of their own, so that no heartbeat waits behind half a megabyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Log,
    Snapshot,
}

/// Makes clients of peers. openraft asks for a new client at each vote, so connections live here, not in the clients.
///
/// A channel looks its host name up at each connection; no resolved address is kept, since a container's changes.
#[derive(Clone)]
pub struct Transport {
    cluster: Arc<ClusterIdentity>,
    contacts: Arc<Contacts>,
    channels: Arc<Mutex<BTreeMap<(Lane, String), Channel>>>,
}

impl Transport {
    pub fn new(cluster: Arc<ClusterIdentity>, contacts: Arc<Contacts>) -> Transport {
        Transport { cluster, contacts, channels: Arc::default() }
    }

    fn channel(&self, lane: Lane, address: &str) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.channels.lock();
        let key = (lane, address.to_string());
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_lazy();
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(key, channel.clone());
        Ok(channel)
    }

    /// Asks a voter whether it would vote for this node.
    pub async fn pre_vote(
        &self,
        target: RaftNodeId,
        address: String,
        asked: &PreVote,
    ) -> Result<PreVoteAnswer, PreVoteError> {
        let peer = Peer { target, address, transport: self.clone() };
        Ok(peer.call(Method::PreVote, asked).await?)
    }

    fn forget(&self, lane: Lane, address: &str) {
        self.channels.lock().remove(&(lane, address.to_string()));
    }
}

impl RaftNetworkFactory<Types> for Transport {
    type Network = Peer;

    async fn new_client(&mut self, target: RaftNodeId, node: &RaftNode) -> Peer {
        Peer { target, address: node.address.clone(), transport: self.clone() }
    }
}

/// One peer, as one Raft task calls it.
pub struct Peer {
    target: RaftNodeId,
    address: String,
    transport: Transport,
}

#[derive(Clone, Copy)]
enum Method {
    Append,
    Vote,
    PreVote,
    InstallSnapshot,
}

#[derive(Debug, thiserror::Error)]
pub enum PreVoteError {
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Call(#[from] CallError),
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0} is no address: {1}")]
    Address(String, tonic::transport::Error),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("{0}: {1}")]
    Status(String, Box<Status>),
}

type RpcError<E> = RPCError<RaftNodeId, RaftNode, E>;

impl CallError {
    /// Unreachable makes openraft wait before it tries again; anything else it tries at once.
    fn into_rpc<E: std::error::Error>(self) -> RpcError<E> {
        match &self {
            CallError::Status(_, status) if !matches!(status.code(), Code::Unavailable | Code::FailedPrecondition) => {
                RPCError::Network(NetworkError::new(&self))
            }
            _ => RPCError::Unreachable(Unreachable::new(&self)),
        }
    }
}

impl Peer {
    /// openraft drops this future when its time is up. That resets one HTTP/2 stream and leaves the connection whole.
    async fn call<Q: Serialize, A: DeserializeOwned>(&self, method: Method, request: &Q) -> Result<A, CallError> {
        let lane = if matches!(method, Method::InstallSnapshot) { Lane::Snapshot } else { Lane::Log };
        let message = RaftMessage {
            cluster_id: self.transport.cluster.get().map_or_else(String::new, |id| id.to_string()),
            target_directory_id: self.target.directory.to_string(),
            payload: encode_message(request)?,
        };
        let channel =
            self.transport.channel(lane, &self.address).map_err(|e| CallError::Address(self.address.clone(), e))?;
        let mut client = RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX + FRAME_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES_MAX + FRAME_BYTES);
        let answer = match method {
            Method::Append => client.append(message).await,
            Method::Vote => client.vote(message).await,
            Method::PreVote => client.pre_vote(message).await,
            Method::InstallSnapshot => client.install_snapshot(message).await,
        };
        let answer = answer.map_err(|status| {
            if status.code() == Code::Unavailable {
                self.transport.forget(lane, &self.address);
            }
            CallError::Status(self.address.clone(), Box::new(status))
        })?;
        Ok(decode_message(&answer.into_inner().payload)?)
    }
}

/// What the gRPC message adds to its payload, at most.
pub(super) const FRAME_BYTES: usize = 1 << 10;

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftNodeId>, RpcError<RaftError<RaftNodeId>>> {
        // An answer may lie here for a while, and who sent it be gone by then: it lived when it was asked.
        let asked = clock::now();
        let answer = self.call(Method::Append, &request).await;
        if answer.is_ok() {
            self.transport.contacts.heard(self.target, asked);
        }
        answer.map_err(|e| match e {
            // The log reader bounds a request by bytes already; this is for a change of bounds that forgets one of them.
            CallError::Codec(CodecError::TooLarge { .. }) if request.entries.len() > 1 => {
                PayloadTooLarge::new_entries_hint(request.entries.len() as u64 / 2).into()
            }
            e => e.into_rpc(),
        })
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftNodeId>, RpcError<RaftError<RaftNodeId, InstallSnapshotError>>> {
        let answer: Result<_, InstallSnapshotError> =
            self.call(Method::InstallSnapshot, &request).await.map_err(CallError::into_rpc)?;
        answer.map_err(|e| RemoteError::new(self.target, RaftError::APIError(e)).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<RaftNodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<RaftNodeId>, RpcError<RaftError<RaftNodeId>>> {
        self.call(Method::Vote, &request).await.map_err(CallError::into_rpc)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
