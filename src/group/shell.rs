//! Performs what the state machines decide: answers, commits through Raft, deadlines, loading and resigning.

use super::cell::{Cell, Entry, Held, Proposal};
use super::committer::{Committer, Queued};
use super::coordinator::GroupError;
use super::counts::Counts;
use super::log::OffsetsLog;
use super::machine::{Effect, Machine, Millis};
use super::names::Names;
use super::offset_records::OffsetRecord;
use super::partitioner::partition_for;
use super::settings::Settings;
use super::slot::Slot;
use super::timers::{Due, Timers};
use super::topic::{self, OFFSETS_TOPIC};
use crate::ids::*;
use crate::metadata::command::{GroupChange, MetadataError};
use crate::metadata::event::Event;
use crate::metadata::image::Image;
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer, IntentError, SubmitError};
use crate::metadata::quorum::Update;
use crate::platform::clock;
use crate::replica::hosted::LeadershipListener;
use crate::replica::partition::Partition;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};

/// The newest applied metadata.
pub type ImageSource = Box<dyn Fn() -> Arc<Image> + Send + Sync>;

const LOAD_PAUSE: Duration = Duration::from_millis(200);
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to one submission of the committer.
pub type ChangesFuture = BoxFuture<'static, Result<IntentAnswer, SubmitError>>;

pub struct Shell {
    pub broker: BrokerId,
    pub settings: Settings,
    image: ImageSource,
    controller: Arc<dyn ControllerChannel>,
    runtime: Handle,
    /// By partition number. Bound: the partitions of the offsets topic.
    slots: RwLock<BTreeMap<i32, Arc<Slot>>>,
    pub timers: Arc<Timers>,
    /// Of groups and topics with offsets.
    pub names: Arc<Names>,
    /// What all groups take; see [`GROUPS_BYTES_MAX`](super::settings::GROUPS_BYTES_MAX).
    pub held: Held,
    pub counts: Counts,
    /// To the committer. Bound: a group is in it once.
    commits: mpsc::UnboundedSender<Queued>,
    is_creating_topic: AtomicBool,
    own: Weak<Shell>,
}

impl Shell {
    /// On the current runtime.
    pub fn start(
        broker: BrokerId,
        settings: Settings,
        image: ImageSource,
        controller: Arc<dyn ControllerChannel>,
    ) -> Arc<Shell> {
        let (commits, queue) = mpsc::unbounded_channel();
        let shell = Arc::new_cyclic(|own: &Weak<Shell>| Shell {
            broker,
            settings,
            image,
            controller,
            runtime: Handle::current(),
            slots: RwLock::default(),
            timers: Timers::new(),
            names: Arc::default(),
            held: Held::default(),
            counts: Counts::default(),
            commits,
            is_creating_topic: AtomicBool::new(false),
            own: own.clone(),
        });
        shell.runtime.spawn(Committer::run(Arc::downgrade(&shell), queue));
        let own = Arc::downgrade(&shell);
        shell.runtime.spawn(shell.timers.clone().run(move |due| {
            if let Some(shell) = own.upgrade() {
                shell.look_at(due);
            }
        }));
        shell
    }

    pub fn image(&self) -> Arc<Image> {
        (self.image)()
    }

    pub(super) fn downgrade(&self) -> Weak<Shell> {
        self.own.clone()
    }

    fn own(&self) -> Arc<Shell> {
        self.own.upgrade().expect("self is borrowed, so it is alive")
    }

    /// The slot of a group, if this broker leads it.
    pub fn slot(&self, group: &str) -> Result<Arc<Slot>, GroupError> {
        let image = self.image();
        let topic = image.topic_by_name(OFFSETS_TOPIC).ok_or(GroupError::NotCoordinator)?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let index = partition_for(group, count.max(1));
        if let Some(slot) = self.slots.read().get(&index) {
            return Ok(slot.clone());
        }
        // The image may be ahead of the replica by a moment.
        let leads = image.partition(TopicPartition::new(topic.id, index)).and_then(|p| p.leader) == Some(self.broker);
        Err(if leads { GroupError::Loading } else { GroupError::NotCoordinator })
    }

