//! Room on disk that only the metadata store gets: a full disk must not end a node, which votes and serves reads and
//! deletes without a byte of its own to write, but not without its Raft log.
//!
//! ```text
//!   <metadata>/reserve     blocks really allocated, given back from its end, a piece at a time
//!
//!   free room < 2 MiB + what is to be written ──► give back      4 MiB + what was given back ──► all others are refused
//!   free room ≥ 4 MiB + a piece               ──► take again     (`Room::keep`)
//! ```
//!
//! So what was given back is eaten by nobody of this node, and goes into the reserve again before partitions grow. sled
//! must find room at once: after one refused write it takes no more. What the store can need is bounded: the Raft log
//! holds as many entries as lie between snapshots and are kept after one (`quorum`), and there are two snapshot files
//! while one is replaced.

use super::folder;
use crate::platform::disk::{self, File, room::Room};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "reserve";
/// The reserve where the disk is large; else a sixteenth of the disk, in pieces.
const WHOLE_MAX: u64 = 16 << 20;
const DISK_SHARE: u64 = 16;
const PIECE: u64 = 1 << 20;
/// Free room below which the reserve is given back: sled grows by segments of 1 MiB.
const MARGIN: u64 = 2 << 20;
/// Free room that all others leave, besides what was given back. Above the margin, so that the store never has to race
/// them for it: what they were granted a moment ago may not show as taken yet.
const OTHERS_LEAVE: u64 = 4 << 20;
/// Taken again at one look: where the file system cannot allocate these bytes are written, between two Raft writes.
const REFILL_MAX: u64 = 4 << 20;

/// Shared by the log store and the snapshot store.
pub struct Reserve {
    path: PathBuf,
    room: Arc<Room>,
    whole: u64,
    held: Mutex<Held>,
}

/// Invariant: the file has `bytes` allocated bytes, and the room keeps what is missing of the whole from others.
struct Held {
    file: Option<File>,
    bytes: u64,
    /// The operator has been told, since the reserve was whole.
    told_full: bool,
    told_used_up: bool,
}

impl Reserve {
    /// Opens or makes the reserve in `folder`, as large as there is room for. One that cannot be made is tried again
    /// later: a node starts without.
    pub fn open(folder: &Path, room: Arc<Room>) -> io::Result<Arc<Reserve>> {
        // Before it is asked how large its disk is.
        folder::create(folder)?;
        Reserve::open_of(folder, room, whole_of(disk::total_space(folder)?))
    }

    /// No reserve at all.
    #[cfg(test)]
    pub fn none(folder: &Path) -> Arc<Reserve> {
        Reserve::open_of(folder, Room::of(folder), 0).unwrap()
    }

    fn open_of(folder: &Path, room: Arc<Room>, whole: u64) -> io::Result<Arc<Reserve>> {
        folder::create(folder)?;
        let held = Mutex::new(Held { file: None, bytes: 0, told_full: false, told_used_up: false });
        let reserve = Arc::new(Reserve { path: folder.join(FILE), room, whole, held });
        reserve.adopt();
        // Each look takes a part of it.
        (0..whole.div_ceil(REFILL_MAX)).for_each(|_| reserve.tend());
        Ok(reserve)
    }

    /// Takes over what an earlier run left.
    fn adopt(&self) {
        let mut held = self.held.lock();
        if let Ok(file) = File::open(&self.path) {
            let length = file.len().unwrap_or(0).min(self.whole);
            // One that was copied may have holes; filling them is free where there are none.
            let roomy = self.room.free().is_ok_and(|free| free >= length + OTHERS_LEAVE);
            let occupied = if roomy && length > 0 { file.occupy(0, length) } else { Ok(()) };
            held.bytes = if occupied.is_ok() { length } else { 0 };
            if let Err(error) = file.set_len(held.bytes) {
                self.warn("is not cut to its size", &error);
            }
            held.file = Some(file);
        }
        self.keep(&held);
    }

    /// Called before something is written: gives back of the reserve until `bytes` find room, with a margin.
    pub fn make_room(&self, bytes: u64) {
        // Looked at each time: it costs a thousandth of the fdatasync that follows.
        let is_short = |room: &Room| room.free().is_ok_and(|free| free < MARGIN.saturating_add(bytes));
        if self.whole > 0 && is_short(&self.room) {
            self.give_back(bytes);
        }
    }

    /// Called now and then in a calm moment: others may have taken all room, or made some.
    pub fn tend(&self) {
        if self.whole == 0 {
            return;
        }
        match self.room.free() {
            Ok(free) if free < MARGIN => self.give_back(0),
            Ok(_) => self.refill(),
            Err(_) => {}
        }
    }

