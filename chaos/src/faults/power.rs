//! The power-cut layer: a library preloaded into the nodes keeps a journal of what is not on disk yet, and after a
//! kill -9 the journal is used to take it back.
//!
//! Rewinding gives the node another boot id, too, so that it knows that its page cache is gone.

use crate::cluster::layout::{Layout, NodeId};
use crate::cluster::node::journal;
use anyhow::Context;
use powercut::{Policy, rewind};
use std::path::PathBuf;

pub trait PowerCut {
    /// Takes back what a killed node had written and not fsync'ed; `seed` chooses what of it stays all the same.
    /// Answers what was done, for the log.
    fn rewind(&self, layout: &Layout, node: NodeId, seed: u64) -> anyhow::Result<String>;
}

/// By the journals that the preloaded library has kept.
pub struct Journals;

impl PowerCut for Journals {
    fn rewind(&self, layout: &Layout, node: NodeId, seed: u64) -> anyhow::Result<String> {
        let policy = if seed.is_multiple_of(2) { Policy::DropAll } else { Policy::Random { seed } };
        let done = rewind(&journal(layout, node), policy).with_context(|| format!("node {node}'s journal"))?;
        let how = if policy == Policy::DropAll { "all" } else { "some" };
        Ok(format!(
            "node {node} lost {how} of {} unsynced writes to {} files, {} names",
            done.unsynced_calls, done.files, done.names
        ))
    }
}

/// The library to preload: as given, else the one beside this executable; `None` if it is not there.
pub fn library(given: Option<&PathBuf>) -> Option<PathBuf> {
    given.cloned().or_else(|| powercut::shim().ok())
}
