//! openraft's adapter: types, log store (sled), state machine, snapshot, and the gRPC transport.

pub mod proto;
pub mod types;
