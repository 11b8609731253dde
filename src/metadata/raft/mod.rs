//! openraft's adapter: types, log store (sled), state machine, snapshot, and the gRPC transport.
//!
//! ```text
//!   peers ──► server ──► openraft core ──► client ──► peers
//!                          │        │
//!                     log_store   state_machine ──► Publisher (image, events)
//!                     (sled + fdatasync)  └──► snapshot (a file of its own)
//!                          └──── reserve ────┘   (room for both on a full disk)
//! ```
//!
//! Elections: openraft's timers are off. `standing` decides when to campaign and whom to let campaign, `failover` watches
//! the leader's process and performs it; `server` tells it of every message of a leader and of every vote request.

pub mod client;
pub mod contacts;
pub mod failover;
mod flush_time;
mod folder;
pub mod identity;
pub mod log_store;
pub mod proto;
pub mod reserve;
pub mod server;
pub mod snapshot;
pub mod standing;
pub mod state_machine;
#[cfg(test)]
mod storage_tests;
pub mod types;
