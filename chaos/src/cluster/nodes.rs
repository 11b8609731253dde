//! All nodes of the run, and what is done to them.

use super::disk;
use super::layout::{Layout, NodeId};
use super::network::{self, Cuts};
use super::node::{Launch, Node};
use super::threads;
use std::time::Duration;

/// Longer than a clean stop may take by itself.
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// Of a log, shown when its node has ended by itself.
const LAST_LINES: usize = 15;

pub struct Nodes {
    pub layout: Layout,
    launch: Launch,
    nodes: Vec<Node>,
}

impl Nodes {
    /// Starts them all. Must be called on the main thread, see [`Node::start`].
    pub fn start(
        layout: Layout,
        launch: Launch,
        small_disks: &[NodeId],
        small_disk_bytes: u64,
    ) -> anyhow::Result<Nodes> {
        for id in layout.ids() {
            if small_disks.contains(&id) {
                disk::make_small(&layout, id, small_disk_bytes)?;
            }
            layout.write_config(id)?;
        }
        let mut nodes = Nodes { nodes: layout.ids().map(Node::new).collect(), layout, launch };
        for id in nodes.layout.ids() {
            nodes.start_node(id)?;
        }
        Ok(nodes)
    }

    /// What all of them are doing, and the machine.
    pub fn threads(&self) -> String {
        let of = |node: &Node| format!("node {}\n{}", node.id, node.pid().map(threads::of_process).unwrap_or_default());
        let told: Vec<String> = self.nodes.iter().map(of).collect();
        format!("{}\n{}\n", told.join("\n"), threads::of_machine())
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(id) - 1]
    }

    pub fn start_node(&mut self, id: NodeId) -> anyhow::Result<()> {
        let Nodes { layout, launch, nodes } = self;
        let node = &mut nodes[usize::from(id) - 1];
        if node.is_started() { Ok(()) } else { node.start(layout, launch) }
    }

    pub fn kill(&mut self, id: NodeId) -> anyhow::Result<()> {
        self.node(id).kill()
    }

    pub fn pause(&mut self, id: NodeId) -> anyhow::Result<()> {
        self.node(id).pause()
    }

    pub fn resume(&mut self, id: NodeId) -> anyhow::Result<()> {
        self.node(id).resume()
    }

    pub fn ask_to_stop(&mut self, id: NodeId) -> anyhow::Result<()> {
        self.node(id).ask_to_stop()
    }

    /// After [`Nodes::ask_to_stop`]; whether it stopped cleanly.
    pub fn stopped(&mut self, id: NodeId) -> anyhow::Result<bool> {
        self.node(id).stopped(STOP_WITHIN)
    }

    /// Whether it ended by itself in time, and not as if all were well.
    pub fn failed_within(&mut self, id: NodeId, deadline: Duration) -> anyhow::Result<bool> {
        Ok(self.node(id).ended_within(deadline)? == Some(false))
    }

    pub fn cut(&self, cuts: &Cuts) -> anyhow::Result<()> {
        network::apply(&self.layout, cuts)
    }

    /// Everything back as it should be, whatever was done.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        self.cut(&Cuts::new())?;
        for id in self.layout.ids() {
            disk::free(&self.layout, id)?;
            if self.node(id).is_paused() {
                self.resume(id)?;
            }
            self.start_node(id)?;
        }
        Ok(())
    }

    /// Nodes that ended though nobody asked them to: (node, how, the last lines of its log).
    pub fn ended(&mut self) -> Vec<(NodeId, String)> {
        let mut found = Vec::new();
        for node in &mut self.nodes {
            if let Some(status) = node.ended() {
                let text = std::fs::read_to_string(self.layout.log(node.id)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n    ");
                found.push((node.id, format!("node {} ended by itself ({status}); its log:\n    {last}", node.id)));
            }
        }
        found
    }

    /// A clean stop of all; answers those that did not stop cleanly.
    pub fn stop_all(&mut self) -> anyhow::Result<Vec<NodeId>> {
        for id in self.layout.ids() {
            self.ask_to_stop(id)?;
        }
        let mut unclean = Vec::new();
        for id in self.layout.ids() {
            if !self.stopped(id)? {
                unclean.push(id);
            }
        }
        Ok(unclean)
    }
}
