//! The types openraft is instantiated with, and the one place where metadata is encoded (bincode behind a version byte).

use crate::ids::{BrokerId, DirectoryId};
use crate::metadata::command::{Answer, Command};
use bincode::Options;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Cursor, Write};

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

/// Where a member of the group is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftNode {
    /// "host:port" of its cluster port; the name is looked up at each connection.
    pub address: String,
}

openraft::declare_raft_types!(
    /// The metadata Raft group.
    pub Types:
        D = Command,
        R = Answer,
        NodeId = RaftNodeId,
        Node = RaftNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub type Raft = openraft::Raft<Types>;
pub type Entry = openraft::Entry<Types>;
pub type LogId = openraft::LogId<RaftNodeId>;
pub type Vote = openraft::Vote<RaftNodeId>;
pub type Membership = openraft::StoredMembership<RaftNodeId, RaftNode>;
pub type RaftMetrics = openraft::RaftMetrics<RaftNodeId, RaftNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<RaftNodeId, RaftNode>;
pub type Snapshot = openraft::Snapshot<Types>;
pub type StorageError = openraft::StorageError<RaftNodeId>;
pub type StorageIoError = openraft::StorageIOError<RaftNodeId>;

/// Bound of one command.
pub const COMMAND_BYTES_MAX: usize = 256 << 10;
/// Bound of one entry of the Raft log: a command or a membership.
pub const ENTRY_BYTES_MAX: usize = COMMAND_BYTES_MAX + (64 << 10);
/// What one AppendEntries carries at most, unless a single entry is larger.
pub const APPEND_BYTES_MAX: usize = 1 << 20;
/// One piece of a snapshot on its way to a follower.
pub const SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;
/// Bound of one message between nodes, on both sides; more than any of the above comes to.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bound of a whole snapshot.
pub const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

/// The first byte of everything encoded. A later form gets another number, and this one stays readable.
const VERSION: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("{bytes} bytes are more than the {bound} allowed")]
    TooLarge { bytes: u64, bound: usize },
    #[error("nothing to decode")]
    Empty,
    #[error("encoding version {0} is not known to this release; run the release that wrote it, or a newer one")]
    UnknownVersion(u8),
    #[error("malformed: {0}")]
    Malformed(String),
}

fn options() -> impl Options {
    bincode::DefaultOptions::new()
}

/// One version byte, then the value; refused above `bound`.
pub fn encode<T: Serialize + ?Sized>(value: &T, bound: usize) -> Result<Vec<u8>, CodecError> {
    let size = encoded_size(value)?;
    if size > bound as u64 {
        return Err(CodecError::TooLarge { bytes: size, bound });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    bytes.push(VERSION);
    options().serialize_into(&mut bytes, value).map_err(|e| CodecError::Malformed(e.to_string()))?;
    Ok(bytes)
}

/// How long [`encode`]'s result would be.
pub fn encoded_size<T: Serialize + ?Sized>(value: &T) -> Result<u64, CodecError> {
    options().serialized_size(value).map(|n| n + 1).map_err(|e| CodecError::Malformed(e.to_string()))
}

/// The reverse of [`encode`]. Nothing is reserved by what the bytes claim; bytes left over are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], bound: usize) -> Result<T, CodecError> {
    if bytes.len() > bound {
        return Err(CodecError::TooLarge { bytes: bytes.len() as u64, bound });
    }
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&VERSION, body)) => options().deserialize(body).map_err(|e| CodecError::Malformed(e.to_string())),
        Some((&version, _)) => Err(CodecError::UnknownVersion(version)),
    }
}

/// A message between nodes (an intent, its answer, a registration …) as bytes to carry in a gRPC field.
pub fn encode_message<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode(value, MESSAGE_BYTES_MAX)
}

/// The reverse of [`encode_message`].
pub fn decode_message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode(bytes, MESSAGE_BYTES_MAX)
}

/// A hash of a value's encoding: equal values have equal hashes, in every process.
pub fn digest<T: Serialize + ?Sized>(value: &T) -> u64 {
    struct Crc(crc_fast::Digest);
    impl Write for Crc {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut crc = Crc(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme));
    let mut buffered = io::BufWriter::new(&mut crc);
    options().serialize_into(&mut buffered, value).expect("metadata always encodes, and a digest takes any bytes");
    buffered.flush().expect("a digest takes any bytes");
    drop(buffered);
    crc.0.finalize()
}

#[cfg(test)]
impl From<u64> for RaftNodeId {
    fn from(n: u64) -> RaftNodeId {
        let node = BrokerId(i32::try_from(n).expect("a small number"));
        RaftNodeId { node, directory: DirectoryId(uuid::Uuid::from_u128(u128::from(n))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::Image;

    #[test]
    fn every_refusal_is_typed() {
        let bytes = encode_message(&Command::UnregisterBroker { broker: BrokerId(3) }).unwrap();
        assert_eq!(bytes[0], VERSION);
        assert_eq!(bytes.len() as u64, encoded_size(&Command::UnregisterBroker { broker: BrokerId(3) }).unwrap());
        assert_eq!(decode_message::<Command>(&bytes), Ok(Command::UnregisterBroker { broker: BrokerId(3) }));
        assert_eq!(decode_message::<Command>(&[]), Err(CodecError::Empty));
        assert_eq!(decode_message::<Command>(&[9, 1]), Err(CodecError::UnknownVersion(9)));
        assert!(matches!(decode::<Command>(&bytes, 2), Err(CodecError::TooLarge { bound: 2, .. })));
        assert!(matches!(encode("a long text", 4), Err(CodecError::TooLarge { bound: 4, .. })));
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(decode_message::<Command>(&longer), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_claimed_length_reserves_nothing() {
        // Every collection of these claims 2⁶⁰ elements (a varint of eight bytes) and then ends.
        let claim = |at: usize| {
            let mut bytes = vec![VERSION];
            bytes.extend(std::iter::repeat_n(0, at));
            bytes.push(253);
            bytes.extend((1u64 << 60).to_le_bytes());
            bytes
        };
        for at in 0..40 {
            let _ = decode_message::<Image>(&claim(at));
            let _ = decode_message::<Command>(&claim(at));
            let _ = decode_message::<Entry>(&claim(at));
        }
    }
}
