//! `highwater dev --demo`: load on a cluster, and a line a second that shows what a failure costs.
//!
//! Every record carries its partition's running number, so that the consumer knows of each that is missing or comes
//! twice. Nothing is given up: while a partition has no leader its records wait, and its gap between acks grows.

use super::client::consumer::{Fetched, Start, follow, resolve};
use super::client::metadata::{Metadata, View};
use super::client::producer::{Acked, Acks, Options, Outgoing, Producer};
use super::events;
use super::output::{self, thousands};
use super::reach::{self, Reach};
use super::watcher::Watcher;
use crate::admin::proto::event::Kind;
use crate::admin::proto::{CreateTopicRequest, ElectionReason, Event, WatchResponse};
use crate::platform::{clock, random};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

const TOPIC: &str = "demo";
const PARTITIONS: i32 = 6;
const RECORDS_PER_SECOND: u64 = 5_000;
const RECORD_BYTES: usize = 100;
/// Between two small bursts of one partition.
const BURST_EVERY: Duration = Duration::from_millis(12);
const DEADLINE: Duration = Duration::from_secs(30);

/// What the line tells. Pure: times come in from outside.
struct Tally {
    acked: u64,
    consumed: u64,
    acked_before: u64,
    consumed_before: u64,
    /// By partition: when its last ack came.
    last_ack: Vec<Instant>,
    gap: Duration,
    /// By partition: the number that its next record must carry.
    expected: Vec<u64>,
    missing: u64,
    twice: u64,
    elections: u64,
}

impl Tally {
    fn new(partitions: usize, now: Instant) -> Tally {
        Tally {
            acked: 0,
            consumed: 0,
            acked_before: 0,
            consumed_before: 0,
            last_ack: vec![now; partitions],
            gap: Duration::ZERO,
            expected: vec![0; partitions],
            missing: 0,
            twice: 0,
            elections: 0,
        }
    }

    fn acked(&mut self, acked: Acked) {
        self.acked += acked.records;
        let last = &mut self.last_ack[acked.partition];
        self.gap = self.gap.max(acked.at.saturating_duration_since(*last));
        *last = acked.at;
    }

    /// A record of this run with its running number.
    fn consumed(&mut self, partition: usize, number: u64) {
        self.consumed += 1;
        let expected = &mut self.expected[partition];
        if number < *expected {
            self.twice += 1;
        } else {
            self.missing += number - *expected;
            *expected = number + 1;
        }
    }

    /// Counts elections that moved a leader; those of a new topic do not.
    fn told(&mut self, event: &Event) {
        if let Some(Kind::LeaderElected(elected)) = &event.kind
            && elected.topic == TOPIC
            && elected.reason() != ElectionReason::Created
        {
            self.elections += 1;
        }
    }

    /// The line of the second that ends now.
    fn line(&mut self, view: &View, now: Instant) -> String {
        let open = self.last_ack.iter().map(|last| now.saturating_duration_since(*last)).max().unwrap_or_default();
        let gap = self.gap.max(open);
        let mut leaders: BTreeMap<i32, usize> = view.brokers.keys().map(|broker| (*broker, 0)).collect();
        let mut without = 0;
        for partition in &view.topic.partitions {
            match partition.leader {
                Some(leader) => *leaders.entry(leader).or_default() += 1,
                None => without += 1,
            }
        }
        let mut line = format!(
            "in {:>5}/s  out {:>5}/s  lag {}  leaders",
            thousands(self.acked - self.acked_before),
            thousands(self.consumed - self.consumed_before),
            thousands(self.acked.saturating_sub(self.consumed)),
        );
        for (broker, count) in leaders {
            let _ = write!(line, " {broker}:{count}");
        }
        if without > 0 {
            let _ = write!(line, " none:{without}");
        }
        let _ = write!(line, "  elections {}  max ack gap {} ms", self.elections, gap.as_millis());
        if self.missing + self.twice > 0 {
            let _ = write!(line, "  MISSING {}  TWICE {}", self.missing, self.twice);
        }
        self.acked_before = self.acked;
        self.consumed_before = self.consumed;
        self.gap = Duration::ZERO;
        line
    }
}

