//! An idempotent producer: a lane per partition with one batch in flight, retried until it is placed once.

use super::errors::{self, Verdict};
use super::leader::Leader;
use super::metadata::{CLIENT_ID, Metadata};
use super::partitioner::partition_of;
use crate::ids;
use crate::platform::clock;
use crate::records::RecordError;
use crate::records::batch::sequence_after;
use crate::records::builder::BatchBuilder;
use crate::wire::client::Connection;
use bytes::Bytes;
use futures::future::try_join_all;
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProducerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const PRODUCE_VERSION: i16 = 9;
const INIT_VERSION: i16 = 4;
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// Bounds of one batch.
const BATCH_RECORDS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Bound of a lane's queue; a sender waits beyond it.
const QUEUED_MAX: usize = 4_096;

/// What the broker has done when it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Acks {
    /// Nothing: not even an answer is awaited
    #[value(name = "0")]
    None,
    /// The leader has it
    #[value(name = "1")]
    Leader,
    /// All in-sync replicas have it; retries place it once
    #[value(name = "all", alias = "-1")]
    All,
}

impl Acks {
    fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Outgoing {
    pub key: Option<Bytes>,
    pub value: Bytes,
}

/// Some records of a partition were acked (for acks=0: sent).
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    pub partition: usize,
    pub records: u64,
    pub at: Instant,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub acks: Acks,
    /// How long a lane waits for more records once it has one.
    pub linger: Duration,
    /// Give up on a batch after this long; `None`: never.
    pub deadline: Option<Duration>,
}

/// Stamped into batches so that the broker knows a retry (KIP-98); −1 of each means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    id: i64,
    epoch: i16,
}

pub struct Producer {
    lanes: Vec<mpsc::Sender<Outgoing>>,
    tasks: Vec<JoinHandle<anyhow::Result<u64>>>,
    /// Records without a key go round, some at a time so that batches form.
    turn: usize,
}

impl Producer {
    /// Needs metadata that knows the topic. `acked` is told of every batch.
    pub async fn start(
        metadata: &Metadata,
        partitions: usize,
        options: Options,
        acked: mpsc::Sender<Acked>,
    ) -> anyhow::Result<Producer> {
        let identity = match options.acks {
            Acks::All => Some(identity(metadata, options.deadline).await?),
            Acks::None | Acks::Leader => None,
        };
        let (lanes, tasks) = (0..partitions)
            .map(|partition| {
                let (sender, inbox) = mpsc::channel(QUEUED_MAX);
                let lane = Lane {
                    leader: Leader::new(metadata.clone(), partition),
                    options: options.clone(),
                    identity,
                    sequence: 0,
                    acked: acked.clone(),
                };
                (sender, tokio::spawn(lane.run(inbox)))
            })
            .unzip();
        Ok(Producer { lanes, tasks, turn: 0 })
    }

    /// The queue of one partition, for a caller that chooses itself.
    pub fn lane(&self, partition: usize) -> mpsc::Sender<Outgoing> {
        self.lanes[partition].clone()
    }

    /// Queues a record on the partition that Kafka's default partitioner would choose for its key. Waits while that
    /// partition's queue is full; false once the lane has given up (then [`finish`](Self::finish) says why).
    pub async fn send(&mut self, record: Outgoing) -> bool {
        const IN_A_ROW: usize = 16;
        let partition = match &record.key {
            Some(key) => partition_of(key, self.lanes.len()),
            None => {
                self.turn += 1;
                self.turn / IN_A_ROW % self.lanes.len()
            }
        };
        self.lanes[partition].send(record).await.is_ok()
    }

    /// Waits until all that was queued is placed, and gives how many records were; fails as soon as one lane does.
    pub async fn finish(self) -> anyhow::Result<u64> {
        drop(self.lanes);
        let lanes = self.tasks.into_iter().map(|task| async { task.await? });
        Ok(try_join_all(lanes).await?.into_iter().sum())
    }
}

/// Any broker hands out producer ids.
async fn identity(metadata: &Metadata, deadline: Option<Duration>) -> anyhow::Result<Identity> {
    let began = clock::now();
    let mut turn = 0;
    loop {
        let view = metadata.view();
        let brokers: Vec<&String> = view.brokers.values().collect();
        let failure = match brokers.get(turn % brokers.len().max(1)) {
            None => "no broker is known".to_string(),
            Some(address) => match init(address).await {
                Ok((code, identity)) => match errors::verdict(code) {
                    Verdict::Done => return Ok(identity),
                    Verdict::Retry | Verdict::AskMetadata => errors::words(code),
                    Verdict::Final | Verdict::OutOfRange => {
                        anyhow::bail!("no producer id: {}", errors::words(code))
                    }
                },
                Err(error) => error,
            },
        };
        if deadline.is_some_and(|deadline| began.elapsed() > deadline) {
            anyhow::bail!("no producer id within {:?}: {failure}", began.elapsed());
        }
        turn += 1;
        metadata.refresh(view.version).await;
        sleep(PAUSE).await;
    }
}

