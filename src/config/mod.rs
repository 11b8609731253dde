//! Configuration: the node's file, environment and flags; Kafka-named broker and topic configs.

pub mod broker;
pub mod topic;
