//! The coordinator of all groups whose offsets partition this broker leads: what handlers ask.

use super::cell::{Cell, Parked};
use super::classic::Phase;
use super::consumer;
use super::counts::Gauges;
use super::expirer::Expirer;
use super::lag_watch::LagWatch;
use super::log_ends::LogEndsSource;
use super::machine::Machine;
use super::offset_records::{OffsetKey, OffsetRecord, floor_char_boundary};
use super::rewrite;
use super::settings::{GROUP_ID_BYTES_MAX, GROUPS_BYTES_MAX, MEMBER_ID_PREFIX_BYTES_MAX, Settings};
use super::shell::Shell;
use super::slot::Slot;
use super::topic::OFFSETS_TOPIC;
use crate::config::broker::NodeConfig;
use crate::ids::{BrokerId, TopicPartition};
use crate::metadata::group_change::Rebalance;
use crate::metadata::intent::ControllerChannel;
use crate::metadata::quorum::Quorum;
use crate::platform::bugs::{self, Bug};
use crate::platform::random;
use crate::replica::hosted::Hosted;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

pub use super::classic::{Description, Join, Joined, JoinedMember, Leaver, MemberDescription, SyncGroup, Synced};
pub use super::consumer::{Heartbeat, HeartbeatAnswer};
pub use super::offset_delete::DeletedOffsets;
pub use super::offsets::{Committed, OffsetWrite};

/// Why a group request failed; translated to Kafka's codes in `kafka/errors.rs`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("this broker does not coordinate the group")]
    NotCoordinator,
    #[error("the coordinator is loading the group's partition")]
    Loading,
    #[error("the coordinator is not available")]
    NotAvailable,
    #[error("unknown member id")]
    UnknownMember,
    #[error("join again with the member id given")]
    MemberIdRequired(String),
    #[error("the generation is not the current one")]
    IllegalGeneration,
    #[error("the group is rebalancing; join again")]
    RebalanceInProgress,
    #[error("no protocol in common with the group's members")]
    InconsistentProtocol,
    #[error("the session timeout is outside the broker's bounds")]
    InvalidSessionTimeout,
    #[error("the group id is not valid")]
    InvalidGroupId,
    #[error("a newer member has this instance id")]
    FencedInstance,
    #[error("the group has its maximum size")]
    GroupFull,
    #[error("the member's metadata or assignment is too large")]
    MemberTooLarge,
    #[error("the offset's metadata is too large")]
    OffsetMetadataTooLarge,
    #[error("unknown topic or partition")]
    UnknownTopicOrPartition,
    #[error("the group is not empty")]
    NonEmptyGroup,
    #[error("the group does not exist")]
    GroupNotFound,
    #[error("an offset commit of the partition is on its way")]
    UnstableOffset,
    #[error("no topic has this id")]
    UnknownTopicId,
    #[error("coordinators of this kind are not served")]
    UnsupportedCoordinator,
    #[error("the member's epoch is not the current one; it must give up its partitions and join again")]
    FencedMemberEpoch,
    #[error("the instance id is another member's, which has not left")]
    UnreleasedInstance,
    #[error("the server knows no such assignor")]
    UnsupportedAssignor,
    #[error("the member's epoch is an older one")]
    StaleMemberEpoch,
    #[error("the topic pattern is not valid, too large, or one too many of the group")]
    InvalidRegex,
    #[error("{0}")]
    InvalidRequest(&'static str),
    #[error("a member of the group subscribes to the topic")]
    SubscribedToTopic,
    #[error("members of the consumer protocol commit offsets with version 9 or above")]
    UnsupportedVersion,
}

/// What the coordinator needs from the rest of the house.
pub struct CoordinatorParts {
    pub config: Arc<NodeConfig>,
    pub quorum: Quorum,
    pub hosted: Hosted,
    pub controller: Arc<dyn ControllerChannel>,
    pub log_ends: Arc<dyn LogEndsSource>,
}

/// An OffsetCommit request, after its topics and metadata were checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetCommit {
    pub group: String,
    /// Empty, with generation −1: the caller is in no generation.
    pub member: String,
    pub instance: Option<String>,
    pub generation: i32,
    /// Its version knows of member epochs, from 9 on: it may be of a member of the consumer protocol (KIP-848).
    pub knows_epochs: bool,
    pub offsets: Vec<OffsetWrite>,
}

/// Which offsets a fetch wants: by topic its partitions, or all that there are.
pub type Wanted<'a> = Option<&'a [(String, Vec<i32>)]>;

/// By topic and partition; `None` where nothing is committed.
pub type FetchedOffsets = Vec<(String, Vec<(i32, Result<Option<Committed>, GroupError>)>)>;

