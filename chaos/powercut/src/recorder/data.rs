//! Contents and lengths of files.

use super::{Recorder, locked_now, or_die};
use crate::entry::{self, DATA_START, Data, POISONED};
use crate::sys::{self, Fd, Key, Stat};
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Pre-images are kept in pieces of this size.
const PIECE: u64 = 1 << 20;
/// A journal that has grown to this is emptied by a sync of its file: the kernel too writes back what is old.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Journals without entries stay open up to this many.
const IDLE_OPEN_MAX: usize = 512;
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// What a call is about to change.
#[derive(Clone, Copy, Debug)]
pub enum Span {
    /// Bytes at a position.
    At { offset: u64, length: u64 },
    /// Bytes at the cursor.
    Cursor { length: u64 },
    /// The file gets this length.
    Length(u64),
    /// The file is made to reach at least here.
    Reach(u64),
}

/// One file's entries. Invariant: `DATA_START` ≤ `base` ≤ `end` once the file is open; entries before `base` are durable.
pub(super) struct FileJournal {
    path: PathBuf,
    fd: Option<Fd>,
    base: u64,
    end: u64,
    /// Bytes of entries taken away since this process began: marks go on counting where positions begin anew.
    emptied: u64,
    poisoned: bool,
}

/// A point in a file's entries; what stands before it may be dropped once a sync that began then is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

impl FileJournal {
    pub fn new(path: PathBuf) -> FileJournal {
        FileJournal { path, fd: None, base: DATA_START, end: DATA_START, emptied: 0, poisoned: false }
    }

    /// Goes on after the last whole entry.
    pub fn resume(path: PathBuf) -> io::Result<FileJournal> {
        let bytes = sys::read_file(&path)?;
        let mut journal = FileJournal::new(path);
        let (base, flags) = head(&bytes);
        journal.poisoned = flags & POISONED != 0;
        if let Some(rest) = bytes.get(base as usize..) {
            journal.base = base;
            journal.end = base + entry::all(rest, Data::decode).1 as u64;
            sys::set_len(journal.opened()?, journal.end)?;
        } else {
            sys::set_len(journal.opened()?, DATA_START)?;
        }
        journal.write_head()?;
        Ok(journal)
    }

    pub fn mark(&self) -> Mark {
        Mark(self.emptied + self.end)
    }

    fn opened(&mut self) -> io::Result<RawFd> {
        if let Some(fd) = &self.fd {
            return Ok(fd.0);
        }
        let fd = sys::open(&self.path, sys::O_RDWR | sys::O_CREAT)?;
        let number = fd.0;
        self.fd = Some(fd);
        OPEN.fetch_add(1, Ordering::Relaxed);
        if self.end == DATA_START {
            self.write_head()?;
        }
        Ok(number)
    }

    fn write_head(&mut self) -> io::Result<()> {
        let flags = if self.poisoned { POISONED } else { 0 };
        let head = [self.base.to_le_bytes(), flags.to_le_bytes()].concat();
        sys::write_at(self.opened()?, &head, 0)
    }

