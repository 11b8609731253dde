//! Fetch, for consumers and (on the replica listener) for followers.
//!
//! ```text
//! request ─→ session ─→ read what is hot ─→ enough? ─no→ park on the watcher, read what was marked ─┐
//!                                             └yes or deadline→ answer                  ↑───────────┘
//! ```

use super::fetch_round::{Answered, Failure, Limit, Round, Rules};
use super::fetch_session::{Entry, Session, TopicKey, Wish};
use super::fetch_session_cache::{CheckedOut, EPOCH_FIRST, EPOCH_NONE, SessionCache};
use crate::config::broker::RACK_AWARE_SELECTOR;
use crate::ids::*;
use crate::kafka::budget::Lease;
use crate::kafka::context::RequestContext;
use crate::kafka::endpoints::{Door, NamedLeaders, newest_leader};
use crate::kafka::errors::{self, Code};
use crate::kafka::names::{is_valid_topic, text};
use crate::metadata::image::Image;
use crate::metadata::image::topics::Topic;
use crate::platform::{clock, random};
use crate::replica::partition::{FollowerState, LeaderHint, PartitionError, ReadOutcome, ReadRequest};
use crate::replica::watcher::Watcher;
use crate::wire::codec::{FETCH_FILLS_TAG, FETCH_REFUSED_TAG};
use bytes::Bytes;
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// One answer's records, whatever the client asks for.
const FETCH_BYTES_MAX: usize = 55 << 20;
/// What a fetch may always have, however many replies wait to be written.
const FETCH_BYTES_FLOOR: usize = 1 << 20;
/// A follower that only has a new high watermark to learn waits so long for data to go with it.
const HIGH_WATERMARK_LINGER: Duration = Duration::from_millis(5);
/// Between two looks of a fetch that waits for many bytes.
const GATHER_PAUSE: Duration = Duration::from_millis(2);
/// Cold partitions are read again so often, should a mark ever have been missed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

const READ_COMMITTED: i8 = 1;
const WITH_SESSIONS: i16 = 7;
/// From here on consumers know that followers may serve them (KIP-392).
const WITH_RACK: i16 = 11;
const BY_ID: i16 = 13;
const WITH_REPLICA_STATE: i16 = 15;
const WITH_LEADER: i16 = 16;

/// Who fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetcher {
    Consumer,
    Follower { broker: BrokerId, epoch: BrokerEpoch },
}

fn fetcher(version: i16, request: &FetchRequest) -> Fetcher {
    let (id, epoch) = if version >= WITH_REPLICA_STATE {
        (request.replica_state.replica_id.0, request.replica_state.replica_epoch)
    } else {
        (request.replica_id.0, -1)
    };
    if id < 0 {
        return Fetcher::Consumer;
    }
    Fetcher::Follower { broker: BrokerId(id), epoch: BrokerEpoch(epoch) }
}

/// The session a request works with.
enum Held {
    /// Only for this request, or not yet in the cache.
    Own(Box<Session>),
    Kept(CheckedOut),
}

impl Held {
    fn session(&mut self) -> &mut Session {
        match self {
            Held::Own(session) => session,
            Held::Kept(kept) => kept,
        }
    }
}

/// The answer, and the bytes it holds until it is written.
pub async fn handle(context: &RequestContext, request: FetchRequest) -> (FetchResponse, Lease) {
    let state = &context.services.state;
    let nothing = || state.reply_bytes.lease(0);
    let fetcher = fetcher(context.version, &request);
    // A client must not be able to forge a follower's ack, nor read here what followers may.
    if matches!(fetcher, Fetcher::Follower { .. }) != context.is_replica_listener {
        return (unauthorized(context.version, request), nothing());
    }
    let cache = if let Fetcher::Follower { broker, .. } = fetcher {
        context.services.hosted.follower_seen(broker);
        &state.replica_sessions
    } else {
        &state.client_sessions
    };
    let mut held = match open(cache, context.version, &request) {
        Ok(held) => held,
        Err(code) => return (FetchResponse::default().with_error_code(code.code()), nothing()),
    };
    let wants_session = context.version >= WITH_SESSIONS && request.session_epoch == EPOCH_FIRST;
    let is_kept = matches!(held, Held::Kept(_));
    let session = held.session();
    let refused = update(session, context.version, &request);

    let allowance = (state.reply_bytes.available() / 8).clamp(FETCH_BYTES_FLOOR, FETCH_BYTES_MAX);
    let rules = Rules {
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(allowance),
        is_follower: fetcher != Fetcher::Consumer,
        read_committed: request.isolation_level == READ_COMMITTED,
        is_incremental: is_kept,
    };
    let rack = consumer_rack(context, fetcher, &request).map(String::from);
    let gathering = Gathering { context, fetcher, rules, rack };
    // An error is told at once.
    let wait_ms = if refused.is_empty() { u64::try_from(request.max_wait_ms).unwrap_or(0) } else { 0 };
    let deadline = Instant::now() + Duration::from_millis(wait_ms);
    let round = gathering.run(session, deadline, is_kept || wants_session).await;
    let lease = state.reply_bytes.lease(round.bytes());
    let mut answered = round.finish(session);
    answered.extend(refused);

    let session_id = match held {
        Held::Kept(kept) => kept.id,
        Held::Own(session) if wants_session => {
            let draw = || i32::try_from(random::between(1..1 << 31)).unwrap_or(0);
            cache.insert(session, context.version >= BY_ID, clock::now(), draw)
        }
        Held::Own(_) => 0,
    };
    let image = context.services.quorum.image();
    let response = respond(context.version, &image, Door::of(context), rules.read_committed, answered);
    (response.with_session_id(session_id), lease)
}

