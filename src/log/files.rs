//! A bounded set of open files, shared by all logs of a folder.
//!
//! A [`Slot`] names one file and remembers it while it is open. When more than the bound are open, one that was not
//! used lately is closed (second chance, an approximation of least recently used). Whoever still holds the `Arc` of a
//! closed file goes on using it; a log holds its active file so while bytes in it are not durable, because a failed
//! write-back is told only to files that were open when it failed.

use crate::platform::disk::File;
use crate::platform::disk::room::Room;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

pub(super) struct OpenFiles {
    /// Slots whose file may be open. Invariant: a slot is in here at most once.
    open: Mutex<VecDeque<Weak<Slot>>>,
    open_max: usize,
    room: Arc<Room>,
}

impl OpenFiles {
    pub fn new(open_max: usize, room: Arc<Room>) -> Arc<OpenFiles> {
        Arc::new(OpenFiles { open: Mutex::new(VecDeque::new()), open_max: open_max.max(1), room })
    }

    fn admit(&self, slot: &Arc<Slot>) {
        let mut open = self.open.lock();
        if !slot.listed.swap(true, Ordering::Relaxed) {
            open.push_back(Arc::downgrade(slot));
        }
        // One round may only clear "used" marks; the second then finds one to close.
        let mut chances = 2 * open.len();
        while open.len() > self.open_max && chances > 0 {
            chances -= 1;
            let Some(oldest) = open.pop_front() else { break };
            let Some(candidate) = oldest.upgrade() else { continue };
            if candidate.used.swap(false, Ordering::Relaxed) || Arc::ptr_eq(&candidate, slot) {
                open.push_back(oldest);
            } else {
                candidate.listed.store(false, Ordering::Relaxed);
                candidate.file.store(None);
            }
        }
    }

    #[cfg(test)]
    pub fn open_count(&self) -> usize {
        self.open.lock().iter().filter(|w| w.upgrade().is_some_and(|s| s.file.load().is_some())).count()
    }
}

/// One file by name, open or not.
pub(super) struct Slot {
    files: Arc<OpenFiles>,
    folder: Arc<Path>,
    name: String,
    file: ArcSwapOption<File>,
    used: AtomicBool,
    listed: AtomicBool,
}

impl Slot {
    pub fn new(files: &Arc<OpenFiles>, folder: &Arc<Path>, name: String) -> Arc<Slot> {
        Arc::new(Slot {
            files: files.clone(),
            folder: folder.clone(),
            name,
            file: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            listed: AtomicBool::new(false),
        })
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the file may grow by `bytes`: [`Room::ask`].
    pub fn ask(&self, bytes: u64) -> io::Result<()> {
        self.files.room.ask(bytes)
    }

    /// The open file; `NotFound` if there is none by this name.
    pub fn get(self: &Arc<Self>) -> io::Result<Arc<File>> {
        self.get_or(File::open)
    }

    /// The open file, created empty if it is not there.
    pub fn get_or_create(self: &Arc<Self>) -> io::Result<Arc<File>> {
        self.get_or(File::open_or_create)
    }

    fn get_or(self: &Arc<Self>, open: impl FnOnce(&Path) -> io::Result<File>) -> io::Result<Arc<File>> {
        if let Some(file) = self.file.load_full() {
            self.used.store(true, Ordering::Relaxed);
            return Ok(file);
        }
        // Two threads may open it at once; then one of the two files lives only as long as its first use.
        let file = Arc::new(open(&self.path())?);
        self.used.store(true, Ordering::Relaxed);
        self.file.store(Some(file.clone()));
        self.files.admit(self);
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::disk;

    #[test]
    fn the_bound_holds_and_used_files_stay() {
        let temporary = tempfile::tempdir().unwrap();
        let folder: Arc<Path> = temporary.path().into();
        let files = OpenFiles::new(4, Room::of(&folder));
        let slots: Vec<_> = (0..20).map(|i| Slot::new(&files, &folder, format!("{i}"))).collect();
        for slot in &slots {
            slot.get_or_create().unwrap().write_at(slot.name().as_bytes(), 0).unwrap();
            slots[0].get().unwrap();
            assert!(files.open_count() <= 4);
        }
        assert!(slots[0].file.load().is_some(), "the one in use stays open");
        for slot in &slots {
            assert_eq!(slot.get().unwrap().read_vec_at(10, 0).unwrap(), slot.name().as_bytes());
            assert!(files.open_count() <= 4);
        }
        drop(slots);
        assert_eq!(files.open_count(), 0);
        assert_eq!(disk::list(temporary.path()).unwrap().len(), 20);
    }
}