    fn append(&mut self, entry: &Data) -> io::Result<()> {
        let bytes = entry.encode();
        sys::write_at(self.opened()?, &bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Entries before `mark` are durable.
    pub fn drop_to(&mut self, mark: Mark) -> io::Result<()> {
        // Another sync may have dropped them, and more, meanwhile.
        let mark = mark.0.saturating_sub(self.emptied);
        if self.poisoned || mark <= self.base || self.fd.is_none() {
            return Ok(());
        }
        assert!(mark <= self.end, "a mark is an end of earlier");
        self.base = mark;
        self.write_head()?;
        let fd = self.opened()?;
        if mark < self.end {
            sys::punch(fd, DATA_START, mark);
            return Ok(());
        }
        // Killed between these two, a base beyond the file's end says the same.
        sys::set_len(fd, DATA_START)?;
        self.emptied += self.end - DATA_START;
        (self.base, self.end) = (DATA_START, DATA_START);
        self.write_head()?;
        if OPEN.load(Ordering::Relaxed) > IDLE_OPEN_MAX {
            sys::remove_file(&self.path)?;
            self.fd = None;
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn poison(&mut self) -> io::Result<()> {
        self.poisoned = true;
        self.write_head()
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        if self.fd.is_some() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Base and flags of a data file.
pub(crate) fn head(bytes: &[u8]) -> (u64, u64) {
    let number =
        |at: usize| bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(u64::MAX, u64::from_le_bytes);
    if bytes.len() < DATA_START as usize { (DATA_START, 0) } else { (number(0), number(8)) }
}

impl Recorder {
    /// A call that changes an open file's content or length.
    pub fn change(&self, fd: RawFd, span: Span, call: impl FnOnce() -> isize) -> isize {
        // Standard streams are never data.
        if fd <= 2 {
            return call();
        }
        let Ok(stat) = sys::stat(fd) else { return call() };
        if !stat.is_file() || stat.key.0 != self.device {
            return call();
        }
        let Some(file) = self.file(fd, stat.key) else { return call() };
        let mut journal = locked_now(&file);
        // Another thread may have changed its length meanwhile.
        let Ok(stat) = sys::stat(fd) else { return call() };
        let span = positioned(fd, span, stat.size);
        if let Some(code) = self.faults.on_change(fd, &span, stat.size) {
            return sys::refuse(code);
        }
        or_die(journal_change(&mut journal, fd, stat, span), "an entry cannot be written");
        self.count();
        let result = call();
        if journal.end - journal.base > JOURNAL_BYTES_MAX && !self.forget_syncs && sys::sync(fd).is_ok() {
            let mark = journal.mark();
            or_die(journal.drop_to(mark), "entries cannot be dropped");
        }
        result
    }

    pub(super) fn sync_file(&self, fd: RawFd, key: Key, call: impl FnOnce() -> isize) -> isize {
        let file = self.file(fd, key);
        let mark = file.as_ref().map(|file| locked_now(file).mark());
        if let Some(file) = &file
            && let Some(code) = self.faults.on_sync(fd)
        {
            // The kernel forgets which pages were dirty: a later sync succeeds, and they still aren't on the disk.
            or_die(locked_now(file).poison(), "a failed sync cannot be noted");
            return sys::refuse(code);
        }
        let result = call();
        if let (Some(file), Some(mark), 0, false) = (file, mark, result, self.forget_syncs) {
            or_die(locked_now(&file).drop_to(mark), "entries cannot be dropped");
        }
        result
    }
}

/// The span with the cursor, and appending, worked out.
fn positioned(fd: RawFd, span: Span, size: u64) -> Span {
    let (Span::At { length, .. } | Span::Cursor { length }) = span else { return span };
    let flags = crate::call!(SYS_fcntl, fd, libc::F_GETFL);
    if flags >= 0 && flags as i32 & libc::O_APPEND != 0 {
        return Span::At { offset: size, length };
    }
    match span {
        Span::Cursor { .. } => Span::At { offset: sys::seek(fd, 0, libc::SEEK_CUR).unwrap_or(0), length },
        other => other,
    }
}

fn journal_change(journal: &mut FileJournal, fd: RawFd, stat: Stat, span: Span) -> io::Result<()> {
    let size = stat.size;
    let growth = |to: u64| Data {
        is_last: true,
        is_shrink: false,
        offset: size,
        length: to - size,
        old_size: size,
        image: Vec::new(),
    };
    match span {
        Span::Length(to) | Span::Reach(to) if to > size => journal.append(&growth(to)),
        Span::Length(to) if to < size => shrink(journal, fd, size, to),
        Span::Length(_) | Span::Reach(_) => Ok(()),
        Span::At { length: 0, .. } => Ok(()),
        Span::At { offset, length } => {
            let end = offset.saturating_add(length);
            let mut reader = Reader { fd, own: None };
            let mut at = offset;
            while at < end {
                let next = end.min(at.saturating_add(PIECE));
                let image = reader.image(at, next.min(size))?;
                let is_last = next == end;
                let entry = Data { is_last, is_shrink: false, offset: at, length: next - at, old_size: size, image };
                journal.append(&entry)?;
                at = next;
            }
            Ok(())
        }
        Span::Cursor { .. } => unreachable!("positioned before"),
    }
}

/// Preallocated files are cut by hundreds of megabytes of nothing: holes and zeros are passed over.
fn shrink(journal: &mut FileJournal, fd: RawFd, size: u64, to: u64) -> io::Result<()> {
    let mut reader = Reader { fd, own: None };
    let own = reader.reopen()?;
    let mut at = to;
    while let Some(data) = sys::seek(own, at, libc::SEEK_DATA).filter(|data| *data < size) {
        let hole = sys::seek(own, data, libc::SEEK_HOLE).unwrap_or(size).min(size);
        let mut from = data;
        while from < hole {
            let next = hole.min(from + PIECE);
            let image = reader.image(from, next)?;
            if !image.is_empty() {
                let entry =
                    Data { is_last: false, is_shrink: true, offset: from, length: next - from, old_size: size, image };
                journal.append(&entry)?;
            }
            from = next;
        }
        at = hole;
    }
    let cut = Data { is_last: true, is_shrink: true, offset: to, length: 0, old_size: size, image: Vec::new() };
    journal.append(&cut)
}

/// Reads a file through its own descriptor, or one of ours where that may only write.
struct Reader {
    fd: RawFd,
    own: Option<Fd>,
}

impl Reader {
    fn reopen(&mut self) -> io::Result<RawFd> {
        let own = sys::open(&PathBuf::from(format!("/proc/self/fd/{}", self.fd)), sys::O_RDONLY)?;
        let number = own.0;
        self.own = Some(own);
        Ok(number)
    }

    /// The bytes of a range, without the zeros at their end.
    fn image(&mut self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        if to <= from {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; (to - from) as usize];
        let fd = self.own.as_ref().map_or(self.fd, |own| own.0);
        let read = match sys::read_at(fd, &mut bytes, from) {
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => {
                let own = self.reopen()?;
                sys::read_at(own, &mut bytes, from)?
            }
            other => other?,
        };
        let used = bytes[..read].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        Ok(bytes)
    }
}
