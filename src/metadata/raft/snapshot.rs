//! The snapshot: one file with the image and what openraft needs to know of it.
//!
//! ```text
//! magic(8) header length(4) header CRC-32C(4) header body
//! ```
//!
//! The body is what travels to followers: the encoded image. The file is replaced atomically, and it is durable before
//! the log is purged below it.

use super::folder;
use super::reserve::Reserve;
use super::types::*;
use crate::metadata::image::Image;
use crate::platform::disk;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

const FILE: &str = "snapshot";
const MAGIC: &[u8; 8] = b"HWSNAP\0\x01";
const PREFIX_BYTES: usize = 16;
const HEADER_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(
        "the disk is full and the metadata store's reserve is used up: make room below {0} and start the node again"
    )]
    Full(PathBuf),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("the snapshot file is damaged ({0}); restore it, or let the node join again with an empty folder")]
    Damaged(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Header {
    meta: SnapshotMeta,
    body_bytes: u64,
    body_crc: u64,
}

/// A snapshot as it was read back.
pub type Kept = (SnapshotMeta, Image);

/// The node's one snapshot file.
pub struct SnapshotStore {
    folder: PathBuf,
    reserve: Arc<Reserve>,
    /// The meta of what the file holds. Held while the file is written: one writer at a time.
    current: Mutex<Option<SnapshotMeta>>,
}

impl SnapshotStore {
    /// The store, and what its file holds.
    pub fn open(folder: PathBuf, reserve: Arc<Reserve>) -> Result<(Arc<SnapshotStore>, Option<Kept>), SnapshotError> {
        folder::create(&folder)?;
        let store = SnapshotStore { folder, reserve, current: Mutex::new(None) };
        let kept = match store.read()? {
            None => None,
            Some((meta, body)) => Some((meta, decode_image(&body)?)),
        };
        *store.current.lock() = kept.as_ref().map(|(meta, _)| meta.clone());
        Ok((Arc::new(store), kept))
    }

    /// The file's meta and body.
    pub fn read(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, SnapshotError> {
        let bound = SNAPSHOT_BYTES_MAX + PREFIX_BYTES + HEADER_BYTES_MAX;
        let Some(mut bytes) = folder::read(&self.folder.join(FILE), bound)? else { return Ok(None) };
        let (header, body_at) = parse(&bytes)?;
        let body = bytes.split_off(body_at);
        if body.len() as u64 != header.body_bytes {
            return Err(SnapshotError::Damaged("its length is wrong"));
        }
        if crc_fast::crc64_nvme(&body) != header.body_crc {
            return Err(SnapshotError::Damaged("its checksum is wrong"));
        }
        Ok(Some((header.meta, body)))
    }

    /// Keeps a snapshot. One that was built while a newer one was installed is dropped: the file never goes back.
    pub fn save(&self, meta: &SnapshotMeta, body: &[u8]) -> Result<(), SnapshotError> {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|kept| kept.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let header = Header { meta: meta.clone(), body_bytes: body.len() as u64, body_crc: crc_fast::crc64_nvme(body) };
        let header = encode(&header, HEADER_BYTES_MAX)?;
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..8].copy_from_slice(MAGIC);
        prefix[8..12].copy_from_slice(&u32::try_from(header.len()).expect("bounded above").to_be_bytes());
        prefix[12..].copy_from_slice(&crc_fast::crc32_iscsi(&header).to_be_bytes());
        self.reserve.make_room((PREFIX_BYTES + header.len() + body.len()) as u64);
        folder::replace(&self.folder, FILE, &[&prefix, &header, body]).map_err(|error| {
            if disk::is_full(&error) { SnapshotError::Full(self.folder.clone()) } else { error.into() }
        })?;
        *current = Some(meta.clone());
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<(Header, usize), SnapshotError> {
    let damaged = SnapshotError::Damaged;
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(damaged("it is too short"))?;
    if &prefix[..8] != MAGIC {
        return Err(damaged("it does not begin as a snapshot does"));
    }
    let number = |at: usize| u32::from_be_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    let header_bytes = number(8) as usize;
    let header = rest.get(..header_bytes).ok_or(damaged("its header is cut short"))?;
    if crc_fast::crc32_iscsi(header) != number(12) {
        return Err(damaged("its header's checksum is wrong"));
    }
    Ok((decode(header, HEADER_BYTES_MAX)?, PREFIX_BYTES + header_bytes))
}

pub fn encode_image(image: &Image) -> Result<Vec<u8>, CodecError> {
    encode(image, SNAPSHOT_BYTES_MAX)
}

pub fn decode_image(body: &[u8]) -> Result<Image, CodecError> {
    decode(body, SNAPSHOT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RaftIndex;

    fn meta(index: u64) -> SnapshotMeta {
        let leader = openraft::CommittedLeaderId::new(1, RaftNodeId::from(1));
        SnapshotMeta { last_log_id: Some(LogId::new(leader, index)), ..SnapshotMeta::default() }
    }

    #[test]
    fn comes_back_after_reopening_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let (store, kept) = SnapshotStore::open(folder.path().into(), Reserve::none(folder.path())).unwrap();
        assert!(kept.is_none());
        let image = Image { index: RaftIndex(7), ..Image::default() };
        store.save(&meta(7), &encode_image(&image).unwrap()).unwrap();
        let older = Image { index: RaftIndex(3), ..Image::default() };
        store.save(&meta(3), &encode_image(&older).unwrap()).unwrap();

        let (_, kept) = SnapshotStore::open(folder.path().into(), Reserve::none(folder.path())).unwrap();
        assert_eq!(kept, Some((meta(7), image)));
    }

    #[test]
    fn any_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = SnapshotStore::open(folder.path().into(), Reserve::none(folder.path())).unwrap();
        store.save(&meta(7), &encode_image(&Image::default()).unwrap()).unwrap();
        let whole = folder::read(&folder.path().join(FILE), 1 << 20).unwrap().unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            folder::replace(folder.path(), FILE, &[&bad]).unwrap();
            assert!(store.read().is_err(), "a flipped bit in byte {at} went unseen");
            folder::replace(folder.path(), FILE, &[&whole[..at]]).unwrap();
            assert!(store.read().is_err(), "the file cut at {at} passed");
        }
    }
}
