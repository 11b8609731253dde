//! DescribeConfigs: every defined config with its value, where that comes from, and what stands behind it.

use super::topics::Failed;
use crate::config::broker::{self, BrokerConfigs};
use crate::config::group;
use crate::config::topic::{self, Definition, Kind};
use crate::ids::*;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::Code;
use crate::kafka::names::{is_valid_topic, text};
use crate::kafka::repeated::first_of_each;
use crate::metadata::command::ConfigResource;
use crate::metadata::image::Image;
use imbl::OrdMap;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use std::collections::BTreeMap;

pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;
pub const GROUP: i8 = 32;

/// Where a value comes from, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    Topic = 1,
    Broker = 2,
    AllBrokers = 3,
    Static = 4,
    Default = 5,
    Group = 8,
}

/// One config of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: &'static str,
    pub value: String,
    pub source: Source,
    pub read_only: bool,
    /// What would hold if this value were taken away, and so on; the first is the value itself.
    pub synonyms: Vec<(&'static str, String, Source)>,
    kind: Kind,
    doc: &'static str,
}

/// The layers that configs come from.
struct Layers<'a> {
    /// Given on this node in its file, environment or flags.
    fixed: &'a BrokerConfigs,
    all_brokers: OrdMap<String, String>,
    broker: OrdMap<String, String>,
}

