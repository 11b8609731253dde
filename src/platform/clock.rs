//! Time: the wall clock in milliseconds since 1970 for what is stored, the monotonic clock for what is measured.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC; Kafka's timestamps.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// A point on the monotonic clock.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn now() -> Instant {
    Instant::now()
}
