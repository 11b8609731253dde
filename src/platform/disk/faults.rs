//! Disk faults for tests, by folder: "the disk is full after n bytes", "every fdatasync fails".

use super::File;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Of what is there, folders to be synced among it.
    Open,
    Create,
    Write,
    Sync,
    Preallocate,
}

/// What fails, how, and after how many written bytes.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub operation: Operation,
    pub kind: io::ErrorKind,
    pub bytes_left: u64,
}

impl Fault {
    /// The next `bytes` fit on the disk and no more; preallocation still succeeds.
    pub fn full_after(bytes: u64) -> Fault {
        Fault { operation: Operation::Write, kind: io::ErrorKind::StorageFull, bytes_left: bytes }
    }

    pub fn broken(operation: Operation) -> Fault {
        Fault { operation, kind: io::ErrorKind::Other, bytes_left: 0 }
    }
}

static ARMED: Mutex<Vec<(PathBuf, Fault)>> = Mutex::new(Vec::new());

/// The fault is gone when this is dropped.
pub struct Armed(PathBuf);

/// Injects a fault for all files below `folder`.
pub fn arm(folder: &Path, fault: Fault) -> Armed {
    ARMED.lock().push((folder.to_path_buf(), fault));
    Armed(folder.to_path_buf())
}

impl Drop for Armed {
    fn drop(&mut self) {
        ARMED.lock().retain(|(folder, _)| *folder != self.0);
    }
}

pub(super) fn check(path: &Path, operation: Operation) -> io::Result<()> {
    match ARMED.lock().iter().find(|(folder, fault)| path.starts_with(folder) && fault.operation == operation) {
        Some((_, fault)) => Err(io::Error::new(fault.kind, "injected")),
        None => Ok(()),
    }
}

/// Fails a write half way: what still fits is written.
pub(super) fn write(file: &File, path: &Path, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
    let mut armed = ARMED.lock();
    let Some((_, fault)) =
        armed.iter_mut().find(|(folder, fault)| path.starts_with(folder) && fault.operation == Operation::Write)
    else {
        return Ok(());
    };
    let bytes: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
    if bytes.len() as u64 <= fault.bytes_left {
        fault.bytes_left -= bytes.len() as u64;
        return Ok(());
    }
    file.inner.write_all_at(&bytes[..fault.bytes_left as usize], position)?;
    fault.bytes_left = 0;
    Err(io::Error::new(fault.kind, "injected"))
}
