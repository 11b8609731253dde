//! The node's handle on the metadata Raft group: propose, follow, who leads.

use super::command::{Answer, Command};
use super::event::{Event, IndexedEvent};
use super::history::HistoryGone;
use super::image::Image;
use super::publisher::Publisher;
use super::raft::client::Transport;
use super::raft::contacts::Contacts;
use super::raft::failover::Failover;
use super::raft::identity::{ClusterIdentity, WrongCluster};
use super::raft::log_store::{LogStore, LogStoreError, SyncFile};
use super::raft::reserve::Reserve;
use super::raft::server::RaftService;
use super::raft::snapshot::SnapshotError;
use super::raft::state_machine::StateMachine;
use super::raft::types::*;
use crate::ids::*;
use crate::platform::clock;
use crate::platform::disk::room::Room;
use openraft::error::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::{ChangeMembers, Config, ServerState, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::timeout as within;

const HEARTBEAT_MS: u64 = 50;
/// A voter that gives its leader up and then votes flushes twice, each of a second at most (`raft/flush_time.rs`), before it
/// answers. Openraft asks once: an answer that comes later than this is lost, and with it the election.
const VOTE_MS: u64 = 4_000;
/// No voter waits for it: who lets another campaign gives its lease up.
const LEASE_MS: u64 = 5_000;
/// Entries between snapshots, and kept after one for followers that are a little behind.
const SNAPSHOT_ENTRIES: u64 = 10_000;
const KEPT_ENTRIES: u64 = 1_000;
/// Entries of one AppendEntries; its bytes are bounded by the log's reader.
const APPEND_ENTRIES_MAX: u64 = 256;
/// For one piece of a snapshot, the last of which is decoded and written to disk.
const SNAPSHOT_PIECE_MS: u64 = 10_000;
/// A member may become a voter when it is this close to the end of the log.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// Below what a caller on another node waits for the controller.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(5);
const FORM_TIMEOUT: Duration = Duration::from_secs(2);
const FORM_RETRY: Duration = Duration::from_millis(50);

/// A new image and what led to it. Missing some (a lagged receiver, an installed snapshot) means: compare with the
/// whole image once (`resync`).
#[derive(Clone)]
pub struct Update {
    pub image: Arc<Image>,
    pub events: Arc<[IndexedEvent]>,
    /// A snapshot was installed: `events` does not tell all that changed.
    pub resync: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Leadership {
    pub leader: Option<RaftNodeId>,
    pub term: u64,
    /// This node leads *and* has applied everything of earlier terms: it may act as the controller.
    pub is_controller: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error("this node is not the controller; the leader is {0:?}")]
    NotController(Option<RaftNodeId>),
    #[error("not committed within {0:?}; the outcome is unknown")]
    Unknown(Duration),
    #[error("a command of {bytes} bytes is above the bound of {bound}; split it")]
    TooLarge { bytes: u64, bound: usize },
    #[error("the Raft core stopped: {0}")]
    Fatal(String),
}

#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("this node is not the controller; the leader is {0:?}")]
    NotController(Option<RaftNodeId>),
    #[error("the cluster has formed already")]
    AlreadyFormed,
    #[error(transparent)]
    WrongCluster(#[from] WrongCluster),
    #[error("{0} is not a member; let it join first")]
    NotAMember(RaftNodeId),
    #[error("{node} has {matched:?} of a log that ends at {last}; it may vote once it has caught up")]
    NotCaughtUp { node: RaftNodeId, matched: Option<RaftIndex>, last: RaftIndex },
    #[error("another change of the members is under way; retry")]
    InProgress,
    #[error("not committed within {0:?}; the outcome is unknown")]
    Unknown(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("the Raft core stopped: {0}")]
    Fatal(String),
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the metadata folder: {0}")]
    Io(#[from] io::Error),
    #[error("the metadata log: {0}")]
    Log(#[from] LogStoreError),
    #[error("the metadata snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    WrongCluster(#[from] WrongCluster),
    #[error(
        "{dir}: {why}. This node may have forgotten votes and metadata that it acknowledged, and must not vote with this \
         folder again. Replace the disk, or move the whole data folder aside, and start the node: it joins empty, under a \
         new identity, and fetches its replicas from their leaders. Its vote follows by itself after a while; \
         `highwater quorum replace {node}` passes it on at once"
    )]
    Lossy { dir: PathBuf, node: BrokerId, why: LogStoreError },
    #[error("Raft did not start: {0}")]
    Raft(String),
}

/// One voter or learner as the quorum's leader sees it.
#[derive(Clone, Debug, Default)]
pub struct QuorumMember {
    pub node: RaftNodeId,
    pub address: String,
    pub voter: bool,
    /// The end of its log. Known on the leader only, as are the next two.
    pub matched: Option<RaftIndex>,
    /// How long ago it last answered the leader.
    pub heard: Option<Duration>,
    /// How long ago it last held all of the leader's log.
    pub caught_up: Option<Duration>,
}

/// The first of the two steps of changing the voters: until the second, a majority of the old ones and one of the new
/// ones must agree to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfWay {
    pub index: RaftIndex,
    pub committed: bool,
}

