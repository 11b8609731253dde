//! One running node: what has been started so far, in order, and how it stops.

use super::control::ControlRuntime;
use super::folder::{self, DataFolder};
use super::{BrokerError, registration, stopping};
use crate::admin::server::{self as admin, AdminParts, LocalGroups};
use crate::cluster::channel::Channel;
use crate::cluster::node::Node;
use crate::cluster::session::{self, SessionParts};
use crate::cluster::states::{Asker, LocalReplicas};
use crate::cluster::{formation, refill, server};
use crate::config::broker::{ListenerConfig, NodeConfig};
use crate::controller::controller::Controller;
use crate::controller::liveness::Timing;
use crate::group::coordinator::{Coordinator, CoordinatorParts};
use crate::ids::*;
use crate::kafka::context::Services;
use crate::kafka::listener as kafka;
use crate::kafka::state::KafkaState;
use crate::log::flush::Flusher;
use crate::log::folder::LogFolder;
use crate::metadata::command::BrokerRegistration;
use crate::metadata::image::Image;
use crate::metadata::intent::ControllerChannel;
use crate::metadata::quorum::{Quorum, QuorumConfig};
use crate::metadata::raft::types::RaftNodeId;
use crate::platform::disk::room::Room;
use crate::platform::network;
use crate::replica::follower::ReplicaConfig;
use crate::replica::hosted::{Hosted, HostedParts};
use crate::telemetry::health::{Health, HealthState};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A failed disk ends the process: fenced at once, its leaders move to replicas whose disks work.
const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Runs one node until `stop` resolves (SIGTERM, say), then stops it cleanly. An error means that it did not start, or
/// that it must not go on; the process should then end.
pub async fn run(config: NodeConfig, stop: impl Future<Output = ()>) -> Result<(), BrokerError> {
    run_watched(config, stop, Health::default()).await
}

/// As [`run`], telling `health` how far it is.
pub async fn run_watched(
    config: NodeConfig,
    stop: impl Future<Output = ()>,
    health: Health,
) -> Result<(), BrokerError> {
    let config = Arc::new(config);
    let folder = DataFolder::open(&config.data_dir, config.node_id)?;
    let mut running = Running::new(config, folder, health)?;
    let mut stop = pin!(stop);
    let fatal = running.fatal.subscribe();
    let result = {
        let serving = async {
            running.start().await?;
            running.supervise().await
        };
        tokio::select! {
            result = serving => result,
            why = failed(fatal) => Err(BrokerError::QuorumFailed(why)),
            () = &mut stop => Ok(()),
        }
    };
    match &result {
        Ok(()) => running.stop().await,
        // A dead quorum cannot hand anything over, and what failed to start has nothing to: end at once, uncleanly.
        Err(error) => {
            running.health.stopping(error.to_string());
            running.abandon().await;
        }
    }
    result
}

/// Invariant: fields are set in the order of the start, so what is set says how far it came.
struct Running {
    config: Arc<NodeConfig>,
    folder: DataFolder,
    /// Of the data folder's file system.
    room: Arc<Room>,
    health: Health,
    control: ControlRuntime,
    /// Ends the cluster port, the session and waiting intents.
    control_stop: watch::Sender<bool>,
    /// Ends the Kafka, replica and admin ports.
    ports_stop: watch::Sender<bool>,
    hosted_stop: watch::Sender<bool>,
    wants_shutdown: watch::Sender<bool>,
    logs_open: watch::Sender<bool>,
    epoch: watch::Sender<BrokerEpoch>,
    /// Why the quorum died, if it did.
    fatal: watch::Sender<Option<String>>,
    cluster: Option<InCluster>,
    replicas: LocalReplicas,
    hosted: Option<Hosted>,
    logs_folder: Option<LogFolder>,
    flusher: Option<Flusher>,
    hosted_task: Option<JoinHandle<()>>,
    ports: Vec<JoinHandle<()>>,
}

/// The quorum is up and the cluster port serves.
struct InCluster {
    node: Node,
    channel: Arc<dyn ControllerChannel>,
}

