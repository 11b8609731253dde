//! How a parked fetch learns which of its partitions changed: marks, and one wake-up.
//!
//! A fetch session subscribes once to each partition and keeps its watcher; a change marks a token and wakes the
//! session, so a fetch over thousands of idle partitions costs nothing.

use std::sync::Arc;

#[derive(Default)]
pub struct Watcher {}

impl Watcher {
    pub fn new() -> Arc<Watcher> {
        todo!()
    }
    /// Called by partitions. Cheap, never blocks; marking twice is marking once.
    pub fn mark(&self, token: u32) {
        let _ = token;
        todo!()
    }
    /// Takes the marked tokens.
    pub fn take(&self) -> Vec<u32> {
        todo!()
    }
    /// Waits until something is marked.
    pub async fn marked(&self) {
        todo!()
    }
}
