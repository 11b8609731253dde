//! For operators: gRPC with reflection and health, and three plain HTTP pages for probes and Prometheus, on one port.
//!
//! ```text
//! admin port ─→ door (by path) ─┬→ Cluster, Topics, Groups,
//!                               │  Quorum                    read the image; changes go as intents to the controller
//!                               ├→ Brokers, Reassignments    the same; progress is asked of the replicas
//!                               ├→ Events.Watch              kept history, then updates, pulled at the reader's pace
//!                               ├→ health, reflection
//!                               ├→ /healthz, /readyz         HTTP/1 too
//!                               └→ /metrics                  what the house keeps anyway, and events counted
//! ```

mod addresses;
mod brokers;
mod cluster;
mod counts;
mod door;
mod elections;
mod errors;
mod events;
mod group_reset;
mod group_views;
mod groups;
mod metrics;
pub mod proto;
mod quorum;
mod reassignments;
pub mod server;
mod topics;
mod watch;
