//! Chance: identities and jitter.

use std::ops::Range;
use uuid::Uuid;

/// A random (version 4) identity.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn uuid() -> Uuid {
    Uuid::new_v4()
}

/// A number drawn evenly from `range`.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn between(range: Range<u64>) -> u64 {
    rand::random_range(range)
}
