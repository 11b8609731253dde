//! Dynamic configs in the image: overrides by resource, under Kafka's names.

use super::persistent;
use crate::metadata::command::ConfigResource;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

/// The two configs that `apply` itself reads.
pub const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
pub const DURABILITY: &str = "highwater.durability";
pub const DURABILITY_PAGE_CACHE: &str = "page-cache";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Configs {
    /// Invariant: no resource is kept with an empty map.
    #[serde(deserialize_with = "persistent::map_of_maps")]
    pub overrides: OrdMap<ConfigResource, OrdMap<String, String>>,
}

impl Configs {
    pub fn of(&self, resource: &ConfigResource) -> OrdMap<String, String> {
        self.overrides.get(resource).cloned().unwrap_or_default()
    }

    pub fn of_topic(&self, name: &str) -> OrdMap<String, String> {
        self.of(&ConfigResource::Topic(name.to_string()))
    }

    /// A topic's own value, else the default of all brokers.
    pub fn topic_value(&self, topic: &str, config: &str) -> Option<&str> {
        let of = |resource: &ConfigResource| Some(self.overrides.get(resource)?.get(config)?.as_str());
        of(&ConfigResource::Topic(topic.to_string())).or_else(|| of(&ConfigResource::BrokerDefault))
    }

    /// The topic's override, else the brokers' default, else 2 where three copies or more are kept and 1 where fewer.
    /// Not yet bounded by the replica count: see [`Image::effective_min_isr`](super::Image::effective_min_isr).
    pub fn min_insync_replicas(&self, topic: &str, replicas: usize) -> usize {
        let configured = self.topic_value(topic, MIN_INSYNC_REPLICAS).and_then(|v| v.trim().parse::<usize>().ok());
        configured.filter(|n| *n >= 1).unwrap_or(if replicas >= 3 { 2 } else { 1 })
    }

    /// The topic counts a record as held when it is in the page cache, so a lost page cache loses acked records.
    pub fn is_page_cache(&self, topic: &str) -> bool {
        self.topic_value(topic, DURABILITY) == Some(DURABILITY_PAGE_CACHE)
    }

    /// Sets and deletes overrides of one resource.
    pub(super) fn change<'a>(
        &mut self,
        resource: &ConfigResource,
        changes: impl IntoIterator<Item = (&'a String, Option<&'a String>)>,
    ) {
        let mut values = self.of(resource);
        for (name, value) in changes {
            match value {
                Some(value) => values.insert(name.clone(), value.clone()),
                None => values.remove(name),
            };
        }
        if values.is_empty() {
            self.overrides.remove(resource);
        } else {
            self.overrides.insert(resource.clone(), values);
        }
    }
}
