//! Bytes in flight, counted for the whole node: what half-read requests and unwritten replies hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A counter with a limit. It never blocks: whoever is about to hold more asks [`Budget::available`] first.
///
/// Invariant: `used` is the sum of all live leases.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0) })
    }

    pub fn available(&self) -> usize {
        self.limit.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    pub fn lease(self: &Arc<Self>, bytes: usize) -> Lease {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Lease { budget: self.clone(), bytes }
    }
}

/// Bytes held until dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Lease {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn grow(&mut self, bytes: usize) {
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Takes at most `bytes` out into a lease of their own.
    pub fn split(&mut self, bytes: usize) -> Lease {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Lease { budget: self.budget.clone(), bytes }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back_whole_however_they_are_split() {
        let budget = Budget::new(100);
        let mut lease = budget.lease(60);
        lease.grow(30);
        let part = lease.split(50);
        assert_eq!(budget.available(), 10);
        drop(lease);
        assert_eq!((part.bytes(), budget.available()), (50, 50));
        let over = budget.lease(80);
        assert_eq!(budget.available(), 0, "over the limit there is nothing left, and nothing wraps");
        drop((part, over));
        assert_eq!(budget.available(), 100);
    }
}