fn open(cache: &Arc<SessionCache>, version: i16, request: &FetchRequest) -> Result<Held, Code> {
    let own = || Ok(Held::Own(Box::default()));
    if version < WITH_SESSIONS {
        return own();
    }
    match request.session_epoch {
        EPOCH_NONE | EPOCH_FIRST => {
            if request.session_id != 0 {
                cache.remove(request.session_id);
            }
            own()
        }
        epoch => cache.take(request.session_id, epoch, version >= BY_ID, clock::now()).map(Held::Kept),
    }
}

/// Keeps a copy of the name: the request's shares its memory with whole frames.
fn topic_key(version: i16, name: &TopicName, id: uuid::Uuid) -> TopicKey {
    if version >= BY_ID { TopicKey::Id(TopicId(id)) } else { TopicKey::Name(TopicName(text(name))) }
}

/// Brings the session to what the request wants now. Topics that cannot exist do not get in, since a session and the
/// names in it outlive the connection: they are returned, answered already.
fn update(session: &mut Session, version: i16, request: &FetchRequest) -> Vec<Answered> {
    let mut refused = Vec::new();
    for topic in &request.forgotten_topics_data {
        let key = topic_key(version, &topic.topic, topic.topic_id);
        for partition in &topic.partitions {
            let forgotten = session.forget(&key, *partition);
            if let (Some(entry), Some(watcher)) = (forgotten, &session.watcher)
                && let Some(partition) = entry.watched.upgrade()
            {
                partition.unwatch(watcher);
            }
        }
    }
    for topic in &request.topics {
        let key = topic_key(version, &topic.topic, topic.topic_id);
        if version < BY_ID && !is_valid_topic(&topic.topic) {
            refused.extend(topic.partitions.iter().map(|asked| Answered {
                topic: key.clone(),
                partition: asked.partition,
                outcome: Err(unplaced(Code::UnknownTopicOrPartition)),
            }));
            continue;
        }
        for asked in &topic.partitions {
            let wish = Wish {
                offset: Offset(asked.fetch_offset),
                max_bytes: usize::try_from(asked.partition_max_bytes).unwrap_or(0),
                current_leader_epoch: LeaderEpoch(asked.current_leader_epoch),
                last_fetched_epoch: LeaderEpoch(asked.last_fetched_epoch),
                log_start: Offset(asked.log_start_offset),
                refused: asked.unknown_tagged_fields.contains_key(&FETCH_REFUSED_TAG),
                fills: asked.unknown_tagged_fields.contains_key(&FETCH_FILLS_TAG),
            };
            session.put(key.clone(), asked.partition, wish);
        }
    }
    if session.swept.is_none_or(|swept| clock::now().duration_since(swept) >= SWEEP_INTERVAL) {
        session.swept = Some(clock::now());
        session.heat_all();
    }
    refused
}

/// Reads, and waits while there is not enough.
struct Gathering<'a> {
    context: &'a RequestContext,
    fetcher: Fetcher,
    rules: Rules,
    /// Of a consumer that is to read from the nearest replica.
    rack: Option<String>,
}

