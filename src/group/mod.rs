//! Consumer groups: the coordinator is the leader of the group's `__consumer_offsets` partition.
//!
//! ```text
//! kafka handlers ─→ Coordinator ─→ Slot (one led offsets partition) ─→ Cell (one group)
//!                                                                       ├─ Machine   state + event → effects
//!                                                                       └─ Offsets         committed, pending
//! effects ─→ parked replies │ writes ─→ committer ─→ Raft, then parked answers │ deadlines ─→ Timers
//! offsets ─→ OffsetsLog (append with acks=all; loaded anew by each new leader)
//! ```
//!
//! What must outlive the coordinator is in two places: members, generation and assignment in the metadata image
//! (committed before anyone is told of them), offsets in `__consumer_offsets` (kept short by `rewrite`).

pub mod assignor;
mod burial;
mod cell;
pub mod classic;
mod committer;
pub mod consumer;
pub mod coordinator;
pub mod counts;
mod draft;
mod expirer;
mod expiry;
pub mod lag;
mod lag_watch;
mod log;
pub mod log_ends;
pub mod machine;
mod names;
mod offset_delete;
mod offset_records;
pub mod offsets;
pub mod overview;
pub mod partitioner;
mod revisions;
mod rewrite;
mod settings;
mod shell;
mod slot;
mod split;
mod standing;
mod subscription;
mod timers;
pub mod topic;