#[derive(Clone, Debug, Default)]
pub struct QuorumStatus {
    pub leadership: Leadership,
    pub members: Vec<QuorumMember>,
    pub half_way: Option<HalfWay>,
    pub last_log_index: RaftIndex,
    /// As far as this node has heard.
    pub committed: RaftIndex,
    pub applied: RaftIndex,
    pub snapshot: RaftIndex,
}

#[derive(Clone, Debug)]
pub struct QuorumConfig {
    /// The folder of the log and the snapshot; created if it is not there.
    pub dir: PathBuf,
    pub me: RaftNodeId,
    /// The cluster this node is known to belong to, if it is.
    pub cluster_id: Option<ClusterId>,
    /// Of the file system that `dir` is on; others who fill it ask there first.
    pub room: Arc<Room>,
}

/// Cheap to clone; all clones speak for the same Raft core, which runs on the runtime that started it. Every method works
/// on any runtime.
#[derive(Clone)]
pub struct Quorum {
    core: Arc<Core>,
}

struct Core {
    raft: Raft,
    me: RaftNodeId,
    publisher: Arc<Publisher>,
    leadership: watch::Sender<Leadership>,
    cluster: Arc<ClusterIdentity>,
    contacts: Arc<Contacts>,
    failover: Failover,
    stopping: AtomicBool,
}

impl Quorum {
    /// Opens the folder and starts the Raft core on the current runtime. The service is to be mounted on the cluster port.
    pub async fn start(config: QuorumConfig) -> Result<(Quorum, RaftService), StartError> {
        Quorum::start_with(config, Box::new(File::sync_data)).await
    }

