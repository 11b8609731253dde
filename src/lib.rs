//! Highwater: a Kafka-compatible clustered event-streaming broker. Below the high watermark nothing is lost.
//!
//! # The house
//!
//! Imports go only downward; rooms on one floor never import each other (`tests/floors.rs`).
//!
//! ```text
//! 9 cli                      one file per noun; `serve` runs the broker, the rest are clients
//! 8 broker                   builds every room, starts upward, stops in reverse
//! 7 kafka  admin  cluster    Kafka clients · operators (gRPC) · other nodes (gRPC)
//! 6 group                    consumer groups and their offsets
//! 5 replica  controller      the copies of a partition · who chooses
//! 3 metadata  log            what every broker agrees on (Raft, image) · bytes on one disk
//! 2 wire  records  config  telemetry
//! 1 platform  ids            clock, disk, network, chance · newtypes
//! ```
//!
//! # Where a produce request goes, and why it is safe
//!
//! 1. [`kafka::connection`] reads the frame; [`wire::guard`] walks its lengths before anything is decoded.
//! 2. [`kafka::handlers::produce`] finds the partition; [`records::ValidBatches`] checks header and CRC.
//! 3. [`replica::partition::Partition::append`] asks: do I lead, are enough replicas in sync? Then
//!    [`log::partition_log::PartitionLog`] checks the producer's sequence, stamps offset and epoch, and writes.
//! 4. The followers' parked fetches are woken; [`log::flush`] makes the bytes durable, many logs at a time.
//! 5. A follower writes, flushes, and fetches on from there: that offset is its ack.
//! 6. The high watermark, the least of what the in-sync replicas hold on disk, passes the record; the reply goes out.
//!
//! Whoever leads next is chosen from the in-sync replicas, in one Raft commit ([`metadata::image`]): each of them has
//! every record below the high watermark. A deposed leader cannot answer, for its followers fetch in another epoch.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod group;
pub mod ids;
pub mod kafka;
pub mod log;
pub mod metadata;
pub mod platform;
pub mod records;
pub mod replica;
pub mod telemetry;
pub mod wire;
