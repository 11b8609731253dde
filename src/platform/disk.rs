//! Files and folders. Every durable write in the house goes through here.
//!
//! Durable means: the bytes were fdatasync'ed *and* the folder that names the file was fsync'ed. Functions that do
//! less say so in their name.

#![allow(clippy::disallowed_methods, reason = "this is the seam")]

#[cfg(test)]
pub mod faults;
pub mod room;

use std::fs;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The kernel takes at most this many slices in one vectored write (IOV_MAX).
const SLICES_PER_WRITE_MAX: usize = 1024;

/// An open file, read and written at positions: it has no cursor, so threads share it freely.
#[derive(Debug)]
pub struct File {
    inner: fs::File,
    #[cfg(test)]
    path: PathBuf,
}

impl File {
    /// Opens an existing file for reading and writing.
    pub fn open(path: &Path) -> io::Result<File> {
        #[cfg(test)]
        faults::check(path, faults::Operation::Open).map_err(|error| unopened(path, error))?;
        let inner = fs::OpenOptions::new().read(true).write(true).open(path);
        Self::wrap(inner.map_err(|error| unopened(path, error))?, path)
    }

    /// As [`open`](Self::open), for [`read_sparing_at`](Self::read_sparing_at): nothing is read ahead of what is asked for,
    /// or it would look as if somebody else used it.
    pub fn open_sparing(path: &Path) -> io::Result<File> {
        let file = Self::open(path)?;
        // Only advice.
        let _ = rustix::fs::fadvise(&file.inner, 0, None, rustix::fs::Advice::Random);
        Ok(file)
    }

    /// Forgets what the page cache has of the file and the disk may not: after a failed write-back the kernel calls such
    /// pages clean, and only dropping them shows what was really written.
    pub fn forget_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.inner, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    /// Opens a file for reading and writing, creating it empty if it is not there. The name is durable only after
    /// [`sync_dir`] of its folder.
    pub fn open_or_create(path: &Path) -> io::Result<File> {
        #[cfg(test)]
        faults::check(path, faults::Operation::Create).map_err(|error| unopened(path, error))?;
        let inner = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        Self::wrap(inner.map_err(|error| unopened(path, error))?, path)
    }

