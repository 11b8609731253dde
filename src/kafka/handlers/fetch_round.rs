//! What one Fetch gathers before it answers: pure, over a source that reads one partition.

use super::fetch_session::{Entry, Sent, Session, TopicKey};
use crate::ids::*;
use crate::kafka::errors::Code;
use crate::replica::partition::{LeaderHint, ReadOutcome};
use std::collections::HashMap;
use std::time::Instant;

/// Why one partition gave nothing.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: Code,
    pub id: Option<TopicPartition>,
    pub hint: Option<LeaderHint>,
    /// Told with OFFSET_OUT_OF_RANGE: where a follower may start anew. −1: unknown.
    pub log_start: Offset,
}

/// How much one read may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub max_bytes: usize,
    pub at_least_one: bool,
}

type Outcome = Result<ReadOutcome, Failure>;

/// One partition of the answer.
#[derive(Debug)]
pub struct Answered {
    pub topic: TopicKey,
    pub partition: i32,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub min_bytes: usize,
    pub max_bytes: usize,
    pub is_follower: bool,
    pub read_committed: bool,
    /// Unchanged partitions are left out of the answer.
    pub is_incremental: bool,
}

/// Invariant: `bytes` is the sum of the records in `results`.
pub struct Round {
    rules: Rules,
    results: HashMap<u32, (Outcome, Limit)>,
    bytes: usize,
}

impl Round {
    pub fn new(rules: Rules) -> Round {
        Round { rules, results: HashMap::new(), bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads partitions, in order; what was read of them before is replaced.
    pub fn read(
        &mut self,
        session: &mut Session,
        tokens: &[u32],
        mut source: impl FnMut(u32, &mut Entry, Limit) -> Outcome,
    ) {
        for &token in tokens {
            let Some(entry) = session.entry_mut(token) else { continue };
            self.bytes -= self.results.remove(&token).map_or(0, |(outcome, _)| size(&outcome));
            let room = self.rules.max_bytes.saturating_sub(self.bytes);
            if room == 0 && self.bytes > 0 && self.rules.is_incremental {
                // It stays hot, and others that had data stand behind it next time.
                continue;
            }
            let limit = Limit { max_bytes: room.min(entry.wish.max_bytes), at_least_one: self.bytes == 0 };
            let outcome = source(token, entry, limit);
            self.bytes += size(&outcome);
            self.results.insert(token, (outcome, limit));
        }
    }

    /// When something that is held back may go.
    pub fn held_until(&self) -> Option<Instant> {
        self.results.values().filter_map(|(outcome, _)| outcome.as_ref().ok()?.held_until).min()
    }

    /// Whether to answer without waiting any longer.
    pub fn is_enough(&self, session: &Session) -> bool {
        self.bytes >= self.rules.min_bytes.min(self.rules.max_bytes)
            || session.is_empty()
            || self.results.iter().any(|(token, (outcome, _))| match outcome {
                Err(_) => true,
                Ok(outcome) => {
                    outcome.diverging.is_some()
                        || outcome.preferred.is_some()
                        || (self.rules.is_follower && has_moved(session, *token, outcome))
                }
            })
    }

    /// The answer; the session notes what its fetcher now knows, and which partitions may rest.
    pub fn finish(self, session: &mut Session) -> Vec<Answered> {
        let rules = self.rules;
        let mut results: Vec<_> = self
            .results
            .into_iter()
            .filter_map(|(token, result)| Some((session.place(token)?, token, result)))
            .collect();
        results.sort_unstable_by_key(|(place, ..)| *place);
        let mut answered = Vec::with_capacity(results.len());
        for (_, token, (outcome, limit)) in results {
            if size(&outcome) > 0 {
                session.to_back(token);
            } else if rests(&outcome, session, token, limit, rules) {
                session.cool(token);
            }
            let Some(entry) = session.entry_mut(token) else { continue };
            // After an error the next good answer is news, even an empty one: it says that the error is over.
            let sent = outcome.as_ref().ok().map(sent);
            let is_same = sent.is_some() && entry.sent == sent;
            entry.sent = sent;
            if let Ok(outcome) = &outcome
                && rules.is_incremental
                && is_same
                && outcome.chunk.bytes.is_empty()
                && outcome.diverging.is_none()
                && outcome.preferred.is_none()
            {
                continue;
            }
            answered.push(Answered { topic: entry.topic.clone(), partition: entry.partition, outcome });
        }
        answered
    }
}

fn size(outcome: &Outcome) -> usize {
    outcome.as_ref().map_or(0, |outcome| outcome.chunk.bytes.len())
}

fn sent(outcome: &ReadOutcome) -> Sent {
    Sent { high_watermark: outcome.high_watermark, last_stable: outcome.last_stable, log_start: outcome.log_start }
}

/// The high watermark is another than the follower was told.
fn has_moved(session: &Session, token: u32, outcome: &ReadOutcome) -> bool {
    let told = session.entry(token).and_then(|entry| entry.sent).map(|sent| sent.high_watermark);
    told != Some(outcome.high_watermark)
}

/// Nothing is there until the watcher says otherwise. An empty read alone does not prove it: the next batch may just
/// not have fitted.
fn rests(outcome: &Outcome, session: &Session, token: u32, limit: Limit, rules: Rules) -> bool {
    let (Ok(outcome), Some(entry)) = (outcome, session.entry(token)) else { return false };
    let readable = if rules.read_committed { outcome.last_stable } else { outcome.high_watermark };
    let at_end = limit.at_least_one || (!rules.is_follower && entry.wish.offset >= readable);
    at_end
        && outcome.held_until.is_none()
        && outcome.diverging.is_none()
        && outcome.preferred.is_none()
        && is_watched(entry)
}

fn is_watched(entry: &Entry) -> bool {
    entry.watched.strong_count() > 0 || cfg!(test)
}

#[cfg(test)]
#[path = "fetch_round_tests.rs"]
mod tests;
