//! Metadata: brokers, topics, who leads.
//!
//! ```text
//! request ─→ wishes ─→ create what is missing (where both sides allow it) ─→ build(image) ─→ response
//! ```

use crate::ids::*;
use crate::kafka::context::{RequestContext, Services};
use crate::kafka::endpoints::{Door, controller_for_clients};
use crate::kafka::errors::{self, Code};
use crate::kafka::names::{is_internal, is_valid_topic, text, topic_name};
use crate::kafka::topic_rules;
use crate::metadata::command::MetadataError;
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::metadata::image::topics::{Partition, Topic};
use crate::metadata::intent::{Intent, IntentAnswer, IntentError, SubmitError, TopicIntent};
use crate::metadata::quorum::Update;
use crate::platform::clock;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Bound: topics created for one request; the client asks again for the rest.
const CREATED_MAX: usize = 1_000;
/// A client that waits longer asks again, and finds the topic then.
const CREATE_TIMEOUT: Duration = Duration::from_secs(2);

/// "Not asked for", in the fields for authorized operations.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// Without ACLs everyone may do everything: create, alter, describe, cluster action, describe and alter configs,
/// idempotent write (bits by Kafka's operation numbers).
pub const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;
/// Read, write, create, delete, alter, describe, describe and alter configs.
const TOPIC_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;

/// What the client asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wishes {
    All,
    /// Each once, in order of name or id.
    Some(BTreeSet<Wish>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Name(String),
    Id(TopicId),
    /// Neither: what a topic that cannot be answers.
    Nothing,
}

/// Why a missing topic was not created, by name.
type Failures = BTreeMap<String, Code>;

pub async fn handle(context: &RequestContext, request: MetadataRequest) -> MetadataResponse {
    let services = &context.services;
    let wishes = wishes(context.version, &request);
    let mut image = settled(services).await;
    let mut failures = Failures::new();
    let creatable = creatable(&image, &wishes);
    if !creatable.is_empty() {
        let configs = topic_rules::broker_configs(&image, &services.config.kafka, services.config.node_id);
        if request.allow_auto_topic_creation && configs.boolean("auto.create.topics.enable") {
            failures = create(context, creatable).await;
            image = services.quorum.image();
        }
    }
    let view = View {
        image: &image,
        door: Door::of(context),
        me: services.config.node_id,
        lingering: services.hosted.lately_fenced(&image, context.is_producers.load(Ordering::Relaxed)),
        version: context.version,
        topic_operations: request.include_topic_authorized_operations,
        cluster_operations: request.include_cluster_authorized_operations,
    };
    view.build(&wishes, &failures)
}

/// The image, once it is not about to change: a client whose leader just died asks at once, before the fence is committed,
/// and told of the dead one it may ask again only minutes later. Waits a moment at most.
async fn settled(services: &Services) -> Arc<Image> {
    let image = || services.quorum.image();
    settle(image, |image| services.hosted.in_doubt(image), || services.quorum.subscribe()).await
}

async fn settle(
    newest: impl Fn() -> Arc<Image>,
    in_doubt: impl Fn(&Image) -> Option<Instant>,
    subscribe: impl FnOnce() -> Receiver<Update>,
) -> Arc<Image> {
    let image = newest();
    let Some(until) = in_doubt(&image) else { return image };
    let mut updates = subscribe();
    loop {
        let image = newest();
        // One deadline a request: contact that is lost again and again must not hold it for ever.
        if clock::now() >= until || in_doubt(&image).is_none() {
            return image;
        }
        tokio::select! {
            update = updates.recv() => if matches!(update, Err(RecvError::Closed)) { return image },
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }
}

fn wishes(version: i16, request: &MetadataRequest) -> Wishes {
    let topics = match &request.topics {
        None => return Wishes::All,
        // Before there was a null, an empty list meant all.
        Some(topics) if version == 0 && topics.is_empty() => return Wishes::All,
        Some(topics) => topics,
    };
    let wish = |name: Option<&str>, id: uuid::Uuid| match name {
        Some(name) => Wish::Name(name.to_string()),
        None if id.is_nil() => Wish::Nothing,
        None => Wish::Id(TopicId(id)),
    };
    Wishes::Some(
        topics.iter().map(|topic| wish(topic.name.as_ref().map(|name| name.as_str()), topic.topic_id)).collect(),
    )
}

/// Missing topics that a request may bring into being.
fn creatable(image: &Image, wishes: &Wishes) -> Vec<String> {
    let Wishes::Some(wishes) = wishes else { return Vec::new() };
    let names = wishes.iter().filter_map(|wish| match wish {
        Wish::Name(name) => Some(name),
        Wish::Id(_) | Wish::Nothing => None,
    });
    // Internal topics are created by those who need them, with configs of their own.
    names
        .filter(|name| is_valid_topic(name) && !is_internal(name) && image.topic_by_name(name).is_none())
        .take(CREATED_MAX)
        .cloned()
        .collect()
}

async fn create(context: &RequestContext, names: Vec<String>) -> Failures {
    let topics = names.iter().map(|name| TopicIntent {
        name: name.clone(),
        partitions: -1,
        replication_factor: -1,
        assignments: None,
        configs: BTreeMap::new(),
    });
    let intent = Intent::CreateTopics { topics: topics.collect(), validate_only: false };
    let answer = context.services.controller.submit(intent, CREATE_TIMEOUT).await;
    failures(names, answer)
}

fn failures(names: Vec<String>, answer: Result<IntentAnswer, SubmitError>) -> Failures {
    match answer {
        Ok(IntentAnswer::Topics(results)) => names
            .into_iter()
            .zip(results)
            .filter_map(|(name, result)| match result {
                // Somebody else was faster; the image shows it, or will soon.
                Err(IntentError::Metadata(MetadataError::TopicExists(_))) => Some((name, Code::LeaderNotAvailable)),
                Err(error) => Some((name, errors::intent(&error))),
                Ok(_) => None,
            })
            .collect(),
        // The client asks again soon on this one.
        _ => names.into_iter().map(|name| (name, Code::LeaderNotAvailable)).collect(),
    }
}

/// Everything an answer depends on.
struct View<'a> {
    image: &'a Image,
    door: Door<'a>,
    me: BrokerId,
    /// Listed though fenced: lately they were not.
    lingering: BTreeSet<BrokerId>,
    version: i16,
    topic_operations: bool,
    cluster_operations: bool,
}

