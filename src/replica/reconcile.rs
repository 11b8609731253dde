//! From the image to the partitions here: what changed, what to open, what to drop.
//!
//! ```text
//! Update (events) ─→ ids ─→ hosted and assigned → apply (leader, follower)  ─→ listeners, fetchers
//!                        ├─→ assigned only      → open, in parallel, beside ─→ adopt
//!                        └─→ hosted only        → stop, delete
//! ```
//!
//! What lies in the folder and is neither, once the image has caught up, is set aside for a grace time.

use super::failed_opens::{Due, FailedOpens};
use super::fetchers::Fetchers;
use super::hosted::Inner;
use super::integrity::report_failed_opens;
use super::opening::{Job, Opened, Opener};
use super::partition::Partition;
use super::role::Standing;
use crate::config::broker::BrokerConfigs;
use crate::config::topic::{Durability, TopicConfig};
use crate::ids::*;
use crate::log::folder::{Aside, Found};
use crate::log::strays::kept_until;
use crate::metadata::command::{ConfigResource, DamageReport, FenceReason};
use crate::metadata::event::Event;
use crate::metadata::image::Image;
use crate::metadata::quorum::Update;
use crate::platform::clock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::task::JoinSet;

/// Up to this many partitions change roles on the spot; more of them are spread over threads, since each new leader
/// writes its epoch down.
const INLINE_MAX: usize = 8;
const APPLYING_THREADS: usize = 8;
/// Opened logs taken up at once.
const ADOPTED_MAX: usize = 256;

/// What of the image is to be looked at.
#[derive(Debug, Default, PartialEq)]
struct Affected {
    partitions: BTreeSet<TopicPartition>,
    /// Topics whose configs changed.
    topics: BTreeSet<String>,
    all_configs: bool,
    /// Brokers whose session expired.
    expired: BTreeSet<BrokerId>,
}

impl Affected {
    fn add(&mut self, event: &Event, me: BrokerId) {
        let mut range = |topic: TopicId, from: i32, to: i32| {
            self.partitions.extend((from..to).map(|number| TopicPartition::new(topic, number)));
        };
        match event {
            Event::LeaderElected { partition, .. }
            | Event::IsrChanged { partition, .. }
            | Event::ReassignmentBegan { partition, .. }
            | Event::ReassignmentCompleted { partition, .. }
            | Event::ReassignmentCancelled { partition, .. }
            | Event::ReplicaDamaged { partition, .. } => {
                self.partitions.insert(*partition);
            }
            Event::TopicCreated { topic, partitions, .. } | Event::TopicDeleted { topic, partitions, .. } => {
                range(*topic, 0, *partitions);
            }
            Event::PartitionsAdded { topic, from, to, .. } => range(*topic, *from, *to),
            Event::ConfigChanged { resource, .. } => match resource {
                ConfigResource::Topic(name) => {
                    self.topics.insert(name.clone());
                }
                ConfigResource::BrokerDefault => self.all_configs = true,
                ConfigResource::Broker(broker) => self.all_configs |= *broker == me,
                ConfigResource::Group(_) => {}
            },
            Event::BrokerFenced { broker, reason: FenceReason::SessionExpired, .. } => {
                self.expired.insert(*broker);
            }
            Event::BrokerUnfenced { broker, .. } => {
                self.expired.remove(broker);
            }
            Event::BrokerRegistered { .. }
            | Event::BrokerFenced { .. }
            | Event::BrokerShuttingDown { .. }
            | Event::BrokerUnregistered { .. }
            | Event::BrokerDraining { .. }
            | Event::GroupChanged { .. }
            | Event::FeatureFinalized { .. }
            | Event::ControllerElected { .. } => {}
        }
    }
}

/// The one task that changes roles. Invariant: `image` is the newest that every hosted partition was shown.
pub(super) struct Reconciler {
    inner: Arc<Inner>,
    fetchers: Fetchers,
    updates: broadcast::Receiver<Update>,
    image: Arc<Image>,
    opener: Opener,
    /// With the opener.
    opening: BTreeSet<TopicPartition>,
    failed: FailedOpens,
    /// Reports under way.
    reports: JoinSet<()>,
    strays_set_aside: bool,
}