    /// Bytes held now.
    #[cfg(test)]
    pub fn held(&self) -> u64 {
        self.held.lock().bytes
    }

    fn give_back(&self, bytes: u64) {
        let mut held = self.held.lock();
        // Again, under the lock: another may have given back just now.
        let Ok(free) = self.room.free() else { return };
        let wanted = MARGIN.saturating_add(bytes);
        if free >= wanted {
            return;
        }
        let left = left_after(free, held.bytes, wanted);
        if !held.told_full {
            held.told_full = true;
            tracing::warn!(
                path = %self.path.display(), free,
                "the disk is full: produce is refused, and the metadata store lives on its reserve; make room"
            );
        }
        if let Some(file) = held.file.as_ref().filter(|_| left < held.bytes) {
            // Synced: a journaling file system hands out freed blocks only once their freeing is on disk.
            match file.set_len(left).and_then(|()| file.sync_all()) {
                Ok(()) => held.bytes = left,
                Err(error) => {
                    held.bytes = file.len().unwrap_or(held.bytes).min(held.bytes);
                    self.warn("could not be given back", &error);
                }
            }
            self.keep(&held);
        }
        if held.bytes == 0 && !held.told_used_up {
            held.told_used_up = true;
            tracing::error!(
                path = %self.path.display(),
                "the disk is full and the reserve of the metadata store is used up: make room, or this node ends at the \
                 next metadata change that does not fit"
            );
        }
    }

    fn refill(&self) {
        let mut held = self.held.lock();
        if held.bytes >= self.whole {
            return;
        }
        let Ok(free) = self.room.free() else { return };
        let more = more_of(free, held.bytes, self.whole);
        if more == 0 {
            return;
        }
        if held.file.is_none() {
            held.file = File::open_or_create(&self.path).ok();
        }
        let Some(file) = &held.file else { return };
        match file.occupy(held.bytes, more) {
            Ok(()) => held.bytes += more,
            Err(error) => {
                // Half a piece may be there.
                let cut = file.set_len(held.bytes);
                if let Some(error) = Some(error).filter(|e| !disk::is_full(e)).or(cut.err()) {
                    self.warn("could not be filled again", &error);
                }
            }
        }
        self.keep(&held);
        if held.bytes == self.whole && held.told_full {
            (held.told_full, held.told_used_up) = (false, false);
            tracing::info!(path = %self.path.display(), "there is room again: the metadata store's reserve is whole");
        }
    }

    fn keep(&self, held: &Held) {
        self.room.keep(if self.whole == 0 { 0 } else { OTHERS_LEAVE + self.whole - held.bytes });
    }

    fn warn(&self, what: &str, error: &io::Error) {
        tracing::warn!(path = %self.path.display(), %error, "the metadata store's reserve {what}");
    }
}

/// The size of the reserve on a disk of `total` bytes.
fn whole_of(total: u64) -> u64 {
    (total / DISK_SHARE).clamp(PIECE, WHOLE_MAX) / PIECE * PIECE
}

/// What to hold after giving back, so that `wanted` bytes are free; whole pieces go.
fn left_after(free: u64, held: u64, wanted: u64) -> u64 {
    let short = wanted.saturating_sub(free);
    held.saturating_sub(short.div_ceil(PIECE).saturating_mul(PIECE))
}

