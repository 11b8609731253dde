//! What this room keeps between requests. Every bound that clients can push against stands here.

use super::budget::Budget;
use super::handlers::fetch_session_cache::SessionCache;
use super::handlers::init_producer_id::ProducerIds;
use super::log_limit::LogLimit;
use super::topic_rules::TopicRules;
use crate::config::broker::NodeConfig;
use std::sync::Arc;

/// Bytes of requests being read, over all connections.
const REQUEST_BYTES_MAX: usize = 512 << 20;
/// Bytes of replies waiting to be written, over all connections. A fetch asks for less as it fills.
const REPLY_BYTES_MAX: usize = 512 << 20;
/// Fetch sessions of followers: one a follower's fetcher, and those that a restart left behind.
const REPLICA_SESSIONS_MAX: usize = 4_096;
/// Partitions in all sessions of a cache together.
const CLIENT_SESSION_PARTITIONS_MAX: usize = 1_000_000;
const REPLICA_SESSION_PARTITIONS_MAX: usize = 4_000_000;

pub struct KafkaState {
    pub request_bytes: Arc<Budget>,
    pub reply_bytes: Arc<Budget>,
    pub client_sessions: Arc<SessionCache>,
    /// Apart from the clients', which can therefore never evict a follower's.
    pub replica_sessions: Arc<SessionCache>,
    pub producer_ids: ProducerIds,
    pub topic_rules: TopicRules,
    pub log_limit: LogLimit,
}

impl KafkaState {
    pub fn new(config: &NodeConfig) -> KafkaState {
        let slots = usize::try_from(config.kafka.int("max.incremental.fetch.session.cache.slots")).unwrap_or(0);
        KafkaState {
            request_bytes: Budget::new(REQUEST_BYTES_MAX),
            reply_bytes: Budget::new(REPLY_BYTES_MAX),
            client_sessions: SessionCache::of_clients(slots, CLIENT_SESSION_PARTITIONS_MAX),
            replica_sessions: SessionCache::of_replicas(REPLICA_SESSIONS_MAX, REPLICA_SESSION_PARTITIONS_MAX),
            producer_ids: ProducerIds::default(),
            topic_rules: TopicRules::default(),
            log_limit: LogLimit::default(),
        }
    }
}
