//! A small Kafka client for the commands: metadata, an idempotent producer, a consumer of partitions.
//!
//! ```text
//! Producer ─→ a lane per partition ─┐
//! Consumer ─→ a lane per partition ─┴→ Leader (calls whoever leads now) ─→ wire::client
//!                                        └─ Metadata: one task refreshes, all watch
//! ```

pub mod consumer;
mod errors;
mod leader;
pub mod metadata;
pub mod partitioner;
pub mod producer;

#[cfg(test)]
mod tests;
