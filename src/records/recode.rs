//! Batches made anew where a topic asks for it: another codec (`compression.type`), or the broker's time
//! (`message.timestamp.type=LogAppendTime`). Offsets, timestamps and the producer's fields stay.

use super::batch::{self, APPEND_TIME_BIT, ATTRIBUTES_AT, BatchHeader, COMPRESSION_BITS, CRC_AT, MAX_TIMESTAMP_AT};
use super::builder::assemble;
use super::compression::{self, Compression};
use super::record::Records;
use super::validate::{RecordError, ValidBatches};
use bytes::{Bytes, BytesMut};

/// One whole batch with its records under `codec`. Every record is read on the way, so a damaged one is refused.
pub fn recompress(batch: &[u8], codec: Compression, decompressed_max: usize) -> Result<Bytes, RecordError> {
    let records = Records::open(batch, decompressed_max)?;
    for record in records.iter() {
        record?;
    }
    let mut header = *records.header();
    header.attributes = header.attributes & !COMPRESSION_BITS | i16::from(codec.bits());
    match codec {
        Compression::None => assemble(header, records.body()),
        codec => assemble(header, &compression::compress(codec, records.body())?),
    }
}

/// One whole batch with `timestamp_ms` as the append time of all its records.
pub fn with_append_time(batch: &[u8], timestamp_ms: i64) -> Result<Bytes, RecordError> {
    let header = BatchHeader::parse(batch)?;
    let whole = batch
        .get(..header.size())
        .ok_or(RecordError::BadLength { length: header.batch_length, available: batch.len() })?;
    let mut bytes = BytesMut::from(whole);
    stamp(&mut bytes, &header, timestamp_ms);
    Ok(bytes.freeze())
}

fn stamp(batch: &mut [u8], header: &BatchHeader, timestamp_ms: i64) {
    let attributes = header.attributes | APPEND_TIME_BIT;
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp_ms.to_be_bytes());
    let crc = batch::compute_crc(batch);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

impl ValidBatches {
    /// All batches under `codec`; those that are already are copied as they stand.
    pub fn recompressed(&self, codec: Compression, decompressed_max: usize) -> Result<ValidBatches, RecordError> {
        if self.headers().all(|header| header.compression() == Ok(codec)) {
            return Ok(self.clone());
        }
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        for at in &self.batches {
            let batch = at.of(&self.bytes);
            if at.header.compression()? == codec {
                bytes.extend_from_slice(batch);
            } else {
                bytes.extend_from_slice(&recompress(batch, codec, decompressed_max)?);
            }
        }
        Self::relisted(bytes.freeze())
    }

    /// All batches with `timestamp_ms` as their append time: one copy of the bytes.
    pub fn with_append_time(&self, timestamp_ms: i64) -> Result<ValidBatches, RecordError> {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        for at in &self.batches {
            stamp(&mut bytes[at.position..at.position + at.size], &at.header, timestamp_ms);
        }
        Self::relisted(bytes.freeze())
    }

    /// Of bytes just made here out of valid batches, whose CRCs need no second look.
    fn relisted(bytes: Bytes) -> Result<ValidBatches, RecordError> {
        let batches = batch::batches(&bytes).collect::<Result<Vec<_>, _>>()?;
        Ok(ValidBatches { bytes, batches })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use crate::records::BatchBuilder;

    fn some_batches(codec: Compression) -> ValidBatches {
        let mut builder =
            BatchBuilder::new().compression(codec).producer(ProducerId(7), ProducerEpoch(1), 5).transactional();
        for i in 0..50 {
            builder.append(1000 + i, Some(b"key"), Some(b"value value value"), &[("h", None), ("h", Some(b"x"))]);
        }
        let one = builder.build().unwrap();
        ValidBatches::from_client(Bytes::from([&one[..], &one].concat())).unwrap()
    }

    fn read(valid: &ValidBatches) -> Vec<String> {
        let mut seen = Vec::new();
        for (_, batch) in valid.each() {
            let records = Records::open(&batch, 100_000).unwrap();
            for record in records.iter() {
                let record = record.unwrap();
                let headers: Vec<_> = record.headers().collect();
                seen.push(format!(
                    "{} {} {:?} {:?} {headers:?}",
                    record.offset, record.timestamp_ms, record.key, record.value
                ));
            }
        }
        seen
    }

    #[test]
    fn from_any_codec_to_any_other_the_records_stay() {
        for from in Compression::ALL {
            let before = some_batches(from);
            for to in Compression::ALL {
                let after = before.recompressed(to, 100_000).unwrap();
                let checked = ValidBatches::from_client(after.bytes.clone()).unwrap();
                assert_eq!(checked.batches, after.batches);
                assert_eq!(read(&after), read(&before), "{from} to {to}");
                for (old, new) in before.headers().zip(after.headers()) {
                    assert_eq!(new.compression(), Ok(to));
                    let same = BatchHeader {
                        batch_length: old.batch_length,
                        crc: old.crc,
                        attributes: old.attributes,
                        ..*new
                    };
                    assert_eq!(same, *old);
                    assert!(new.is_transactional());
                }
            }
        }
    }

    #[test]
    fn a_bound_too_small_is_refused() {
        let before = some_batches(Compression::Zstd);
        assert_eq!(before.recompressed(Compression::None, 100).unwrap_err(), RecordError::TooLarge(100));
    }

    #[test]
    fn the_append_time_is_in_every_record_and_the_crc_holds() {
        let stamped = some_batches(Compression::Lz4).with_append_time(5_000).unwrap();
        ValidBatches::from_broker(stamped.bytes.clone()).unwrap();
        assert_eq!(stamped.max_timestamp_ms(), 5_000);
        let batch = some_batches(Compression::None).each().next().unwrap().1;
        let stamped = with_append_time(&batch, 6_000).unwrap();
        assert_eq!(batch::compute_crc(&stamped), BatchHeader::parse(&stamped).unwrap().crc);
        assert!(Records::open(&stamped, 0).unwrap().iter().all(|record| record.unwrap().timestamp_ms == 6_000));
    }
}
