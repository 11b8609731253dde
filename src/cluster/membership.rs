//! Members of the metadata group: taking learners in, and a wiped controller's way back to its vote.

use super::handover;
use super::node::{Node, parse_uuid, stopped};
use super::peers;
use super::proto::{DescribeAnswer, JoinAnswer, JoinRequest, join_answer::Outcome};
use super::sessions::Sessions;
use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::quorum::{QuorumMember, QuorumStatus};
use crate::metadata::raft::types::RaftNodeId;
use crate::metadata::voters::is_caught_up;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tonic::Status;

/// How often the controller looks for wiped voters.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A replacement must be called for this many times in a row.
const LOOKS_IN_A_ROW: u32 = 3;
/// After so long of being caught up a wiped controller's new folder votes.
pub const REPLACED_AFTER: Duration = LOOK_EVERY.saturating_mul(LOOKS_IN_A_ROW);

/// Takes a node in as a learner, or notes where a member is reached now. Joining twice is joining once.
pub async fn join(node: &Node, sessions: &Sessions, request: JoinRequest) -> Result<JoinAnswer, Status> {
    let joiner =
        RaftNodeId { node: BrokerId(request.node_id), directory: DirectoryId(parse_uuid(&request.directory_id)?) };
    // Looked at before anything changes: what the node's id had until now.
    let (lost_voter, lost_broker) = lost_folders(&node.quorum.status().members, &node.quorum.image(), joiner);
    let text = |directory: Option<DirectoryId>| directory.map(|id| id.to_string()).unwrap_or_default();
    let outcome = take_in(node, sessions, request, joiner).await?;
    Ok(JoinAnswer {
        cluster_id: node.cluster.text(),
        outcome: Some(outcome),
        lost_voter_directory: text(lost_voter),
        lost_broker_directory: text(lost_broker),
    })
}

/// Other folders with which the joiner's node id votes, and was last registered.
fn lost_folders(
    members: &[QuorumMember],
    image: &Image,
    joiner: RaftNodeId,
) -> (Option<DirectoryId>, Option<DirectoryId>) {
    let other = |directory: &DirectoryId| *directory != joiner.directory;
    let voter = members.iter().filter(|m| m.voter && m.node.node == joiner.node).map(|m| m.node.directory);
    let broker = image.brokers.get(&joiner.node).map(|b| b.registration.directory);
    (voter.into_iter().find(other), broker.filter(other))
}

