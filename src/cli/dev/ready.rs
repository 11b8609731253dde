//! Waiting until nodes serve.

use super::folder::{ClusterFile, Folder};
use super::process;
use crate::cli::reach;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const LOG_LINES: usize = 40;
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Ready,
    /// These still run, but do not serve yet.
    NotYet(BTreeSet<u16>),
}

/// Waits until all of `nodes` serve, telling each that does; an error if one of them ends.
pub async fn wait(
    folder: &Folder,
    file: &ClusterFile,
    nodes: impl IntoIterator<Item = u16>,
    deadline: Duration,
    mut tell: impl FnMut(u16),
) -> anyhow::Result<Outcome> {
    let until = Instant::now() + deadline;
    let mut waiting: BTreeSet<u16> = nodes.into_iter().collect();
    loop {
        for node in waiting.clone() {
            if process::find(folder, node)?.is_none() {
                anyhow::bail!(
                    "node {node} ended at once; the last lines of {}:\n{}",
                    folder.log(node).display(),
                    folder.log_tail(node, LOG_LINES)
                );
            }
            let address = format!("127.0.0.1:{}", file.ports(node).admin);
            if matches!(reach::probe(&address).await, Ok((_, true))) {
                waiting.remove(&node);
                tell(node);
            }
        }
        if waiting.is_empty() {
            return Ok(Outcome::Ready);
        }
        if Instant::now() >= until {
            return Ok(Outcome::NotYet(waiting));
        }
        sleep(POLL).await;
    }
}
