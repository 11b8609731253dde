//! For operators: gRPC with reflection and health.

pub mod proto;