impl View<'_> {
    fn build(&self, wishes: &Wishes, failures: &Failures) -> MetadataResponse {
        let topics = match wishes {
            Wishes::All => self.image.topics.values().map(|topic| self.topic(topic)).collect(),
            Wishes::Some(wishes) => wishes.iter().map(|wish| self.wished(wish, failures)).collect(),
        };
        let listed = |broker: BrokerId| self.is_live(broker) || self.lingering.contains(&broker);
        // With nobody listed some clients (librdkafka 2.12 and later) forget every address they know, for good; with the
        // dead alone they would be no better off.
        let is_usable = |(id, broker): (&BrokerId, &Broker)| self.is_live(*id) && self.door.endpoint(broker).is_some();
        let nobody = !self.image.brokers.iter().any(is_usable);
        let brokers = self.image.brokers.iter().filter(|(id, _)| nobody || listed(**id));
        let brokers = brokers.filter_map(|(id, broker)| {
            let endpoint = self.door.endpoint(broker)?;
            Some(
                MetadataResponseBroker::default()
                    .with_node_id(id.0.into())
                    .with_host(text(&endpoint.host))
                    .with_port(i32::from(endpoint.port))
                    .with_rack(broker.registration.rack.as_deref().filter(|_| self.version >= 1).map(text)),
            )
        });
        let mut response = MetadataResponse::default().with_brokers(brokers.collect()).with_topics(topics);
        if self.version >= 1 {
            response.controller_id = controller_for_clients(self.image, self.me).map_or(-1, |id| id.0).into();
        }
        if self.version >= 2 {
            response.cluster_id = Some(text(&self.image.cluster_id.to_string()));
        }
        if (8..=10).contains(&self.version) && self.cluster_operations {
            response.cluster_authorized_operations = CLUSTER_OPERATIONS;
        }
        response
    }

    fn wished(&self, wish: &Wish, failures: &Failures) -> MetadataResponseTopic {
        match wish {
            Wish::Name(name) => match self.image.topic_by_name(name) {
                Some(topic) => self.topic(topic),
                None => {
                    let code = match failures.get(name) {
                        _ if !is_valid_topic(name) => Code::InvalidTopicException,
                        Some(code) => *code,
                        None => Code::UnknownTopicOrPartition,
                    };
                    self.absent(code).with_name(Some(topic_name(name)))
                }
            },
            Wish::Id(id) => match self.image.topic(*id) {
                Some(topic) => self.topic(topic),
                None => self.absent(Code::UnknownTopicId).with_topic_id(id.0),
            },
            Wish::Nothing => self.absent(Code::InvalidTopicException),
        }
    }

    /// Its name is null only in versions that allow it.
    fn absent(&self, code: Code) -> MetadataResponseTopic {
        MetadataResponseTopic::default().with_error_code(code.code()).with_name(if self.version >= 12 {
            None
        } else {
            Some(topic_name(""))
        })
    }

    fn topic(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions = (0..).zip(&topic.partitions).map(|(index, partition)| self.partition(index, partition));
        let mut response = MetadataResponseTopic::default()
            .with_name(Some(topic_name(&topic.name)))
            .with_partitions(partitions.collect())
            .with_is_internal(self.version >= 1 && is_internal(&topic.name));
        if self.version >= 10 {
            response.topic_id = topic.id.0;
        }
        if self.version >= 8 && self.topic_operations {
            response.topic_authorized_operations = TOPIC_OPERATIONS;
        }
        response
    }

    fn partition(&self, index: i32, partition: &Partition) -> MetadataResponsePartition {
        let (leader, code) = self.leader(partition);
        let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0.into()).collect();
        let mut response = MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_error_code(code.map_or(0, |code| code.code()))
            .with_leader_id(leader.map_or(-1, |id| id.0).into())
            .with_replica_nodes(ids(&partition.replicas))
            .with_isr_nodes(ids(&partition.isr));
        if self.version >= 5 {
            let offline = partition.replicas.iter().filter(|id| !self.is_live(**id));
            response.offline_replicas = offline.map(|id| id.0.into()).collect();
        }
        if self.version >= 7 {
            response.leader_epoch = partition.leader_epoch.0;
        }
        response
    }

    fn is_live(&self, id: BrokerId) -> bool {
        self.image.brokers.get(&id).is_some_and(|broker| !broker.fenced)
    }

    /// The leader as this client can reach it.
    fn leader(&self, partition: &Partition) -> (Option<BrokerId>, Option<Code>) {
        let Some(leader) = partition.leader.filter(|id| self.is_live(*id)) else {
            return (None, Some(Code::LeaderNotAvailable));
        };
        match self.image.brokers.get(&leader).and_then(|broker| self.door.endpoint(broker)) {
            Some(_) => (Some(leader), None),
            None if self.version >= 6 => (None, Some(Code::ListenerNotFound)),
            None => (None, Some(Code::LeaderNotAvailable)),
        }
    }
}

#[cfg(test)]
#[path = "metadata_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "testing.rs"]
pub mod testing;
