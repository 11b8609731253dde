//! CreateTopics, DeleteTopics, CreatePartitions: what is wanted goes to the controller as one intent a request.
//!
//! ```text
//! request ─→ one item a topic: an intent, or why it cannot be one ─→ submit ─→ outcomes by item ─→ response
//! ```

use super::configs::{self, Shown};
use crate::ids::*;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::{self, Code};
use crate::kafka::names::{text, topic_name};
use crate::kafka::topic_rules;
use crate::metadata::image::Image;
use crate::metadata::intent::{
    Intent, IntentAnswer, IntentError, PartitionsIntent, SubmitError, TopicIntent, TopicOutcome,
};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, TopicName,
};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use uuid::Uuid;

/// No client waits longer for the controller here.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// A code, and what the client's user reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub code: Code,
    pub message: String,
}

impl Failed {
    pub fn new(code: Code, message: impl Into<String>) -> Failed {
        Failed { code, message: message.into() }
    }
}

impl From<&IntentError> for Failed {
    fn from(error: &IntentError) -> Failed {
        Failed::new(errors::intent(error), error.to_string())
    }
}

impl From<&SubmitError> for Failed {
    fn from(error: &SubmitError) -> Failed {
        Failed::new(errors::submit(error), error.to_string())
    }
}

pub fn timeout(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0)).min(TIMEOUT_MAX)
}

/// The controller's outcome of each of `count` items.
pub fn outcomes(answer: Result<IntentAnswer, SubmitError>, count: usize) -> Vec<Result<Option<TopicOutcome>, Failed>> {
    let outcomes: Vec<_> = match answer {
        Ok(IntentAnswer::Done) => vec![Ok(None); count],
        Ok(IntentAnswer::Topics(all)) => all.iter().map(|one| one.clone().map(Some).map_err(|e| (&e).into())).collect(),
        Ok(IntentAnswer::Results(all)) => {
            all.iter().map(|one| one.clone().map(|()| None).map_err(|e| (&e).into())).collect()
        }
        Ok(_) => Vec::new(),
        Err(error) => vec![Err((&error).into()); count],
    };
    if outcomes.len() == count {
        return outcomes;
    }
    tracing::error!(count, answered = outcomes.len(), "the controller's answer does not fit what was asked");
    vec![Err(Failed::new(Code::UnknownServerError, "the controller's answer does not fit what was asked")); count]
}

/// Items that can be asked for go to the controller together; each result ends where its item stands in the request.
pub(super) async fn ask<T>(
    items: Vec<Result<T, Failed>>,
    submit: impl AsyncFnOnce(Vec<T>) -> Result<IntentAnswer, SubmitError>,
) -> Vec<Result<Option<TopicOutcome>, Failed>> {
    let mut results = Vec::with_capacity(items.len());
    let mut wanted = Vec::new();
    for item in items {
        results.push(item.map(|item| {
            wanted.push(item);
            None
        }));
    }
    if wanted.is_empty() {
        return results;
    }
    let count = wanted.len();
    let mut answered = outcomes(submit(wanted).await, count).into_iter();
    for result in results.iter_mut().filter(|result| result.is_ok()) {
        *result = answered.next().expect("an outcome for each item");
    }
    results
}

fn counted<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<&'a str, usize> {
    let mut counts = HashMap::new();
    names.for_each(|name| *counts.entry(name).or_insert(0) += 1);
    counts
}

fn twice() -> Failed {
    Failed::new(Code::InvalidRequest, "the request names this topic more than once")
}

pub async fn create(context: &RequestContext, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let services = &context.services;
    let counts = counted(request.topics.iter().map(|topic| topic.name.as_str()));
    let items = request
        .topics
        .iter()
        .map(|topic| if counts[topic.name.as_str()] > 1 { Err(twice()) } else { creatable(topic) });
    let results = ask(items.collect(), async |topics| {
        let intent = Intent::CreateTopics { topics, validate_only: request.validate_only };
        services.controller.submit(intent, timeout(request.timeout_ms)).await
    })
    .await;
    let image = services.quorum.image();
    let broker = topic_rules::broker_configs(&image, &services.config.kafka, services.config.node_id);
    let rows = request.topics.iter().zip(results).map(|(topic, result)| {
        let set = topic
            .configs
            .iter()
            .filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())));
        created(context.version, &topic.name, result, || configs::of_new_topic(&set.clone().collect(), &broker))
    });
    CreateTopicsResponse::default().with_topics(rows.collect())
}

fn creatable(topic: &CreatableTopic) -> Result<TopicIntent, Failed> {
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            return Err(Failed::new(Code::InvalidConfig, format!("{} has no value", &*config.name)));
        };
        configs.insert(config.name.to_string(), value.to_string());
    }
    let assignments = if topic.assignments.is_empty() {
        None
    } else {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let message = "with replicas given, the partition count and the replication factor must be -1";
            return Err(Failed::new(Code::InvalidRequest, message));
        }
        let rows = topic.assignments.iter().map(|row| (row.partition_index, brokers(&row.broker_ids)));
        let by_partition: BTreeMap<i32, Vec<BrokerId>> = rows.collect();
        let is_gapless = by_partition.keys().zip(0..).all(|(partition, expected)| *partition == expected);
        if !is_gapless || by_partition.len() != topic.assignments.len() {
            let message = "replicas must be given once for each partition, from 0 on without a gap";
            return Err(Failed::new(Code::InvalidReplicaAssignment, message));
        }
        Some(by_partition.into_values().collect())
    };
    Ok(TopicIntent {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments,
        configs,
    })
}

