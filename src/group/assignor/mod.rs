//! Who is to own which partition (KIP-848's server-side assignors): pure, and the same for the same input.
//!
//! ```text
//! members (subscriptions, racks, what each holds) ┐
//! topics (partitions, racks)                      ┴→ classes: topics with the same subscribers ─┬→ uniform
//!                                                                                                └→ range
//! ```
//!
//! Both are sticky: what a member holds is taken from it only where balance, or the shape of a range, needs it.

mod classes;
mod problem;
mod range;
#[cfg(test)]
mod tests;
mod uniform;

pub use problem::{Assignor, Owned, Subscriber, TopicShape, Topics, assign};
