//! The follower loop: one task a (leader, durability), one fetch under way, and the next fetch is the ack.
//!
//! ```text
//! mailbox (follow, forget) ─→ positions ─→ Fetch ─→ append / truncate / restart ─→ flush (synced topics) ─┐
//!                                 ↑──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A partition that must be followed at once interrupts a parked fetch by giving up the connection: the leader would
//! otherwise hear of it only after the fetch's wait, and acks=all would wait as long.

use super::fetch_session::FetchSession;
use super::follower::{Fetched, FollowError, Position};
use super::node::Node;
use super::partition::Partition;
use super::synced::sync_all;
use super::throttle;
use crate::ids::*;
use crate::platform::clock;
use crate::wire::client::Connection;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::ReplicaState;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

#[cfg(test)]
mod tests;

const FETCH_VERSION: i16 = 17;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Beyond the fetch's own wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const RECONNECT_MIN: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_millis(200);
/// A refused partition rests; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(160);
/// After what this node itself cannot take (its disk is full, say): asking sooner only moves bytes to drop them.
const RETRY_LOCAL_MAX: Duration = Duration::from_secs(5);
/// Interruptions come no closer than this: a burst of new topics must not keep replication from going on.
const INTERRUPTION_GAP: Duration = Duration::from_millis(30);

/// What `Hosted` tells a fetcher. Bound: taken up at each round; at most a few a partition.
pub(super) enum Order {
    Follow(Arc<Partition>, LeaderEpoch),
    Forget(TopicPartition),
}

#[derive(Default)]
pub(super) struct Mailbox {
    orders: Mutex<Vec<Order>>,
    urgent: Notify,
}

impl Mailbox {
    pub fn put(&self, order: Order) {
        self.orders.lock().push(order);
    }

    /// What was put must be acted on now.
    pub fn kick(&self) {
        self.urgent.notify_one();
    }
}

/// One partition's place with a fetcher.
struct Followed {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    /// Refused this many times in a row.
    refusals: u32,
}

/// Why a connection was left.
enum End {
    Interrupted,
    Broken(String),
}

pub(super) struct Fetcher {
    node: Arc<Node>,
    leader: BrokerId,
    /// A fetch waits for the flush of what the one before brought.
    synced: bool,
    mailbox: Arc<Mailbox>,
    followed: BTreeMap<TopicPartition, Followed>,
    /// To be mentioned in the next fetch.
    changed: BTreeSet<TopicPartition>,
    resting: BTreeMap<TopicPartition, Instant>,
    interrupted_at: Option<Instant>,
}

impl Fetcher {
    pub fn new(node: Arc<Node>, leader: BrokerId, synced: bool, mailbox: Arc<Mailbox>) -> Fetcher {
        Fetcher {
            node,
            leader,
            synced,
            mailbox,
            followed: BTreeMap::new(),
            changed: BTreeSet::new(),
            resting: BTreeMap::new(),
            interrupted_at: None,
        }
    }

