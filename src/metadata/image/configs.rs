//! Dynamic configs in the image: overrides by resource, under Kafka's names.

use crate::metadata::command::ConfigResource;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Configs {
    pub overrides: OrdMap<ConfigResource, OrdMap<String, String>>,
}

impl Configs {
    pub fn of(&self, resource: &ConfigResource) -> OrdMap<String, String> {
        self.overrides.get(resource).cloned().unwrap_or_default()
    }

    pub fn of_topic(&self, name: &str) -> OrdMap<String, String> {
        self.of(&ConfigResource::Topic(name.to_string()))
    }
}
