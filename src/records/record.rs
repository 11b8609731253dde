//! The records inside a batch, borrowed from its (decompressed) bytes.
//!
//! ```text
//! record: length · attributes i8 · timestamp delta · offset delta · key · value · headers (all lengths zigzag varints)
//! ```

use super::batch::{BatchHeader, HEADER_BYTES, TimestampType};
use super::compression::{self, Compression};
use super::validate::RecordError;
use super::varint;
use crate::ids::Offset;
use std::borrow::Cow;

/// A record with no key, no value and no headers: seven bytes of one each.
pub const RECORD_BYTES_MIN: usize = 7;

/// The records of one batch, decompressed if need be.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    body: Cow<'a, [u8]>,
}

impl<'a> Records<'a> {
    /// Of one whole batch. Decompresses at most `decompressed_max` bytes; borrows where there is nothing to decompress.
    pub fn open(batch: &'a [u8], decompressed_max: usize) -> Result<Self, RecordError> {
        let header = BatchHeader::parse(batch)?;
        let body = batch
            .get(HEADER_BYTES..header.size())
            .ok_or(RecordError::BadLength { length: header.batch_length, available: batch.len() })?;
        let body = match header.compression()? {
            Compression::None => Cow::Borrowed(body),
            codec => Cow::Owned(compression::decompress(codec, body, decompressed_max)?),
        };
        Ok(Self { header, body })
    }

    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records' bytes, decompressed.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// In stored order, as many as the header counts; anything else in the bytes is an error, after which it ends.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter { header: &self.header, rest: &self.body, left: self.header.record_count.max(0), last_delta: -1 }
    }
}

impl<'a> IntoIterator for &'a Records<'_> {
    type Item = Result<Record<'a>, RecordError>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

/// One record. Headers are checked already and read when asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset: Offset,
    /// By the batch's [`TimestampType`]: the client's, or the batch's append time.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// The header's bytes after their count, which were walked once.
    header_bytes: &'a [u8],
    header_count: usize,
}

impl<'a> Record<'a> {
    pub fn header_count(&self) -> usize {
        self.header_count
    }

    /// The headers in order, repeated keys included.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.header_bytes;
        (0..self.header_count).map_while(move |_| take_header(&mut rest))
    }
}

#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    header: &'a BatchHeader,
    rest: &'a [u8],
    left: i32,
    last_delta: i32,
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            if self.rest.is_empty() {
                return None;
            }
            let bytes = std::mem::take(&mut self.rest).len();
            return Some(Err(RecordError::Malformed(format!("{bytes} bytes are left over after the last record"))));
        }
        let number = self.header.record_count - self.left;
        let record = self.take_record();
        if record.is_none() {
            (self.left, self.rest) = (0, &[]);
            let text = format!("record {number} of {} is malformed", self.header.record_count);
            return Some(Err(RecordError::Malformed(text)));
        }
        self.left -= 1;
        record.map(Ok)
    }
}

impl<'a> RecordIter<'a> {
    fn take_record(&mut self) -> Option<Record<'a>> {
        let length = usize::try_from(varint::take_int(&mut self.rest)?).ok()?;
        let (mut bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        let (_attributes, after) = bytes.split_first()?;
        bytes = after;
        let timestamp_delta = varint::take_long(&mut bytes)?;
        let offset_delta = varint::take_int(&mut bytes)?;
        // Deltas rise and stay within the batch, whatever compaction took out.
        if offset_delta <= self.last_delta || offset_delta > self.header.last_offset_delta {
            return None;
        }
        self.last_delta = offset_delta;
        let key = take_bytes(&mut bytes)?;
        let value = take_bytes(&mut bytes)?;
        let header_count = usize::try_from(varint::take_int(&mut bytes)?).ok()?;
        let header_bytes = bytes;
        // Each header takes two bytes at least, so a false count ends at the first that is not there.
        for _ in 0..header_count {
            take_header(&mut bytes)?;
        }
        if !bytes.is_empty() {
            return None;
        }
        let timestamp_ms = match self.header.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp_ms,
            TimestampType::CreateTime => self.header.base_timestamp_ms.checked_add(timestamp_delta)?,
        };
        let offset = self.header.base_offset + i64::from(offset_delta);
        Some(Record { offset, timestamp_ms, key, value, header_bytes, header_count })
    }
}