impl Running {
    fn new(config: Arc<NodeConfig>, folder: DataFolder, health: Health) -> Result<Running, BrokerError> {
        Ok(Running {
            config,
            room: Room::of(folder.path()),
            folder,
            health,
            control: ControlRuntime::start().map_err(BrokerError::Runtime)?,
            control_stop: watch::Sender::new(false),
            ports_stop: watch::Sender::new(false),
            hosted_stop: watch::Sender::new(false),
            wants_shutdown: watch::Sender::new(false),
            logs_open: watch::Sender::new(false),
            epoch: watch::Sender::new(session::NOT_REGISTERED),
            fatal: watch::Sender::new(None),
            cluster: None,
            replicas: LocalReplicas::default(),
            hosted: None,
            logs_folder: None,
            flusher: None,
            hosted_task: None,
            ports: Vec::new(),
        })
    }

    async fn start(&mut self) -> Result<(), BrokerError> {
        // Known before anything is written: a wrong address or a port in use should not cost a registration.
        let registration = registration::registration(&self.config, &self.folder)?;
        self.probe_ports().await?;

        self.health.starting("opening the metadata log");
        let (node, controller, asker) = self.start_quorum().await?;
        let log_ends = asker.clone();
        let (watched, fatal) = (node.quorum.clone(), self.fatal.clone());
        self.control.handle().spawn(async move { fatal.send_replace(Some(watched.fatal().await)) });
        let channel: Arc<dyn ControllerChannel> = Arc::new(Channel::new(
            node.clone(),
            controller,
            self.control.handle().clone(),
            self.control_stop.subscribe(),
        ));
        self.cluster = Some(InCluster { node: node.clone(), channel: channel.clone() });

        self.health.starting("forming or joining the cluster");
        self.form(&node).await?;

        self.health.starting("opening the logs");
        let (hosted, logs_folder) = self.open_logs(&node.quorum, channel.clone()).await?;
        let registration = registration.with(&logs_folder);
        let local_groups = LocalGroups::default();
        let parts = AdminParts {
            groups: local_groups.clone(),
            quorum: node.quorum.clone(),
            hosted: hosted.clone(),
            controller: channel.clone(),
            replicas: asker,
            config: self.config.clone(),
        };
        let listener = self.config.admin_listener.clone();
        let serving = admin::serve(parts, listener.clone(), self.ports_stop.subscribe(), self.ready_flag()).await;
        self.keep_port(&listener, serving)?;
        if !self.config.is_broker {
            self.health.ready();
            return Ok(());
        }

        self.health.starting("registering with the controller");
        let epoch = self.register(&node, registration).await;
        hosted.set_broker_epoch(epoch);
        // It follows the leadership of its partitions, so it listens before any is taken up.
        let groups = Coordinator::start(CoordinatorParts {
            config: self.config.clone(),
            quorum: node.quorum.clone(),
            hosted: hosted.clone(),
            controller: channel.clone(),
            log_ends,
        });
        // Once: a node starts once.
        let _ = local_groups.set(groups.clone());
        let services = Arc::new(Services {
            config: self.config.clone(),
            quorum: node.quorum.clone(),
            hosted: hosted.clone(),
            controller: channel,
            groups,
            broker_epoch: self.epoch.subscribe(),
            state: KafkaState::new(&self.config),
        });
        let mut logs = hosted.ready();
        self.start_hosted(hosted);
        // Followers' fetches are taken before this broker can be elected to lead anything.
        self.serve_kafka(&services, &self.config.replica_listener.clone(), true).await?;
        let _ = logs.wait_for(|open| *open).await;
        if logs_folder.is_offline() {
            return Err(BrokerError::DiskFailed { path: self.folder.path().to_path_buf() });
        }
        // Only now: a process that ended while logs were being recovered must leave the next one as distrustful. It will
        // report the loss again, which costs a catch-up at most.
        if logs_folder.is_lossy() && !logs_folder.forget_loss()? {
            tracing::warn!(
                "not every log could be recovered from a disk error: the next start will report the loss again"
            );
        }
        self.logs_open.send_replace(true);

        self.health.starting("waiting for the controller to unfence this broker");
        unfenced(&node.quorum, self.config.node_id, &self.epoch).await;
        for listener in self.config.kafka_listeners.clone() {
            self.serve_kafka(&services, &listener, false).await?;
        }
        self.health.ready();
        Ok(())
    }