fn brokers(ids: &[kafka_protocol::messages::BrokerId]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(id.0)).collect()
}

fn created(
    version: i16,
    name: &TopicName,
    result: Result<Option<TopicOutcome>, Failed>,
    configs: impl FnOnce() -> Vec<Shown>,
) -> CreatableTopicResult {
    let row = CreatableTopicResult::default().with_name(name.clone()).with_error_message(None).with_configs(None);
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(Failed { code, message }) => {
            return row.with_error_code(code.code()).with_error_message(Some(text(&message)));
        }
    };
    let Some(outcome) = outcome.filter(|_| version >= 5) else { return row };
    let shown = configs().into_iter().map(|shown| {
        CreatableTopicConfigs::default()
            .with_name(text(shown.name))
            .with_value(Some(text(&shown.value)))
            .with_config_source(shown.source as i8)
    });
    let mut row = row
        .with_num_partitions(outcome.partitions)
        .with_replication_factor(outcome.replication_factor)
        .with_configs(Some(shown.collect()));
    if version >= 7 {
        row.topic_id = outcome.id.0;
    }
    row
}

/// A topic as DeleteTopics names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    name: Option<TopicName>,
    id: Uuid,
}

pub async fn delete(context: &RequestContext, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let services = &context.services;
    let image = services.quorum.image();
    let named: Vec<Named> = if context.version >= 6 {
        request.topics.into_iter().map(|topic| Named { name: topic.name, id: topic.topic_id }).collect()
    } else {
        request.topic_names.into_iter().map(|name| Named { name: Some(name), id: Uuid::nil() }).collect()
    };
    let broker = topic_rules::broker_configs(&image, &services.config.kafka, services.config.node_id);
    let items = deletable(&image, broker.boolean("delete.topic.enable"), &named);
    let results = ask(items, async |topics| {
        let intent = Intent::DeleteTopics { topics };
        services.controller.submit(intent, timeout(request.timeout_ms)).await
    })
    .await;
    let rows = named.into_iter().zip(results).map(|(named, result)| deleted(context.version, &image, named, result));
    DeleteTopicsResponse::default().with_responses(rows.collect())
}

fn deletable(image: &Image, enabled: bool, named: &[Named]) -> Vec<Result<TopicId, Failed>> {
    let mut counts: HashMap<TopicId, usize> = HashMap::new();
    let items: Vec<_> = named
        .iter()
        .map(|named| match &named.name {
            _ if !enabled => Err(Failed::new(Code::TopicDeletionDisabled, "delete.topic.enable is false")),
            Some(_) if !named.id.is_nil() => {
                Err(Failed::new(Code::InvalidRequest, "a topic is named by its name or its id, not both"))
            }
            Some(name) => image
                .topic_by_name(name)
                .map(|topic| topic.id)
                .ok_or_else(|| Failed::new(Code::UnknownTopicOrPartition, "no topic has this name")),
            None => image
                .topic(TopicId(named.id))
                .map(|topic| topic.id)
                .ok_or_else(|| Failed::new(Code::UnknownTopicId, "no topic has this id")),
        })
        .inspect(|item| {
            if let Ok(id) = item {
                *counts.entry(*id).or_insert(0) += 1;
            }
        })
        .collect();
    items.into_iter().map(|item| item.and_then(|id| if counts[&id] > 1 { Err(twice()) } else { Ok(id) })).collect()
}

fn deleted(
    version: i16,
    image: &Image,
    named: Named,
    result: Result<Option<TopicOutcome>, Failed>,
) -> DeletableTopicResult {
    let known = match &named.name {
        Some(name) => image.topic_by_name(name),
        None => image.topic(TopicId(named.id)),
    };
    let mut row = DeletableTopicResult::default().with_error_message(None);
    row.name = named.name.or_else(|| known.map(|topic| topic_name(&topic.name)));
    if version >= 6 {
        row.topic_id = known.map_or(named.id, |topic| topic.id.0);
    }
    if let Err(Failed { code, message }) = result {
        // The first versions do not know the code for deletion that is switched off.
        let code = if version < 3 && code == Code::TopicDeletionDisabled { Code::InvalidRequest } else { code };
        row.error_code = code.code();
        row.error_message = (version >= 5).then(|| text(&message));
    }
    row
}

pub async fn create_partitions(context: &RequestContext, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let services = &context.services;
    let counts = counted(request.topics.iter().map(|topic| topic.name.as_str()));
    let items = request
        .topics
        .iter()
        .map(|topic| if counts[topic.name.as_str()] > 1 { Err(twice()) } else { Ok(growing(topic)) });
    let results = ask(items.collect(), async |topics| {
        let intent = Intent::CreatePartitions { topics, validate_only: request.validate_only };
        services.controller.submit(intent, timeout(request.timeout_ms)).await
    })
    .await;
    let rows = request.topics.iter().zip(results).map(|(topic, result)| grown(&topic.name, result));
    CreatePartitionsResponse::default().with_results(rows.collect())
}

fn growing(topic: &CreatePartitionsTopic) -> PartitionsIntent {
    let assignments = topic.assignments.as_ref().map(|rows| rows.iter().map(|row| brokers(&row.broker_ids)).collect());
    PartitionsIntent { topic: topic.name.to_string(), count: topic.count, assignments }
}

fn grown(name: &TopicName, result: Result<Option<TopicOutcome>, Failed>) -> CreatePartitionsTopicResult {
    let row = CreatePartitionsTopicResult::default().with_name(name.clone()).with_error_message(None);
    match result {
        Ok(_) => row,
        Err(Failed { code, message }) => row.with_error_code(code.code()).with_error_message(Some(text(&message))),
    }
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
