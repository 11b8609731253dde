//! Kafka's v2 record batches: header, checks, compression, and a builder for the batches that the broker writes itself.

pub mod batch;
pub mod builder;
pub mod compression;
pub mod control;
pub mod validate;

pub use batch::BatchHeader;
pub use validate::{RecordError, ValidBatches};
