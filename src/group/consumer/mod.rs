//! The consumer protocol of KIP-848 as a pure state machine: state + event + now → effects.
//!
//! ```text
//! heartbeat, leave, timeout, new topics ─→ group epoch + 1 ─→ target: an assignor, over all members
//!        each member, at its own heartbeats:                     │
//!   Stable ──→ Unrevoked (asked to give up what is not its any more) ──→ Unreleased (waits for what others have) ──→ Stable
//! ```
//!
//! A partition is given to a member only once its former owner has released it. Whatever a heartbeat's answer reveals
//! is committed before: such a heartbeat is parked until then, one that reveals nothing new is answered from memory. One
//! write of a group is under way at a time; all that happens meanwhile goes into the next, so a hundred members that
//! join at once cost two epochs.
//!
//! It reads no clock and sends nothing: times and the metadata image come with the events, parked requests are tickets,
//! and a commit is an effect whose outcome comes back as an event.

mod bound;
mod classic;
mod convert;
mod describe;
mod embedded;
#[cfg(test)]
mod golden;
mod group;
mod heartbeat;
mod member;
mod reconcile;
mod regex;
mod requests;
mod restore;
mod supporters;
mod target;
#[cfg(test)]
mod testing;
mod upkeep;

pub use convert::{classic_of_torn, is_upgradable, may_upgrade};
pub use describe::{Description, MemberDescription, Phase};
pub use group::Group;
pub use requests::{Heartbeat, HeartbeatAnswer, JOIN, LEAVE, LEAVE_STATIC};
