//! The last resort: a leader from outside ISR and ELR, the one with the longest log (replication.md, rule 10).
//!
//! ```text
//! no leader, and it is allowed ─→ every live replica tells (last epoch, end) ─→ the largest leads
//! ```

use super::replica_states::ReplicaState;
use crate::ids::*;
use crate::metadata::command::{Election, ElectionReason, MetadataError};
use crate::metadata::image::Image;
use crate::metadata::image::topics::Partition;
use crate::metadata::intent::IntentError;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const UNCLEAN_LEADER_ELECTION: &str = "unclean.leader.election.enable";
/// A partition that stayed without a leader is looked at again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// A moment for the brokers of a partition to come back: most losses of a leader end by themselves.
const PATIENCE: Duration = Duration::from_secs(1);
/// Partitions looked at in one tick.
pub const PARTITIONS_PER_TICK: usize = 100;

/// Partitions without a leader, and when to look at each again. Follows the image by deltas.
#[derive(Default)]
pub struct Leaderless {
    waiting: BTreeMap<TopicPartition, Instant>,
}

impl Leaderless {
    pub fn rebuild(&mut self, image: &Image, now: Instant) {
        self.waiting.clear();
        for (topic, state) in &image.topics {
            for (number, partition) in (0..).zip(state.partitions.iter()) {
                if partition.leader.is_none() {
                    self.waiting.insert(TopicPartition::new(*topic, number), now + PATIENCE);
                }
            }
        }
    }

    pub fn observe(&mut self, image: &Image, changed: impl IntoIterator<Item = TopicPartition>, now: Instant) {
        for id in changed {
            if image.partition(id).is_some_and(|p| p.leader.is_none()) {
                self.waiting.entry(id).or_insert(now + PATIENCE);
            } else {
                self.waiting.remove(&id);
            }
        }
    }

    /// Those whose topic allows an unclean election and that a live replica could lead.
    pub fn due(&mut self, image: &Image, now: Instant) -> Vec<TopicPartition> {
        let mut due = Vec::new();
        self.waiting.retain(|id, at| {
            let Some(partition) = image.partition(*id).filter(|p| p.leader.is_none()) else { return false };
            if *at <= now && due.len() < PARTITIONS_PER_TICK {
                *at = now + RETRY;
                if is_allowed(image, id.topic) && !live(image, partition).is_empty() {
                    due.push(*id);
                }
            }
            true
        });
        due
    }
}

/// What the topic says, or all brokers do.
fn is_allowed(image: &Image, topic: TopicId) -> bool {
    let name = image.topic(topic).map_or("", |topic| topic.name.as_str());
    image.configs.topic_value(name, UNCLEAN_LEADER_ELECTION) == Some("true")
}

fn live(image: &Image, partition: &Partition) -> Vec<BrokerId> {
    partition.replicas.iter().copied().filter(|b| image.is_active(*b)).collect()
}

/// The replicas to ask, if the partition needs such an election at all.
pub fn to_ask(image: &Image, id: TopicPartition) -> Result<Vec<BrokerId>, IntentError> {
    let partition = image.partition(id).ok_or(MetadataError::UnknownPartition)?;
    if partition.leader.is_some() {
        return Err(IntentError::ElectionNotNeeded);
    }
    let live = live(image, partition);
    if live.is_empty() {
        return Err(IntentError::EligibleLeadersNotAvailable("no replica of the partition is alive".into()));
    }
    Ok(live)
}

