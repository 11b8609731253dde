//! A failing or full disk, told to a running process through a file that both sides map or write.
//!
//! ```text
//! control   generation: u64 │ length: u64 │ lines
//! ```
//! The generation is even, and odd while the lines are being replaced.

use crate::layout::Layout;
use crate::sys;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file is mapped whole.
pub(crate) const SIZE: usize = 64 << 10;
pub(crate) const LINES_START: usize = 16;

/// What goes wrong below a path, from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// fsync and fdatasync of files that were written, and of folders, fail with EIO. What such a file held that was
    /// not durable never becomes durable, whatever later syncs say.
    Sync { below: PathBuf },
    /// Writes, truncations and allocations fail with EIO.
    Write { below: PathBuf },
    /// Files may grow by this many bytes in all; then growing fails with ENOSPC.
    Full { below: PathBuf, bytes: u64 },
}

impl Fault {
    fn line(&self) -> Vec<u8> {
        let (word, below) = match self {
            Fault::Sync { below } => ("sync".to_string(), below),
            Fault::Write { below } => ("write".to_string(), below),
            Fault::Full { below, bytes } => (format!("full={bytes}"), below),
        };
        [word.as_bytes(), b" ", below.as_os_str().as_bytes(), b"\n"].concat()
    }

    pub(crate) fn parse(line: &[u8]) -> Option<Fault> {
        let at = line.iter().position(|byte| *byte == b' ')?;
        let below = PathBuf::from(OsStr::from_bytes(&line[at + 1..]));
        match std::str::from_utf8(&line[..at]).ok()? {
            "sync" => Some(Fault::Sync { below }),
            "write" => Some(Fault::Write { below }),
            other => Some(Fault::Full { below, bytes: other.strip_prefix("full=")?.parse().ok()? }),
        }
    }
}

/// Makes exactly these faults stand, none for an empty list, in the process that records into `journal` now and in
/// those that will. Paths are absolute and without links. Works before the first process too.
pub fn set_faults(journal: &Path, faults: &[Fault]) -> io::Result<()> {
    sys::mkdir(journal)?;
    let file = sys::open(&journal.join("control"), sys::O_RDWR | sys::O_CREAT)?;
    sys::set_len(file.0, SIZE as u64)?;
    let mut generation = [0; 8];
    sys::read_at(file.0, &mut generation, 0)?;
    let before = u64::from_ne_bytes(generation) & !1;
    let lines: Vec<u8> = faults.iter().flat_map(Fault::line).collect();
    if lines.len() > SIZE - LINES_START {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many faults, or too long paths"));
    }
    sys::write_at(file.0, &(before + 1).to_ne_bytes(), 0)?;
    sys::write_at(file.0, &lines, LINES_START as u64)?;
    sys::write_at(file.0, &(lines.len() as u64).to_ne_bytes(), 8)?;
    sys::write_at(file.0, &(before + 2).to_ne_bytes(), 0)
}

/// The root that a journal speaks of.
pub fn root_of(journal: &Path) -> io::Result<PathBuf> {
    Ok(Layout::read(journal)?.root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_back_from_their_lines() {
        let below = PathBuf::from("/data/a folder");
        let faults = [
            Fault::Sync { below: below.clone() },
            Fault::Write { below: below.clone() },
            Fault::Full { below, bytes: 77 },
        ];
        for fault in faults {
            let line = fault.line();
            assert_eq!(Fault::parse(&line[..line.len() - 1]), Some(fault));
        }
        assert_eq!(Fault::parse(b"burn /data"), None);
    }
}