/// A record's value: the run, so that those of earlier runs are told apart, and the running number.
fn value(run: u64, number: u64) -> Bytes {
    let mut text = format!("{run:016x} {number} ");
    while text.len() < RECORD_BYTES {
        text.push('.');
    }
    Bytes::from(text)
}

/// The running number, if the record is of this run.
fn number(run: u64, value: &[u8]) -> Option<u64> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let of_run = u64::from_str_radix(words.next()?, 16).ok()? == run;
    words.next()?.parse().ok().filter(|_| of_run)
}

async fn create_topic(reach: &Reach) -> anyhow::Result<()> {
    let began = clock::now();
    loop {
        let request = CreateTopicRequest {
            name: TOPIC.to_string(),
            partitions: Some(PARTITIONS),
            ..CreateTopicRequest::default()
        };
        match reach.topics().await?.create(request).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == tonic::Code::AlreadyExists => return Ok(()),
            Err(status) if began.elapsed() > DEADLINE => return Err(reach::refused(&status)),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Puts records on one partition at its share of the rate, and waits where the partition cannot take them.
async fn generate(lane: mpsc::Sender<Outgoing>, run: u64, per_second: u64) {
    let mut ticks = interval(BURST_EVERY);
    // What was missed is not made up for: the rate after a failure is the rate before it.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = clock::now();
    let mut paused = Duration::ZERO;
    let mut sent = 0;
    loop {
        ticks.tick().await;
        let running = begun.elapsed().saturating_sub(paused);
        let due = u64::try_from(running.as_millis()).unwrap_or(u64::MAX).saturating_mul(per_second) / 1_000;
        while sent < due {
            let waiting = clock::now();
            if lane.send(Outgoing { key: None, value: value(run, sent) }).await.is_err() {
                // The producer gave up on the partition, and tells why itself.
                return std::future::pending().await;
            }
            paused += waiting.elapsed();
            sent += 1;
        }
    }
}

/// Loads the cluster until it is dropped; an error is one that no retry heals.
pub async fn run(reach: Reach) -> anyhow::Result<()> {
    create_topic(&reach).await?;
    let metadata = Metadata::open(reach.bootstrap.clone(), TOPIC);
    let partitions = metadata.partitions(DEADLINE).await?;
    let run = random::between(0..u64::MAX);
    let (fetched_out, mut fetched) = mpsc::channel::<Fetched>(64);
    let mut tasks = JoinSet::new();
    for partition in 0..partitions {
        // Resolved before the first record is sent: the count of what is consumed begins with this run.
        let offset = resolve(&metadata, partition, Start::Latest, DEADLINE).await?;
        tasks.spawn(follow(metadata.clone(), partition, offset, fetched_out.clone()));
    }
    let (acked_out, mut acked) = mpsc::channel::<Acked>(1_024);
    let options = Options { acks: Acks::All, linger: Duration::ZERO, deadline: None };
    let producer = Producer::start(&metadata, partitions, options, acked_out).await?;
    let share = RECORDS_PER_SECOND / u64::try_from(partitions).expect("few partitions").max(1);
    for partition in 0..partitions {
        let lane = producer.lane(partition);
        tasks.spawn(async move {
            generate(lane, run, share).await;
            Ok(())
        });
    }
    // Fails as soon as a lane gives up.
    let failed = producer.finish();
    tokio::pin!(failed);
    let mut watcher = Watcher::connect(reach.admin.clone(), None).await?;
    let mut tally = Tally::new(partitions, clock::now());
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            Some(acked) = acked.recv() => tally.acked(acked),
            Some(fetched) = fetched.recv() => {
                for record in &fetched.records {
                    if let Some(number) = record.value.as_deref().and_then(|value| number(run, value)) {
                        tally.consumed(fetched.partition, number);
                    }
                }
            }
            message = watcher.next(|_| ()) => match message {
                Ok(message) => {
                    message.events.iter().for_each(|event| tally.told(event));
                    for line in news(&message) {
                        output::line(format!("{}  {line}", output::time_of_day()))?;
                    }
                }
                Err(_) => watcher.skip_to_now(),
            },
            _ = ticks.tick() => {
                output::line(format!("{}  {}", output::time_of_day(), tally.line(&metadata.view(), clock::now())))?;
            }
            ended = &mut failed => {
                ended?;
                anyhow::bail!("the producer ended");
            }
            Some(ended) = tasks.join_next() => {
                ended??;
                anyhow::bail!("a part of the demo ended");
            }
        }
    }
}