    async fn start_with(config: QuorumConfig, sync: SyncFile) -> Result<(Quorum, RaftService), StartError> {
        let (dir, room) = (config.dir.clone(), config.room);
        let publisher = Arc::new(Publisher::new());
        let opening = publisher.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let reserve = Reserve::open(&dir, room).map_err(LogStoreError::Io)?;
            let log = LogStore::open_with(&dir, reserve.clone(), sync)?;
            let machine = StateMachine::open(&dir, reserve, opening)?;
            Ok::<_, StartError>((log, machine, Arc::new(ClusterIdentity::load(dir)?)))
        });
        let opened = opened.await.map_err(|e| StartError::Raft(e.to_string()))?;
        let (log, machine, cluster) = opened.map_err(|error| match error {
            StartError::Log(why @ LogStoreError::Lossy(_)) => {
                StartError::Lossy { dir: config.dir.clone(), node: config.me.node, why }
            }
            other => other,
        })?;
        let named = publisher.image().cluster_id;
        let named = (named != ClusterId::default()).then_some(named);
        for known in config.cluster_id.into_iter().chain(named) {
            cluster.adopt(known)?;
        }
        let contacts = Arc::new(Contacts::default());
        let transport = Transport::new(cluster.clone(), contacts.clone());
        let reader = log.reader();
        let raft = Raft::new(config.me, Arc::new(raft_config()?), transport.clone(), log, machine)
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
        let failover = Failover::start(raft.clone(), config.me, transport, reader);
        let service = RaftService::new(raft.clone(), failover.clone(), config.me, cluster.clone());
        let (leadership, stopping) = (watch::Sender::new(Leadership::default()), AtomicBool::new(false));
        let core = Arc::new(Core { raft, me: config.me, publisher, leadership, cluster, contacts, failover, stopping });
        tokio::spawn(follow_leadership(core.clone()));
        Ok((Quorum { core }, service))
    }

    /// The newest applied image.
    pub fn image(&self) -> Arc<Image> {
        self.core.publisher.image()
    }

    /// Updates from now on; take `image()` after subscribing.
    pub fn subscribe(&self) -> broadcast::Receiver<Update> {
        self.core.publisher.subscribe()
    }

    /// The newest hash of this node's image, with its index: taken every so many entries (invariant 5).
    pub fn image_hash(&self) -> Option<(RaftIndex, u64)> {
        self.core.publisher.newest_hash()
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.subscribe()
    }

    /// This node's own Raft identity.
    pub fn me(&self) -> RaftNodeId {
        self.core.me
    }

    /// The cluster this node belongs to, as soon as it is known: before the image carries it.
    pub fn cluster_id(&self) -> watch::Receiver<Option<ClusterId>> {
        self.core.cluster.watch()
    }

    /// Events after `index`, from the kept history.
    pub fn events_since(&self, index: RaftIndex) -> Result<Vec<IndexedEvent>, HistoryGone> {
        self.core.publisher.events_since(index)
    }

    /// Commits a command; only the controller can. Returns its index and answer once applied here.
    pub async fn propose(&self, command: Command, timeout: Duration) -> Result<(RaftIndex, Answer), ProposeError> {
        let bytes = encoded_size(&command).unwrap_or(u64::MAX);
        if bytes > COMMAND_BYTES_MAX as u64 {
            return Err(ProposeError::TooLarge { bytes, bound: COMMAND_BYTES_MAX });
        }
        match within(timeout, self.core.raft.client_write(command)).await {
            Err(_) => Err(ProposeError::Unknown(timeout)),
            Ok(Ok(written)) => Ok((RaftIndex(written.log_id.index), written.data)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotController(to.leader_id))
            }
            Ok(Err(e)) => Err(ProposeError::Fatal(e.to_string())),
        }
    }

    /// Waits until this node's image has applied `index`; false at the deadline.
    pub async fn await_applied(&self, index: RaftIndex, timeout: Duration) -> bool {
        let mut applied = self.core.publisher.applied();
        matches!(within(timeout, applied.wait_for(|now| *now >= index)).await, Ok(Ok(_)))
    }

    /// Waits until the image carries the cluster's id: it has formed, and this node is of it.
    pub async fn await_formed(&self, timeout: Duration) -> Option<ClusterId> {
        let mut applied = self.core.publisher.applied();
        let formed = async {
            loop {
                let id = self.image().cluster_id;
                if id != ClusterId::default() {
                    return Some(id);
                }
                applied.changed().await.ok()?;
            }
        };
        within(timeout, formed).await.ok().flatten()
    }

    pub fn status(&self) -> QuorumStatus {
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<RaftNodeId> = membership.voter_ids().collect();
        let matched = |node| {
            let replication = metrics.replication.as_ref()?;
            replication.get(node)?.map(|id| RaftIndex(id.index))
        };
        let now = clock::now();
        let last = metrics.last_log_index.map(RaftIndex);
        let members = membership.nodes().map(|(node, at)| {
            let mut member = QuorumMember {
                node: *node,
                address: at.address.clone(),
                voter: voters.contains(node),
                ..Default::default()
            };
            if metrics.replication.is_none() {
                return member;
            }
            if *node == self.core.me {
                (member.matched, member.heard, member.caught_up) = (last, Some(Duration::ZERO), Some(Duration::ZERO));
                return member;
            }
            let ages = self.core.contacts.ages(*node, now);
            member.matched = matched(node);
            member.heard = ages.heard;
            // What it holds now it held at its newest answer.
            member.caught_up =
                if member.matched.is_some() && member.matched >= last { ages.heard } else { ages.caught_up };
            member
        });
        let half_way = (membership.get_joint_config().len() > 1).then(|| HalfWay {
            index: RaftIndex(metrics.membership_config.log_id().map_or(0, |id| id.index)),
            committed: *metrics.membership_config.log_id() <= metrics.last_applied,
        });
        let applied = RaftIndex(metrics.last_applied.map_or(0, |id| id.index));
        QuorumStatus {
            leadership: *self.core.leadership.borrow(),
            members: members.collect(),
            half_way,
            last_log_index: RaftIndex(metrics.last_log_index.unwrap_or(0)),
            // The core hands over what is committed at once, so what is applied stands for it.
            committed: applied,
            applied,
            snapshot: RaftIndex(metrics.snapshot.map_or(0, |id| id.index)),
        }
    }

    /// This node voted, and the group went on without it: it stands for no election and is sent nothing.
    pub fn is_removed(&self) -> bool {
        self.core.failover.is_removed()
    }

    /// On the leader: how long ago a majority last answered it, less two flushes: answers wait for the disk, and behind each
    /// other. `None` elsewhere, and before the first one. A leader that is cut off does not step down.
    pub fn quorum_ack_age(&self) -> Option<Duration> {
        let age = self.core.raft.metrics().borrow().millis_since_quorum_ack.map(Duration::from_millis)?;
        Some(age.saturating_sub(self.core.failover.felt_flush_time() * 2))
    }

    /// Whether this folder has ever been part of a group: it holds a log or a vote.
    pub async fn is_initialized(&self) -> Result<bool, MembershipError> {
        self.core.raft.is_initialized().await.map_err(|e| MembershipError::Fatal(e.to_string()))
    }

    /// Forms the cluster of these voters, this node among them. Returns once that is on this node's disk; the cluster has
    /// formed when a majority of them agreed ([`await_formed`](Self::await_formed)).
    pub async fn initialize(
        &self,
        cluster_id: ClusterId,
        members: BTreeMap<RaftNodeId, String>,
    ) -> Result<(), MembershipError> {
        if self.is_initialized().await? {
            return Err(MembershipError::AlreadyFormed);
        }
        if !members.contains_key(&self.core.me) {
            return Err(MembershipError::NotAMember(self.core.me));
        }
        self.core.cluster.adopt(cluster_id)?;
        let nodes: BTreeMap<_, _> = members.into_iter().map(|(id, address)| (id, RaftNode { address })).collect();
        match within(MEMBERSHIP_TIMEOUT, self.core.raft.initialize(nodes)).await {
            Err(_) => Err(MembershipError::Unknown(MEMBERSHIP_TIMEOUT)),
            Ok(Ok(())) => Ok(()),
            Ok(Err(RaftError::APIError(InitializeError::NotAllowed(_)))) => Err(MembershipError::AlreadyFormed),
            Ok(Err(RaftError::APIError(e))) => Err(MembershipError::Refused(e.to_string())),
            Ok(Err(RaftError::Fatal(e))) => Err(MembershipError::Fatal(e.to_string())),
        }
    }

    /// Lets a node follow the log. A member already keeps its role and its address.
    pub async fn add_learner(&self, node: RaftNodeId, address: String) -> Result<(), MembershipError> {
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(node, RaftNode { address })])), true).await
    }

    /// A member is reached elsewhere from now on.
    pub async fn set_address(&self, node: RaftNodeId, address: String) -> Result<(), MembershipError> {
        if !self.status().members.iter().any(|m| m.node == node) {
            return Err(MembershipError::NotAMember(node));
        }
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node, RaftNode { address })])), true).await
    }

    /// Forgets a learner. A voter first stops to vote ([`change_voters`](Self::change_voters)).
    pub async fn remove_learner(&self, node: RaftNodeId) -> Result<(), MembershipError> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node])), true).await
    }

    /// One step: `new`, a learner that has caught up, votes; `old`, such as the same node with its folder wiped, is gone.
    pub async fn replace_voter(&self, old: RaftNodeId, new: RaftNodeId) -> Result<(), MembershipError> {
        let mut voters: BTreeSet<_> =
            self.status().members.iter().filter(|m| m.voter && m.node != old).map(|m| m.node).collect();
        voters.insert(new);
        self.change_voters(voters, false).await
    }

    /// Who votes from now on. New ones must be learners that have caught up; those left out become learners, or are gone.
    pub async fn change_voters(
        &self,
        voters: BTreeSet<RaftNodeId>,
        keep_as_learners: bool,
    ) -> Result<(), MembershipError> {
        let status = self.status();
        if status.leadership.leader != Some(self.core.me) {
            return Err(MembershipError::NotController(status.leadership.leader));
        }
        for voter in &voters {
            let member = status.members.iter().find(|m| m.node == *voter).ok_or(MembershipError::NotAMember(*voter))?;
            let last = status.last_log_index;
            let caught_up = member.matched.is_some_and(|at| at.0 + CAUGHT_UP_ENTRIES >= last.0);
            if !member.voter && !caught_up {
                return Err(MembershipError::NotCaughtUp { node: *voter, matched: member.matched, last });
            }
        }
        self.change(ChangeMembers::ReplaceAllVoters(voters), keep_as_learners).await
    }

    /// The second step of a change of voters whose controller was lost after the first. Only for a committed first step,
    /// and not while whoever made it may still be at work: both would be refused.
    pub async fn finish_change(&self) -> Result<(), MembershipError> {
        let goal = {
            let metrics = self.core.raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().get_joint_config().last().cloned()
        };
        // Whether the ones that leave are to be forgotten is not known any more: they stay as learners.
        self.change(ChangeMembers::ReplaceAllVoters(goal.unwrap_or_default()), true).await
    }

    /// Two steps for voters, and openraft makes the second only while somebody waits for it: a task of its own does, also
    /// after the caller was told that the outcome is unknown.
    async fn change(&self, change: ChangeMembers<RaftNodeId, RaftNode>, retain: bool) -> Result<(), MembershipError> {
        use openraft::error::ChangeMembershipError as Reason;
        let raft = self.core.raft.clone();
        let work = tokio::spawn(async move { raft.change_membership(change, retain).await });
        let Ok(result) = within(MEMBERSHIP_TIMEOUT, work).await else {
            return Err(MembershipError::Unknown(MEMBERSHIP_TIMEOUT));
        };
        match result {
            Err(ended) => Err(MembershipError::Fatal(ended.to_string())),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(e))) => Err(MembershipError::Fatal(e.to_string())),
            Ok(Err(RaftError::APIError(e))) => Err(match e {
                ClientWriteError::ForwardToLeader(to) => MembershipError::NotController(to.leader_id),
                ClientWriteError::ChangeMembershipError(Reason::InProgress(_)) => MembershipError::InProgress,
                ClientWriteError::ChangeMembershipError(Reason::LearnerNotFound(e)) => {
                    MembershipError::NotAMember(e.node_id)
                }
                ClientWriteError::ChangeMembershipError(e) => MembershipError::Refused(e.to_string()),
            }),
        }
    }

    /// Resolves, with why, when the Raft core dies of a failure; never after [`shutdown`](Self::shutdown). The process
    /// must then end: a dead core leaves it alive and answering nothing.
    pub async fn fatal(&self) -> String {
        let mut metrics = self.core.raft.metrics();
        let why = loop {
            if let Err(why) = &metrics.borrow_and_update().running_state {
                break why.to_string();
            }
            if metrics.changed().await.is_err() {
                break Fatal::<RaftNodeId>::Stopped.to_string();
            }
        };
        if self.core.stopping.load(Ordering::Acquire) { std::future::pending().await } else { why }
    }

    /// Stands for election at once, in a new term, whether a leader is heard or not. Gives up the promise to that leader,
    /// so only where it asks for it.
    pub async fn campaign(&self) -> Result<(), MembershipError> {
        let me = self.core.me;
        if !self.status().members.iter().any(|m| m.voter && m.node == me) {
            return Err(MembershipError::Refused(format!("{me} is not a voter")));
        }
        self.core.raft.trigger().elect().await.map_err(|e| MembershipError::Fatal(e.to_string()))
    }

    /// Stops the Raft core. The folder's lock is released a moment after the last clone is gone.
    pub async fn shutdown(&self) {
        self.core.stopping.store(true, Ordering::Release);
        if let Err(e) = self.core.raft.shutdown().await {
            tracing::warn!("the Raft core ended badly: {e}");
        }
    }

    /// Builds a snapshot now instead of at the next 10,000 entries.
    pub async fn snapshot_now(&self) -> Result<(), MembershipError> {
        self.core.raft.trigger().snapshot().await.map_err(|e| MembershipError::Fatal(e.to_string()))
    }
}

