//! The types openraft is instantiated with, and the one place where metadata is encoded (bincode behind a version byte).

use crate::ids::{BrokerId, DirectoryId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A Raft identity: a wiped folder is a different node (KIP-853).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RaftNodeId {
    pub node: BrokerId,
    pub directory: DirectoryId,
}

impl fmt::Display for RaftNodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.directory)
    }
}

/// Why bytes could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("metadata codec: {0}")]
pub struct CodecError(pub String);

const VERSION: u8 = 1;

pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![VERSION];
    bincode::serialize_into(&mut bytes, value).map_err(|e| CodecError(e.to_string()))?;
    Ok(bytes)
}

pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => bincode::deserialize(rest).map_err(|e| CodecError(e.to_string())),
        Some((version, _)) => Err(CodecError(format!("unknown version {version}"))),
        None => Err(CodecError("no bytes".to_string())),
    }
}
