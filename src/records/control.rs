//! Control records: the markers that end a transaction in a partition (KIP-98).

use super::builder::BatchBuilder;
use super::record::{Record, Records};
use super::validate::RecordError;
use crate::ids::*;
use bytes::Bytes;

const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Abort,
    Commit,
}

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    pub outcome: Outcome,
    /// Fences an older transaction coordinator.
    pub coordinator_epoch: i32,
}

/// A batch of one record that ends the producer's transaction here.
pub fn marker_batch(
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    marker: Marker,
    timestamp_ms: i64,
) -> Result<Bytes, RecordError> {
    let kind = match marker.outcome {
        Outcome::Abort => ABORT,
        Outcome::Commit => COMMIT,
    };
    let key = [VERSION.to_be_bytes(), kind.to_be_bytes()].concat();
    let value = [&VERSION.to_be_bytes()[..], &marker.coordinator_epoch.to_be_bytes()].concat();
    let mut builder = BatchBuilder::new().producer(producer_id, producer_epoch, -1).transactional().control();
    builder.append(timestamp_ms, Some(&key), Some(&value), &[]);
    builder.build()
}

/// The marker in a control batch; `None` for control records of a kind that ends no transaction.
pub fn decode_batch(batch: &[u8], decompressed_max: usize) -> Result<Option<Marker>, RecordError> {
    let records = Records::open(batch, decompressed_max)?;
    if !records.header().is_control() {
        return Err(RecordError::Malformed("the batch holds no control record".to_string()));
    }
    match records.iter().next() {
        Some(record) => decode(&record?),
        None => Err(RecordError::Empty),
    }
}

/// The marker in one record of a control batch. Newer versions may only add to its end.
pub fn decode(record: &Record<'_>) -> Result<Option<Marker>, RecordError> {
    let malformed = |part: &str| RecordError::Malformed(format!("the {part} of a control record is malformed"));
    let key = record.key.and_then(|key| key.first_chunk::<4>()).ok_or_else(|| malformed("key"))?;
    let [version_high, version_low, kind_high, kind_low] = *key;
    if i16::from_be_bytes([version_high, version_low]) < 0 {
        return Err(malformed("version"));
    }
    let outcome = match i16::from_be_bytes([kind_high, kind_low]) {
        ABORT => Outcome::Abort,
        COMMIT => Outcome::Commit,
        _ => return Ok(None),
    };
    let value = record.value.and_then(|value| value.first_chunk::<6>()).ok_or_else(|| malformed("value"))?;
    let [_, _, a, b, c, d] = *value;
    Ok(Some(Marker { outcome, coordinator_epoch: i32::from_be_bytes([a, b, c, d]) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchHeader, ValidBatches};

    #[test]
    fn markers_survive_and_only_the_broker_may_write_them() {
        for outcome in [Outcome::Abort, Outcome::Commit] {
            let marker = Marker { outcome, coordinator_epoch: 17 };
            let bytes = marker_batch(ProducerId(3), ProducerEpoch(2), marker, 1000).unwrap();
            let header = BatchHeader::parse(&bytes).unwrap();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(3), ProducerEpoch(2)));
            assert_eq!(decode_batch(&bytes, 100), Ok(Some(marker)));
            ValidBatches::from_broker(bytes.clone()).unwrap();
            ValidBatches::from_leader(bytes.clone()).unwrap();
            assert!(ValidBatches::from_client(bytes).is_err());
        }
    }

    #[test]
    fn a_strange_kind_is_no_marker_and_a_short_key_is_an_error() {
        let batch = |key: &[u8]| {
            let mut builder = BatchBuilder::new().control();
            builder.append(1, Some(key), Some(&[0; 6]), &[]);
            builder.build().unwrap()
        };
        assert_eq!(decode_batch(&batch(&[0, 0, 0, 9]), 100), Ok(None));
        assert!(decode_batch(&batch(&[0, 0]), 100).is_err());
        let mut plain = BatchBuilder::new();
        plain.append(1, Some(&[0, 0, 0, 1]), None, &[]);
        assert!(decode_batch(&plain.build().unwrap(), 100).is_err());
    }
}
