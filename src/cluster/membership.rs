//! Members of the metadata group: taking learners in, and a wiped controller's way back to its vote.

use super::node::{Node, parse_uuid, stopped};
use super::peers;
use super::proto::{DescribeAnswer, JoinRequest, join_answer::Outcome};
use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::quorum::{QuorumMember, QuorumStatus};
use crate::metadata::raft::types::RaftNodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tonic::Status;

/// How often the controller looks for wiped voters.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A replacement must be called for this many times in a row.
const LOOKS_IN_A_ROW: u32 = 3;
/// A learner this close to the log's end has caught up.
const LAG_MAX: u64 = 100;

/// Takes a node in as a learner. Joining twice is joining once.
pub async fn join(node: &Node, request: JoinRequest) -> Result<Outcome, Status> {
    if !node.leadership().is_controller {
        return Ok(Outcome::NotController(node.not_controller()));
    }
    let joiner =
        RaftNodeId { node: BrokerId(request.node_id), directory: DirectoryId(parse_uuid(&request.directory_id)?) };
    let members = node.quorum.status().members;
    match check_join(&members, &node.quorum.image(), joiner) {
        Admission::Member => return Ok(Outcome::Joined(true)),
        Admission::Refused(why) => return Ok(Outcome::Refused(why)),
        Admission::New => {}
    }
    match node.quorum.add_learner(joiner, request.address.clone()).await {
        Ok(()) => {
            tracing::info!(node = %joiner, address = request.address, "joined as a learner");
            forget_wiped_learners(node, &members, joiner).await;
            Ok(Outcome::Joined(true))
        }
        Err(error) if !node.leadership().is_controller => {
            tracing::info!(node = %joiner, %error, "lost the leadership while a node joined");
            Ok(Outcome::NotController(node.not_controller()))
        }
        Err(error) => Err(Status::unavailable(format!("could not add the node: {error}; it may ask again"))),
    }
}

