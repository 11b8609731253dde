//! The node's log: lines on standard error, filtered by `HIGHWATER_LOG`.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Like `info` or `info,highwater::replica=debug`.
const VARIABLE: &str = "HIGHWATER_LOG";
/// sled and h2 tell more at info than an operator can use. openraft calls each refused connection of an election an error;
/// what matters of it (who leads, a core that died) is told by the metadata room.
const DEFAULT: &str = "info,sled=warn,h2=warn,hyper=warn,tower=warn,openraft=off";

pub fn start() {
    let given = std::env::var(VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter = given.as_deref().unwrap_or(DEFAULT);
    let (filter, refused) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (parsed, None),
        Err(error) => (EnvFilter::new(DEFAULT), Some(error)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Else a line that cannot be written, to a full disk or a pipe whose reader is gone, is told by `eprintln!`, which
        // panics for the same reason and ends the node.
        .log_internal_errors(false)
        .init();
    if let Some(error) = refused {
        tracing::warn!(%error, "{VARIABLE} is not a filter; using '{DEFAULT}'");
    }
}
