//! What is done to the cluster: chosen from a seed apart from doing it.
//!
//! ```text
//! seed ─→ plan (pure): rounds of one to three faults ─→ driver: begin, hold, heal ─→ every place must take writes again
//! ```

pub mod driver;
pub mod inject;
pub mod kind;
pub mod plan;
pub mod power;
