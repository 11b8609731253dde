//! Leadership returns to the preferred replica once it has been in sync for a while, a few partitions at a time
//! (replication.md, rule 16); and a broker that is shutting down hands over what could not be handed over at once.

use super::replica_states::ReplicaState;
use crate::ids::*;
use crate::metadata::command::{Election, ElectionReason, MetadataError};
use crate::metadata::image::Image;
use crate::metadata::image::topics::Partition;
use crate::metadata::intent::IntentError;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the preferred replica must have been in sync: a broker that flaps must not take leaders with it each time.
pub const STABLE: Duration = Duration::from_secs(5);
/// Elections a tick: clients of a few partitions at a time look for their new leader.
pub const ELECTIONS_PER_TICK: usize = 10;
/// How often [`PreferredElections::due`] is asked.
pub const TICK: Duration = Duration::from_millis(100);

/// Partitions that should be led by another replica, and since when. Bound: the partitions of the image.
///
/// Invariant: follows the image by deltas; a tick with nothing waiting costs nothing.
#[derive(Default)]
pub struct PreferredElections {
    waiting: BTreeMap<TopicPartition, Instant>,
}

impl PreferredElections {
    /// Looks at every partition: after becoming the controller, and after a snapshot.
    pub fn rebuild(&mut self, image: &Image, now: Instant) {
        let before = std::mem::take(&mut self.waiting);
        for (topic, value) in &image.topics {
            for (number, partition) in value.partitions.iter().enumerate() {
                if wish(image, partition).is_some() {
                    let id = TopicPartition::new(*topic, i32::try_from(number).unwrap_or(i32::MAX));
                    self.waiting.insert(id, before.get(&id).copied().unwrap_or(now));
                }
            }
        }
    }

    /// Looks again at partitions that changed.
    pub fn observe(&mut self, image: &Image, changed: impl IntoIterator<Item = TopicPartition>, now: Instant) {
        for id in changed {
            if image.partition(id).is_some_and(|p| wish(image, p).is_some()) {
                self.waiting.entry(id).or_insert(now);
            } else {
                self.waiting.remove(&id);
            }
        }
    }

    /// The elections to propose now. One that is refused waits its time again.
    pub fn due(&mut self, image: &Image, now: Instant) -> Vec<Election> {
        let mut elections = Vec::new();
        self.waiting.retain(|id, since| {
            let Some((partition, (leader, reason))) =
                image.partition(*id).and_then(|p| wish(image, p).map(|wish| (p, wish)))
            else {
                return false;
            };
            let at_once = matches!(reason, ElectionReason::Shutdown | ElectionReason::Drained);
            let settled = at_once || now.saturating_duration_since(*since) >= STABLE;
            if settled && elections.len() < ELECTIONS_PER_TICK {
                elections.push(Election { partition: *id, partition_epoch: partition.partition_epoch, leader, reason });
                *since = now;
            }
            true
        });
        elections
    }
}

/// Who should lead instead of the current leader, if anyone.
fn wish(image: &Image, partition: &Partition) -> Option<(BrokerId, ElectionReason)> {
    let leader = partition.leader?;
    let may_lead =
        |id: &BrokerId| partition.isr.contains(id) && image.brokers.get(id).is_some_and(|b| b.takes_replicas());
    if image.brokers.get(&leader).is_some_and(|b| b.shutting_down) {
        let mut others = partition.replicas.iter().filter(|id| **id != leader && partition.isr.contains(id));
        // As `apply` chooses: a drained broker is better than none, and its leader is about to go.
        let heir = others.clone().find(|id| may_lead(id)).or_else(|| others.find(|id| image.is_active(**id)))?;
        return Some((*heir, ElectionReason::Shutdown));
    }
    // It led because nobody else could; now somebody can.
    if image.is_draining(leader) {
        let heir = partition.replicas.iter().find(|id| **id != leader && may_lead(id))?;
        return Some((*heir, ElectionReason::Drained));
    }
    let preferred = partition.replicas.first()?;
    (*preferred != leader && may_lead(preferred)).then_some((*preferred, ElectionReason::Preferred))
}

/// Rule 16: an in-sync replica may still be this many bytes behind; a leader with more to fetch first would make its
/// producers wait for that. A flush's worth of a busy partition, and fetched in a tenth of a second.
pub const LAG_BYTES_MAX: u64 = 8 << 20;

/// Has the preferred replica little enough left to fetch, by what the leader told? A leader that does not tell, or of
/// another epoch, says no.
pub fn is_caught_up(image: &Image, election: &Election, leaders: &[ReplicaState]) -> bool {
    let Some(partition) = image.partition(election.partition) else { return false };
    let Some(state) = leaders.iter().find(|state| state.partition == election.partition && state.is_leader) else {
        return false;
    };
    let lag = state.followers.iter().find(|follower| follower.broker == election.leader).and_then(|f| f.lag_bytes);
    state.leader_epoch == partition.leader_epoch && lag.is_some_and(|bytes| bytes <= LAG_BYTES_MAX)
}

/// What an operator's wish for one partition comes to: an election, or why not.
pub fn asked(image: &Image, id: TopicPartition) -> Result<Election, IntentError> {
    let partition = image.partition(id).ok_or(MetadataError::UnknownPartition)?;
    let preferred = *partition.replicas.first().ok_or(MetadataError::UnknownPartition)?;
    if partition.leader == Some(preferred) {
        return Err(IntentError::ElectionNotNeeded);
    }
    let eligible =
        partition.isr.contains(&preferred) && image.brokers.get(&preferred).is_some_and(|b| b.takes_replicas());
    if !eligible {
        return Err(IntentError::PreferredLeaderNotAvailable(format!(
            "broker {preferred} is not in sync, not alive, or being drained"
        )));
    }
    Ok(Election {
        partition: id,
        partition_epoch: partition.partition_epoch,
        leader: preferred,
        reason: ElectionReason::Preferred,
    })
}

