//! How long the disk takes to make something durable, of late: elections are paced by it.

use crate::platform::clock;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// A disk that takes longer than this is stuck; waiting in proportion to it would only add to that.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// After this nothing waits for a flush any more.
const OVER_AFTER: Duration = FLUSH_MAX.saturating_mul(2);

/// Written by the disk's thread, read by whoever paces itself by the disk.
#[derive(Debug, Default)]
pub struct FlushTime {
    flushes: Mutex<Flushes>,
}

#[derive(Debug, Default)]
struct Flushes {
    /// Up at once, down by half of the way with each flush.
    recent: Duration,
    /// When the flush under way began.
    began: Option<Instant>,
    ended: Option<Instant>,
}

impl FlushTime {
    pub fn measure<T>(&self, flush: impl FnOnce() -> T) -> T {
        self.flushes.lock().begins(clock::now());
        let result = flush();
        self.flushes.lock().ends(clock::now());
        result
    }

    /// The one under way counts with what it took so far. At most a second.
    pub fn now(&self, now: Instant) -> Duration {
        self.flushes.lock().now(now)
    }

    /// The same, but nothing once the last flush is two seconds over.
    pub fn felt(&self, now: Instant) -> Duration {
        self.flushes.lock().felt(now)
    }
}

impl Flushes {
    fn begins(&mut self, now: Instant) {
        self.began = Some(now);
    }

    fn ends(&mut self, now: Instant) {
        if let Some(began) = self.began.take() {
            let took = now.saturating_duration_since(began);
            self.recent = took.max((self.recent + took) / 2);
            self.ended = Some(now);
        }
    }

    fn now(&self, now: Instant) -> Duration {
        let under_way = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        self.recent.max(under_way).min(FLUSH_MAX)
    }

    fn felt(&self, now: Instant) -> Duration {
        let is_near = self.began.is_some() || self.ended.is_some_and(|ended| now < ended + OVER_AFTER);
        if is_near { self.now(now) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_flush_counts_from_its_first_moment_and_is_forgotten_by_halves() {
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let mut flushes = Flushes::default();
        assert_eq!(flushes.now(at(0)), ms(0));
        flushes.begins(at(10));
        assert_eq!(flushes.now(at(130)), ms(120), "it is not done, and took this long already");
        flushes.ends(at(170));
        assert_eq!(flushes.now(at(9_000)), ms(160));
        assert_eq!((flushes.felt(at(2_169)), flushes.felt(at(2_170))), (ms(160), ms(0)));
        for (at_ms, known) in [(10_000, 80), (10_001, 40), (10_002, 20)] {
            flushes.begins(at(at_ms));
            flushes.ends(at(at_ms));
            assert_eq!(flushes.now(at(at_ms)), ms(known));
        }
        flushes.begins(at(20_000));
        assert_eq!((flushes.now(at(90_000)), flushes.felt(at(90_000))), (FLUSH_MAX, FLUSH_MAX));
    }
}
