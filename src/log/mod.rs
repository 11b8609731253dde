//! The log of one partition on one disk: Kafka's v2 record batches byte for byte, in segments with indexes.
//!
//! ```text
//! append ─→ segment (.log, preallocated) ─→ offset index, time index, epochs, producers
//!    └─ dirty ─→ flush: group commit per disk ─→ durable end ─→ checkpoint (recovery point)
//! read  ─→ view (published segments) ─→ segment ─→ bytes          never waits behind appends
//! open  ─→ clean: trust the files;  unclean: recovery scans from the recovery point and cuts
//! scrub ─→ every batch's CRC, piece by piece ─→ damage: noted on disk, filled or cut off once the replica is out of sync
//! ```
//!
//! The batch headers in the `.log` files are the truth. Everything beside them (indexes, the epoch file, producer
//! snapshots) is derived, may be stale or missing after a crash, and is rebuilt from them.

mod append;
mod checkpoint;
mod damage;
mod epochs;
mod files;
mod offset_index;
mod patch;
mod producer_snapshot;
mod producers;
mod read;
mod recovery;
mod remover;
mod retention;
mod scan;
mod segment;
mod table;
mod time_index;
mod timestamps;
mod truncation;
mod walk;

pub mod flush;
pub mod folder;
pub mod partition_log;
pub mod scrub;
pub mod strays;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
