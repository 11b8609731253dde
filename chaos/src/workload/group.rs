//! Members of one group, which read everything at least once between them and commit what they have read.

use super::client;
use super::client_log::{ClientLog, ClientLogs};
use super::progress::Progress;
use super::reader::{is_reset, note};
use super::topics::{Places, TOPICS};
use crate::clock::Clock;
use crate::history::{Commit, End, Hang, Ownership, Place, Reader};
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
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
/// Not to poll for so long is worth a note: a group may go on without such a member.
const SILENT_MS: u32 = 5_000;

pub struct Running {
    ended: Receiver<()>,
    noted: Arc<Noted>,
}

impl Running {
    /// Waits for the end, after `stop_reading` was set, but not for ever: a client that was once told of no broker at
    /// all forgets them all, and then neither a commit nor its closing comes to an end. What it had noted counts.
    pub fn finish(self) -> Seen {
        if self.ended.recv_timeout(FINISHED_WITHIN).is_err() {
            eprintln!("a member of the group hangs in its client");
        }
        let mut seen = std::mem::take(&mut *self.noted.seen());
        let looked_ms = seen.looked_ms;
        let still = std::mem::take(&mut seen.owned).into_values();
        seen.ownerships.extend(still.map(|ownership| Ownership { until_ms: looked_ms, ..ownership }));
        seen
    }
}

/// What a member has read, owned, and committed.
#[derive(Default)]
pub struct Seen {
    pub reader: Reader,
    pub commits: Vec<Commit>,
    pub ownerships: Vec<Ownership>,
    pub hangs: Vec<Hang>,
    owned: BTreeMap<Place, Ownership>,
    /// Read since the last commit: the offset to go on from.
    pending: BTreeMap<Place, i64>,
    /// When it last polled.
    looked_ms: u32,
}

/// Shared between the member's loop and the callbacks of its polls, which run on the same thread.
struct Noted {
    seen: Mutex<Seen>,
    member: usize,
    places: Arc<Places>,
    clock: Clock,
    log: ClientLog,
}

impl Noted {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics with it")
    }

    fn places_of(&self, list: &TopicPartitionList) -> Vec<Place> {
        list.elements().iter().filter_map(|e| self.places.number(e.topic(), e.partition())).collect()
    }

    fn assigned(&self, list: &TopicPartitionList) {
        let (from_ms, mut seen) = (self.clock.ms(), self.seen());
        for place in self.places_of(list) {
            seen.pending.remove(&place);
            let (member, until_ms) = (self.member, u32::MAX);
            seen.owned.insert(place, Ownership { member, place, from_ms, until_ms, end: End::Open, began: None });
        }
    }

    fn ended(&self, list: &TopicPartitionList, end: End) {
        let (until_ms, mut seen) = (self.clock.ms(), self.seen());
        for place in self.places_of(list) {
            // Whoever has it next reads it again from the last commit.
            seen.pending.remove(&place);
            if let Some(ownership) = seen.owned.remove(&place) {
                seen.ownerships.push(Ownership { until_ms, end, ..ownership });
            }
        }
    }

    /// It has polled.
    fn looked(&self, is_meant: bool) {
        let (member, until_ms, mut seen) = (self.member, self.clock.ms(), self.seen());
        let from_ms = std::mem::replace(&mut seen.looked_ms, until_ms);
        if until_ms - from_ms >= SILENT_MS {
            seen.hangs.push(Hang { member, is_meant, from_ms, until_ms });
        }
    }

    /// Commits what was read of the places it owns.
    fn commit(&self, consumer: &BaseConsumer<Context>) {
        let (mut list, mut asked) = (TopicPartitionList::new(), Vec::new());
        {
            let (asked_ms, mut seen) = (self.clock.ms(), self.seen());
            for (place, offset) in std::mem::take(&mut seen.pending) {
                let name = &self.places.names[usize::from(place)];
                list.add_partition_offset(&name.topic, name.partition, Offset::Offset(offset)).expect("an offset");
                asked.push(seen.commits.len());
                seen.commits.push(Commit { member: self.member, place, offset, asked_ms, done_ms: None });
            }
        }
        if asked.is_empty() || consumer.commit(&list, CommitMode::Sync).is_err() {
            return;
        }
        let (done_ms, mut seen) = (self.clock.ms(), self.seen());
        for commit in asked {
            seen.commits[commit].done_ms = Some(done_ms);
        }
    }
}

