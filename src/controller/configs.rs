//! Changes of dynamic configs: what may be set, on what, to which values.

use super::plan::{Item, PARTITIONS_PER_COMMAND_MAX, Packer, Plan};
use crate::config::broker::BrokerConfigs;
use crate::config::{broker, group, topic};
use crate::metadata::command::{Command, ConfigChange, ConfigResource, MetadataError};
use crate::metadata::image::Image;
use crate::metadata::intent::IntentError;

/// Broker configs that decide what is lost and who may lead: a value that differs by broker would break that, so they are
/// the cluster's, and live in the image.
const CLUSTER_WIDE: [&str; 3] = ["highwater.durability", "min.insync.replicas", "unclean.leader.election.enable"];

/// Groups with configs of their own; such a group need not exist.
const GROUPS_MAX: usize = 10_000;

/// What a node's file says of cluster-wide configs for which the cluster has no value yet.
pub fn seeds(image: &Image, given: &BrokerConfigs) -> ConfigChange {
    let known = image.configs.of(&ConfigResource::BrokerDefault);
    let set = CLUSTER_WIDE
        .iter()
        .filter(|name| !known.contains_key(**name))
        .filter_map(|name| Some((name.to_string(), Some(given.given.get(*name)?.clone()))))
        .collect();
    ConfigChange { resource: ConfigResource::BrokerDefault, set }
}

