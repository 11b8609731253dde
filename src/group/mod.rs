//! Consumer groups: the coordinator is the leader of the group's `__consumer_offsets` partition.
//!
//! ```text
//! kafka handlers ─→ Coordinator ─→ Slot (one led offsets partition) ─→ Cell (one group)
//!                                                                       ├─ classic::Group  state + event → effects
//!                                                                       └─ Offsets         committed, pending
//! effects ─→ parked replies │ SetGroup through Raft, then the parked SyncGroup answers │ deadlines ─→ Timers
//! offsets ─→ OffsetsLog (append with acks=all; loaded anew by each new leader)
//! ```
//!
//! What must outlive the coordinator is in two places: members, generation and assignment in the metadata image
//! (committed before anyone is told of them), offsets in the compacted topic.

mod cell;
pub mod classic;
pub mod coordinator;
mod expirer;
mod expiry;
mod log;
mod names;
mod offset_delete;
mod offset_records;
pub mod offsets;
pub mod partitioner;
mod rewrite;
mod settings;
mod shell;
mod slot;
mod standing;
mod subscription;
mod timers;
mod topic;
