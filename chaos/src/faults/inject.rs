//! Does to the cluster what the plan says, and takes it back.

use super::plan::{Calls, Fault};
use super::power::PowerCut;
use crate::admin::Admin;
use crate::admin::proto::{DescribeClusterResponse, Liveness, QuorumMember};
use crate::chance::Chance;
use crate::cluster::cli::Cli;
use crate::cluster::disk::{self, Damage};
use crate::cluster::layout::NodeId;
use crate::cluster::network::Cuts;
use crate::cluster::nodes::Nodes;
use crate::history::Place;
use crate::workload::progress::Progress;
use crate::workload::topics::{Places, REPLICAS};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Before data is taken all replicas must be in sync; if they are not by then, the fault is left out.
const IN_SYNC_WITHIN: Duration = Duration::from_secs(25);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const ASK: Duration = Duration::from_millis(1_000);
/// A node whose disk fails writes something long before; see the load's rate.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// A node that was wiped a moment ago and finds no room to begin again may say so and end.
const MEMBER_WITHIN: Duration = Duration::from_secs(5);
/// Undoing what an operator did is tried again for so long.
const UNDO_WITHIN: Duration = Duration::from_secs(30);

pub struct World {
    pub nodes: Nodes,
    pub admin: Admin,
    pub cli: Cli,
    pub places: Places,
    pub power: Option<Box<dyn PowerCut>>,
    pub chance: Chance,
    /// The power of all nodes was cut at once.
    pub page_cache_lost: bool,
    progress: Arc<Progress>,
    drained: BTreeSet<NodeId>,
    removed: BTreeSet<NodeId>,
    /// Have fewer replicas than they should; those they have.
    reduced: BTreeMap<usize, Vec<NodeId>>,
    /// Their disks fail: they are to end by themselves.
    broken: BTreeSet<NodeId>,
    /// Started with empty folders, and the folders that voted before: their votes are to be passed on.
    replaced: BTreeMap<NodeId, Option<String>>,
}

/// What became of a fault that was to begin.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// With what there is to say about it.
    Done(String),
    /// Why not.
    LeftOut(String),
}

impl World {
    pub fn new(
        nodes: Nodes,
        admin: Admin,
        cli: Cli,
        power: Option<Box<dyn PowerCut>>,
        chance: Chance,
        progress: Arc<Progress>,
    ) -> World {
        let (drained, removed, reduced) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        let (broken, replaced) = (BTreeSet::new(), BTreeMap::new());
        World {
            nodes,
            admin,
            cli,
            places: Places::new(),
            power,
            chance,
            page_cache_lost: false,
            progress,
            drained,
            removed,
            reduced,
            broken,
            replaced,
        }
    }

    pub fn begin(&mut self, fault: &Fault) -> anyhow::Result<Begun> {
        if fault.kind().takes_data() && !self.in_sync_within(IN_SYNC_WITHIN) {
            return Ok(Begun::LeftOut("the replicas did not get in sync".to_string()));
        }
        let done = match fault {
            Fault::Kill(node) => self.nodes.kill(*node).map(|()| String::new())?,
            Fault::Term(node) => self.nodes.ask_to_stop(*node).map(|()| String::new())?,
            Fault::Pause(node) => self.nodes.pause(*node).map(|()| String::new())?,
            Fault::Cut(_, cuts) => self.nodes.cut(cuts).map(|()| String::new())?,
            Fault::KillAll => self.kill_all().map(|()| String::new())?,
            Fault::DiskFull(node) if !self.is_member_within(*node, MEMBER_WITHIN) => {
                return Ok(Begun::LeftOut(format!("node {node} has no data folder of the cluster's yet")));
            }
            Fault::DiskFull(node) => disk::fill(&self.nodes.layout, *node).map(|()| String::new())?,
            Fault::Truncate(node) => self.damage(*node, Damage::Truncate)?,
            Fault::Flip(node) => self.damage(*node, Damage::Flip)?,
            Fault::Wipe(node) => {
                self.nodes.kill(*node)?;
                disk::wipe(&self.nodes.layout, *node).map(|()| String::new())?
            }
            Fault::DiskError(node, calls) => {
                self.broken.insert(*node);
                self.break_disk(*node, Some(*calls)).map(|()| String::new())?
            }
            Fault::PowerCut(node) => self.cut_power(&[*node])?,
            Fault::PowerCutAll => {
                self.page_cache_lost = true;
                self.progress.no_page_cache.store(true, Ordering::Relaxed);
                let all: Vec<NodeId> = self.nodes.layout.ids().collect();
                self.cut_power(&all)?
            }
            Fault::HangMember => {
                self.progress.hung.store(true, Ordering::Relaxed);
                String::new()
            }
            Fault::Drain(node) => {
                self.drained.insert(*node);
                return Ok(asked(self.cli.drain(*node)));
            }
            Fault::Reassign { place, replicas } => {
                let place = self.used_place(*place);
                if replicas.len() < REPLICAS {
                    self.reduced.insert(place, replicas.clone());
                }
                let name = &self.places.names[place];
                return Ok(asked(self.cli.reassign(&name.topic, name.partition, replicas)));
            }
            Fault::Quorum(node) => {
                self.removed.insert(*node);
                return Ok(asked(self.cli.quorum_remove(*node)));
            }
        };
        Ok(Begun::Done(done))
    }

