//! Where the journal's files are.

use crate::entry;
use crate::sys::{self, Key};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A journal and the folder that it speaks of.
pub(crate) struct Layout {
    journal: PathBuf,
    pub root: PathBuf,
    /// On the root's file system, so that links can be made in it.
    pub graveyard: PathBuf,
}

impl Layout {
    /// Makes what is missing.
    pub fn make(journal: &Path, root: &Path, device: u64) -> io::Result<Layout> {
        let beside = root.parent().and_then(|above| {
            let above_device = sys::stat(sys::open(above, sys::O_RDONLY | sys::O_DIRECTORY).ok()?.0).ok()?.key.0;
            let mut name = OsString::from(".");
            name.push(root.file_name()?);
            name.push(".graveyard");
            (above_device == device).then(|| above.join(name))
        });
        let layout = Layout {
            journal: journal.to_path_buf(),
            root: root.to_path_buf(),
            graveyard: beside.unwrap_or_else(|| root.join(".graveyard")),
        };
        sys::mkdir(&layout.graveyard)?;
        let places = [root.as_os_str().as_bytes(), b"\n", layout.graveyard.as_os_str().as_bytes()].concat();
        sys::replace_file(&journal.join("root"), &places)?;
        if sys::open(&layout.boot_id(), sys::O_RDONLY).is_err() {
            let mut real = vec![0; 64];
            let read = sys::read_at(sys::open(Path::new(BOOT_ID), sys::O_RDONLY)?.0, &mut real, 0)?;
            sys::replace_file(&layout.boot_id(), &real[..read])?;
        }
        Ok(layout)
    }

    /// Of a journal that a recorder has made.
    pub fn read(journal: &Path) -> io::Result<Layout> {
        let places = sys::read_file(&journal.join("root"))?;
        let mut lines = places.splitn(2, |byte| *byte == b'\n').map(|line| PathBuf::from(OsStr::from_bytes(line)));
        match (lines.next(), lines.next()) {
            (Some(root), Some(graveyard)) => Ok(Layout { journal: journal.to_path_buf(), root, graveyard }),
            _ => {
                let message = format!("{}: no process has recorded into this journal", journal.display());
                Err(io::Error::new(io::ErrorKind::NotFound, message))
            }
        }
    }

    pub fn boot_id(&self) -> PathBuf {
        self.journal.join("boot_id")
    }

    pub fn control(&self) -> PathBuf {
        self.journal.join("control")
    }

    pub fn file(&self, kind: &str, key: Key) -> PathBuf {
        self.journal.join(entry::file_name(kind, key))
    }

    /// The files or folders that have a journal file of `kind`.
    pub fn files(&self, kind: &str) -> io::Result<Vec<Key>> {
        let names = sys::names_in(sys::open(&self.journal, sys::O_RDONLY | sys::O_DIRECTORY)?.0)?;
        Ok(names.iter().filter_map(|name| entry::parse_name(kind, name.to_str().ok()?)).collect())
    }
}
