//! `highwater dev`: a cluster on this machine, whose nodes can be killed, paused and started again one by one.
//!
//! ```text
//! dev ──────────────→ up ─→ folder (files, ports) ─→ process (children) ─→ ready ─→ tend until Ctrl-C
//! dev kill 2, … ────→ control ─→ process, found by pid file and proven by its command line
//!     start 2, stop ─→ a note in the folder, where a foreground `dev` tends the nodes: they stay its children
//! ```

mod args;
mod control;
pub mod folder;
mod process;
mod ready;
mod up;

pub use args::{Dev, run};