    /// Follows whether this broker is fenced, for as long as the node runs.
    async fn supervise(&self) -> Result<(), BrokerError> {
        let quorum = &self.cluster.as_ref().expect("started nodes are in a cluster").node.quorum;
        let mut updates = quorum.subscribe();
        loop {
            if let Ok(Err(RecvError::Closed)) = tokio::time::timeout(DISK_CHECK_INTERVAL, updates.recv()).await {
                return Err(BrokerError::QuorumFailed("it publishes no more".to_string()));
            }
            if self.logs_folder.as_ref().is_some_and(LogFolder::is_offline) {
                return Err(BrokerError::DiskFailed { path: self.folder.path().to_path_buf() });
            }
            if quorum.is_removed() && !self.config.is_broker {
                self.health.starting("removed from the quorum: stop this controller, or start it again to join anew");
            } else if !self.config.is_broker || is_unfenced(&quorum.image(), self.config.node_id, *self.epoch.borrow())
            {
                self.health.ready();
            } else {
                self.health
                    .starting("fenced: the controller does not hear this broker, or it has just registered again");
            }
        }
    }

    async fn probe_ports(&self) -> Result<(), BrokerError> {
        if !self.config.is_broker {
            return Ok(());
        }
        for listener in self.config.kafka_listeners.iter().chain([&self.config.replica_listener]) {
            network::listen(&listener.bind).await.map_err(|source| port_error(listener, source))?;
        }
        Ok(())
    }

    /// Quorum and cluster port, on the control runtime.
    async fn start_quorum(&self) -> Result<(Node, Arc<Controller>, Arc<Asker>), BrokerError> {
        let me = RaftNodeId { node: self.config.node_id, directory: self.folder.directory_id() };
        let (dir, cluster_id, room) = (self.folder.metadata(), self.folder.cluster_id(), self.room.clone());
        let quorum_config = QuorumConfig { dir, me, cluster_id, room };
        let (config, stop) = (self.config.clone(), self.control_stop.subscribe());
        let remembered = self.folder.cluster_id();
        let replicas = self.replicas.clone();
        let path = self.folder.path().to_path_buf();
        let started = self.control.run(async move {
            let (quorum, raft) = Quorum::start(quorum_config).await?;
            let initialized = quorum.is_initialized().await.map_err(|e| BrokerError::QuorumFailed(e.to_string()))?;
            if let (Some(cluster), false) = (remembered, initialized) {
                return Err(BrokerError::MetadataLost { path, cluster });
            }
            let node = Node::new(me, quorum.clone());
            let asker = Arc::new(Asker::new(node.clone(), replicas.clone(), Handle::current()));
            let controller = Arc::new(Controller::new(quorum, config.clone(), asker.clone()));
            let timing = Timing::with_session(session_timeout(&config));
            let listener = &config.cluster_listener;
            let failed = |source| port_error(listener, source);
            let socket = network::listen(&listener.bind).await.map_err(failed)?;
            server::start(socket, raft, node.clone(), controller.clone(), replicas, timing, stop).map_err(failed)?;
            Ok((node, controller, asker))
        });
        started.await.ok_or_else(stopped_early)?
    }

    async fn form(&mut self, node: &Node) -> Result<(), BrokerError> {
        let (forming, config) = (node.clone(), self.config.clone());
        let formed = self.control.run(async move { formation::form(&forming, &config).await });
        let (cluster, lost) = formed.await.ok_or_else(stopped_early)??;
        let (folder, health) = (&mut self.folder, &self.health);
        folder::with_room(health, async || folder.remember_cluster(cluster)).await?;
        let stop = || self.control_stop.subscribe();
        self.control.handle().spawn(formation::announce(node.clone(), self.config.clone(), stop()));
        self.control.handle().spawn(refill::follow(node.clone(), lost, stop()));
        tracing::info!(%cluster, node = %self.config.node_id, directory = %self.folder.directory_id(), "in the cluster");
        Ok(())
    }

