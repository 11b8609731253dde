//! Flushing several followed logs at once, and waiting for the last.

use super::partition::Partition;
use crate::log::flush::{FlushTask, Flushable, Flusher};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Hands each log to the flusher, which syncs them in parallel, and returns when it is through with all of them. How it
/// went shows in the logs' durable ends.
pub(super) async fn sync_all(flusher: &Flusher, partitions: Vec<Arc<Partition>>) {
    // Nothing is sent: the channel closes with the last of its senders.
    let (open, mut closed) = mpsc::channel::<()>(1);
    for partition in partitions {
        flusher.enqueue(Arc::new(Awaited { partition, open: Mutex::new(Some(open.clone())) }));
    }
    drop(open);
    let _ = closed.recv().await;
}

/// A log in the flusher's queue whose flush is waited for. A flusher that stops drops it, which ends the wait too.
struct Awaited {
    partition: Arc<Partition>,
    open: Mutex<Option<mpsc::Sender<()>>>,
}

impl Flushable for Awaited {
    fn begin_flush(&self) -> Option<FlushTask> {
        let task = self.partition.begin_flush();
        if task.is_none() {
            self.open.lock().take();
        }
        task
    }

    fn end_flush(&self, task: FlushTask, result: io::Result<()>) {
        self.partition.end_flush(task, result);
        self.open.lock().take();
    }
}
