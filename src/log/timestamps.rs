//! Finding a record inside a batch by its timestamp.

use super::partition_log::ReadError;
use crate::ids::*;
use crate::records::{BatchHeader, RecordError, Records};

/// A search decompresses no more than this of one batch; of a larger one it answers the first record.
const DECOMPRESSED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The first record of `batch` (whole, header included) at or after `timestamp_ms` and at or after `from`.
pub(super) fn first_record(
    header: &BatchHeader,
    batch: &[u8],
    timestamp_ms: i64,
    from: Offset,
) -> Result<Option<(Offset, i64)>, ReadError> {
    let damaged =
        |error: RecordError| ReadError::Damaged(format!("the batch at offset {}: {error}", header.base_offset));
    let records = match Records::open(batch, DECOMPRESSED_BYTES_MAX) {
        Ok(records) => records,
        // What a client compressed was never looked into: it may be too large, or not what it claims.
        Err(_) if header.attributes & 7 != 0 => return Ok(whole_batch(header, timestamp_ms, from)),
        Err(error) => return Err(damaged(error)),
    };
    for record in records.iter() {
        // The CRC was right when the batch was appended: this is what the client sent, and no damage.
        let Ok(record) = record else { return Ok(whole_batch(header, timestamp_ms, from)) };
        if record.timestamp_ms >= timestamp_ms && record.offset >= from {
            return Ok(Some((record.offset, record.timestamp_ms)));
        }
    }
    Ok(None)
}

/// The batch's first record stands for the one looked for, which is at or after it: a consumer that seeks there sees a
/// few older records and misses none.
fn whole_batch(header: &BatchHeader, timestamp_ms: i64, from: Offset) -> Option<(Offset, i64)> {
    let there = header.max_timestamp_ms >= timestamp_ms && header.last_offset() >= from;
    there.then(|| (header.base_offset.max(from), header.base_timestamp_ms.max(timestamp_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::Batch;
    use crate::records::batch::HEADER_BYTES;
    use crate::records::{BatchBuilder, Compression};
    use proptest::prelude::*;

    #[test]
    fn the_first_record_at_or_after_a_time_compressed_or_not() {
        for codec in [Compression::None, Compression::Zstd] {
            let mut builder = BatchBuilder::new().base_offset(Offset(100)).compression(codec);
            (0..5).for_each(|i| builder.append(1000 + 10 * i, None, Some(&[0; 500]), &[]));
            let bytes = builder.build().unwrap();
            let header = BatchHeader::parse(&bytes).unwrap();
            let find = |ms, from| first_record(&header, &bytes, ms, Offset(from)).unwrap().map(|(o, t)| (o.0, t));
            assert_eq!(find(0, 0), Some((100, 1000)));
            assert_eq!(find(1011, 0), Some((102, 1020)));
            assert_eq!(find(1040, 0), Some((104, 1040)));
            assert_eq!(find(1041, 0), None);
            assert_eq!(find(1000, 103), Some((103, 1030)));
        }
    }

    #[test]
    fn what_cannot_be_decompressed_is_answered_by_its_first_record() {
        let mut bytes = Batch::at(100).records(5).timestamps(1000, 10).bytes();
        bytes[22] |= 4;
        let header = BatchHeader::parse(&bytes).unwrap();
        let find = |ms, from| first_record(&header, &bytes, ms, Offset(from)).unwrap();
        assert_eq!(find(1011, 0), Some((Offset(100), 1011)));
        assert_eq!(find(1041, 0), None);
    }

    #[test]
    fn a_malformed_record_is_answered_by_the_batchs_first() {
        let mut bytes = Batch::at(100).records(5).timestamps(1000, 10).bytes();
        // The first record's length.
        bytes[HEADER_BYTES] = 1;
        let header = BatchHeader::parse(&bytes).unwrap();
        let find = |ms, from| first_record(&header, &bytes, ms, Offset(from)).unwrap();
        assert_eq!(find(1011, 0), Some((Offset(100), 1011)));
        assert_eq!(find(1011, 103), Some((Offset(103), 1011)));
        assert_eq!(find(1041, 0), None);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = Batch::at(0).records(3).bytes();
            bytes.truncate(HEADER_BYTES);
            bytes.extend(body);
            let header = BatchHeader::parse(&bytes).unwrap();
            let _ = first_record(&header, &bytes, i64::MAX, Offset(0));
        }
    }
}
