//! Chooses what must be chosen by one: where replicas go, who is alive, who leads again.
//!
//! Acts only while this node is the controller. Every choice is a pure function of the image (and of what only the
//! controller can know); `controller.rs` commits what was chosen and gives back one answer an item.
//!
//! ```text
//! Intent ─→ topics / moves / configs / groups / isr_change / producer_ids ─→ Plan ─→ controller (propose) ─→ IntentAnswer
//!             └─ placement
//! heartbeats, lost connections, dials, ticks ─→ liveness ─→ effects (dial, fence, unfence)
//! image deltas ─→ election (preferred leaders), unclean ─→ elector (asks replica_states) ─→ ElectLeaders
//! ChangeVoters ─→ voters (one change at a time) ─→ Quorum::change_voters
//! ```

pub mod configs;
#[allow(clippy::module_inception, reason = "the room's main noun")]
pub mod controller;
pub mod election;
mod elector;
mod groups;
pub mod isr_change;
pub mod liveness;
pub mod moves;
pub mod placement;
pub mod plan;
pub mod producer_ids;
pub mod replica_states;
pub mod topics;
pub mod unclean;
mod voters;

#[cfg(test)]
mod testing;