#[derive(Clone)]
struct Context(Arc<Noted>);

impl ClientContext for Context {
    /// Nodes that are down are told of elsewhere.
    fn error(&self, _: KafkaError, _: &str) {}

    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log.write(self.0.clock.ms(), facility, message);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Context>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => self.0.assigned(list),
            Rebalance::Revoke(list) if consumer.assignment_lost() => self.0.ended(list, End::Lost),
            Rebalance::Revoke(list) => {
                self.0.commit(consumer);
                self.0.ended(list, End::Revoked);
            }
            Rebalance::Error(_) => {}
        }
    }
}

pub struct Setup {
    pub number: usize,
    /// Stops polling while it is told to, and then commits first, as one that does not know what it missed.
    pub may_hang: bool,
    /// As which reader the whole group counts in the progress.
    pub as_reader: usize,
}

pub fn start(
    setup: &Setup,
    bootstrap: &str,
    places: &Arc<Places>,
    progress: &Arc<Progress>,
    clock: Clock,
    logs: &ClientLogs,
) -> anyhow::Result<Running> {
    let name = format!("member-{}", setup.number);
    let seen = Seen { reader: Reader { name: name.clone(), ..Reader::default() }, ..Seen::default() };
    let mut config = client::consumer(bootstrap, &name);
    let log = logs.of(&name, false, &mut config)?;
    let noted = Arc::new(Noted { seen: Mutex::new(seen), member: setup.number, places: places.clone(), clock, log });
    let consumer: BaseConsumer<Context> = config
        .set("group.id", GROUP)
        .set("session.timeout.ms", "6000")
        .set("max.poll.interval.ms", "6000")
        .set("heartbeat.interval.ms", "500")
        // Over all topics together, so that the one that may hang has a share.
        .set("partition.assignment.strategy", "roundrobin")
        .set("auto.offset.reset", "earliest")
        .create_with_context(Context(noted.clone()))?;
    consumer.subscribe(&TOPICS.map(|topic| topic.name))?;
    let (tell, ended) = mpsc::channel();
    let (progress, as_reader, may_hang) = (progress.clone(), setup.as_reader, setup.may_hang);
    let running = Running { ended, noted: noted.clone() };
    std::thread::Builder::new().name(name).spawn(move || {
        let mut committed = Instant::now();
        noted.seen().looked_ms = clock.ms();
        while !progress.stop_reading.load(Ordering::Relaxed) {
            let is_meant = may_hang && progress.hung.load(Ordering::Relaxed);
            if is_meant {
                hang(&progress);
                noted.commit(&consumer);
            }
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    if let Some(read) = note(&message, &noted.places, clock) {
                        progress.read(as_reader, read.place, read.offset);
                        let mut seen = noted.seen();
                        if let Some(ownership) = seen.owned.get_mut(&read.place) {
                            ownership.began.get_or_insert(read.offset);
                            seen.pending.insert(read.place, read.offset + 1);
                        }
                        seen.reader.reads.push(read);
                    }
                }
                Some(Err(error)) if is_reset(&error) => {
                    noted.seen().reader.resets.push((clock.ms(), error.to_string()));
                }
                Some(Err(_)) | None => {}
            }
            noted.looked(is_meant);
            if committed.elapsed() >= COMMIT_EVERY {
                noted.commit(&consumer);
                committed = Instant::now();
            }
        }
        noted.commit(&consumer);
        // Whoever waited may have given up.
        let _ = tell.send(());
    })?;
    Ok(running)
}

/// Does nothing for as long as it is told to, but not past the end of the run.
fn hang(progress: &Progress) {
    while progress.hung.load(Ordering::Relaxed) && !progress.stop_sending.load(Ordering::Relaxed) {
        std::thread::sleep(POLL);
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
