//! Names: each folder has entries of its own, so each becomes durable only by its own fsync.

use super::place::Place;
use super::{Recorder, locked_now, or_die};
use crate::entry::{self, Names, Node};
use crate::sys::{self, Key, Stat};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::io;
use std::os::fd::RawFd;

/// A folder with so many changed names is synced by us: the file system too commits what is old.
const ENTRIES_MAX: usize = 1024;

/// Entries of all folders, as on disk, in the order of their serial numbers.
#[derive(Default)]
pub(super) struct Folders {
    serial: u64,
    entries: BTreeMap<Key, Vec<(u64, Names)>>,
    /// How many entries name a file or folder: so long the graveyard keeps it.
    references: BTreeMap<Key, usize>,
}

impl Folders {
    pub fn resume(&mut self, key: Key, entries: Vec<Names>) {
        entries.into_iter().for_each(|entry| self.add(key, entry));
    }

    pub fn refers_to(&self, key: Key) -> bool {
        self.references.contains_key(&key)
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    fn add(&mut self, key: Key, entry: Names) {
        for (_, old) in &entry.changes {
            if let Some(node) = old {
                *self.references.entry(node.key).or_default() += 1;
            }
        }
        self.serial += 1;
        self.entries.entry(key).or_default().push((self.serial, entry));
    }
}

fn node(stat: &Stat) -> Node {
    Node { key: stat.key, is_dir: stat.is_dir() }
}

fn grave(key: Key) -> CString {
    CString::new(entry::file_name("node", key)).expect("made of digits")
}

impl Recorder {
    /// An open that may create or empty a file. `call` takes the flags to open with.
    pub fn open_file(&self, dir: RawFd, path: &CStr, flags: c_int, call: impl FnOnce(c_int) -> isize) -> isize {
        if flags & (sys::O_CREAT | sys::O_TRUNC) == 0 {
            return call(flags);
        }
        let Some(place) = self.locate(dir, path) else { return call(flags) };
        let mut folders = locked_now(&self.folders);
        let is_new = sys::stat_at(place.dir.0, &place.name).is_err();
        if is_new && flags & sys::O_CREAT != 0 {
            self.note(&mut folders, &place, vec![(&place, None)]);
            let fd = call(flags);
            if fd >= 0
                && let Ok(stat) = sys::stat(fd as RawFd)
            {
                self.begin_file(stat.key);
            }
            return fd;
        }
        drop(folders);
        let fd = call(flags & !sys::O_TRUNC);
        if fd >= 0 && flags & sys::O_TRUNC != 0 {
            let raw = fd as RawFd;
            let cut = self.change(raw, super::Span::Length(0), || crate::call!(SYS_ftruncate, raw, 0));
            if cut < 0 {
                let code = sys::errno();
                crate::call!(SYS_close, raw);
                return sys::refuse(code);
            }
        }
        fd
    }

    /// mkdir, symlink, link: a name that must not be there yet.
    pub fn make(&self, dir: RawFd, path: &CStr, call: impl FnOnce() -> isize) -> isize {
        let Some(place) = self.locate(dir, path) else { return call() };
        let mut folders = locked_now(&self.folders);
        if sys::stat_at(place.dir.0, &place.name).is_ok() {
            return call();
        }
        self.note(&mut folders, &place, vec![(&place, None)]);
        let result = call();
        if result == 0
            && let Ok(stat) = sys::stat_at(place.dir.0, &place.name)
            && stat.is_dir()
        {
            // Of an earlier folder with the same inode number.
            self.forget_folder(&mut folders, stat.key);
        }
        result
    }

    pub fn unlink(&self, dir: RawFd, path: &CStr, call: impl FnOnce() -> isize) -> isize {
        let Some(place) = self.locate(dir, path) else { return call() };
        let mut folders = locked_now(&self.folders);
        let Ok(stat) = sys::stat_at(place.dir.0, &place.name) else { return call() };
        if stat.is_dir() {
            return call();
        }
        self.note(&mut folders, &place, vec![(&place, Some(node(&stat)))]);
        self.keep(&place, &stat);
        call()
    }

    /// An empty folder goes to the graveyard instead, so that it can come back as it was.
    pub fn rmdir(&self, dir: RawFd, path: &CStr, call: impl FnOnce() -> isize) -> isize {
        let Some(place) = self.locate(dir, path) else { return call() };
        let mut folders = locked_now(&self.folders);
        let Ok(stat) = sys::stat_at(place.dir.0, &place.name) else { return call() };
        let is_empty = sys::open_at(place.dir.0, &place.name, sys::O_RDONLY | sys::O_DIRECTORY, 0)
            .and_then(|folder| sys::names_in(folder.0))
            .is_ok_and(|names| names.is_empty());
        if !stat.is_dir() || !is_empty {
            return call();
        }
        self.note(&mut folders, &place, vec![(&place, Some(node(&stat)))]);
        let moved = sys::rename_at(place.dir.0, &place.name, self.graveyard.0, &grave(stat.key));
        moved.map_or_else(|error| sys::refuse(error.raw_os_error().unwrap_or(libc::EIO)), |()| 0)
    }

