//! The copies of a partition: leader and follower roles, the ISR, the high watermark, fetching.
//!
//! ```text
//! produce ─→ Partition::append ─→ log ─→ wake watchers (followers' parked fetches) ─→ flusher
//!                └─ HighWatermarkWait ←──────────── high watermark = min over maximal ISR ←─ followers' fetches
//! image ─→ Hosted (deltas) ─→ become leader / become follower (fetcher per leader) / drop
//! ```

pub mod follower;
pub mod hosted;
pub mod partition;
pub mod watcher;