impl Reconciler {
    pub async fn new(inner: Arc<Inner>, fetchers: Fetchers) -> Reconciler {
        let folder = inner.folder.clone();
        let loaded = tokio::task::spawn_blocking(move || folder.load_high_watermarks()).await;
        let checkpoint = match loaded {
            Ok(Ok(marks)) => marks,
            Ok(Err(error)) => {
                tracing::warn!(%error, "no high watermarks are known from before");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        };
        *inner.marks_before.lock() = checkpoint;
        // The image is taken after subscribing, so that nothing falls between them.
        let updates = inner.quorum.subscribe();
        let image = inner.quorum.image();
        let opener = Opener::new(inner.node.clone(), inner.folder.clone());
        Reconciler {
            inner,
            fetchers,
            updates,
            image,
            opener,
            opening: BTreeSet::new(),
            failed: FailedOpens::default(),
            reports: JoinSet::new(),
            strays_set_aside: false,
        }
    }

    pub async fn follow_image(&mut self) {
        self.resync(self.image.clone()).await;
        loop {
            let due = self.failed.next();
            tokio::select! {
                update = self.updates.recv() => match update {
                    Ok(update) => self.take_updates(update).await,
                    Err(RecvError::Lagged(_)) => self.resync(self.inner.quorum.image()).await,
                    Err(RecvError::Closed) => return,
                },
                opened = self.opener.opened(ADOPTED_MAX) => self.adopt(opened).await,
                () = self.inner.node.ready_released.notified() => self.tell_ready().await,
                () = wait_until(due) => self.mind_failed(),
            }
        }
    }

    pub async fn stop(&mut self) {
        self.reports.shutdown().await;
        self.opener.stop().await;
        self.fetchers.stop().await;
    }

    /// This update and all that wait behind it, in one step.
    async fn take_updates(&mut self, first: Update) {
        let mut affected = Affected::default();
        let (mut newest, mut whole) = (self.image.clone(), false);
        let mut next = Some(first);
        while let Some(update) = next {
            if update.resync || update.image.index > self.image.index {
                for event in update.events.iter() {
                    affected.add(&event.event, self.inner.node.broker);
                }
                whole |= update.resync;
                newest = update.image;
            }
            next = match self.updates.try_recv() {
                Ok(update) => Some(update),
                Err(TryRecvError::Lagged(_)) => {
                    (newest, whole) = (self.inner.quorum.image(), true);
                    None
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => None,
            };
        }
        if whole {
            self.resync(newest).await;
        } else {
            self.show(newest, affected).await;
        }
    }

    /// Compares everything hosted, or not hosted only for want of its log, and everything assigned.
    async fn resync(&mut self, image: Arc<Image>) {
        let me = self.inner.node.broker;
        let mut affected = Affected { all_configs: true, ..Affected::default() };
        affected.partitions.extend(self.inner.all().iter().map(|p| p.id));
        affected.partitions.extend(self.failed.ids());
        for (topic, state) in &image.topics {
            for (number, partition) in (0..).zip(state.partitions.iter()) {
                if partition.replicas.contains(&me) {
                    affected.partitions.insert(TopicPartition::new(*topic, number));
                }
            }
        }
        self.show(image, affected).await;
    }

    async fn show(&mut self, image: Arc<Image>, affected: Affected) {
        self.image = image.clone();
        self.inner.node.contacts.show(&image, &affected.expired, clock::now());
        // Before the partitions act on it: a follower's epoch is checked against it.
        self.inner.node.image.store(image.clone());
        let (mut changing, mut to_open, mut to_drop) = (Vec::new(), Vec::new(), Vec::new());
        let (mut gone, now) = (Vec::new(), clock::now());
        for id in affected.partitions {
            match (self.inner.get(id), self.is_assigned(id)) {
                (Some(partition), true) => changing.push(partition),
                (Some(partition), false) => to_drop.push(partition),
                (None, true) if self.failed.is_final(id, now) => {}
                (None, true) if self.opening.insert(id) => to_open.push(id),
                (None, false) if self.failed.forget(id) && !self.opening.contains(&id) => gone.push(id),
                (None, _) => {}
            }
        }
        // Before roles: whoever leads or follows in a new epoch counts, and fetches, as the topic's durability is now.
        self.reconfigure(&affected.topics, affected.all_configs);
        // Leaders first: clients wait for them.
        let standings = apply_all(changing, image.clone()).await;
        for (partition, before, standing) in standings {
            self.announce(&partition, before, standing);
        }
        self.fetchers.kick();
        self.drop_all(to_drop).await;
        if !gone.is_empty() {
            self.note_failed();
            self.delete_folders(gone).await;
        }
        self.open(to_open);
        self.tell_ready().await;
    }

    fn is_assigned(&self, id: TopicPartition) -> bool {
        is_assigned(&self.image, id, self.inner.node.broker)
    }

    fn announce(&mut self, partition: &Arc<Partition>, before: Standing, now: Standing) {
        if before == now {
            return;
        }
        match now {
            Standing::Following { leader: Some(leader), epoch } if leader != self.inner.node.broker => {
                let durability = partition.durability();
                self.fetchers.follow(partition, leader, epoch, durability);
            }
            Standing::Following { .. } | Standing::Leading(_) | Standing::Stopped => self.fetchers.forget(partition.id),
        }
        for listener in self.inner.listeners.read().iter() {
            match (before, now) {
                (_, Standing::Leading(epoch)) => listener.became_leader(partition, &partition.topic, epoch),
                (Standing::Leading(_), _) => listener.resigned(partition.id, &partition.topic),
                _ => {}
            }
        }
    }

    /// The caller kicks the fetchers.
    fn reconfigure(&mut self, topics: &BTreeSet<String>, all: bool) {
        if topics.is_empty() && !all {
            return;
        }
        let mut configs = Configs::new(&self.inner, &self.image);
        let now = clock::now();
        for partition in self.inner.all() {
            if !all && !topics.contains(&*partition.topic) {
                continue;
            }
            let config = configs.of(&partition.topic);
            if partition.configure(&config, &self.image, now).is_some()
                && let Standing::Following { leader: Some(leader), epoch } = partition.standing()
                && leader != self.inner.node.broker
            {
                self.fetchers.follow(&partition, leader, epoch, config.durability);
            }
        }
    }

    async fn drop_all(&mut self, partitions: Vec<Arc<Partition>>) {
        if partitions.is_empty() {
            return;
        }
        let mut ids = Vec::new();
        for partition in partitions {
            self.inner.remove(partition.id);
            // First the image, where it still has the partition: who waits here is told who leads now.
            let (before, _) = partition.apply(&self.image, clock::now());
            let _never_served_again = partition.stop(false);
            self.announce(&partition, before, Standing::Stopped);
            ids.push(partition.id);
        }
        self.delete_folders(ids).await;
    }

    async fn delete_folders(&self, ids: Vec<TopicPartition>) {
        let folder = self.inner.folder.clone();
        let _done_or_logged = tokio::task::spawn_blocking(move || {
            for id in ids {
                match folder.delete(id) {
                    Ok(()) => tracing::info!(partition = %id, "removed: the image has it here no more"),
                    Err(error) => tracing::warn!(partition = %id, %error, "a folder was not removed"),
                }
            }
        })
        .await;
    }

    fn open(&mut self, ids: Vec<TopicPartition>) {
        if ids.is_empty() {
            return;
        }
        let mut configs = Configs::new(&self.inner, &self.image);
        for id in ids {
            let Some(topic) = self.image.topic(id.topic) else { continue };
            let known = self.inner.marks_before.lock().get(&id).copied().unwrap_or(Offset::ZERO);
            let config = configs.of(&topic.name);
            self.opener.open(Job { id, topic: topic.name.as_str().into(), config, known });
        }
    }

    /// What could not be opened is tried again, or told to the controller if others rely on it.
    fn mind_failed(&mut self) {
        while self.reports.try_join_next().is_some() {}
        let (mut to_open, mut reports) = (Vec::new(), Vec::new());
        for (id, due) in self.failed.take_due(clock::now()) {
            match due {
                Due::Open => {
                    if self.image.partition(id).is_some_and(|view| view.leader == Some(self.inner.node.broker)) {
                        reports.extend(self.report_of(id));
                    }
                    if self.opening.insert(id) {
                        to_open.push(id);
                    }
                }
                Due::Report => reports.extend(self.report_of(id)),
            }
        }
        self.open(to_open);
        if !reports.is_empty() {
            self.reports.spawn(report_failed_opens(self.inner.clone(), reports));
        }
    }

    /// `None`: nobody relies on the copy here.
    fn report_of(&self, id: TopicPartition) -> Option<DamageReport> {
        let (me, view) = (self.inner.node.broker, self.image.partition(id)?);
        let from = self.inner.marks_before.lock().get(&id).copied().unwrap_or(Offset::ZERO);
        let is_trusted = view.isr.contains(&me) || view.elr.contains(&me);
        is_trusted.then_some(DamageReport { partition: id, leader_epoch: view.leader_epoch, from })
    }

    /// Opened logs join the registry. The image may have moved on meanwhile.
    async fn adopt(&mut self, opened: Vec<Opened>) {
        let (mut adopted, mut gone) = (Vec::new(), Vec::new());
        for Opened { id, outcome } in opened {
            self.opening.remove(&id);
            match outcome {
                Ok(partition) if self.is_assigned(id) => adopted.push(partition),
                Ok(partition) => {
                    let _never_served = partition.stop(false);
                    gone.push(id);
                }
                Err(_) if !self.is_assigned(id) => gone.push(id),
                Err(error) => {
                    let turns = self.failed.note(id, error.is_passing(), clock::now());
                    if !error.is_passing() {
                        tracing::error!(
                            partition = %id, %error,
                            "not hosted: its log cannot be opened, and this replica leaves the ISR if others hold what was \
                             acked; repair or remove it and restart"
                        );
                    } else if turns == 0 || turns.is_power_of_two() {
                        tracing::error!(
                            partition = %id, %error,
                            "not hosted yet: its log cannot be opened now, and will be tried again; make room on the disk, \
                             or raise the limit on open files"
                        );
                    }
                }
            }
        }
        let image = self.image.clone();
        {
            let mut configs = Configs::new(&self.inner, &image);
            for partition in &adopted {
                // Changes of its config while it was opening found nothing to change.
                partition.configure(&configs.of(&partition.topic), &image, clock::now());
            }
        }
        let standings = apply_all(adopted, image).await;
        for (partition, _, standing) in standings {
            self.inner.insert(partition.clone());
            if self.failed.forget(partition.id) {
                tracing::info!(?partition, "hosted: its log could be opened after all");
            }
            self.inner.marks_before.lock().remove(&partition.id);
            // It may have become leader in the opener already; nobody has been told.
            self.announce(&partition, Standing::Stopped, standing);
        }
        self.note_failed();
        self.fetchers.kick();
        if !gone.is_empty() {
            self.delete_folders(gone).await;
        }
        self.tell_ready().await;
    }

    fn note_failed(&self) {
        self.inner.failed_opens.store(self.failed.len(), Ordering::Relaxed);
    }

    async fn tell_ready(&mut self) {
        if !is_caught_up(&self.image, self.inner.node.epoch()) {
            return;
        }
        if !self.strays_set_aside {
            self.strays_set_aside = true;
            self.set_strays_aside().await;
        }
        // Logs that fail again and again, each attempt a long one, keep nobody from the others.
        if self.opening.iter().all(|id| self.failed.contains(*id)) && !self.inner.node.is_ready_held() {
            self.inner.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
    }

    /// Rule 13: only now is the image known to tell of everything that was deleted while this node was away. Nobody saw it
    /// happen here, so nothing is destroyed at once.
    async fn set_strays_aside(&self) {
        let folder = self.inner.folder.clone();
        let strays = match tokio::task::spawn_blocking(move || folder.found()).await {
            Ok(Ok(found)) => strays(found, &self.image, self.inner.node.broker),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the data folder could not be searched for deleted partitions");
                return;
            }
            Err(_) => return,
        };
        if strays.is_empty() {
            return;
        }
        let (folder, grace_ms) = (self.inner.folder.clone(), self.inner.node.config.stray_retention_ms);
        let _done_or_logged = tokio::task::spawn_blocking(move || {
            for id in strays {
                match folder.set_aside(id, clock::wall_ms()) {
                    Ok(Some(Aside { path, bytes })) => tracing::warn!(
                        partition = %id, path = %path.display(), bytes, until = kept_until(clock::wall_ms(), grace_ms),
                        "set aside: the metadata does not have this partition here any more. The folder is kept for a                          while (highwater.stray.retention.ms) and then removed; move it elsewhere to keep it"
                    ),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(partition = %id, %error, "a folder was not set aside"),
                }
            }
        })
        .await;
    }
}

pub(super) fn is_assigned(image: &Image, id: TopicPartition, me: BrokerId) -> bool {
    image.partition(id).is_some_and(|p| p.replicas.contains(&me))
}

/// The image holds the registration under `epoch`, so it tells of all that was deleted while this node was away.
pub(super) fn is_caught_up(image: &Image, epoch: BrokerEpoch) -> bool {
    u64::try_from(epoch.0).is_ok_and(|epoch| epoch > 0 && image.index.0 >= epoch)
}

/// Rule 13: the folders found that an image which has caught up does not assign to this node.
pub(super) fn strays(found: Vec<Found>, image: &Image, me: BrokerId) -> Vec<TopicPartition> {
    found.into_iter().map(|folder| folder.id).filter(|id| !is_assigned(image, *id, me)).collect()
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at.saturating_duration_since(clock::now())).await,
        None => std::future::pending().await,
    }
}

