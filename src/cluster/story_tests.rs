//! Whole stories over real sockets: nodes form, one dies, one comes back, one comes back wiped.
//!
//! Each node has a runtime of its own; killing one drops it with its sockets, as the kernel would.

use super::channel::Channel;
use super::node::Node;
use super::session::{self, SessionParts};
use super::states::{Asker, LocalReplicas};
use super::{formation, server};
use crate::config::broker::{BrokerConfigs, ListenerConfig, NodeConfig};
use crate::controller::controller::Controller;
use crate::controller::liveness::Timing;
use crate::ids::*;
use crate::metadata::command::{BrokerRegistration, Endpoint};
use crate::metadata::image::Image;
use crate::metadata::intent::*;
use crate::metadata::quorum::{Quorum, QuorumConfig};
use crate::metadata::raft::types::RaftNodeId;
use crate::metadata::voters::{self, VoterChange, VoterError, VoterOutcome};
use crate::platform::disk::room::Room;
use crate::platform::{clock, network, random};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// Far beyond what anything here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

const SESSION: Duration = Duration::from_millis(1_500);

struct Running {
    node: Node,
    channel: Channel,
    runtime: Runtime,
    /// Ends the tasks when the node is dropped, too.
    _stop: watch::Sender<bool>,
}

struct Cluster {
    folders: tempfile::TempDir,
    controllers: Vec<(BrokerId, String)>,
    moved: BTreeMap<i32, String>,
    session: Duration,
    nodes: BTreeMap<i32, Running>,
}

impl Cluster {
    fn new(count: i32, session: Duration) -> Cluster {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let controllers = runtime.block_on(async {
            let mut sockets = Vec::new();
            for id in 1..=count {
                sockets.push((BrokerId(id), network::listen("127.0.0.1:0").await.unwrap()));
            }
            sockets.iter().map(|(id, socket)| (*id, socket.local_addr().unwrap().to_string())).collect()
        });
        let folders = tempfile::tempdir().unwrap();
        Cluster { folders, controllers, moved: BTreeMap::new(), session, nodes: BTreeMap::new() }
    }

    fn address(&self, id: i32) -> String {
        let listed = || self.controllers.iter().find(|(node, _)| node.0 == id).unwrap().1.clone();
        self.moved.get(&id).cloned().unwrap_or_else(listed)
    }