#[cfg(test)]
#[path = "election_stories.rs"]
mod stories;

#[cfg(test)]
mod tests {
    use super::super::replica_states::FollowerProgress;
    use super::super::testing::{edit, image_with, topic};
    use super::*;

    #[test]
    fn goes_home_only_when_in_sync_and_stable() {
        let start = crate::platform::clock::now();
        let at = |s| start + Duration::from_secs(s);
        let mut image = image_with(&[1, 2]);
        let id = TopicPartition::new(topic(&mut image, "t", 1, &[&[1, 2]]), 0);
        let mut elections = PreferredElections::default();

        // Broker 1 was fenced: 2 leads, 1 is out of sync.
        edit(&mut image, id, |p| (p.leader, p.isr) = (Some(BrokerId(2)), vec![BrokerId(2)]));
        elections.observe(&image, [id], at(0));
        assert!(elections.due(&image, at(60)).is_empty(), "not in sync");

        edit(&mut image, id, |p| p.isr.push(BrokerId(1)));
        elections.observe(&image, [id], at(60));
        assert!(elections.due(&image, at(64)).is_empty(), "not stable yet");

        // It flaps: the clock starts again.
        edit(&mut image, id, |p| p.isr.retain(|b| *b == BrokerId(2)));
        elections.observe(&image, [id], at(64));
        edit(&mut image, id, |p| p.isr.push(BrokerId(1)));
        elections.observe(&image, [id], at(64));
        assert!(elections.due(&image, at(66)).is_empty());
        let due = elections.due(&image, at(69));
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].leader, due[0].reason), (BrokerId(1), ElectionReason::Preferred));
        assert!(elections.due(&image, at(70)).is_empty(), "not asked twice at once");

        edit(&mut image, id, |p| p.leader = Some(BrokerId(1)));
        elections.observe(&image, [id], at(70));
        assert!(elections.due(&image, at(99)).is_empty());
    }

    #[test]
    fn not_before_it_has_caught_up_by_what_the_leader_says() {
        let mut image = image_with(&[1, 2]);
        let id = TopicPartition::new(topic(&mut image, "t", 1, &[&[1, 2]]), 0);
        edit(&mut image, id, |p| p.leader = Some(BrokerId(2)));
        let election = asked(&image, id).unwrap();
        let told = |epoch, lag_bytes| ReplicaState {
            partition: id,
            is_leader: true,
            leader_epoch: LeaderEpoch(epoch),
            last_epoch: LeaderEpoch(epoch),
            log_start: Offset(0),
            log_end: Offset(50_000),
            durable_end: Offset(50_000),
            high_watermark: Offset(40_000),
            size_bytes: 0,
            followers: vec![FollowerProgress { broker: BrokerId(1), end: Some(Offset(40_000)), lag_bytes }],
        };
        assert!(is_caught_up(&image, &election, &[told(1, Some(LAG_BYTES_MAX))]), "however many records that are");
        assert!(!is_caught_up(&image, &election, &[told(1, Some(LAG_BYTES_MAX + 1))]));
        assert!(!is_caught_up(&image, &election, &[told(1, None)]), "not heard of in this epoch");
        assert!(!is_caught_up(&image, &election, &[told(0, Some(0))]), "an old leader's word");
        assert!(!is_caught_up(&image, &election, &[]));
    }

    #[test]
    fn a_drained_broker_is_not_preferred_and_does_not_stay() {
        let now = crate::platform::clock::now();
        let mut image = image_with(&[1, 2]);
        let id = TopicPartition::new(topic(&mut image, "t", 1, &[&[1, 2]]), 0);
        image.brokers.get_mut(&BrokerId(1)).unwrap().draining = true;
        let mut elections = PreferredElections::default();
        elections.rebuild(&image, now);
        let due = elections.due(&image, now);
        assert_eq!((due[0].leader, due[0].reason), (BrokerId(2), ElectionReason::Drained));
        edit(&mut image, id, |p| p.leader = Some(BrokerId(2)));
        elections.observe(&image, [id], now);
        assert!(elections.due(&image, now + STABLE * 2).is_empty(), "none come back");
    }

    #[test]
    fn a_few_at_a_time_and_a_shutdown_at_once() {
        let now = crate::platform::clock::now();
        let mut image = image_with(&[1, 2]);
        let replicas: Vec<&[i32]> = vec![&[1, 2]; 25];
        let id = topic(&mut image, "t", 1, &replicas);
        for n in 0..25 {
            edit(&mut image, TopicPartition::new(id, n), |p| p.leader = Some(BrokerId(2)));
        }
        let mut elections = PreferredElections::default();
        elections.rebuild(&image, now);
        let later = now + STABLE;
        let counts: Vec<_> = (0..4).map(|_| elections.due(&image, later).len()).collect();
        assert_eq!(counts, vec![10, 10, 5, 0]);

        let mut image = image_with(&[1, 2]);
        let id = TopicPartition::new(topic(&mut image, "t", 1, &[&[1, 2]]), 0);
        image.brokers.get_mut(&BrokerId(1)).unwrap().shutting_down = true;
        let mut elections = PreferredElections::default();
        elections.rebuild(&image, now);
        let due = elections.due(&image, now);
        assert_eq!((due[0].leader, due[0].reason), (BrokerId(2), ElectionReason::Shutdown));
        assert_eq!(asked(&image, id), Err(IntentError::ElectionNotNeeded), "an operator is told it leads already");
    }
}
