//! Opening logs beside everything else: recovery may take long, and leader changes of other partitions must not wait.

use super::node::Node;
use super::partition::Partition;
use super::role::log_config;
use crate::config::topic::TopicConfig;
use crate::ids::*;
use crate::log::folder::{FolderError, LogFolder};
use crate::platform::clock;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

/// Logs opened (and recovered) at the same time.
const OPENING_MAX: usize = 8;

pub(super) struct Job {
    pub id: TopicPartition,
    pub topic: Arc<str>,
    pub config: Arc<TopicConfig>,
    /// The high watermark of the last checkpoint.
    pub known: Offset,
}

pub(super) struct Opened {
    pub id: TopicPartition,
    pub outcome: Result<Arc<Partition>, OpenError>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the opening broke off: {0}")]
    BrokenOff(#[from] JoinError),
}

impl OpenError {
    /// Opening it again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            OpenError::Folder(error) => error.is_passing(),
            OpenError::BrokenOff(_) => true,
        }
    }
}

/// Bound: each partition is opened once at a time; the caller sees to it.
pub(super) struct Opener {
    node: Arc<Node>,
    folder: LogFolder,
    permits: Arc<Semaphore>,
    tasks: JoinSet<()>,
    done: mpsc::UnboundedSender<Opened>,
    opened: mpsc::UnboundedReceiver<Opened>,
}

impl Opener {
    pub fn new(node: Arc<Node>, folder: LogFolder) -> Opener {
        let (done, opened) = mpsc::unbounded_channel();
        Opener { node, folder, permits: Arc::new(Semaphore::new(OPENING_MAX)), tasks: JoinSet::new(), done, opened }
    }

    pub fn open(&mut self, job: Job) {
        while self.tasks.try_join_next().is_some() {}
        let (node, folder, permits, done) =
            (self.node.clone(), self.folder.clone(), self.permits.clone(), self.done.clone());
        self.tasks.spawn(async move {
            let Ok(permit) = permits.acquire_owned().await else { return };
            let id = job.id;
            let opened = tokio::task::spawn_blocking(move || {
                let outcome = open_one(node, &folder, &job);
                drop(permit);
                outcome
            });
            let outcome = opened.await.unwrap_or_else(|error| Err(error.into()));
            // Nobody receives once the node stops.
            let _ = done.send(Opened { id, outcome });
        });
    }

    /// Waits for at least one. Safe to cancel.
    pub async fn opened(&mut self, most: usize) -> Vec<Opened> {
        let mut batch = Vec::new();
        // Never 0: this struct holds a sender itself.
        self.opened.recv_many(&mut batch, most).await;
        batch
    }

    pub async fn stop(&mut self) {
        self.permits.close();
        while self.tasks.join_next().await.is_some() {}
        // Opened and not adopted: closed here, so that a clean stop is clean for these too.
        while let Ok(opened) = self.opened.try_recv() {
            if let Ok(partition) = opened.outcome
                && let (_, Err(error)) = partition.stop(true)
            {
                tracing::error!(?partition, %error, "a log did not close cleanly");
            }
        }
    }
}

/// Opens, and takes up the role that the newest image gives: a new leader writes its epoch down here, not in the one task
/// that follows the image.
fn open_one(node: Arc<Node>, folder: &LogFolder, job: &Job) -> Result<Arc<Partition>, OpenError> {
    let log = folder.log(job.id, &job.topic, log_config(&job.config))?;
    let image = node.image.load_full();
    let partition = Partition::new(node, job.id, job.topic.clone(), log, job.known, &job.config);
    partition.apply(&image, clock::now());
    partition.mind_opened(job.known);
    Ok(partition)
}
