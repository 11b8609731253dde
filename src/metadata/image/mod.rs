//! The image: what all committed commands amount to.
//!
//! Immutable and published whole through an `Arc`; its maps are persistent and ordered, so that a change costs
//! O(change) and every node's image has the same hash.
//!
//! ```text
//! (image, index, command) ── apply ──► image' + answer + events
//!                              │
//!        brokers topics isr elections configs groups     what each command asks
//!                              └──► transition            what a partition then becomes
//! ```

mod apply;
pub mod brokers;
pub mod configs;
mod consistency;
pub mod groups;
mod persistent;
mod root;
pub mod topics;

pub use apply::Applied;
pub use root::Image;
