//! The clients: what they send and read becomes the history.
//!
//! ```text
//! producers ─ each with its promise ─→ partitions of all topics ─→ readers, by assignment, from the beginning
//!                                                                └→ members of a group, committing
//! ```

pub mod client;
pub mod client_log;
pub mod group;
pub mod load;
pub mod producer;
pub mod progress;
pub mod reader;
pub mod topics;
