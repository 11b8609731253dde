//! Members of one group, which read everything at least once between them and commit what they have read.

use super::client;
use super::progress::Progress;
use super::reader::{is_reset, note};
use super::topics::{Places, TOPICS};
use crate::clock::Clock;
use crate::history::{Commit, Place, Reader};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const GROUP: &str = "chaos";
const POLL: Duration = Duration::from_millis(100);
const COMMIT_EVERY: Duration = Duration::from_millis(700);
const COMMITTED_WITHIN: Duration = Duration::from_secs(5);
const ASK_TIMES: u32 = 6;

pub struct Running {
    thread: JoinHandle<(Reader, Vec<Commit>)>,
}

impl Running {
    /// Waits for the end, after `stop_reading` was set.
    pub fn finish(self) -> (Reader, Vec<Commit>) {
        self.thread.join().expect("a member's thread does not panic")
    }
}

/// `as_reader`: as which reader the whole group counts in the progress.
pub fn start(
    name: &str,
    as_reader: usize,
    bootstrap: &str,
    places: &Arc<Places>,
    progress: &Arc<Progress>,
    clock: Clock,
) -> anyhow::Result<Running> {
    let consumer: BaseConsumer = client::consumer(bootstrap, name)
        .set("group.id", GROUP)
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "500")
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&TOPICS.map(|topic| topic.name))?;
    let mut member = Member {
        reader: Reader { name: name.to_string(), ..Reader::default() },
        commits: Vec::new(),
        pending: BTreeMap::new(),
        places: places.clone(),
        clock,
    };
    let progress = progress.clone();
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || {
        let mut committed = Instant::now();
        while !progress.stop_reading.load(Ordering::Relaxed) {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    if let Some(read) = note(&message, &member.places, clock) {
                        progress.read(as_reader, read.place, read.offset);
                        member.pending.insert(read.place, read.offset + 1);
                        member.reader.reads.push(read);
                    }
                }
                Some(Err(error)) if is_reset(&error) => member.reader.resets.push((clock.ms(), error.to_string())),
                Some(Err(_)) | None => {}
            }
            if committed.elapsed() >= COMMIT_EVERY {
                member.commit(&consumer);
                committed = Instant::now();
            }
        }
        member.commit(&consumer);
        (member.reader, member.commits)
    })?;
    Ok(Running { thread })
}

struct Member {
    reader: Reader,
    commits: Vec<Commit>,
    /// Read since the last commit: the offset to go on from.
    pending: BTreeMap<Place, i64>,
    places: Arc<Places>,
    clock: Clock,
}

impl Member {
    fn commit(&mut self, consumer: &BaseConsumer) {
        if self.pending.is_empty() {
            return;
        }
        // What was taken away in a rebalance is the next member's to commit.
        let Ok(assigned) = consumer.assignment() else { return };
        let mut list = TopicPartitionList::new();
        let pending = std::mem::take(&mut self.pending);
        let mut asked = Vec::new();
        for (place, offset) in pending {
            let name = &self.places.names[usize::from(place)];
            if assigned.find_partition(&name.topic, name.partition).is_some() {
                list.add_partition_offset(&name.topic, name.partition, Offset::Offset(offset)).expect("an offset");
                asked.push((place, offset));
            }
        }
        if asked.is_empty() || consumer.commit(&list, CommitMode::Sync).is_err() {
            return;
        }
        let at_ms = self.clock.ms();
        self.commits.extend(asked.into_iter().map(|(place, offset)| Commit { place, offset, at_ms }));
    }
}

/// What the group has committed, as a newcomer would be told.
pub fn committed(bootstrap: &str, places: &Places) -> anyhow::Result<BTreeMap<Place, i64>> {
    let consumer: BaseConsumer = client::consumer(bootstrap, "committed").set("group.id", GROUP).create()?;
    let mut asked = 0;
    let told = loop {
        asked += 1;
        match consumer.committed_offsets(places.at_beginning(), COMMITTED_WITHIN) {
            Ok(told) => break told,
            Err(error) if asked == ASK_TIMES => return Err(error.into()),
            Err(_) => {}
        }
    };
    Ok(told
        .elements()
        .iter()
        .filter_map(|e| match e.offset() {
            Offset::Offset(offset) => Some((places.number(e.topic(), e.partition())?, offset)),
            _ => None,
        })
        .collect())
}
