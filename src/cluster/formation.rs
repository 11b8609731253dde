//! Forming a cluster, or joining the one there is.
//!
//! ```text
//! metadata in the folder? ─ yes ─→ start
//!      no: ask every listed controller
//!        one belongs to a cluster ───────────────────→ join it (by its controller)
//!        all answer, all empty, mine is the lowest id → initialize with all of them as voters
//!        anything else ───────────────────────────────→ wait, and say for what
//! ```

use super::node::{Node, parse_cluster, stopped};
use super::peers;
use super::proto::{JoinAnswer, JoinRequest, join_answer::Outcome};
use super::refill::LostFolder;
use crate::config::broker::NodeConfig;
use crate::ids::*;
use crate::metadata::raft::types::RaftNodeId;
use crate::platform::{clock, random};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

const LOOK_EVERY_MS: std::ops::Range<u64> = 150..300;
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// A join forwarded from one node to the next is followed this often.
const REDIRECTS_MAX: usize = 4;
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// A node that was taken in without hearing so asks this often what its id had before.
const ASKED_AGAIN_MAX: u32 = 10;
/// Between two tries to tell where this node is reached.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    #[error(
        "the listed controllers belong to different clusters ({0}): point `controllers` at nodes of one cluster only"
    )]
    TwoClusters(String),
    #[error("the metadata quorum on this node stopped: {0}")]
    Quorum(String),
    #[error("`controllers` is empty: list the initial controllers as id@host:port, the same list on every node")]
    NoControllers,
}

/// What a listed controller said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// No answer, or not one of that node; and why.
    Silent(String),
    Empty(DirectoryId),
    /// Holds metadata; the cluster id is `None` in the moment before its first commit.
    Member(Option<ClusterId>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask these nodes, in this order, to be taken in.
    Join(Vec<BrokerId>),
    Initialize(Vec<RaftNodeId>),
    Wait(String),
    Conflict(String),
}

/// Decides for a node whose folder has no metadata. `peers` holds every listed controller but this node.
///
/// Two nodes never initialize two clusters: only the lowest listed id does, and only while *every* listed controller
/// answers that it is empty. A controller that is down could hold the cluster, so it is waited for.
pub fn decide(me: RaftNodeId, listed: bool, peers: &BTreeMap<BrokerId, PeerState>) -> Decision {
    let mut clusters: Vec<ClusterId> = peers
        .values()
        .filter_map(|state| match state {
            PeerState::Member(cluster) => *cluster,
            _ => None,
        })
        .collect();
    clusters.sort();
    clusters.dedup();
    if clusters.len() > 1 {
        let all: Vec<String> = clusters.iter().map(ToString::to_string).collect();
        return Decision::Conflict(all.join(", "));
    }
    let members: Vec<BrokerId> =
        peers.iter().filter(|(_, state)| matches!(state, PeerState::Member(_))).map(|(id, _)| *id).collect();
    if !members.is_empty() {
        return Decision::Join(members);
    }
    let silent: Vec<String> = peers
        .iter()
        .filter_map(|(id, state)| match state {
            PeerState::Silent(why) => Some(format!("{id} ({why})")),
            _ => None,
        })
        .collect();
    if !silent.is_empty() {
        return Decision::Wait(format!("waiting for controllers {}", silent.join(", ")));
    }
    let lowest = peers.keys().next().copied();
    match lowest {
        _ if !listed => Decision::Wait("waiting for the listed controllers to form the cluster".to_string()),
        Some(lowest) if lowest < me.node => {
            Decision::Wait(format!("waiting for controller {lowest}, the lowest id, to form the cluster"))
        }
        _ => {
            let others = peers.iter().filter_map(|(id, state)| match state {
                PeerState::Empty(directory) => Some(RaftNodeId { node: *id, directory: *directory }),
                _ => None,
            });
            Decision::Initialize(std::iter::once(me).chain(others).collect())
        }
    }
}

