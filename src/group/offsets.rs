//! One group's committed offsets, in memory.
//!
//! A commit is appended first and becomes visible once the high watermark has passed it; until then it is pending.
//! Invariant: what is visible for a partition is the visible commit with the highest place in the log, so the order
//! in which waits end does not matter.
//!
//! The log knows topics by name only, and a name may go to another topic: whose offsets these are is remembered beside
//! them, and what is a former topic's is buried.
//!
//! Forty bytes a partition: topic names are shared (`names.rs`), and metadata, which most commits lack, stands apart.

use super::offset_records::{OffsetKey, OffsetRecord};
use crate::ids::{Offset, TopicId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A committed offset as the client gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    /// −1: not given.
    pub leader_epoch: i32,
    pub metadata: Arc<str>,
    /// The coordinator's clock at the commit.
    pub commit_ms: i64,
    /// When it goes, if the client said so (OffsetCommit 2 to 4 with a retention time); `offsets.retention.minutes`
    /// counts otherwise.
    pub expire_ms: Option<i64>,
}

/// One offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetWrite {
    pub topic: String,
    pub partition: i32,
    pub committed: Committed,
}

#[derive(Clone, Debug)]
struct Entry {
    at: Offset,
    offset: i64,
    commit_ms: i64,
    leader_epoch: i32,
    partition: i32,
    /// `None` where there is neither metadata nor an expiry time.
    extra: Option<Arc<Extra>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Extra {
    metadata: Arc<str>,
    expire_ms: Option<i64>,
}

impl Entry {
    fn committed(&self) -> Committed {
        Committed {
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.extra.as_ref().map(|extra| extra.metadata.clone()).unwrap_or_default(),
            commit_ms: self.commit_ms,
            expire_ms: self.extra.as_ref().and_then(|extra| extra.expire_ms),
        }
    }
}

/// Something by topic and partition that only matters while commits are on their way.
type Passing<T> = BTreeMap<Arc<str>, BTreeMap<i32, T>>;

/// Whose a name's offsets are.
#[derive(Clone, Copy, Debug)]
struct Origin {
    /// The topic that had the name at the last look; `None`: no topic.
    topic: Option<TopicId>,
    /// What lies below this in the log is a former topic's.
    stale_below: Offset,
}

impl Origin {
    fn of(topic: Option<TopicId>) -> Origin {
        Origin { topic, stale_below: Offset(0) }
    }

