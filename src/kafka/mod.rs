//! The Kafka wire protocol for clients, and for follower fetches on the replica listener.
//!
//! ```text
//! listener ─→ connection (frames, order, bounds) ─→ dispatch (versions, guard) ─→ handlers/… ─→ response
//! ```

pub mod context;
pub mod errors;
pub mod handlers;