async fn init(address: &str) -> Result<(i16, Identity), String> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let called = async {
        let mut connection = Connection::open(address, CLIENT_ID, CALL_TIMEOUT).await?;
        connection.call(INIT_VERSION, &request, CALL_TIMEOUT).await
    };
    let answer = called.await.map_err(|error| error.to_string())?;
    Ok((answer.error_code, Identity { id: answer.producer_id.0, epoch: answer.producer_epoch }))
}

/// One partition's batches, in order.
///
/// Invariant: `sequence` is the first of the next batch; a batch keeps its bytes, and so its sequence, through retries.
struct Lane {
    leader: Leader,
    options: Options,
    identity: Option<Identity>,
    sequence: i32,
    acked: mpsc::Sender<Acked>,
}

impl Lane {
    async fn run(mut self, mut inbox: mpsc::Receiver<Outgoing>) -> anyhow::Result<u64> {
        let mut placed = 0;
        while let Some(first) = inbox.recv().await {
            if !self.options.linger.is_zero() {
                sleep(self.options.linger).await;
            }
            let mut bytes = first.value.len();
            let mut records = vec![first];
            while records.len() < BATCH_RECORDS_MAX && bytes < BATCH_BYTES_MAX {
                let Ok(next) = inbox.try_recv() else { break };
                bytes += next.value.len();
                records.push(next);
            }
            let count = u64::try_from(records.len()).expect("a batch is small");
            self.place(&records).await?;
            placed += count;
            let acked = Acked { partition: self.leader.partition, records: count, at: clock::now() };
            // Nobody may care to be told.
            let _ = self.acked.send(acked).await;
        }
        Ok(placed)
    }

    async fn place(&mut self, records: &[Outgoing]) -> anyhow::Result<()> {
        let batch = batch(records, self.identity.map(|identity| (identity, self.sequence)), clock::wall_ms())?;
        let request = self.request(batch);
        let began = clock::now();
        loop {
            let outcome = self.attempt(&request).await;
            let failure = match outcome {
                None => "no answer from the leader".to_string(),
                Some(code) => match errors::verdict(code) {
                    Verdict::Done => {
                        let count = i32::try_from(records.len()).expect("a batch is small");
                        self.sequence = sequence_after(self.sequence, count);
                        return Ok(());
                    }
                    Verdict::AskMetadata => {
                        let _ = self.leader.ask_again::<()>().await;
                        errors::words(code)
                    }
                    Verdict::Retry => {
                        sleep(PAUSE).await;
                        errors::words(code)
                    }
                    Verdict::Final | Verdict::OutOfRange => {
                        anyhow::bail!("partition {}: {}", self.leader.partition, errors::words(code))
                    }
                },
            };
            if self.options.deadline.is_some_and(|deadline| began.elapsed() > deadline) {
                anyhow::bail!(
                    "partition {}: not placed within {:?}: {failure}",
                    self.leader.partition,
                    began.elapsed()
                );
            }
        }
    }

    /// One try: the answer's error code.
    async fn attempt(&mut self, request: &ProduceRequest) -> Option<i16> {
        if self.options.acks == Acks::None {
            self.leader.send(PRODUCE_VERSION, request, CALL_TIMEOUT).await.ok()?;
            return Some(0);
        }
        let answer = self.leader.call(PRODUCE_VERSION, request, CALL_TIMEOUT).await.ok()?;
        Some(answer.responses.first()?.partition_responses.first()?.error_code)
    }

    fn request(&self, batch: Bytes) -> ProduceRequest {
        let partition = i32::try_from(self.leader.partition).expect("Kafka counts partitions in an i32");
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let name = TopicName(StrBytes::from_string(self.leader.metadata.topic.to_string()));
        ProduceRequest::default()
            .with_acks(self.options.acks.code())
            .with_timeout_ms(i32::try_from(CALL_TIMEOUT.as_millis()).expect("some seconds"))
            .with_topic_data(vec![TopicProduceData::default().with_name(name).with_partition_data(vec![data])])
    }
}

/// One batch, stamped with the producer's identity and its first sequence.
fn batch(records: &[Outgoing], stamp: Option<(Identity, i32)>, now_ms: i64) -> Result<Bytes, RecordError> {
    let mut builder = BatchBuilder::new();
    if let Some((identity, sequence)) = stamp {
        builder = builder.producer(ids::ProducerId(identity.id), ids::ProducerEpoch(identity.epoch), sequence);
    }
    for record in records {
        builder.append(now_ms, record.key.as_deref(), Some(&record.value), &[]);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::ValidBatches;

    #[test]
    fn a_stamped_batch_is_valid_and_carries_identity_and_sequence() {
        let record = |value: &'static str| Outgoing { key: None, value: Bytes::from_static(value.as_bytes()) };
        let identity = Identity { id: 4_711, epoch: 3 };
        let bytes = batch(&[record("a"), record("b")], Some((identity, 17)), 1_000).unwrap();
        let checked = ValidBatches::from_client(bytes).unwrap();
        let header = checked.batches[0].header;
        assert_eq!((header.producer_id.0, header.producer_epoch.0, header.base_sequence), (4_711, 3, 17));
        assert_eq!(header.record_count, 2);
    }
}
