//! An idempotent librdkafka producer that keeps writing, and the read-back that proves each acked record is there once.

use super::wait_for;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the producer was told: value → (partition, offset), and the longest time without any ack.
#[derive(Default)]
pub struct Acks {
    pub acked: Mutex<BTreeMap<u64, (i32, i64)>>,
    pub failed: Mutex<Vec<String>>,
    last: Mutex<Option<Instant>>,
    longest_gap: Mutex<Duration>,
}

impl Acks {
    pub fn count(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    pub fn longest_gap(&self) -> Duration {
        *self.longest_gap.lock().unwrap()
    }
}

#[derive(Clone)]
struct Context(Arc<Acks>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, value: Box<u64>) {
        match result {
            Ok(message) => {
                self.0.acked.lock().unwrap().insert(*value, (message.partition(), message.offset()));
                let now = Instant::now();
                if let Some(before) = self.0.last.lock().unwrap().replace(now) {
                    let mut longest = self.0.longest_gap.lock().unwrap();
                    *longest = (*longest).max(now - before);
                }
            }
            Err((error, _)) => self.0.failed.lock().unwrap().push(format!("{value}: {error}")),
        }
    }
}

/// Writes 0, 1, 2 … round robin over the partitions until stopped.
pub struct Load {
    pub acks: Arc<Acks>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub fn start(bootstrap: &str, topic: &str, partitions: i32) -> Load {
        Load::start_slow(bootstrap, topic, partitions, Duration::from_millis(1))
    }

    /// Rests for `pause` after every twenty records.
    pub fn start_slow(bootstrap: &str, topic: &str, partitions: i32, pause: Duration) -> Load {
        let mut config = ClientConfig::new();
        config
            .set("acks", "all")
            .set("linger.ms", "1")
            .set("message.timeout.ms", "120000")
            .set("retry.backoff.ms", "20")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .set("topic.metadata.refresh.fast.interval.ms", "50");
        Load::start_with(config, bootstrap, topic, partitions, pause)
    }

    /// As the client comes, but for idempotence.
    pub fn start_with_defaults(bootstrap: &str, topic: &str, partitions: i32) -> Load {
        Load::start_with(ClientConfig::new(), bootstrap, topic, partitions, Duration::from_millis(1))
    }

    fn start_with(mut config: ClientConfig, bootstrap: &str, topic: &str, partitions: i32, pause: Duration) -> Load {
        let acks = Arc::new(Acks::default());
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        config.set("bootstrap.servers", bootstrap).set("enable.idempotence", "true");
        let producer: ThreadedProducer<Context> =
            config.create_with_context(Context(acks.clone())).expect("a producer");
        let (topic, stopped, counter) = (topic.to_string(), stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let mut next = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                let value = next.to_string();
                let partition = i32::try_from(next % u64::try_from(partitions).unwrap()).unwrap();
                let record =
                    BaseRecord::<(), _, _>::with_opaque_to(&topic, Box::new(next)).payload(&value).partition(partition);
                match producer.send(record) {
                    Ok(()) => {
                        next += 1;
                        counter.store(next, Ordering::Relaxed);
                    }
                    Err((KafkaError::MessageProduction(_), _)) => std::thread::park_timeout(Duration::from_millis(5)),
                    Err((error, _)) => panic!("send: {error}"),
                }
                if next.is_multiple_of(20) {
                    std::thread::park_timeout(pause);
                }
            }
            producer.flush(Duration::from_secs(90)).expect("everything sent is acked or failed within 90 s");
        });
        Load { acks, stop, sent, thread: Some(thread) }
    }

    /// Waits until `more` further records are acked.
    pub fn wait_acked(&self, more: usize, deadline: Duration) {
        let target = self.acks.count() + more;
        wait_for(&format!("{more} more acks"), deadline, || (self.acks.count() >= target).then_some(()));
    }

    /// Stops and waits for every outstanding ack. Returns how many were sent.
    pub fn finish(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("finished once").join().expect("the load thread");
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Partition, offset, key, value.
pub type Place = (i32, i64, Option<Vec<u8>>, Vec<u8>);

/// Everything in a topic, read from the start of each partition to its end.
pub fn read_all(bootstrap: &str, topic: &str, partitions: i32) -> Vec<Place> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "read-all")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        .create()
        .expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&assignment).expect("assigned");
    let (mut records, mut ended) = (Vec::new(), vec![false; usize::try_from(partitions).unwrap()]);
    let start = Instant::now();
    while !ended.iter().all(|end| *end) {
        assert!(start.elapsed() < Duration::from_secs(90), "read {} records, ends {ended:?}", records.len());
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => records.push((
                message.partition(),
                message.offset(),
                message.key().map(<[u8]>::to_vec),
                message.payload().unwrap_or_default().to_vec(),
            )),
            Some(Err(KafkaError::PartitionEOF(partition))) => ended[usize::try_from(partition).unwrap()] = true,
            Some(Err(_)) | None => {}
        }
    }
    records
}

/// Every acked value is there once, where the ack said, and each partition's values are in order.
pub fn assert_exactly_once(acks: &Acks, records: &[Place]) {
    let failed = acks.failed.lock().unwrap();
    assert!(failed.is_empty(), "{} deliveries failed, first: {}", failed.len(), failed[0]);
    let mut seen: BTreeMap<u64, Vec<(i32, i64)>> = BTreeMap::new();
    let mut newest: BTreeMap<i32, u64> = BTreeMap::new();
    for (partition, offset, _, value) in records {
        let value: u64 = String::from_utf8_lossy(value).parse().expect("values are numbers");
        seen.entry(value).or_default().push((*partition, *offset));
        if let Some(before) = newest.insert(*partition, value) {
            assert!(before < value, "partition {partition} has {value} at {offset}, after {before}");
        }
    }
    let acked = acks.acked.lock().unwrap();
    assert!(!acked.is_empty(), "nothing was acked at all");
    for (value, place) in acked.iter() {
        match seen.get(value).map(Vec::as_slice) {
            None => panic!("LOST: {value}, acked at {place:?}"),
            Some([found]) => assert_eq!(found, place, "{value} was acked elsewhere"),
            Some(many) => panic!("DUPLICATE: {value} is at {many:?}"),
        }
    }
}