fn raft_config() -> Result<Config, StartError> {
    let config = Config {
        cluster_name: "metadata".into(),
        heartbeat_interval: HEARTBEAT_MS,
        // Failover starts elections; these bound a vote's way there and back, and a voter's lease on its leader.
        enable_elect: false,
        election_timeout_min: VOTE_MS,
        election_timeout_max: LEASE_MS,
        install_snapshot_timeout: SNAPSHOT_PIECE_MS,
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES as u64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        // A follower that far behind is better off with a snapshot; above the policy, so that there is one.
        replication_lag_threshold: 2 * SNAPSHOT_ENTRIES,
        max_payload_entries: APPEND_ENTRIES_MAX,
        ..Config::default()
    };
    config.validate().map_err(|e| StartError::Raft(e.to_string()))
}

/// Tells who leads, records each change in the history, and has a new controller name an unnamed cluster.
async fn follow_leadership(core: Arc<Core>) {
    let mut metrics = core.raft.metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            note_caught_up(&core.contacts, &metrics);
            leadership(&metrics, core.me)
        };
        let before = *core.leadership.borrow();
        if now != before {
            if now.leader != before.leader || (now.leader.is_some() && now.term != before.term) {
                let controller = now.leader.map(|leader| leader.node);
                core.publisher.record(Event::ControllerElected { controller, term: now.term });
            }
            core.leadership.send_replace(now);
            if now.is_controller && !before.is_controller && core.publisher.image().cluster_id == ClusterId::default() {
                tokio::spawn(name_cluster(core.clone()));
            }
        }
        if metrics.changed().await.is_err() {
            core.leadership.send_replace(Leadership { leader: None, is_controller: false, ..now });
            return;
        }
    }
}

