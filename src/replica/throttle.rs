//! A bandwidth bound for replicas that a move adds: they copy whole logs, and must not starve those that are in sync. Others
//! that are not in sync are bound by it where the topic's configs name them, as in Kafka (KIP-73).
//!
//! Each end keeps its own bound, over all such replicas: a follower leaves a partition out of its fetch while it has no
//! tokens, and a leader answers with nothing of it. What either sends or takes for replicas in sync is not counted.

use crate::config::definition::names_replica;
use crate::ids::*;
use crate::metadata::command::ConfigResource;
use crate::metadata::image::Image;
use std::time::{Duration, Instant};

/// No bound at all, as Kafka writes it.
const UNLIMITED: i64 = i64::MAX;
const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
const LEADER_RATE: &str = "leader.replication.throttled.rate";
const FOLLOWER_REPLICAS: &str = "follower.replication.throttled.replicas";
const LEADER_REPLICAS: &str = "leader.replication.throttled.replicas";

/// Left out no shorter than this: a fetch for a few bytes costs as much as one for many.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// And no longer, so that a raised rate is soon felt.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Tokens are bytes; a second's worth at most is saved up. A fetch is paid for once its size is known, so the balance may
/// fall below zero by one answer.
#[derive(Debug)]
pub(super) struct Bucket {
    balance: f64,
    at: Instant,
}

impl Bucket {
    pub fn new(now: Instant) -> Bucket {
        Bucket { balance: 0.0, at: now }
    }

    pub fn take(&mut self, bytes: usize) {
        self.balance -= bytes as f64;
    }

    /// `None`: fetch now. Else when to come again. `rate` is in bytes a second and at least 1.
    pub fn wait(&mut self, rate: i64, now: Instant) -> Option<Instant> {
        if rate == UNLIMITED {
            (self.balance, self.at) = (0.0, now);
            return None;
        }
        let rate = rate.max(1) as f64;
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.balance = (self.balance + passed * rate).min(rate);
        self.at = self.at.max(now);
        if self.balance >= 0.0 {
            return None;
        }
        let pause = Duration::try_from_secs_f64(-self.balance / rate).unwrap_or(PAUSE_MAX);
        Some(now + pause.clamp(PAUSE_MIN, PAUSE_MAX))
    }
}

/// Is what `follower` fetches bound at `me`'s end, its own or the leader's? Never while it is in sync.
pub(super) fn is_throttled(image: &Image, id: TopicPartition, follower: BrokerId, me: BrokerId) -> bool {
    let Some(partition) = image.partition(id).filter(|p| !p.isr.contains(&follower)) else { return false };
    partition.adding().contains(&follower) || is_named(image, id, follower, me)
}

fn is_named(image: &Image, id: TopicPartition, follower: BrokerId, me: BrokerId) -> bool {
    let config = if me == follower { FOLLOWER_REPLICAS } else { LEADER_REPLICAS };
    let list = image.topic(id.topic).and_then(|topic| image.configs.topic_value(&topic.name, config));
    list.is_some_and(|list| names_replica(list, id.partition, me.0))
}

/// What this broker may fetch in all, in bytes a second; `own` is what its file says where the cluster has no value.
pub(super) fn follower_rate(image: &Image, me: BrokerId, own: i64) -> i64 {
    rate(image, me, FOLLOWER_RATE).unwrap_or(own)
}

/// What this broker may send in all; `own` as for [`follower_rate`].
pub(super) fn leader_rate(image: &Image, me: BrokerId, own: i64) -> i64 {
    rate(image, me, LEADER_RATE).unwrap_or(own)
}