/// What to take now: whole pieces that leave all others their share, or the rest of the whole.
fn more_of(free: u64, held: u64, whole: u64) -> u64 {
    let missing = whole.saturating_sub(held).min(REFILL_MAX);
    missing.min(free.saturating_sub(OTHERS_LEAVE) / PIECE * PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const MIB: u64 = 1 << 20;

    #[test]
    fn its_size_follows_the_disk() {
        let whole = |mib| whole_of(mib * MIB) / MIB;
        assert_eq!([1, 20, 64, 100, 256, 1 << 20].map(whole), [1, 1, 4, 6, 16, 16]);
    }

    #[test]
    fn pieces_go_until_there_is_room_and_no_more() {
        assert_eq!(left_after(2 * MIB, 16 * MIB, 2 * MIB), 16 * MIB);
        assert_eq!(left_after(2 * MIB - 1, 16 * MIB, 2 * MIB), 15 * MIB);
        assert_eq!(left_after(0, 16 * MIB, 2 * MIB), 14 * MIB);
        assert_eq!(left_after(0, 16 * MIB, u64::MAX), 0);
        assert_eq!(left_after(0, MIB, 2 * MIB), 0, "the last piece goes too");
    }

    #[test]
    fn it_is_filled_only_from_what_others_leave() {
        assert_eq!(more_of(5 * MIB - 1, 0, 16 * MIB), 0);
        assert_eq!(more_of(5 * MIB, 0, 16 * MIB), MIB);
        assert_eq!(more_of(100 * MIB, 0, 16 * MIB), REFILL_MAX);
        assert_eq!(more_of(100 * MIB, 15 * MIB, 16 * MIB), MIB);
        assert_eq!(more_of(100 * MIB, 16 * MIB, 16 * MIB), 0);
    }

    #[test]
    fn a_new_folder_gets_one() {
        let folder = tempfile::tempdir().unwrap();
        let metadata = folder.path().join("metadata");
        let reserve = Reserve::open(&metadata, Room::of(folder.path())).unwrap();
        assert!(reserve.held() >= PIECE);
        assert_eq!(disk::len(&metadata.join(FILE)).unwrap(), reserve.held());
    }

    /// A disk of which `others` is taken: what the reserve gives back is free. Answers the reserve, the room, `others`.
    fn on_disk_of(total: u64, folder: &Path) -> (Arc<Reserve>, Arc<Room>, Arc<AtomicU64>) {
        let others = Arc::new(AtomicU64::new(0));
        let (taken, file) = (others.clone(), folder.join(FILE));
        let room = Room::measured_by(move || {
            let held = disk::len(&file).unwrap_or(0);
            Ok(total.saturating_sub(held + taken.load(Ordering::Relaxed)))
        });
        (Reserve::open_of(folder, room.clone(), whole_of(total)).unwrap(), room, others)
    }

    #[test]
    fn a_full_disk_has_room_for_the_store_alone_until_there_is_room_again() {
        let folder = tempfile::tempdir().unwrap();
        let (reserve, room, others) = on_disk_of(256 * MIB, folder.path());
        assert_eq!((reserve.held(), room.free().unwrap()), (16 * MIB, 240 * MIB));
        room.ask(236 * MIB).unwrap();

        // Somebody else takes all, to the last byte; then the store writes 12 MiB.
        others.store(240 * MIB, Ordering::Relaxed);
        for _ in 0..12 {
            reserve.make_room(MIB);
            assert!(room.free().unwrap() >= 3 * MIB, "it fits");
            assert!(room.ask(1).is_err(), "the room is the store's");
            others.fetch_add(MIB, Ordering::Relaxed);
        }
        assert_eq!(reserve.held(), 2 * MIB);
        reserve.make_room(100 * MIB);
        assert_eq!(reserve.held(), 0, "all that there is");

        // The room that is made fills the reserve before others get any.
        others.fetch_sub(12 * MIB, Ordering::Relaxed);
        assert!(room.ask(1).is_err());
        (0..8).for_each(|_| reserve.tend());
        assert_eq!((reserve.held(), room.free().unwrap()), (12 * MIB, 4 * MIB));
        assert!(room.ask(1).is_err());
        others.fetch_sub(6 * MIB, Ordering::Relaxed);
        (0..8).for_each(|_| reserve.tend());
        assert_eq!(reserve.held(), 16 * MIB);
        room.ask(2 * MIB).unwrap();
        assert!(room.ask(1).is_err());
    }

    #[test]
    fn without_a_write_too_some_room_is_kept_free() {
        let folder = tempfile::tempdir().unwrap();
        let (reserve, room, others) = on_disk_of(256 * MIB, folder.path());
        others.store(240 * MIB, Ordering::Relaxed);
        reserve.tend();
        assert_eq!((reserve.held(), room.free().unwrap()), (14 * MIB, 2 * MIB));
    }

    #[test]
    fn its_blocks_are_there_and_outlive_the_process() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        drop(on_disk_of(256 * MIB, folder.path()));
        let file = folder.path().join(FILE);
        assert!(std::fs::metadata(&file).unwrap().blocks() * 512 >= 16 * MIB);
        // A copy with holes is filled.
        let held = File::open(&file).unwrap();
        held.set_len(0).and_then(|()| held.set_len(16 * MIB)).unwrap();
        let (reserve, _, _) = on_disk_of(256 * MIB, folder.path());
        assert_eq!(reserve.held(), 16 * MIB);
        assert!(std::fs::metadata(&file).unwrap().blocks() * 512 >= 16 * MIB);
        // On a smaller disk it shrinks.
        let (reserve, _, _) = on_disk_of(64 * MIB, folder.path());
        assert_eq!((reserve.held(), disk::len(&file).unwrap()), (4 * MIB, 4 * MIB));
    }
}