/// Plans config changes, one result a resource. `given`: the controller's own configs, whose bounds count.
pub fn plan(image: &Image, given: &BrokerConfigs, changes: Vec<ConfigChange>, validate_only: bool) -> Plan<()> {
    let mut packer = Packer::new(PARTITIONS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let items = changes
        .into_iter()
        .map(|change| match check(image, given, &change) {
            Err(error) => Item::Decided(Err(error)),
            Ok(()) if validate_only => Item::Decided(Ok(())),
            Ok(()) => match packer.add(change, 1) {
                Ok((command, position)) => Item::Proposed { command, position, outcome: () },
                Err(_) => Item::Decided(Err(IntentError::InvalidRequest("the configs are too large".to_string()))),
            },
        })
        .collect();
    Plan { commands: packer.into_commands(|changes| Command::SetConfigs { changes }), items }
}

fn check(image: &Image, given: &BrokerConfigs, change: &ConfigChange) -> Result<(), IntentError> {
    match &change.resource {
        ConfigResource::Topic(name) => {
            if !image.topic_ids.contains_key(name) {
                return Err(MetadataError::UnknownTopic.into());
            }
            check_each(change, |name, value| topic::validate(name, value).map_err(|e| e.to_string()))
        }
        ConfigResource::Broker(id) => {
            if !image.brokers.contains_key(id) {
                return Err(MetadataError::UnknownBroker(*id).into());
            }
            check_each(change, |name, value| match CLUSTER_WIDE.contains(&name) {
                true => Err(format!("'{name}' is one for the whole cluster; set it on the default of all brokers")),
                false => check_broker_config(name, value),
            })
        }
        ConfigResource::BrokerDefault => check_each(change, check_broker_config),
        ConfigResource::Group(_) => {
            let is_group = |resource: &&ConfigResource| matches!(resource, ConfigResource::Group(_));
            let overrides = &image.configs.overrides;
            if !overrides.contains_key(&change.resource) && overrides.keys().filter(is_group).count() >= GROUPS_MAX {
                let message = format!("{GROUPS_MAX} groups have configs of their own already");
                return Err(IntentError::InvalidRequest(message));
            }
            check_each(change, |name, value| group::validate(name, value, given).map_err(|e| e.to_string()))?;
            check_pair(image, given, change)
        }
    }
}

/// A group's two times must fit each other, whichever of them the change sets or deletes.
fn check_pair(image: &Image, given: &BrokerConfigs, change: &ConfigChange) -> Result<(), IntentError> {
    let names = [group::SESSION_TIMEOUT, group::HEARTBEAT_INTERVAL];
    if !names.iter().any(|name| change.set.contains_key(*name)) {
        return Ok(());
    }
    let known = image.configs.of(&change.resource);
    let [session, interval] = names.map(|name| match change.set.get(name) {
        Some(changed) => changed.as_deref(),
        None => known.get(name).map(String::as_str),
    });
    group::validate_pair(session, interval, given).map_err(|error| IntentError::InvalidConfig(error.to_string()))
}

/// Deleting an override is always allowed: one set by an older version may have a name that is unknown now.
fn check_each(change: &ConfigChange, allowed: impl Fn(&str, &str) -> Result<(), String>) -> Result<(), IntentError> {
    for (name, value) in &change.set {
        if let Some(value) = value {
            allowed(name, value).map_err(IntentError::InvalidConfig)?;
        }
    }
    Ok(())
}

/// A broker config that changes while brokers run is one that topics take their default from.
fn check_broker_config(name: &str, value: &str) -> Result<(), String> {
    broker::validate(name, value).map_err(|e| e.to_string())?;
    if broker::DYNAMIC.contains(&name) {
        return Ok(());
    }
    let Some(definition) = topic::definitions().iter().find(|d| d.broker_synonym == Some(name)) else {
        return Err(format!("broker config '{name}' cannot be changed while brokers run; set it in the node's file"));
    };
    topic::validate(definition.name, value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{image_with, topic};
    use super::*;
    use crate::ids::BrokerId;
    use std::collections::BTreeMap;

    fn change(resource: ConfigResource, name: &str, value: Option<&str>) -> ConfigChange {
        ConfigChange { resource, set: BTreeMap::from([(name.to_string(), value.map(str::to_string))]) }
    }

    #[test]
    fn the_nodes_file_seeds_what_the_cluster_has_no_value_for() {
        let mut image = Image::default();
        let given = BrokerConfigs::default().with_overrides([
            ("highwater.durability", "page-cache"),
            ("min.insync.replicas", "1"),
            ("num.partitions", "9"),
        ]);
        let names = |image: &Image| seeds(image, &given).set.into_keys().collect::<Vec<_>>();
        assert_eq!(names(&image), ["highwater.durability", "min.insync.replicas"]);
        let known = [("min.insync.replicas".to_string(), "2".to_string())].into_iter().collect();
        image.configs.overrides.insert(ConfigResource::BrokerDefault, known);
        assert_eq!(names(&image), ["highwater.durability"], "what is set once stays");
    }

    #[test]
    fn unknown_resources_are_refused_and_deleting_is_always_allowed() {
        let mut image = image_with(&[1]);
        topic(&mut image, "t", 1, &[&[1]]);
        let plan = plan(
            &image,
            &BrokerConfigs::default(),
            vec![
                change(ConfigResource::Topic("t".into()), "left.by.another.version", None),
                change(ConfigResource::Topic("absent".into()), "retention.ms", None),
                change(ConfigResource::Broker(BrokerId(9)), "log.retention.ms", None),
                change(ConfigResource::Broker(BrokerId(1)), "node.id", Some("7")),
                change(ConfigResource::Group("g".into()), "x", Some("7")),
            ],
            false,
        );
        assert_eq!(plan.commands.len(), 1);
        assert!(matches!(plan.items[0], Item::Proposed { .. }));
        assert!(plan.items[1..].iter().all(|item| matches!(item, Item::Decided(Err(_)))));
    }

    #[test]
    fn a_groups_heartbeats_come_more_often_than_its_sessions_end() {
        const SESSION: &str = "consumer.session.timeout.ms";
        const INTERVAL: &str = "consumer.heartbeat.interval.ms";
        let given = BrokerConfigs::default().with_overrides([("group.consumer.session.timeout.ms", "12000")]);
        let group = || ConfigResource::Group("g".into());
        let mut image = Image::default();
        let is_taken = |image: &Image, set: &[(&str, Option<&str>)]| {
            let set = set.iter().map(|(name, value)| (name.to_string(), value.map(str::to_string))).collect();
            let plan = plan(image, &given, vec![ConfigChange { resource: group(), set }], false);
            matches!(plan.items[0], Item::Proposed { .. })
        };
        assert!(!is_taken(&image, &[(INTERVAL, Some("12000"))]), "the brokers' session");
        assert!(is_taken(&image, &[(INTERVAL, Some("14000")), (SESSION, Some("20000"))]), "both at once");
        let own = [(INTERVAL.to_string(), "14000".to_string()), (SESSION.to_string(), "20000".to_string())];
        image.configs.overrides.insert(group(), own.into_iter().collect());
        assert!(is_taken(&image, &[(INTERVAL, Some("15000"))]), "its own session");
        assert!(!is_taken(&image, &[(SESSION, Some("14000"))]), "its own interval");
        assert!(!is_taken(&image, &[(SESSION, None)]), "the brokers' session is shorter");
        assert!(is_taken(&image, &[(SESSION, None), (INTERVAL, None)]));
    }
}
