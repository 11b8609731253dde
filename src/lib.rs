//! Highwater: a Kafka-compatible clustered event-streaming broker.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod group;
pub mod ids;
pub mod kafka;
pub mod log;
pub mod metadata;
pub mod platform;
pub mod records;
pub mod replica;
pub mod telemetry;
pub mod wire;
