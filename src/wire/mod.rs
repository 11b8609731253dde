//! The Kafka wire: frames, guarded decoding, error codes, and a small client for replica fetches.

pub mod client;
pub mod codec;
pub mod error_code;
pub mod frame;
pub mod guard;
