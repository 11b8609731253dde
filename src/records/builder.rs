//! Builds v2 batches: for the topics the broker writes itself, for our own producer and for tests.

use super::batch::{self, APPEND_TIME_BIT, BatchHeader, CONTROL_BIT, HEADER_BYTES, LENGTH_OVERHEAD, TRANSACTIONAL_BIT};
use super::compression::{self, Compression};
use super::validate::RecordError;
use super::varint;
use crate::ids::*;
use bytes::{BufMut, Bytes, BytesMut};

/// Collects records; [`build`](Self::build) makes the batch.
///
/// Invariant: `body` holds `count` records with rising offset deltas up to `last_offset_delta`.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    compression: Compression,
    body: BytesMut,
    count: usize,
    last_offset_delta: i64,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// At base offset 0, with no producer, not compressed.
    pub fn new() -> Self {
        let header = BatchHeader {
            base_offset: Offset::ZERO,
            batch_length: 0,
            leader_epoch: LeaderEpoch::NONE,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: -1,
            base_timestamp_ms: -1,
            max_timestamp_ms: -1,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            record_count: 0,
        };
        Self { header, compression: Compression::None, body: BytesMut::new(), count: 0, last_offset_delta: -1 }
    }

    pub fn compression(mut self, codec: Compression) -> Self {
        self.compression = codec;
        self
    }

    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.header.base_offset = offset;
        self
    }

    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.header.leader_epoch = epoch;
        self
    }

    /// Of an idempotent producer.
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Part of a transaction of the producer named with [`producer`](Self::producer).
    pub fn transactional(mut self) -> Self {
        self.header.attributes |= TRANSACTIONAL_BIT;
        self
    }

    /// Holds markers, not records of clients.
    pub fn control(mut self) -> Self {
        self.header.attributes |= CONTROL_BIT;
        self
    }

    /// All records bear `timestamp_ms`, the broker's own time.
    pub fn log_append_time(mut self, timestamp_ms: i64) -> Self {
        self.header.attributes |= APPEND_TIME_BIT;
        self.header.max_timestamp_ms = timestamp_ms;
        self
    }

    /// Adds a record at the next offset.
    pub fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        let offset_delta = self.last_offset_delta + 1;
        self.append_at(offset_delta, timestamp_ms, key, value, headers.iter().copied());
    }

    /// Adds a record `offset_delta` after the base offset, leaving a gap if need be, as compaction does.
    ///
    /// `offset_delta` must be larger than that of the record before.
    pub fn append_at<'a>(
        &mut self,
        offset_delta: i64,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    ) {
        assert!(offset_delta > self.last_offset_delta, "records are appended in offset order");
        if self.count == 0 {
            self.header.base_timestamp_ms = timestamp_ms;
        }
        if self.header.attributes & APPEND_TIME_BIT == 0 {
            self.header.max_timestamp_ms = self.header.max_timestamp_ms.max(timestamp_ms);
        }
        let timestamp_delta = timestamp_ms.wrapping_sub(self.header.base_timestamp_ms);
        let header_count = headers.clone().count();
        let headers_size: usize =
            headers.clone().map(|(key, value)| size_of(Some(key.as_bytes())) + size_of(value)).sum();
        let size = 1
            + varint::size_of_long(timestamp_delta)
            + varint::size_of_long(offset_delta)
            + size_of(key)
            + size_of(value)
            + varint::size_of_long(header_count as i64)
            + headers_size;
        self.body.reserve(varint::size_of_long(size as i64) + size);
        varint::put_long(&mut self.body, size as i64);
        // Record attributes; none is defined.
        self.body.put_u8(0);
        varint::put_long(&mut self.body, timestamp_delta);
        varint::put_long(&mut self.body, offset_delta);
        put_bytes(&mut self.body, key);
        put_bytes(&mut self.body, value);
        varint::put_long(&mut self.body, header_count as i64);
        for (key, value) in headers {
            put_bytes(&mut self.body, Some(key.as_bytes()));
            put_bytes(&mut self.body, value);
        }
        self.count += 1;
        self.last_offset_delta = offset_delta;
    }

    /// Makes the batch reach `offset_delta` though no record stands there, as compaction must.
    pub fn reach(&mut self, offset_delta: i64) {
        self.last_offset_delta = self.last_offset_delta.max(offset_delta);
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch's size if it were built now without compression.
    pub fn size(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// The batch. Fails with no records in it, or with more than its 32-bit fields can say.
    pub fn build(self) -> Result<Bytes, RecordError> {
        if self.count == 0 {
            return Err(RecordError::Empty);
        }
        let too_many = |_| RecordError::Malformed("the batch is too large for its header".to_string());
        let mut header = self.header;
        header.record_count = i32::try_from(self.count).map_err(too_many)?;
        header.last_offset_delta = i32::try_from(self.last_offset_delta).map_err(too_many)?;
        header.attributes |= i16::from(self.compression.bits());
        match self.compression {
            Compression::None => assemble(header, &self.body),
            codec => assemble(header, &compression::compress(codec, &self.body)?),
        }
    }
}

/// Header and body as one batch, with length and CRC made right.
pub(super) fn assemble(mut header: BatchHeader, body: &[u8]) -> Result<Bytes, RecordError> {
    header.batch_length = i32::try_from(HEADER_BYTES - LENGTH_OVERHEAD + body.len())
        .map_err(|_| RecordError::Malformed("the batch is too large for its header".to_string()))?;
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + body.len());
    bytes.put_slice(&header.encode());
    bytes.put_slice(body);
    let crc = batch::compute_crc(&bytes);
    bytes[batch::CRC_AT..batch::ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    Ok(bytes.freeze())
}

fn put_bytes(body: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put_int(body, -1),
        Some(bytes) => {
            varint::put_long(body, bytes.len() as i64);
            body.put_slice(bytes);
        }
    }
}

