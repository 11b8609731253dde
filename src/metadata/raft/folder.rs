//! The metadata folder's files: the few operations that must be durable.
//!
//! Like sled beside them they go around the platform seam: under simulation the whole store is another one.
#![allow(clippy::disallowed_methods, reason = "the store's own files; simulated as a whole, as sled is")]

use crate::platform::disk;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Tells later starts that a write or a sync in this folder failed: see [`note_loss`].
const LOSS_MARKER: &str = "lossy";
pub const SLED_CONFIGURATION: &str = "conf";
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
fn sync_folder(folder: &Path) -> io::Result<()> {
    open_folder(folder)?.sync_all()
}

/// To be synced later: fsync makes the entries durable.
pub fn open_folder(folder: &Path) -> io::Result<File> {
    File::open(folder)
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
/// fsync of the folder. A failed write or sync, but for want of room, is noted as a loss; what cannot even be opened is
/// none.
pub fn replace(folder: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let opened = Replacement::open(folder, name)?;
    let replaced = opened.write(parts);
    if let Err(error) = &replaced
        && !disk::is_passing(error)
    {
        note_loss(folder, &format!("{name}: {error}"));
    }
    replaced
}

/// All that a replacement needs open, before the first byte is written.
struct Replacement {
    temporary: PathBuf,
    path: PathBuf,
    file: File,
    folder: File,
}

impl Replacement {
    fn open(folder: &Path, name: &str) -> io::Result<Replacement> {
        let temporary = folder.join(format!("{name}.new"));
        let names = open_folder(folder)?;
        Ok(Replacement { file: File::create(&temporary)?, folder: names, path: folder.join(name), temporary })
    }

    fn write(mut self, parts: &[&[u8]]) -> io::Result<()> {
        let written = self.write_temporary(parts);
        if written.is_err() {
            // A full disk should not be kept full by what did not fit.
            let _ = fs::remove_file(&self.temporary);
        }
        written?;
        fs::rename(&self.temporary, &self.path)?;
        // Whatever the reason: the name may be seen from now on and still be lost, so it does not pass as a full disk.
        self.folder.sync_all().map_err(io::Error::other)
    }

    fn write_temporary(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        for part in parts {
            self.file.write_all(part)?;
        }
        self.file.sync_data()
    }
}

/// Notes that what this folder seems to hold may never have reached the disk: after a failed write or sync Linux forgets
/// the pages that it could not write, and a later sync answers well (replication.md, rule 19). A voter that goes on with
/// such a folder might vote twice, or forget what it acknowledged. On a disk that syncs nothing more the bare name is
/// all there is, and is enough as long as the page cache can mislead: until the next boot.
pub fn note_loss(folder: &Path, why: &str) {
    let marker = folder.join(LOSS_MARKER);
    if marker.exists() {
        return;
    }
    let noted = Replacement::open(folder, LOSS_MARKER).and_then(|opened| opened.write(&[why.as_bytes(), b"\n"]));
    if let Err(error) = noted.or_else(|_| OpenOptions::new().create(true).append(true).open(&marker).map(drop)) {
        tracing::error!(path = %marker.display(), %error, "the loss could not be noted");
    }
}

/// What an earlier run noted; `None`: nothing is known to be lost.
pub fn noted_loss(folder: &Path) -> io::Result<Option<String>> {
    let noted = read(&folder.join(LOSS_MARKER), NOTE_BYTES_MAX)?;
    Ok(noted.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string()))
}

/// Removes what sled was making when its process was killed and cannot go on with:
/// - snapshots of its index: at the next open it takes one for finished, the newest, and gives up over it; and it writes
///   over one without cutting it;
/// - a configuration without its checksum at the end, over which it gives up. It says what every open says again, and
///   without it sled writes it anew.
pub fn remove_half_made(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_snapshot = name.starts_with("snap.") && name.ends_with(".generating");
        let is_torn = name == SLED_CONFIGURATION && !is_whole(&fs::read(&path)?);
        if is_torn {
            tracing::warn!(path = %path.display(), "the store's configuration is torn or damaged: it is written anew");
        }
        if is_snapshot || is_torn {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// sled ends its configuration with a CRC-32 of what comes before.
fn is_whole(configuration: &[u8]) -> bool {
    let Some((text, crc)) = configuration.split_last_chunk() else { return false };
    u32::from_le_bytes(*crc) == crc32fast::hash(text)
}

/// Allocates blocks behind the file's end, which stays where it is: at least `least` bytes of them, up to `most`. What
/// cannot be had is done without.
pub fn allocate_ahead(file: &File, least: u64, most: u64) {
    let Ok(now) = file.metadata() else { return };
    if now.blocks() * 512 < now.len() + least {
        let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, now.len(), most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_is_no_loss() {
        let folder = tempfile::tempdir().unwrap();
        // A folder stands where the temporary file would be made.
        fs::create_dir(folder.path().join("f.new")).unwrap();
        replace(folder.path(), "f", &[b"x"]).unwrap_err();
        assert_eq!(noted_loss(folder.path()).unwrap(), None);
        fs::remove_dir(folder.path().join("f.new")).unwrap();
        // A folder that is not empty stands where the file is renamed to.
        fs::create_dir_all(folder.path().join("f/g")).unwrap();
        replace(folder.path(), "f", &[b"x"]).unwrap_err();
        assert!(noted_loss(folder.path()).unwrap().is_some(), "a rename that failed is");
    }
}
