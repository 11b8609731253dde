//! Real quorums on loopback: each node on a thread and a runtime of its own, as the broker runs it, so that ending the
//! runtime ends the node at once, as a kill does.

use super::*;
use crate::metadata::command::{ConfigChange, ConfigResource};
use crate::platform::clock;
use crate::platform::disk::room::Room;
use futures::FutureExt;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::transport::Server;

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(5);

struct Node {
    quorum: Quorum,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn healthy() -> SyncFile {
    Box::new(File::sync_data)
}

/// Disk flushes that each take this long.
fn slow(by: Duration) -> SyncFile {
    Box::new(move |file| {
        std::thread::sleep(by);
        file.sync_data()
    })
}

/// An address that nothing else on this machine binds: each has a loopback host of its own, so that a node can be started
/// again on its port.
fn own_address() -> SocketAddr {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    let [_, _, c, d] = (std::process::id().wrapping_mul(251) + HOSTS.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
    let socket = TcpListener::bind((std::net::Ipv4Addr::new(127, 90, c, d.max(2)), 0)).unwrap();
    socket.local_addr().unwrap()
}

impl Node {
    fn start(me: RaftNodeId, dir: PathBuf, address: SocketAddr, sync: SyncFile) -> Node {
        let (stop, stopped) = oneshot::channel();
        let (started, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let room = Room::of(&dir);
                let config = QuorumConfig { dir, me, cluster_id: None, room };
                let (quorum, service) = Quorum::start_with(config, sync).await.unwrap();
                let listener = crate::platform::network::listen(&address.to_string()).await.unwrap();
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                tokio::spawn(Server::builder().add_service(service.server()).serve_with_incoming(incoming));
                started.send(quorum).unwrap();
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        });
        let quorum = wait.recv().expect("the node started");
        Node { quorum, stop: Some(stop), thread: Some(thread) }
    }

    fn kill(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Cluster {
    folders: Vec<TempDir>,
    addresses: Vec<SocketAddr>,
    nodes: BTreeMap<u64, Node>,
}

impl Cluster {
    /// `count` empty nodes, numbered from 1.
    fn new(count: u64) -> Cluster {
        let addresses = (0..count).map(|_| own_address()).collect();
        let folders = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut cluster = Cluster { folders, addresses, nodes: BTreeMap::new() };
        (1..=count).for_each(|n| cluster.start(n));
        cluster
    }

    async fn formed(count: u64) -> Cluster {
        let cluster = Cluster::new(count);
        cluster.node(1).initialize(cluster_id(), cluster.members(1..=count)).await.unwrap();
        for n in 1..=count {
            assert_eq!(cluster.node(n).await_formed(PATIENCE).await, Some(cluster_id()));
        }
        cluster
    }

    fn members(&self, of: impl Iterator<Item = u64>) -> BTreeMap<RaftNodeId, String> {
        of.map(|n| (RaftNodeId::from(n), self.address(n))).collect()
    }

    fn address(&self, n: u64) -> String {
        self.addresses[n as usize - 1].to_string()
    }

    fn start(&mut self, n: u64) {
        self.start_on(n, healthy());
    }

    fn start_on(&mut self, n: u64, disk: SyncFile) {
        let at = n as usize - 1;
        let dir = self.folders[at].path().join("metadata");
        self.nodes.insert(n, Node::start(RaftNodeId::from(n), dir, self.addresses[at], disk));
    }

    fn kill(&mut self, n: u64) {
        drop(self.nodes.remove(&n));
    }

    fn node(&self, n: u64) -> &Quorum {
        &self.nodes[&n].quorum
    }

    /// Waits for a node that may act as the controller.
    async fn controller(&self) -> u64 {
        let deadline = clock::now() + PATIENCE;
        loop {
            for (n, node) in &self.nodes {
                if node.quorum.leadership().borrow().is_controller {
                    return *n;
                }
            }
            assert!(clock::now() < deadline, "no controller within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Commits through whoever is the controller, again while the outcome is unknown (setting a feature is idempotent).
    async fn commit(&self, name: &str) -> RaftIndex {
        let deadline = clock::now() + PATIENCE;
        loop {
            let n = self.controller().await;
            match self.node(n).propose(feature(name), Duration::from_secs(1)).await {
                Ok((index, Answer::Done)) => return index,
                other => assert!(clock::now() < deadline, "not committed: {other:?}"),
            }
        }
    }

    async fn all_applied(&self, index: RaftIndex) {
        for (n, node) in &self.nodes {
            assert!(node.quorum.await_applied(index, PATIENCE).await, "node {n} has not applied {index}");
        }
    }
}

fn cluster_id() -> ClusterId {
    ClusterId(uuid::Uuid::from_u128(77))
}

fn feature(name: &str) -> Command {
    Command::FinalizeFeature { name: name.into(), level: 1 }
}

#[tokio::test]
async fn three_elect_commit_and_survive_a_killed_leader() {
    let mut cluster = Cluster::formed(3).await;
    let mut updates = cluster.node(2).subscribe();
    let index = cluster.commit("before").await;
    cluster.all_applied(index).await;
    loop {
        let update = tokio::time::timeout(SHORT, updates.recv()).await.unwrap().unwrap();
        if update.events.iter().any(|e| matches!(&e.event, Event::FeatureFinalized { name, .. } if name == "before")) {
            break;
        }
    }
    let hashes: BTreeSet<u64> = (1..=3).map(|n| cluster.node(n).image().hash()).collect();
    assert_eq!(hashes.len(), 1, "the same image everywhere");

    let first = cluster.controller().await;
    let other = (1..=3).find(|n| *n != first).unwrap();
    let refused = cluster.node(other).propose(feature("x"), SHORT).await;
    assert!(matches!(refused, Err(ProposeError::NotController(Some(leader))) if leader == RaftNodeId::from(first)));

    cluster.kill(first);
    let after = cluster.commit("after").await;
    cluster.all_applied(after).await;
    assert_ne!(cluster.controller().await, first);
    let events = cluster.node(other).events_since(RaftIndex(0)).unwrap();
    let controllers = events.iter().filter(|e| matches!(e.event, Event::ControllerElected { controller: Some(_), .. }));
    assert!(controllers.count() >= 2, "both controllers are in the history");

    // The killed one comes back from its disk and catches up.
    cluster.start(first);
    let last = cluster.commit("last").await;
    cluster.all_applied(last).await;
    assert_eq!(cluster.node(first).image().features.len(), 3);
    // What it has applied the leader hears a moment later.
    tokio::time::timeout(SHORT, async {
        loop {
            let status = cluster.node(cluster.controller().await).status();
            if status.members.iter().filter(|m| m.voter && m.matched.is_some()).count() == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the leader hears how far all three voters are");
}

#[tokio::test]
async fn without_a_majority_the_outcome_is_unknown() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.controller().await;
    (1..=3).filter(|n| *n != leader).for_each(|n| cluster.kill(n));
    let timeout = Duration::from_millis(300);
    let outcome = cluster.node(leader).propose(feature("lonely"), timeout).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown(t)) if t == timeout), "{outcome:?}");
    assert!(!cluster.node(leader).await_applied(RaftIndex(1_000), Duration::from_millis(10)).await);
}

#[tokio::test]
async fn one_node_restarts_from_its_disk_and_its_snapshot() {
    let mut cluster = Cluster::formed(1).await;
    for n in 0..5 {
        cluster.commit(&format!("f{n}")).await;
    }
    let before = cluster.node(1).image();
    cluster.kill(1);
    cluster.start(1);
    cluster.controller().await;
    assert_eq!(cluster.node(1).image().features, before.features, "from the log alone");

    cluster.node(1).snapshot_now().await.unwrap();
    let deadline = clock::now() + PATIENCE;
    while cluster.node(1).status().snapshot == RaftIndex(0) {
        assert!(clock::now() < deadline, "no snapshot");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.commit("on top").await;
    cluster.kill(1);
    cluster.start(1);
    cluster.controller().await;
    assert_eq!(cluster.node(1).image().features.len(), 6);
    assert_eq!(*cluster.node(1).cluster_id().borrow(), Some(cluster_id()));
    assert!(cluster.node(1).is_initialized().await.unwrap());
    let again = cluster.node(1).initialize(cluster_id(), cluster.members(1..=1)).await;
    assert!(matches!(again, Err(MembershipError::AlreadyFormed)));
}

#[tokio::test]
async fn a_command_above_the_bound_is_refused_and_a_large_one_travels() {
    let cluster = Cluster::formed(3).await;
    let leader = cluster.controller().await;
    let refused = cluster.node(leader).propose(large(COMMAND_BYTES_MAX), SHORT).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { bound: COMMAND_BYTES_MAX, .. })));
    let mut index = RaftIndex(0);
    for _ in 0..12 {
        index = cluster.node(leader).propose(large(COMMAND_BYTES_MAX - 100), PATIENCE).await.unwrap().0;
    }
    cluster.all_applied(index).await;
}

#[tokio::test]
async fn a_learner_follows_then_replaces_a_voter() {
    let mut cluster = Cluster::formed(3).await;
    // What the newcomer has to fetch is more than one message holds.
    for n in 0..30 {
        cluster.commit(&format!("{n}-{}", "x".repeat(100_000))).await;
    }
    cluster.folders.push(tempfile::tempdir().unwrap());
    cluster.addresses.push(own_address());
    cluster.start(4);
    assert!(!cluster.node(4).is_initialized().await.unwrap());

    let leader = cluster.controller().await;
    let gone = (1..=3).find(|n| *n != leader).unwrap();
    let (old, new) = (RaftNodeId::from(gone), RaftNodeId::from(4));
    let early = cluster.node(leader).replace_voter(old, new).await;
    assert!(matches!(early, Err(MembershipError::NotAMember(node)) if node == new), "{early:?}");
    cluster.node(leader).add_learner(new, cluster.address(4)).await.unwrap();
    assert_eq!(cluster.node(4).await_formed(PATIENCE).await, Some(cluster_id()));
    let index = cluster.commit("seen by the learner").await;
    cluster.all_applied(index).await;
    assert_eq!(cluster.node(4).image().hash(), cluster.node(leader).image().hash());

    // The leader hears how far the learner is a heartbeat later.
    let deadline = clock::now() + PATIENCE;
    while let Err(e) = cluster.node(leader).replace_voter(old, new).await {
        assert!(matches!(e, MembershipError::NotCaughtUp { .. }) && clock::now() < deadline, "{e}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = cluster.node(leader).status();
    let voters: BTreeSet<_> = status.members.iter().filter(|m| m.voter).map(|m| m.node).collect();
    assert!(voters.contains(&new) && voters.len() == 3);
    assert!(!status.members.iter().any(|m| m.node == old), "it is gone, not a learner");
    cluster.kill(gone);
    let index = cluster.commit("without it").await;
    cluster.all_applied(index).await;
}

#[tokio::test]
async fn a_node_far_behind_is_brought_up_by_a_snapshot() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.controller().await;
    let behind = (1..=3).find(|n| *n != leader).unwrap();
    for n in 0..20 {
        cluster.commit(&format!("{n}-{}", "y".repeat(100_000))).await;
    }
    // Wiped and joining under a new identity: it needs the whole state, and the log no longer has it.
    cluster.kill(behind);
    cluster.node(leader).snapshot_now().await.unwrap();
    let deadline = clock::now() + PATIENCE;
    while cluster.node(leader).status().snapshot < RaftIndex(20) {
        assert!(clock::now() < deadline, "no snapshot");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let upto = cluster.node(leader).status().snapshot;
    cluster.node(leader).core.raft.trigger().purge_log(upto.0).await.unwrap();
    cluster.folders[behind as usize - 1] = tempfile::tempdir().unwrap();
    let (old, new) = (RaftNodeId::from(behind), RaftNodeId::from(9));
    let at = behind as usize - 1;
    let dir = cluster.folders[at].path().join("metadata");
    cluster.nodes.insert(9, Node::start(new, dir, cluster.addresses[at], healthy()));
    cluster.node(leader).add_learner(new, cluster.address(behind)).await.unwrap();
    let index = cluster.commit("after").await;
    cluster.all_applied(index).await;
    assert_eq!(cluster.node(9).image().hash(), cluster.node(leader).image().hash());
    assert!(cluster.node(9).events_since(RaftIndex(0)).is_err(), "it was brought up by a snapshot");
    let deadline = clock::now() + PATIENCE;
    while let Err(e) = cluster.node(leader).replace_voter(old, new).await {
        assert!(matches!(e, MembershipError::NotCaughtUp { .. }) && clock::now() < deadline, "{e}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn large(bytes: usize) -> Command {
    Command::SetConfigs {
        changes: vec![ConfigChange {
            resource: ConfigResource::BrokerDefault,
            set: BTreeMap::from([("large".to_string(), Some("x".repeat(bytes)))]),
        }],
    }
}

/// openraft gives an append one heartbeat interval, 50 ms, the follower's flush included.
#[tokio::test]
async fn flushes_slower_than_a_heartbeat_still_make_progress() {
    let mut cluster = Cluster::formed(3).await;
    let leader = cluster.controller().await;
    let behind = (1..=3).find(|n| *n != leader).unwrap();
    cluster.kill(behind);
    let mut index = RaftIndex(0);
    for _ in 0..12 {
        index = cluster.node(leader).propose(large(COMMAND_BYTES_MAX - 100), PATIENCE).await.unwrap().0;
    }
    // It has 3 MiB to fetch, and a disk that answers too late each time.
    cluster.start_on(behind, slow(Duration::from_millis(60)));
    assert!(cluster.node(behind).await_applied(index, PATIENCE).await, "the backlog of 3 MiB was not taken in");

    // Now all of them are that slow, one after another.
    for n in 1..=3 {
        cluster.kill(n);
        cluster.start_on(n, slow(Duration::from_millis(60)));
        let index = cluster.commit(&format!("slow {n}")).await;
        cluster.all_applied(index).await;
    }
}

#[tokio::test]
async fn a_failed_flush_is_fatal_and_is_not_tried_again() {
    let mut cluster = Cluster::formed(1).await;
    cluster.kill(1);
    let broken = Arc::new(AtomicBool::new(false));
    let flushes_after = Arc::new(AtomicU32::new(0));
    let (switch, count) = (broken.clone(), flushes_after.clone());
    cluster.start_on(
        1,
        Box::new(move |file| {
            if switch.load(Ordering::SeqCst) {
                count.fetch_add(1, Ordering::SeqCst);
                return Err(io::Error::other("the disk is gone"));
            }
            file.sync_data()
        }),
    );
    cluster.commit("on a good disk").await;
    broken.store(true, Ordering::SeqCst);
    let lost = cluster.node(1).propose(feature("lost"), SHORT).await;
    assert!(matches!(lost, Err(ProposeError::Fatal(_))), "{lost:?}");
    let why = tokio::time::timeout(SHORT, cluster.node(1).fatal()).await.expect("the core died");
    assert!(why.contains("the disk is gone"), "{why}");
    assert_eq!(flushes_after.load(Ordering::SeqCst), 1);
    let mut leadership = cluster.node(1).leadership();
    tokio::time::timeout(SHORT, leadership.wait_for(|now| !now.is_controller)).await.unwrap().unwrap();

    // The disk is well again, and what it has is not known: no start votes with it, the first as little as the next.
    cluster.kill(1);
    for _ in 0..2 {
        let dir = cluster.folders[0].path().join("metadata");
        let room = Room::of(&dir);
        let config = QuorumConfig { dir, me: RaftNodeId::from(1), cluster_id: None, room };
        let refused = Quorum::start(config).await.map(drop).unwrap_err();
        assert!(matches!(&refused, StartError::Lossy { node: BrokerId(1), .. }), "{refused}");
        let told = refused.to_string();
        assert!(told.contains("the disk is gone") && told.contains("`highwater quorum replace 1`"), "{told}");
    }
}

#[tokio::test]
async fn strangers_are_refused() {
    use crate::metadata::raft::proto::{RaftMessage, raft_client::RaftClient};
    let cluster = Cluster::formed(1).await;
    let mut client = RaftClient::connect(format!("http://{}", cluster.address(1))).await.unwrap();
    let mine = RaftNodeId::from(1).directory.to_string();
    let mut vote = async |cluster_id: &str, directory: &str| {
        let message = RaftMessage {
            cluster_id: cluster_id.into(),
            target_directory_id: directory.into(),
            payload: vec![9, 9, 9],
        };
        client.vote(message).await.unwrap_err().code()
    };
    let right = cluster_id().to_string();
    let other = ClusterId(uuid::Uuid::from_u128(5)).to_string();
    assert_eq!(vote(&other, &mine).await, tonic::Code::FailedPrecondition);
    assert_eq!(vote("", &mine).await, tonic::Code::FailedPrecondition);
    assert_eq!(vote(&right, &other).await, tonic::Code::FailedPrecondition);
    assert_eq!(vote(&right, &mine).await, tonic::Code::InvalidArgument, "let in, but the payload is no message");
}

#[tokio::test]
async fn a_dead_core_is_told_and_a_stopped_one_is_not() {
    let cluster = Cluster::formed(1).await;
    let quorum = cluster.node(1).clone();
    let fatal = tokio::spawn({
        let quorum = quorum.clone();
        async move { quorum.fatal().await }
    });
    quorum.shutdown().await;
    assert!(matches!(quorum.propose(feature("x"), SHORT).await, Err(ProposeError::Fatal(_))));
    assert!(tokio::time::timeout(Duration::from_millis(100), fatal).await.is_err(), "a wanted stop is no failure");
    drop(cluster);

    let mut cluster = Cluster::formed(1).await;
    let quorum = cluster.node(1).clone();
    cluster.nodes.get_mut(&1).unwrap().kill();
    tokio::time::timeout(SHORT, quorum.fatal()).await.expect("the core died with its runtime");
}

#[tokio::test]
async fn a_change_of_voters_left_half_way_is_finished_by_another_controller() {
    let mut cluster = Cluster::formed(3).await;
    let first = cluster.controller().await;
    // Only the first of its two steps is made: the caller is gone before the second.
    let voters: BTreeSet<_> = (1..=3).filter(|n| *n != first).map(RaftNodeId::from).collect();
    let raft = cluster.node(first).core.raft.clone();
    let change = raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true);
    assert!(change.now_or_never().is_none(), "asked, and not waited for");
    let deadline = clock::now() + PATIENCE;
    while !cluster.node(first).status().half_way.is_some_and(|step| step.committed) {
        assert!(clock::now() < deadline, "the first step is not committed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.kill(first);
    let second = cluster.controller().await;
    cluster.commit("still one").await;
    assert!(cluster.node(second).status().half_way.is_some(), "nobody makes the second step by itself");
    cluster.node(second).finish_change().await.unwrap();
    let status = cluster.node(second).status();
    assert_eq!(status.half_way, None);
    assert_eq!(status.members.iter().filter(|m| m.voter).count(), 2);
}

/// One stays away while it is removed, one is there: neither can be sure to be sent the list that leaves it out.
#[tokio::test]
async fn a_removed_controller_stops_campaigning_and_says_so() {
    let mut cluster = Cluster::formed(4).await;
    let leader = cluster.controller().await;
    let others: Vec<u64> = (1..=4).filter(|n| *n != leader).collect();
    let (away, running) = (others[0], others[1]);
    let index = cluster.commit("seen by all").await;
    cluster.all_applied(index).await;
    cluster.kill(away);
    for n in [away, running] {
        let voters = cluster.node(leader).status().members.into_iter().filter(|m| m.voter).map(|m| m.node);
        let left = voters.filter(|id| *id != RaftNodeId::from(n)).collect();
        cluster.node(leader).change_voters(left, false).await.unwrap();
    }
    cluster.start(away);
    for n in [away, running] {
        let deadline = clock::now() + PATIENCE;
        while !cluster.node(n).is_removed() {
            assert!(clock::now() < deadline, "{n} goes on campaigning: {:?}", cluster.node(n).status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(!cluster.node(leader).is_removed());

    // It may be taken in again.
    cluster.node(leader).add_learner(RaftNodeId::from(away), cluster.address(away)).await.unwrap();
    let index = cluster.commit("seen again").await;
    assert!(cluster.node(away).await_applied(index, PATIENCE).await);
    assert!(!cluster.node(away).is_removed());
}

mod slow_disks;
