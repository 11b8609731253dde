//! One group's committed offsets, in memory.
//!
//! A commit is appended first and becomes visible once the high watermark has passed it; until then it is pending.
//! Invariant: what is visible for a partition is the visible commit with the highest place in the log, so the order
//! in which waits end does not matter.

use super::offset_records::{OffsetKey, OffsetRecord};
use crate::ids::Offset;
use std::collections::BTreeMap;

/// A committed offset as the client gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    /// −1: not given.
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_ms: i64,
}

/// One offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetWrite {
    pub topic: String,
    pub partition: i32,
    pub committed: Committed,
}

/// `value` is `None` after a tombstone, kept while older commits may still be on their way.
#[derive(Clone, Debug)]
struct Entry {
    at: Offset,
    value: Option<Committed>,
}

#[derive(Clone, Debug, Default)]
pub struct Offsets {
    by_topic: BTreeMap<String, BTreeMap<i32, Entry>>,
    /// How many appended commits of a partition the high watermark has not passed yet.
    pending: BTreeMap<(String, i32), u32>,
}

impl Offsets {
    /// Before the append.
    pub fn begin(&mut self, records: &[OffsetRecord]) {
        for record in records {
            *self.pending.entry((record.key.topic.clone(), record.key.partition)).or_default() += 1;
        }
    }

    /// The high watermark passed `records`, the first of which is at `first`.
    pub fn finish(&mut self, first: Offset, records: Vec<OffsetRecord>) {
        self.cancel(&records);
        for (at, record) in (first.0..).zip(records) {
            self.apply(Offset(at), &record.key.topic, record.key.partition, record.value);
        }
    }

    /// The append failed, or will never be known to have succeeded here.
    pub fn cancel(&mut self, records: &[OffsetRecord]) {
        for record in records {
            let place = (record.key.topic.clone(), record.key.partition);
            if let Some(count) = self.pending.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    self.pending.remove(&place);
                }
            }
        }
    }

    /// A record of the log, in any order.
    pub fn apply(&mut self, at: Offset, topic: &str, partition: i32, value: Option<Committed>) {
        let is_pending = self.is_pending(topic, partition);
        let partitions = match self.by_topic.get_mut(topic) {
            Some(partitions) => partitions,
            None if value.is_none() && !is_pending => return,
            None => self.by_topic.entry(topic.to_string()).or_default(),
        };
        if partitions.get(&partition).is_some_and(|entry| entry.at > at) {
            return;
        }
        if value.is_none() && !is_pending {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.by_topic.remove(topic);
            }
        } else {
            partitions.insert(partition, Entry { at, value });
        }
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.by_topic.get(topic)?.get(&partition)?.value.as_ref()
    }

    pub fn is_pending(&self, topic: &str, partition: i32) -> bool {
        !self.pending.is_empty() && self.pending.contains_key(&(topic.to_string(), partition))
    }

    /// Everything visible, by topic and partition.
    pub fn all(&self) -> impl Iterator<Item = (&str, i32, &Committed)> {
        self.by_topic.iter().flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .filter_map(move |(partition, entry)| Some((topic.as_str(), *partition, entry.value.as_ref()?)))
        })
    }

    /// Nothing visible and nothing on its way.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.all().next().is_none()
    }

    /// Tombstones for every offset, visible or on its way, of the topics that `which` picks.
    pub fn tombstones(&self, group: &str, which: impl Fn(&str) -> bool) -> Vec<OffsetRecord> {
        let visible = self.all().map(|(topic, partition, _)| (topic, partition));
        let pending = self.pending.keys().map(|(topic, partition)| (topic.as_str(), *partition));
        let places: std::collections::BTreeSet<_> = visible.chain(pending).filter(|(topic, _)| which(topic)).collect();
        places
            .into_iter()
            .map(|(topic, partition)| OffsetRecord {
                key: OffsetKey { group: group.to_string(), topic: topic.to_string(), partition },
                value: None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(partition: i32, offset: i64) -> OffsetRecord {
        OffsetRecord {
            key: OffsetKey { group: "g".into(), topic: "t".into(), partition },
            value: Some(Committed { offset, leader_epoch: -1, metadata: String::new(), commit_ms: 1 }),
        }
    }

    fn offset(offsets: &Offsets, partition: i32) -> Option<i64> {
        offsets.get("t", partition).map(|c| c.offset)
    }

    #[test]
    fn a_commit_is_visible_only_when_finished() {
        let mut offsets = Offsets::default();
        let records = vec![commit(0, 10), commit(1, 20)];
        offsets.begin(&records);
        assert!(offsets.is_pending("t", 0) && !offsets.is_empty());
        assert_eq!(offset(&offsets, 0), None);
        offsets.finish(Offset(100), records);
        assert_eq!((offset(&offsets, 0), offset(&offsets, 1)), (Some(10), Some(20)));
        assert!(!offsets.is_pending("t", 0));
    }

    #[test]
    fn the_later_append_wins_whichever_wait_ends_first() {
        let mut offsets = Offsets::default();
        let (older, newer) = (vec![commit(0, 10)], vec![commit(0, 11)]);
        offsets.begin(&older);
        offsets.begin(&newer);
        offsets.finish(Offset(6), newer);
        assert!(offsets.is_pending("t", 0), "the older one is still on its way");
        offsets.finish(Offset(5), older);
        assert_eq!(offset(&offsets, 0), Some(11));
    }

    #[test]
    fn a_tombstone_is_not_undone_by_an_older_commit() {
        let mut offsets = Offsets::default();
        let older = vec![commit(0, 10)];
        offsets.begin(&older);
        let tombstones = offsets.tombstones("g", |_| true);
        assert_eq!(tombstones.len(), 1, "what is on its way is buried too");
        offsets.begin(&tombstones);
        offsets.finish(Offset(9), tombstones);
        offsets.finish(Offset(8), older);
        assert_eq!(offset(&offsets, 0), None);
        assert!(offsets.is_empty());
    }

    #[test]
    fn a_cancelled_commit_leaves_nothing() {
        let mut offsets = Offsets::default();
        let records = vec![commit(0, 10)];
        offsets.begin(&records);
        offsets.cancel(&records);
        assert!(offsets.is_empty());
        offsets.apply(Offset(1), "t", 0, None);
        assert!(offsets.is_empty());
    }
}
