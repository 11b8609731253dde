//! The C library's functions that change files, each handing its call to the recorder. Loaded with LD_PRELOAD.
//!
//! Calls are made by number, never by name: the names are ours. Until the recorder is up, and where the journal's
//! variables are not set, every function only passes on. The 64-bit names are the same functions: off_t has 64 bits
//! on every machine this is built for.

#![allow(clippy::missing_safety_doc, reason = "each function is the C library's of that name, with its contract")]

mod start;

use libc::{c_char, c_int, c_uint, c_void, iovec, mode_t, off64_t, size_t, ssize_t};
use powercut::call;
use powercut::recorder::{Recorder, Span};
use powercut::sys::{AT_FDCWD, refuse};
use start::recorder;
use std::ffi::CStr;

/// Exports one function under each of its names.
macro_rules! hook {
    ($name:ident $other:ident $arguments:tt -> $result:ty = $body:expr) => {
        hook!($name $arguments -> $result = $body);
        hook!($other $arguments -> $result = $body);
    };
    ($name:ident ($($argument:ident : $type:ty),* $(,)?) -> $result:ty = $body:expr) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            $body
        }
    };
}

fn as_int(result: isize) -> c_int {
    result as c_int
}

/// # Safety
/// `path` is null or a C string that outlives the call.
unsafe fn text<'a>(path: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller's promise.
    if path.is_null() { None } else { Some(unsafe { CStr::from_ptr(path) }) }
}

