//! Between nodes: forming and joining, broker sessions, intents forwarded to the controller.

pub mod proto;
