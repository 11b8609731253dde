//! The metadata folder's files: the few operations that must be durable.
//!
//! Like sled beside them they go around the platform seam: under simulation the whole store is another one.
#![allow(clippy::disallowed_methods, reason = "the store's own files; simulated as a whole, as sled is")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub fn create(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    sync_folder(folder)?;
    if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        sync_folder(parent)?;
    }
    Ok(())
}

/// Makes the folder's entries durable: files created in it or renamed into it.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A descriptor of our own for a file that another library writes: fdatasync covers the file, whoever wrote it.
pub fn open_to_sync(file: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(file)
}

/// The file's content, or `None` if there is no such file; refused above `bound`.
pub fn read(file: &Path, bound: usize) -> io::Result<Option<Vec<u8>>> {
    let mut open = match File::open(file) {
        Ok(open) => open,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let length = open.metadata()?.len();
    if length > bound as u64 {
        let why = format!("{} holds {length} bytes, more than the {bound} allowed", file.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    open.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Replaces a file so that after a crash it holds either the old content or the new: temporary name, fdatasync, rename,
/// fsync of the folder.
pub fn replace(folder: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.new"));
    let written = write_synced(&temporary, parts);
    if written.is_err() {
        // A full disk should not be kept full by what did not fit.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    fs::rename(&temporary, folder.join(name))?;
    sync_folder(folder)
}

fn write_synced(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_data()
}

/// Allocates blocks behind the file's end, which stays where it is: at least `least` bytes of them, up to `most`. What
/// cannot be had is done without.
pub fn allocate_ahead(file: &File, least: u64, most: u64) {
    let Ok(now) = file.metadata() else { return };
    if now.blocks() * 512 < now.len() + least {
        let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, now.len(), most);
    }
}