/// The groups that this broker coordinates; incomplete while a partition is loading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub groups: Vec<ListedGroup>,
    pub is_loading: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    pub group: String,
    pub protocol_type: String,
    /// Kafka's name of its state.
    pub state: &'static str,
    /// Kafka's name of its type.
    pub kind: &'static str,
}

/// Cheap to clone. A request whose group another broker coordinates ends in [`GroupError::NotCoordinator`].
#[derive(Clone)]
pub struct Coordinator {
    pub(super) shell: Arc<Shell>,
    pub(super) lag: LagWatch,
}

impl Coordinator {
    /// On the current runtime. Call it before `Hosted::run`, so that no leadership is missed.
    pub fn start(parts: CoordinatorParts) -> Coordinator {
        let updates = parts.quorum.subscribe();
        let quorum = parts.quorum;
        let settings = Settings::of(&parts.config.kafka);
        let shell = Shell::start(parts.config.node_id, settings, Box::new(move || quorum.image()), parts.controller);
        parts.hosted.add_listener(shell.clone());
        tokio::spawn(Shell::follow_topics(Arc::downgrade(&shell), updates));
        let interval = Duration::from_millis(shell.settings.expiry_interval_ms.unsigned_abs());
        tokio::spawn(Expirer::run(Arc::downgrade(&shell), interval));
        tokio::spawn(rewrite::run(Arc::downgrade(&shell)));
        let lag = LagWatch::new(parts.log_ends);
        let interval = parts.config.kafka.int("highwater.group.lag.interval.ms");
        tokio::spawn(lag.clone().run(Arc::downgrade(&shell), Duration::from_millis(interval.unsigned_abs())));
        Coordinator { shell, lag }
    }

    /// Who coordinates the group. Creates the offsets topic when there is none.
    pub async fn locate(&self, group: &str) -> Result<BrokerId, GroupError> {
        if self.shell.image().topic_by_name(OFFSETS_TOPIC).is_none() {
            self.shell.create_topic().await;
        }
        let image = self.shell.image();
        let topic = image.topic_by_name(OFFSETS_TOPIC).ok_or(GroupError::NotAvailable)?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let partition = super::partitioner::partition_for(group, count.max(1));
        image.partition(TopicPartition::new(topic.id, partition)).and_then(|p| p.leader).ok_or(GroupError::NotAvailable)
    }

    /// Resolves when the join phase ends.
    pub async fn join(&self, join: Join) -> Result<Joined, GroupError> {
        check_group_id(&join.group)?;
        let slot = self.shell.slot(&join.group)?;
        // Before a group is made for it: nobody would ever come back to that one.
        join.check(&self.shell.settings.rules)?;
        self.check_room(join.bytes(), join.member.is_empty())?;
        let cell = if join.member.is_empty() {
            slot.group_or_new(&join.group, self.shell.settings.rules, self.shell.timers.now())?
        } else {
            slot.group(&join.group)?.ok_or(GroupError::UnknownMember)?
        };
        let fresh_id = fresh_member_id(join.instance.as_ref().unwrap_or(&join.client_id));
        let (sender, receiver) = oneshot::channel();
        self.shell.with(&slot, &cell, |entry, now| {
            let ticket = entry.park(Parked::Join(sender));
            ((), entry.machine.join(ticket, &join, fresh_id, now))
        });
        receiver.await.unwrap_or(Err(GroupError::NotCoordinator))
    }

    /// Resolves once the generation's assignment is committed.
    pub async fn sync(&self, sync: SyncGroup) -> Result<Synced, GroupError> {
        check_group_id(&sync.group)?;
        let (slot, cell) = self.find(&sync.group)?.ok_or(GroupError::UnknownMember)?;
        let (sender, receiver) = oneshot::channel();
        self.shell.with(&slot, &cell, |entry, now| {
            let ticket = entry.park(Parked::Sync(sender));
            ((), entry.machine.sync(ticket, sync, now))
        });
        receiver.await.unwrap_or(Err(GroupError::NotCoordinator))
    }

    pub fn heartbeat(
        &self,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        check_group_id(group)?;
        let (slot, cell) = self.find(group)?.ok_or(GroupError::UnknownMember)?;
        self.shell
            .with(&slot, &cell, |entry, now| (entry.machine.heartbeat(member, instance, generation, now), Vec::new()))
    }