/// What of a message a person wants to see between the lines: nodes and the controller, and elections by number.
fn news(message: &WatchResponse) -> Vec<String> {
    let mut lines: Vec<String> = message
        .events
        .iter()
        .filter(|event| {
            matches!(
                event.kind,
                Some(
                    Kind::BrokerRegistered(_)
                        | Kind::BrokerFenced(_)
                        | Kind::BrokerUnfenced(_)
                        | Kind::BrokerShuttingDown(_)
                        | Kind::ControllerElected(_)
                )
            )
        })
        .map(|event| format!("· {}", events::words(event)))
        .collect();
    let moved = message
        .events
        .iter()
        .filter(|event| {
            matches!(&event.kind, Some(Kind::LeaderElected(elected)) if elected.reason() != ElectionReason::Created)
        })
        .count();
    if moved > 0 {
        lines.push(format!("· {moved} leaders elected"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::client::metadata::{PartitionView, TopicView};
    use super::*;

    fn view(leaders: &[Option<i32>]) -> View {
        let partitions = leaders.iter().map(|leader| PartitionView { leader: *leader, epoch: 1 }).collect();
        View {
            version: 1,
            brokers: BTreeMap::from([(1, "a:1".to_string()), (2, "a:2".to_string())]),
            topic: TopicView { error: 0, partitions },
        }
    }

    #[test]
    fn the_line_tells_rates_lag_leaders_and_the_longest_gap() {
        let start = clock::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut tally = Tally::new(2, start);
        tally.acked(Acked { partition: 0, records: 3_000, at: at(10) });
        tally.acked(Acked { partition: 1, records: 2_000, at: at(995) });
        tally.acked(Acked { partition: 0, records: 1, at: at(990) });
        for number in 0..4 {
            tally.consumed(0, number);
        }
        let line = tally.line(&view(&[Some(1), None]), at(1_000));
        assert_eq!(line, "in 5,001/s  out     4/s  lag 4,997  leaders 1:1 2:0 none:1  elections 0  max ack gap 995 ms");
        let next = tally.line(&view(&[Some(1), Some(2)]), at(2_000));
        assert!(next.starts_with("in     0/s"), "{next}");
        assert!(next.ends_with("max ack gap 1010 ms"), "a gap that is still open counts: {next}");
    }

    #[test]
    fn missing_and_repeated_records_are_counted() {
        let mut tally = Tally::new(1, clock::now());
        for number in [0, 1, 1, 4, 5] {
            tally.consumed(0, number);
        }
        assert_eq!((tally.missing, tally.twice), (2, 1));
        assert!(tally.line(&view(&[Some(1)]), clock::now()).ends_with("MISSING 2  TWICE 1"));
    }

    #[test]
    fn records_of_other_runs_are_not_counted() {
        assert_eq!(number(7, &value(7, 42)), Some(42));
        assert_eq!(number(8, &value(7, 42)), None);
        assert_eq!(number(7, b"something else"), None);
        assert_eq!(value(7, 42).len(), RECORD_BYTES);
    }
}
