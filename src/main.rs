//! The `highwater` command; see `highwater --help`.

use std::process::ExitCode;

/// The broker allocates from many threads at once, which the system's allocator serves worse.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    abort_on_panic();
    highwater::cli::command::main()
}

/// In whatever profile it was built: a node in which one task is dead and the others go on is worse than a dead node.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}