    /// rename in all its forms.
    pub fn rename(&self, from: (RawFd, &CStr), to: (RawFd, &CStr), call: impl FnOnce() -> isize) -> isize {
        let (old, new) = (self.locate(from.0, from.1), self.locate(to.0, to.1));
        if old.is_none() && new.is_none() {
            return call();
        }
        let mut folders = locked_now(&self.folders);
        let of = |place: &Option<Place>| place.as_ref().and_then(|place| sys::stat_at(place.dir.0, &place.name).ok());
        let (moved, replaced) = (of(&old), of(&new));
        if old.is_some() && moved.is_none() {
            return call();
        }
        match (&old, &new) {
            // One folder: one step.
            (Some(old), Some(new)) if old.key == new.key => {
                self.note(&mut folders, old, vec![(old, moved.as_ref().map(node)), (new, replaced.as_ref().map(node))]);
            }
            _ => {
                for (place, stat) in [(&old, &moved), (&new, &replaced)] {
                    if let Some(place) = place {
                        self.note(&mut folders, place, vec![(place, stat.as_ref().map(node))]);
                    }
                }
            }
        }
        if let (Some(place), Some(stat)) = (&new, &replaced) {
            self.keep(place, stat);
        }
        if let (Some(place), None, Some(stat)) = (&old, &new, &moved) {
            self.keep(place, stat);
        }
        let result = call();
        if result == 0
            && old.is_none()
            && let Some(stat) = of(&new)
            && stat.is_file()
        {
            self.begin_file(stat.key);
        }
        result
    }

    /// Writes down what names of one folder stand for now.
    fn note(&self, folders: &mut Folders, place: &Place, changes: Vec<(&Place, Option<Node>)>) {
        let count = folders.entries.get(&place.key).map_or(0, Vec::len);
        if count >= ENTRIES_MAX && !self.forget_syncs {
            let synced = sys::open_at(place.dir.0, c".", sys::O_RDONLY | sys::O_DIRECTORY, 0)
                .and_then(|folder| sys::sync(folder.0));
            if synced.is_ok() {
                let serial = folders.serial;
                self.drop_names(folders, place.key, serial);
            }
        }
        let changes = changes.into_iter().map(|(place, old)| (place.name.as_bytes().to_vec(), old)).collect();
        let entry = Names { changes };
        or_die(self.append_names(place.key, &entry), "an entry cannot be written");
        self.count();
        folders.add(place.key, entry);
    }

    fn append_names(&self, key: Key, entry: &Names) -> io::Result<()> {
        let file = sys::open(&self.layout.file("names", key), sys::O_RDWR | sys::O_CREAT)?;
        let end = sys::stat(file.0)?.size;
        sys::write_at(file.0, &entry.encode(), end)
    }

    /// A second name for what may lose its last one.
    fn keep(&self, place: &Place, stat: &Stat) {
        if stat.is_dir() {
            // An empty folder that another one replaces: the rename itself takes it away, and a rewind makes a new one.
            return;
        }
        match sys::link_at(place.dir.0, &place.name, self.graveyard.0, &grave(stat.key)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => or_die(Err(e), "a file cannot be kept"),
            _ => {}
        }
    }

    pub(super) fn sync_folder(&self, fd: RawFd, key: Key, call: impl FnOnce() -> isize) -> isize {
        let serial = locked_now(&self.folders).serial;
        if let Some(code) = self.faults.on_sync(fd) {
            return sys::refuse(code);
        }
        let result = call();
        if result == 0 && !self.forget_syncs {
            self.drop_names(&mut locked_now(&self.folders), key, serial);
        }
        result
    }

    pub(super) fn drop_all_names(&self, serial: u64) {
        let mut folders = locked_now(&self.folders);
        let keys: Vec<Key> = folders.entries.keys().copied().collect();
        for key in keys {
            self.drop_names(&mut folders, key, serial);
        }
    }

    /// Entries of a folder up to `serial` are durable.
    fn drop_names(&self, folders: &mut Folders, key: Key, serial: u64) {
        let Some(entries) = folders.entries.get_mut(&key) else { return };
        let count = entries.partition_point(|(number, _)| *number <= serial);
        if count == 0 {
            return;
        }
        let dropped: Vec<Names> = entries.drain(..count).map(|(_, entry)| entry).collect();
        let path = self.layout.file("names", key);
        if entries.is_empty() {
            folders.entries.remove(&key);
            or_die(sys::remove_file(&path), "a journal file cannot be removed");
        } else {
            let bytes: Vec<u8> = entries.iter().flat_map(|(_, entry)| entry.encode()).collect();
            or_die(sys::replace_file(&path, &bytes), "a journal file cannot be replaced");
        }
        for node in dropped.iter().flat_map(|entry| &entry.changes).filter_map(|(_, old)| *old) {
            self.release(folders, node);
        }
    }

    /// One entry less names it.
    fn release(&self, folders: &mut Folders, node: Node) {
        let count = folders.references.get_mut(&node.key).expect("every entry was counted");
        *count -= 1;
        if *count > 0 {
            return;
        }
        folders.references.remove(&node.key);
        let name = grave(node.key);
        let Ok(stat) = sys::stat_at(self.graveyard.0, &name) else { return };
        if stat.is_dir() {
            self.forget_folder(folders, node.key);
            let _ = sys::rmdir_at(self.graveyard.0, &name);
            return;
        }
        if stat.links == 1 {
            self.end_file(node.key);
            self.faults.give_back(stat.size);
        }
        or_die(sys::unlink_at(self.graveyard.0, &name), "a kept file cannot be removed");
    }

    /// The folder is gone for good, and so is what its names once stood for.
    fn forget_folder(&self, folders: &mut Folders, key: Key) {
        self.drop_names(folders, key, u64::MAX);
    }
}
