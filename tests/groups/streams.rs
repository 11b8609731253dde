//! Kafka Streams: a word count at least once, whose state is nowhere but in its changelog topic.

use super::process::Process;
use super::programs;
use super::scenario::{coordinator, wait_in_sync};
use super::support::load::read_all;
use super::support::{Cluster, wait_for};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

const PARTITIONS: i32 = 4;
const SOON: Duration = Duration::from_secs(120);
const APPLICATION: &str = "word-count";

/// Writes lines, and counts their words itself.
struct Lines {
    producer: BaseProducer,
    written: u64,
    words: BTreeMap<String, u64>,
}

impl Lines {
    fn new(cluster: &Cluster) -> Lines {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap())
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "120000")
            .set("reconnect.backoff.max.ms", "300")
            .create()
            .expect("a producer");
        Lines { producer, written: 0, words: BTreeMap::new() }
    }

    /// Writes so many lines of two words, and waits for their acks.
    fn write(&mut self, count: u64, prefix: &str) {
        for _ in 0..count {
            let n = self.written;
            let words = [format!("{prefix}-{}", n % 7), format!("{prefix}-{}", 10 + n % 11)];
            let (key, line) = (n.to_string(), words.join(" "));
            let partition = i32::try_from(n % 4).expect("below four");
            let record = BaseRecord::to("lines").key(&key).payload(&line).partition(partition);
            self.producer.send(record).map_err(|(error, _)| error).expect("queued");
            words.into_iter().for_each(|word| *self.words.entry(word).or_default() += 1);
            self.written += 1;
        }
        self.producer.flush(SOON).expect("acked");
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.expect("there").to_vec()).expect("utf-8")
}

/// Follows the topic of counts.
struct Counts {
    consumer: BaseConsumer,
    latest: BTreeMap<String, u64>,
}

impl Counts {
    fn new(cluster: &Cluster) -> Counts {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap())
            .set("group.id", "counts-reader")
            .set("enable.auto.commit", "false")
            .set("reconnect.backoff.max.ms", "300")
            .set("log_level", "0")
            .create()
            .expect("a consumer");
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset("counts", partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&assignment).expect("assigned");
        Counts { consumer, latest: BTreeMap::new() }
    }

    fn wait_at_least(&mut self, words: &BTreeMap<String, u64>, app: &mut Process, what: &str) {
        wait_for(what, SOON, || {
            app.assert_runs();
            while let Some(polled) = self.consumer.poll(Duration::from_millis(20)) {
                let Ok(message) = polled else { continue };
                let count = text(message.payload()).parse().expect("a count");
                self.latest.insert(text(message.key()), count);
            }
            words.iter().all(|(word, count)| self.latest.get(word).is_some_and(|seen| seen >= count)).then_some(())
        });
        eprintln!("word-count: {what}");
    }
}

fn start(cluster: &Cluster) -> Process {
    let mut command = programs::java("WordCount").expect("it was there a moment ago");
    let state = cluster.dir.join("streams-state");
    command.args([&cluster.bootstrap(), "lines", "counts"]).arg(state);
    Process::start("word-count", command, cluster.dir.join("word-count.log"))
}

fn wait_running(app: &mut Process, times: usize) {
    wait_for("the application runs", SOON, || {
        app.assert_runs();
        (app.log().lines().filter(|line| *line == "state RUNNING").count() >= times).then_some(())
    });
}

#[test]
fn kafka_streams_counts_words_at_least_once_and_restores_its_state_from_the_changelog() {
    if programs::java("WordCount").is_none() {
        return;
    }
    let cluster = Cluster::start("streams", 3, &["group.initial.rebalance.delay.ms=500"]);
    cluster.create_topic("lines", PARTITIONS, 3, &[]);
    cluster.create_topic("counts", PARTITIONS, 3, &[]);
    wait_in_sync(&cluster, "counts");
    let (mut lines, mut counts) = (Lines::new(&cluster), Counts::new(&cluster));
    let mut app = start(&cluster);
    lines.write(500, "first");
    counts.wait_at_least(&lines.words, &mut app, "the first lines are counted");

    app.kill();
    lines.write(500, "first");
    let mut app = start(&cluster);
    lines.write(500, "second");
    counts.wait_at_least(&lines.words, &mut app, "killed and started again, all is counted");

    let victim = coordinator(&cluster, APPLICATION);
    cluster.kill(victim);
    lines.write(500, "second");
    counts.wait_at_least(&lines.words, &mut app, "its coordinator was killed, all is counted");
    cluster.start_node(victim);
    wait_in_sync(&cluster, "counts");
    app.close();

    // Nothing is killed from here on: what is counted now is counted once, on top of what the changelog holds.
    let before = counts.latest.clone();
    let mut app = start(&cluster);
    wait_running(&mut app, 1);
    lines.write(300, "second");
    lines.write(300, "quiet");
    counts.wait_at_least(&lines.words, &mut app, "quiet: all is counted");
    app.close();
    app.complaints().iter().for_each(|line| eprintln!("word-count says: {line}"));
    let mut counts = counts.latest;
    for (_, _, word, count) in read_all(&cluster.bootstrap(), "counts", PARTITIONS) {
        counts.insert(text(word.as_deref()), text(Some(&count)).parse().expect("a count"));
    }
    for (word, count) in &lines.words {
        let seen = counts[word];
        if word.starts_with("quiet") {
            assert_eq!(seen, *count, "{word}");
        } else {
            assert!(seen >= *count && seen >= before[word], "{word}: {seen} of {count}, {} before", before[word]);
        }
    }
    let repeated: u64 = lines.words.iter().map(|(word, count)| counts[word] - count).sum();
    eprintln!("word-count: {} lines, {repeated} words counted twice", lines.written);
}
