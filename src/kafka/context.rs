//! What a handler may reach, and what it knows of the request.

use super::state::KafkaState;
use crate::config::broker::NodeConfig;
use crate::metadata::intent::ControllerChannel;
use crate::metadata::quorum::Quorum;
use crate::replica::hosted::Hosted;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The rooms below that handlers call.
pub struct Services {
    pub config: Arc<NodeConfig>,
    pub quorum: Quorum,
    pub hosted: Hosted,
    pub controller: Arc<dyn ControllerChannel>,
    pub groups: crate::group::coordinator::Coordinator,
    pub broker_epoch: tokio::sync::watch::Receiver<crate::ids::BrokerEpoch>,
    /// What this room keeps between requests; made by [`KafkaState::new`].
    pub state: KafkaState,
}

/// One request's surroundings. Handlers are `async fn name(context: &RequestContext, request: XRequest) -> XResponse`
/// (kafka-protocol's structs); they set fields by `version`, since encoding a field the version lacks fails.
#[derive(Clone)]
pub struct RequestContext {
    pub services: Arc<Services>,
    /// The name of the listener the request came in on: answers name brokers by its endpoints.
    pub listener: Arc<str>,
    /// The replica listener: follower fetches are taken only here.
    pub is_replica_listener: bool,
    pub peer: SocketAddr,
    pub client_id: String,
    pub version: i16,
    /// Of the connection: something came on it that only producers send.
    pub is_producers: Arc<AtomicBool>,
}