fn rate(image: &Image, me: BrokerId, name: &str) -> Option<i64> {
    let value = |resource: ConfigResource| {
        image.configs.overrides.get(&resource)?.get(name)?.trim().parse::<i64>().ok().filter(|rate| *rate > 0)
    };
    value(ConfigResource::Broker(me)).or_else(|| value(ConfigResource::BrokerDefault))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::metadata::command::{Command, ConfigChange};

    #[test]
    fn a_bucket_keeps_to_its_rate_and_says_when_to_come_again() {
        let start = crate::platform::clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.wait(1_000, at(0)), None, "the first fetch goes");
        bucket.take(500);
        assert_eq!(bucket.wait(1_000, at(0)), Some(at(500)));
        assert_eq!(bucket.wait(1_000, at(499)), Some(at(509)), "never a spin");
        assert_eq!(bucket.wait(1_000, at(500)), None);
        bucket.take(10_000);
        assert_eq!(bucket.wait(1_000, at(500)), Some(at(1_500)), "looked at again each second");
        assert_eq!(bucket.wait(10_000, at(1_600)), None, "a raised rate is felt");
        // However long nothing was fetched, one second's worth is saved.
        assert_eq!(bucket.wait(1_000, at(60_000)), None);
        bucket.take(2_000);
        assert_eq!(bucket.wait(1_000, at(60_000)), Some(at(61_000)));
        assert_eq!(bucket.wait(UNLIMITED, at(60_000)), None);
    }

    #[test]
    fn over_a_minute_no_more_than_the_rate_passes() {
        let start = crate::platform::clock::now();
        let mut bucket = Bucket::new(start);
        let (mut now, mut bytes, mut looks) = (start, 0u64, 0);
        while now < start + Duration::from_secs(60) {
            looks += 1;
            match bucket.wait(1 << 20, now) {
                Some(at) => now = at,
                None => {
                    bucket.take(300_000);
                    bytes += 300_000;
                    now += Duration::from_millis(1);
                }
            }
        }
        assert!((59 << 20..62 << 20).contains(&bytes), "{bytes}");
        assert!(looks < 1_000, "{looks}");
    }

    #[test]
    fn replicas_that_are_named_are_bound_while_they_are_not_in_sync() {
        let mut image = testing::image(1, &[1, 2], 1, 1, None);
        let [one, two, three] = [1, 2, 3].map(BrokerId);
        let bound = |image: &Image, follower, me| is_throttled(image, testing::id(), follower, me);
        assert!(!bound(&image, three, three) && !bound(&image, three, one));
        let mut name = |config: &str, list: &str| {
            let set = [(config.to_string(), Some(list.to_string()))].into();
            let changes = vec![ConfigChange { resource: ConfigResource::Topic("t".into()), set }];
            image.apply(RaftIndex(1), &Command::SetConfigs { changes });
            image.clone()
        };
        let followers = name(FOLLOWER_REPLICAS, "0:2,0:3");
        assert!(bound(&followers, three, three));
        assert!(!bound(&followers, two, two), "in sync");
        assert!(!bound(&followers, three, one), "the leader's end has a list of its own");
        let leaders = name(LEADER_REPLICAS, "0:1");
        assert!(bound(&leaders, three, one) && !bound(&leaders, two, one));
        let others = name(LEADER_REPLICAS, "1:1,0:3");
        assert!(!bound(&others, three, one), "another partition's leader, and this one's follower");
    }

    #[test]
    fn a_brokers_own_rate_goes_before_the_default_of_all() {
        let mut image = Image::default();
        for (resource, rate) in [(ConfigResource::BrokerDefault, "7"), (ConfigResource::Broker(BrokerId(1)), "9")] {
            let set = [FOLLOWER_RATE, LEADER_RATE].map(|name| (name.to_string(), Some(rate.to_string()))).into();
            image.apply(RaftIndex(1), &Command::SetConfigs { changes: vec![ConfigChange { resource, set }] });
        }
        for rate in [follower_rate, leader_rate] {
            assert_eq!([1, 2].map(|broker| rate(&image, BrokerId(broker), 1)), [9, 7]);
            assert_eq!(rate(&Image::default(), BrokerId(2), 3), 3);
        }
    }
}
