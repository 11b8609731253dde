//! Group commit: one flusher per disk makes dirty logs durable, in parallel over files, with no lock held.

use crate::ids::Offset;
use std::io;
use std::sync::Arc;

/// What one flush of one log must sync, and what is durable afterwards.
pub struct FlushTask {
    /// The log end when the flush began.
    pub end: Offset,
    /// A flush begun before a truncation never raises the durable end.
    pub generation: u64,
    // files: Vec<Arc<File>> …
}

impl FlushTask {
    /// fdatasync of every file; called by the flusher outside all locks.
    pub fn sync(&self) -> io::Result<()> {
        todo!()
    }
}

/// A log with unflushed bytes, as the flusher sees it. `replica::Partition` implements it: `begin` and `end` take its lock.
pub trait Flushable: Send + Sync + 'static {
    fn begin_flush(&self) -> Option<FlushTask>;
    fn end_flush(&self, task: FlushTask, result: io::Result<()>);
}

/// The queue of dirty logs of one disk and the threads that flush them. A log already queued is not queued twice
/// (the caller keeps an atomic flag; see `replica::Partition`).
#[derive(Clone)]
pub struct Flusher {}

impl Flusher {
    /// `threads` OS threads (bound: parallel fdatasyncs).
    pub fn start(threads: usize) -> Flusher {
        let _ = threads;
        todo!()
    }
    pub fn enqueue(&self, log: Arc<dyn Flushable>) {
        let _ = log;
        todo!()
    }
    /// Flushes what is queued, then ends the threads.
    pub fn stop(&self) {
        todo!()
    }
}
