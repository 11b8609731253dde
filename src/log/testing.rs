//! Batches and logs for this room's tests.

use super::folder::LogFolder;
use super::partition_log::{LogConfig, PartitionLog};
use crate::ids::*;
use crate::records::{BatchAt, BatchHeader, ValidBatches};
use bytes::Bytes;
use uuid::Uuid;

pub(super) fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 1 << 30,
        segment_ms: -1,
        retention_bytes: -1,
        retention_ms: -1,
        compact: false,
        delete: true,
        index_interval_bytes: 4096,
        max_message_bytes: 1 << 24,
        log_append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        producer_id_expiration_ms: 86_400_000,
    }
}

/// The log of the one partition that most tests use.
pub(super) fn open(folder: &LogFolder, config: LogConfig) -> PartitionLog {
    folder.log(TopicPartition::new(TopicId(Uuid::from_u128(1)), 0), "t", config).unwrap()
}

/// An uncompressed batch with records of one value.
#[derive(Clone)]
pub(super) struct Batch {
    base: i64,
    epoch: i32,
    records: i32,
    first_ms: i64,
    step_ms: i64,
    value: Vec<u8>,
    producer: (i64, i16, i32),
    attributes: i16,
}

impl Batch {
    pub fn at(base: i64) -> Batch {
        Batch {
            base,
            epoch: 0,
            records: 1,
            first_ms: 1000,
            step_ms: 1,
            value: b"value".to_vec(),
            producer: (-1, -1, -1),
            attributes: 0,
        }
    }
    pub fn epoch(self, epoch: i32) -> Batch {
        Batch { epoch, ..self }
    }
    pub fn records(self, records: i32) -> Batch {
        Batch { records, ..self }
    }
    pub fn timestamps(self, first_ms: i64, step_ms: i64) -> Batch {
        Batch { first_ms, step_ms, ..self }
    }
    pub fn value(self, value: Vec<u8>) -> Batch {
        Batch { value, ..self }
    }
    pub fn producer(self, id: i64, epoch: i16, sequence: i32) -> Batch {
        Batch { producer: (id, epoch, sequence), ..self }
    }
    pub fn transactional(self) -> Batch {
        Batch { attributes: self.attributes | 0x10, ..self }
    }
    pub fn control(self) -> Batch {
        Batch { attributes: self.attributes | 0x20, ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut records = Vec::new();
        for i in 0..i64::from(self.records) {
            let mut record = vec![0];
            varint(&mut record, i * self.step_ms);
            varint(&mut record, i);
            varint(&mut record, -1);
            varint(&mut record, self.value.len() as i64);
            record.extend_from_slice(&self.value);
            varint(&mut record, 0);
            varint(&mut records, record.len() as i64);
            records.extend(record);
        }
        let mut covered = Vec::new();
        covered.extend_from_slice(&self.attributes.to_be_bytes());
        covered.extend_from_slice(&(self.records - 1).to_be_bytes());
        covered.extend_from_slice(&self.first_ms.to_be_bytes());
        covered.extend_from_slice(&(self.first_ms + i64::from(self.records - 1) * self.step_ms).to_be_bytes());
        covered.extend_from_slice(&self.producer.0.to_be_bytes());
        covered.extend_from_slice(&self.producer.1.to_be_bytes());
        covered.extend_from_slice(&self.producer.2.to_be_bytes());
        covered.extend_from_slice(&self.records.to_be_bytes());
        covered.extend(records);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &covered) as u32;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.base.to_be_bytes());
        bytes.extend_from_slice(&(covered.len() as i32 + 9).to_be_bytes());
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        bytes.push(2);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes.extend(covered);
        bytes
    }
}

fn varint(into: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

/// What validation would make of whole batches one after the other.
pub(super) fn valid(bytes: Vec<u8>) -> ValidBatches {
    ValidBatches { batches: batches_in(&bytes), bytes: Bytes::from(bytes) }
}

/// The batches in bytes that hold nothing else.
pub(super) fn batches_in(bytes: &[u8]) -> Vec<BatchAt> {
    let mut batches = Vec::new();
    let mut position = 0;
    while position < bytes.len() {
        let header = BatchHeader::parse(&bytes[position..]).unwrap();
        let size = header.batch_length as usize + 12;
        assert!(position + size <= bytes.len(), "a partial batch");
        batches.push(BatchAt { header, position, size });
        position += size;
    }
    batches
}