/// Runs a call by way of the recorder, or alone where there is none or a path is missing.
fn with<R>(recorded: impl FnOnce(&'static Recorder) -> Option<R>, plain: impl FnOnce() -> R) -> R {
    recorder().and_then(recorded).unwrap_or_else(plain)
}

fn changed(fd: c_int, span: Span, call: impl FnOnce() -> isize) -> isize {
    match recorder() {
        Some(recorder) => recorder.change(fd, span, call),
        None => call(),
    }
}

/// # Safety
/// `path` is a C string.
unsafe fn opened(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let plain = |flags: c_int| call!(SYS_openat, dir, path, flags, mode as c_uint);
    // SAFETY: the caller's promise.
    let (Some(recorder), Some(name)) = (recorder(), (unsafe { text(path) })) else { return as_int(plain(flags)) };
    if let Some(boot_id) = start::boot_id_instead_of(name) {
        return as_int(call!(SYS_openat, AT_FDCWD, boot_id.as_ptr(), flags, 0));
    }
    as_int(recorder.open_file(dir, name, flags, plain))
}

// Variadic in C; where there is no mode, the register holds something that the kernel does not look at.
hook!(open open64 (path: *const c_char, flags: c_int, mode: mode_t) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { opened(AT_FDCWD, path, flags, mode) });
hook!(openat openat64 (dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { opened(dir, path, flags, mode) });
hook!(creat creat64 (path: *const c_char, mode: mode_t) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { opened(AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode) });

hook!(write(fd: c_int, bytes: *const c_void, count: size_t) -> ssize_t =
    changed(fd, Span::Cursor { length: count as u64 }, || call!(SYS_write, fd, bytes, count)));
hook!(pwrite pwrite64 (fd: c_int, bytes: *const c_void, count: size_t, offset: off64_t) -> ssize_t =
    changed(fd, at(offset, count as u64), || call!(SYS_pwrite64, fd, bytes, count, offset)));
hook!(writev(fd: c_int, slices: *const iovec, count: c_int) -> ssize_t =
    // SAFETY: the caller's promise.
    changed(fd, Span::Cursor { length: unsafe { total(slices, count) } }, || call!(SYS_writev, fd, slices, count)));
hook!(pwritev pwritev64 (fd: c_int, slices: *const iovec, count: c_int, offset: off64_t) -> ssize_t =
    // SAFETY: the caller's promise.
    changed(fd, at(offset, unsafe { total(slices, count) }), || call!(SYS_pwritev, fd, slices, count, offset, 0)));
hook!(pwritev2 pwritev64v2 (fd: c_int, slices: *const iovec, count: c_int, offset: off64_t, flags: c_int) -> ssize_t = {
    // SAFETY: the caller's promise.
    let length = unsafe { total(slices, count) };
    let span = if offset == -1 { Span::Cursor { length } } else { at(offset, length) };
    changed(fd, span, || call!(SYS_pwritev2, fd, slices, count, offset, 0, flags))
});

fn at(offset: off64_t, length: u64) -> Span {
    // A negative offset is the kernel's to refuse.
    Span::At { offset: u64::try_from(offset).unwrap_or(0), length }
}

/// # Safety
/// `slices` holds `count` slices.
unsafe fn total(slices: *const iovec, count: c_int) -> u64 {
    if slices.is_null() || count <= 0 {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(slices, count as usize) }.iter().map(|slice| slice.iov_len as u64).sum()
}

hook!(sendfile sendfile64 (to: c_int, from: c_int, offset: *mut off64_t, count: size_t) -> ssize_t =
    changed(to, Span::Cursor { length: count as u64 }, || call!(SYS_sendfile, to, from, offset, count)));
hook!(copy_file_range(
    from: c_int, from_offset: *mut off64_t, to: c_int, to_offset: *mut off64_t, count: size_t, flags: c_uint
) -> ssize_t = {
    let length = count as u64;
    // SAFETY: null or the caller's.
    let span = match unsafe { to_offset.as_ref() } {
        Some(offset) => at(*offset, length),
        None => Span::Cursor { length },
    };
    changed(to, span, || call!(SYS_copy_file_range, from, from_offset, to, to_offset, count, flags))
});

hook!(ftruncate ftruncate64 (fd: c_int, length: off64_t) -> c_int =
    as_int(changed(fd, Span::Length(length.max(0) as u64), || call!(SYS_ftruncate, fd, length))));
hook!(truncate truncate64 (path: *const c_char, length: off64_t) -> c_int = {
    let fd = call!(SYS_openat, AT_FDCWD, path, libc::O_RDWR | libc::O_CLOEXEC, 0);
    if fd < 0 {
        return -1;
    }
    let fd = as_int(fd);
    let result = changed(fd, Span::Length(length.max(0) as u64), || call!(SYS_ftruncate, fd, length));
    let code = powercut::sys::errno();
    call!(SYS_close, fd);
    as_int(if result < 0 { refuse(code) } else { 0 })
});
hook!(fallocate fallocate64 (fd: c_int, mode: c_int, offset: off64_t, length: off64_t) -> c_int =
    as_int(allocated(fd, mode, offset, length)));
// This one answers with the error instead of setting errno.
hook!(posix_fallocate posix_fallocate64 (fd: c_int, offset: off64_t, length: off64_t) -> c_int =
    if allocated(fd, 0, offset, length) < 0 { powercut::sys::errno() } else { 0 });

fn allocated(fd: c_int, mode: c_int, offset: off64_t, length: off64_t) -> isize {
    let (Ok(from), Ok(count)) = (u64::try_from(offset), u64::try_from(length)) else { return refuse(libc::EINVAL) };
    let call = || call!(SYS_fallocate, fd, mode, offset, length);
    match mode {
        0 => changed(fd, Span::Reach(from.saturating_add(count)), call),
        libc::FALLOC_FL_KEEP_SIZE => call(),
        // Moving bytes about is not undone; callers must do without.
        mode if mode & (libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE) != 0 => refuse(libc::EOPNOTSUPP),
        _ => changed(fd, Span::At { offset: from, length: count }, call),
    }
}

hook!(fsync(fd: c_int) -> c_int =
    as_int(with(|r| Some(r.sync(fd, || call!(SYS_fsync, fd))), || call!(SYS_fsync, fd))));
hook!(fdatasync(fd: c_int) -> c_int =
    as_int(with(|r| Some(r.sync(fd, || call!(SYS_fdatasync, fd))), || call!(SYS_fdatasync, fd))));
hook!(syncfs(fd: c_int) -> c_int =
    as_int(with(|r| Some(r.sync_all(|| call!(SYS_syncfs, fd))), || call!(SYS_syncfs, fd))));
hook!(sync() -> () = {
    with(|r| Some(r.sync_all(|| call!(SYS_sync))), || call!(SYS_sync));
});

hook!(renameat2(from: c_int, old: *const c_char, to: c_int, new: *const c_char, flags: c_uint) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { renamed(from, old, to, new, flags) });
hook!(renameat(from: c_int, old: *const c_char, to: c_int, new: *const c_char) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { renamed(from, old, to, new, 0) });
hook!(rename(old: *const c_char, new: *const c_char) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { renamed(AT_FDCWD, old, AT_FDCWD, new, 0) });

/// # Safety
/// The paths are C strings.
unsafe fn renamed(from: c_int, old: *const c_char, to: c_int, new: *const c_char, flags: c_uint) -> c_int {
    let plain = || call!(SYS_renameat2, from, old, to, new, flags);
    // SAFETY: the caller's promise.
    let recorded = |r: &Recorder| unsafe { Some(r.rename((from, text(old)?), (to, text(new)?), plain)) };
    as_int(with(recorded, plain))
}

hook!(unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { unlinked(dir, path, flags) });
hook!(unlink(path: *const c_char) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { unlinked(AT_FDCWD, path, 0) });
hook!(rmdir(path: *const c_char) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { unlinked(AT_FDCWD, path, libc::AT_REMOVEDIR) });
hook!(remove(path: *const c_char) -> c_int = {
    // SAFETY: the caller's promise.
    let result = unsafe { unlinked(AT_FDCWD, path, 0) };
    if result < 0 && powercut::sys::errno() == libc::EISDIR {
        // SAFETY: the caller's promise.
        return unsafe { unlinked(AT_FDCWD, path, libc::AT_REMOVEDIR) };
    }
    result
});

/// # Safety
/// `path` is a C string.
unsafe fn unlinked(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    let plain = || call!(SYS_unlinkat, dir, path, flags);
    let recorded = |recorder: &Recorder| {
        // SAFETY: the caller's promise.
        let path = unsafe { text(path) }?;
        Some(match flags & libc::AT_REMOVEDIR {
            0 => recorder.unlink(dir, path, plain),
            _ => recorder.rmdir(dir, path, plain),
        })
    };
    as_int(with(recorded, plain))
}

hook!(mkdirat(dir: c_int, path: *const c_char, mode: mode_t) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { made(dir, path, || call!(SYS_mkdirat, dir, path, mode as c_uint)) });
hook!(mkdir(path: *const c_char, mode: mode_t) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { made(AT_FDCWD, path, || call!(SYS_mkdirat, AT_FDCWD, path, mode as c_uint)) });
hook!(symlinkat(target: *const c_char, dir: c_int, path: *const c_char) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { made(dir, path, || call!(SYS_symlinkat, target, dir, path)) });
hook!(symlink(target: *const c_char, path: *const c_char) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { made(AT_FDCWD, path, || call!(SYS_symlinkat, target, AT_FDCWD, path)) });
hook!(linkat(from: c_int, old: *const c_char, to: c_int, new: *const c_char, flags: c_int) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { made(to, new, || call!(SYS_linkat, from, old, to, new, flags)) });
hook!(link(old: *const c_char, new: *const c_char) -> c_int =
    // SAFETY: the caller's promise.
    unsafe { made(AT_FDCWD, new, || call!(SYS_linkat, AT_FDCWD, old, AT_FDCWD, new, 0)) });

/// # Safety
/// `path` is a C string.
unsafe fn made(dir: c_int, path: *const c_char, call: impl Fn() -> isize) -> c_int {
    // SAFETY: the caller's promise.
    as_int(with(|r| Some(r.make(dir, unsafe { text(path) }?, &call)), &call))
}
