//! openraft's adapter: types, log store (sled), state machine, snapshot, and the gRPC transport.
//!
//! ```text
//!   peers ──► server ──► openraft core ──► client ──► peers
//!                          │        │
//!                     log_store   state_machine ──► Publisher (image, events)
//!                     (sled + fdatasync)  └──► snapshot (a file of its own)
//! ```
//!
//! Elections go by openraft's timers alone. A faster failover (campaign at once when the leader's own dial is refused)
//! belongs beside `server`, which sees every vote request first, and `client`, which sees connections break.

pub mod client;
pub mod contacts;
mod folder;
pub mod identity;
pub mod log_store;
pub mod proto;
pub mod server;
pub mod snapshot;
pub mod state_machine;
#[cfg(test)]
mod storage_tests;
pub mod types;