/// The election that the answers of `asked` call for. All must have answered: the one that did not may hold the longest
/// log.
pub fn choose(
    image: &Image,
    id: TopicPartition,
    asked: &[BrokerId],
    told: &BTreeMap<BrokerId, ReplicaState>,
) -> Result<Election, IntentError> {
    let partition = image.partition(id).ok_or(MetadataError::UnknownPartition)?;
    let mut best: Option<(BrokerId, (LeaderEpoch, Offset))> = None;
    for broker in asked {
        let Some(state) = told.get(broker) else {
            return Err(IntentError::EligibleLeadersNotAvailable(format!(
                "broker {broker} is alive but does not tell what it holds; retry"
            )));
        };
        let length = (state.last_epoch, state.log_end);
        // The first of equals: `asked` is in the order of preference.
        if best.is_none_or(|(_, longest)| length > longest) {
            best = Some((*broker, length));
        }
    }
    let (leader, (last_epoch, end)) =
        best.ok_or_else(|| IntentError::EligibleLeadersNotAvailable("no replica is alive".into()))?;
    let topic = image.topic(id.topic).map_or("", |topic| topic.name.as_str());
    tracing::error!(
        topic,
        partition = id.partition,
        %leader,
        %last_epoch,
        %end,
        last_in_sync = ?partition.isr,
        eligible = ?partition.elr,
        "UNCLEAN ELECTION: no replica that held everything is alive. Acknowledged records above {end} (epoch {last_epoch}) \
         are lost, and what the absent replicas hold beyond it is truncated when they return"
    );
    let partition_epoch = partition.partition_epoch;
    Ok(Election { partition: id, partition_epoch, leader, reason: ElectionReason::Unclean })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{edit, image_with, topic};
    use super::*;
    use crate::metadata::command::{Command, ConfigChange, ConfigResource};

    fn state(id: TopicPartition, last_epoch: i32, end: i64) -> ReplicaState {
        ReplicaState {
            partition: id,
            is_leader: false,
            leader_epoch: LeaderEpoch(9),
            last_epoch: LeaderEpoch(last_epoch),
            log_start: Offset(0),
            log_end: Offset(end),
            durable_end: Offset(end),
            high_watermark: Offset(0),
            size_bytes: 0,
            followers: Vec::new(),
        }
    }

    /// Partition 0 of `t` on 1, 2 and 3; 3 was the last in sync and is gone.
    fn orphaned() -> (Image, TopicPartition) {
        let mut image = image_with(&[1, 2, 3]);
        let id = TopicPartition::new(topic(&mut image, "t", 1, &[&[1, 2, 3]]), 0);
        image.brokers.get_mut(&BrokerId(3)).unwrap().fenced = true;
        edit(&mut image, id, |p| (p.isr, p.leader) = (vec![BrokerId(3)], None));
        (image, id)
    }

    #[test]
    fn the_later_epoch_wins_over_the_higher_offset_and_everyone_alive_is_heard() {
        let (image, id) = orphaned();
        let asked = to_ask(&image, id).unwrap();
        assert_eq!(asked, [BrokerId(1), BrokerId(2)]);
        let mut told = BTreeMap::from([(BrokerId(1), state(id, 4, 900))]);
        assert!(matches!(
            choose(&image, id, &asked, &told),
            Err(IntentError::EligibleLeadersNotAvailable(why)) if why.contains("broker 2")
        ));
        told.insert(BrokerId(2), state(id, 5, 100));
        assert_eq!(choose(&image, id, &asked, &told).unwrap().leader, BrokerId(2));
        told.insert(BrokerId(1), state(id, 5, 100));
        assert_eq!(choose(&image, id, &asked, &told).unwrap().leader, BrokerId(1), "preference breaks the tie");
    }

    #[test]
    fn only_where_the_topic_allows_it_and_only_without_a_leader() {
        let (mut image, id) = orphaned();
        let start = crate::platform::clock::now();
        let mut leaderless = Leaderless::default();
        leaderless.rebuild(&image, start);
        assert!(leaderless.due(&image, start + PATIENCE).is_empty(), "not allowed by default");
        let set = [(UNCLEAN_LEADER_ELECTION.to_string(), Some("true".to_string()))].into();
        let change = ConfigChange { resource: ConfigResource::Topic("t".into()), set };
        image.apply(RaftIndex(20), &Command::SetConfigs { changes: vec![change] });
        let later = start + PATIENCE + RETRY;
        assert_eq!(leaderless.due(&image, later), [id]);
        assert!(leaderless.due(&image, later).is_empty(), "not asked twice at once");
        edit(&mut image, id, |p| p.leader = Some(BrokerId(1)));
        leaderless.observe(&image, [id], later);
        assert!(leaderless.due(&image, later + RETRY * 2).is_empty());
        assert_eq!(to_ask(&image, id), Err(IntentError::ElectionNotNeeded));
    }

    #[test]
    fn nobody_alive_is_nobody_to_elect() {
        let (mut image, id) = orphaned();
        for broker in [1, 2] {
            image.brokers.get_mut(&BrokerId(broker)).unwrap().fenced = true;
        }
        assert!(matches!(to_ask(&image, id), Err(IntentError::EligibleLeadersNotAvailable(_))));
    }
}
