//! The coordinator with a log and a controller in memory: what is told when.

use super::super::expirer::Pass;
use super::super::log::{LoadedOffsets, OffsetsLog, Written};
use super::super::names::Names;
use super::*;
use crate::ids::*;
use crate::metadata::command::{Answer, Command, GroupChange, MetadataError};
use crate::metadata::group_change::{GroupMember, GroupWrite};
use crate::metadata::image::Image;
use crate::metadata::image::groups::Group;
use crate::metadata::image::topics::{Partition, Topic};
use crate::metadata::intent::{Intent, IntentAnswer, IntentError, SubmitError, SubmitFuture};
use crate::platform::clock;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::watch;

const TOPIC: TopicId = TopicId(uuid::Uuid::from_u128(1));
const ME: BrokerId = BrokerId(1);

pub(super) fn place() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

/// Metadata that ChangeGroups changes, while the gate is open.
pub(super) struct Cluster {
    image: Mutex<Arc<Image>>,
    pub gate: watch::Sender<bool>,
    /// The next change lands, but another one comes before it: it is refused as stale once.
    is_stale_once: Mutex<bool>,
    /// The next command's answer is lost; true: after it landed.
    pub loses_answer: Mutex<Option<bool>>,
    /// Every command is lost, and that is told at once.
    pub loses_all: Mutex<bool>,
    /// Every command: its changes.
    pub commands: Mutex<Vec<Vec<GroupChange>>>,
}

impl Cluster {
    fn new() -> Arc<Cluster> {
        let partition = Partition {
            replicas: vec![ME],
            isr: vec![ME],
            elr: Vec::new(),
            leader: Some(ME),
            leader_epoch: LeaderEpoch(5),
            partition_epoch: PartitionEpoch(0),
            unclean_epoch: None,
            reassignment: None,
        };
        let mut image = Image::default();
        for (id, name) in [(TOPIC, OFFSETS_TOPIC), (TopicId(uuid::Uuid::from_u128(2)), "t")] {
            let topic = Topic { id, name: name.into(), partitions: [partition.clone()].into_iter().collect() };
            image.topics.insert(id, Arc::new(topic));
            image.topic_ids.insert(name.into(), id);
        }
        Arc::new(Cluster {
            image: Mutex::new(Arc::new(image)),
            gate: watch::Sender::new(true),
            is_stale_once: Mutex::new(false),
            loses_answer: Mutex::default(),
            loses_all: Mutex::default(),
            commands: Mutex::default(),
        })
    }

    pub fn stored(&self, group: &str) -> Option<Arc<Group>> {
        self.image.lock().groups.groups.get(group).cloned()
    }

    pub fn set_epoch(&self, epoch: LeaderEpoch) {
        let mut image = self.image.lock();
        let image = Arc::make_mut(&mut image);
        let mut topic = (**image.topics.get(&TOPIC).expect("there")).clone();
        topic.partitions[0].leader_epoch = epoch;
        image.topics.insert(TOPIC, Arc::new(topic));
    }

    /// Another topic has the name from now on, or none.
    pub fn name_topic(&self, name: &str, id: Option<u128>) {
        let mut image = self.image.lock();
        let image = Arc::make_mut(&mut image);
        let former = image.topic_ids.remove(name).and_then(|id| image.topics.remove(&id));
        let Some(id) = id.map(|id| TopicId(uuid::Uuid::from_u128(id))) else { return };
        let partitions = former.map(|former| former.partitions.clone()).unwrap_or_default();
        image.topics.insert(id, Arc::new(Topic { id, name: name.into(), partitions }));
        image.topic_ids.insert(name.into(), id);
    }

    /// Somebody else writes the group, or removes it.
    pub fn writes(&self, group: &str, write: Option<GroupWrite>) {
        let expected = self.stored(group).map_or(0, |stored| stored.revision);
        let (coordinator, leader_epoch) = (place(), LeaderEpoch(5));
        let change =
            GroupChange { group: group.into(), coordinator, leader_epoch, expected, revision: expected + 100, write };
        let mut image = self.image.lock();
        let index = RaftIndex(image.index.0 + 1);
        let applied = Arc::make_mut(&mut image).apply(index, &Command::ChangeGroups { changes: vec![change] });
        assert_eq!(applied.answer, Answer::Groups(vec![Ok(())]));
    }

