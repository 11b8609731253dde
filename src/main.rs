//! The `highwater` command; see `highwater --help`.

use std::process::ExitCode;

/// The broker allocates from many threads at once, which the system's allocator serves worse.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    highwater::cli::command::main()
}
