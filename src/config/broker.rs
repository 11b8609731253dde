//! The configuration of one node.

use crate::ids::BrokerId;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A bind address and the address told to others, each "host:port".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    pub name: String,
    pub bind: String,
    pub advertised: String,
}

/// One node's whole configuration, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    pub node_id: BrokerId,
    pub data_dir: PathBuf,
    pub is_broker: bool,
    pub is_controller: bool,
    pub rack: Option<String>,
    pub kafka_listeners: Vec<ListenerConfig>,
    pub replica_listener: ListenerConfig,
    pub cluster_listener: ListenerConfig,
    pub admin_listener: ListenerConfig,
    /// The initial controllers: (node id, cluster address). The same list on every node.
    pub controllers: Vec<(BrokerId, String)>,
    /// Kafka-named broker configs given in the file, environment or flags; validated by [`crate::config::broker`].
    pub kafka: BrokerConfigs,
}

/// Static values of Kafka-named broker configs; dynamic ones (image) override.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BrokerConfigs {
    pub given: BTreeMap<String, String>,
}

impl BrokerConfigs {
    /// The resolved value of a defined integer config (given value or default).
    /// Names are Kafka's; asking for an undefined name is a bug and panics in tests.
    pub fn int(&self, name: &str) -> i64 {
        let _ = name;
        todo!()
    }
    pub fn boolean(&self, name: &str) -> bool {
        let _ = name;
        todo!()
    }
    pub fn text(&self, name: &str) -> &str {
        let _ = name;
        todo!()
    }
}