/// On the leader: who holds all of its log. The metrics change at least as often as peers answer.
fn note_caught_up(contacts: &Contacts, metrics: &openraft::RaftMetrics<RaftNodeId, RaftNode>) {
    let Some(replication) = &metrics.replication else { return };
    contacts.retain(|peer| replication.contains_key(peer));
    for (peer, matched) in replication {
        if matched.is_some() && matched.map(|id| id.index) >= metrics.last_log_index {
            contacts.caught_up(*peer);
        }
    }
}

fn leadership(metrics: &openraft::RaftMetrics<RaftNodeId, RaftNode>, me: RaftNodeId) -> Leadership {
    let leads = metrics.running_state.is_ok()
        && metrics.state == ServerState::Leader
        && metrics.current_leader == Some(me)
        && metrics.vote.is_committed();
    // Its own term's first entry is applied, and with it all that earlier terms committed.
    let own_entry_applied = metrics.last_applied.is_some_and(|id| id.leader_id == *metrics.vote.leader_id());
    let leader = if metrics.running_state.is_ok() { metrics.current_leader } else { None };
    Leadership { leader, term: metrics.current_term, is_controller: leads && own_entry_applied }
}

/// The cluster's name was chosen by whoever initialized it and travels in every call; the first controller puts it into
/// the image.
async fn name_cluster(core: Arc<Core>) {
    let quorum = Quorum { core };
    while let Some(cluster_id) = quorum.core.cluster.get() {
        let unnamed = quorum.image().cluster_id == ClusterId::default();
        if !unnamed || !quorum.core.leadership.borrow().is_controller {
            return;
        }
        if let Err(e) = quorum.propose(Command::FormCluster { cluster_id }, FORM_TIMEOUT).await {
            tracing::warn!("the cluster could not be named yet: {e}");
            tokio::time::sleep(FORM_RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests;
