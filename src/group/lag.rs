//! How far groups are behind: in records, and in the age of the first record not consumed. Pure.
//!
//! ```text
//! committed offsets ─→ questions: one a partition, and times where they are not known yet
//!                        ↓ leaders' answers
//! former lags ─────────→ lags ─→ by group │ the largest, for /metrics
//! ```
//!
//! The time of a record never changes: it is asked for once, and again only when the commit moves on.

use super::log_ends::{LogEnds, Question};
use crate::ids::*;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A committed offset of a topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub partition: TopicPartition,
    pub committed: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    pub topic: Arc<str>,
    pub partition: TopicPartition,
    pub committed: Offset,
    /// What there is to consume lies between these.
    pub log_start: Offset,
    pub log_end: Offset,
    /// When the first record not consumed was written; `None` if there is none, or it is not known yet.
    pub waiting_since_ms: Option<i64>,
}

impl Lag {
    /// Where consuming goes on: what retention took is not waited for.
    fn next(&self) -> Offset {
        self.committed.max(self.log_start)
    }

    /// A commit beyond the end (of a topic made anew, or after lost records) is no lag.
    pub fn records(&self) -> u64 {
        u64::try_from(self.log_end.0.saturating_sub(self.next().0)).unwrap_or(0)
    }

    /// How long the first record not consumed has been waiting.
    pub fn age_ms(&self, now_ms: i64) -> Option<u64> {
        if self.records() == 0 {
            return Some(0);
        }
        self.waiting_since_ms.map(|since| u64::try_from(now_ms.saturating_sub(since)).unwrap_or(0))
    }
}

/// Of one group, over all partitions that told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub partitions: usize,
    pub records: u64,
    /// Of the partition that is furthest behind in time.
    pub age_ms: u64,
}

/// The lags of many groups at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lags {
    by_group: BTreeMap<Arc<str>, Vec<Lag>>,
    /// Committed offsets that were not looked at, being too many.
    pub unmeasured: usize,
}

impl Lags {
    pub fn of(&self, group: &str) -> &[Lag] {
        self.by_group.get(group).map_or(&[], Vec::as_slice)
    }

    /// `None` for a group of which nothing is known.
    pub fn total(&self, group: &str, now_ms: i64) -> Option<Total> {
        self.by_group.get(group).map(|lags| total(lags, now_ms))
    }

    fn find(&self, position: &Position) -> Option<&Lag> {
        let lags = self.by_group.get(&position.group)?;
        lags.binary_search_by_key(&position.partition, |lag| lag.partition).ok().map(|index| &lags[index])
    }

    /// What the leaders of `positions` must be asked; at most `times_max` times, of which those after `turn` come first,
    /// so that with more than that all have their turn.
    pub fn questions(&self, positions: &[Position], times_max: usize, turn: usize) -> Vec<Question> {
        let mut questions: BTreeMap<TopicPartition, Question> = BTreeMap::new();
        let begin = if positions.is_empty() { 0 } else { turn % positions.len() };
        let mut times = 0;
        for position in positions[begin..].iter().chain(&positions[..begin]) {
            let question = questions.entry(position.partition).or_insert_with(|| Question::of(position.partition));
            let wanted = self.wanted_time(position);
            if let Some(offset) = wanted
                && !question.times_of.contains(&offset)
                && times < times_max
            {
                question.times_of.push(offset);
                times += 1;
            }
        }
        questions.into_values().collect()
    }

    /// The record whose time is not known.
    fn wanted_time(&self, position: &Position) -> Option<Offset> {
        match self.find(position) {
            Some(lag) if lag.committed == position.committed && lag.waiting_since_ms.is_some() => None,
            _ => Some(position.committed),
        }
    }

