//! Generated from `proto/highwater/raft/v1/raft.proto`.
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
tonic::include_proto!("highwater.raft.v1");
