//! The live side: before an operation changes a file or a name below the root, what it takes away is in the journal.
//!
//! ```text
//! write, truncate ─→ pre-image ─→ data-<file>    ─→ the call      fsync, fdatasync of the file  drop its entries
//! create, rename  ─→ old names ─→ names-<folder> ─→ the call      fsync of the folder           drops its entries
//! unlink          ─→ a link in the graveyard, kept while an entry names the file
//! ```
//!
//! A sync makes durable what was journalled when it began, and no more. Each method takes the call itself as a closure
//! and gives its result; errno is the call's.

mod data;
mod faults;
mod names;
mod place;

use crate::entry;
use crate::layout::Layout;
use crate::sys::{self, Fd, Key};
use data::FileJournal;
use faults::Faults;
use names::Folders;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use data::Span;
pub(crate) use data::head;

/// Files known to be none of ours are forgotten beyond this many.
const STRANGERS_MAX: usize = 4096;
/// A process killed a moment ago may still hold the journal.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// One process's recorder for one root. Invariant: an entry is in the journal before the call that it undoes is made,
/// and the call is made under the lock that the entry was written under.
pub struct Recorder {
    layout: Layout,
    root: Vec<u8>,
    device: u64,
    graveyard_path: Vec<u8>,
    graveyard: Fd,
    /// `None`: a file that isn't below the root.
    files: Mutex<BTreeMap<Key, Option<Arc<Mutex<FileJournal>>>>>,
    folders: Mutex<Folders>,
    faults: Faults,
    forget_syncs: bool,
    /// Operations until the process is killed.
    left: AtomicU64,
    _lock: Fd,
}

impl Recorder {
    /// Goes on with the journal if there is one: what an earlier process didn't sync is still not synced. Makes the
    /// root if it isn't there; the folder above it must be. With `forget_syncs` a sync makes nothing durable, so a
    /// rewind leads back to the very beginning: that is how the journal is proved to be complete.
    pub fn open(journal: &Path, root: &Path, forget_syncs: bool) -> io::Result<Recorder> {
        sys::mkdir(root)?;
        sys::mkdir(journal)?;
        let lock = locked(&journal.join("lock"))?;
        let folder = sys::open(root, sys::O_RDONLY | sys::O_DIRECTORY)?;
        let root = sys::path_of(folder.0)?;
        let device = sys::stat(folder.0)?.key.0;
        let layout = Layout::make(journal, Path::new(std::ffi::OsStr::from_bytes(&root)), device)?;
        let graveyard = sys::open(&layout.graveyard, sys::O_RDONLY | sys::O_DIRECTORY)?;
        let recorder = Recorder {
            graveyard_path: sys::path_of(graveyard.0)?,
            faults: Faults::open(&layout.control())?,
            root,
            device,
            graveyard,
            layout,
            files: Mutex::default(),
            folders: Mutex::default(),
            forget_syncs,
            left: AtomicU64::new(u64::MAX),
            _lock: lock,
        };
        recorder.resume()?;
        Ok(recorder)
    }

    /// The file that stands for the machine's boot id: a power cut gives it another.
    pub fn boot_id(&self) -> PathBuf {
        self.layout.boot_id()
    }

    /// The process dies of SIGKILL when its `operations`th write, sync or change of a name is under way: what that one
    /// takes away is in the journal, and its call is not made.
    pub fn end_at(&self, operations: u64) {
        self.left.store(operations, Ordering::Relaxed);
    }

