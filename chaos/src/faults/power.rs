//! The power-cut layer: a library preloaded into the nodes keeps a journal of what is not on disk yet, and after a
//! kill -9 the journal is used to take it back.
//!
//! A control file that the library reads makes a node's disk fail.
//!
//! Rewinding gives the node another boot id, too, so that it knows that its page cache is gone.

use super::plan::Calls;
use crate::cluster::layout::{Layout, NodeId};
use crate::cluster::node::journal;
use anyhow::{Context, bail};
use powercut::{Fault, Policy, lose, rewind, root_of, set_faults};
use std::io;
use std::path::{Path, PathBuf};

pub trait PowerCut {
    /// Takes back what a killed node had written and not fsync'ed; `seed` chooses what of it stays all the same.
    /// Answers what was done, for the log.
    fn rewind(&self, layout: &Layout, node: NodeId, seed: u64) -> anyhow::Result<String>;

    /// Takes the unsynced content of a node away whose disk failed, in the same boot, and takes the rest for durable; `seed`
    /// chooses what of it stays all the same. A broker that passed over an error has then acked what is not there.
    fn lose(&self, layout: &Layout, node: NodeId, seed: u64) -> anyhow::Result<()>;

    /// From now on these calls on the node's data folder fail with EIO; `None`: none does.
    fn break_disk(&self, layout: &Layout, node: NodeId, calls: Option<Calls>) -> anyhow::Result<()>;
}

/// By the journals that the preloaded library has kept.
pub struct Journals;

impl PowerCut for Journals {
    fn rewind(&self, layout: &Layout, node: NodeId, seed: u64) -> anyhow::Result<String> {
        let policy = policy(seed);
        let journal = journal(layout, node);
        if !has_begun(&journal) {
            return Ok(format!("node {node} had not begun to write"));
        }
        let done = rewind(&journal, policy).with_context(|| format!("node {node}'s journal"))?;
        let how = if policy == Policy::DropAll { "all" } else { "some" };
        Ok(format!(
            "node {node} lost {how} of {} unsynced writes to {} files, {} names",
            done.unsynced_calls, done.files, done.names
        ))
    }

    fn lose(&self, layout: &Layout, node: NodeId, seed: u64) -> anyhow::Result<()> {
        let journal = journal(layout, node);
        if !has_begun(&journal) {
            return Ok(());
        }
        lose(&journal, policy(seed)).map(drop).with_context(|| format!("node {node}'s journal"))
    }

    fn break_disk(&self, layout: &Layout, node: NodeId, calls: Option<Calls>) -> anyhow::Result<()> {
        let journal = journal(layout, node);
        set_faults(&journal, &eio(layout, node, calls)).with_context(|| journal.display().to_string())
    }
}

/// The loader passes over a library that it cannot load.
pub fn ensure_recording(layout: &Layout) -> anyhow::Result<()> {
    match layout.ids().find(|node| !has_begun(&journal(layout, *node))) {
        Some(node) => {
            bail!("node {node} runs without the power-cut layer: is the library of --powercut this machine's?")
        }
        None => Ok(()),
    }
}

/// Not so if the node was killed before it had opened its journal: then all that it has is durable.
fn has_begun(journal: &Path) -> bool {
    !root_of(journal).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn policy(seed: u64) -> Policy {
    if seed.is_multiple_of(2) { Policy::DropAll } else { Policy::Random { seed } }
}

fn eio(layout: &Layout, node: NodeId, calls: Option<Calls>) -> Vec<Fault> {
    let below = layout.data(node);
    let writes = Fault::Write { below: below.clone() };
    let syncs = Fault::Sync { below };
    match calls {
        None => Vec::new(),
        Some(Calls::Writes) => vec![writes],
        Some(Calls::Syncs) => vec![syncs],
        Some(Calls::Both) => vec![writes, syncs],
    }
}

/// The library to preload: as given, else the one beside this executable; `None` if it is not there.
pub fn library(given: Option<&PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    match given {
        // The loader knows nothing of the folder that this program runs in.
        Some(path) => Ok(Some(std::fs::canonicalize(path).with_context(|| path.display().to_string())?)),
        None => Ok(powercut::shim().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_from_wherever_the_nodes_run() {
        let given = library(Some(&PathBuf::from("src/main.rs"))).expect("it is there").expect("given");
        assert!(given.is_absolute() && given.ends_with("chaos/src/main.rs"), "{}", given.display());
        let missing = library(Some(&PathBuf::from("no/such.so"))).expect_err("it is not there");
        assert!(missing.to_string().contains("no/such.so"), "{missing}");
    }

    #[test]
    fn a_node_that_wrote_nothing_yet_loses_nothing() {
        let folder = std::env::temp_dir().join(format!("chaos-power-{}", std::process::id()));
        let layout = Layout { nodes: 1, network_of: None, keep: folder.clone(), folder };
        assert!(Journals.rewind(&layout, 1, 3).expect("not an error").contains("not begun"));
        Journals.lose(&layout, 1, 3).expect("not an error");
        assert!(ensure_recording(&layout).is_err_and(|error| error.to_string().contains("node 1")));
    }
}
