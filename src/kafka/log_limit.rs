//! A bound on log lines that peers can cause.

use crate::platform::clock;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Lines a second; more are counted and told with the next line that passes.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

#[derive(Default)]
pub struct LogLimit {
    window: Mutex<Window>,
}

impl LogLimit {
    /// Whether a line may be written now; if so, how many were left out since the last one.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(clock::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock();
        if window.began.is_none_or(|began| now.duration_since(began) >= WINDOW) {
            window.began = Some(now);
            window.lines = 0;
        }
        if window.lines >= LINES_MAX {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limit = LogLimit::default();
        let start = clock::now();
        let passed = (0..100).filter(|_| limit.admit_at(start).is_some()).count();
        assert_eq!(passed, LINES_MAX as usize);
        assert_eq!(limit.admit_at(start + WINDOW), Some(100 - u64::from(LINES_MAX)));
        assert_eq!(limit.admit_at(start + WINDOW), Some(0));
    }
}
