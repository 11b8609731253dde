//! The seam to the power-cut layer: a library preloaded into the nodes keeps a journal of what is not on disk yet, and
//! after a kill -9 the journal is used to take it back.

use crate::cluster::layout::{Layout, NodeId};

pub trait PowerCut {
    /// Takes back what a killed node had written and not fsync'ed; `seed` chooses what of it stays all the same.
    /// Answers what was done, for the log.
    fn rewind(&self, layout: &Layout, node: NodeId, seed: u64) -> anyhow::Result<String>;
}