impl Gathering<'_> {
    async fn run(&self, session: &mut Session, deadline: Instant, lasts: bool) -> Round {
        let mut round = Round::new(self.rules);
        let mut watcher = session.watcher.clone();
        if lasts && watcher.is_none() {
            watcher = Some(self.subscribe(session));
        }
        // Marks are taken before the read: what changes after it marks again.
        for token in watcher.iter().flat_map(|watcher| watcher.take()) {
            session.heat(token);
        }
        let tokens = session.hot();
        self.read(&mut round, session, &tokens, watcher.as_ref());
        let mut looks = 0;
        while !round.is_enough(session) && Instant::now() < deadline {
            let Some(watcher) = &watcher else {
                // A fetch outside a session subscribes only once it must wait, and looks again for what came between.
                let new = watcher.insert(self.subscribe(session)).clone();
                self.read(&mut round, session, &tokens, Some(&new));
                continue;
            };
            // Answered empty then, and asked for again: no mark comes when what is held back may go.
            let held = round.held_until().map(Instant::from_std);
            if !self.park(watcher, held.map_or(deadline, |held| held.min(deadline))).await {
                break;
            }
            if self.rules.min_bytes > 1 && looks > 0 {
                sleep_until((Instant::now() + GATHER_PAUSE).min(deadline)).await;
            }
            looks += 1;
            let marked = watcher.take();
            marked.iter().for_each(|token| session.heat(*token));
            self.read(&mut round, session, &marked, Some(watcher));
        }
        round
    }

    fn subscribe(&self, session: &mut Session) -> Arc<Watcher> {
        let watcher = if self.rules.is_follower { Watcher::new() } else { Watcher::of_consumer() };
        session.watcher.insert(watcher).clone()
    }

    /// Until something changed; false at the deadline.
    async fn park(&self, watcher: &Watcher, deadline: Instant) -> bool {
        let changed = async {
            if !self.rules.is_follower {
                return watcher.marked().await;
            }
            tokio::select! {
                () = watcher.marked_hard() => {}
                () = async { watcher.marked().await; sleep(HIGH_WATERMARK_LINGER).await } => {}
            }
        };
        timeout_at(deadline, changed).await.is_ok()
    }

    fn read(&self, round: &mut Round, session: &mut Session, tokens: &[u32], watcher: Option<&Arc<Watcher>>) {
        let image = self.context.services.quorum.image();
        let near =
            self.rack.as_deref().map(|rack| brokers_in(&image, rack, Door::of(self.context))).unwrap_or_default();
        round.read(session, tokens, |token, entry, limit| self.read_one(&image, &near, token, entry, limit, watcher));
    }

    fn read_one(
        &self,
        image: &Image,
        near: &[BrokerId],
        token: u32,
        entry: &mut Entry,
        limit: Limit,
        watcher: Option<&Arc<Watcher>>,
    ) -> Result<ReadOutcome, Failure> {
        let topic = known(image, &entry.topic, entry.partition)?;
        let id = TopicPartition::new(topic.id, entry.partition);
        let partition = self.context.services.hosted.get(id).ok_or_else(|| failure(id, &PartitionError::NotHosted))?;
        // Subscribed before it is read, so that no change falls in between.
        if let Some(watcher) = watcher.filter(|_| !std::ptr::eq(entry.watched.as_ptr(), Arc::as_ptr(&partition))) {
            partition.watch(watcher, token);
            entry.watched = Arc::downgrade(&partition);
        }
        let follower = match self.fetcher {
            Fetcher::Consumer => None,
            Fetcher::Follower { broker, epoch } => Some(FollowerState {
                broker,
                broker_epoch: epoch,
                last_fetched_epoch: entry.wish.last_fetched_epoch,
                log_start: entry.wish.log_start,
                refused: entry.wish.refused,
                fills: entry.wish.fills,
            }),
        };
        let request = ReadRequest {
            offset: entry.wish.offset,
            max_bytes: limit.max_bytes,
            at_least_one: limit.at_least_one,
            current_leader_epoch: entry.wish.current_leader_epoch,
            read_committed: self.rules.read_committed,
            any_replica: self.fetcher == Fetcher::Consumer && self.context.version >= WITH_RACK,
            follower,
        };
        if let Some(elsewhere) = partition.redirect(&request, near) {
            return Ok(elsewhere);
        }
        partition.read(&request).map_err(|error| failure(id, &error))
    }
}

/// The rack of a consumer, where the brokers are told to heed it.
fn consumer_rack<'a>(context: &RequestContext, fetcher: Fetcher, request: &'a FetchRequest) -> Option<&'a str> {
    let heeded = || context.services.config.kafka.text("replica.selector.class") == RACK_AWARE_SELECTOR;
    let rack = (fetcher == Fetcher::Consumer && context.version >= WITH_RACK).then_some(&*request.rack_id)?;
    (!rack.is_empty() && heeded()).then_some(rack)
}

/// Live brokers of a rack that the consumer can reach: those with the listener that it came in on.
fn brokers_in(image: &Image, rack: &str, door: Door<'_>) -> Vec<BrokerId> {
    let near = image.brokers.iter().filter(|(_, broker)| {
        broker.is_active() && broker.registration.rack.as_deref() == Some(rack) && door.endpoint(broker).is_some()
    });
    near.map(|(id, _)| *id).collect()
}

/// Of a partition that there is not.
fn unplaced(code: Code) -> Failure {
    Failure { code, id: None, hint: None, log_start: Offset(-1) }
}

