//! What a node that came back with an empty data folder tells its operator: what is lost, what happens by itself and
//! when, and the command for what does not.

use super::membership::REPLACED_AFTER;
use super::node::{Node, stopped};
use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::quorum::QuorumStatus;
use crate::metadata::raft::types::RaftNodeId;
use crate::platform::clock;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it says that it is not done yet.
const REPORT_EVERY: Duration = Duration::from_secs(15);

/// What the node's id had with another folder, as the controller knew it when this one joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostFolder {
    /// It voted.
    pub voter: Option<DirectoryId>,
    /// It hosted a broker.
    pub broker: Option<DirectoryId>,
}

/// How far a node is with taking the place of its lost folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    votes: bool,
    replicas: usize,
    in_sync: usize,
    /// Replicas of which no other is in sync: nobody to fetch them from.
    stranded: usize,
    /// This folder's broker is registered: before that the image still tells of the lost one.
    registered: bool,
}

impl Progress {
    fn of(me: RaftNodeId, image: &Image, status: &QuorumStatus) -> Progress {
        let mut progress = Progress {
            votes: status.members.iter().any(|m| m.voter && m.node == me),
            registered: image.brokers.get(&me.node).is_some_and(|b| b.registration.directory == me.directory),
            ..Progress::default()
        };
        // All partitions are looked at, but only while a lost folder is refilled.
        for partition in image.topics.values().flat_map(|topic| topic.partitions.iter()) {
            if partition.replicas.contains(&me.node) {
                progress.replicas += 1;
                progress.in_sync += usize::from(partition.isr.contains(&me.node) && partition.leader.is_some());
                progress.stranded += usize::from(partition.leader.is_none());
            }
        }
        progress
    }

    fn is_done(&self, lost: LostFolder) -> bool {
        (self.votes || lost.voter.is_none()) && (self.is_refilled() || lost.broker.is_none())
    }

    fn is_refilled(&self) -> bool {
        self.registered && self.in_sync == self.replicas
    }
}

/// Tells how the folder is lost and what takes its place, until all of it is done.
pub async fn follow(node: Node, lost: LostFolder, mut stop: watch::Receiver<bool>) {
    let id = node.me.node;
    announce(id, lost);
    let (began, mut last_report) = (clock::now(), clock::now());
    let mut before = Progress::default();
    loop {
        let now = Progress::of(node.me, &node.quorum.image(), &node.quorum.status());
        if now.votes && !before.votes && lost.voter.is_some() {
            tracing::info!("this data folder votes now, in place of the lost one");
        }
        if now.is_refilled() && !before.is_refilled() && lost.broker.is_some() {
            let seconds = clock::now().saturating_duration_since(began).as_secs();
            tracing::info!(replicas = now.replicas, seconds, "every replica of this node is in sync again");
        }
        if now.is_done(lost) {
            return;
        }
        if is_due(&mut last_report) {
            report(id, lost, now);
        }
        before = now;
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn announce(id: BrokerId, lost: LostFolder) {
    if let Some(old) = lost.broker {
        tracing::warn!(
            %old,
            "this data folder is empty, and node {id} held its replicas in another one: they are out of sync from now on, \
             and are fetched again from their leaders without anything to be done"
        );
    }
    if let Some(old) = lost.voter {
        tracing::warn!(
            %old,
            "this data folder is empty, and node {id} voted with another one: the vote passes to this folder by itself \
             {REPLACED_AFTER:?} after it has caught up, while a majority of the voters answers and nothing answers with \
             the old folder; `highwater quorum replace {id}` does it at once"
        );
    }
}

fn report(id: BrokerId, lost: LostFolder, now: Progress) {
    if lost.voter.is_some() && !now.votes {
        tracing::warn!(
            "this data folder does not vote yet: `highwater quorum replace {id}` gives it the vote of the lost one, or says \
             what is missing"
        );
    }
    if lost.broker.is_some() && !now.is_refilled() {
        let Progress { replicas, in_sync, stranded, .. } = now;
        tracing::info!(replicas, in_sync, "replicas are fetched again from their leaders");
        if stranded > 0 {
            tracing::warn!(
                stranded,
                "partitions of this node have no leader: the nodes that hold their other replicas must run, or, where this \
                 was the only one, their records are gone with the lost folder"
            );
        }
    }
}

fn is_due(last: &mut Instant) -> bool {
    let now = clock::now();
    let due = now.saturating_duration_since(*last) >= REPORT_EVERY;
    if due {
        *last = now;
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_is_what_was_lost_and_no_more() {
        let folder = Some(DirectoryId::default());
        let (voter, broker) = (LostFolder { voter: folder, broker: None }, LostFolder { voter: None, broker: folder });
        let all = Progress { votes: true, registered: true, replicas: 4, in_sync: 4, stranded: 0 };
        assert!(all.is_done(voter) && all.is_done(broker));
        let no_vote = Progress { votes: false, ..all };
        assert!(!no_vote.is_done(voter) && no_vote.is_done(broker), "a broker has no vote to wait for");
        let behind = Progress { in_sync: 3, ..all };
        assert!(behind.is_done(voter) && !behind.is_done(broker));
        assert!(!Progress { registered: false, ..all }.is_done(broker), "the image still tells of the lost folder");
        assert!(Progress::default().is_done(LostFolder::default()), "nothing was lost");
    }
}
