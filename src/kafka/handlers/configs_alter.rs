//! IncrementalAlterConfigs: set, delete, append to and subtract from configs of topics and brokers.

use super::configs::{BROKER, GROUP, TOPIC, is_dynamic};
use super::topics::{Failed, outcomes};
use crate::config::broker::{self, BrokerConfigs};
use crate::config::group;
use crate::config::topic::{self, Definition, Kind};
use crate::ids::*;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::Code;
use crate::kafka::names::text;
use crate::kafka::topic_rules;
use crate::metadata::command::{ConfigChange, ConfigResource};
use crate::metadata::image::Image;
use crate::metadata::intent::Intent;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// A group that has configs need not exist yet; its name is kept in the metadata all the same.
const GROUP_NAME_BYTES_MAX: usize = 255;

/// The request carries no timeout of its own.
const TIMEOUT: Duration = Duration::from_secs(30);

pub async fn alter(
    context: &RequestContext,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let services = &context.services;
    let image = services.quorum.image();
    let mut results = changes(&image, &services.config.kafka, services.config.node_id, &request.resources);
    let wanted: Vec<ConfigChange> = results.iter().filter_map(|result| result.as_ref().ok().cloned()).collect();
    if !wanted.is_empty() {
        let count = wanted.len();
        let intent = Intent::SetConfigs { changes: wanted, validate_only: request.validate_only };
        let mut answered = outcomes(services.controller.submit(intent, TIMEOUT).await, count).into_iter();
        for result in results.iter_mut().filter(|result| result.is_ok()) {
            if let Err(failed) = answered.next().expect("an outcome for each change") {
                *result = Err(failed);
            }
        }
    }
    response(&request.resources, &results)
}

fn response(
    resources: &[AlterConfigsResource],
    results: &[Result<ConfigChange, Failed>],
) -> IncrementalAlterConfigsResponse {
    let rows = resources.iter().zip(results).map(|(resource, result)| {
        let row = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_message(None);
        match result {
            Ok(_) => row,
            Err(Failed { code, message }) => row.with_error_code(code.code()).with_error_message(Some(text(message))),
        }
    });
    IncrementalAlterConfigsResponse::default().with_responses(rows.collect())
}

fn changes(
    image: &Image,
    fixed: &BrokerConfigs,
    me: BrokerId,
    resources: &[AlterConfigsResource],
) -> Vec<Result<ConfigChange, Failed>> {
    let mut counts = HashMap::new();
    resources.iter().for_each(|r| *counts.entry((r.resource_type, &r.resource_name)).or_insert(0) += 1);
    let one = |resource: &AlterConfigsResource| {
        if counts[&(resource.resource_type, &resource.resource_name)] > 1 {
            return Err(Failed::new(Code::InvalidRequest, "the request names this resource more than once"));
        }
        change(image, fixed, me, resource)
    };
    resources.iter().map(one).collect()
}

fn change(
    image: &Image,
    fixed: &BrokerConfigs,
    me: BrokerId,
    resource: &AlterConfigsResource,
) -> Result<ConfigChange, Failed> {
    let target = target(image, resource)?;
    let broker = topic_rules::broker_configs(image, fixed, me);
    let own = image.configs.of(&target);
    let mut set = BTreeMap::new();
    for config in &resource.configs {
        let definition = definition(&target, &config.name)?;
        // What the resource has now: its own value, else what stands behind it.
        let current = || match own.get(definition.name) {
            Some(value) => value.clone(),
            None => match (&target, definition.broker_synonym) {
                (ConfigResource::Topic(_), None) => definition.default.to_string(),
                (_, synonym) => broker.text(synonym.unwrap_or(definition.name)).to_string(),
            },
        };
        let value = altered(definition, config, current)?;
        if set.insert(definition.name.to_string(), value).is_some() {
            let message = format!("the request changes {} more than once", definition.name);
            return Err(Failed::new(Code::InvalidRequest, message));
        }
    }
    Ok(ConfigChange { resource: target, set })
}

fn target(image: &Image, resource: &AlterConfigsResource) -> Result<ConfigResource, Failed> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC if image.topic_by_name(name).is_none() => {
            Err(Failed::new(Code::UnknownTopicOrPartition, "no topic has this name"))
        }
        TOPIC => Ok(ConfigResource::Topic(name.to_string())),
        BROKER if name.is_empty() => Ok(ConfigResource::BrokerDefault),
        BROKER => match name.parse().map(BrokerId) {
            Ok(id) if image.brokers.contains_key(&id) => Ok(ConfigResource::Broker(id)),
            Ok(id) => Err(Failed::new(Code::InvalidRequest, format!("broker {id} is not registered"))),
            Err(_) => Err(Failed::new(Code::InvalidRequest, "a broker is named by its number")),
        },
        GROUP if name.is_empty() => Err(Failed::new(Code::InvalidRequest, "a group has a name")),
        GROUP if name.len() > GROUP_NAME_BYTES_MAX => {
            Err(Failed::new(Code::InvalidRequest, "the group's name is too long"))
        }
        GROUP => Ok(ConfigResource::Group(name.to_string())),
        other => Err(Failed::new(Code::InvalidRequest, format!("configs of resource type {other} are not served"))),
    }
}

fn definition(target: &ConfigResource, name: &str) -> Result<&'static Definition, Failed> {
    let (all, is_broker) = match target {
        ConfigResource::Topic(_) => (topic::definitions(), false),
        ConfigResource::Group(_) => (group::definitions(), false),
        ConfigResource::Broker(_) | ConfigResource::BrokerDefault => (broker::definitions(), true),
    };
    let definition = all
        .iter()
        .find(|definition| definition.name == name)
        .ok_or_else(|| Failed::new(Code::InvalidConfig, format!("unknown config {name}")))?;
    if is_broker && !is_dynamic(name) {
        let message = format!("{name} cannot change while the node runs; set it in the node's configuration");
        return Err(Failed::new(Code::InvalidRequest, message));
    }
    Ok(definition)
}

