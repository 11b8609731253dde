//! Members of one group, which read everything at least once between them and commit what they have read.

use super::client;
use super::progress::Progress;
use super::reader::{is_reset, note};
use super::topics::{Places, TOPICS};
use crate::clock::Clock;
use crate::history::{Commit, Place, Reader};
use anyhow::Context as _;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const GROUP: &str = "chaos";
const FINISHED_WITHIN: Duration = Duration::from_secs(20);
const LAST_COMMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(100);
const COMMIT_EVERY: Duration = Duration::from_millis(700);
const COMMITTED_WITHIN: Duration = Duration::from_secs(5);
const ASK_TIMES: u32 = 6;

pub struct Running {
    told: Receiver<Reader>,
    commits: Arc<Commits>,
}

impl Running {
    /// Waits for the end, after `stop_reading` was set. The client itself is not waited for: closing one that has lost
    /// all its brokers may take for ever.
    pub fn finish(self) -> anyhow::Result<(Reader, Vec<Commit>)> {
        let reader = self.told.recv_timeout(FINISHED_WITHIN).context("a member of the group hangs")?;
        Ok((reader, self.commits.taken()))
    }
}

/// Told by callbacks: a commit that waits for its answer may wait for ever, too.
struct Commits {
    answered: Mutex<Vec<Commit>>,
    places: Arc<Places>,
    clock: Clock,
}

impl Commits {
    fn taken(&self) -> Vec<Commit> {
        std::mem::take(&mut *self.answered.lock().expect("nobody panics with the commits"))
    }
}

struct Context(Arc<Commits>);

impl ClientContext for Context {
    /// Nodes that are down are told of elsewhere.
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let Context(commits) = self;
        let at_ms = commits.clock.ms();
        if result.is_err() {
            return;
        }
        for element in offsets.elements() {
            if let (Offset::Offset(offset), Ok(())) = (element.offset(), element.error())
                && let Some(place) = commits.places.number(element.topic(), element.partition())
            {
                commits.answered.lock().expect("nobody panics with the commits").push(Commit { place, offset, at_ms });
            }
        }
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
    let commits = Arc::new(Commits { answered: Mutex::default(), places: places.clone(), clock });
    let consumer: BaseConsumer<Context> = client::consumer(bootstrap, name)
        .set("group.id", GROUP)
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "500")
        .set("auto.offset.reset", "earliest")
        .create_with_context(Context(commits.clone()))?;
    consumer.subscribe(&TOPICS.map(|topic| topic.name))?;
    let mut member = Member {
        reader: Reader { name: name.to_string(), ..Reader::default() },
        pending: BTreeMap::new(),
        places: places.clone(),
    };
    let (tell, told) = mpsc::channel();
    let progress = progress.clone();
    std::thread::Builder::new().name(name.to_string()).spawn(move || {
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
        // Callbacks come while it polls.
        let until = Instant::now() + LAST_COMMIT;
        while Instant::now() < until {
            let _ = consumer.poll(POLL);
        }
        // Whoever waited has given up, then.
        let _ = tell.send(member.reader);
    })?;
    Ok(Running { told, commits })
}

struct Member {
    reader: Reader,
    /// Read since the last commit: the offset to go on from.
    pending: BTreeMap<Place, i64>,
    places: Arc<Places>,
}

impl Member {
    fn commit(&mut self, consumer: &BaseConsumer<Context>) {
        if self.pending.is_empty() {
            return;
        }
        // What was taken away in a rebalance is the next member's to commit.
        let Ok(assigned) = consumer.assignment() else { return };
        let mut list = TopicPartitionList::new();
        let pending = std::mem::take(&mut self.pending);
        for (place, offset) in pending {
            let name = &self.places.names[usize::from(place)];
            if assigned.find_partition(&name.topic, name.partition).is_some() {
                list.add_partition_offset(&name.topic, name.partition, Offset::Offset(offset)).expect("an offset");
            }
        }
        if list.count() > 0 {
            // One that is refused at once is not answered, and so not counted on.
            let _ = consumer.commit(&list, CommitMode::Async);
        }
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
