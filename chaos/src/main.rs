//! Breaks a real Highwater cluster while clients use it, and checks what they saw. `README.md` says how to run it.
//!
//! ```text
//! args ─→ hub (namespaces; this program again inside them) ─→ run
//!   run: cluster (processes, network, disks)   workload (clients ─→ history)   faults (plan ─→ driver)
//!        ─→ verify (heal, read back, compare nodes) ─→ checker (pure) ─→ verdict
//! ```

#![allow(clippy::disallowed_methods, reason = "the platform seam is the broker's: this program stands outside it")]

mod admin;
mod args;
mod chance;
mod checker;
mod clock;
mod cluster;
mod faults;
mod history;
mod hub;
mod logs;
mod run;
mod shell;
mod status;
mod verify;
mod workload;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // In whatever profile it was built: nobody waits for what a dead thread was to see.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    match hub::main(args::Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(hub::EXIT_FAILED)
        }
    }
}
