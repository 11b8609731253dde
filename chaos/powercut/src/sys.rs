//! System calls, made directly: the C library's functions of these names are the preloaded ones, which call us.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file on one machine: device and inode number.
pub type Key = (u64, u64);

pub use libc::{AT_FDCWD, O_CREAT, O_DIRECTORY, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC};

/// Makes a system call; −1 sets errno as the C library does.
#[macro_export]
macro_rules! call {
    ($number:ident $(, $argument:expr)* $(,)?) => {
        {
            #[allow(clippy::macro_metavars_in_unsafe, reason = "arguments are plain values, never calls of unsafe code")]
            // SAFETY: the arguments are those of the call of that number; pointers among them outlive it.
            let result = unsafe { libc::syscall(libc::$number $(, $argument)*) };
            result as isize
        }
    };
}

pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Answers −1 with this errno.
pub fn refuse(code: i32) -> isize {
    // SAFETY: errno's location is this thread's own.
    unsafe { *libc::__errno_location() = code };
    -1
}

fn checked(result: isize) -> io::Result<isize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A descriptor of ours, closed when dropped.
#[derive(Debug)]
pub struct Fd(pub RawFd);

impl Drop for Fd {
    fn drop(&mut self) {
        call!(SYS_close, self.0);
    }
}

pub fn open_at(dir: RawFd, path: &CStr, flags: c_int, mode: u32) -> io::Result<Fd> {
    let fd = checked(call!(SYS_openat, dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode))?;
    Ok(Fd(fd as RawFd))
}

pub fn open(path: &Path, flags: c_int) -> io::Result<Fd> {
    open_at(AT_FDCWD, &c_path(path)?, flags, 0o644)
}

/// What [`stat`] tells.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    pub key: Key,
    pub size: u64,
    pub links: u64,
    pub mode: u32,
}

impl Stat {
    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// Of the name below `dir`, not following a link; with an empty name of `dir` itself.
pub fn stat_at(dir: RawFd, name: &CStr) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat64>::uninit();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    checked(call!(SYS_newfstatat, dir, name.as_ptr(), stat.as_mut_ptr(), flags))?;
    // SAFETY: the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    Ok(Stat {
        key: (stat.st_dev, stat.st_ino),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        links: stat.st_nlink,
        mode: stat.st_mode,
    })
}

pub fn stat(fd: RawFd) -> io::Result<Stat> {
    stat_at(fd, c"")
}

/// The path by which the kernel knows an open file.
pub fn path_of(fd: RawFd) -> io::Result<Vec<u8>> {
    let link = CString::new(format!("/proc/self/fd/{fd}"))?;
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    let read = call!(SYS_readlinkat, AT_FDCWD, link.as_ptr(), buffer.as_mut_ptr(), buffer.len());
    buffer.truncate(checked(read)? as usize);
    Ok(buffer)
}

/// Reads until the buffer is full or the file ends.
pub fn read_at(fd: RawFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        match checked(call!(SYS_pread64, fd, rest.as_mut_ptr(), rest.len(), offset + done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count as usize,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

pub fn write_at(fd: RawFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match checked(call!(SYS_pwrite64, fd, bytes.as_ptr(), bytes.len(), offset)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count as usize..];
                offset += count as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

pub fn set_len(fd: RawFd, length: u64) -> io::Result<()> {
    checked(call!(SYS_ftruncate, fd, length)).map(drop)
}

pub fn sync(fd: RawFd) -> io::Result<()> {
    checked(call!(SYS_fsync, fd)).map(drop)
}

/// Gives memory or blocks back; where that isn't possible nothing happens.
pub fn punch(fd: RawFd, from: u64, to: u64) {
    const PAGE: u64 = 4096;
    let (from, to) = (from.next_multiple_of(PAGE), to / PAGE * PAGE);
    if from < to {
        call!(SYS_fallocate, fd, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, from, to - from);
    }
}

/// Makes a range read as zeros, lengthening the file if it ends before.
pub fn zero(fd: RawFd, from: u64, to: u64) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    if to - from > ZEROS.len() as u64 && call!(SYS_fallocate, fd, mode, from, to - from) == 0 {
        return if stat(fd)?.size < to { set_len(fd, to) } else { Ok(()) };
    }
    let mut at = from;
    while at < to {
        let length = (to - at).min(ZEROS.len() as u64);
        write_at(fd, &ZEROS[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

/// Where data (`SEEK_DATA`) or a hole (`SEEK_HOLE`) begins at or after `offset`; `None`: nowhere. Moves the cursor.
pub fn seek(fd: RawFd, offset: u64, whence: c_int) -> Option<u64> {
    u64::try_from(call!(SYS_lseek, fd, offset, whence)).ok()
}

pub fn link_at(from: RawFd, name: &CStr, to: RawFd, new: &CStr) -> io::Result<()> {
    checked(call!(SYS_linkat, from, name.as_ptr(), to, new.as_ptr(), 0)).map(drop)
}

pub fn rename_at(from: RawFd, name: &CStr, to: RawFd, new: &CStr) -> io::Result<()> {
    checked(call!(SYS_renameat2, from, name.as_ptr(), to, new.as_ptr(), 0)).map(drop)
}

pub fn unlink_at(dir: RawFd, name: &CStr) -> io::Result<()> {
    checked(call!(SYS_unlinkat, dir, name.as_ptr(), 0)).map(drop)
}

pub fn rmdir_at(dir: RawFd, name: &CStr) -> io::Result<()> {
    checked(call!(SYS_unlinkat, dir, name.as_ptr(), libc::AT_REMOVEDIR)).map(drop)
}

pub fn mkdir_at(dir: RawFd, name: &CStr) -> io::Result<()> {
    checked(call!(SYS_mkdirat, dir, name.as_ptr(), 0o755)).map(drop)
}

/// Makes a folder; one that is there is no error.
pub fn mkdir(path: &Path) -> io::Result<()> {
    match mkdir_at(AT_FDCWD, &c_path(path)?) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// The names in an open folder. Begins anew at each call.
pub fn names_in(dir: RawFd) -> io::Result<Vec<CString>> {
    /// Bytes of a `linux_dirent64` before its name; its length stands at 16.
    const HEADER: usize = 19;
    checked(call!(SYS_lseek, dir, 0, libc::SEEK_SET))?;
    let mut names = Vec::new();
    let mut buffer = vec![0u8; 32 << 10];
    loop {
        let filled = checked(call!(SYS_getdents64, dir, buffer.as_mut_ptr(), buffer.len()))? as usize;
        if filled == 0 {
            return Ok(names);
        }
        let mut at = 0;
        while at + HEADER < filled {
            let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            if let Ok(name) = CStr::from_bytes_until_nul(&buffer[at + HEADER..filled])
                && name != c"."
                && name != c".."
            {
                names.push(name.to_owned());
            }
            at += length.max(HEADER);
        }
    }
}

/// The whole file, or nothing if it isn't there.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let fd = match open(path, O_RDONLY) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut bytes = vec![0u8; stat(fd.0)?.size as usize];
    let read = read_at(fd.0, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces the file's content; whoever reads sees the old or the new.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_os_string();
    new.push(".new");
    let new = Path::new(&new);
    let fd = open(new, O_RDWR | O_CREAT | O_TRUNC)?;
    write_at(fd.0, bytes, 0)?;
    rename_at(AT_FDCWD, &c_path(new)?, AT_FDCWD, &c_path(path)?)
}

/// Removes a file; one that is not there is no error.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match unlink_at(AT_FDCWD, &c_path(path)?) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