    /// Runs until the task is aborted.
    pub async fn run(mut self) {
        let mut pause = RECONNECT_MIN;
        loop {
            let mut session = FetchSession::default();
            self.take_orders(&mut session);
            if self.followed.is_empty() {
                self.mailbox.urgent.notified().await;
                continue;
            }
            let began = clock::now();
            match self.follow(session).await {
                End::Interrupted => self.interrupted_at = Some(clock::now()),
                End::Broken(reason) => {
                    // It served for a while: this is the first failure of a row.
                    if clock::now().saturating_duration_since(began) > RECONNECT_MAX * 2 {
                        pause = RECONNECT_MIN;
                    }
                    tracing::debug!(leader = %self.leader, reason, "fetching broke off");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_MAX);
                }
            }
        }
    }

    async fn follow(&mut self, mut session: FetchSession) -> End {
        let Some(address) = self.leader_address() else { return End::Broken("the leader is not registered".into()) };
        let client_id = format!("replica-{}", self.node.broker);
        let mut connection = match Connection::open(&address, &client_id, CONNECT_TIMEOUT).await {
            Ok(connection) => connection,
            Err(error) => return End::Broken(error.to_string()),
        };
        self.node.contacts.regained(self.leader);
        loop {
            self.take_orders(&mut session);
            if self.followed.is_empty() {
                return End::Interrupted;
            }
            if session.is_new() {
                self.changed = self.followed.keys().copied().collect();
            }
            self.wake_rested();
            let positions = self.positions(&mut session).await;
            let wait = self.wait();
            if positions.is_empty() && session.is_empty() {
                // All rest: an empty fetch is answered at once, however long it may wait.
                self.pause(wait).await;
                continue;
            }
            let request = self.request(&mut session, positions, wait);
            let call = connection.call(FETCH_VERSION, &request, wait + ANSWER_TIMEOUT);
            let response: FetchResponse = tokio::select! {
                response = call => match response {
                    Ok(response) => response,
                    Err(error) => {
                        self.node.contacts.lost(self.leader, clock::now());
                        return End::Broken(error.to_string());
                    }
                },
                () = self.interruption() => return End::Interrupted,
            };
            match ResponseError::try_from_code(response.error_code) {
                None => {}
                Some(ResponseError::FetchSessionIdNotFound | ResponseError::InvalidFetchSessionEpoch)
                    if !session.is_new() =>
                {
                    session = FetchSession::default();
                    continue;
                }
                Some(error) => return End::Broken(format!("the leader refused the fetch: {error:?}")),
            }
            session.answered(response.session_id);
            self.take_response(&mut session, response);
        }
    }

    fn leader_address(&self) -> Option<String> {
        let image = self.node.image.load();
        let endpoint = &image.brokers.get(&self.leader)?.registration.replica_endpoint;
        Some(format!("{}:{}", endpoint.host, endpoint.port))
    }

    fn take_orders(&mut self, session: &mut FetchSession) {
        let orders = std::mem::take(&mut *self.mailbox.orders.lock());
        for order in orders {
            match order {
                Order::Follow(partition, epoch) => {
                    let id = partition.id;
                    self.resting.remove(&id);
                    self.changed.insert(id);
                    self.followed.insert(id, Followed { partition, epoch, refusals: 0 });
                }
                Order::Forget(id) => self.leave(id, session),
            }
        }
    }

    fn leave(&mut self, id: TopicPartition, session: &mut FetchSession) {
        self.followed.remove(&id);
        self.changed.remove(&id);
        self.resting.remove(&id);
        session.forget(id);
    }

    async fn interruption(&self) {
        loop {
            self.mailbox.urgent.notified().await;
            // A kick whose orders were taken before this fetch went out is over.
            if !self.mailbox.orders.lock().is_empty() {
                break;
            }
        }
        if let Some(last) = self.interrupted_at {
            let since = clock::now().saturating_duration_since(last);
            tokio::time::sleep(INTERRUPTION_GAP.saturating_sub(since)).await;
        }
    }

    /// Nothing is to be fetched, until the next partition has rested or an order comes.
    async fn pause(&self, wait: Duration) {
        if !self.followed.is_empty() {
            // Either way the loop looks at both.
            let _waited_or_ordered = tokio::time::timeout(wait, self.interruption()).await;
        }
    }

    /// Takes up again those that have rested.
    fn wake_rested(&mut self) {
        let now = clock::now();
        let rested: Vec<TopicPartition> =
            self.resting.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect();
        for id in rested {
            self.resting.remove(&id);
            self.changed.insert(id);
        }
    }

    /// How long the next fetch may wait: no longer than until the next partition has rested.
    fn wait(&self) -> Duration {
        let now = clock::now();
        let next = self.resting.values().min().map(|until| until.saturating_duration_since(now));
        let most = self.node.config.fetch_wait_max;
        next.map_or(most, |next| next.max(Duration::from_millis(1)).min(most))
    }

    /// Where the changed partitions go on, once all they hold is on disk if it must be.
    async fn positions(&mut self, session: &mut FetchSession) -> Vec<(TopicPartition, Position)> {
        let mut positions = self.look(session);
        if self.synced {
            let dirty: Vec<Arc<Partition>> = positions
                .iter()
                .filter(|(_, position)| position.needs_flush)
                .filter_map(|(id, _)| self.followed.get(id).map(|f| f.partition.clone()))
                .collect();
            if !dirty.is_empty() {
                sync_all(&self.node.flusher, dirty).await;
                self.changed = positions.into_iter().map(|(id, _)| id).collect();
                positions = self.look(session);
                // Not durable after a flush: the log went offline, and a fetch would ack what is not on disk.
                positions.retain(|(id, position)| {
                    if position.needs_flush {
                        tracing::error!(partition = %id, "not replicated: what it holds could not be flushed");
                        self.resting.insert(*id, clock::now() + RETRY_MAX);
                        session.forget(*id);
                    }
                    !position.needs_flush
                });
            }
        }
        positions
    }

    fn look(&mut self, session: &mut FetchSession) -> Vec<(TopicPartition, Position)> {
        let mut positions = Vec::with_capacity(self.changed.len());
        for id in std::mem::take(&mut self.changed) {
            if self.resting.contains_key(&id) {
                continue;
            }
            if let Some(until) = self.throttled_until(id) {
                self.resting.insert(id, until);
                session.forget(id);
                continue;
            }
            let Some(followed) = self.followed.get(&id) else { continue };
            match followed.partition.position(followed.epoch) {
                Some(position) => positions.push((id, position)),
                None if followed.partition.still_follows(followed.epoch) => self.rest(id, session),
                // The order that replaces this one is on its way, or the log is offline.
                None => self.leave(id, session),
            }
        }
        positions
    }

    /// When a throttled replica may fetch again; `None`: now, as all others.
    fn throttled_until(&mut self, id: TopicPartition) -> Option<Instant> {
        let image = self.node.image.load();
        let (me, now) = (self.node.broker, clock::now());
        if !throttle::is_throttled(&image, id, me, me) {
            return None;
        }
        let rate = throttle::follower_rate(&image, me, self.node.config.throttled_rate);
        self.node.fetching.lock().wait(rate, now)
    }

    /// What came for a throttled replica is paid for.
    fn pay(&mut self, id: TopicPartition, bytes: usize) {
        let me = self.node.broker;
        if bytes > 0 && throttle::is_throttled(&self.node.image.load(), id, me, me) {
            self.node.fetching.lock().take(bytes);
        }
    }

    fn request(
        &self,
        session: &mut FetchSession,
        positions: Vec<(TopicPartition, Position)>,
        wait: Duration,
    ) -> FetchRequest {
        let bytes = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let config = &self.node.config;
        let mentioned = session.mention(positions, bytes(config.fetch_partition_bytes_max));
        FetchRequest::default()
            .with_replica_state(
                ReplicaState::default()
                    .with_replica_id(kafka_protocol::messages::BrokerId(self.node.broker.0))
                    .with_replica_epoch(self.node.epoch().0),
            )
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(bytes(config.fetch_bytes_max))
            .with_session_id(mentioned.session_id)
            .with_session_epoch(mentioned.session_epoch)
            .with_topics(mentioned.topics)
            .with_forgotten_topics_data(mentioned.forgotten)
    }

    fn take_response(&mut self, session: &mut FetchSession, response: FetchResponse) {
        for topic in response.responses {
            for data in topic.partitions {
                let id = TopicPartition::new(TopicId(topic.topic_id), data.partition_index);
                self.take_partition(session, id, data);
            }
        }
    }

    fn take_partition(&mut self, session: &mut FetchSession, id: TopicPartition, data: PartitionData) {
        self.pay(id, data.records.as_ref().map_or(0, Bytes::len));
        let Some(followed) = self.followed.get_mut(&id) else { return };
        let (partition, epoch) = (&followed.partition, followed.epoch);
        let outcome = match ResponseError::try_from_code(data.error_code) {
            None if data.diverging_epoch.epoch >= 0 => {
                let answer = (LeaderEpoch(data.diverging_epoch.epoch), Offset(data.diverging_epoch.end_offset));
                partition.on_diverging(epoch, answer).map(|()| true)
            }
            None => partition.on_fetched(
                epoch,
                Fetched {
                    records: data.records.unwrap_or_default(),
                    high_watermark: Offset(data.high_watermark),
                    log_start: Offset(data.log_start_offset),
                },
            ),
            Some(ResponseError::OffsetOutOfRange) if data.log_start_offset >= 0 => {
                partition.on_out_of_range(epoch, Offset(data.log_start_offset)).map(|()| true)
            }
            Some(error) => {
                tracing::debug!(partition = ?partition, leader = %self.leader, ?error, "the leader refused");
                return self.rest(id, session);
            }
        };
        match outcome {
            Ok(moved) => {
                followed.refusals = 0;
                if moved {
                    self.changed.insert(id);
                }
            }
            Err(FollowError::Superseded) if partition.still_follows(epoch) => self.rest(id, session),
            Err(FollowError::Superseded) => self.leave(id, session),
            Err(error) if error.is_final() => {
                tracing::error!(partition = ?partition, leader = %self.leader, %error, "replication of this partition stops here");
                self.leave(id, session);
            }
            Err(error) => {
                if followed.refusals.is_power_of_two() || followed.refusals == 0 {
                    tracing::warn!(partition = ?partition, leader = %self.leader, %error, "a fetched part was not taken; asking again");
                }
                self.rest_for(id, session, RETRY_LOCAL_MAX);
            }
        }
    }

    /// Out of the session for a while: an error would be answered at once, again and again.
    fn rest(&mut self, id: TopicPartition, session: &mut FetchSession) {
        self.rest_for(id, session, RETRY_MAX);
    }

    fn rest_for(&mut self, id: TopicPartition, session: &mut FetchSession, most: Duration) {
        let Some(followed) = self.followed.get_mut(&id) else { return };
        let pause = (RETRY_MIN * 2u32.saturating_pow(followed.refusals.min(8))).min(most);
        followed.refusals = followed.refusals.saturating_add(1);
        self.changed.remove(&id);
        self.resting.insert(id, clock::now() + pause);
        session.forget(id);
    }
}
