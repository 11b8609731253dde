//! Between nodes: forming and joining, broker sessions, intents forwarded to the controller.
//!
//! ```text
//! an empty node ── formation ──→ Describe every listed controller ─→ Join | initialize | wait
//! each broker ──── session ────→ Register, then a heartbeat stream ─→ service ─→ sessions ─→ controller::liveness
//! any room ─────── channel ────→ Submit (or straight, on the controller itself) ─→ controller
//! any node ──────── states ────→ PartitionStates of the broker that hosts them
//! the controller ─ membership ─→ learners that join, a wiped voter's replacement
//! ```

pub mod channel;
pub mod formation;
pub mod membership;
pub mod node;
pub mod peers;
pub mod proto;
pub mod server;
pub mod service;
pub mod session;
pub mod sessions;
pub mod states;

#[cfg(test)]
mod story_tests;
