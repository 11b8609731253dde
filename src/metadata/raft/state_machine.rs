//! Applies committed entries to the image and publishes it.

use super::reserve::Reserve;
use super::snapshot::{SnapshotError, SnapshotStore, decode_image, encode_image};
use super::types::*;
use crate::ids::RaftIndex;
use crate::metadata::command::Answer;
use crate::metadata::event::IndexedEvent;
use crate::metadata::image::Image;
use crate::metadata::publisher::Publisher;
use crate::platform::random;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

/// In memory but for the snapshot: what was applied after it is applied again from the log at start.
///
/// It holds nothing of sled, so that a worker that outlives the Raft core's shutdown keeps no lock.
pub struct StateMachine {
    image: Image,
    last_applied: Option<LogId>,
    membership: Membership,
    snapshots: Arc<SnapshotStore>,
    publisher: Arc<Publisher>,
}

impl StateMachine {
    /// The state that the folder's snapshot holds, published.
    pub fn open(
        folder: &Path,
        reserve: Arc<Reserve>,
        publisher: Arc<Publisher>,
    ) -> Result<StateMachine, SnapshotError> {
        let (snapshots, kept) = SnapshotStore::open(folder.to_path_buf(), reserve)?;
        let (last_applied, membership, image) = match kept {
            Some((meta, image)) => (meta.last_log_id, meta.last_membership, image),
            None => (None, Membership::default(), Image::default()),
        };
        if last_applied.is_some() {
            publisher.replace(image.clone());
        }
        Ok(StateMachine { image, last_applied, membership, snapshots, publisher })
    }

    fn apply_one(&mut self, entry: Entry, events: &mut Vec<IndexedEvent>) -> Answer {
        let index = RaftIndex(entry.log_id.index);
        self.last_applied = Some(entry.log_id);
        let answer = match entry.payload {
            EntryPayload::Normal(command) => {
                let applied = self.image.apply(index, &command);
                events.extend(applied.events.into_iter().map(|event| IndexedEvent { index, event }));
                applied.answer
            }
            EntryPayload::Membership(membership) => {
                self.image.index = index;
                self.membership = Membership::new(Some(entry.log_id), membership);
                Answer::Done
            }
            EntryPayload::Blank => {
                self.image.index = index;
                Answer::Done
            }
        };
        self.publisher.hash_in_turn(&self.image);
        answer
    }
}

/// What a snapshot is built from: a clone of the image costs nothing, so building never holds up applying.
pub struct SnapshotBuilder {
    image: Image,
    meta: SnapshotMeta,
    snapshots: Arc<SnapshotStore>,
}

fn snapshot_failed(write: bool, why: &(impl std::error::Error + 'static)) -> StorageError {
    let why = AnyError::new(why);
    if write { StorageIoError::write_snapshot(None, why) } else { StorageIoError::read_snapshot(None, why) }.into()
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (image, meta, snapshots) = (self.image.clone(), self.meta.clone(), self.snapshots.clone());
        let built = tokio::task::spawn_blocking(move || {
            let body = encode_image(&image)?;
            snapshots.save(&meta, &body)?;
            Ok::<_, SnapshotError>(body)
        });
        let body = built.await.map_err(|e| snapshot_failed(true, &e))?.map_err(|e| snapshot_failed(true, &e))?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(body)) })
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut events = Vec::new();
        let answers = entries.into_iter().map(|entry| self.apply_one(entry, &mut events)).collect();
        self.publisher.advance(self.image.clone(), events);
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
            snapshot_id: random::uuid().to_string(),
        };
        SnapshotBuilder { image: self.image.clone(), meta, snapshots: self.snapshots.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    /// Durable before it is shown.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let (kept, snapshots) = (meta.clone(), self.snapshots.clone());
        let installed = tokio::task::spawn_blocking(move || {
            let body = snapshot.into_inner();
            let image = decode_image(&body)?;
            snapshots.save(&kept, &body)?;
            Ok::<_, SnapshotError>(image)
        });
        let image = installed.await.map_err(|e| snapshot_failed(true, &e))?.map_err(|e| snapshot_failed(true, &e))?;
        self.image = image;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publisher.replace(self.image.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let snapshots = self.snapshots.clone();
        let read = tokio::task::spawn_blocking(move || snapshots.read());
        let kept = read.await.map_err(|e| snapshot_failed(false, &e))?.map_err(|e| snapshot_failed(false, &e))?;
        Ok(kept.map(|(meta, body)| Snapshot { meta, snapshot: Box::new(Cursor::new(body)) }))
    }
}