/// The new value; `None` takes the resource's own value away.
fn altered(
    definition: &Definition,
    config: &AlterableConfig,
    current: impl FnOnce() -> String,
) -> Result<Option<String>, Failed> {
    let invalid = |message: String| Failed::new(Code::InvalidConfig, message);
    let given = || {
        config
            .value
            .as_ref()
            .map(ToString::to_string)
            .ok_or_else(|| invalid(format!("{} has no value", definition.name)))
    };
    let value = match config.config_operation {
        DELETE => return Ok(None),
        SET => given()?,
        APPEND | SUBTRACT if !matches!(definition.kind, Kind::List | Kind::ListOf(_) | Kind::Replicas) => {
            return Err(invalid(format!("{} is not a list: it can be set and deleted only", definition.name)));
        }
        APPEND => {
            let (current, given) = (current(), given()?);
            let mut items: Vec<&str> = items(&current).collect();
            for item in self::items(&given) {
                if !items.contains(&item) {
                    items.push(item);
                }
            }
            items.join(",")
        }
        SUBTRACT => {
            let (current, given) = (current(), given()?);
            items(&current).filter(|item| !items(&given).any(|gone| gone == *item)).collect::<Vec<_>>().join(",")
        }
        other => return Err(Failed::new(Code::InvalidRequest, format!("operation {other} is unknown"))),
    };
    definition.check(&value).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(value))
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::INCREMENTAL_ALTER_CONFIGS;

    fn resource(kind: i8, name: &str, configs: &[(&str, i8, Option<&str>)]) -> AlterConfigsResource {
        let configs = configs.iter().map(|(name, operation, value)| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(*operation)
                .with_value(value.map(text))
        });
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(configs.collect())
    }

    fn ask(resources: &[AlterConfigsResource]) -> Vec<Result<ConfigChange, i16>> {
        let results = changes(&testing::image(), &BrokerConfigs::default(), BrokerId(1), resources);
        for version in 0..=1 {
            testing::encodes(INCREMENTAL_ALTER_CONFIGS, version, &response(resources, &results));
        }
        results.into_iter().map(|result| result.map_err(|failed| failed.code.code())).collect()
    }

    fn one(kind: i8, name: &str, config: (&str, i8, Option<&str>)) -> Result<Option<String>, i16> {
        ask(&[resource(kind, name, &[config])])
            .remove(0)
            .map(|change| change.set.into_values().next().expect("one config"))
    }

    #[test]
    fn set_delete_append_and_subtract() {
        assert_eq!(one(TOPIC, "orders", ("retention.ms", SET, Some("9"))), Ok(Some("9".into())));
        assert_eq!(one(TOPIC, "orders", ("retention.ms", DELETE, None)), Ok(None));
        let policy = |operation, value| one(TOPIC, "orders", ("cleanup.policy", operation, Some(value)));
        assert_eq!(policy(APPEND, "compact"), Ok(Some("delete,compact".into())), "onto what stands behind it");
        assert_eq!(policy(APPEND, "delete"), Ok(Some("delete".into())));
        assert_eq!(policy(SUBTRACT, "delete"), Ok(Some(String::new())));
        assert_eq!(one(BROKER, "", ("log.retention.ms", SET, Some("9"))), Ok(Some("9".into())));
    }

    const SESSION: &str = "consumer.session.timeout.ms";

    #[test]
    fn what_cannot_be_set_is_refused_with_the_right_code() {
        assert_eq!(one(TOPIC, "orders", ("retention.ms", SET, Some("soon"))), Err(40));
        assert_eq!(one(TOPIC, "orders", ("retention.ms", SET, None)), Err(40));
        assert_eq!(one(TOPIC, "orders", ("retention.mss", SET, Some("1"))), Err(40));
        assert_eq!(one(TOPIC, "orders", ("retention.ms", APPEND, Some("1"))), Err(40));
        assert_eq!(one(TOPIC, "orders", ("retention.ms", 9, Some("1"))), Err(42));
        assert_eq!(one(TOPIC, "missing", ("retention.ms", SET, Some("1"))), Err(3));
        assert_eq!(one(BROKER, "1", ("num.partitions", SET, Some("1"))), Err(42));
        assert_eq!(one(BROKER, "77", ("log.retention.ms", SET, Some("1"))), Err(42));
        assert_eq!(one(BROKER, "x", ("log.retention.ms", SET, Some("1"))), Err(42));
        assert_eq!(one(8, "group", ("x", SET, Some("1"))), Err(42));
        assert_eq!(one(GROUP, "g", ("x", SET, Some("1"))), Err(40));
        assert_eq!(one(GROUP, "", (SESSION, SET, Some("9000"))), Err(42));
        assert_eq!(one(GROUP, "g", (SESSION, SET, Some("soon"))), Err(40));
        assert_eq!(one(GROUP, "g", (SESSION, SET, Some("9000"))), Ok(Some("9000".into())));
    }

    #[test]
    fn a_resource_and_a_config_are_named_once() {
        let twice = resource(TOPIC, "orders", &[("retention.ms", SET, Some("1")), ("retention.ms", DELETE, None)]);
        assert_eq!(ask(std::slice::from_ref(&twice))[0], Err(42));
        let single = resource(TOPIC, "orders", &[("retention.ms", SET, Some("1"))]);
        assert_eq!(ask(&[single.clone(), single]), [Err(42), Err(42)]);
    }
}