    /// The next lags. Where a leader did not tell, what was known stays for as long as the offset is committed.
    pub fn after(
        &self,
        positions: &[Position],
        ends: &BTreeMap<TopicPartition, LogEnds>,
        questions: &[Question],
    ) -> Lags {
        let asked: BTreeMap<TopicPartition, &Question> =
            questions.iter().map(|question| (question.partition, question)).collect();
        let mut by_group: BTreeMap<Arc<str>, Vec<Lag>> = BTreeMap::new();
        for position in positions {
            let former = self.find(position);
            let lag = match ends.get(&position.partition) {
                Some(ends) => {
                    let told = asked.get(&position.partition).and_then(|question| {
                        let index = question.times_of.iter().position(|offset| *offset == position.committed)?;
                        ends.times.get(index).copied().flatten()
                    });
                    // Of an older commit, if this one's turn did not come yet: then it waits no longer than that says.
                    let known = former.and_then(|lag| lag.waiting_since_ms);
                    Some(Lag {
                        topic: position.topic.clone(),
                        partition: position.partition,
                        committed: position.committed,
                        log_start: ends.log_start,
                        log_end: ends.log_end,
                        waiting_since_ms: told.or(known),
                    })
                }
                None => former.map(|lag| Lag { committed: position.committed, ..lag.clone() }),
            };
            if let Some(mut lag) = lag {
                if lag.records() == 0 {
                    lag.waiting_since_ms = None;
                }
                by_group.entry(position.group.clone()).or_default().push(lag);
            }
        }
        by_group.values_mut().for_each(|lags| lags.sort_by_key(|lag| lag.partition));
        Lags { by_group, unmeasured: 0 }
    }

    /// The `most` partitions that lag furthest behind, furthest first, and what is left of them.
    pub fn furthest(&self, most: usize) -> (Vec<(&Arc<str>, &Lag)>, Total) {
        let all = self.by_group.iter().flat_map(|(group, lags)| lags.iter().map(move |lag| (group, lag)));
        furthest(all.collect(), most, |(_, lag)| lag.records(), |(group, lag)| ((*group).clone(), lag.partition))
    }

    /// The `most` groups that lag furthest behind, furthest first, and what is left of them.
    pub fn furthest_groups(&self, most: usize, now_ms: i64) -> (Vec<(&Arc<str>, Total)>, Total) {
        let all = self.by_group.iter().map(|(group, lags)| (group, total(lags, now_ms)));
        furthest(all.collect(), most, |(_, total)| total.records, |(group, _)| (*group).clone())
    }
}

fn total(lags: &[Lag], now_ms: i64) -> Total {
    lags.iter().fold(Total::default(), |total, lag| Total {
        partitions: total.partitions + 1,
        records: total.records.saturating_add(lag.records()),
        age_ms: total.age_ms.max(lag.age_ms(now_ms).unwrap_or(0)),
    })
}

