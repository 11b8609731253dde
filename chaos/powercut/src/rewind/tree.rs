//! Everything below the root and in the graveyard, held open by inode.

use crate::layout::Layout;
use crate::sys::{self, Fd, Key};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;

/// How deep folders may stand in each other.
const DEPTH_MAX: usize = 64;

/// A file, open.
pub(super) struct FilePlace {
    pub fd: Fd,
    /// Below the root, or a name in the graveyard.
    pub path: Vec<u8>,
}

pub(super) struct Dir {
    pub fd: Fd,
    pub path: Vec<u8>,
}

pub(super) struct Tree {
    pub graveyard: Fd,
    graveyard_key: Key,
    pub dirs: BTreeMap<Key, Dir>,
    /// A folder and a name in it that stands for the file.
    pub files: BTreeMap<Key, (Key, CString)>,
}

impl Tree {
    pub fn read(layout: &Layout) -> io::Result<Tree> {
        let open = |path| sys::open(path, sys::O_RDONLY | sys::O_DIRECTORY);
        let graveyard = open(&layout.graveyard)?;
        let graveyard_key = sys::stat(graveyard.0)?.key;
        let mut tree = Tree { graveyard, graveyard_key, dirs: BTreeMap::new(), files: BTreeMap::new() };
        tree.visit(open(&layout.root)?, Vec::new(), 0)?;
        tree.visit(open(&layout.graveyard)?, b"graveyard".to_vec(), 0)?;
        Ok(tree)
    }

    fn visit(&mut self, dir: Fd, path: Vec<u8>, depth: usize) -> io::Result<()> {
        let key = sys::stat(dir.0)?.key;
        if self.dirs.contains_key(&key) || depth > DEPTH_MAX {
            return Ok(());
        }
        for name in sys::names_in(dir.0)? {
            let stat = sys::stat_at(dir.0, &name)?;
            if stat.is_dir() && stat.key != self.graveyard_key {
                let below = sys::open_at(dir.0, &name, sys::O_RDONLY | sys::O_DIRECTORY, 0)?;
                self.visit(below, [&path, &b"/"[..], name.as_bytes()].concat(), depth + 1)?;
            } else if !stat.is_dir() {
                self.files.entry(stat.key).or_insert((key, name));
            }
        }
        self.dirs.insert(key, Dir { fd: dir, path });
        Ok(())
    }

    pub fn dir(&self, key: Key) -> Option<RawFd> {
        self.dirs.get(&key).map(|dir| dir.fd.0)
    }

    pub fn file(&self, key: Key) -> Option<FilePlace> {
        let (folder, name) = self.files.get(&key)?;
        let folder = self.dirs.get(folder)?;
        let fd = sys::open_at(folder.fd.0, name, sys::O_RDWR, 0).ok()?;
        Some(FilePlace { fd, path: [&folder.path, &b"/"[..], name.as_bytes()].concat() })
    }
}