async fn take_in(
    node: &Node,
    sessions: &Sessions,
    request: JoinRequest,
    joiner: RaftNodeId,
) -> Result<Outcome, Status> {
    if !node.leadership().is_controller {
        return Ok(Outcome::NotController(node.not_controller()));
    }
    let answers = sessions.answers(joiner.node).await;
    let members = node.quorum.status().members;
    match check_join(&members, &node.quorum.image(), joiner, answers) {
        Admission::Member => return follow_address(node, &members, joiner, request.address).await,
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

/// A member that is reached elsewhere than the log says, once it answers there.
async fn follow_address(
    node: &Node,
    members: &[QuorumMember],
    member: RaftNodeId,
    address: String,
) -> Result<Outcome, Status> {
    if address.is_empty() || members.iter().any(|m| m.node == member && m.address == address) {
        return Ok(Outcome::Joined(true));
    }
    let answer = peers::describe(&address, node.cluster.text()).await;
    if !answer.as_ref().is_ok_and(|answer| is_from(answer, member)) {
        let why =
            answer.map_or_else(|status| status.message().to_string(), |_| "another node answers there".to_string());
        return Ok(Outcome::Refused(format!(
            "the controller does not reach {member} at {address} ({why}): correct the advertised address of its cluster \
             listener"
        )));
    }
    match node.quorum.set_address(member, address.clone()).await {
        Ok(()) => {
            tracing::info!(node = %member, address, "a member is reached at another address from now on");
            Ok(Outcome::Joined(true))
        }
        Err(error) => Err(Status::unavailable(format!("could not note the address: {error}; it may ask again"))),
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

/// Learners whose node runs with another member folder: these are gone, and nobody forgot them when that joined. A fenced
/// broker says nothing: a folder that has just joined is not registered yet, and the lost one still is.
fn outlived(members: &[QuorumMember], image: &Image) -> Vec<RaftNodeId> {
    let in_use = |node: BrokerId| image.brokers.get(&node).filter(|b| !b.fenced).map(|b| b.registration.directory);
    let is_member = |node, directory| members.iter().any(|m| m.node == RaftNodeId { node, directory });
    let learners = members.iter().filter(|m| !m.voter).map(|m| m.node);
    let is_outlived = |id: &RaftNodeId| {
        in_use(id.node).is_some_and(|directory| directory != id.directory && is_member(id.node, directory))
    };
    learners.filter(is_outlived).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Member,
    New,
    Refused(String),
}

/// One node id, one data folder: a second folder is let in only once the process of the first is gone. `answers`: that
/// still does, fenced or not.
fn check_join(members: &[QuorumMember], image: &Image, joiner: RaftNodeId, answers: bool) -> Admission {
    if members.iter().any(|m| m.node == joiner) {
        return Admission::Member;
    }
    let other = image.brokers.get(&joiner.node).filter(|b| b.registration.directory != joiner.directory);
    match other.filter(|broker| !broker.fenced || answers) {
        Some(broker) => Admission::Refused(format!(
            "node {} runs already with data folder {}: give this node a node.id of its own, or stop the other one (if that \
             folder was lost, its process is fenced in a moment, and this one is taken in)",
            joiner.node, broker.registration.directory
        )),
        None => Admission::New,
    }
}

/// Voters to replace by a caught-up learner of the same node id, with the address to ask for each.
fn replacements(status: &QuorumStatus) -> Vec<(QuorumMember, QuorumMember)> {
    let learners = status.members.iter().filter(|m| !m.voter && is_caught_up(status, m));
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
    at_new.is_some_and(|answer| is_from(answer, new)) && !at_old.is_some_and(|answer| is_from(answer, old))
}

fn is_from(answer: &DescribeAnswer, id: RaftNodeId) -> bool {
    answer.node_id == id.node.0 && answer.directory_id == id.directory.to_string()
}

/// A change of voters stands half way since the last look: whoever made its first step is gone.
async fn finish_change(node: &Node) {
    match node.quorum.finish_change().await {
        Ok(()) => tracing::info!("finished a change of the voters that an earlier controller had begun"),
        Err(error) => tracing::warn!(%error, "could not finish a change of the voters; will try again"),
    }
}

/// While this node is the controller: ends what an earlier one left half way, hands over if it votes no more, and gives a wiped controller's vote to its new identity, once that has caught up.
///
/// Why this is safe without a person: the change goes through joint consensus, which commits only with a majority of the
/// *old* voters, so it cannot take effect where the remaining voters could not have committed anything anyway; the new
/// identity holds all of the committed log before it votes (a learner within `voters::LAG_MAX` entries, and a voter's
/// vote needs the log's end like any other); and the new identity never voted before, so no vote is given twice. The old
/// identity was in one folder of one node id; it is called gone only while that node answers with the new folder, and
/// nothing answers with the old one. Should the old folder come back, it is no voter any more: it only learns.
pub async fn run(node: Node, mut stop: watch::Receiver<bool>) {
    let mut seen = BTreeMap::<(RaftNodeId, RaftNodeId), u32>::new();
    let mut half_way = None;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = tick.tick() => {}
        }
        if !node.leadership().is_controller {
            seen.clear();
            half_way = None;
            continue;
        }
        let before = std::mem::replace(&mut half_way, node.quorum.status().half_way.filter(|step| step.committed));
        if half_way.is_some() {
            if half_way == before {
                finish_change(&node).await;
            }
            continue;
        }
        if handover::hand_over(&node).await {
            continue;
        }
        let status = node.quorum.status();
        let forgotten = match status.half_way {
            None => outlived(&status.members, &node.quorum.image()),
            Some(_) => Vec::new(),
        };
        for old in forgotten {
            match node.quorum.remove_learner(old).await {
                Ok(()) => tracing::info!(%old, "forgotten: its node has another data folder now"),
                Err(error) => tracing::warn!(%old, %error, "could not forget a lost folder; will try again"),
            }
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
    use crate::metadata::command::{BrokerRegistration, Endpoint};
    use crate::metadata::image::brokers::Broker;
    use uuid::Uuid;

    fn id(node: i32, directory: u128) -> RaftNodeId {
        RaftNodeId { node: BrokerId(node), directory: DirectoryId(Uuid::from_u128(directory)) }
    }

    fn member(node: RaftNodeId, voter: bool, matched: u64) -> QuorumMember {
        let address = format!("node-{}:9093", node.node);
        QuorumMember { node, address, voter, matched: Some(RaftIndex(matched)), ..Default::default() }
    }

    fn registered(id: RaftNodeId, fenced: bool) -> Broker {
        let listener = || Endpoint { listener: "x".into(), host: "x".into(), port: 1 };
        let registration = BrokerRegistration {
            broker: id.node,
            directory: id.directory,
            incarnation: IncarnationId::default(),
            boot_id: String::new(),
            clean_stop: false,
            data_lost: false,
            kafka_endpoints: Vec::new(),
            replica_endpoint: listener(),
            cluster_endpoint: listener(),
            admin_endpoint: listener(),
            rack: None,
            version: String::new(),
        };
        Broker { registration, epoch: BrokerEpoch(1), fenced, shutting_down: false, draining: false }
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
    fn a_joiner_is_told_of_other_folders_of_its_id_only() {
        let members = vec![member(id(2, 2), true, 5), member(id(2, 22), false, 5), member(id(3, 3), true, 5)];
        let image = Image::default();
        assert_eq!(lost_folders(&members, &image, id(2, 22)), (Some(id(2, 2).directory), None));
        assert_eq!(lost_folders(&members, &image, id(2, 2)), (None, None), "its own folder votes");
        assert_eq!(lost_folders(&members, &image, id(4, 4)), (None, None));
    }

    #[test]
    fn a_learner_whose_node_has_another_folder_is_forgotten() {
        let members = [
            member(id(1, 1), true, 5),
            member(id(2, 2), false, 5),
            member(id(2, 22), false, 5),
            member(id(3, 3), true, 5),
            member(id(3, 33), false, 5),
        ];
        let mut image = Image::default();
        assert!(outlived(&members, &image).is_empty(), "nobody is registered");
        let mut register = |node: i32, directory: u128, fenced: bool| {
            image.brokers.insert(BrokerId(node), registered(id(node, directory), fenced));
            outlived(&members, &image)
        };
        assert!(register(3, 3, true).is_empty(), "the new one has joined and is not registered yet");
        assert!(register(3, 33, true).is_empty() && register(3, 33, false).is_empty(), "a voter is replaced instead");
        assert!(register(2, 2, true).is_empty() && register(2, 22, true).is_empty(), "nobody runs");
        assert_eq!(register(2, 22, false), [id(2, 2)]);
        assert_eq!(register(2, 9, false), [], "one that runs with a folder that is no member");
    }

    #[test]
    fn joining_twice_is_joining_once() {
        let members = vec![member(id(1, 1), true, 5)];
        assert_eq!(check_join(&members, &Image::default(), id(1, 1), false), Admission::Member);
        assert_eq!(check_join(&members, &Image::default(), id(1, 9), false), Admission::New);
    }

    #[test]
    fn a_second_folder_waits_until_the_process_of_the_first_is_gone() {
        let join = |fenced, answers, directory| {
            let mut image = Image::default();
            image.brokers.insert(BrokerId(4), registered(id(4, 4), fenced));
            check_join(&[], &image, id(4, directory), answers)
        };
        assert!(matches!(join(false, true, 44), Admission::Refused(_)));
        assert!(matches!(join(false, false, 44), Admission::Refused(_)), "to be fenced in a moment");
        assert!(matches!(join(true, true, 44), Admission::Refused(_)), "it recovers its logs");
        assert_eq!(join(true, false, 44), Admission::New);
        assert_eq!(join(true, true, 4), Admission::New, "the process itself, which was forgotten as a member");
    }
}