fn furthest<T, K: Ord>(
    mut all: Vec<T>,
    most: usize,
    records: impl Fn(&T) -> u64,
    name: impl Fn(&T) -> K,
) -> (Vec<T>, Total) {
    // Equals by name: the same lines from one page to the next.
    all.sort_by_cached_key(|item| (Reverse(records(item)), name(item)));
    let rest = all.split_off(most.min(all.len()));
    let left = rest.iter().fold(Total::default(), |left, item| Total {
        partitions: left.partitions + 1,
        records: left.records.saturating_add(records(item)),
        age_ms: 0,
    });
    (all, left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(partition: i32) -> TopicPartition {
        TopicPartition::new(TopicId(Uuid::from_u128(1)), partition)
    }

    fn at(group: &str, partition: i32, committed: i64) -> Position {
        Position { group: group.into(), topic: "t".into(), partition: id(partition), committed: Offset(committed) }
    }

    fn told(partition: i32, range: (i64, i64), times: &[Option<i64>]) -> (TopicPartition, LogEnds) {
        let ends = LogEnds {
            partition: id(partition),
            log_start: Offset(range.0),
            log_end: Offset(range.1),
            times: times.to_vec(),
            offsets: Vec::new(),
        };
        (id(partition), ends)
    }

    fn look(lags: &Lags, positions: &[Position], ends: Vec<(TopicPartition, LogEnds)>) -> Lags {
        lags.after(positions, &ends.into_iter().collect(), &lags.questions(positions, 100, 0))
    }

    fn records(lags: &Lags, group: &str) -> Vec<(u64, Option<u64>)> {
        lags.of(group).iter().map(|lag| (lag.records(), lag.age_ms(10_000))).collect()
    }

    #[test]
    fn lag_is_what_lies_between_the_commit_and_the_high_watermark_and_as_old_as_its_first_record() {
        let positions = [at("g", 0, 40), at("g", 1, 100), at("g", 2, 5), at("g", 3, 200)];
        let ends = vec![
            told(0, (0, 100), &[Some(7_000)]),
            told(1, (0, 100), &[None]),
            told(2, (50, 60), &[Some(1_000)]),
            told(3, (0, 100), &[None]),
        ];
        let lags = look(&Lags::default(), &positions, ends);
        let expected = [(60, Some(3_000)), (0, Some(0)), (10, Some(9_000)), (0, Some(0))];
        assert_eq!(records(&lags, "g"), expected, "what retention took, and what never was, does not count");
        assert_eq!(lags.total("g", 10_000), Some(Total { partitions: 4, records: 70, age_ms: 9_000 }));
        assert_eq!(lags.total("h", 10_000), None);
    }

    #[test]
    fn a_time_is_asked_for_once_and_again_when_the_commit_moves_or_records_come() {
        let positions = [at("g", 0, 40), at("g", 1, 100), at("h", 0, 40)];
        let none = Lags::default();
        let asked: Vec<_> = none.questions(&positions, 100, 0).into_iter().map(|q| q.times_of).collect();
        assert_eq!(asked, [vec![Offset(40)], vec![Offset(100)]], "one question for two groups at the same place");
        let lags = look(&none, &positions, vec![told(0, (0, 100), &[Some(7)]), told(1, (0, 100), &[None])]);
        let asked = |positions: &[Position]| -> Vec<Vec<Offset>> {
            lags.questions(positions, 100, 0).into_iter().map(|q| q.times_of).collect()
        };
        assert_eq!(asked(&positions), [vec![], vec![Offset(100)]], "a record may have come to partition 1");
        assert_eq!(asked(&[at("g", 0, 41)]), [vec![Offset(41)]]);
    }

    #[test]
    fn questions_about_times_are_bounded_and_all_have_their_turn() {
        let positions: Vec<Position> = (0..10).map(|partition| at("g", partition, 1)).collect();
        let asked = |turn| -> Vec<i32> {
            let questions = Lags::default().questions(&positions, 3, turn);
            assert_eq!(questions.len(), 10, "where logs end is asked of all");
            questions.iter().filter(|q| !q.times_of.is_empty()).map(|q| q.partition.partition).collect()
        };
        assert_eq!((asked(0), asked(3), asked(9)), (vec![0, 1, 2], vec![3, 4, 5], vec![0, 1, 9]));
        assert!(Lags::default().questions(&[], 3, 7).is_empty());
    }

    #[test]
    fn a_silent_leader_leaves_what_was_known_and_a_commit_that_is_gone_takes_it_along() {
        let positions = [at("g", 0, 40)];
        let lags = look(&Lags::default(), &positions, vec![told(0, (0, 100), &[Some(7_000)])]);
        let later = look(&lags, &[at("g", 0, 90)], Vec::new());
        assert_eq!(records(&later, "g"), [(10, Some(3_000))]);
        assert_eq!(look(&lags, &[], Vec::new()), Lags::default());
        assert_eq!(look(&Lags::default(), &positions, Vec::new()), Lags::default(), "nothing is made up");
    }

    #[test]
    fn the_furthest_are_listed_and_the_rest_is_counted() {
        let positions = [at("a", 0, 90), at("b", 1, 0), at("b", 2, 50), at("c", 0, 90)];
        let ends = (0..3).map(|partition| told(partition, (0, 100), &[None])).collect();
        let lags = look(&Lags::default(), &positions, ends);
        let (listed, left) = lags.furthest(2);
        let listed: Vec<_> = listed.iter().map(|(group, lag)| (&***group, lag.records())).collect();
        assert_eq!(listed, [("b", 100), ("b", 50)]);
        assert_eq!(left, Total { partitions: 2, records: 20, age_ms: 0 });
        let (groups, left) = lags.furthest_groups(2, 0);
        assert_eq!(groups.iter().map(|(group, _)| &***group).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(left, Total { partitions: 1, records: 10, age_ms: 0 });
        assert_eq!(lags.furthest(9).1, Total::default());
    }
}