    #[cfg_attr(not(test), allow(unused_variables, reason = "tests remember the path to inject faults by it"))]
    fn wrap(inner: fs::File, path: &Path) -> io::Result<File> {
        Ok(File {
            inner,
            #[cfg(test)]
            path: path.to_path_buf(),
        })
    }

    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    pub fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.inner.read_at(&mut buffer[done..], position + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Reads `length` bytes into fresh memory that is not zeroed first; fewer only at the end of the file.
    /// The caller bounds `length`.
    pub fn read_vec_at(&self, length: usize, position: u64) -> io::Result<Vec<u8>> {
        let mut bytes: Vec<u8> = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = position + bytes.len() as u64;
            match rustix::io::pread(&self.inner, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // The allocator may have given more room than asked for, and then more was read.
        bytes.truncate(length);
        Ok(bytes)
    }

    /// As [`read_vec_at`](Self::read_vec_at), but what was not in the page cache before does not stay there: a pass over
    /// all data must not drive out what is in use. Read in pieces, since each is either resident or not.
    pub fn read_sparing_at(&self, length: usize, position: u64) -> io::Result<Vec<u8>> {
        use rustix::fs::{Advice, fadvise};
        use rustix::io::{ReadWriteFlags, preadv2};
        const PIECE_BYTES: usize = 128 * 1024;
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let at = position + done as u64;
            let piece = (length - done).min(PIECE_BYTES);
            let slice = &mut bytes[done..done + piece];
            let resident = preadv2(&self.inner, &mut [io::IoSliceMut::new(slice)], at, ReadWriteFlags::NOWAIT);
            let count = match resident {
                Ok(count) if count == piece => count,
                // Partly resident, not at all, or a file system that cannot tell: read, and let go of the range.
                _ => {
                    let count = self.read_at(slice, at)?;
                    let end = std::num::NonZeroU64::new(piece as u64);
                    // Only advice: a file system without it keeps what it likes.
                    let _ = fadvise(&self.inner, at, end, Advice::DontNeed);
                    count
                }
            };
            done += count;
            if count < piece {
                break;
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    /// Writes all of `bytes`.
    pub fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_vectored_at(&mut [IoSlice::new(bytes)], position)
    }

    /// Writes all slices one after the other, in as few system calls as the kernel allows. After an error some prefix
    /// of the bytes may be in the file.
    pub fn write_vectored_at(&self, mut slices: &mut [IoSlice<'_>], mut position: u64) -> io::Result<()> {
        #[cfg(test)]
        faults::write(self, &self.path, slices, position)?;
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let now = &slices[..slices.len().min(SLICES_PER_WRITE_MAX)];
            match rustix::io::pwritev(&self.inner, now, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    position += count as u64;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// fdatasync: the bytes and what is needed to find them again.
    pub fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        faults::check(&self.path, faults::Operation::Sync)?;
        self.inner.sync_data()
    }

    /// fsync.
    pub fn sync_all(&self) -> io::Result<()> {
        #[cfg(test)]
        faults::check(&self.path, faults::Operation::Sync)?;
        self.inner.sync_all()
    }

    /// Cuts the file, or lengthens it with zeros.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }

    /// Reserves disk blocks for `position..position + length`, lengthening the file with zeros. Where the file system
    /// cannot reserve, the file is only lengthened.
    pub fn preallocate(&self, position: u64, length: u64) -> io::Result<()> {
        use rustix::io::Errno;
        #[cfg(test)]
        faults::check(&self.path, faults::Operation::Preallocate)?;
        loop {
            match rustix::fs::fallocate(&self.inner, rustix::fs::FallocateFlags::empty(), position, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    let end = position + length;
                    return if self.len()? < end { self.set_len(end) } else { Ok(()) };
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// As [`preallocate`](Self::preallocate), but where the file system cannot reserve, zeros are written: the blocks are
    /// there in any case.
    pub fn occupy(&self, position: u64, length: u64) -> io::Result<()> {
        use rustix::io::Errno;
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        loop {
            match rustix::fs::fallocate(&self.inner, rustix::fs::FallocateFlags::empty(), position, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(e) => return Err(e.into()),
            }
        }
        let end = position + length;
        let mut at = position;
        while at < end {
            let count = (end - at).min(ZEROS.len() as u64);
            self.write_at(&ZEROS[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    pub fn len(&self) -> io::Result<u64> {
        Ok(self.inner.metadata()?.len())
    }

    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The disk (or the quota on it) is full: an error that passes, unlike all others.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An error that says nothing about the disk itself and may be gone next time: it is full, or this process has too
/// many files open.
pub fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_process = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
    let error = match unopened_in(error) {
        Some(Unopened { source, .. }) => source,
        None => error,
    };
    is_full(error) || error.raw_os_error().is_some_and(|code| of_process.contains(&code))
}

/// The file or folder could not even be opened: nothing that was written is in doubt, as it is after a failed write or sync.
pub fn is_unopened(error: &io::Error) -> bool {
    unopened_in(error).is_some()
}

/// Carried by the errors of opening, so that they can be told from those of the calls that follow.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be opened: {source}", path = path.display())]
struct Unopened {
    path: PathBuf,
    source: io::Error,
}

fn unopened(path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), Unopened { path: path.to_path_buf(), source })
}

fn unopened_in(error: &io::Error) -> Option<&Unopened> {
    error.get_ref()?.downcast_ref()
}

/// Raises this process's limit on open files as far as it may go itself; answers the limit.
pub fn raise_open_files_limit() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// What [`list`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub is_folder: bool,
}

pub fn create_dir_all(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Makes a folder and those above it as far as they are missing, each name durable: a synced file in a folder whose
/// own name was not synced is lost with it.
pub fn create_dir_all_durable(path: &Path) -> io::Result<()> {
    let above = match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return Ok(()),
    };
    if path.is_dir() {
        // A run that was cut short here may have made it and not synced it. Where the folder above may not be read,
        // it was made by somebody else, long ago.
        return match sync_dir(above) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other,
        };
    }
    create_dir_all_durable(above)?;
    create_dir_all(path)?;
    sync_dir(above)
}

/// The folder's entries sorted by name. Names that are not UTF-8 are none of ours and are left out.
pub fn list(path: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            entries.push(Entry { name, is_folder: entry.file_type()?.is_dir() });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Renames; durable only after [`sync_dir`] of the folders.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Removes a file; one that is not there is no error.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes a folder with all in it; one that is not there is no error.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::check(path, faults::Operation::Open).map_err(|error| unopened(path, error))?;
    let folder = fs::File::open(path).map_err(|error| unopened(path, error))?;
    #[cfg(test)]
    faults::check(path, faults::Operation::Sync)?;
    folder.sync_all()
}

pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// The length of the file at `path`.
pub fn len(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.len())
}

/// What the files of a folder, and of those in it, take on the disk.
pub fn bytes_in(folder: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => bytes_in(&entry.path())?,
            // Blocks of 512 bytes, whatever the file system's own are (stat(2)).
            false => entry.metadata()?.blocks() * 512,
        };
    }
    Ok(bytes)
}

/// When the file was last written, in milliseconds since 1970.
pub fn modified_ms(path: &Path) -> io::Result<i64> {
    let modified = fs::metadata(path)?.modified()?;
    Ok(modified.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
}

/// The whole file, or `None` if it is not there. Only for files whose size the house itself bounds.
pub fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens a text log of another process for appending, creating it if need be.
pub fn append_to(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(path)
}

/// Replaces the file's content: after a crash at any moment the old or the new content is there, whole. Durable.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_temporary(path, bytes, true)?;
    rename(&temporary(path), path)?;
    match path.parent() {
        Some(folder) => sync_dir(folder),
        None => Ok(()),
    }
}

/// As [`write_atomic`] for a reader in this boot, but a power loss may leave the old content, or none.
pub fn write_atomic_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_temporary(path, bytes, false)?;
    rename(&temporary(path), path)
}

fn write_temporary(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let temporary = temporary(path);
    let file = File::open_or_create(&temporary)?;
    let written = file.set_len(0).and_then(|()| file.write_at(bytes, 0)).and_then(|()| match sync {
        true => file.sync_data(),
        false => Ok(()),
    });
    if written.is_err() {
        // A full disk should not be kept full by what did not fit.
        let _ = remove_file(&temporary);
    }
    written
}

/// The suffix of files being written by [`write_atomic`]; what a crash left may be removed.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

/// Bytes that this process may still write to the file system of `path`.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The size in bytes of the file system of `path`.
pub fn total_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// Names this boot of the machine: while it is the same, the page cache has survived (replication.md, rule 9).
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}

/// Held while a process uses a folder, so that two never share one. The kernel lets go when the process dies.
#[derive(Debug)]
pub struct FolderLock {
    _file: fs::File,
}

impl FolderLock {
    /// Takes the lock of `folder` (a file `.lock` in it), or fails at once with `WouldBlock` if another holds it.
    pub fn acquire(folder: &Path) -> io::Result<FolderLock> {
        let path = folder.join(".lock");
        let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        // For the operator who wonders who holds it; nothing reads it.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(FolderLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::faults::{Fault, Operation, arm};
    use super::*;

    #[test]
    fn vectored_writes_cross_the_kernels_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::open_or_create(&folder.path().join("f")).unwrap();
        let pieces: Vec<Vec<u8>> = (0..3000u32).map(|i| i.to_be_bytes()[..(i % 5) as usize % 4].to_vec()).collect();
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
        file.write_vectored_at(&mut slices, 7).unwrap();
        let all: Vec<u8> = pieces.concat();
        assert_eq!(file.read_vec_at(all.len(), 7).unwrap(), all);
        assert_eq!(file.len().unwrap(), 7 + all.len() as u64);
        assert_eq!(file.read_vec_at(10, 7 + all.len() as u64 - 3).unwrap().len(), 3, "short only at the end");
    }

    #[test]
    fn a_sparing_read_leaves_the_page_cache_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let file = File::open_or_create(&path).unwrap();
        let bytes: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
        file.write_at(&bytes, 0).unwrap();
        file.sync_data().unwrap();
        let file = File::open_sparing(&path).unwrap();
        assert_eq!(file.read_sparing_at(bytes.len(), 0).unwrap(), bytes);
        assert_eq!(file.read_sparing_at(100, 1_999_990).unwrap().len(), 10, "short only at the end");
        let resident = |at: u64| {
            let mut byte = [0];
            let slices = &mut [io::IoSliceMut::new(&mut byte)];
            rustix::io::preadv2(&file.inner, slices, at, rustix::io::ReadWriteFlags::NOWAIT).is_ok_and(|n| n == 1)
        };
        let begin = resident(1_000_000);
        rustix::fs::fadvise(&file.inner, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        if resident(1_000_000) {
            return; // A file system that lives in memory.
        }
        assert!(begin, "what was resident stayed so");
        // The kernel drops pages where it can: not while another processor still has them in hand.
        let mut tries = 0..20;
        assert!(
            tries.any(|_| {
                rustix::fs::fadvise(&file.inner, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                assert_eq!(file.read_sparing_at(bytes.len(), 0).unwrap(), bytes);
                !resident(1_000_000)
            }),
            "what was not resident did not stay"
        );
    }

    #[test]
    fn preallocation_lengthens_with_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::open_or_create(&folder.path().join("f")).unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.preallocate(3, 100).unwrap();
        assert_eq!(file.len().unwrap(), 103);
        let bytes = file.read_vec_at(103, 0).unwrap();
        assert_eq!(&bytes[..3], b"abc");
        assert!(bytes[3..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_failed_atomic_write_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        write_atomic(&path, b"old content").unwrap();
        let armed = arm(folder.path(), Fault::full_after(4));
        let error = write_atomic(&path, b"new content").unwrap_err();
        assert!(is_full(&error));
        drop(armed);
        assert_eq!(read_file(&path).unwrap().unwrap(), b"old content");
        assert_eq!(list(folder.path()).unwrap().len(), 1, "no temporary file stays behind");
        write_atomic(&path, b"new").unwrap();
        assert_eq!(read_file(&path).unwrap().unwrap(), b"new");
    }

    #[test]
    fn other_errors_are_not_a_full_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::open_or_create(&folder.path().join("f")).unwrap();
        let _armed = arm(folder.path(), Fault::broken(Operation::Sync));
        let error = file.sync_data().unwrap_err();
        assert!(!is_full(&error) && !is_passing(&error));
        let too_many_files = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert!(is_passing(&too_many_files) && !is_full(&too_many_files));
        assert!(!is_unopened(&error) && !is_unopened(&too_many_files));
    }

    #[test]
    fn what_cannot_be_opened_says_so_and_still_tells_whether_it_passes() {
        let folder = tempfile::tempdir().unwrap();
        let missing = File::open(&folder.path().join("f")).unwrap_err();
        assert!(is_unopened(&missing) && !is_passing(&missing) && missing.kind() == io::ErrorKind::NotFound);
        for error in [sync_dir(&folder.path().join("d")).unwrap_err(), missing] {
            assert!(is_unopened(&error) && error.to_string().contains("cannot be opened"), "{error}");
        }
        let passing = unopened(Path::new("f"), rustix::io::Errno::MFILE.into());
        assert!(is_unopened(&passing) && is_passing(&passing));
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let held = FolderLock::acquire(folder.path()).unwrap();
        assert_eq!(FolderLock::acquire(folder.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        FolderLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn the_machine_answers() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(free_space(Path::new("/")).unwrap() > 0);
        assert!(raise_open_files_limit().unwrap() > 0);
        assert!(read_file(Path::new("/no/such/file")).unwrap().is_none());
    }
}