    /// Answers what there is to complain about.
    pub fn end(&mut self, fault: &Fault) -> anyhow::Result<Option<String>> {
        match fault {
            Fault::Term(node) => {
                let clean = self.nodes.stopped(*node)?;
                self.nodes.start_node(*node)?;
                return Ok((!clean).then(|| format!("node {node} was told to stop, and did not stop cleanly")));
            }
            Fault::DiskError(node, _) => return self.replace_disk(*node),
            Fault::Pause(node) => self.nodes.resume(*node)?,
            Fault::Cut(..) => self.nodes.cut(&Cuts::new())?,
            Fault::DiskFull(node) => disk::free(&self.nodes.layout, *node)?,
            Fault::KillAll | Fault::PowerCutAll => {
                for node in self.nodes.layout.ids() {
                    self.nodes.start_node(node)?;
                }
                if *fault == Fault::PowerCutAll {
                    return Ok(self.delete_page_cache_topics());
                }
            }
            Fault::Kill(node)
            | Fault::Truncate(node)
            | Fault::Flip(node)
            | Fault::Wipe(node)
            | Fault::PowerCut(node) => self.nodes.start_node(*node)?,
            // Others may be down just now: what is refused is undone at the end of the round.
            Fault::Drain(_) | Fault::Quorum(_) => drop(self.try_undo()),
            Fault::HangMember => self.progress.hung.store(false, Ordering::Relaxed),
            Fault::Reassign { place, .. } => drop(self.make_up(self.used_place(*place))),
        }
        Ok(None)
    }

    /// Everything as it should be.
    pub fn heal(&mut self) -> anyhow::Result<Option<String>> {
        for node in self.broken.clone() {
            if let Some(complaint) = self.replace_disk(node)? {
                return Ok(Some(complaint));
            }
        }
        self.nodes.heal()?;
        Ok(self.undo_operator())
    }

    /// Still sent to and read back.
    pub fn is_used(&self, place: Place) -> bool {
        !(self.page_cache_lost && self.places.names[usize::from(place)].page_cache)
    }

    /// This one or, where its topic had to be deleted, the next that is used.
    fn used_place(&self, place: usize) -> usize {
        let used = |place: &usize| Place::try_from(*place).is_ok_and(|place| self.is_used(place));
        (place..self.places.names.len()).chain(0..place).find(used).unwrap_or(place)
    }

