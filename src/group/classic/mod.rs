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

mod describe;
#[cfg(test)]
mod golden;
mod group;
mod join;
mod leave;
mod member;
mod rebalance;
mod requests;
mod sync;
#[cfg(test)]
mod tests;

pub use describe::{Description, MemberDescription};
pub use group::{Group, Phase};
pub use requests::{Join, Joined, JoinedMember, Leaver, SyncGroup, Synced};