    /// A heartbeat of the consumer protocol (KIP-848); resolves once what its answer reveals is committed.
    pub async fn consumer_heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatAnswer, GroupError> {
        check_group_id(&beat.group)?;
        let slot = self.shell.slot(&beat.group)?;
        beat.check()?;
        let is_new = beat.epoch == consumer::JOIN;
        self.check_room(if is_new || beat.topics.is_some() { beat.bytes() } else { 0 }, is_new)?;
        let cell = if is_new {
            slot.group_or_new(&beat.group, self.shell.settings.rules, self.shell.timers.now())?
        } else {
            slot.group(&beat.group)?.ok_or(GroupError::UnknownMember)?
        };
        let (sender, receiver) = oneshot::channel();
        self.shell.with(&slot, &cell, |entry, now| {
            // Under the lock: no older than what the group was told of topics.
            let image = self.shell.image();
            let ticket = entry.park(Parked::Heartbeat(sender));
            ((), entry.machine.beat(ticket, &cell.group, beat, &image, now))
        });
        receiver.await.unwrap_or(Err(GroupError::NotCoordinator))
    }

    /// A group of the consumer protocol.
    pub fn describe_consumer(&self, group: &str) -> Result<consumer::Description, GroupError> {
        let (_, cell) = self.find(group)?.ok_or(GroupError::GroupNotFound)?;
        let entry = cell.lock();
        entry.machine.describe_consumer().ok_or(GroupError::GroupNotFound)
    }

    /// May this member fetch offsets? `None`: a caller that names no member.
    pub fn check_offset_fetch(&self, group: &str, member: Option<&str>, epoch: i32) -> Result<(), GroupError> {
        match self.find(group)? {
            Some((_, cell)) => cell.lock().machine.check_offset_fetch(member, epoch),
            None => Ok(()),
        }
    }

