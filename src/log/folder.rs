//! The data folder's `partitions/`: one folder per partition, named by topic, partition and topic id.

use super::partition_log::{LogConfig, PartitionLog};
use crate::ids::*;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Damaged { path: PathBuf, reason: String },
}

/// A partition folder found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: TopicPartition,
    pub path: PathBuf,
}

/// Bound: open files are held in a shared least-recently-used set.
#[derive(Clone)]
pub struct LogFolder {}

impl LogFolder {
    /// Opens `path`/partitions, creating it if need be. `clean` tells that the last stop was clean: then logs open
    /// without recovery.
    pub fn open(path: &Path, clean: bool) -> Result<LogFolder, FolderError> {
        let _ = (path, clean);
        todo!()
    }
    pub fn found(&self) -> Result<Vec<Found>, FolderError> {
        todo!()
    }
    /// Opens or creates one partition's log, recovering it if the last stop was not clean.
    pub fn log(&self, id: TopicPartition, topic: &str, config: LogConfig) -> Result<PartitionLog, FolderError> {
        let _ = (id, topic, config);
        todo!()
    }
    /// Sets a folder aside (renamed to `….deleted`) and removes it later, off the caller's thread.
    pub fn delete(&self, id: TopicPartition) -> Result<(), FolderError> {
        let _ = id;
        todo!()
    }
    /// The high-watermark checkpoint: what this node knew before it stopped.
    pub fn load_high_watermarks(&self) -> Result<std::collections::BTreeMap<TopicPartition, Offset>, FolderError> {
        todo!()
    }
    pub fn store_high_watermarks(
        &self,
        marks: &std::collections::BTreeMap<TopicPartition, Offset>,
    ) -> Result<(), FolderError> {
        let _ = marks;
        todo!()
    }
}