    async fn open_logs(
        &mut self,
        quorum: &Quorum,
        controller: Arc<dyn ControllerChannel>,
    ) -> Result<(Hosted, LogFolder), BrokerError> {
        self.folder.begin_use()?;
        let (path, clean) = (self.folder.path().to_path_buf(), self.folder.was_clean());
        let opened = async || {
            let (path, room) = (path.clone(), self.room.clone());
            let opened = tokio::task::spawn_blocking(move || LogFolder::open_sharing(&path, clean, room)).await;
            Ok(opened.map_err(|e| BrokerError::Runtime(io::Error::other(e)))??)
        };
        let folder = folder::with_room(&self.health, opened).await?;
        let threads = usize::try_from(self.config.kafka.int("highwater.flush.threads")).unwrap_or(1);
        let flusher = Flusher::start(threads);
        self.flusher = Some(flusher.clone());
        let hosted = Hosted::new(HostedParts {
            broker: self.config.node_id,
            quorum: quorum.clone(),
            folder: folder.clone(),
            flusher,
            controller,
            config: replica_config(&self.config),
            node: self.config.clone(),
        });
        self.replicas.are(hosted.clone());
        self.hosted = Some(hosted.clone());
        self.logs_folder = Some(folder.clone());
        Ok((hosted, folder))
    }

    /// Starts the session; resolves with the epoch once this node's own image has the registration.
    async fn register(&self, node: &Node, registration: BrokerRegistration) -> BrokerEpoch {
        let parts = SessionParts {
            node: node.clone(),
            registration,
            heartbeat_every: millis(&self.config, "broker.heartbeat.interval.ms"),
            silence_max: session_timeout(&self.config) / 2,
            ready: self.logs_open.subscribe(),
            wants_shutdown: self.wants_shutdown.subscribe(),
            epoch: self.epoch.clone(),
            diverged: self.fatal.clone(),
        };
        self.control.handle().spawn(session::run(parts, self.control_stop.subscribe()));
        let mut epochs = self.epoch.subscribe();
        loop {
            let epoch = epochs
                .wait_for(|epoch| *epoch != session::NOT_REGISTERED)
                .await
                .map_or(session::NOT_REGISTERED, |epoch| *epoch);
            let registered_at = RaftIndex(u64::try_from(epoch.0).unwrap_or(0));
            if node.quorum.await_applied(registered_at, Duration::from_secs(1)).await {
                return epoch;
            }
        }
    }

    /// Follows the image, and tells `hosted` the epoch of each later registration of this process.
    fn start_hosted(&mut self, hosted: Hosted) {
        let (mut epochs, stop) = (self.epoch.subscribe(), self.hosted_stop.subscribe());
        epochs.mark_unchanged();
        let told = hosted.clone();
        tokio::spawn(async move {
            while epochs.changed().await.is_ok() {
                let epoch = *epochs.borrow_and_update();
                told.set_broker_epoch(epoch);
            }
        });
        self.hosted_task = Some(tokio::spawn(async move { hosted.run(stop).await }));
    }

    async fn serve_kafka(
        &mut self,
        services: &Arc<Services>,
        listener: &ListenerConfig,
        is_replica: bool,
    ) -> Result<(), BrokerError> {
        let stop = self.ports_stop.subscribe();
        let serving = kafka::serve(services.clone(), listener.clone(), is_replica, stop).await;
        self.keep_port(listener, serving)
    }

    fn keep_port(
        &mut self,
        listener: &ListenerConfig,
        serving: io::Result<(SocketAddr, JoinHandle<()>)>,
    ) -> Result<(), BrokerError> {
        let (address, task) = serving.map_err(|source| port_error(listener, source))?;
        tracing::info!(listener = listener.name, %address, "listening");
        self.ports.push(task);
        Ok(())
    }

    /// True while this node is ready.
    fn ready_flag(&self) -> watch::Receiver<bool> {
        let (flag, receiver) = watch::channel(false);
        let mut health = self.health.watch();
        tokio::spawn(async move {
            loop {
                let ready = matches!(*health.borrow_and_update(), HealthState::Ready);
                flag.send_replace(ready);
                if health.changed().await.is_err() || flag.is_closed() {
                    return;
                }
            }
        });
        receiver
    }

