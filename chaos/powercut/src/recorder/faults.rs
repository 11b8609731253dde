//! What the control file says now. Without faults a check is one load.

use super::data::Span;
use super::{below, locked_now};
use crate::control::{Fault, LINES_START, SIZE};
use crate::sys;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(super) struct Faults {
    /// The mapped file; the other process writes it.
    page: *const u8,
    seen: AtomicU64,
    any: AtomicBool,
    standing: Mutex<Vec<Fault>>,
}

// SAFETY: the mapping lives as long as the process and is only read, its generation atomically.
unsafe impl Send for Faults {}
// SAFETY: as above.
unsafe impl Sync for Faults {}

impl Faults {
    pub fn open(control: &Path) -> io::Result<Faults> {
        let file = sys::open(control, sys::O_RDWR | sys::O_CREAT)?;
        sys::set_len(file.0, SIZE as u64)?;
        // SAFETY: a fresh shared mapping of a file of this length, never unmapped.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ, libc::MAP_SHARED, file.0, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let (seen, any) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Faults { page: page.cast(), seen, any, standing: Mutex::default() })
    }

    fn number(&self, at: usize) -> u64 {
        // SAFETY: within the mapping and aligned, since the mapping is page-aligned.
        unsafe { &*self.page.add(at).cast::<AtomicU64>() }.load(Ordering::Acquire)
    }

    fn are_any(&self) -> bool {
        let generation = self.number(0);
        if generation != self.seen.load(Ordering::Acquire) && generation.is_multiple_of(2) {
            let mut standing = locked_now(&self.standing);
            let length = (self.number(8) as usize).min(SIZE - LINES_START);
            let mut lines = vec![0u8; length];
            // SAFETY: within the mapping; a torn read is noticed by the generation and read again at the next call.
            unsafe { std::ptr::copy_nonoverlapping(self.page.add(LINES_START), lines.as_mut_ptr(), length) };
            if self.number(0) == generation {
                *standing = lines.split(|byte| *byte == b'\n').filter_map(Fault::parse).collect();
                self.any.store(!standing.is_empty(), Ordering::Release);
                self.seen.store(generation, Ordering::Release);
            }
        }
        self.any.load(Ordering::Acquire)
    }

    /// The errno with which a change of an open file must fail.
    pub fn on_change(&self, fd: RawFd, span: &Span, size: u64) -> Option<i32> {
        if !self.are_any() {
            return None;
        }
        let path = sys::path_of(fd).ok()?;
        let end = match span {
            Span::At { offset, length } => offset.saturating_add(*length),
            Span::Length(end) | Span::Reach(end) => *end,
            Span::Cursor { .. } => 0,
        };
        let mut standing = locked_now(&self.standing);
        for fault in standing.iter_mut() {
            match fault {
                Fault::Write { below: folder } if below(&path, folder.as_os_str().as_bytes()) => {
                    return Some(libc::EIO);
                }
                Fault::Full { below: folder, bytes } if below(&path, folder.as_os_str().as_bytes()) => {
                    let growth = end.saturating_sub(size);
                    if growth > *bytes {
                        return Some(libc::ENOSPC);
                    }
                    *bytes -= growth;
                    if matches!(span, Span::Length(_)) {
                        *bytes = bytes.saturating_add(size.saturating_sub(end));
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The errno with which a sync of an open file or folder must fail.
    pub fn on_sync(&self, fd: RawFd) -> Option<i32> {
        if !self.are_any() {
            return None;
        }
        let path = sys::path_of(fd).ok()?;
        let fails = |fault: &Fault| matches!(fault, Fault::Sync { below: folder } if below(&path, folder.as_os_str().as_bytes()));
        locked_now(&self.standing).iter().any(fails).then_some(libc::EIO)
    }

    /// A removed file makes room.
    pub fn give_back(&self, bytes: u64) {
        if self.are_any() {
            for fault in locked_now(&self.standing).iter_mut() {
                if let Fault::Full { bytes: left, .. } = fault {
                    *left = left.saturating_add(bytes);
                }
            }
        }
    }
}
