//! Finding a record inside a batch by its timestamp.

use super::partition_log::ReadError;
use super::walk::HeaderFacts;
use crate::ids::*;
use crate::records::batch::{BatchHeader, HEADER_BYTES};
use bytes::Bytes;

/// The first record of `batch` (whole, header included) at or after `timestamp_ms` and at or after `from`.
pub(super) fn first_record(
    header: &BatchHeader,
    batch: &Bytes,
    timestamp_ms: i64,
    from: Offset,
) -> Result<Option<(Offset, i64)>, ReadError> {
    if header.is_compressed() {
        return Ok(whole_batch(header, timestamp_ms, from));
    }
    let mut records = &batch[HEADER_BYTES.min(batch.len())..];
    for _ in 0..header.record_count.max(0) {
        let Some((record_ms, offset, rest)) = next_record(header, records) else {
            return Err(ReadError::Damaged(format!("a record of the batch at {} is cut off", header.base_offset)));
        };
        if record_ms >= timestamp_ms && offset >= from {
            return Ok(Some((offset, record_ms)));
        }
        records = rest;
    }
    Ok(None)
}

/// Of a compressed batch the header alone is read: the batch's first record stands for the one looked for, which is at
/// or after it. A consumer that seeks there sees a few older records and misses none.
fn whole_batch(header: &BatchHeader, timestamp_ms: i64, from: Offset) -> Option<(Offset, i64)> {
    if header.max_timestamp_ms < timestamp_ms || header.last_offset() < from {
        return None;
    }
    let shown_ms =
        if header.base_timestamp_ms >= timestamp_ms { header.base_timestamp_ms } else { header.max_timestamp_ms };
    Some((header.base_offset.max(from), shown_ms))
}

/// Timestamp and offset of the record at the start of `bytes`, and what follows it.
fn next_record<'a>(header: &BatchHeader, bytes: &'a [u8]) -> Option<(i64, Offset, &'a [u8])> {
    let (length, body) = varint(bytes)?;
    let length = usize::try_from(length).ok()?;
    let (record, rest) = (body.get(..length)?, body.get(length..)?);
    // One byte of attributes, then the deltas.
    let (timestamp_delta, after) = varint(record.get(1..)?)?;
    let (offset_delta, _) = varint(after)?;
    let record_ms = header.base_timestamp_ms.saturating_add(timestamp_delta);
    Some((record_ms, Offset(header.base_offset.0.saturating_add(offset_delta)), rest))
}

/// A zigzag variable-length number and what follows it.
fn varint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let number = (value >> 1) as i64 ^ -((value & 1) as i64);
            return Some((number, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::Batch;
    use proptest::prelude::*;

    #[test]
    fn the_first_record_at_or_after_a_time() {
        let bytes = Bytes::from(Batch::at(100).records(5).timestamps(1000, 10).bytes());
        let header = BatchHeader::parse(&bytes).unwrap();
        let find = |ms, from| first_record(&header, &bytes, ms, Offset(from)).unwrap().map(|(o, t)| (o.0, t));
        assert_eq!(find(0, 0), Some((100, 1000)));
        assert_eq!(find(1011, 0), Some((102, 1020)));
        assert_eq!(find(1040, 0), Some((104, 1040)));
        assert_eq!(find(1041, 0), None);
        assert_eq!(find(1000, 103), Some((103, 1030)));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = Batch::at(0).records(3).bytes();
            bytes.truncate(HEADER_BYTES);
            bytes.extend(body);
            let header = BatchHeader::parse(&bytes).unwrap();
            let _ = first_record(&header, &Bytes::from(bytes), i64::MAX, Offset(0));
        }
    }
}
