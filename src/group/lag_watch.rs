//! Measures the lag of this broker's groups every few seconds, and of one group when it is asked for.

use super::coordinator::{Coordinator, GroupError};
use super::lag::{Lags, Position, Total};
use super::log_ends::{self, LogEnds, LogEndsSource, Question};
use super::settings::{LAG_POSITIONS_MAX, LAG_TIMES_MAX};
use super::shell::Shell;
use crate::ids::*;
use crate::metadata::image::Image;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The newest lags, and the way to measure them. Cheap to clone.
#[derive(Clone, Default)]
pub struct LagWatch {
    newest: Arc<ArcSwap<Lags>>,
    /// `None` in tests: nothing is known then.
    source: Option<Arc<dyn LogEndsSource>>,
}

impl LagWatch {
    pub fn new(source: Arc<dyn LogEndsSource>) -> LagWatch {
        LagWatch { newest: Arc::default(), source: Some(source) }
    }

    /// Until the coordinator is gone.
    pub async fn run(self, shell: Weak<Shell>, interval: Duration) {
        let mut turn = 0usize;
        loop {
            tokio::time::sleep(interval).await;
            let (Some(shell), Some(source)) = (shell.upgrade(), &self.source) else { return };
            let image = shell.image();
            // Groups' locks and up to LAG_POSITIONS_MAX offsets: not on a thread that serves.
            let (former, at) = (self.newest.load_full(), image.clone());
            let asking = tokio::task::spawn_blocking(move || {
                let (positions, unmeasured) = positions(&shell, &at);
                let questions = former.questions(&positions, LAG_TIMES_MAX, turn);
                (former, positions, unmeasured, questions)
            });
            let Ok((former, positions, unmeasured, questions)) = asking.await else { return };
            turn = turn.wrapping_add(LAG_TIMES_MAX);
            let ends = log_ends::ask_leaders(&**source, &image, questions.clone()).await;
            let newest = self.newest.clone();
            let telling = tokio::task::spawn_blocking(move || {
                let mut next = former.after(&positions, &ends, &questions);
                next.unmeasured = unmeasured;
                newest.store(Arc::new(next));
            });
            if telling.await.is_err() {
                return;
            }
        }
    }
}

/// The committed offsets of this broker's groups, and how many more there are than are looked at.
fn positions(shell: &Shell, image: &Image) -> (Vec<Position>, usize) {
    let (mut found, mut left_out) = (Vec::new(), 0);
    for cell in shell.slots().iter().flat_map(|slot| slot.all().unwrap_or_default()) {
        let group = shell.names.share(&cell.group);
        let entry = cell.lock();
        let room = LAG_POSITIONS_MAX - found.len();
        left_out += entry.offsets.len().saturating_sub(room);
        found.extend(of_group(&group, entry.offsets.positions().take(room), image));
    }
    (found, left_out)
}

/// Without topics that are gone.
fn of_group<'a>(
    group: &Arc<str>,
    positions: impl Iterator<Item = (&'a Arc<str>, i32, i64)>,
    image: &Image,
) -> Vec<Position> {
    positions
        .filter_map(|(topic, partition, committed)| {
            let id = image.topic_by_name(topic)?.id;
            Some(Position {
                group: group.clone(),
                topic: topic.clone(),
                partition: TopicPartition::new(id, partition),
                committed: Offset(committed),
            })
        })
        .collect()
}

impl Coordinator {
    /// The lags as last measured.
    pub fn lags(&self) -> Arc<Lags> {
        self.lag.newest.load_full()
    }

    /// A group's lag as last measured; `None` before the first time, and without offsets.
    pub fn total_lag(&self, group: &str, now_ms: i64) -> Option<Total> {
        self.lag.newest.load().total(group, now_ms)
    }

    /// The lag of one group, measured now.
    pub async fn measure(&self, group: &str) -> Result<Lags, GroupError> {
        let image = self.shell.image();
        let positions = match self.find(group)? {
            None => Vec::new(),
            Some((_, cell)) => {
                let entry = cell.lock();
                of_group(&group.into(), entry.offsets.positions().take(LAG_POSITIONS_MAX), &image)
            }
        };
        let none = Lags::default();
        let questions = none.questions(&positions, LAG_POSITIONS_MAX, 0);
        let ends = self.log_ends(questions.clone()).await;
        Ok(none.after(&positions, &ends, &questions))
    }

    /// Asks the leaders now; those that do not tell are not in the answer.
    pub async fn log_ends(&self, questions: Vec<Question>) -> BTreeMap<TopicPartition, LogEnds> {
        match &self.lag.source {
            Some(source) => log_ends::ask_leaders(&**source, &self.shell.image(), questions).await,
            None => BTreeMap::new(),
        }
    }
}