    /// In reverse of the start, as far as that came.
    async fn stop(self) {
        self.health.stopping("handing over leaders");
        self.wants_shutdown.send_replace(true);
        let me = self.config.node_id;
        let epoch = *self.epoch.borrow();
        let registered = epoch != session::NOT_REGISTERED;
        if let (Some(cluster), true) = (&self.cluster, registered) {
            stopping::hand_over(&cluster.node.quorum, &cluster.channel, me, epoch).await;
        }
        self.health.stopping("closing ports and logs");
        self.ports_stop.send_replace(true);
        stopping::ports_closed(self.ports).await;
        self.hosted_stop.send_replace(true);
        if let Some(task) = self.hosted_task {
            let _ = task.await;
        }
        // A log that was never opened keeps what the last run left: no marker then.
        let mut closed = false;
        if let Some(hosted) = self.hosted {
            let flusher = self.flusher;
            let closing = tokio::task::spawn_blocking(move || {
                let closed = hosted.close();
                flusher.inspect(Flusher::stop);
                closed
            });
            closed = closing.await.unwrap_or(false);
        }
        if let (Some(cluster), true) = (&self.cluster, registered) {
            stopping::fence_self(&cluster.channel, me, epoch).await;
        }
        self.control_stop.send_replace(true);
        if let Some(cluster) = self.cluster {
            let quorum = cluster.node.quorum;
            let _ = self.control.run(async move { quorum.shutdown().await }).await;
        }
        self.control.stop().await;
        if closed && let Err(error) = self.folder.end_use() {
            tracing::warn!(%error, "the next start will recover the logs");
        }
        tracing::info!("stopped");
    }

    async fn abandon(self) {
        for stop in [&self.ports_stop, &self.hosted_stop, &self.control_stop] {
            stop.send_replace(true);
        }
        self.control.stop().await;
    }
}

/// Resolves with why the quorum died.
async fn failed(mut fatal: watch::Receiver<Option<String>>) -> String {
    match fatal.wait_for(Option::is_some).await.map(|why| why.clone()) {
        Ok(why) => why.unwrap_or_default(),
        Err(_) => std::future::pending().await,
    }
}

fn port_error(listener: &ListenerConfig, source: io::Error) -> BrokerError {
    BrokerError::Port { listener: listener.name.clone(), address: listener.bind.clone(), source }
}

fn stopped_early() -> BrokerError {
    BrokerError::Runtime(io::Error::other("the control runtime ended"))
}

fn millis(config: &NodeConfig, name: &str) -> Duration {
    Duration::from_millis(u64::try_from(config.kafka.int(name)).unwrap_or(0))
}

fn session_timeout(config: &NodeConfig) -> Duration {
    millis(config, "broker.session.timeout.ms")
}

fn replica_config(config: &NodeConfig) -> ReplicaConfig {
    let millis = |name| millis(config, name);
    let bytes = |name| usize::try_from(config.kafka.int(name)).unwrap_or(0);
    ReplicaConfig {
        lag_time_max: millis("replica.lag.time.max.ms"),
        fetch_bytes_max: bytes("replica.fetch.response.max.bytes"),
        fetch_partition_bytes_max: bytes("replica.fetch.max.bytes"),
        fetch_wait_max: millis("replica.fetch.wait.max.ms"),
        retention_check_interval: millis("log.retention.check.interval.ms"),
        throttled_rate: config.kafka.int("follower.replication.throttled.rate"),
        leader_throttled_rate: config.kafka.int("leader.replication.throttled.rate"),
        scrub_bytes_per_second: u64::try_from(config.kafka.int("highwater.scrub.bytes.per.second")).unwrap_or(0),
        scrub_interval: millis("highwater.scrub.interval.ms"),
        stray_retention_ms: config.kafka.int("highwater.stray.retention.ms"),
    }
}

fn is_unfenced(image: &Image, me: BrokerId, epoch: BrokerEpoch) -> bool {
    image.brokers.get(&me).is_some_and(|broker| broker.epoch == epoch && !broker.fenced)
}

/// Resolves once the image says that this registration is unfenced.
async fn unfenced(quorum: &Quorum, me: BrokerId, epoch: &watch::Sender<BrokerEpoch>) {
    let mut updates = quorum.subscribe();
    while !is_unfenced(&quorum.image(), me, *epoch.borrow()) {
        if matches!(updates.recv().await, Err(RecvError::Closed)) {
            // The quorum is gone: whoever watches it for a fatal end says so.
            std::future::pending::<()>().await;
        }
    }
}