fn size_of(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::size_of_long(bytes.len() as i64) + bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Records, ValidBatches};
    use proptest::prelude::*;

    #[test]
    fn a_batch_of_the_protocol_crate_and_ours_are_the_same_bytes() {
        use kafka_protocol::records::{
            Compression as Theirs, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
        };
        let record = |offset: i64, timestamp| Record {
            transactional: false,
            control: false,
            partition_leader_epoch: 6,
            producer_id: 9,
            producer_epoch: 2,
            timestamp_type: TimestampType::Creation,
            offset,
            sequence: 30 + offset as i32,
            timestamp,
            key: Some(Bytes::from_static(b"key")),
            value: Some(Bytes::from_static(b"value")),
            headers: Default::default(),
            delete_horizon: Default::default(),
        };
        let mut theirs = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Theirs::None };
        RecordBatchEncoder::encode(&mut theirs, &[record(0, 100), record(1, 90)], &options).unwrap();
        let mut builder =
            BatchBuilder::new().leader_epoch(LeaderEpoch(6)).producer(ProducerId(9), ProducerEpoch(2), 30);
        builder.append(100, Some(b"key"), Some(b"value"), &[]);
        builder.append(90, Some(b"key"), Some(b"value"), &[]);
        let ours = builder.build().unwrap();
        // The crate takes the least timestamp as the base, we the first; so compare what is read.
        let read = |bytes: &[u8]| {
            let records = Records::open(bytes, 0).unwrap();
            let header = BatchHeader { crc: 0, base_timestamp_ms: 0, batch_length: 0, ..*records.header() };
            let seen: Vec<_> = records
                .iter()
                .map(|r| r.unwrap())
                .map(|r| (r.offset, r.timestamp_ms, r.key.map(<[u8]>::to_vec)))
                .collect();
            (header, seen)
        };
        assert_eq!(read(&theirs), read(&ours));
        ValidBatches::from_client(theirs.freeze()).unwrap();
    }

    #[test]
    fn gaps_and_a_reach_beyond_the_last_record_are_kept() {
        let mut builder = BatchBuilder::new().base_offset(Offset(100));
        builder.append_at(3, 1, Some(b"a"), None, [].into_iter());
        builder.append_at(7, 1, Some(b"b"), None, [].into_iter());
        builder.reach(9);
        let bytes = builder.build().unwrap();
        let records = Records::open(&bytes, 0).unwrap();
        let offsets: Vec<_> = records.iter().map(|record| record.unwrap().offset).collect();
        assert_eq!(offsets, [Offset(103), Offset(107)]);
        assert_eq!(records.header().end_offset(), Offset(110));
        ValidBatches::from_leader(bytes).unwrap();
    }

    #[test]
    fn an_empty_batch_is_refused() {
        assert_eq!(BatchBuilder::new().build(), Err(RecordError::Empty));
    }

    type Part = Option<Vec<u8>>;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            given in proptest::collection::vec(
                (
                    0i64..4_000_000_000_000,
                    any::<Part>(),
                    any::<Part>(),
                    proptest::collection::vec(("[a-zé]{0,5}", any::<Part>()), 0..3),
                ),
                1..30,
            ),
            codec in 0u8..5,
        ) {
            let mut builder = BatchBuilder::new().compression(Compression::from_bits(codec).unwrap());
            for (time, key, value, headers) in &given {
                let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
                builder.append(*time, key.as_deref(), value.as_deref(), &headers);
            }
            let size = builder.size();
            let bytes = builder.build().unwrap();
            if codec == 0 {
                prop_assert_eq!(size, bytes.len());
            }
            let valid = ValidBatches::from_client(bytes.clone()).unwrap();
            prop_assert_eq!(valid.max_timestamp_ms(), given.iter().map(|g| g.0).max().unwrap());
            let records = Records::open(&bytes, size).unwrap();
            let read: Vec<_> = records
                .iter()
                .map(|record| {
                    let record = record.unwrap();
                    let headers = record.headers().map(|(k, v)| (k.to_string(), v.map(<[u8]>::to_vec))).collect();
                    (record.timestamp_ms, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), headers)
                })
                .collect();
            prop_assert_eq!(read, given);
        }
    }
}
