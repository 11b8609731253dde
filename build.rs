//! Compiles `proto/` without protoc: protox reads the files, tonic-prost-build generates the code.

#![allow(clippy::disallowed_methods, reason = "the platform seam is the broker's, not the build's")]

use std::path::PathBuf;

const FILES: [&str; 3] =
    ["highwater/raft/v1/raft.proto", "highwater/cluster/v1/cluster.proto", "highwater/admin/v1/admin.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["proto"])?;
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
