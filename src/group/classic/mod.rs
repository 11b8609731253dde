//! The classic consumer-group protocol as a pure state machine: state + event + now → effects.
//!
//! ```text
//!            join                      all joined, or the barrier's deadline
//!  Empty ──────────→ PreparingRebalance ──────────→ CompletingRebalance ── leader's sync, committed ─→ Stable
//!    ↑                 ↑   │ nobody left                │ join, leave, expiry                            │
//!    └─────────────────┼───┘                            │                                                │
//!                      └────────────────────────────────┴──────────── join, leave, expiry ───────────────┘
//! ```
//!
//! It reads no clock, sends nothing and draws nothing by chance: times and fresh member ids come with the events,
//! parked requests are tickets, and the commit of an assignment is an effect whose outcome comes back as an event.

mod group;
mod join;
mod rebalance;
mod requests;
mod sync;
#[cfg(test)]
mod tests;

pub use group::{Description, Effect, Group, MemberDescription, Phase};
pub use requests::{Join, Joined, JoinedMember, SyncGroup, Synced, Ticket};

/// Milliseconds on the coordinator's own clock.
pub type Millis = u64;
