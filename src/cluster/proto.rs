//! Generated from `proto/highwater/cluster/v1/cluster.proto`.
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
tonic::include_proto!("highwater.cluster.v1");
