//! The metadata folder's files: the few operations that must be durable.
//!
//! Like sled beside them they go around the platform seam: under simulation the whole store is another one.
#![allow(clippy::disallowed_methods, reason = "the store's own files; simulated as a whole, as sled is")]

use crate::platform::disk;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Tells later starts that a write or a sync in this folder failed: see [`note_loss`].
const LOSS_MARKER: &str = "lossy";
const NOTE_BYTES_MAX: usize = 64 << 10;

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
/// fsync of the folder. A failure but for want of room is noted as a loss.
pub fn replace(folder: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let replaced = replace_unnoted(folder, name, parts);
    if let Err(error) = &replaced
        && !disk::is_passing(error)
    {
        note_loss(folder, &format!("{name}: {error}"));
    }
    replaced
}

fn replace_unnoted(folder: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.new"));
    let written = write_synced(&temporary, parts);
    if written.is_err() {
        // A full disk should not be kept full by what did not fit.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    fs::rename(&temporary, folder.join(name))?;
    // Whatever the reason: the name may be seen from now on and still be lost, so it does not pass as a full disk.
    sync_folder(folder).map_err(io::Error::other)
}

/// Notes that what this folder seems to hold may never have reached the disk: after a failed write or sync Linux forgets
/// the pages that it could not write, and a later sync answers well (REPLICATION rule 19). A voter that goes on with
/// such a folder might vote twice, or forget what it acknowledged. On a disk that syncs nothing more the bare name is
/// all there is, and is enough as long as the page cache can mislead: until the next boot.
pub fn note_loss(folder: &Path, why: &str) {
    let marker = folder.join(LOSS_MARKER);
    if marker.exists() {
        return;
    }
    let noted = replace_unnoted(folder, LOSS_MARKER, &[why.as_bytes(), b"\n"]);
    if let Err(error) = noted.or_else(|_| OpenOptions::new().create(true).append(true).open(&marker).map(drop)) {
        tracing::error!(path = %marker.display(), %error, "the loss could not be noted");
    }
}

/// What an earlier run noted; `None`: nothing is known to be lost.
pub fn noted_loss(folder: &Path) -> io::Result<Option<String>> {
    let noted = read(&folder.join(LOSS_MARKER), NOTE_BYTES_MAX)?;
    Ok(noted.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string()))
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
