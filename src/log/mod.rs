//! The log of one partition on one disk: Kafka's v2 record batches byte for byte, in segments with indexes.
//!
//! ```text
//! append ─→ segment (.log, preallocated) ─→ offset index, time index, epochs, producers
//!    └─ dirty ─→ flush: group commit per disk ─→ durable end
//! read  ─→ view (published segments) ─→ segment ─→ bytes          never waits behind appends
//! ```

pub mod flush;
pub mod folder;
pub mod partition_log;