    /// From its next start on the node is elsewhere than `controllers` says, or is not in it.
    fn relocate(&mut self, id: i32) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let socket = runtime.block_on(network::listen("127.0.0.1:0")).unwrap();
        self.moved.insert(id, socket.local_addr().unwrap().to_string());
    }

    fn voters(&self, id: i32) -> Vec<i32> {
        let members = self.nodes[&id].node.quorum.status().members;
        members.iter().filter(|m| m.voter).map(|m| m.node.node.0).collect()
    }

    fn change_voters(&self, id: i32, change: VoterChange) -> Result<VoterOutcome, VoterError> {
        let running = &self.nodes[&id];
        running.runtime.block_on(voters::change(&running.channel, change, DEADLINE)).unwrap()
    }

    fn config(&self, id: i32) -> NodeConfig {
        let listener = |name: &str, address: String| ListenerConfig {
            name: name.into(),
            bind: address.clone(),
            advertised: address,
        };
        NodeConfig {
            node_id: BrokerId(id),
            data_dir: PathBuf::new(),
            is_broker: true,
            is_controller: true,
            rack: None,
            kafka_listeners: Vec::new(),
            replica_listener: listener("replica", "127.0.0.1:1".into()),
            cluster_listener: listener("cluster", self.address(id)),
            admin_listener: listener("admin", "127.0.0.1:1".into()),
            controllers: self.controllers.clone(),
            kafka: BrokerConfigs::default(),
        }
    }

    /// Starts a node on its folder; `folder` names it, and with it the directory id.
    fn start(&mut self, id: i32, folder: u32) {
        let dir = self.folders.path().join(format!("{id}-{folder}"));
        let me = RaftNodeId {
            node: BrokerId(id),
            directory: DirectoryId(uuid::Uuid::from_u128(u128::from(folder) * 100 + u128::from(id.unsigned_abs()))),
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stop = watch::Sender::new(false);
        let starting = start_node(me, dir, Arc::new(self.config(id)), self.session, stop.subscribe());
        let (node, channel) = runtime.block_on(async { tokio::spawn(starting).await.unwrap() });
        self.nodes.insert(id, Running { node, channel, runtime, _stop: stop });
    }

    fn kill(&mut self, id: i32) {
        let running = self.nodes.remove(&id).unwrap();
        drop((running.node, running.channel));
        running.runtime.shutdown_timeout(Duration::from_secs(5));
    }

    fn image(&self, id: i32) -> Arc<Image> {
        self.nodes[&id].node.quorum.image()
    }

    fn wait(&self, what: &str, mut met: impl FnMut(&Cluster) -> bool) -> Duration {
        let start = clock::now();
        while !met(self) {
            let waited = clock::now() - start;
            assert!(waited < DEADLINE, "not within {DEADLINE:?}: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
        let took = clock::now() - start;
        println!("{what}: {took:?}");
        took
    }

    fn wait_all_unfenced(&self, count: usize) -> Duration {
        self.wait("every broker is registered and unfenced", |cluster| {
            cluster.nodes.keys().all(|id| {
                let image = cluster.image(*id);
                image.brokers.len() == count && image.brokers.values().all(|b| !b.fenced)
            })
        })
    }

    fn controller(&self) -> i32 {
        let mut found = None;
        self.wait("there is a controller", |cluster| {
            found = cluster.nodes.iter().find(|(_, n)| n.node.leadership().is_controller).map(|(id, _)| *id);
            found.is_some()
        });
        found.unwrap()
    }

    fn submit(&self, id: i32, intent: Intent) -> Result<IntentAnswer, SubmitError> {
        let running = &self.nodes[&id];
        running.runtime.block_on(running.channel.submit(intent, DEADLINE))
    }
}

/// What `broker` does, as far as this room goes: quorum, cluster port, formation, session.
async fn start_node(
    me: RaftNodeId,
    dir: PathBuf,
    config: Arc<NodeConfig>,
    session: Duration,
    stop: watch::Receiver<bool>,
) -> (Node, Channel) {
    let (quorum, raft) = start_quorum(me, &dir).await;
    let node = Node::new(me, quorum.clone());
    let replicas = LocalReplicas::default();
    let asker = Arc::new(Asker::new(node.clone(), replicas.clone(), tokio::runtime::Handle::current()));
    let controller = Arc::new(Controller::new(quorum, config.clone(), asker));
    let socket = network::listen(&config.cluster_listener.bind).await.unwrap();
    let timing = Timing::with_session(session);
    server::start(socket, raft, node.clone(), controller.clone(), replicas, timing, stop.clone()).unwrap();
    let channel = Channel::new(node.clone(), controller, tokio::runtime::Handle::current(), stop.clone());
    let joining = node.clone();
    tokio::spawn(async move {
        formation::form(&joining, &config).await.unwrap();
        tokio::spawn(formation::announce(joining.clone(), config.clone(), stop.clone()));
        let (_ready, ready) = watch::channel(true);
        let (_wants_shutdown, wants_shutdown) = watch::channel(false);
        let parts = SessionParts {
            registration: registration(me, &config),
            node: joining,
            heartbeat_every: Duration::from_millis(100),
            silence_max: session / 2,
            ready,
            wants_shutdown,
            epoch: watch::Sender::new(session::NOT_REGISTERED),
            diverged: watch::Sender::new(None),
        };
        session::run(parts, stop).await;
    });
    (node, channel)
}

/// A killed node's folder is let go of a moment after it is gone.
async fn start_quorum(me: RaftNodeId, dir: &Path) -> (Quorum, crate::metadata::raft::server::RaftService) {
    let start = clock::now();
    loop {
        match Quorum::start(QuorumConfig { dir: dir.to_path_buf(), me, cluster_id: None, room: Room::of(dir) }).await {
            Ok(started) => return started,
            Err(error) => assert!(clock::now() - start < DEADLINE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn registration(me: RaftNodeId, config: &NodeConfig) -> BrokerRegistration {
    let endpoint = |address: &str| {
        let (host, port) = address.rsplit_once(':').unwrap();
        Endpoint { listener: "x".into(), host: host.into(), port: port.parse().unwrap() }
    };
    BrokerRegistration {
        broker: me.node,
        directory: me.directory,
        incarnation: IncarnationId(random::uuid()),
        boot_id: "boot".into(),
        clean_stop: false,
        data_lost: false,
        kafka_endpoints: Vec::new(),
        replica_endpoint: endpoint(&config.replica_listener.advertised),
        cluster_endpoint: endpoint(&config.cluster_listener.advertised),
        admin_endpoint: endpoint(&config.admin_listener.advertised),
        rack: None,
        version: "0".into(),
    }
}

fn create(name: &str, partitions: i32) -> Intent {
    let topic = TopicIntent {
        name: name.into(),
        partitions,
        replication_factor: 3,
        assignments: None,
        configs: BTreeMap::new(),
    };
    Intent::CreateTopics { topics: vec![topic], validate_only: false }
}

#[test]
fn three_nodes_form_and_outlive_their_controller() {
    let mut cluster = Cluster::new(3, SESSION);
    for id in [3, 1, 2] {
        cluster.start(id, 1);
    }
    cluster.wait_all_unfenced(3);
    let ids: Vec<ClusterId> = (1..=3).map(|id| cluster.image(id).cluster_id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one cluster: {ids:?}");

    // Asked of a node that is not the controller; visible there as soon as it is answered.
    let controller = cluster.controller();
    let other = (1..=3).find(|id| *id != controller).unwrap();
    let answer = cluster.submit(other, create("orders", 6)).unwrap();
    let IntentAnswer::Topics(results) = answer else { panic!("{answer:?}") };
    assert_eq!(results[0].as_ref().unwrap().partitions, 6);
    let image = cluster.image(other);
    let topic = image.topic_by_name("orders").expect("visible where it was asked for");
    let led = |id: i32| topic.partitions.iter().filter(|p| p.leader == Some(BrokerId(id))).count();
    assert_eq!((led(1), led(2), led(3)), (2, 2, 2));

    // The controller dies, which leads two partitions as well.
    cluster.kill(controller);
    let took = cluster.wait("a new controller fenced the dead one and moved its leaders", |cluster| {
        let image = cluster.image(other);
        let fenced = image.brokers.get(&BrokerId(controller)).is_some_and(|b| b.fenced);
        let moved = |p: &crate::metadata::image::topics::Partition| {
            p.leader.is_some_and(|leader| leader.0 != controller) && !p.isr.contains(&BrokerId(controller))
        };
        fenced && image.topic_by_name("orders").unwrap().partitions.iter().all(moved)
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(matches!(cluster.submit(other, create("after", 1)), Ok(IntentAnswer::Topics(r)) if r[0].is_ok()));

    // It comes back on the same folder: the same identity, a new epoch.
    let before = cluster.image(other).brokers[&BrokerId(controller)].epoch;
    cluster.start(controller, 1);
    cluster.wait_all_unfenced(3);
    assert!(cluster.image(other).brokers[&BrokerId(controller)].epoch > before);
    assert_eq!(cluster.nodes[&other].node.quorum.status().members.len(), 3, "no new member");
}

#[test]
fn a_wiped_controller_joins_anew_and_gets_its_vote_back() {
    let mut cluster = Cluster::new(3, SESSION);
    for id in 1..=3 {
        cluster.start(id, 1);
    }
    cluster.wait_all_unfenced(3);
    let formed = cluster.image(1).cluster_id;
    // The lowest id: it must not form a second cluster.
    cluster.kill(1);
    cluster.start(1, 2);
    cluster.wait("the new folder votes and the old one is gone", |cluster| {
        let members = cluster.nodes[&2].node.quorum.status().members;
        let ones: Vec<_> = members.iter().filter(|m| m.node.node == BrokerId(1)).collect();
        members.len() == 3 && ones.len() == 1 && ones[0].voter && ones[0].node == cluster.nodes[&1].node.me
    });
    cluster.wait_all_unfenced(3);
    assert_eq!(cluster.image(1).cluster_id, formed);
}

#[test]
fn a_dead_process_is_fenced_by_its_lost_connection_and_not_by_its_session() {
    let mut cluster = Cluster::new(3, 10 * DEADLINE);
    for id in 1..=3 {
        cluster.start(id, 1);
    }
    cluster.wait_all_unfenced(3);
    let controller = cluster.controller();
    let dead = (1..=3).find(|id| *id != controller).unwrap();
    cluster.kill(dead);
    cluster.wait("the dead broker is fenced", |cluster| cluster.image(controller).brokers[&BrokerId(dead)].fenced);
    cluster.start(dead, 1);
    cluster.wait_all_unfenced(3);
}

#[test]
fn a_broker_becomes_a_voter_and_the_controller_leaves_the_quorum() {
    let mut cluster = Cluster::new(3, SESSION);
    for id in 1..=3 {
        cluster.start(id, 1);
    }
    cluster.wait_all_unfenced(3);
    cluster.relocate(4);
    let add = |node| VoterChange::Add { node: BrokerId(node), directory: None };
    let remove = |node| VoterChange::Remove { node: BrokerId(node), directory: None, force: false };
    let other = cluster.nodes.keys().copied().find(|id| *id != cluster.controller()).unwrap();
    assert_eq!(cluster.change_voters(other, add(4)), Err(VoterError::NotAMember(BrokerId(4))));
    cluster.start(4, 1);
    cluster.wait_all_unfenced(4);
    assert_eq!(cluster.voters(4), [1, 2, 3], "a node that is no initial controller only learns");
    let outcome = cluster.change_voters(4, add(4)).unwrap();
    assert_eq!(outcome.voters.iter().map(|id| id.node.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(outcome.warning.is_some(), "four survive no more than three");
    assert!(matches!(cluster.change_voters(4, add(4)), Err(VoterError::AlreadyVotes(_))));

    // The controller takes its own vote away, asked on another node; it stays as a broker, and another one leads.
    let leaving = cluster.controller();
    let asked = cluster.nodes.keys().copied().find(|id| *id != leaving).unwrap();
    let outcome = cluster.change_voters(asked, remove(leaving)).unwrap();
    assert_eq!((outcome.voters.len(), outcome.warning), (3, None));
    let took = cluster.wait("another controller leads", |cluster| {
        cluster.nodes.iter().any(|(id, n)| *id != leaving && n.node.leadership().is_controller)
    });
    assert!(took < Duration::from_secs(5), "{took:?}");
    cluster.wait("the one that left follows", |cluster| {
        let left = &cluster.nodes[&leaving];
        let leader = left.node.leadership().leader;
        !left.node.leadership().is_controller && leader.is_some_and(|leader| leader.node.0 != leaving)
    });
    assert!(!cluster.voters(leaving).contains(&leaving));
    assert!(matches!(cluster.submit(leaving, create("after", 1)), Ok(IntentAnswer::Topics(r)) if r[0].is_ok()));

    // With two of the three voters dead nothing can change, and one dead can be taken out.
    let controller = cluster.controller();
    let dead = *cluster.voters(controller).iter().find(|id| **id != controller).unwrap();
    cluster.kill(dead);
    let alive = *cluster.voters(controller).iter().find(|id| **id != controller && **id != dead).unwrap();
    // At once: it answered a moment ago, and does not count.
    let refused = cluster.change_voters(controller, remove(alive));
    assert_eq!(refused, Err(VoterError::WouldLoseMajority { reachable: 1, voters: 2, needed: 2 }));
    let outcome = cluster.change_voters(controller, remove(dead)).unwrap();
    assert_eq!(outcome.voters.len(), 2);
    // It hosts a broker still: it follows the log when it is back.
    cluster.start(dead, 1);
    cluster.wait_all_unfenced(4);
    assert_eq!(cluster.voters(dead).len(), 2);
}

#[test]
fn a_member_that_moved_is_followed() {
    let mut cluster = Cluster::new(3, SESSION);
    for id in 1..=3 {
        cluster.start(id, 1);
    }
    cluster.wait_all_unfenced(3);
    let moving = cluster.nodes.keys().copied().find(|id| *id != cluster.controller()).unwrap();
    cluster.kill(moving);
    cluster.relocate(moving);
    cluster.start(moving, 1);
    let address = cluster.address(moving);
    cluster.wait("its new address is a part of the metadata everywhere", |cluster| {
        cluster.nodes.values().all(|n| {
            let members = n.node.quorum.status().members;
            members.len() == 3 && members.iter().any(|m| m.node.node.0 == moving && m.address == address)
        })
    });
    cluster.wait_all_unfenced(3);
    // It is reached there: what is committed from now on arrives.
    assert!(matches!(cluster.submit(moving, create("after", 1)), Ok(IntentAnswer::Topics(r)) if r[0].is_ok()));
    assert_eq!(cluster.voters(moving), [1, 2, 3]);
}

#[test]
fn a_forced_removal_waits_for_its_majority_and_ends_when_that_is_there() {
    let mut cluster = Cluster::new(3, SESSION);
    for id in 1..=3 {
        cluster.start(id, 1);
    }
    cluster.wait_all_unfenced(3);
    let controller = cluster.controller();
    let [dead, leaving] = [1, 2, 3].into_iter().filter(|id| *id != controller).collect::<Vec<_>>()[..] else {
        panic!()
    };
    cluster.kill(dead);
    cluster.wait("the dead voter is missed", |cluster| {
        let members = cluster.nodes[&controller].node.quorum.status().members;
        members.iter().any(|m| m.node.node.0 == dead && m.heard.is_none_or(|ago| ago > voters::REACHABLE_WITHIN))
    });
    let remove = VoterChange::Remove { node: BrokerId(leaving), directory: None, force: true };
    assert_eq!(cluster.change_voters(leaving, remove), Err(VoterError::Unknown), "two of the new two must agree");
    assert!(cluster.nodes[&controller].node.quorum.status().half_way.is_some());
    cluster.start(dead, 1);
    cluster.wait("the change is made, whoever leads by now", |cluster| {
        cluster.nodes.keys().all(|id| {
            let status = cluster.nodes[id].node.quorum.status();
            status.half_way.is_none() && cluster.voters(*id).len() == 2 && !cluster.voters(*id).contains(&leaving)
        })
    });
    cluster.wait_all_unfenced(3);
}