type Moved = (Arc<Partition>, Standing, Standing);

async fn apply_all(partitions: Vec<Arc<Partition>>, image: Arc<Image>) -> Vec<Moved> {
    fn apply(partitions: &[Arc<Partition>], image: &Image) -> Vec<Moved> {
        let now = clock::now();
        let moved = partitions.iter().map(|partition| {
            let (before, standing) = partition.apply(image, now);
            (partition.clone(), before, standing)
        });
        moved.collect()
    }
    if partitions.len() <= INLINE_MAX {
        return apply(&partitions, &image);
    }
    let share = partitions.len().div_ceil(APPLYING_THREADS);
    let parts: Vec<_> = partitions
        .chunks(share)
        .map(|part| {
            let (part, image) = (part.to_vec(), image.clone());
            tokio::task::spawn_blocking(move || apply(&part, &image))
        })
        .collect();
    let mut moved = Vec::with_capacity(partitions.len());
    for part in parts {
        moved.extend(part.await.expect("applying an image does not panic"));
    }
    moved
}

/// Topic configs resolved by one image, each topic once.
struct Configs<'a> {
    image: &'a Image,
    defaults: BrokerConfigs,
    resolved: BTreeMap<String, Arc<TopicConfig>>,
}

impl<'a> Configs<'a> {
    /// Dynamic configs of this broker go over those of all brokers, and these over the node's own.
    fn new(inner: &Inner, image: &'a Image) -> Configs<'a> {
        let mut defaults = inner.config.kafka.clone();
        for resource in [ConfigResource::BrokerDefault, ConfigResource::Broker(inner.node.broker)] {
            for (name, value) in &image.configs.of(&resource) {
                defaults.given.insert(name.clone(), value.clone());
            }
        }
        Configs { image, defaults, resolved: BTreeMap::new() }
    }

    fn of(&mut self, topic: &str) -> Arc<TopicConfig> {
        if let Some(known) = self.resolved.get(topic) {
            return known.clone();
        }
        let overrides = self.image.configs.of_topic(topic);
        let pairs = overrides.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut config = TopicConfig::resolve(pairs, &self.defaults);
        // As `apply` sees it: what a replica counts as held and what a lost page cache loses must be one decision.
        config.durability =
            if self.image.configs.is_page_cache(topic) { Durability::PageCache } else { Durability::Sync };
        let config = Arc::new(config);
        self.resolved.insert(topic.to_string(), config.clone());
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn events_name_what_to_look_at() {
        let topic = TopicId(Uuid::from_u128(7));
        let mut affected = Affected::default();
        let events = [
            Event::TopicCreated { topic, name: "t".into(), partitions: 2 },
            Event::PartitionsAdded { topic, name: "t".into(), from: 2, to: 4 },
            Event::ConfigChanged { resource: ConfigResource::Topic("t".into()), names: vec![] },
            Event::ConfigChanged { resource: ConfigResource::Broker(BrokerId(2)), names: vec![] },
            Event::BrokerUnregistered { broker: BrokerId(1) },
        ];
        events.iter().for_each(|event| affected.add(event, BrokerId(1)));
        let ids: Vec<i32> = affected.partitions.iter().map(|id| id.partition).collect();
        assert_eq!(ids, vec![0, 1, 2, 3]);
        assert_eq!(affected.topics.len(), 1);
        assert!(!affected.all_configs, "another broker's configs do not concern this one");
    }
}
