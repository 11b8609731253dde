//! The metadata that every broker agrees on: commands through Raft, an immutable image, events.
//!
//! ```text
//! Intent → controller → Command → Raft log (sled) → committed → apply(image) → image' published + events
//!                                                                              │
//!              replica::hosted, kafka/metadata, admin Watch  ←── Update ───────┘
//! ```

pub mod command;
pub mod event;
pub mod group_change;
pub mod group_partition;
pub mod history;
pub mod image;
pub mod intent;
mod publisher;
pub mod quorum;
pub mod raft;
pub mod voters;
