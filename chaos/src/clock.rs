//! Milliseconds since the run began: what every time in a history is measured in.

use std::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// A run of 49 days would overflow it.
    pub fn ms(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_millis()).unwrap_or(u32::MAX)
    }
}

/// `83250` → `83.2s`.
pub fn seconds(ms: u32) -> String {
    format!("{}.{}s", ms / 1000, ms % 1000 / 100)
}