    /// One result a member, in the order given.
    pub fn leave(&self, group: &str, members: &[Leaver]) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        check_group_id(group)?;
        let Some((slot, cell)) = self.find(group)? else {
            return Ok(members.iter().map(|_| Err(GroupError::UnknownMember)).collect());
        };
        Ok(self.shell.with(&slot, &cell, |entry, now| entry.machine.leave(members, now)))
    }

    /// The group's last rebalances, the newest last, also those under former coordinators.
    pub fn history(&self, group: &str) -> Vec<Rebalance> {
        let image = self.shell.image();
        image.groups.groups.get(group).map(|group| group.history.iter().cloned().collect()).unwrap_or_default()
    }

    pub fn describe(&self, group: &str) -> Result<Description, GroupError> {
        let (_, cell) = self.find(group)?.ok_or(GroupError::GroupNotFound)?;
        let description = cell.lock().machine.describe().ok_or(GroupError::GroupNotFound)?;
        if description.phase == Phase::Dead { Err(GroupError::GroupNotFound) } else { Ok(description) }
    }

    pub fn list(&self) -> Listing {
        let mut listing = Listing::default();
        for slot in self.shell.slots() {
            let Some(cells) = slot.all() else {
                listing.is_loading = true;
                continue;
            };
            for cell in cells {
                let entry = cell.lock();
                if !entry.machine.is_dead() {
                    listing.groups.push(ListedGroup {
                        group: cell.group.clone(),
                        protocol_type: entry.machine.protocol_type().to_string(),
                        state: entry.machine.state_name(),
                        kind: entry.machine.type_name(),
                    });
                }
            }
        }
        listing
    }

    /// Deletes an empty group with its offsets.
    pub async fn delete(&self, group: &str) -> Result<(), GroupError> {
        check_group_id(group)?;
        let (slot, cell) = self.find(group)?.ok_or(GroupError::GroupNotFound)?;
        let begun = self.shell.with(&slot, &cell, |entry, _| {
            if entry.machine.is_dead() {
                return (Err(GroupError::GroupNotFound), Vec::new());
            }
            if !entry.machine.is_empty() {
                return (Err(GroupError::NonEmptyGroup), Vec::new());
            }
            let tombstones = entry.offsets.tombstones(group, |_| true);
            match self.shell.write_offsets(&slot, &cell, entry, tombstones) {
                // Who joins meanwhile is told to come back: then it is another group.
                Ok(receiver) => (Ok(receiver), entry.machine.end(GroupError::NotAvailable)),
                Err(error) => (Err(error), Vec::new()),
            }
        });
        self.shell.finish_delete(slot, cell, begun?).await
    }

    /// All or nothing; resolves once the offsets are replicated and visible.
    pub async fn commit_offsets(&self, commit: OffsetCommit) -> Result<(), GroupError> {
        check_group_id_length(&commit.group)?;
        let slot = self.shell.slot(&commit.group)?;
        let cell = if commit.generation < 0 {
            slot.group_or_new(&commit.group, self.shell.settings.rules, self.shell.timers.now())?
        } else {
            slot.group(&commit.group)?.ok_or(GroupError::IllegalGeneration)?
        };
        let names = &self.shell.names;
        let group = names.share(&commit.group);
        let records = commit
            .offsets
            .into_iter()
            .map(|write| OffsetRecord {
                key: OffsetKey { group: group.clone(), topic: names.share(&write.topic), partition: write.partition },
                value: Some(write.committed),
            })
            .collect();
        let begun = self.shell.with(&slot, &cell, |entry, now| {
            let instance = commit.instance.as_deref();
            let (generation, knows) = (commit.generation, commit.knows_epochs);
            let mut allowed = entry.machine.check_offset_commit(&commit.member, instance, generation, knows, now);
            if bugs::is(Bug::ZombieCommits) {
                allowed = Ok(());
            }
            (allowed.and_then(|()| self.shell.write_commits(&slot, &cell, entry, records)), Vec::new())
        });
        let outcome = self.shell.written(begun?).await;
        // Heartbeats of its connection stood behind the commit: the member was not silent, it waited.
        if commit.generation >= 0 {
            self.shell.with(&slot, &cell, |entry, now| {
                if let Machine::Classic(group) = &mut entry.machine {
                    let instance = commit.instance.as_deref();
                    let _rebalancing_or_gone = group.heartbeat(&commit.member, instance, commit.generation, now);
                }
                ((), Vec::new())
            });
        }
        outcome
    }

    /// `require_stable`: where a commit is on its way, an error instead of the older offset.
    pub fn fetch_offsets(
        &self,
        group: &str,
        wanted: Wanted<'_>,
        require_stable: bool,
    ) -> Result<FetchedOffsets, GroupError> {
        let found = self.find(group)?;
        let entry = found.as_ref().map(|(_, cell)| cell.lock());
        let offsets = entry.as_ref().map(|entry| &entry.offsets);
        let fetch = |topic: &str, partition: i32| {
            if require_stable && offsets.is_some_and(|offsets| offsets.is_pending(topic, partition)) {
                return (partition, Err(GroupError::UnstableOffset));
            }
            (partition, Ok(offsets.and_then(|offsets| offsets.get(topic, partition))))
        };
        Ok(match wanted {
            Some(wanted) => wanted
                .iter()
                .map(|(topic, partitions)| (topic.clone(), partitions.iter().map(|p| fetch(topic, *p)).collect()))
                .collect(),
            None => {
                let mut all: BTreeMap<&str, Vec<_>> = BTreeMap::new();
                for (topic, partition, _) in offsets.into_iter().flat_map(|offsets| offsets.all()) {
                    all.entry(topic).or_default().push(fetch(topic, partition));
                }
                all.into_iter().map(|(topic, partitions)| (topic.to_string(), partitions)).collect()
            }
        })
    }

    /// The bound of one offset's metadata.
    pub fn offset_metadata_bytes_max(&self) -> usize {
        self.shell.settings.metadata_bytes_max
    }

    pub fn gauges(&self) -> Gauges {
        Gauges::of(&self.shell)
    }

    /// Who is in already may change a little more than who is new.
    fn check_room(&self, comes: usize, is_new: bool) -> Result<(), GroupError> {
        let bound = if is_new { GROUPS_BYTES_MAX } else { GROUPS_BYTES_MAX + GROUPS_BYTES_MAX / 4 };
        let held = self.shell.held.load(Ordering::Relaxed);
        if comes > 0 && held + comes > bound { Err(GroupError::GroupFull) } else { Ok(()) }
    }

    pub(super) fn find(&self, group: &str) -> Result<Option<Place>, GroupError> {
        check_group_id_length(group)?;
        let slot = self.shell.slot(group)?;
        Ok(slot.group(group)?.map(|cell| (slot, cell)))
    }
}

/// A group and the offsets partition it belongs to.
pub(super) type Place = (Arc<Slot>, Arc<Cell>);

fn check_group_id(group: &str) -> Result<(), GroupError> {
    if group.is_empty() { Err(GroupError::InvalidGroupId) } else { check_group_id_length(group) }
}

/// Offsets may be committed under the empty name, as in Kafka.
pub(super) fn check_group_id_length(group: &str) -> Result<(), GroupError> {
    if group.len() > GROUP_ID_BYTES_MAX { Err(GroupError::InvalidGroupId) } else { Ok(()) }
}

fn fresh_member_id(name: &str) -> String {
    let cut = floor_char_boundary(name, MEMBER_ID_PREFIX_BYTES_MAX);
    format!("{}-{}", &name[..cut], random::uuid())
}

#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod deletion_tests;
#[cfg(test)]
mod tests;
