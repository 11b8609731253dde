//! Where a name stands: its folder, held open, and its last component.

use super::Recorder;
use crate::sys::{self, Fd, Key};
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

pub(super) struct Place {
    /// Opened as a path only.
    pub dir: Fd,
    pub key: Key,
    pub name: CString,
}

impl Recorder {
    /// `None`: not below the root, or there is no such folder.
    pub(super) fn locate(&self, dir: RawFd, path: &CStr) -> Option<Place> {
        let bytes = path.to_bytes();
        let end = bytes.iter().rposition(|byte| *byte != b'/')? + 1;
        let (parent, name) = match bytes[..end].iter().rposition(|byte| *byte == b'/') {
            Some(0) => (&b"/"[..], &bytes[1..end]),
            Some(at) => (&bytes[..at], &bytes[at + 1..end]),
            None => (&b"."[..], &bytes[..end]),
        };
        if name == b"." || name == b".." {
            return None;
        }
        let folder = sys::open_at(dir, &CString::new(parent).ok()?, libc::O_PATH | sys::O_DIRECTORY, 0).ok()?;
        let key = sys::stat(folder.0).ok()?.key;
        let inside = key.0 == self.device && self.is_inside(&sys::path_of(folder.0).ok()?);
        inside.then_some(Place { dir: folder, key, name: CString::new(name).ok()? })
    }
}
