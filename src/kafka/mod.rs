//! The Kafka wire protocol for clients, and for follower fetches on the replica listener.
//!
//! ```text
//! listener ─→ connection (frames, order, bounds) ─→ dispatch (versions, guard) ─→ handlers/… ─→ reply
//!                                                        errors: every room's error ─→ Kafka's code
//! ```

pub mod budget;
pub mod connection;
pub mod context;
pub mod dispatch;
pub mod endpoints;
pub mod errors;
pub mod handlers;
pub mod listener;
pub mod log_limit;
pub mod names;
pub mod repeated;
pub mod reply;
pub mod state;
pub mod topic_rules;
pub mod versions;
