//! Logging: one line an event on standard error.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The environment variable that says what is logged, such as `info,highwater::cluster=debug`.
pub const FILTER_VARIABLE: &str = "HIGHWATER_LOG";

#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    #[error("{FILTER_VARIABLE} is not a filter such as 'info,highwater::cluster=debug': {0}")]
    Filter(String),
    #[error("logging is set up already")]
    Twice,
}

/// Sets logging up for this process: by [`FILTER_VARIABLE`], else by `default`. Once, at the start.
pub fn start(default: &str) -> Result<(), TracingError> {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| default.to_string());
    let filter = EnvFilter::try_new(&wanted).map_err(|e| TracingError::Filter(e.to_string()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|_| TracingError::Twice)
}
