//! The command line: `serve` runs a node, `dev` a cluster on this machine; the rest are clients.
//!
//! ```text
//! command ─┬→ serve ─→ broker::run
//!          ├→ dev ───→ child processes of this executable (folder, process, up, control, demo)
//!          ├→ cluster, quorum, topic (moves, elect), broker, group (group_describe, group_reset) ─→ reach ─→ admin port (gRPC)   watcher resumes over all nodes
//!          └→ produce, consume ──────→ client ─→ Kafka port
//! ```

mod broker;
mod client;
mod cluster;
pub mod command;
mod consume;
mod demo;
mod dev;
mod elect;
mod events;
mod group;
mod group_describe;
mod group_reset;
mod logging;
mod moves;
mod output;
mod produce;
mod quorum;
mod reach;
mod serve;
mod times;
mod topic;
mod watcher;
