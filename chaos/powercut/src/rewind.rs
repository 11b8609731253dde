//! The dead side: what a power cut would have left of the root.
//!
//! ```text
//! data files ─→ each sector as it was after some prefix of the calls since the last sync; the length likewise
//! name files ─→ each folder as it was after some prefix of its changes since its last fsync
//! ```

mod data;
mod names;
mod tree;

use crate::layout::Layout;
use crate::sys;
use std::io;
use std::path::Path;

/// What the cut leaves of what was never synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// All of it: the disk had just written everything.
    KeepAll,
    /// Nothing.
    DropAll,
    /// Some of it, torn at sectors and pages, as the seed says. The same seed on the same journal and root gives the
    /// same result.
    Random { seed: u64 },
}

/// What a rewind did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewound {
    /// Files whose unsynced content was put to the choice.
    pub files: usize,
    /// Calls on them that a sync had not yet covered.
    pub unsynced_calls: usize,
    /// Names that now stand for something else, or nothing.
    pub names: usize,
}

/// Undoes in the journal's root what a power cut would have undone, empties the journal, and gives the machine another
/// boot id. The process must be dead. With faults told through the journal nothing happens: they stand.
///
/// Errors: nobody has recorded into `journal`; a process still does; the file system refuses.
pub fn rewind(journal: &Path, policy: Policy) -> io::Result<Rewound> {
    let layout = Layout::read(journal)?;
    let rewound = undo(journal, &layout, policy, policy)?;
    sys::replace_file(&layout.boot_id(), format!("{}\n", boot_id()?).as_bytes())?;
    Ok(rewound)
}

/// Undoes what a disk that failed never took: unsynced content, in the same boot. Names stay, since the kernel goes on
/// showing them; so does what a note says by its name alone. The process must be dead. Empties the journal.
pub fn lose(journal: &Path, policy: Policy) -> io::Result<Rewound> {
    undo(journal, &Layout::read(journal)?, policy, Policy::KeepAll)
}

/// Takes everything for durable and empties the journal, in the same boot. To be called, with the process dead, before
/// anybody else changes files below the root: a journal that doesn't know of it would undo what it never saw.
pub fn forget(journal: &Path) -> io::Result<()> {
    undo(journal, &Layout::read(journal)?, Policy::KeepAll, Policy::KeepAll).map(drop)
}

fn undo(journal: &Path, layout: &Layout, policy: Policy, of_names: Policy) -> io::Result<Rewound> {
    let lock = sys::open(&journal.join("lock"), sys::O_RDWR | sys::O_CREAT)?;
    if crate::call!(SYS_flock, lock.0, libc::LOCK_EX | libc::LOCK_NB) != 0 {
        return Err(io::Error::other("the process that records into this journal still runs"));
    }
    let mut rewound = Rewound::default();
    let tree = tree::Tree::read(layout)?;
    for key in layout.files("data")? {
        let path = layout.file("data", key);
        if let Some(place) = tree.file(key) {
            let calls = data::rewind(&sys::read_file(&path)?, &place, chance(policy, &place.path))?;
            rewound.files += usize::from(calls > 0);
            rewound.unsynced_calls += calls;
        }
        sys::remove_file(&path)?;
    }
    rewound.names = names::rewind(layout, &tree, of_names)?;
    drop(tree);
    names::clear(layout)?;
    Ok(rewound)
}

/// The policy for one file or folder, with chances of its own: what others hold doesn't move them.
fn chance(policy: Policy, path: &[u8]) -> Chance {
    match policy {
        Policy::KeepAll => Chance::Keep,
        Policy::DropAll => Chance::Drop,
        Policy::Random { seed } => {
            let sum = path.iter().fold(seed, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            Chance::Random(Random(sum))
        }
    }
}

enum Chance {
    Keep,
    Drop,
    Random(Random),
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `low ..= high`.
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }
}

/// In the kernel's form.
fn boot_id() -> io::Result<String> {
    let mut text = [0; 64];
    let fresh = sys::open(Path::new("/proc/sys/kernel/random/uuid"), sys::O_RDONLY)?;
    let read = sys::read_at(fresh.0, &mut text, 0)?;
    Ok(String::from_utf8_lossy(&text[..read]).trim().to_string())
}
