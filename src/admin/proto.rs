//! Generated from `proto/highwater/admin/v1/admin.proto`.
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
tonic::include_proto!("highwater.admin.v1");

/// The encoded descriptors of every service, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