    fn apply(&self, intent: Intent) -> IntentAnswer {
        let Intent::ChangeGroups(changes) = intent else { panic!("unexpected {intent:?}") };
        self.commands.lock().push(changes.clone());
        let mut image = self.image.lock();
        if std::mem::take(&mut *self.is_stale_once.lock()) {
            return IntentAnswer::Results(vec![Err(IntentError::Metadata(MetadataError::StaleGroup)); changes.len()]);
        }
        let index = RaftIndex(image.index.0 + 1);
        let applied = Arc::make_mut(&mut image).apply(index, &Command::ChangeGroups { changes });
        let Answer::Groups(results) = applied.answer else { panic!("{:?}", applied.answer) };
        IntentAnswer::Results(results.into_iter().map(|result| result.map_err(IntentError::Metadata)).collect())
    }
}

impl ControllerChannel for Cluster {
    fn submit(&self, intent: Intent, _: Duration) -> SubmitFuture<'_> {
        let mut gate = self.gate.subscribe();
        Box::pin(async move {
            gate.wait_for(|open| *open).await.expect("the cluster lives");
            let loses_answer = self.loses_answer.lock().take();
            if loses_answer == Some(false) || *self.loses_all.lock() {
                return Err(SubmitError::Unreachable("the controller died".into()));
            }
            let answer = self.apply(intent);
            match loses_answer {
                None => Ok(answer),
                Some(_) => Err(SubmitError::Unreachable("the controller died".into())),
            }
        })
    }
}

/// Appended records, and how far they are replicated.
pub(super) struct FakeLog {
    pub records: Mutex<Vec<OffsetRecord>>,
    pub high_watermark: watch::Sender<usize>,
    /// Appends.
    pub refuses: Mutex<bool>,
    /// Loads go on while it is open.
    pub loads: watch::Sender<bool>,
    start: Mutex<i64>,
}

impl FakeLog {
    fn new() -> Arc<FakeLog> {
        Arc::new(FakeLog {
            records: Mutex::default(),
            high_watermark: watch::Sender::new(usize::MAX),
            refuses: Mutex::default(),
            loads: watch::Sender::new(true),
            start: Mutex::default(),
        })
    }
}

impl OffsetsLog for FakeLog {
    fn append(&self, _: LeaderEpoch, records: &[OffsetRecord], _: i64) -> Result<Written, GroupError> {
        if *self.refuses.lock() {
            return Err(GroupError::NotAvailable);
        }
        let mut all = self.records.lock();
        let first = all.len();
        all.extend_from_slice(records);
        let end = all.len();
        let mut mark = self.high_watermark.subscribe();
        let replicated = async move {
            mark.wait_for(|mark| *mark >= end).await.map_err(|_| GroupError::NotCoordinator)?;
            Ok(())
        };
        Ok(Written { first: Offset(first.try_into().expect("small")), replicated: replicated.boxed() })
    }

    fn range(&self) -> (Offset, Offset) {
        let end = self.records.lock().len();
        (Offset(*self.start.lock()), Offset(end.try_into().expect("small")))
    }

    fn cut(&self, before: Offset) -> Result<(), GroupError> {
        *self.start.lock() = before.0;
        Ok(())
    }

    fn load(self: Arc<Self>, _: LeaderEpoch, _: Arc<Names>) -> BoxFuture<'static, Result<LoadedOffsets, GroupError>> {
        let mut loaded = LoadedOffsets::new();
        let start = *self.start.lock();
        for (at, record) in (0..).zip(self.records.lock().iter().cloned()).skip_while(|(at, _)| *at < start) {
            let offsets = loaded.entry(record.key.group.to_string()).or_default();
            offsets.apply(Offset(at), &record.key.topic, record.key.partition, record.value);
        }
        let mut gate = self.loads.subscribe();
        async move {
            gate.wait_for(|open| *open).await.expect("the log lives");
            Ok(loaded)
        }
        .boxed()
    }
}

pub(super) struct Stage {
    pub cluster: Arc<Cluster>,
    pub log: Arc<FakeLog>,
    pub groups: Coordinator,
}

impl Stage {
    pub async fn new() -> Stage {
        Stage::with(Settings::for_tests()).await
    }

    pub async fn with(settings: Settings) -> Stage {
        let cluster = Cluster::new();
        let source = cluster.clone();
        let image = Box::new(move || source.image.lock().clone());
        let shell = Shell::start(ME, settings, image, cluster.clone());
        let stage = Stage { cluster, log: FakeLog::new(), groups: Coordinator { shell, lag: LagWatch::default() } };
        assert_eq!(stage.groups.heartbeat("g", "m", None, 1), Err(GroupError::Loading), "not led yet");
        stage.lead(LeaderEpoch(5)).await;
        stage
    }