    /// Nothing of a topic that is gone is anyone's.
    fn below(&self) -> Offset {
        if self.topic.is_none() { Offset(i64::MAX) } else { self.stale_below }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Offsets {
    /// Each topic's entries are sorted by partition, and at least one.
    by_topic: BTreeMap<Arc<str>, Vec<Entry>>,
    /// How many appended commits of a partition the high watermark has not passed yet.
    pending: Passing<u32>,
    /// Where the appends on their way begin.
    in_flight: BTreeSet<Offset>,
    /// Where the newest tombstone of a partition is, while older commits may still be on their way.
    buried: Passing<Offset>,
    /// By topic, of those with something visible or on its way.
    origins: BTreeMap<Arc<str>, Origin>,
}

impl Offsets {
    /// What was loaded is of the topics that have these names.
    pub fn are_of(&mut self, topics: impl Fn(&str) -> Option<TopicId>) {
        let named = self.by_topic.keys().map(|name| (name.clone(), Origin::of(topics(name))));
        self.origins = named.collect();
    }

    /// Tombstones for what is of topics that no longer have their names. Nothing of the topics that have them now lies
    /// below the log's `end`, unless this was told of it.
    pub fn stale(
        &mut self,
        group: &str,
        end: impl Fn() -> Offset,
        topics: impl Fn(&str) -> Option<TopicId>,
    ) -> Vec<OffsetRecord> {
        let group: Arc<str> = group.into();
        let names: BTreeSet<Arc<str>> = self.by_topic.keys().chain(self.pending.keys()).cloned().collect();
        names.iter().flat_map(|name| self.stale_of(&group, name, topics(name), &end)).collect()
    }

    /// Before a commit for `topic` is appended: as [`Offsets::stale`], for its name.
    pub fn makes_way(
        &mut self,
        group: &Arc<str>,
        name: &Arc<str>,
        topic: Option<TopicId>,
        end: impl Fn() -> Offset,
    ) -> Vec<OffsetRecord> {
        let is_known = self.origins.contains_key(name);
        if is_known && topic.is_some() {
            return self.stale_of(group, name, topic, &end);
        }
        // Of a topic that is gone by now: the next look buries it, as it does the others.
        self.origins.entry(name.clone()).or_insert(Origin::of(topic));
        Vec::new()
    }

    fn stale_of(
        &mut self,
        group: &Arc<str>,
        name: &Arc<str>,
        topic: Option<TopicId>,
        end: &impl Fn() -> Offset,
    ) -> Vec<OffsetRecord> {
        let origin = self.origins.entry(name.clone()).or_insert(Origin::of(topic));
        let is_new = origin.topic != topic;
        if is_new {
            *origin = Origin { topic, stale_below: end() };
        }
        let below = origin.below();
        let pending = self.pending.get(name);
        // Later a tombstone might bury the newer topic's commit: who is on the way is looked at again when it is visible.
        let is_settled = |partition| is_new || pending.is_none_or(|counts| !counts.contains_key(&partition));
        let visible = self.by_topic.get(name).filter(|_| below > Offset(0)).into_iter().flatten();
        let visible = visible.filter(|entry| entry.at < below && is_settled(entry.partition));
        let visible = visible.map(|entry| entry.partition);
        let on_their_way = pending.filter(|_| is_new).into_iter().flat_map(|counts| counts.keys().copied());
        let partitions: BTreeSet<i32> = visible.chain(on_their_way).collect();
        let key = |partition| OffsetKey { group: group.clone(), topic: name.clone(), partition };
        partitions.into_iter().map(|partition| OffsetRecord { key: key(partition), value: None }).collect()
    }

    /// Is there anything left of what [`Offsets::stale`] finds? Until its tombstones are replicated there is.
    pub fn has_stale(&self) -> bool {
        self.origins.iter().any(|(name, origin)| {
            let below = origin.below();
            let is_on_its_way = self.pending.contains_key(name) && self.in_flight.first().is_some_and(|at| *at < below);
            let mut visible = self.by_topic.get(name).filter(|_| below > Offset(0)).into_iter().flatten();
            is_on_its_way || visible.any(|entry| entry.at < below)
        })
    }

    /// `records` were appended, the first at `first`; under the lock under which that was done.
    pub fn begin(&mut self, first: Offset, records: &[OffsetRecord]) {
        self.in_flight.insert(first);
        for OffsetRecord { key, .. } in records {
            *self.pending.entry(key.topic.clone()).or_default().entry(key.partition).or_default() += 1;
        }
    }

    /// The high watermark passed `records`, the first of which is at `first`.
    pub fn finish(&mut self, first: Offset, records: Vec<OffsetRecord>) {
        self.in_flight.remove(&first);
        for (at, OffsetRecord { key, value }) in (first.0..).zip(records) {
            // Whether others are on their way still decides if a tombstone must be remembered.
            let is_last = self.settle(&key);
            self.apply(Offset(at), &key.topic, key.partition, value);
            if is_last {
                forget(&mut self.buried, &key);
                self.forget_origin(&key.topic);
            }
        }
    }

    /// What was begun failed, or will never be known to have succeeded here.
    pub fn cancel(&mut self, first: Offset, records: &[OffsetRecord]) {
        self.in_flight.remove(&first);
        for OffsetRecord { key, .. } in records {
            if self.settle(key) {
                forget(&mut self.buried, key);
                self.forget_origin(&key.topic);
            }
        }
    }

    fn forget_origin(&mut self, name: &Arc<str>) {
        if !self.by_topic.contains_key(name) && !self.pending.contains_key(name) {
            self.origins.remove(name);
        }
    }

    /// One commit of a partition is no longer on its way; was it the last?
    fn settle(&mut self, key: &OffsetKey) -> bool {
        let Some(count) = self.pending.get_mut(&key.topic).and_then(|counts| counts.get_mut(&key.partition)) else {
            return true;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        forget(&mut self.pending, key);
        true
    }

    /// A record of the log, in any order.
    pub fn apply(&mut self, at: Offset, topic: &Arc<str>, partition: i32, value: Option<Committed>) {
        if self.buried.get(topic).and_then(|places| places.get(&partition)).is_some_and(|buried| *buried > at) {
            return;
        }
        let Some(committed) = value else { return self.bury(at, topic, partition) };
        let entries = match self.by_topic.get_mut(topic) {
            Some(entries) => entries,
            None => self.by_topic.entry(topic.clone()).or_default(),
        };
        let place = entries.binary_search_by_key(&partition, |entry| entry.partition);
        if place.is_ok_and(|index| entries[index].at > at) {
            return;
        }
        let wanted = Extra { metadata: committed.metadata, expire_ms: committed.expire_ms };
        let near = place.map_or_else(|index| index.checked_sub(1), Some);
        let entry = Entry {
            at,
            offset: committed.offset,
            commit_ms: committed.commit_ms,
            leader_epoch: committed.leader_epoch,
            partition,
            extra: shared(near.and_then(|index| entries[index].extra.as_ref()), wanted),
        };
        match place {
            Ok(index) => entries[index] = entry,
            Err(index) => entries.insert(index, entry),
        }
    }

    fn bury(&mut self, at: Offset, topic: &Arc<str>, partition: i32) {
        if let Some(entries) = self.by_topic.get_mut(topic)
            && let Ok(index) = entries.binary_search_by_key(&partition, |entry| entry.partition)
        {
            if entries[index].at > at {
                return;
            }
            entries.remove(index);
            if entries.is_empty() {
                self.by_topic.remove(topic);
            }
        }
        if self.is_pending(topic, partition) {
            self.buried.entry(topic.clone()).or_default().insert(partition, at);
        }
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<Committed> {
        let entries = self.by_topic.get(topic)?;
        let index = entries.binary_search_by_key(&partition, |entry| entry.partition).ok()?;
        Some(entries[index].committed())
    }

    pub fn is_pending(&self, topic: &str, partition: i32) -> bool {
        self.pending.get(topic).is_some_and(|counts| counts.contains_key(&partition))
    }

    /// Everything visible, by topic and partition.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<str>, i32, Committed)> {
        self.by_topic
            .iter()
            .flat_map(|(topic, entries)| entries.iter().map(move |entry| (topic, entry.partition, entry.committed())))
    }

    /// The visible offsets alone, by topic and partition.
    pub fn positions(&self) -> impl Iterator<Item = (&Arc<str>, i32, i64)> {
        self.by_topic
            .iter()
            .flat_map(|(topic, entries)| entries.iter().map(move |entry| (topic, entry.partition, entry.offset)))
    }

    /// Does anything visible or on its way lie below `place` in the log?
    pub fn reaches_below(&self, place: Offset) -> bool {
        self.in_flight.first().is_some_and(|first| *first < place)
            || self.by_topic.values().flatten().any(|entry| entry.at < place)
    }

    /// What is visible and lies below `place` in the log, once more, at most `most`; without what has a commit on its way,
    /// and without what is stale: anew it would pass for the newer topic's.
    pub fn anew(&self, group: &str, place: Offset, most: usize) -> Vec<OffsetRecord> {
        let group: Arc<str> = group.into();
        let entries = self.by_topic.iter().flat_map(|(topic, entries)| entries.iter().map(move |entry| (topic, entry)));
        entries
            .filter(|(topic, entry)| entry.at < place && !self.is_pending(topic, entry.partition))
            .filter(|(topic, entry)| self.origins.get(*topic).is_none_or(|origin| entry.at >= origin.below()))
            .take(most)
            .map(|(topic, entry)| OffsetRecord {
                key: OffsetKey { group: group.clone(), topic: topic.clone(), partition: entry.partition },
                value: Some(entry.committed()),
            })
            .collect()
    }

    /// How many are visible.
    pub fn len(&self) -> usize {
        self.by_topic.values().map(Vec::len).sum()
    }

    /// Nothing visible and nothing on its way.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.by_topic.is_empty()
    }

    /// Gives back what growing took too much.
    pub fn shrink(&mut self) {
        self.by_topic.values_mut().for_each(Vec::shrink_to_fit);
    }

    /// Tombstones for every offset, visible or on its way, of the topics that `which` picks.
    pub fn tombstones(&self, group: &str, which: impl Fn(&str) -> bool) -> Vec<OffsetRecord> {
        // Asked once a topic, not once an offset: there may be a million of these.
        let visible = self.by_topic.iter().filter(|(topic, _)| which(topic));
        let visible = visible.flat_map(|(topic, entries)| entries.iter().map(move |entry| (topic, entry.partition)));
        let pending = self.pending.iter().filter(|(topic, _)| which(topic));
        let pending = pending.flat_map(|(topic, counts)| counts.keys().map(move |partition| (topic, *partition)));
        let places: BTreeSet<(&Arc<str>, i32)> = visible.chain(pending).collect();
        if places.is_empty() {
            return Vec::new();
        }
        let group: Arc<str> = group.into();
        places
            .into_iter()
            .map(|(topic, partition)| OffsetRecord {
                key: OffsetKey { group: group.clone(), topic: topic.clone(), partition },
                value: None,
            })
            .collect()
    }
}

fn forget<T>(passing: &mut Passing<T>, key: &OffsetKey) {
    if let Some(places) = passing.get_mut(&key.topic) {
        places.remove(&key.partition);
        if places.is_empty() {
            passing.remove(&key.topic);
        }
    }
}

/// A consumer often commits the same metadata for all its partitions: what stands near is used again.
fn shared(near: Option<&Arc<Extra>>, wanted: Extra) -> Option<Arc<Extra>> {
    if wanted.metadata.is_empty() && wanted.expire_ms.is_none() {
        return None;
    }
    Some(near.filter(|near| ***near == wanted).cloned().unwrap_or_else(|| Arc::new(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(partition: i32, offset: i64) -> OffsetRecord {
        OffsetRecord {
            key: OffsetKey { group: "g".into(), topic: "t".into(), partition },
            value: Some(Committed { offset, leader_epoch: -1, commit_ms: 1, ..Committed::default() }),
        }
    }

    fn offset(offsets: &Offsets, partition: i32) -> Option<i64> {
        offsets.get("t", partition).map(|c| c.offset)
    }

    #[test]
    fn a_commit_is_visible_only_when_finished() {
        let mut offsets = Offsets::default();
        let records = vec![commit(0, 10), commit(1, 20)];
        offsets.begin(Offset(100), &records);
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
        offsets.begin(Offset(5), &older);
        offsets.begin(Offset(6), &newer);
        offsets.finish(Offset(6), newer);
        assert!(offsets.is_pending("t", 0), "the older one is still on its way");
        offsets.finish(Offset(5), older);
        assert_eq!(offset(&offsets, 0), Some(11));
    }

    #[test]
    fn a_tombstone_is_not_undone_by_an_older_commit() {
        let mut offsets = Offsets::default();
        let older = vec![commit(0, 10)];
        offsets.begin(Offset(8), &older);
        let tombstones = offsets.tombstones("g", |_| true);
        assert_eq!(tombstones.len(), 1, "what is on its way is buried too");
        offsets.begin(Offset(9), &tombstones);
        offsets.finish(Offset(9), tombstones);
        offsets.finish(Offset(8), older);
        assert_eq!(offset(&offsets, 0), None);
        assert!(offsets.is_empty());
    }

    #[test]
    fn a_cancelled_commit_leaves_nothing() {
        let mut offsets = Offsets::default();
        let records = vec![commit(0, 10)];
        offsets.begin(Offset(3), &records);
        assert!(offsets.reaches_below(Offset(4)));
        offsets.cancel(Offset(3), &records);
        assert!(!offsets.reaches_below(Offset(4)));
        assert!(offsets.is_empty());
        offsets.apply(Offset(1), &"t".into(), 0, None);
        assert!(offsets.is_empty());
    }

    #[test]
    fn an_entry_stays_small_and_metadata_is_shared() {
        assert_eq!(size_of::<Entry>(), 40);
        let mut offsets = Offsets::default();
        let with = |metadata: &str| Committed { offset: 1, metadata: metadata.into(), ..Committed::default() };
        for partition in [3, 1, 2, 0] {
            offsets.apply(Offset(1), &"t".into(), partition, Some(with("same")));
        }
        offsets.apply(Offset(9), &"t".into(), 3, Some(with("same")));
        offsets.apply(Offset(8), &"t".into(), 3, Some(with("older")));
        let entries = &offsets.by_topic["t"];
        assert_eq!(entries.iter().map(|entry| entry.partition).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let extra = |index: usize| entries[index].extra.as_ref().expect("it has metadata");
        assert!(Arc::ptr_eq(extra(1), extra(2)));
        assert_eq!(offsets.get("t", 3).map(|committed| committed.metadata), Some("same".into()));
        assert_eq!(offsets.len(), 4);
    }

    #[test]
    fn nothing_is_remembered_of_a_tombstone_once_nothing_is_on_its_way() {
        let mut offsets = Offsets::default();
        let (older, newer) = (vec![commit(0, 10)], vec![commit(0, 11)]);
        offsets.begin(Offset(8), &older);
        let tombstones = offsets.tombstones("g", |_| true);
        offsets.begin(Offset(9), &tombstones);
        offsets.begin(Offset(10), &newer);
        offsets.finish(Offset(9), tombstones);
        offsets.finish(Offset(8), older);
        assert_eq!(offset(&offsets, 0), None, "buried");
        offsets.finish(Offset(10), newer);
        assert_eq!(offset(&offsets, 0), Some(11));
        assert!(offsets.buried.is_empty() && offsets.pending.is_empty());
    }

    const OLD: Option<TopicId> = Some(TopicId(uuid::Uuid::from_u128(1)));
    const NEW: Option<TopicId> = Some(TopicId(uuid::Uuid::from_u128(2)));

    fn stale(offsets: &mut Offsets, end: i64, topic: Option<TopicId>) -> Vec<i32> {
        let tombstones = offsets.stale("g", || Offset(end), |_| topic);
        tombstones.iter().map(|record| record.key.partition).collect()
    }

    /// Appends a commit for the topic, after what it makes way for.
    fn append(offsets: &mut Offsets, at: i64, record: OffsetRecord, topic: Option<TopicId>) -> Vec<OffsetRecord> {
        let mut records = offsets.makes_way(&"g".into(), &"t".into(), topic, || Offset(at));
        records.push(record);
        offsets.begin(Offset(at), &records);
        records
    }

    #[test]
    fn offsets_of_a_former_topic_are_stale_until_they_are_gone() {
        let mut offsets = Offsets::default();
        let old = append(&mut offsets, 5, commit(0, 10), OLD);
        offsets.finish(Offset(5), old);
        let late = append(&mut offsets, 6, commit(1, 11), OLD);
        assert_eq!((stale(&mut offsets, 7, OLD), offsets.has_stale()), (vec![], false));
        assert_eq!(stale(&mut offsets, 7, None), [0, 1], "the topic is gone");
        // These tombstones were refused; another topic has the name by now.
        offsets.finish(Offset(6), late);
        assert!(offsets.has_stale());
        let new = append(&mut offsets, 8, commit(0, 20), NEW);
        assert_eq!(new.len(), 3, "two tombstones before the commit");
        offsets.cancel(Offset(8), &new);
        assert_eq!((stale(&mut offsets, 99, NEW), offsets.has_stale()), (vec![0, 1], true), "that failed as well");
        let new = append(&mut offsets, 11, commit(0, 20), NEW);
        offsets.finish(Offset(11), new);
        assert_eq!((offset(&offsets, 0), offset(&offsets, 1), offsets.has_stale()), (Some(20), None, false));
        assert_eq!(stale(&mut offsets, 99, NEW), [0; 0], "what the new topic's consumers committed stays");
    }

    #[test]
    fn a_late_tombstone_does_not_bury_the_new_topics_commit() {
        let mut offsets = Offsets::default();
        let old = append(&mut offsets, 5, commit(0, 10), OLD);
        offsets.finish(Offset(5), old);
        assert_eq!(stale(&mut offsets, 6, NEW), [0], "refused");
        assert_eq!(offsets.anew("g", Offset(9), 9), []);
        let new = vec![commit(0, 20)];
        offsets.begin(Offset(6), &new);
        assert_eq!((stale(&mut offsets, 7, NEW), offsets.has_stale()), (vec![], true));
        offsets.finish(Offset(6), new);
        assert_eq!((stale(&mut offsets, 7, NEW), offsets.has_stale()), (vec![], false));
        assert_eq!(offset(&offsets, 0), Some(20));
        offsets.are_of(|_| OLD);
        assert_eq!(stale(&mut offsets, 9, NEW), [0], "loaded before the name went to another");
    }

    #[test]
    fn what_is_written_anew_lies_below_and_has_nothing_on_its_way() {
        let mut offsets = Offsets::default();
        let all = vec![commit(0, 10), commit(1, 11), commit(2, 12)];
        offsets.begin(Offset(5), &all);
        assert!(offsets.reaches_below(Offset(6)) && offsets.anew("g", Offset(6), 9).is_empty(), "still on their way");
        offsets.finish(Offset(5), all);
        let busy = vec![commit(1, 21)];
        offsets.begin(Offset(9), &busy);
        let anew = offsets.anew("g", Offset(7), 9);
        assert_eq!(anew.iter().map(|record| record.key.partition).collect::<Vec<_>>(), [0]);
        offsets.begin(Offset(10), &anew);
        offsets.finish(Offset(10), anew);
        assert!(offsets.reaches_below(Offset(7)), "partition 1, until its commit ends");
        offsets.finish(Offset(9), busy);
        assert!(!offsets.reaches_below(Offset(7)));
        assert_eq!((offset(&offsets, 0), offset(&offsets, 1)), (Some(10), Some(21)));
    }
}