    fn count(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let own = crate::call!(SYS_getpid);
            crate::call!(SYS_kill, own, libc::SIGKILL);
            loop {
                std::thread::park();
            }
        }
    }

    fn resume(&self) -> io::Result<()> {
        for key in self.layout.files("data")? {
            let journal = FileJournal::resume(self.layout.file("data", key))?;
            locked_now(&self.files).insert(key, Some(Arc::new(Mutex::new(journal))));
        }
        let mut folders = locked_now(&self.folders);
        for key in self.layout.files("names")? {
            let path = self.layout.file("names", key);
            let bytes = sys::read_file(&path)?;
            let (entries, whole) = entry::all(&bytes, entry::Names::decode);
            sys::replace_file(&path, &bytes[..whole])?;
            folders.resume(key, entries);
        }
        // Links made for an operation that then didn't happen, or whose entry is gone.
        for name in sys::names_in(self.graveyard.0)? {
            let key = name.to_str().ok().and_then(|name| entry::parse_name("node", name));
            if key.is_none_or(|key| !folders.refers_to(key)) {
                let _ = sys::unlink_at(self.graveyard.0, &name).or_else(|_| sys::rmdir_at(self.graveyard.0, &name));
            }
        }
        Ok(())
    }

    fn is_inside(&self, path: &[u8]) -> bool {
        below(path, &self.root) && !below(path, &self.graveyard_path)
    }

    /// The journal of an open file, if the file is below the root.
    fn file(&self, fd: RawFd, key: Key) -> Option<Arc<Mutex<FileJournal>>> {
        let mut files = locked_now(&self.files);
        if let Some(known) = files.get(&key) {
            return known.clone();
        }
        if files.len() > STRANGERS_MAX {
            files.retain(|_, file| file.is_some());
        }
        let inside = sys::path_of(fd).is_ok_and(|path| self.is_inside(&path));
        let file = inside.then(|| Arc::new(Mutex::new(FileJournal::new(self.layout.file("data", key)))));
        files.insert(key, file.clone());
        file
    }

    /// A file has just been made, or come in from outside: what was known of its inode number is of another file.
    fn begin_file(&self, key: Key) {
        let path = self.layout.file("data", key);
        or_die(sys::remove_file(&path), "an old journal file cannot be removed");
        locked_now(&self.files).insert(key, Some(Arc::new(Mutex::new(FileJournal::new(path)))));
    }

    /// The last name of the file is durably gone.
    fn end_file(&self, key: Key) {
        locked_now(&self.files).remove(&key);
        or_die(sys::remove_file(&self.layout.file("data", key)), "a journal file cannot be removed");
    }

    /// fsync or fdatasync of a file or folder.
    pub fn sync(&self, fd: RawFd, call: impl FnOnce() -> isize) -> isize {
        let stat = sys::stat(fd);
        if stat.as_ref().is_ok_and(|stat| stat.key.0 == self.device) {
            self.count();
        }
        match stat {
            Ok(stat) if stat.key.0 != self.device => call(),
            Ok(stat) if stat.is_file() => self.sync_file(fd, stat.key, call),
            Ok(stat) if stat.is_dir() => self.sync_folder(fd, stat.key, call),
            _ => call(),
        }
    }

    /// sync or syncfs: everything journalled so far becomes durable.
    pub fn sync_all(&self, call: impl FnOnce() -> isize) -> isize {
        let files: Vec<_> = locked_now(&self.files).values().flatten().cloned().collect();
        let marks: Vec<_> = files.iter().map(|file| locked_now(file).mark()).collect();
        let serial = locked_now(&self.folders).serial();
        let result = call();
        if result == 0 && !self.forget_syncs {
            for (file, mark) in files.iter().zip(marks) {
                or_die(locked_now(file).drop_to(mark), "entries cannot be dropped");
            }
            self.drop_all_names(serial);
        }
        result
    }
}

fn below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// A recorder's own panic would end the process anyway, so a poisoned lock says nothing.
fn locked_now<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn locked(path: &Path) -> io::Result<Fd> {
    let file = sys::open(path, sys::O_RDWR | sys::O_CREAT)?;
    for _ in 0..LOCK_TRIES {
        if crate::call!(SYS_flock, file.0, libc::LOCK_EX | libc::LOCK_NB) == 0 {
            return Ok(file);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(io::Error::other("another process records into this journal"))
}

/// A journal that cannot be kept would make a later rewind lie: the process ends here and says why.
fn or_die<T>(result: io::Result<T>, what: &str) -> T {
    result.unwrap_or_else(|error| {
        let message = format!("powercut: {what}: {error}; the process ends, since its journal is not complete\n");
        crate::call!(SYS_write, 2, message.as_ptr(), message.len());
        crate::call!(SYS_exit_group, crate::EXIT_JOURNAL_FAILED);
        unreachable!("exit_group does not return")
    })
}
