//! The copies of a partition: leader and follower roles, the ISR, the high watermark, fetching.
//!
//! ```text
//! produce ─→ Partition::append ─→ log ─→ wake watchers (followers' parked fetches) ─→ flusher
//!                └─ Parked ←───────── high watermark = min over maximal ISR ←─ followers' fetches
//! image ─→ Hosted ─→ Reconciler (deltas) ─→ open / become leader / become follower / drop
//!                                                └─ Fetchers ─→ Fetcher per (leader, durability)
//! consumer of another rack ─→ nearby: the leader names an in-sync replica, which serves what it knows to be committed
//! damage (scrub, refused fetch, recovery) ─→ report ─→ out of ISR and ELR ─→ filled in place, or cut where the logs part
//! decisions, pure: leader (with isr, high_watermark) · truncation · fetch_session · failed_opens
//! ```

mod contact;
mod damage;
mod failed_opens;
mod fetch_session;
mod fetcher;
mod fetchers;
pub mod follower;
#[cfg(test)]
mod golden;
mod high_watermark;
pub mod hosted;
mod integrity;
mod isr;
mod leader;
mod nearby;
mod node;
mod opening;
mod parked;
pub mod partition;
mod proposals;
mod reconcile;
mod refusals;
mod role;
mod synced;
#[cfg(test)]
pub(crate) mod testing;
mod throttle;
mod truncation;
mod upkeep;
pub mod watcher;

pub use node::Gauges;