/// `Some(None)` is null.
fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint::take_int(bytes)? {
        -1 => Some(None),
        length => {
            let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
            *bytes = rest;
            Some(Some(taken))
        }
    }
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Option<(&'a str, Option<&'a [u8]>)> {
    let key = std::str::from_utf8(take_bytes(bytes)??).ok()?;
    Some((key, take_bytes(bytes)?))
}

#[cfg(test)]
mod tests {
    use super::super::batch::{self, APPEND_TIME_BIT};
    use super::*;
    use crate::records::BatchBuilder;
    use proptest::prelude::*;

    #[test]
    fn repeated_header_keys_and_nulls_are_kept() {
        let mut builder = BatchBuilder::new().base_offset(Offset(40));
        builder.append(100, None, Some(b""), &[("a", Some(b"1")), ("a", None), ("", Some(b""))]);
        let bytes = builder.build().unwrap();
        let records = Records::open(&bytes, 0).unwrap();
        let record = records.iter().next().unwrap().unwrap();
        assert_eq!((record.offset, record.timestamp_ms, record.key), (Offset(40), 100, None));
        assert_eq!(record.value, Some(&b""[..]));
        let headers: Vec<_> = record.headers().collect();
        assert_eq!(headers, [("a", Some(&b"1"[..])), ("a", None), ("", Some(&b""[..]))]);
    }

    #[test]
    fn append_time_overrides_the_records_own() {
        let mut builder = BatchBuilder::new();
        builder.append(100, None, None, &[]);
        let mut bytes = builder.build().unwrap().to_vec();
        bytes[22] |= APPEND_TIME_BIT as u8;
        bytes[35..43].copy_from_slice(&777i64.to_be_bytes());
        let records = Records::open(&bytes, 0).unwrap();
        assert_eq!(records.iter().next().unwrap().unwrap().timestamp_ms, 777);
    }

    #[test]
    fn hostile_counts_cost_nothing() {
        let mut builder = BatchBuilder::new();
        builder.append(1, None, None, &[]);
        let mut bytes = builder.build().unwrap().to_vec();
        bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        bytes[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
        let records = Records::open(&bytes, 0).unwrap();
        let found: Vec<_> = records.iter().collect();
        assert_eq!(found.len(), 2);
        assert!(found[1].is_err());
        // A header count of 2³¹ − 1 in the record itself.
        let body = [0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f];
        let mut header = BatchHeader::parse(&bytes).unwrap();
        header.record_count = 1;
        header.batch_length = (49 + 1 + body.len()) as i32;
        let bytes = [&header.encode()[..], &[body.len() as u8 * 2], &body].concat();
        assert!(Records::open(&bytes, 0).unwrap().iter().next().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn damaged_records_end_in_an_error_or_an_end(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            codec in 0u8..5,
        ) {
            let mut builder = BatchBuilder::new().compression(Compression::from_bits(codec).unwrap());
            for i in 0..20 {
                builder.append(i, Some(b"key"), Some(b"value"), &[("h", Some(b"v"))]);
            }
            let mut bytes = builder.build().unwrap().to_vec();
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = batch::compute_crc(&bytes);
            if let Ok(records) = Records::open(&bytes, 10_000) {
                let mut count = 0;
                for record in records.iter() {
                    count += 1;
                    if let Ok(record) = record {
                        prop_assert_eq!(record.headers().count(), record.header_count());
                    }
                }
                prop_assert!(count <= 10_000 / RECORD_BYTES_MIN + 1);
            }
        }
    }
}
