//! A node alone: a real quorum of one, real logs; from the metadata command to the acked record.

use super::*;
use crate::metadata::command::*;
use crate::metadata::intent::{Intent, IntentAnswer, SubmitFuture};
use crate::metadata::quorum::QuorumConfig;
use crate::metadata::raft::types::RaftNodeId;
use crate::platform::disk::faults::{self, Fault, Operation};
use crate::platform::disk::room::Room;
use crate::platform::random;
use crate::replica::follower::ReplicaConfig;
use crate::replica::partition::PartitionError;
use crate::replica::testing::{answer, batch, flip};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);

/// Does nothing, and keeps what it was told.
#[derive(Default)]
struct NoController(Mutex<Vec<Intent>>);

impl ControllerChannel for NoController {
    fn submit(&self, intent: Intent, _: Duration) -> SubmitFuture<'_> {
        self.0.lock().push(intent);
        Box::pin(async { Ok(IntentAnswer::Done) })
    }
}

impl NoController {
    /// How often it was told that a copy is out.
    fn reported(&self, id: TopicPartition) -> usize {
        let is_of =
            |intent: &&Intent| matches!(intent, Intent::ReportDamage { reports, .. } if reports[0].partition == id);
        self.0.lock().iter().filter(is_of).count()
    }
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl LeadershipListener for Seen {
    fn became_leader(&self, partition: &Arc<Partition>, topic: &str, epoch: LeaderEpoch) {
        self.0.lock().push(format!("lead {topic}-{} in {epoch}", partition.id.partition));
    }
    fn resigned(&self, partition: TopicPartition, topic: &str) {
        self.0.lock().push(format!("resign {topic}-{}", partition.partition));
    }
}

async fn quorum(folder: &Path) -> Quorum {
    let me = RaftNodeId { node: BrokerId(1), directory: DirectoryId(random::uuid()) };
    let room = Room::of(folder);
    let config = QuorumConfig { dir: folder.join("metadata"), me, cluster_id: None, room };
    let (quorum, _service) = Quorum::start(config).await.unwrap();
    quorum.initialize(ClusterId(random::uuid()), BTreeMap::from([(me, "127.0.0.1:1".to_string())])).await.unwrap();
    tokio::time::timeout(LONG, quorum.leadership().wait_for(|l| l.is_controller)).await.unwrap().unwrap();
    quorum
}

async fn propose(quorum: &Quorum, command: Command) -> Answer {
    quorum.propose(command, LONG).await.unwrap().1
}

fn registration() -> BrokerRegistration {
    let endpoint = Endpoint { listener: "x".into(), host: "127.0.0.1".into(), port: 1 };
    BrokerRegistration {
        broker: BrokerId(1),
        directory: DirectoryId(uuid::Uuid::from_u128(1)),
        incarnation: IncarnationId(random::uuid()),
        boot_id: "b".into(),
        clean_stop: true,
        data_lost: false,
        kafka_endpoints: Vec::new(),
        replica_endpoint: endpoint.clone(),
        cluster_endpoint: endpoint.clone(),
        admin_endpoint: endpoint,
        rack: None,
        version: "0".into(),
    }
}

fn hosted(folder: &Path, quorum: &Quorum) -> Hosted {
    hosted_with(folder, quorum, ReplicaConfig::default())
}

fn hosted_with(folder: &Path, quorum: &Quorum, config: ReplicaConfig) -> Hosted {
    hosted_over(LogFolder::open(folder, true).unwrap(), folder, quorum, config, Arc::default())
}

fn hosted_over(
    logs: LogFolder,
    folder: &Path,
    quorum: &Quorum,
    config: ReplicaConfig,
    controller: Arc<NoController>,
) -> Hosted {
    let listener =
        crate::config::broker::ListenerConfig { name: "x".into(), bind: "x:1".into(), advertised: "x:1".into() };
    let node = NodeConfig {
        node_id: BrokerId(1),
        data_dir: folder.into(),
        is_broker: true,
        is_controller: true,
        rack: None,
        kafka_listeners: Vec::new(),
        replica_listener: listener.clone(),
        cluster_listener: listener.clone(),
        admin_listener: listener,
        controllers: Vec::new(),
        kafka: Default::default(),
    };
    Hosted::new(HostedParts {
        broker: BrokerId(1),
        quorum: quorum.clone(),
        folder: logs,
        flusher: Flusher::start(2),
        controller,
        config,
        node: Arc::new(node),
    })
}

fn topic(name: &str, partitions: usize) -> NewTopic {
    NewTopic {
        name: name.into(),
        id: TopicId(random::uuid()),
        assignments: vec![vec![BrokerId(1)]; partitions],
        configs: BTreeMap::new(),
    }
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = clock::now() + LONG;
    while !is() {
        assert!(clock::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn register(quorum: &Quorum) -> BrokerEpoch {
    let Answer::Registered { epoch } = propose(quorum, Command::RegisterBroker(registration())).await else { panic!() };
    epoch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_created_served_deleted_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let quorum = quorum(folder.path()).await;
    let epoch = register(&quorum).await;
    let first = hosted(folder.path(), &quorum);
    let seen = Arc::<Seen>::default();
    first.add_listener(seen.clone());
    first.set_broker_epoch(epoch);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn({
        let hosted = first.clone();
        async move { hosted.run(stopped).await }
    });
    tokio::time::timeout(LONG, first.ready().wait_for(|r| *r)).await.unwrap().unwrap();
    propose(&quorum, Command::UnfenceBroker { broker: BrokerId(1), epoch }).await;
    let (a, b, d) = (topic("a", 50), topic("b", 2), topic("d", 2));
    propose(&quorum, Command::CreateTopics { topics: vec![a.clone(), b.clone(), d.clone()] }).await;
    until("all lead", || first.gauges().leaders() == 54).await;
    until("all told", || seen.0.lock().len() == 54).await;
    let id = TopicPartition::new(a.id, 7);
    let partition = first.get(id).unwrap();
    let appended = partition.append(&batch(&["x", "y"]), -1).unwrap();
    answer(appended.wait).await.unwrap();
    propose(&quorum, Command::DeleteTopics { topics: vec![b.id] }).await;
    until("b is gone", || first.gauges().leaders() == 52).await;
    assert!(first.get(TopicPartition::new(b.id, 0)).is_none());
    until("told", || seen.0.lock().iter().filter(|s| s.starts_with("resign b")).count() == 2).await;
    stop.send(true).unwrap();
    running.await.unwrap();
    assert!(first.close());
    assert_eq!(first.strays_held().folders, 0, "what is seen to be deleted is removed");
    assert!(matches!(partition.append(&batch(&["z"]), 1), Err(PartitionError::NotHosted)));
    drop((first, partition));

    // While it is away.
    propose(&quorum, Command::DeleteTopics { topics: vec![d.id] }).await;
    let epoch = register(&quorum).await;
    let c = topic("c", 1);
    propose(&quorum, Command::CreateTopics { topics: vec![c.clone()] }).await;
    let second = hosted(folder.path(), &quorum);
    second.set_broker_epoch(epoch);
    let (stop, running) = run(&second);
    tokio::time::timeout(LONG, second.ready().wait_for(|r| *r)).await.unwrap().unwrap();
    let partition = second.get(id).unwrap();
    assert_eq!(partition.status().log_end, Offset(2));
    assert_eq!(partition.status().high_watermark, Offset(2), "from the checkpoint");
    assert_eq!(second.strays_held().folders, 2, "what was deleted unseen is kept");
    propose(&quorum, Command::UnfenceBroker { broker: BrokerId(1), epoch }).await;
    until("all lead again", || second.gauges().leaders() >= 50).await;
    let appended = partition.append(&batch(&["z"]), -1).unwrap();
    assert_eq!(appended.appended.base_offset, Offset(2));
    answer(appended.wait).await.unwrap();
    stop.send(true).unwrap();
    running.await.unwrap();
    assert!(second.close());
    drop((second, partition));

    let often = Duration::from_millis(10);
    let config = ReplicaConfig { retention_check_interval: often, stray_retention_ms: 1, ..ReplicaConfig::default() };
    let third = hosted_with(folder.path(), &quorum, config);
    assert_eq!(third.strays_held().folders, 2, "over a restart, too");
    let (stop, running) = run(&third);
    until("their grace time is over", || third.strays_held().folders == 0).await;
    stop.send(true).unwrap();
    running.await.unwrap();
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_keeps_the_marks_of_logs_that_are_not_open_yet() {
    let folder = tempfile::tempdir().unwrap();
    let quorum = quorum(folder.path()).await;
    let hosted = hosted(folder.path(), &quorum);
    let id = TopicPartition::new(TopicId(random::uuid()), 3);
    hosted.inner.marks_before.lock().insert(id, Offset(42));
    hosted.inner.store_high_watermarks();
    assert_eq!(hosted.inner.folder.load_high_watermarks().unwrap().get(&id), Some(&Offset(42)));
    quorum.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_finds_what_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let quorum = quorum(folder.path()).await;
    let epoch = register(&quorum).await;
    let interval = Duration::from_millis(50);
    let config =
        ReplicaConfig { scrub_interval: interval, scrub_bytes_per_second: 1 << 30, ..ReplicaConfig::default() };
    let hosted = hosted_with(folder.path(), &quorum, config);
    hosted.set_broker_epoch(epoch);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn({
        let hosted = hosted.clone();
        async move { hosted.run(stopped).await }
    });
    tokio::time::timeout(LONG, hosted.ready().wait_for(|r| *r)).await.unwrap().unwrap();
    propose(&quorum, Command::UnfenceBroker { broker: BrokerId(1), epoch }).await;
    let t = topic("t", 3);
    propose(&quorum, Command::CreateTopics { topics: vec![t.clone()] }).await;
    let id = TopicPartition::new(t.id, 1);
    until("all lead", || hosted.gauges().leaders() == 3 && hosted.get(id).is_some()).await;
    let partition = hosted.get(id).unwrap();
    for value in ["x", "y"] {
        answer(partition.append(&batch(&[value]), -1).unwrap().wait).await.unwrap();
    }
    assert_eq!(hosted.gauges().damaged(), 0);
    flip(&partition, 1, false);
    until("it is found", || hosted.gauges().damaged() == 1).await;
    stop.send(true).unwrap();
    running.await.unwrap();
    quorum.shutdown().await;
}

/// A node that was killed after one record, and started again on a disk with this fault.
struct Again {
    folder: tempfile::TempDir,
    quorum: Quorum,
    epoch: BrokerEpoch,
    id: TopicPartition,
    hosted: Hosted,
    controller: Arc<NoController>,
    armed: faults::Armed,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<()>,
}

fn run(hosted: &Hosted) -> (watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let (stop, stopped) = watch::channel(false);
    let hosted = hosted.clone();
    (stop, tokio::spawn(async move { hosted.run(stopped).await }))
}

async fn started_with(fault: Fault) -> Again {
    let folder = tempfile::tempdir().unwrap();
    let quorum = quorum(folder.path()).await;
    let epoch = register(&quorum).await;
    let first = hosted(folder.path(), &quorum);
    first.set_broker_epoch(epoch);
    let (stop, running) = run(&first);
    propose(&quorum, Command::UnfenceBroker { broker: BrokerId(1), epoch }).await;
    let t = topic("t", 1);
    propose(&quorum, Command::CreateTopics { topics: vec![t.clone()] }).await;
    let id = TopicPartition::new(t.id, 0);
    until("it leads", || first.gauges().leaders() == 1 && first.get(id).is_some()).await;
    let partition = first.get(id).unwrap();
    answer(partition.append(&batch(&["x"]), -1).unwrap().wait).await.unwrap();
    stop.send(true).unwrap();
    running.await.unwrap();
    first.inner.node.flusher.stop();
    drop((first, partition));

    let epoch = register(&quorum).await;
    let mut logs = LogFolder::open(folder.path(), false);
    until("the first has let go", || {
        if logs.is_err() {
            logs = LogFolder::open(folder.path(), false);
        }
        logs.is_ok()
    })
    .await;
    let controller = Arc::<NoController>::default();
    let hosted = hosted_over(logs.unwrap(), folder.path(), &quorum, ReplicaConfig::default(), controller.clone());
    hosted.set_broker_epoch(epoch);
    let armed = faults::arm(&folder.path().join("partitions"), fault);
    let (stop, running) = run(&hosted);
    tokio::time::timeout(LONG, hosted.ready().wait_for(|r| *r)).await.unwrap().unwrap();
    assert!(hosted.get(id).is_none(), "its log cannot be opened");
    Again { folder, quorum, epoch, id, hosted, controller, armed, stop, running }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_could_not_be_opened_on_a_full_disk_is_hosted_once_there_is_room() {
    let again = started_with(Fault::full_after(0)).await;
    drop(again.armed);
    // The broker is fenced still: nothing in the image changes that would have it opened.
    until("it is hosted", || again.hosted.get(again.id).is_some()).await;
    propose(&again.quorum, Command::UnfenceBroker { broker: BrokerId(1), epoch: again.epoch }).await;
    until("it leads", || again.hosted.gauges().leaders() == 1).await;
    assert_eq!(again.hosted.get(again.id).unwrap().status().log_end, Offset(1));
    again.stop.send(true).unwrap();
    again.running.await.unwrap();
    assert!(again.hosted.close(), "all is open, and in order");
    again.quorum.shutdown().await;
    drop(again.folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_disk_keeps_from_being_opened_is_led_by_another() {
    let again = started_with(Fault::full_after(0)).await;
    propose(&again.quorum, Command::UnfenceBroker { broker: BrokerId(1), epoch: again.epoch }).await;
    until("the controller is asked for another leader", || again.controller.reported(again.id) > 0).await;
    drop(again.armed);
    until("it is hosted", || again.hosted.get(again.id).is_some()).await;
    again.stop.send(true).unwrap();
    again.running.await.unwrap();
    assert!(again.hosted.close(), "nothing was given up");
    again.quorum.shutdown().await;
    drop(again.folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_opened_for_good_is_reported_and_not_believed_later() {
    let again = started_with(Fault::broken(Operation::Sync)).await;
    until("the controller is told", || again.controller.reported(again.id) > 0).await;
    drop(again.armed);
    propose(&again.quorum, Command::UnfenceBroker { broker: BrokerId(1), epoch: again.epoch }).await;
    until("it is told again", || again.controller.reported(again.id) > 1).await;
    assert!(again.hosted.get(again.id).is_none());
    again.stop.send(true).unwrap();
    again.running.await.unwrap();
    assert!(!again.hosted.close());
    let logs = &again.hosted.inner.folder;
    assert!(logs.is_offline(), "a sync that failed is final for the whole folder (rule 19)");
    assert!(!logs.forget_loss().unwrap());
    assert!(again.folder.path().join("partitions/.lossy").exists(), "and the next start knows");
    again.quorum.shutdown().await;
    drop(again.folder);
}
