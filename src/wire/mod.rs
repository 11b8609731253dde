//! The Kafka wire: frames, guarded decoding, error codes, and a small client.
//!
//! ```text
//! socket ─▶ frame (4-byte length, bounded) ─▶ codec (header, guard, decode) ─▶ a typed request
//! socket ◀─ one buffer, length first       ◀─ codec (header, encode)        ◀─ a typed response
//!
//! client: dials, encodes requests, decodes responses through the same guard
//! ```

pub mod client;
pub mod codec;
pub mod error_code;
pub mod frame;
pub mod guard;
