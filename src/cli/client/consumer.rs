//! Reads partitions: a lane each, which follows the leader and goes on at the offset after the last one passed on.

use super::errors::{self, Verdict};
use super::leader::Leader;
use super::metadata::Metadata;
use crate::platform::clock;
use crate::records::ValidBatches;
use crate::records::record::Records;
use bytes::Bytes;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use kafka_protocol::protocol::StrBytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// The last version that names topics instead of carrying ids.
const FETCH_VERSION: i16 = 12;
const LIST_OFFSETS_VERSION: i16 = 7;
const WAIT_MAX: Duration = Duration::from_millis(500);
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);
const FETCH_BYTES_MAX: i32 = 4 << 20;
/// Bound of one batch, decompressed.
const BATCH_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    At(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

/// What one fetch of one partition gave; `records` may be empty.
#[derive(Debug)]
pub struct Fetched {
    pub partition: usize,
    pub records: Vec<Incoming>,
    /// The offset that comes next.
    pub next: i64,
    pub high_watermark: i64,
}

/// The offset to start at, asked of the leader; retried until `deadline`.
pub async fn resolve(metadata: &Metadata, partition: usize, start: Start, deadline: Duration) -> anyhow::Result<i64> {
    let timestamp = match start {
        Start::At(offset) => return Ok(offset),
        Start::Earliest => -2,
        Start::Latest => -1,
    };
    let mut leader = Leader::new(metadata.clone(), partition);
    let wanted = ListOffsetsPartition::default().with_partition_index(index(partition)).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(name(metadata)).with_partitions(vec![wanted]);
    let request = ListOffsetsRequest::default().with_topics(vec![topic]);
    let began = clock::now();
    loop {
        let answer = leader.call(LIST_OFFSETS_VERSION, &request, CALL_TIMEOUT).await;
        let found = answer.ok().and_then(|answer| {
            let partition = answer.topics.first()?.partitions.first()?;
            Some((partition.error_code, partition.offset))
        });
        let failure = match found {
            None => "no answer from the leader".to_string(),
            Some((code, offset)) => match errors::verdict(code) {
                Verdict::Done => return Ok(offset),
                Verdict::AskMetadata | Verdict::Retry => {
                    let _ = leader.ask_again::<()>().await;
                    errors::words(code)
                }
                Verdict::OutOfRange | Verdict::Final => {
                    anyhow::bail!("partition {partition}: no offsets: {}", errors::words(code))
                }
            },
        };
        if began.elapsed() > deadline {
            anyhow::bail!("partition {partition}: no offsets within {deadline:?}: {failure}");
        }
    }
}

/// Fetches from `offset` on and passes everything to `out` until that is closed. An error is final, such as an offset
/// that is no longer there.
pub async fn follow(
    metadata: Metadata,
    partition: usize,
    offset: i64,
    out: mpsc::Sender<Fetched>,
) -> anyhow::Result<()> {
    let mut leader = Leader::new(metadata, partition);
    let mut position = offset;
    while !out.is_closed() {
        if leader.reach().await.is_err() {
            continue;
        }
        let request = request(&leader, position);
        let Ok(answer) = leader.call(FETCH_VERSION, &request, CALL_TIMEOUT).await else { continue };
        let data = answer.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        let (code, data) = match data {
            Some(data) if answer.error_code == 0 => (data.error_code, Some(data)),
            _ => (answer.error_code, None),
        };
        match errors::verdict(code) {
            Verdict::Done => {}
            Verdict::AskMetadata => {
                let _ = leader.ask_again::<()>().await;
                continue;
            }
            Verdict::Retry => {
                sleep(PAUSE).await;
                continue;
            }
            Verdict::OutOfRange => anyhow::bail!("partition {partition}: offset {position} is not in the log"),
            Verdict::Final => anyhow::bail!("partition {partition}: {}", errors::words(code)),
        }
        let Some(data) = data else { continue };
        let bytes = data.records.unwrap_or_default();
        let (found, next) = read(bytes, position).map_err(|error| error.context(format!("partition {partition}")))?;
        position = next;
        let fetched = Fetched { partition, records: found, next, high_watermark: data.high_watermark };
        if out.send(fetched).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn index(partition: usize) -> i32 {
    i32::try_from(partition).expect("Kafka counts partitions in an i32")
}

fn name(metadata: &Metadata) -> TopicName {
    TopicName(StrBytes::from_string(metadata.topic.to_string()))
}

fn request(leader: &Leader, position: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(index(leader.partition))
        .with_current_leader_epoch(leader.epoch())
        .with_fetch_offset(position)
        .with_partition_max_bytes(FETCH_BYTES_MAX);
    let topic = FetchTopic::default().with_topic(name(&leader.metadata)).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(i32::try_from(WAIT_MAX.as_millis()).expect("half a second"))
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES_MAX)
        .with_isolation_level(1)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// The records at or after `position` (a batch may begin before it), and the offset that comes next: after the last
/// whole batch, which need not hold a record any more. What is there of a batch cut off at the end comes again.
fn read(bytes: Bytes, position: i64) -> anyhow::Result<(Vec<Incoming>, i64)> {
    let mut found = Vec::new();
    let mut next = position;
    if bytes.is_empty() {
        return Ok((found, next));
    }
    for (batch, bytes) in ValidBatches::from_leader(bytes)?.each() {
        next = next.max(batch.header.end_offset().0);
        if batch.header.is_control() {
            continue;
        }
        let owned = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice);
        for record in &Records::open(&bytes, BATCH_BYTES_MAX)? {
            let record = record?;
            if record.offset.0 >= position {
                found.push(Incoming {
                    offset: record.offset.0,
                    timestamp_ms: record.timestamp_ms,
                    key: owned(record.key),
                    value: owned(record.value),
                });
            }
        }
    }
    Ok((found, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Offset;
    use crate::records::builder::BatchBuilder;

    fn batch(base: i64, values: &[&str]) -> Vec<u8> {
        let mut builder = BatchBuilder::new().base_offset(Offset(base));
        for value in values {
            builder.append(1_000, None, Some(value.as_bytes()), &[]);
        }
        builder.build().unwrap().to_vec()
    }

    #[test]
    fn records_before_the_position_and_half_a_batch_at_the_end_are_left_out() {
        let mut bytes = batch(10, &["a", "b", "c"]);
        let second = batch(13, &["d"]);
        bytes.extend(&second[..second.len() - 1]);
        let (found, next) = read(Bytes::from(bytes), 11).unwrap();
        let offsets: Vec<i64> = found.iter().map(|record| record.offset).collect();
        assert_eq!((offsets, next), (vec![11, 12], 13));
        assert_eq!(read(Bytes::new(), 5).unwrap().1, 5);
    }

    #[test]
    fn damaged_batches_are_an_error() {
        let mut bytes = batch(0, &["a"]);
        *bytes.last_mut().unwrap() ^= 1;
        assert!(read(Bytes::from(bytes), 0).is_err());
    }
}
