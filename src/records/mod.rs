//! Kafka's v2 record batches: header, checks, compression, and a builder for the batches that the broker writes itself.
//!
//! ```text
//! bytes ─▶ validate (lengths, CRC, counts; never decompresses) ─▶ ValidBatches ─▶ the log, byte for byte
//!                                                                      │
//! record (bounded) ◀─ compression (bounded) ◀─ only where one must look ┘─▶ recode (another codec, append time)
//! builder, control ─▶ bytes
//! ```

pub mod batch;
pub mod builder;
pub mod compression;
pub mod control;
pub mod recode;
pub mod record;
pub mod validate;
mod varint;

pub use batch::BatchHeader;
pub use builder::BatchBuilder;
pub use compression::Compression;
pub use record::{Record, Records};
pub use validate::{BatchAt, RecordError, ValidBatches};
