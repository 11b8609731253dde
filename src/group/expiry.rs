//! Which committed offsets are old enough to go (KIP-211). Pure: the clock comes with the question.
//!
//! | group | an offset goes `offsets.retention.minutes` after |
//! |---|---|
//! | never had members | its commit |
//! | empty | the last member went, or its commit if that was later (an operator's reset) |
//! | consumers, no rebalance under way | its commit, if no member subscribes to the topic any more |
//! | anything else | never |
//!
//! Where an old client gave a retention time itself, that counts instead. A group without members and offsets goes too.

use super::offset_records::{OffsetKey, OffsetRecord};
use super::offsets::{Committed, Offsets};
use super::standing::Standing;
use std::sync::Arc;

/// One group's, for one look at it.
#[derive(Clone, Copy, Debug)]
pub struct Expiry<'a> {
    pub standing: &'a Standing,
    pub retention_ms: i64,
    pub now_ms: i64,
}

impl Expiry<'_> {
    fn is_expired(&self, topic: &str, committed: &Committed) -> bool {
        let counts_from = match self.standing {
            Standing::Standalone => committed.commit_ms,
            Standing::Empty { since_ms } => {
                since_ms.map_or(committed.commit_ms, |since| since.max(committed.commit_ms))
            }
            Standing::Live { consumers: true, settled: true, subscribed: Some(subscribed) }
                if !subscribed.contains(topic) =>
            {
                committed.commit_ms
            }
            Standing::Live { .. } | Standing::Dead => return false,
        };
        match committed.expire_ms {
            Some(expire_ms) => self.now_ms >= expire_ms,
            None => self.now_ms.saturating_sub(counts_from) >= self.retention_ms,
        }
    }

    /// Tombstones for what is expired, at most `most`. An offset with a commit on its way is not old.
    pub fn tombstones(&self, group: &str, offsets: &Offsets, most: usize) -> Vec<OffsetRecord> {
        let mut group_name: Option<Arc<str>> = None;
        offsets
            .all()
            .filter(|(topic, partition, committed)| {
                self.is_expired(topic, committed) && !offsets.is_pending(topic, *partition)
            })
            .take(most)
            .map(|(topic, partition, _)| {
                let group = group_name.get_or_insert_with(|| group.into()).clone();
                OffsetRecord { key: OffsetKey { group, topic: topic.clone(), partition }, value: None }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Offset;
    use std::collections::BTreeSet;

    const DAY_MS: i64 = 24 * 3_600_000;
    const WEEK_MS: i64 = 7 * DAY_MS;

    /// Partition 0 of `t` and of `u` are committed on day 1.
    fn offsets(expire_ms: Option<i64>) -> Offsets {
        let mut offsets = Offsets::default();
        for topic in ["t", "u"] {
            let committed = Committed { offset: 5, commit_ms: DAY_MS, expire_ms, ..Committed::default() };
            offsets.apply(Offset(1), &topic.into(), 0, Some(committed));
        }
        offsets
    }

    fn expired(standing: &Standing, now_ms: i64, offsets: &Offsets) -> Vec<String> {
        let expiry = Expiry { standing, retention_ms: WEEK_MS, now_ms };
        expiry.tombstones("g", offsets, 10).iter().map(|record| record.key.topic.to_string()).collect()
    }

    fn live(settled: bool, subscribed: Option<&[&str]>) -> Standing {
        let subscribed = subscribed.map(|topics| topics.iter().map(ToString::to_string).collect::<BTreeSet<_>>());
        Standing::Live { consumers: true, settled, subscribed }
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn a_consumer_without_a_group_has_its_offsets_for_the_retention_after_each_commit() {
        let offsets = offsets(None);
        assert_eq!(expired(&Standing::Standalone, 8 * DAY_MS - 1, &offsets), NONE);
        assert_eq!(expired(&Standing::Standalone, 8 * DAY_MS, &offsets), ["t", "u"]);
    }

    #[test]
    fn an_empty_groups_offsets_go_the_retention_after_the_last_member_however_old_they_are() {
        let offsets = offsets(None);
        let empty = Standing::Empty { since_ms: Some(30 * DAY_MS) };
        assert_eq!(expired(&empty, 37 * DAY_MS - 1, &offsets), NONE);
        assert_eq!(expired(&empty, 37 * DAY_MS, &offsets), ["t", "u"]);
        let before_the_commit = Standing::Empty { since_ms: Some(0) };
        assert_eq!(expired(&before_the_commit, WEEK_MS, &offsets), NONE, "committed by hand into an empty group");
        let unknown = Standing::Empty { since_ms: None };
        assert_eq!(expired(&unknown, 8 * DAY_MS, &offsets), ["t", "u"]);
    }

    #[test]
    fn of_a_live_group_only_topics_go_that_nobody_subscribes_to_any_more() {
        let offsets = offsets(None);
        let late = 100 * DAY_MS;
        assert_eq!(expired(&live(true, Some(&["t"])), late, &offsets), ["u"]);
        assert_eq!(expired(&live(true, Some(&["t"])), 8 * DAY_MS - 1, &offsets), NONE);
        assert_eq!(expired(&live(false, Some(&["t"])), late, &offsets), NONE, "a rebalance may bring it back");
        assert_eq!(expired(&live(true, None), late, &offsets), NONE, "who knows what they want");
        let connect = Standing::Live { consumers: false, settled: true, subscribed: None };
        assert_eq!(expired(&connect, late, &offsets), NONE);
        assert_eq!(expired(&Standing::Dead, late, &offsets), NONE);
    }

    #[test]
    fn a_retention_time_that_an_old_client_gave_counts_instead() {
        let offsets = offsets(Some(2 * DAY_MS));
        assert_eq!(expired(&Standing::Standalone, 2 * DAY_MS - 1, &offsets), NONE);
        assert_eq!(expired(&Standing::Standalone, 2 * DAY_MS, &offsets), ["t", "u"]);
        assert_eq!(expired(&live(true, Some(&["t", "u"])), 100 * DAY_MS, &offsets), NONE, "but not while subscribed");
    }

    #[test]
    fn a_look_finds_a_bounded_number_and_spares_what_is_being_committed() {
        let mut offsets = offsets(None);
        let expiry = Expiry { standing: &Standing::Standalone, retention_ms: WEEK_MS, now_ms: 100 * DAY_MS };
        assert_eq!(expiry.tombstones("g", &offsets, 1).len(), 1);
        let key = OffsetKey { group: "g".into(), topic: "t".into(), partition: 0 };
        offsets.begin(Offset(7), &[OffsetRecord { key, value: Some(Committed::default()) }]);
        assert_eq!(expired(&Standing::Standalone, 100 * DAY_MS, &offsets), ["u"]);
    }
}
