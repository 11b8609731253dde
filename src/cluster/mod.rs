//! Between nodes: forming and joining, broker sessions, intents forwarded to the controller.
//!
//! ```text
//! an empty node ── formation ──→ Describe every listed controller ─→ Join | initialize | wait
//! each broker ──── session ────→ Register, then a heartbeat stream ─→ service ─→ sessions ─→ controller::liveness
//! any room ─────── channel ────→ Submit (or straight, on the controller itself) ─→ controller
//! any node ──────── states ────→ PartitionStates of the broker that hosts them
//! a coordinator ─ log_ends ─→ LogEnds of the partitions' leaders
//! the controller ─ membership ─→ learners that join, addresses that change, a wiped voter's replacement
//! a controller that votes no more ─ handover ─→ Campaign, at the remaining voters
//! a node whose folder was lost ─ refill ─→ tells what happens by itself, and when it is done
//! ```

mod agreement;
pub mod channel;
pub mod formation;
mod handover;
mod log_ends;
pub mod membership;
pub mod node;
pub mod peers;
pub mod proto;
pub mod refill;
pub mod server;
pub mod service;
pub mod session;
pub mod sessions;
pub mod states;

#[cfg(test)]
mod story_tests;
