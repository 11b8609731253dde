//! Where logs begin and end, and when a record in them was written: asked of the partitions' leaders, many at a time.

use crate::ids::*;
use crate::metadata::image::Image;
use crate::replica::hosted::Hosted;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

/// About one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub partition: TopicPartition,
    /// When was the first record at or after each of these written?
    pub times_of: Vec<Offset>,
    /// Which record is the first at or after each of these times, in milliseconds?
    pub offsets_at: Vec<i64>,
}

impl Question {
    /// Only where the log begins and ends.
    pub fn of(partition: TopicPartition) -> Question {
        Question { partition, times_of: Vec::new(), offsets_at: Vec::new() }
    }
}

/// As its leader tells. What consumers may read: above `log_end`, the high watermark, there is nothing for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnds {
    pub partition: TopicPartition,
    pub log_start: Offset,
    pub log_end: Offset,
    /// One for each of `times_of`, in milliseconds and at the precision of batches; `None` where there is no such record.
    pub times: Vec<Option<i64>>,
    /// One for each of `offsets_at`; `None` where every record is older.
    pub offsets: Vec<Option<Offset>>,
}

pub type EndsFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<LogEnds>, String>> + Send + 'a>>;

/// The way to ask: `cluster/` supplies it. Tells of those that the broker leads; answers within a second or two for each
/// thousand questions, or fails.
pub trait LogEndsSource: Send + Sync + 'static {
    fn ask(&self, broker: BrokerId, questions: Vec<Question>) -> EndsFuture<'_>;
}

/// What this broker can tell; `None` unless it leads. May read from disk.
pub fn answer(hosted: &Hosted, question: &Question) -> Option<LogEnds> {
    use crate::replica::partition::OffsetSpec;
    let partition = hosted.get(question.partition)?;
    let status = partition.status();
    if !status.is_leader {
        return None;
    }
    let times = question.times_of.iter().map(|offset| partition.time_at(*offset).ok().flatten());
    let at = |time: &i64| partition.find_offset(OffsetSpec::AtTime(*time), false, LeaderEpoch::NONE);
    let offsets = question.offsets_at.iter().map(|time| Ok(at(time)?.map(|found| found.offset)));
    Some(LogEnds {
        partition: question.partition,
        log_start: status.log_start,
        log_end: status.high_watermark,
        times: times.collect(),
        // Not to know is not the same as none.
        offsets: offsets.collect::<Result<_, crate::replica::partition::PartitionError>>().ok()?,
    })
}

/// Asks every leader at once; a partition without one, or whose leader does not answer, is not in the answer.
pub async fn ask_leaders(
    source: &dyn LogEndsSource,
    image: &Image,
    questions: Vec<Question>,
) -> BTreeMap<TopicPartition, LogEnds> {
    let mut by_leader: BTreeMap<BrokerId, Vec<Question>> = BTreeMap::new();
    for question in questions {
        if let Some(leader) = image.partition(question.partition).and_then(|partition| partition.leader) {
            by_leader.entry(leader).or_default().push(question);
        }
    }
    let asked = by_leader.into_iter().map(|(leader, questions)| async move {
        source.ask(leader, questions).await.unwrap_or_else(|error| {
            tracing::debug!(%leader, error, "a leader does not tell where its logs end");
            Vec::new()
        })
    });
    join_all(asked).await.into_iter().flatten().map(|ends| (ends.partition, ends)).collect()
}