    /// After the power of all no replica is known to have all that was acked, so these topics rightly stay without a
    /// leader until a person gives them up.
    fn delete_page_cache_topics(&mut self) -> Option<String> {
        let until = Instant::now() + UNDO_WITHIN;
        let mut left: BTreeSet<String> =
            self.places.names.iter().filter(|name| name.page_cache).map(|name| name.topic.clone()).collect();
        while Instant::now() < until {
            left.retain(|topic| !self.nodes.layout.ids().any(|node| self.admin.delete(node, topic, ASK)));
            if left.is_empty() {
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Some(format!("{UNDO_WITHIN:?} after the power came back these topics cannot be deleted: {left:?}"))
    }

    fn kill_all(&mut self) -> anyhow::Result<()> {
        self.nodes.layout.ids().try_for_each(|node| self.nodes.kill(node))
    }

    fn damage(&mut self, node: NodeId, how: Damage) -> anyhow::Result<String> {
        self.nodes.kill(node)?;
        Ok(disk::damage(&self.nodes.layout, node, how, &mut self.chance)?.join(", "))
    }

    fn cut_power(&mut self, nodes: &[NodeId]) -> anyhow::Result<String> {
        for node in nodes {
            self.nodes.kill(*node)?;
        }
        let Some(power) = &self.power else { return Ok("no power-cut layer".to_string()) };
        let mut told = Vec::new();
        for node in nodes {
            let seed = self.chance.next();
            told.push(power.rewind(&self.nodes.layout, *node, seed)?);
        }
        Ok(told.join("; "))
    }

    /// Its disk fails, so it ends by itself, and is not to be started before that is mended.
    pub fn is_broken(&self, node: NodeId) -> bool {
        self.broken.contains(&node)
    }

    fn break_disk(&mut self, node: NodeId, calls: Option<Calls>) -> anyhow::Result<()> {
        match &self.power {
            Some(power) => power.break_disk(&self.nodes.layout, node, calls),
            None => Ok(()),
        }
    }

    /// The data folder that a node votes with, as far as anybody else knows.
    fn voting_folder(&self, node: NodeId) -> Option<String> {
        let others = self.nodes.layout.ids().filter(|other| *other != node);
        let mut told = others.filter_map(|other| self.admin.describe(other, false, ASK));
        let voter = |m: &&QuorumMember| m.voter && m.node == i32::from(node);
        told.find_map(|answer| answer.quorum.iter().find(voter).map(|m| m.directory_id.clone()))
    }

    /// As an operator does: the node has ended, its disk is replaced or well again, and it is started. One that may have
    /// lost metadata must refuse; then its message is followed.
    fn replace_disk(&mut self, node: NodeId) -> anyhow::Result<Option<String>> {
        let ended = self.nodes.failed_within(node, ENDS_WITHIN)?;
        self.nodes.kill(node)?;
        self.break_disk(node, None)?;
        let is_lossy = disk::has_lossy_metadata(&self.nodes.layout, node);
        if let Some(power) = &self.power {
            power.lose(&self.nodes.layout, node, self.chance.next())?;
        }
        self.nodes.start_node(node)?;
        let mut complaint = (!ended).then(|| format!("the disk of node {node} failed, and it did not end"));
        if is_lossy {
            if !self.nodes.failed_within(node, ENDS_WITHIN)? {
                complaint = Some(format!("node {node} serves with metadata that its disk may not have"));
            }
            self.nodes.kill(node)?;
            let voted = self.voting_folder(node);
            disk::wipe(&self.nodes.layout, node)?;
            self.nodes.start_node(node)?;
            self.replaced.insert(node, voted);
        }
        self.broken.remove(&node);
        Ok(complaint)
    }

    /// Drained brokers back, removed voters and replicas back; or what there is to complain about.
    pub fn undo_operator(&mut self) -> Option<String> {
        let until = Instant::now() + UNDO_WITHIN;
        loop {
            let refused = self.try_undo();
            if refused.is_none() || Instant::now() >= until {
                return refused;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn try_undo(&mut self) -> Option<String> {
        let (drained, removed) = (self.drained.clone(), self.removed.clone());
        let mut refused = None;
        for (node, voted) in self.replaced.clone() {
            let asked = self.cli.quorum_replace(node);
            // It passes by itself, too, if a little later.
            match asked {
                Err(error) if self.voting_folder(node).is_none_or(|folder| Some(folder) == voted) => {
                    refused = Some(format!("quorum replace {node}: {error:#}"));
                }
                _ => drop(self.replaced.remove(&node)),
            }
        }
        for node in drained {
            match self.cli.undrain(node) {
                Ok(_) => drop(self.drained.remove(&node)),
                Err(error) => refused = Some(format!("undrain {node}: {error:#}")),
            }
        }
        for node in removed {
            match self.cli.quorum_add(node) {
                Ok(_) => drop(self.removed.remove(&node)),
                Err(error) => refused = Some(format!("quorum add {node}: {error:#}")),
            }
        }
        for place in self.reduced.keys().copied().collect::<Vec<_>>() {
            refused = self.make_up(place).or(refused);
        }
        refused
    }

    /// A partition of which a replica was removed gets all of them again, the missing ones last; or why not.
    fn make_up(&mut self, place: usize) -> Option<String> {
        let mut replicas = self.reduced.get(&place)?.clone();
        let name = &self.places.names[place];
        if !(self.page_cache_lost && name.page_cache) {
            let missing: Vec<NodeId> = self.nodes.layout.ids().filter(|node| !replicas.contains(node)).collect();
            replicas.extend(missing.iter().take(REPLICAS - replicas.len()));
            if let Err(error) = self.cli.reassign(&name.topic, name.partition, &replicas) {
                return Some(format!("topic reassign {name} to {replicas:?}: {error:#}"));
            }
        }
        self.reduced.remove(&place);
        None
    }

    fn is_member_within(&self, node: NodeId, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        loop {
            if disk::is_member(&self.nodes.layout, node) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub fn in_sync_within(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        loop {
            if self.out_of_sync().is_none() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What each node knows now, for a complaint: who controls, in which term, how far its metadata is, what has no leader.
    pub fn standing(&self) -> String {
        let told = self.nodes.layout.ids().map(|node| match self.admin.describe(node, false, ASK) {
            Some(answer) => format!("node {node} {}", knows(&answer)),
            None => format!("node {node} does not answer"),
        });
        told.collect::<Vec<_>>().join("; ")
    }

    /// `None` once every node sees every partition led, with all its replicas in sync.
    pub fn out_of_sync(&self) -> Option<String> {
        for node in self.nodes.layout.ids() {
            let Some(answer) = self.admin.describe(node, false, ASK) else {
                return Some(format!("node {node} does not answer"));
            };
            let partitions = answer.partitions.unwrap_or_default();
            let brokers = answer.nodes.iter().filter(|node| node.broker).count();
            if brokers < usize::from(self.nodes.layout.nodes)
                || answer.nodes.iter().any(|node| node.broker && node.liveness() != Liveness::Alive)
            {
                return Some(format!("node {node} does not see all brokers alive"));
            }
            // A wiped controller votes again only under its new identity: without that, another one wiped takes the
            // majority's metadata away for good.
            let lives =
                |m: &&QuorumMember| answer.nodes.iter().any(|n| n.id == m.node && n.directory_id == m.directory_id);
            if let Some(lost) = answer.quorum.iter().filter(|m| m.voter).find(|m| !lives(m)) {
                return Some(format!("node {node} sees a vote of node {}'s folder that is gone", lost.node));
            }
            let voters = answer.quorum.iter().filter(|m| m.voter).count();
            if voters < usize::from(self.nodes.layout.voters()) {
                return Some(format!("node {node} sees {voters} nodes that vote, and one more is to"));
            }
            if partitions.without_leader + partitions.under_replicated > 0 {
                return Some(format!(
                    "node {node} sees {} of {} partitions without a leader, {} not fully in sync",
                    partitions.without_leader, partitions.total, partitions.under_replicated
                ));
            }
        }
        None
    }
}

fn knows(answer: &DescribeClusterResponse) -> String {
    let controller = answer.controller.map_or("none".to_string(), |node| node.to_string());
    let partitions = answer.partitions.unwrap_or_default();
    let alive = answer.nodes.iter().filter(|node| node.broker && node.liveness() == Liveness::Alive).count();
    format!(
        "knows: controller {controller} in term {}, {} of {} committed entries applied, {alive} brokers alive, {} of {} \
         partitions without a leader, {} not fully in sync",
        answer.term,
        answer.applied_index,
        answer.commit_index,
        partitions.without_leader,
        partitions.total,
        partitions.under_replicated
    )
}

/// An operator's command that is refused is nothing wrong: the cluster may be busy with something else.
fn asked(result: anyhow::Result<String>) -> Begun {
    match result {
        Ok(told) => Begun::Done(told.lines().last().unwrap_or_default().trim().to_string()),
        Err(error) => Begun::LeftOut(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::proto::PartitionCounts;

    #[test]
    fn a_complaint_says_what_a_node_knows() {
        let partitions = PartitionCounts { total: 12, without_leader: 4, under_replicated: 7, ..Default::default() };
        let answer = DescribeClusterResponse {
            term: 9,
            applied_index: 40,
            commit_index: 41,
            partitions: Some(partitions),
            ..Default::default()
        };
        assert_eq!(
            knows(&answer),
            "knows: controller none in term 9, 40 of 41 committed entries applied, 0 brokers alive, 4 of 12 partitions \
             without a leader, 7 not fully in sync"
        );
        assert!(knows(&DescribeClusterResponse { controller: Some(2), ..answer }).contains("controller 2 in term 9"));
    }
}