    pub fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().values().cloned().collect()
    }

    /// One event of one group: act, perform the effects, keep the timers right.
    pub fn with<T>(
        &self,
        slot: &Arc<Slot>,
        cell: &Arc<Cell>,
        act: impl FnOnce(&mut Entry, Millis) -> (T, Vec<Effect>),
    ) -> T {
        let now = self.timers.now();
        let mut entry = cell.lock();
        entry.machine.see(|| self.image());
        let (value, mut effects) = act(&mut entry, now);
        effects.extend(entry.machine.downgrade(now));
        let afterwards = entry.perform(effects);
        let goes = afterwards.is_long_empty && entry.offsets.is_empty();
        if goes {
            let effects = entry.machine.end(GroupError::NotAvailable);
            entry.perform(effects);
        }
        self.reschedule(slot, cell, &mut entry);
        drop(entry);
        if afterwards.starts_commit {
            self.tell_committer(slot, cell);
        }
        if goes {
            self.runtime.spawn(self.own().remove_unused(slot.clone(), cell.clone()));
        }
        value
    }

    fn reschedule(&self, slot: &Slot, cell: &Cell, entry: &mut Entry) {
        // The timers know groups by name: what they hold under this one is the next coordinator's, which may be this
        // broker.
        if slot.is_gone() {
            entry.scheduled = None;
            return;
        }
        let next = entry.machine.next_deadline();
        if let (Some(held), Some(next)) = (entry.scheduled, next)
            && held <= next
        {
            return;
        }
        if let Some(held) = entry.scheduled {
            self.timers.cancel(held, slot.id.partition, &cell.group);
        }
        if let Some(next) = next {
            self.timers.schedule(next, slot.id.partition, &cell.group);
        }
        entry.scheduled = next;
    }

    fn look_at(&self, (partition, group): Due) {
        let Some(slot) = self.slots.read().get(&partition).cloned() else { return };
        let Ok(Some(cell)) = slot.group(&group) else { return };
        self.with(&slot, &cell, |entry, now| {
            if let Some(held) = entry.scheduled.take_if(|held| *held <= now)
                && entry.renews_sessions(now - held, now)
            {
                entry.machine.restart_sessions(now);
            }
            ((), entry.machine.tick(now))
        });
    }

    async fn remove_unused(self: Arc<Self>, slot: Arc<Slot>, cell: Arc<Cell>) {
        let removed = self.remove_group(&slot, &cell).await;
        if let Err(error) = &removed {
            tracing::warn!(group = cell.group, %error, "an unused group stays in the metadata for now");
        }
        self.removed(&slot, &cell, removed.is_ok());
    }

    /// What becomes of a group that was ended. Where it could not be taken out of the metadata it is as it was: somebody
    /// must look after what is there.
    fn removed(&self, slot: &Arc<Slot>, cell: &Arc<Cell>, is_removed: bool) {
        if is_removed {
            slot.forget(cell);
        } else if !slot.is_gone() {
            self.with(slot, cell, |entry, now| {
                if entry.machine.is_dead() {
                    entry.machine.revive_empty(now);
                }
                ((), Vec::new())
            });
        }
    }

    /// What another coordinator wrote of a group takes the place of what is known here. Who waits asks again.
    pub fn reload(&self, slot: &Arc<Slot>, cell: &Arc<Cell>) {
        tracing::warn!(group = cell.group, "another coordinator wrote the group's state: it is loaded anew");
        let (image, rules) = (self.image(), self.settings.rules);
        let stored = image.groups.groups.get(&cell.group);
        let revision = stored.map_or(0, |stored| stored.revision);
        slot.saw(revision);
        self.with(slot, cell, |entry, now| {
            let mut effects = entry.machine.end(GroupError::NotCoordinator);
            let machine = match stored {
                Some(stored) => Machine::restore(&cell.group, rules, stored, &image, now),
                None => Machine::new(rules, now),
            };
            entry.restart(machine, revision);
            effects.extend(entry.machine.topics_changed(now));
            ((), effects)
        });
    }

    /// The rest of a deletion, whose tombstones were `begun` under the lock under which the machine was ended. In a task
    /// of its own: a client that goes away must not leave a name behind that nobody can use any more.
    pub async fn finish_delete(
        &self,
        slot: Arc<Slot>,
        cell: Arc<Cell>,
        begun: oneshot::Receiver<Result<(), GroupError>>,
    ) -> Result<(), GroupError> {
        let own = self.own();
        let deletion = self.runtime.spawn(async move {
            let ended = match own.written(begun).await {
                Ok(()) => own.remove_group(&slot, &cell).await,
                Err(error) => Err(error),
            };
            own.removed(&slot, &cell, ended.is_ok());
            if slot.is_gone() { ended.map_err(|_| GroupError::NotCoordinator) } else { ended }
        });
        deletion.await.unwrap_or(Err(GroupError::NotCoordinator))
    }

    /// Takes the group out of the metadata. The caller ended its machine, so that nothing is written after it.
    async fn remove_group(&self, slot: &Arc<Slot>, cell: &Arc<Cell>) -> Result<(), GroupError> {
        let (sender, receiver) = oneshot::channel();
        let starts_commit = cell.lock().want(Proposal::Remove(sender));
        if starts_commit {
            self.tell_committer(slot, cell);
        }
        receiver.await.unwrap_or(Err(GroupError::NotCoordinator))
    }

    fn tell_committer(&self, slot: &Arc<Slot>, cell: &Arc<Cell>) {
        let _stopped = self.commits.send((slot.clone(), cell.clone()));
    }

    pub fn assignment_timeout_ms(&self) -> Millis {
        u64::try_from(self.settings.assignment_timeout.as_millis()).unwrap_or(u64::MAX)
    }

    pub fn submit_changes(&self, changes: Vec<GroupChange>) -> ChangesFuture {
        self.counts.command();
        let (own, timeout) = (self.own(), self.settings.assignment_timeout);
        Box::pin(async move { own.controller.submit(Intent::ChangeGroups(changes), timeout).await })
    }

    /// Appends offsets, under the caller's lock, so that commits lie in the log in the order in which they were
    /// allowed. The receiver hears once they are replicated and visible, or why they never will be.
    pub fn write_offsets(
        &self,
        slot: &Arc<Slot>,
        cell: &Arc<Cell>,
        entry: &mut Entry,
        records: Vec<OffsetRecord>,
    ) -> Result<oneshot::Receiver<Result<(), GroupError>>, GroupError> {
        let (sender, receiver) = oneshot::channel();
        if records.is_empty() {
            let _heard_later = sender.send(Ok(()));
            return Ok(receiver);
        }
        // What was allowed under an older leader epoch must not lie above what a newer coordinator wrote, even if that is
        // this broker again.
        if slot.is_gone() {
            return Err(GroupError::NotCoordinator);
        }
        let written = slot.log.append(slot.epoch, &records, clock::wall_ms())?;
        entry.offsets.begin(written.first, &records);
        let (slot, cell) = (slot.clone(), cell.clone());
        // A task of its own: the client may go away, the offset stays.
        self.runtime.spawn(async move {
            let mut outcome = written.replicated.await;
            // Under a newer epoch the partition was loaded anew, perhaps without this append; the client asks again.
            if outcome.is_ok() && slot.is_gone() {
                outcome = Err(GroupError::NotCoordinator);
            }
            let mut entry = cell.lock();
            match &outcome {
                Ok(()) => entry.offsets.finish(written.first, records),
                Err(_) => entry.offsets.cancel(written.first, &records),
            }
            drop(entry);
            let _gone = sender.send(outcome);
        });
        Ok(receiver)
    }

    /// Waits for [`Shell::write_offsets`] as long as the configuration allows.
    pub async fn written(&self, receiver: oneshot::Receiver<Result<(), GroupError>>) -> Result<(), GroupError> {
        match tokio::time::timeout(self.settings.commit_timeout, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_dropped)) => Err(GroupError::NotCoordinator),
            Err(_elapsed) => Err(GroupError::NotAvailable),
        }
    }

    fn led(&self, id: TopicPartition, epoch: LeaderEpoch, log: Arc<dyn OffsetsLog>) {
        // No older than what the former coordinator saw: its commits are of the topics that have their names in this.
        let begun = self.image();
        let slot = Arc::new(Slot::loading(id, epoch, log, self.held.clone()));
        let former = self.slots.write().insert(id.partition, slot.clone());
        let own = self.own();
        self.spawn_after(former, async move { own.load(slot, begun).await });
    }

    fn left(&self, id: TopicPartition) {
        let mut slots = self.slots.write();
        let former =
            if slots.get(&id.partition).is_some_and(|slot| slot.id == id) { slots.remove(&id.partition) } else { None };
        drop(slots);
        self.spawn_after(former, async {});
    }

    /// The listener may be called under the replica's locks: groups' locks are taken only in a task.
    fn spawn_after(&self, former: Option<Arc<Slot>>, then: impl Future<Output = ()> + Send + 'static) {
        if let Some(former) = &former {
            former.retire();
        }
        self.runtime.spawn(async move {
            if let Some(former) = former {
                former.dissolve();
            }
            then.await;
        });
    }

    async fn load(self: Arc<Self>, slot: Arc<Slot>, begun: Arc<Image>) {
        let started = self.timers.now();
        let mut offsets = loop {
            if slot.is_gone() {
                return;
            }
            match slot.log.clone().load(slot.epoch, self.names.clone()).await {
                Ok(offsets) => break offsets,
                Err(error) => {
                    tracing::debug!(partition = slot.id.partition, %error, "an offsets partition is not loaded yet");
                    tokio::time::sleep(LOAD_PAUSE).await;
                }
            }
        };
        let id = |name: &str| begun.topic_ids.get(name).copied();
        offsets.values_mut().for_each(|offsets| offsets.are_of(id));
        // The image knows this epoch; states proposed under an older one that land later are refused. So what it
        // holds now is what the former coordinator committed.
        let image = self.image();
        let Some(topic) = image.topic(slot.id.topic) else { return };
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let groups = &image.groups.groups;
        let own = groups.iter().filter(|(name, _)| partition_for(name, count) == slot.id.partition);
        let cells = slot.fill(self.settings.rules, offsets, own, &image, self.timers.now());
        for cell in &cells {
            self.with(&slot, cell, |entry, now| ((), entry.machine.topics_changed(now)));
        }
        tracing::info!(
            partition = slot.id.partition,
            epoch = slot.epoch.0,
            groups = cells.len(),
            milliseconds = self.timers.now() - started,
            "an offsets partition is loaded"
        );
        self.forget_topics(&[slot]);
    }

    /// Topics came, went or grew: groups of the consumer protocol look whether these are theirs.
    fn look_at_topics(&self, slots: &[Arc<Slot>]) {
        for slot in slots {
            for cell in slot.all().unwrap_or_default() {
                if cell.lock().machine.follows_topics() {
                    self.with(slot, &cell, |entry, now| ((), entry.machine.topics_changed(now)));
                }
            }
        }
    }

    /// Follows what becomes of topics until the metadata stops.
    pub async fn follow_topics(own: Weak<Shell>, mut updates: broadcast::Receiver<Update>) {
        loop {
            let update = updates.recv().await;
            let Some(shell) = own.upgrade() else { return };
            let slots = shell.slots();
            match update {
                Ok(update) if !update.resync => {
                    let is_deletion = |event: &Event| matches!(event, Event::TopicDeleted { .. });
                    if update.events.iter().any(|indexed| is_deletion(&indexed.event)) {
                        shell.forget_topics(&slots);
                    }
                    let is_of_topics = |event: &Event| {
                        matches!(
                            event,
                            Event::TopicCreated { .. } | Event::TopicDeleted { .. } | Event::PartitionsAdded { .. }
                        )
                    };
                    if update.events.iter().any(|indexed| is_of_topics(&indexed.event)) {
                        shell.look_at_topics(&slots);
                    }
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    shell.forget_topics(&slots);
                    shell.look_at_topics(&slots);
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Creates the offsets topic; one caller waits for it, others are told to come back.
    pub async fn create_topic(&self) {
        let Some(topic) = topic::wanted(&self.image(), &self.settings) else { return };
        if self.is_creating_topic.swap(true, Ordering::SeqCst) {
            return;
        }
        let own = self.own();
        let creation = self.runtime.spawn(async move {
            let intent = Intent::CreateTopics { topics: vec![topic], validate_only: false };
            match own.controller.submit(intent, CREATE_TIMEOUT).await.map(refusal) {
                Ok(None | Some(IntentError::Metadata(MetadataError::TopicExists(_)))) => {}
                Ok(Some(error)) => tracing::error!(%error, "the controller refused {OFFSETS_TOPIC}"),
                Err(error) => tracing::warn!(%error, "{OFFSETS_TOPIC} was not created"),
            }
            own.is_creating_topic.store(false, Ordering::SeqCst);
        });
        let _finished = creation.await;
    }
}

/// Why the controller refused, if it did.
fn refusal(answer: IntentAnswer) -> Option<IntentError> {
    match answer {
        IntentAnswer::Done | IntentAnswer::ProducerIds { .. } | IntentAnswer::Quorum(_) | IntentAnswer::Voters(_) => {
            None
        }
        IntentAnswer::Topics(results) => results.into_iter().find_map(Result::err),
        IntentAnswer::Isr(results) => results.into_iter().find_map(Result::err),
        IntentAnswer::Results(results) => results.into_iter().find_map(Result::err),
    }
}

impl LeadershipListener for Shell {
    fn became_leader(&self, partition: &Arc<Partition>, topic: &str, epoch: LeaderEpoch) {
        if topic == OFFSETS_TOPIC {
            self.led(partition.id, epoch, partition.clone());
        }
    }

    fn resigned(&self, partition: TopicPartition, topic: &str) {
        if topic == OFFSETS_TOPIC {
            self.left(partition);
        }
    }
}

#[cfg(test)]
impl Shell {
    pub fn lead_for_tests(&self, id: TopicPartition, epoch: LeaderEpoch, log: Arc<dyn OffsetsLog>) {
        self.led(id, epoch, log);
    }

    pub fn resign_for_tests(&self, id: TopicPartition) {
        self.left(id);
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.timers.close();
    }
}
