//! What a node says of itself: health (how far it is, and why) and metrics (their names, and the page they are told on).

pub mod health;
pub mod metrics;
