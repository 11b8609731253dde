//! A power cut for a process that was killed: what it never synced is undone.
//!
//! The page cache outlives a `kill -9`, so a program that forgets an fsync passes every kill test. Here a library
//! preloaded into the process (`shim/`) keeps an undo journal, and [`rewind`] plays it back after the kill.
//!
//! ```text
//! process ─ open, write, rename … ─→ shim ─→ recorder ─→ journal (on tmpfs) ─→ the real call
//!                                              ↑ control file: a failing disk, a full one
//! kill -9 ─→ rewind(journal, policy) ─→ the root as a power cut might have left it ─→ start again
//! ```
//!
//! The model is the harshest that POSIX allows and a disk can do:
//! - a file's bytes and length are durable by fsync or fdatasync of that file, through any descriptor, and only those
//!   written before the sync began;
//! - a name is durable by fsync of its folder, also the name of a new file that was itself synced (ext4 is kinder). A
//!   rename within one folder is one step; between two folders each half waits for its own folder, so the file may be
//!   seen under both names or under none;
//! - sync_file_range makes nothing durable;
//! - after a failed sync no later one makes that file durable.
//!
//! Not seen: mmap'ed writes, io_uring, O_SYNC (taken as no sync), calls made without the C library, modes and times.

mod control;
mod entry;
mod layout;
pub mod recorder;
mod rewind;
pub mod sys;

pub use control::{Fault, root_of, set_faults};
pub use rewind::{Policy, Rewound, forget, lose, rewind};

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// The process could not keep its journal, and ended.
pub const EXIT_JOURNAL_FAILED: i32 = 99;

const SHIM_FILE: &str = "libpowercut_shim.so";

pub const JOURNAL_VARIABLE: &str = "HIGHWATER_POWERCUT_JOURNAL";
pub const ROOT_VARIABLE: &str = "HIGHWATER_POWERCUT_ROOT";
/// Set to 1: syncs make nothing durable.
pub const FORGET_SYNCS_VARIABLE: &str = "HIGHWATER_POWERCUT_FORGET_SYNCS";
/// Set to a number: the process is killed when its so manyth write, sync or change of a name is under way.
pub const END_AT_VARIABLE: &str = "HIGHWATER_POWERCUT_END_AT";

/// The environment that puts a process under the shim. The shim takes it away again before the process's `main`, so
/// neither the process nor its children see it. `journal` should be on tmpfs; one journal serves one process at a time.
pub fn environment(shim: &Path, journal: &Path, root: &Path) -> [(&'static str, OsString); 3] {
    [("LD_PRELOAD", shim.into()), (JOURNAL_VARIABLE, journal.into()), (ROOT_VARIABLE, root.into())]
}

/// The shim beside the running program (`cargo build -p powercut-shim` with the same profile puts it there).
pub fn shim() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(SHIM_FILE)).find(|path| path.exists());
    found.ok_or_else(|| {
        let message = format!("{SHIM_FILE} is not beside this program; build it: cargo build -p powercut-shim");
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

/// Builds the shim in the running test's own profile and gives its path. For tests: cargo builds a library to preload
/// for nobody but itself.
pub fn build_shim() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = program.ancestors().nth(2).filter(|folder| folder.file_name().is_some());
    let profile = profile.ok_or_else(|| io::Error::other("a test runs in the target folder"))?;
    let mut build = std::process::Command::new(cargo);
    build.args(["build", "--quiet", "--package", "powercut-shim"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(target) = profile.parent() {
        build.env("CARGO_TARGET_DIR", target);
    }
    if profile.ends_with("release") {
        build.arg("--release");
    }
    match build.status()?.success() {
        true => shim(),
        false => Err(io::Error::other("the shim does not build")),
    }
}
