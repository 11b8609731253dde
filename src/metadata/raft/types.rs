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

/// Bound of one message between nodes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("nothing to decode")]
    Empty,
    #[error("encoding version {0} is not known to this release")]
    UnknownVersion(u8),
    #[error("malformed: {0}")]
    Malformed(String),
}

const VERSION: u8 = 1;

pub fn encoded_size<T: Serialize + ?Sized>(value: &T) -> Result<u64, CodecError> {
    bincode::serialized_size(value).map(|n| n + 1).map_err(|e| CodecError::Malformed(e.to_string()))
}

pub fn encode_message<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![VERSION];
    bincode::serialize_into(&mut bytes, value).map_err(|e| CodecError::Malformed(e.to_string()))?;
    Ok(bytes)
}

pub fn decode_message<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&VERSION, rest)) => bincode::deserialize(rest).map_err(|e| CodecError::Malformed(e.to_string())),
        Some((&version, _)) => Err(CodecError::UnknownVersion(version)),
    }
}
