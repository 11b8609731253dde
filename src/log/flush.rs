//! Group commit: one flusher per disk makes dirty logs durable, in parallel over files, with no lock held.
//!
//! Everything appended to a log while its flush was queued or under way of an earlier one becomes durable with one
//! fdatasync: the longer the disk takes, the more a flush carries.

use super::checkpoint::Checkpoint;
use super::epochs::Epochs;
use super::segment::Segment;
use crate::ids::Offset;
use crate::platform::bugs::{self, Bug};
use crate::platform::disk::{self, File};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// What one flush of one log must sync, and what is durable afterwards.
pub struct FlushTask {
    /// The log end when the flush began.
    pub end: Offset,
    /// A flush begun before a truncation never raises the durable end.
    pub generation: u64,
    /// `.log` files with bytes that are not durable.
    pub(super) files: Vec<Arc<File>>,
    /// The log's folder, if it has names that are not durable, and the folder above for the same reason.
    pub(super) folders: Vec<PathBuf>,
    /// Counts the names made in the log's folder before the flush began.
    pub(super) names: u64,
    /// Counts what was filled into damaged places before the flush began.
    pub(super) patches: u64,
    /// After segments were sealed: what lets recovery start later.
    pub(super) sealed: Option<Sealed>,
}

/// Segments that this flush makes durable for good.
pub(super) struct Sealed {
    pub segments: Vec<Arc<Segment>>,
    /// Their indexes and the producer snapshots.
    pub beside: Vec<PathBuf>,
    pub checkpoint: Arc<Checkpoint>,
    pub recovery_point: Offset,
    pub epochs: Epochs,
}

impl FlushTask {
    /// fdatasync of every file; called by the flusher outside all locks.
    pub fn sync(&self) -> io::Result<()> {
        if bugs::is(Bug::NoFsync) {
            return Ok(());
        }
        for file in &self.files {
            file.sync_data()?;
        }
        for folder in &self.folders {
            unless_gone(disk::sync_dir(folder))?;
        }
        match &self.sealed {
            Some(sealed) => sealed.raise_recovery_point(self.generation),
            None => Ok(()),
        }
    }
}

impl Sealed {
    fn raise_recovery_point(&self, generation: u64) -> io::Result<()> {
        for path in &self.beside {
            // An index without rows has no file.
            unless_gone(File::open(path).and_then(|file| file.sync_data()))?;
        }
        match self.checkpoint.raise(generation, self.recovery_point, &self.epochs) {
            // The data is durable; a recovery would only have more to look at.
            Err(e) if disk::is_full(&e) => Ok(()),
            other => unless_gone(other),
        }
    }
}

/// Retention or a deletion of the partition may take names away during a flush: what is gone need not be durable.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A log with unflushed bytes, as the flusher sees it. `replica::Partition` implements it: `begin` and `end` take its lock.
///
/// `begin_flush` gives no task while another one of the same log is under way: the kernel tells a write-back error once
/// per open file, so of two fdatasyncs on one descriptor the one that misses it would call lost pages durable.
pub trait Flushable: Send + Sync + 'static {
    fn begin_flush(&self) -> Option<FlushTask>;
    fn end_flush(&self, task: FlushTask, result: io::Result<()>);
}

/// The queue of dirty logs of one disk and the threads that flush them. A log already queued is not queued twice
/// (the caller keeps an atomic flag; see `replica::Partition`), so the queue is bounded by the number of logs.
#[derive(Clone)]
pub struct Flusher {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    logs: VecDeque<Arc<dyn Flushable>>,
    stopped: bool,
}

impl Flusher {
    /// `threads` OS threads (bound: parallel fdatasyncs).
    pub fn start(threads: usize) -> Flusher {
        let shared =
            Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new(), threads: Mutex::new(Vec::new()) });
        let handles = (0..threads.max(1)).map(|i| {
            let shared = shared.clone();
            let thread = thread::Builder::new().name(format!("flusher-{i}")).spawn(move || shared.run());
            thread.expect("the node starts with few threads, far below any limit")
        });
        *shared.threads.lock() = handles.collect();
        Flusher { shared }
    }

    /// After [`Flusher::stop`] this does nothing and answers false: logs are then flushed by their close.
    pub fn enqueue(&self, log: Arc<dyn Flushable>) -> bool {
        let mut queue = self.shared.queue.lock();
        if queue.stopped {
            return false;
        }
        queue.logs.push_back(log);
        drop(queue);
        self.shared.filled.notify_one();
        true
    }

    /// Logs waiting for a thread.
    pub fn queue_length(&self) -> usize {
        self.shared.queue.lock().logs.len()
    }

    /// Flushes what is queued, then ends the threads.
    pub fn stop(&self) {
        self.shared.queue.lock().stopped = true;
        self.shared.filled.notify_all();
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            if thread.thread().id() != thread::current().id() {
                // A panic aborts the process, so a join cannot fail.
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        while let Some(log) = self.next() {
            if let Some(task) = log.begin_flush() {
                let result = task.sync();
                log.end_flush(task, result);
            }
        }
    }

    fn next(&self) -> Option<Arc<dyn Flushable>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(log) = queue.logs.pop_front() {
                return Some(log);
            }
            if queue.stopped {
                return None;
            }
            self.filled.wait(&mut queue);
        }
    }
}

/// The folder above a log's, where the log's own name lives.
pub(super) fn parent_of(folder: &Path) -> Option<PathBuf> {
    folder.parent().map(Path::to_path_buf)
}