impl<'a> Layers<'a> {
    fn of(image: &Image, fixed: &'a BrokerConfigs, me: BrokerId) -> Layers<'a> {
        Layers {
            fixed,
            all_brokers: image.configs.of(&ConfigResource::BrokerDefault),
            broker: image.configs.of(&ConfigResource::Broker(me)),
        }
    }

    /// The values of a broker config, the one in force first.
    fn values(&self, definition: &Definition) -> Vec<(&'static str, String, Source)> {
        let name = definition.name;
        let given = [
            (self.broker.get(name), Source::Broker),
            (self.all_brokers.get(name), Source::AllBrokers),
            (self.fixed.given.get(name), Source::Static),
        ];
        let given = given.into_iter().filter_map(|(value, source)| Some((name, value?.clone(), source)));
        given.chain([(name, definition.default.to_string(), Source::Default)]).collect()
    }
}

/// A broker config takes effect while the node runs where topics take their defaults from it.
pub fn is_dynamic(name: &str) -> bool {
    broker::DYNAMIC.contains(&name)
        || topic::definitions().iter().any(|definition| definition.broker_synonym == Some(name))
}

fn of_broker(layers: &Layers<'_>) -> Vec<Shown> {
    let shown =
        |definition: &Definition| Shown::new(definition, layers.values(definition), !is_dynamic(definition.name));
    broker::definitions().iter().map(shown).collect()
}

fn of_all_brokers(layers: &Layers<'_>) -> Vec<Shown> {
    let set = broker::definitions().iter().filter_map(|definition| {
        let value = layers.all_brokers.get(definition.name)?;
        let synonyms = vec![(definition.name, value.clone(), Source::AllBrokers)];
        Some(Shown::new(definition, synonyms, !is_dynamic(definition.name)))
    });
    set.collect()
}

fn of_topic(overrides: impl Fn(&str) -> Option<String>, layers: &Layers<'_>) -> Vec<Shown> {
    let shown = |definition: &Definition| {
        let own = overrides(definition.name).map(|value| (definition.name, value, Source::Topic));
        let behind = match definition.broker_synonym {
            Some(synonym) => broker::definitions().iter().find(|d| d.name == synonym).map(|d| layers.values(d)),
            None => None,
        };
        let behind = behind.unwrap_or_else(|| vec![(definition.name, definition.default.to_string(), Source::Default)]);
        Shown::new(definition, own.into_iter().chain(behind).collect(), false)
    };
    topic::definitions().iter().map(shown).collect()
}

/// What holds for a group that need not exist yet.
fn of_group(overrides: impl Fn(&str) -> Option<String>, layers: &Layers<'_>) -> Vec<Shown> {
    let shown = |definition: &Definition| {
        let own = overrides(definition.name).map(|value| (definition.name, value, Source::Group));
        let broker = broker::definitions().iter().find(|d| definition.broker_synonym == Some(d.name));
        let behind = broker.map(|definition| layers.values(definition));
        let behind = behind.unwrap_or_else(|| vec![(definition.name, definition.default.to_string(), Source::Default)]);
        Shown::new(definition, own.into_iter().chain(behind).collect(), false)
    };
    group::definitions().iter().map(shown).collect()
}

/// What CreateTopics tells of the topic it made: `broker` are the values in force.
pub fn of_new_topic(set: &BTreeMap<String, String>, broker: &BrokerConfigs) -> Vec<Shown> {
    let layers = Layers { fixed: broker, all_brokers: OrdMap::new(), broker: OrdMap::new() };
    of_topic(|name| set.get(name).cloned(), &layers)
}

impl Shown {
    fn new(definition: &Definition, synonyms: Vec<(&'static str, String, Source)>, read_only: bool) -> Shown {
        let (_, value, source) = synonyms.first().cloned().expect("a default stands behind every config");
        Shown { name: definition.name, value, source, read_only, synonyms, kind: definition.kind, doc: definition.doc }
    }

    /// By Kafka's numbers.
    fn type_number(&self) -> i8 {
        match self.kind {
            Kind::Boolean => 1,
            Kind::Text | Kind::OneOf(_) => 2,
            Kind::Int { max, .. } if max <= i64::from(i32::MAX) => 3,
            Kind::Int { .. } => 5,
            Kind::List | Kind::ListOf(_) | Kind::Replicas => 7,
        }
    }

    fn row(self, version: i16, with_synonyms: bool, with_docs: bool) -> DescribeConfigsResourceResult {
        let type_number = self.type_number();
        let mut row = DescribeConfigsResourceResult::default()
            .with_name(text(self.name))
            .with_value(Some(text(&self.value)))
            .with_read_only(self.read_only)
            .with_config_source(self.source as i8)
            .with_documentation(None);
        if with_synonyms {
            let synonyms = self.synonyms.into_iter().map(|(name, value, source)| {
                DescribeConfigsSynonym::default()
                    .with_name(text(name))
                    .with_value(Some(text(&value)))
                    .with_source(source as i8)
            });
            row.synonyms = synonyms.collect();
        }
        if version >= 3 {
            row.config_type = type_number;
            row.documentation = with_docs.then(|| text(self.doc));
        }
        row
    }
}

pub async fn describe(context: &RequestContext, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let services = &context.services;
    answer(&services.quorum.image(), &services.config.kafka, services.config.node_id, context.version, request)
}

fn answer(
    image: &Image,
    fixed: &BrokerConfigs,
    me: BrokerId,
    version: i16,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let layers = Layers::of(image, fixed, me);
    let resources =
        first_of_each(request.resources, |resource| (resource.resource_type, resource.resource_name.clone()));
    let results = resources.iter().map(|resource| {
        let row = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_message(None);
        match shown(image, &layers, me, resource) {
            Ok(shown) => {
                let keys = resource.configuration_keys.as_ref();
                let wanted = |one: &Shown| keys.is_none_or(|keys| keys.iter().any(|key| key.as_str() == one.name));
                let rows = shown.into_iter().filter(wanted);
                let rows = rows.map(|one| one.row(version, request.include_synonyms, request.include_documentation));
                row.with_configs(rows.collect())
            }
            Err(Failed { code, message }) => row.with_error_code(code.code()).with_error_message(Some(text(&message))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn shown(
    image: &Image,
    layers: &Layers<'_>,
    me: BrokerId,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Shown>, Failed> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC => {
            if !is_valid_topic(name) {
                return Err(Failed::new(Code::InvalidTopicException, "no topic can have this name"));
            }
            if image.topic_by_name(name).is_none() {
                return Err(Failed::new(Code::UnknownTopicOrPartition, "no topic has this name"));
            }
            let overrides = image.configs.of_topic(name);
            Ok(of_topic(|name| overrides.get(name).cloned(), layers))
        }
        BROKER if name.is_empty() => Ok(of_all_brokers(layers)),
        BROKER => match name.parse::<i32>() {
            // In one way only: "01" and "+1" would be more names for the same.
            Ok(id) if id.to_string() != name => {
                Err(Failed::new(Code::InvalidRequest, "a broker is named by its number"))
            }
            Ok(id) if id == me.0 => Ok(of_broker(layers)),
            // What was given to another node's file is known there alone.
            Ok(id) => Err(Failed::new(Code::InvalidRequest, format!("this is broker {me}; ask broker {id} itself"))),
            Err(_) => Err(Failed::new(Code::InvalidRequest, "a broker is named by its number")),
        },
        GROUP if name.is_empty() => Err(Failed::new(Code::InvalidRequest, "a group has a name")),
        GROUP => {
            let overrides = image.configs.of(&ConfigResource::Group(name.to_string()));
            Ok(of_group(|name| overrides.get(name).cloned(), layers))
        }
        other => Err(Failed::new(Code::InvalidRequest, format!("configs of resource type {other} are not served"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::DESCRIBE_CONFIGS;

    fn image() -> Image {
        let mut image = testing::image();
        let sets = [
            (ConfigResource::Topic("orders".into()), "retention.ms", "5"),
            (ConfigResource::BrokerDefault, "log.retention.ms", "6"),
            (ConfigResource::Broker(BrokerId(1)), "log.retention.ms", "7"),
            (ConfigResource::Group("g".into()), "consumer.session.timeout.ms", "9000"),
        ];
        for (resource, name, value) in sets {
            image.configs.overrides.insert(resource, OrdMap::unit(name.to_string(), value.to_string()));
        }
        image
    }

    fn ask(version: i16, kind: i8, name: &str) -> DescribeConfigsResult {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![resource.clone(), resource])
            .with_include_synonyms(true)
            .with_include_documentation(true);
        let fixed = BrokerConfigs::default().with_overrides([("log.retention.ms", "8")]);
        let mut response = answer(&image(), &fixed, BrokerId(1), version, request);
        testing::encodes(DESCRIBE_CONFIGS, version, &response);
        assert_eq!(response.results.len(), 1, "asked twice, answered once");
        response.results.remove(0)
    }

    fn find<'a>(result: &'a DescribeConfigsResult, name: &str) -> &'a DescribeConfigsResourceResult {
        result.configs.iter().find(|config| &*config.name == name).unwrap()
    }

    #[test]
    fn every_version_encodes_topics_brokers_and_errors() {
        for version in 1..=4 {
            for (kind, name, code) in [
                (TOPIC, "orders", 0),
                (TOPIC, "x", 3),
                (TOPIC, "a b", 17),
                (BROKER, "1", 0),
                (BROKER, "", 0),
                (BROKER, "2", 42),
                (BROKER, "01", 42),
                (8, "1", 42),
                (GROUP, "g", 0),
                (GROUP, "", 42),
            ] {
                assert_eq!(ask(version, kind, name).error_code, code, "{kind} {name}");
            }
        }
    }

    #[test]
    fn a_topics_value_is_its_own_and_behind_it_stand_the_brokers() {
        let result = ask(4, TOPIC, "orders");
        let retention = find(&result, "retention.ms");
        assert_eq!((retention.value.as_deref(), retention.config_source, retention.config_type), (Some("5"), 1, 5));
        let synonyms: Vec<_> =
            retention.synonyms.iter().map(|s| (&*s.name, s.value.as_deref().unwrap(), s.source)).collect();
        let behind = "log.retention.ms";
        assert_eq!(
            synonyms,
            [("retention.ms", "5", 1), (behind, "7", 2), (behind, "6", 3), (behind, "8", 4), (behind, "604800000", 5)]
        );
        assert_eq!(find(&result, "cleanup.policy").config_type, 7);
        assert!(find(&result, "cleanup.policy").documentation.is_some());
    }

    #[test]
    fn a_groups_value_is_its_own_or_the_brokers() {
        let result = ask(4, GROUP, "g");
        let session = find(&result, "consumer.session.timeout.ms");
        assert_eq!((session.value.as_deref(), session.config_source, session.config_type), (Some("9000"), 8, 3));
        assert_eq!(session.synonyms[1].name.as_str(), "group.consumer.session.timeout.ms");
        let interval = find(&result, "consumer.heartbeat.interval.ms");
        assert_eq!((interval.value.as_deref(), interval.config_source), (Some("3000"), 5));
    }

    #[test]
    fn brokers_show_what_is_in_force_and_the_default_what_was_set() {
        let own = ask(4, BROKER, "1");
        assert_eq!(find(&own, "log.retention.ms").value.as_deref(), Some("7"));
        assert!(!find(&own, "log.retention.ms").read_only && find(&own, "num.partitions").read_only);
        let default = ask(4, BROKER, "");
        assert_eq!(default.configs.len(), 1);
        assert_eq!(default.configs[0].value.as_deref(), Some("6"));
    }
}