fn known<'a>(image: &'a Image, topic: &TopicKey, partition: i32) -> Result<&'a Arc<Topic>, Failure> {
    let topic = match topic {
        TopicKey::Name(name) => image.topic_by_name(name).ok_or_else(|| unplaced(Code::UnknownTopicOrPartition))?,
        TopicKey::Id(id) => image.topic(*id).ok_or_else(|| unplaced(Code::UnknownTopicId))?,
    };
    match usize::try_from(partition) {
        Ok(index) if index < topic.partitions.len() => Ok(topic),
        _ => Err(unplaced(Code::UnknownTopicOrPartition)),
    }
}

fn failure(id: TopicPartition, error: &PartitionError) -> Failure {
    let log_start = match error {
        PartitionError::OutOfRange { start, .. } => *start,
        _ => Offset(-1),
    };
    Failure { code: errors::partition(error), id: Some(id), hint: errors::leader_hint(error), log_start }
}

fn respond(
    version: i16,
    image: &Image,
    door: Door<'_>,
    read_committed: bool,
    answered: Vec<Answered>,
) -> FetchResponse {
    let mut named = NamedLeaders::default();
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    let mut places: HashMap<TopicKey, usize> = HashMap::new();
    for one in answered {
        let place = *places.entry(one.topic).or_insert_with_key(|topic| {
            let response = FetchableTopicResponse::default();
            responses.push(match topic {
                TopicKey::Name(name) => response.with_topic(name.clone()),
                TopicKey::Id(id) => response.with_topic_id(id.0),
            });
            responses.len() - 1
        });
        let data = match one.outcome {
            Ok(outcome) => found(version, one.partition, outcome, read_committed),
            Err(failure) => failed(version, one.partition, &failure, image, door, &mut named),
        };
        responses[place].partitions.push(data);
    }
    let nodes = named.into_nodes().into_iter().map(|node| {
        NodeEndpoint::default()
            .with_node_id(node.id.0.into())
            .with_host(text(&node.host))
            .with_port(node.port)
            .with_rack(node.rack.as_deref().map(text))
    });
    FetchResponse::default().with_responses(responses).with_node_endpoints(nodes.collect())
}

fn found(version: i16, partition: i32, outcome: ReadOutcome, read_committed: bool) -> PartitionData {
    let mut data = PartitionData::default()
        .with_partition_index(partition)
        .with_high_watermark(outcome.high_watermark.0)
        .with_last_stable_offset(outcome.last_stable.0)
        .with_aborted_transactions(read_committed.then(Vec::new))
        // Never null: clients take that for a broken answer.
        .with_records(Some(outcome.chunk.bytes));
    if version >= 5 {
        data.log_start_offset = outcome.log_start.0;
    }
    if let Some(preferred) = outcome.preferred.filter(|_| version >= WITH_RACK) {
        data.preferred_read_replica = preferred.0.into();
    }
    if let Some((epoch, end)) = outcome.diverging.filter(|_| version >= 12) {
        data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch.0).with_end_offset(end.0);
    }
    data
}

fn failed(
    version: i16,
    partition: i32,
    failure: &Failure,
    image: &Image,
    door: Door<'_>,
    named: &mut NamedLeaders,
) -> PartitionData {
    let mut data = PartitionData::default()
        .with_partition_index(partition)
        .with_error_code(failure.code.code())
        .with_high_watermark(-1)
        .with_aborted_transactions(None)
        .with_records(Some(Bytes::new()));
    if version >= 5 {
        data.log_start_offset = failure.log_start.0;
    }
    if version >= WITH_LEADER && errors::wants_leader(failure.code) {
        let leader = failure.id.and_then(|id| newest_leader(image, id, failure.hint));
        if let Some(LeaderHint { leader, epoch }) = leader {
            let reachable = leader.filter(|id| named.name(image, *id, door));
            data.current_leader = LeaderIdAndEpoch::default()
                .with_leader_id(reachable.map_or(-1, |id| id.0).into())
                .with_leader_epoch(epoch.0);
        }
    }
    data
}

fn unauthorized(version: i16, request: FetchRequest) -> FetchResponse {
    let code = Code::ClusterAuthorizationFailed.code();
    let topics = request.topics.into_iter().map(|topic| {
        let rows = topic.partitions.iter().map(|asked| {
            PartitionData::default()
                .with_partition_index(asked.partition)
                .with_error_code(code)
                .with_high_watermark(-1)
                .with_aborted_transactions(None)
                .with_records(Some(Bytes::new()))
        });
        let response = FetchableTopicResponse::default().with_partitions(rows.collect());
        if version >= BY_ID { response.with_topic_id(topic.topic_id) } else { response.with_topic(topic.topic) }
    });
    let response = FetchResponse::default().with_responses(topics.collect());
    if version >= WITH_SESSIONS { response.with_error_code(code) } else { response }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
