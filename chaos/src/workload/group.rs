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
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub const GROUP: &str = "chaos";
const FINISHED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
const COMMIT_EVERY: Duration = Duration::from_millis(700);
const COMMITTED_WITHIN: Duration = Duration::from_secs(5);
const ASK_TIMES: u32 = 6;

pub struct Running {
    ended: Receiver<()>,
    noted: Arc<Noted>,
}

impl Running {
    /// Waits for the end, after `stop_reading` was set, but not for ever: a client that was once told of no broker at
    /// all forgets them all, and then neither a commit nor its closing comes to an end. What it had noted counts.
    pub fn finish(self) -> (Reader, Vec<Commit>) {
        if self.ended.recv_timeout(FINISHED_WITHIN).is_err() {
            eprintln!("a member of the group hangs in its client");
        }
        (std::mem::take(&mut *locked(&self.noted.reader)), std::mem::take(&mut *locked(&self.noted.commits)))
    }
}

/// What a member has read and has had its commits answered for.
#[derive(Default)]
struct Noted {
    reader: Mutex<Reader>,
    commits: Mutex<Vec<Commit>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
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
    let mut member = Member { noted: Arc::default(), pending: BTreeMap::new(), places: places.clone(), clock };
    let noted = member.noted.clone();
    locked(&noted.reader).name = name.to_string();
    let (tell, ended) = mpsc::channel();
    let progress = progress.clone();
    std::thread::Builder::new().name(name.to_string()).spawn(move || {
        let mut committed = Instant::now();
        while !progress.stop_reading.load(Ordering::Relaxed) {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    if let Some(read) = note(&message, &member.places, clock) {
                        progress.read(as_reader, read.place, read.offset);
                        member.pending.insert(read.place, read.offset + 1);
                        locked(&member.noted.reader).reads.push(read);
                    }
                }
                Some(Err(error)) if is_reset(&error) => {
                    locked(&member.noted.reader).resets.push((clock.ms(), error.to_string()));
                }
                Some(Err(_)) | None => {}
            }
            if committed.elapsed() >= COMMIT_EVERY {
                member.commit(&consumer);
                committed = Instant::now();
            }
        }
        member.commit(&consumer);
        // Whoever waited may have given up.
        let _ = tell.send(());
    })?;
    Ok(Running { ended, noted })
}

struct Member {
    noted: Arc<Noted>,
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
        let mut asked = Vec::new();
        let pending = std::mem::take(&mut self.pending);
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
        locked(&self.noted.commits).extend(asked.into_iter().map(|(place, offset)| Commit { place, offset, at_ms }));
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
