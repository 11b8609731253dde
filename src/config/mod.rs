//! Configuration: the node's file, environment and flags; Kafka-named broker and topic configs.
//!
//! ```text
//! highwater.toml < HIGHWATER_… < flags ─→ NodeConfig ─→ BrokerConfigs (Kafka's names) ─→ defaults of TopicConfig
//! ```

pub mod broker;
pub mod definition;
pub mod group;
pub mod node;
pub mod topic;