/// Returns once this node belongs to a cluster and its image knows which, and with what its id lost if its folder is a
/// new one.
pub async fn form(node: &Node, config: &NodeConfig) -> Result<(ClusterId, LostFolder), FormationError> {
    if config.controllers.is_empty() {
        return Err(FormationError::NoControllers);
    }
    let listed = config.controllers.iter().any(|(id, _)| *id == node.me.node);
    let addresses: BTreeMap<BrokerId, String> = config.controllers.iter().cloned().collect();
    let mut report = Report::default();
    let mut lost = LostFolder::default();
    let mut ask_again = AskAgain::default();
    loop {
        let initialized = node.quorum.is_initialized().await.map_err(|e| FormationError::Quorum(e.to_string()))?;
        if initialized {
            let cluster = node.quorum.image().cluster_id;
            if cluster != ClusterId::default() {
                if ask_again.is_due() {
                    let via = node.leader().map(|(_, address)| address).into_iter().chain(addresses.values().cloned());
                    match join(node, config, via.collect()).await {
                        Ok(found) => return Ok((cluster, found)),
                        Err(why) => {
                            report.say(&format!("the controller does not tell what this node had before: {why}"))
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(random::between(LOOK_EVERY_MS))).await;
                    continue;
                }
                return Ok((cluster, lost));
            }
            report.say("waiting for the cluster's metadata");
        } else {
            let peers = ask_all(node, &addresses).await;
            match decide(node.me, listed, &peers) {
                Decision::Conflict(clusters) => return Err(FormationError::TwoClusters(clusters)),
                Decision::Wait(reason) => report.say(&reason),
                Decision::Join(members) => {
                    let via = members.iter().filter_map(|id| addresses.get(id)).cloned().collect();
                    match join(node, config, via).await {
                        Ok(found) => {
                            lost = found;
                            ask_again = AskAgain::default();
                            report.say("joined; waiting for the cluster's metadata");
                        }
                        Err(why) => {
                            ask_again = AskAgain { left: ASKED_AGAIN_MAX };
                            report.say(&format!("cannot join yet: {why}"));
                        }
                    }
                }
                Decision::Initialize(voters) => {
                    let voters: BTreeMap<RaftNodeId, String> = voters
                        .into_iter()
                        .filter_map(|id| addresses.get(&id.node).map(|address| (id, address.clone())))
                        .collect();
                    // A kill between storing the id and starting Raft leaves the id: it is used again.
                    let cluster = node.cluster.known().unwrap_or_else(|| ClusterId(random::uuid()));
                    tracing::info!(%cluster, voters = voters.len(), "forming a new cluster");
                    if let Err(error) = node.quorum.initialize(cluster, voters).await {
                        report.say(&format!("cannot form the cluster yet: {error}"));
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(random::between(LOOK_EVERY_MS))).await;
    }
}

/// A join whose answer was lost may have been one all the same: the log arrives, and nobody said what the node's id had
/// with another folder. Joining twice is joining once.
#[derive(Default)]
struct AskAgain {
    left: u32,
}

impl AskAgain {
    fn is_due(&mut self) -> bool {
        let due = self.left > 0;
        self.left = self.left.saturating_sub(1);
        due
    }
}

async fn ask_all(node: &Node, addresses: &BTreeMap<BrokerId, String>) -> BTreeMap<BrokerId, PeerState> {
    let others = addresses.iter().filter(|(id, _)| **id != node.me.node);
    let asked = others.map(|(id, address)| async move { (*id, ask(node, *id, address).await) });
    futures::future::join_all(asked).await.into_iter().collect()
}

async fn ask(node: &Node, id: BrokerId, address: &str) -> PeerState {
    let answer = match peers::describe(address, node.cluster.text()).await {
        Ok(answer) => answer,
        Err(status) => return PeerState::Silent(format!("{address}: {}", status.message())),
    };
    if answer.node_id != id.0 {
        return PeerState::Silent(format!("{address} answers as node {}: correct `controllers`", answer.node_id));
    }
    let directory = Uuid::parse_str(&answer.directory_id).map(DirectoryId);
    match (answer.initialized, parse_cluster(&answer.cluster_id), directory) {
        (true, Ok(cluster), _) => PeerState::Member(cluster),
        (false, _, Ok(directory)) => PeerState::Empty(directory),
        _ => PeerState::Silent(format!("{address} answers in a way this version does not know")),
    }
}

/// Asks one member after the other to be taken in, following hints to the controller.
async fn join(node: &Node, config: &NodeConfig, via: Vec<String>) -> Result<LostFolder, String> {
    let request = JoinRequest {
        cluster_id: node.cluster.text(),
        node_id: node.me.node.0,
        directory_id: node.me.directory.to_string(),
        address: config.cluster_listener.advertised.clone(),
        is_broker: config.is_broker,
        is_controller: config.is_controller,
    };
    let mut last = "no member of the cluster answers".to_string();
    for first in via {
        let mut address = first;
        for _ in 0..REDIRECTS_MAX {
            let answer = join_at(&address, request.clone()).await;
            let outcome = answer.and_then(|answer| {
                let outcome = answer.outcome.clone().ok_or("an answer this version does not know")?;
                Ok((outcome, answer))
            });
            match outcome {
                Ok((Outcome::Joined(_), answer)) => return Ok(lost_folder(&answer)),
                Ok((Outcome::Refused(why), _)) => return Err(why),
                Ok((Outcome::NotController(hint), _)) => match hint.controller.map(|c| c.address) {
                    Some(next) if !next.is_empty() && next != address => address = next,
                    _ => {
                        last = "the cluster has no controller: a majority of its voters must run, so start them first"
                            .to_string();
                        break;
                    }
                },
                Err(why) => {
                    last = format!("{address}: {why}");
                    break;
                }
            }
        }
    }
    Err(last)
}

fn lost_folder(answer: &JoinAnswer) -> LostFolder {
    let directory = |text: &str| Uuid::parse_str(text).ok().map(DirectoryId);
    LostFolder { voter: directory(&answer.lost_voter_directory), broker: directory(&answer.lost_broker_directory) }
}

/// Tells the controller where this node is reached, at each start: one that moved is followed, one that was forgotten
/// while it was away is taken in again. Ends when the controller has taken it.
pub async fn announce(node: Node, config: std::sync::Arc<NodeConfig>, mut stop: watch::Receiver<bool>) {
    let mut report = Report::default();
    loop {
        let leader = node.leader().map(|(_, address)| address);
        let members = node.quorum.status().members.into_iter().map(|m| m.address);
        let listed = config.controllers.iter().map(|(_, address)| address.clone());
        let mut via: Vec<String> = Vec::new();
        for address in leader.into_iter().chain(members).chain(listed) {
            if !via.contains(&address) {
                via.push(address);
            }
        }
        let told = tokio::select! {
            () = stopped(&mut stop) => return,
            told = join(&node, &config, via) => told,
        };
        match told {
            Ok(_) => return,
            Err(why) => report.say(&format!("the controller does not know yet where this node is reached: {why}")),
        }
        tokio::time::sleep(ANNOUNCE_EVERY).await;
    }
}

async fn join_at(address: &str, request: JoinRequest) -> Result<JoinAnswer, String> {
    let mut client = peers::client(address).map_err(|status| status.message().to_string())?;
    let answer = tokio::time::timeout(JOIN_TIMEOUT, client.join(request))
        .await
        .map_err(|_| format!("no answer within {JOIN_TIMEOUT:?}"))?
        .map_err(|status| status.message().to_string())?;
    Ok(answer.into_inner())
}

/// Says what is waited for: at once when it changes, and again every few seconds.
#[derive(Default)]
struct Report {
    last: Option<(String, std::time::Instant)>,
}

impl Report {
    fn say(&mut self, reason: &str) {
        let now = clock::now();
        let due = self
            .last
            .as_ref()
            .is_none_or(|(said, at)| said != reason || now.saturating_duration_since(*at) >= REPORT_EVERY);
        if due {
            tracing::info!("{reason}");
            self.last = Some((reason.to_string(), now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(node: i32) -> RaftNodeId {
        RaftNodeId {
            node: BrokerId(node),
            directory: DirectoryId(Uuid::from_u128(100 + u128::from(node.unsigned_abs()))),
        }
    }

    fn empty(node: i32) -> (BrokerId, PeerState) {
        (BrokerId(node), PeerState::Empty(id(node).directory))
    }

    fn silent(node: i32) -> (BrokerId, PeerState) {
        (BrokerId(node), PeerState::Silent("refused".into()))
    }

    fn member(node: i32, cluster: u128) -> (BrokerId, PeerState) {
        (BrokerId(node), PeerState::Member(Some(ClusterId(Uuid::from_u128(cluster)))))
    }

    fn peers<const N: usize>(states: [(BrokerId, PeerState); N]) -> BTreeMap<BrokerId, PeerState> {
        BTreeMap::from(states)
    }

    #[test]
    fn the_lowest_initializes_once_all_are_there_and_empty() {
        let all = vec![id(1), id(2), id(3)];
        assert_eq!(decide(id(1), true, &peers([empty(2), empty(3)])), Decision::Initialize(all));
        assert!(matches!(decide(id(2), true, &peers([empty(1), empty(3)])), Decision::Wait(_)));
        assert!(matches!(decide(id(1), true, &peers([empty(2), silent(3)])), Decision::Wait(_)));
        assert_eq!(decide(id(1), true, &peers([])), Decision::Initialize(vec![id(1)]), "a cluster of one");
    }

    #[test]
    fn whoever_sees_a_cluster_joins_it() {
        let seen = peers([empty(2), member(3, 7)]);
        assert_eq!(decide(id(1), true, &seen), Decision::Join(vec![BrokerId(3)]), "even the lowest, wiped");
        assert_eq!(decide(id(9), false, &peers([silent(1), member(2, 7)])), Decision::Join(vec![BrokerId(2)]));
        let forming = peers([(BrokerId(1), PeerState::Member(None)), empty(3)]);
        assert_eq!(decide(id(2), true, &forming), Decision::Join(vec![BrokerId(1)]));
    }

    #[test]
    fn a_broker_never_initializes_and_two_clusters_are_a_conflict() {
        assert!(matches!(decide(id(0), false, &peers([empty(1), empty(2)])), Decision::Wait(_)));
        assert!(matches!(decide(id(1), true, &peers([member(2, 7), member(3, 8)])), Decision::Conflict(_)));
    }

    #[test]
    fn every_assignment_of_states_forms_one_cluster_at_most() {
        // Three empty controllers that see each other in any mixture: at most one of them initializes.
        for mask in 0..64u32 {
            let sees = |me: i32, other: i32| mask >> ((me - 1) * 2 + i32::from(other > 6 - me - other)) & 1 == 1;
            let initializers = (1..=3)
                .filter(|me| {
                    let view = (1..=3)
                        .filter(|other| other != me)
                        .map(|other| if sees(*me, other) { empty(other) } else { silent(other) })
                        .collect();
                    matches!(decide(id(*me), true, &view), Decision::Initialize(_))
                })
                .count();
            assert!(initializers <= 1, "mask {mask:b}");
        }
    }
}