    pub async fn lead(&self, epoch: LeaderEpoch) {
        self.cluster.set_epoch(epoch);
        self.groups.shell.lead_for_tests(place(), epoch, self.log.clone());
        until(|| !self.groups.list().is_loading).await;
    }

    pub async fn join(&self, client: &str, member: &str) -> Result<Joined, GroupError> {
        self.groups.join(join(client, member)).await
    }

    pub async fn commit(&self, member: &str, generation: i32, offset: i64) -> Result<(), GroupError> {
        self.groups.commit_offsets(commit(member, generation, offset)).await
    }

    pub fn fetched(&self, require_stable: bool) -> Result<Option<i64>, GroupError> {
        let wanted = [("t".to_string(), vec![0])];
        let mut all = self.groups.fetch_offsets("g", Some(&wanted), require_stable)?;
        let (_, mut partitions) = all.pop().expect("one topic");
        let (_, outcome) = partitions.pop().expect("one partition");
        Ok(outcome?.map(|committed| committed.offset))
    }
}

pub(super) fn join(client: &str, member: &str) -> Join {
    Join {
        group: "g".into(),
        member: member.into(),
        client_id: client.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(b"t"))],
        ..Join::default()
    }
}

pub(super) fn sync(member: &str, generation: i32, assigned: &[(&str, &'static str)]) -> SyncGroup {
    let give = |(id, what): &(&str, &'static str)| (id.to_string(), Bytes::from_static(what.as_bytes()));
    SyncGroup {
        group: "g".into(),
        member: member.into(),
        generation,
        assignments: assigned.iter().map(give).collect(),
        ..SyncGroup::default()
    }
}

pub(super) fn leaver(member: &str) -> Leaver {
    Leaver { member: member.into(), ..Leaver::default() }
}

pub(super) fn commit(member: &str, generation: i32, offset: i64) -> OffsetCommit {
    let committed = Committed { offset, leader_epoch: -1, commit_ms: 1, ..Committed::default() };
    OffsetCommit {
        group: "g".into(),
        member: member.into(),
        instance: None,
        generation,
        knows_epochs: true,
        offsets: vec![OffsetWrite { topic: "t".into(), partition: 0, committed }],
    }
}

/// Waits for a condition, with a deadline.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the condition holds in time");
}

#[tokio::test]
async fn the_assignment_is_committed_before_anyone_learns_it() {
    let stage = Stage::new().await;
    let joined = stage.join("a", "").await.expect("joined");
    stage.cluster.gate.send_replace(false);
    let groups = stage.groups.clone();
    let asked = sync(&joined.member, 1, &[(&joined.member, "all")]);
    let mut answer = tokio::spawn(async move { groups.sync(asked).await });
    assert!(
        tokio::time::timeout(Duration::from_millis(30), &mut answer).await.is_err(),
        "told before it was committed"
    );
    assert_eq!(stage.cluster.stored("g"), None);
    stage.cluster.gate.send_replace(true);
    assert_eq!(answer.await.expect("no panic").expect("synced").assignment, "all");
    let stored = stage.cluster.stored("g").expect("stored");
    let GroupMember::Classic(member) = &*stored.members[&joined.member] else { panic!("{stored:?}") };
    assert_eq!(member.assignment, "all");
    assert_eq!(stage.groups.describe("g").expect("there").phase, Phase::Stable);
}

#[tokio::test]
async fn a_commit_that_landed_late_only_costs_another_try() {
    let stage = Stage::new().await;
    let joined = stage.join("a", "").await.expect("joined");
    *stage.cluster.is_stale_once.lock() = true;
    let synced = stage.groups.sync(sync(&joined.member, 1, &[(&joined.member, "all")])).await;
    assert_eq!(synced.expect("synced").assignment, "all");
}

#[tokio::test]
async fn a_new_coordinator_goes_on_and_the_old_one_sends_everyone_away() {
    let stage = Stage::new().await;
    let joined = stage.join("a", "").await.expect("joined");
    stage.groups.sync(sync(&joined.member, 1, &[(&joined.member, "all")])).await.expect("synced");
    stage.commit(&joined.member, 1, 42).await.expect("committed");
    // A second member waits for the first when the coordinator moves.
    let groups = stage.groups.clone();
    let waiting = tokio::spawn(async move { groups.join(join("b", "")).await });
    until(|| stage.groups.heartbeat("g", &joined.member, None, 1) == Err(GroupError::RebalanceInProgress)).await;
    stage.groups.shell.resign_for_tests(place());
    assert_eq!(waiting.await.expect("no panic"), Err(GroupError::NotCoordinator));
    stage.lead(LeaderEpoch(6)).await;
    assert_eq!(stage.groups.heartbeat("g", &joined.member, None, 1), Ok(()), "nobody has to join again");
    assert_eq!(stage.fetched(true), Ok(Some(42)));
}

#[tokio::test]
async fn an_assignment_of_a_deposed_coordinator_is_refused() {
    let stage = Stage::new().await;
    let joined = stage.join("a", "").await.expect("joined");
    stage.cluster.set_epoch(LeaderEpoch(6));
    let synced = stage.groups.sync(sync(&joined.member, 1, &[(&joined.member, "all")])).await;
    assert_eq!(synced, Err(GroupError::NotCoordinator));
    assert_eq!(stage.cluster.stored("g"), None);
}

#[tokio::test]
async fn offsets_are_visible_once_replicated() {
    let stage = Stage::new().await;
    stage.commit("", -1, 1).await.expect("committed");
    stage.log.high_watermark.send_replace(1);
    let groups = stage.groups.clone();
    let waiting = tokio::spawn(async move { groups.commit_offsets(commit("", -1, 2)).await });
    until(|| stage.log.records.lock().len() == 2).await;
    assert_eq!(stage.fetched(false), Ok(Some(1)));
    assert_eq!(stage.fetched(true), Err(GroupError::UnstableOffset));
    stage.log.high_watermark.send_replace(2);
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
    assert_eq!(stage.fetched(true), Ok(Some(2)));
    let all = stage.groups.fetch_offsets("g", None, false).expect("there");
    assert_eq!(all[0].0, "t");
    assert_eq!(stage.groups.fetch_offsets("other", None, false), Ok(Vec::new()));
}

#[tokio::test]
async fn a_commit_replicated_only_under_a_newer_epoch_is_not_acknowledged() {
    let stage = Stage::new().await;
    stage.log.high_watermark.send_replace(0);
    let groups = stage.groups.clone();
    let waiting = tokio::spawn(async move { groups.commit_offsets(commit("", -1, 2)).await });
    until(|| stage.log.records.lock().len() == 1).await;
    stage.groups.shell.resign_for_tests(place());
    stage.log.high_watermark.send_replace(1);
    assert_eq!(waiting.await.expect("no panic"), Err(GroupError::NotCoordinator));
}

#[tokio::test]
async fn a_session_begins_anew_when_the_members_commit_is_answered() {
    let stage = Stage::new().await;
    let joined = stage.join("a", "").await.expect("joined");
    stage.groups.sync(sync(&joined.member, 1, &[(&joined.member, "all")])).await.expect("synced");
    stage.log.high_watermark.send_replace(0);
    let (groups, member) = (stage.groups.clone(), joined.member.clone());
    let waiting = tokio::spawn(async move { groups.commit_offsets(commit(&member, 1, 2)).await });
    until(|| stage.log.records.lock().len() == 1).await;
    let shell = &stage.groups.shell;
    let begun = shell.timers.now();
    until(|| shell.timers.now() > begun + 5).await;
    stage.log.high_watermark.send_replace(1);
    waiting.await.expect("no panic").expect("committed");
    let (slot, cell) = stage.groups.find("g").expect("led").expect("there");
    // When the session that the request began has ended.
    shell.with(&slot, &cell, |entry, _| ((), entry.machine.tick(begun + 30_000)));
    assert_eq!(stage.groups.heartbeat("g", &joined.member, None, 1), Ok(()));
}

#[tokio::test]
async fn nothing_is_appended_for_a_coordinator_that_is_over() {
    let stage = Stage::new().await;
    stage.commit("", -1, 1).await.expect("committed");
    let (slot, cell) = stage.groups.find("g").expect("led").expect("there");
    // The broker leads again while somebody still has the former epoch's group in hand.
    stage.lead(LeaderEpoch(6)).await;
    stage.commit("", -1, 2).await.expect("committed");
    let mut entry = cell.lock();
    let older = entry.offsets.anew("g", Offset(100), 9);
    assert_eq!(older.len(), 1);
    let written = stage.groups.shell.write_offsets(&slot, &cell, &mut entry, older);
    assert_eq!(written.err(), Some(GroupError::NotCoordinator));
    assert_eq!(stage.log.records.lock().len(), 2);
}

#[tokio::test]
async fn an_empty_group_is_deleted_with_its_offsets() {
    let stage = Stage::new().await;
    let joined = stage.join("a", "").await.expect("joined");
    stage.groups.sync(sync(&joined.member, 1, &[])).await.expect("synced");
    stage.commit(&joined.member, 1, 42).await.expect("committed");
    assert_eq!(stage.groups.delete("g").await, Err(GroupError::NonEmptyGroup));
    let left = stage.groups.leave("g", &[leaver(&joined.member), leaver("z")]).expect("there");
    assert_eq!(left, [Ok(()), Err(GroupError::UnknownMember)]);
    until(|| stage.cluster.stored("g").is_some_and(|state| state.members.is_empty())).await;
    assert_eq!(stage.groups.list().groups[0].state, "Empty");
    assert_eq!(stage.groups.delete("g").await, Ok(()));
    assert_eq!(stage.cluster.stored("g"), None);
    assert_eq!(stage.groups.describe("g"), Err(GroupError::GroupNotFound));
    assert_eq!(stage.groups.delete("g").await, Err(GroupError::GroupNotFound));
    // Nor does a later coordinator find any of it.
    stage.lead(LeaderEpoch(6)).await;
    assert_eq!(stage.fetched(false), Ok(None));
}

#[tokio::test]
async fn a_member_that_falls_silent_is_out_when_its_session_ends() {
    let stage = Stage::new().await;
    let mut short = join("a", "");
    short.session_timeout_ms = 6_000;
    let joined = stage.groups.join(short).await.expect("joined");
    let slot = stage.groups.shell.slot("g").expect("led");
    let cell = slot.group("g").expect("loaded").expect("there");
    let deadline = cell.lock().scheduled.expect("the timers know it");
    assert!(deadline <= stage.groups.shell.timers.now() + 6_000);
    // The clock is not waited for: the same look, later.
    stage.groups.shell.with(&slot, &cell, |entry, _| ((), entry.machine.tick(deadline)));
    assert_eq!(stage.groups.heartbeat("g", &joined.member, None, 1), Err(GroupError::UnknownMember));
}

#[tokio::test]
async fn a_former_epochs_group_leaves_the_timers_alone() {
    let stage = Stage::new().await;
    let joined = stage.join("a", "").await.expect("joined");
    stage.groups.sync(sync(&joined.member, 1, &[(&joined.member, "all")])).await.expect("synced");
    let (former, cell) = stage.groups.find("g").expect("led").expect("there");
    stage.lead(LeaderEpoch(6)).await;
    let shell = &stage.groups.shell;
    let current = stage.groups.find("g").expect("led").expect("there").1;
    until(|| current.lock().scheduled.is_some()).await;
    let deadline = current.lock().scheduled.expect("the timers know it");
    // Both may have had the same deadline.
    cell.lock().scheduled = Some(deadline);
    shell.with(&former, &cell, |_, _| ((), Vec::new()));
    assert!(shell.timers.holds(deadline, place().partition, "g"));
    assert_eq!(cell.lock().scheduled, None);
}

#[tokio::test]
async fn offsets_of_topics_that_are_gone_are_buried_at_loading() {
    let stage = Stage::new().await;
    let mut gone = commit("", -1, 7);
    gone.offsets[0].topic = "deleted".into();
    stage.groups.commit_offsets(gone).await.expect("committed");
    stage.commit("", -1, 8).await.expect("committed");
    stage.lead(LeaderEpoch(6)).await;
    until(|| stage.log.records.lock().last().is_some_and(|last| last.value.is_none())).await;
    until(|| stage.groups.fetch_offsets("g", None, false).is_ok_and(|all| all.len() == 1)).await;
    assert_eq!(stage.fetched(false), Ok(Some(8)));
}

#[tokio::test]
async fn no_group_is_made_for_what_is_refused_anyway() {
    let stage = Stage::new().await;
    let short = Join { session_timeout_ms: 1, ..join("a", "") };
    assert_eq!(stage.groups.join(short).await, Err(GroupError::InvalidSessionTimeout));
    let none = Join { protocols: Vec::new(), ..join("a", "") };
    assert_eq!(stage.groups.join(none).await, Err(GroupError::InconsistentProtocol));
    let long = "g".repeat(GROUP_ID_BYTES_MAX + 1);
    let named = Join { group: long.clone(), ..join("a", "") };
    assert_eq!(stage.groups.join(named).await, Err(GroupError::InvalidGroupId));
    let committed = stage.groups.commit_offsets(OffsetCommit { group: long.clone(), ..commit("", -1, 7) }).await;
    assert_eq!(committed, Err(GroupError::InvalidGroupId));
    assert_eq!(stage.groups.fetch_offsets(&long, None, false), Err(GroupError::InvalidGroupId));
    assert_eq!(stage.groups.describe(&long), Err(GroupError::InvalidGroupId));
    assert_eq!(stage.groups.heartbeat(&long, "m", None, 1), Err(GroupError::InvalidGroupId));
    assert_eq!(stage.groups.list().groups, []);
    let nameless = OffsetCommit { group: String::new(), ..commit("", -1, 7) };
    assert_eq!(stage.groups.commit_offsets(nameless).await, Ok(()), "legal, as in Kafka");
}

#[test]
fn a_fresh_member_id_has_a_bounded_part_of_its_clients_name() {
    assert!(fresh_member_id("app").starts_with("app-"));
    // Characters of three bytes: 255 is between two of them, and with one byte before them the last whole one ends at 253.
    assert_eq!(fresh_member_id(&"\u{20ac}".repeat(1_000)).find('-'), Some(255));
    assert_eq!(fresh_member_id(&format!("x{}", "\u{20ac}".repeat(1_000))).find('-'), Some(253));
}

#[tokio::test]
async fn expired_offsets_go_and_then_the_group() {
    const DAY_MS: i64 = 24 * 3_600_000;
    let stage = Stage::new().await;
    let shell = stage.groups.shell.clone();
    let joined = stage.join("a", "").await.expect("joined");
    stage.groups.sync(sync(&joined.member, 1, &[])).await.expect("synced");
    stage.commit(&joined.member, 1, 42).await.expect("committed");
    let mut expirer = Expirer::default();
    assert_eq!(expirer.pass(&shell, 100 * DAY_MS), Pass::Whole);
    assert_eq!(stage.fetched(true), Ok(Some(42)), "it has a member");
    stage.groups.leave("g", &[leaver(&joined.member)]).expect("there");
    until(|| stage.cluster.stored("g").is_some_and(|state| state.members.is_empty())).await;

    let emptied_ms = clock::wall_ms();
    expirer.pass(&shell, emptied_ms);
    expirer.pass(&shell, emptied_ms + 7 * DAY_MS - 60_000);
    assert_eq!(stage.fetched(true), Ok(Some(42)));
    let late_ms = emptied_ms + 7 * DAY_MS + 60_000;
    expirer.pass(&shell, late_ms);
    until(|| stage.fetched(true) == Ok(None)).await;
    expirer.pass(&shell, late_ms + 1);
    until(|| stage.cluster.stored("g").is_none() && stage.groups.list().groups.is_empty()).await;

    // One that never had members goes the same way.
    stage.commit("", -1, 7).await.expect("committed");
    let later_ms = clock::wall_ms() + 8 * DAY_MS;
    expirer.pass(&shell, later_ms);
    until(|| stage.fetched(true) == Ok(None)).await;
    expirer.pass(&shell, later_ms + 1);
    expirer.pass(&shell, later_ms + 600_001);
    until(|| stage.groups.list().groups.is_empty()).await;
}

#[tokio::test]
async fn offsets_survive_being_written_anew_also_those_that_are_committed_meanwhile() {
    let stage = Stage::new().await;
    let slot = stage.groups.shell.slot("g").expect("led");
    for offset in 0..100 {
        stage.commit("", -1, offset).await.expect("committed");
    }
    stage.log.high_watermark.send_replace(100);
    let groups = stage.groups.clone();
    let waiting = tokio::spawn(async move { groups.commit_offsets(commit("", -1, 500)).await });
    until(|| stage.log.records.lock().len() == 101).await;
    let shell = stage.groups.shell.clone();
    let rewriting = tokio::spawn({
        let slot = slot.clone();
        async move { rewrite::rewrite(&shell, &slot).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(stage.log.records.lock().len(), 101, "nothing goes above a commit that is on its way");
    stage.log.high_watermark.send_replace(usize::MAX);
    waiting.await.expect("no panic").expect("committed");
    assert_eq!(rewriting.await.expect("no panic"), Ok(Offset(101)));
    assert_eq!(slot.log.range(), (Offset(101), Offset(102)), "one offset is live");
    stage.lead(LeaderEpoch(6)).await;
    assert_eq!(stage.fetched(true), Ok(Some(500)));
}