/// Older folders of the joiner's node id that only learned: nothing of them is left to follow the log.
async fn forget_wiped_learners(node: &Node, members: &[QuorumMember], joiner: RaftNodeId) {
    let wiped = members.iter().filter(|m| !m.voter && m.node.node == joiner.node && m.node != joiner);
    for old in wiped {
        if let Err(error) = node.quorum.remove_learner(old.node).await {
            tracing::warn!(old = %old.node, %error, "could not forget a wiped learner; it costs the log a little");
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Member,
    New,
    Refused(String),
}

/// One node id, one data folder: a second folder is let in only once the broker of the first is not alive.
fn check_join(members: &[QuorumMember], image: &Image, joiner: RaftNodeId) -> Admission {
    if members.iter().any(|m| m.node == joiner) {
        return Admission::Member;
    }
    let alive = image.brokers.get(&joiner.node).filter(|b| !b.fenced && b.registration.directory != joiner.directory);
    match alive {
        Some(broker) => Admission::Refused(format!(
            "node {} runs already with data folder {}: give this node a node.id of its own, or stop the other one",
            joiner.node, broker.registration.directory
        )),
        None => Admission::New,
    }
}

/// Voters to replace by a caught-up learner of the same node id, with the address to ask for each.
fn replacements(status: &QuorumStatus) -> Vec<(QuorumMember, QuorumMember)> {
    let caught_up = |m: &QuorumMember| m.matched.is_some_and(|at| at.0 + LAG_MAX >= status.last_log_index.0);
    let learners = status.members.iter().filter(|m| !m.voter && caught_up(m));
    learners
        .filter_map(|learner| {
            let same_node = |m: &&QuorumMember| m.voter && m.node.node == learner.node.node;
            let voter = status.members.iter().find(same_node)?;
            Some((voter.clone(), learner.clone()))
        })
        .collect()
}

/// Does the answer at the learner's address, and the one at the voter's, call for the replacement?
fn is_replaced(
    old: RaftNodeId,
    new: RaftNodeId,
    at_new: Option<&DescribeAnswer>,
    at_old: Option<&DescribeAnswer>,
) -> bool {
    let is = |answer: Option<&DescribeAnswer>, id: RaftNodeId| {
        answer.is_some_and(|a| a.node_id == id.node.0 && a.directory_id == id.directory.to_string())
    };
    is(at_new, new) && !is(at_old, old)
}

/// While this node is the controller: gives a wiped controller's vote to its new identity, once that has caught up.
///
/// Why this is safe without a person: the change goes through joint consensus, which commits only with a majority of the
/// *old* voters, so it cannot take effect where the remaining voters could not have committed anything anyway; the new
/// identity holds all of the committed log before it votes (a learner within `LAG_MAX` entries, and a voter's
/// vote needs the log's end like any other); and the new identity never voted before, so no vote is given twice. The old
/// identity was in one folder of one node id; it is called gone only while that node answers with the new folder, and
/// nothing answers with the old one. Should the old folder come back, it is no voter any more: it only learns.
pub async fn run(node: Node, mut stop: watch::Receiver<bool>) {
    let mut seen = BTreeMap::<(RaftNodeId, RaftNodeId), u32>::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = tick.tick() => {}
        }
        if !node.leadership().is_controller {
            seen.clear();
            continue;
        }
        let mut still = BTreeMap::new();
        for (old, new) in replacements(&node.quorum.status()) {
            let at_new = peers::describe(&new.address, node.cluster.text()).await.ok();
            let at_old = peers::describe(&old.address, node.cluster.text()).await.ok();
            if is_replaced(old.node, new.node, at_new.as_ref(), at_old.as_ref()) {
                let count = seen.get(&(old.node, new.node)).copied().unwrap_or(0) + 1;
                still.insert((old.node, new.node), count);
            }
        }
        seen = still;
        for ((old, new), _) in seen.iter().filter(|(_, count)| **count >= LOOKS_IN_A_ROW) {
            tracing::warn!(%old, %new, "a controller's folder was wiped; its vote goes to the new folder");
            if let Err(error) = node.quorum.replace_voter(*old, *new).await {
                tracing::warn!(%old, %new, %error, "could not replace the voter; will try again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(node: i32, directory: u128) -> RaftNodeId {
        RaftNodeId { node: BrokerId(node), directory: DirectoryId(Uuid::from_u128(directory)) }
    }

    fn member(node: RaftNodeId, voter: bool, matched: u64) -> QuorumMember {
        QuorumMember { node, address: format!("node-{}:9093", node.node), voter, matched: Some(RaftIndex(matched)) }
    }

    fn answer(id: RaftNodeId) -> DescribeAnswer {
        DescribeAnswer { node_id: id.node.0, directory_id: id.directory.to_string(), ..Default::default() }
    }

    #[test]
    fn a_wiped_voter_is_replaced_only_by_its_caught_up_new_folder() {
        let mut status = QuorumStatus { last_log_index: RaftIndex(1_000), ..Default::default() };
        status.members =
            vec![member(id(1, 1), true, 1_000), member(id(2, 2), true, 500), member(id(3, 3), true, 1_000)];
        status.members.push(member(id(2, 22), false, 800));
        status.members.push(member(id(4, 4), false, 1_000));
        assert!(replacements(&status).is_empty(), "still far behind; node 4 is only a broker");
        status.members[3].matched = Some(RaftIndex(950));
        let found = replacements(&status);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.node, found[0].1.node), (id(2, 2), id(2, 22)));
    }

    #[test]
    fn the_old_folder_must_be_silent_and_the_new_one_must_answer() {
        let (old, new) = (id(2, 2), id(2, 22));
        let (as_old, as_new) = (answer(old), answer(new));
        assert!(is_replaced(old, new, Some(&as_new), Some(&as_new)), "one address, new folder");
        assert!(is_replaced(old, new, Some(&as_new), None));
        assert!(!is_replaced(old, new, Some(&as_new), Some(&as_old)), "the old one lives at its own address");
        assert!(!is_replaced(old, new, Some(&as_old), Some(&as_old)), "the old folder is back");
        assert!(!is_replaced(old, new, None, None), "a node that is away keeps its vote");
    }

    #[test]
    fn joining_twice_is_joining_once() {
        let members = vec![member(id(1, 1), true, 5)];
        assert_eq!(check_join(&members, &Image::default(), id(1, 1)), Admission::Member);
        assert_eq!(check_join(&members, &Image::default(), id(1, 9)), Admission::New);
    }
}
