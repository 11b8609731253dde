//! OffsetCommit and OffsetFetch requests of version 10, where topics go by id: the codec of the lower versions does
//! not know it. Every length is checked against the bytes that are there before anything is reserved.

use crate::wire::guard::REQUEST_ELEMENTS_MAX;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetFetchRequest};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// The version that this file decodes.
pub const BY_ID: i16 = 10;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetRequestError {
    #[error("the request ends in the middle of a field")]
    Truncated,
    #[error("a length or count is malformed")]
    Length,
    #[error("the request has more than {REQUEST_ELEMENTS_MAX} elements")]
    TooManyElements,
    #[error("a text is not UTF-8")]
    NotText,
    #[error("{0} bytes follow the request")]
    Trailing(usize),
}

pub(super) type Parsed<T> = Result<T, OffsetRequestError>;

/// The body after the header.
pub fn decode_commit_v10(body: &[u8]) -> Parsed<OffsetCommitRequest> {
    let mut reader = Reader::new(body);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(reader.text()?))
        .with_generation_id_or_member_epoch(reader.int32()?)
        .with_member_id(reader.text()?)
        .with_group_instance_id(reader.nullable_text()?)
        .with_topics(reader.array(|reader| {
            let topic = OffsetCommitRequestTopic::default().with_topic_id(reader.uuid()?);
            let partitions = reader.array(|reader| {
                let partition = OffsetCommitRequestPartition::default()
                    .with_partition_index(reader.int32()?)
                    .with_committed_offset(reader.int64()?)
                    .with_committed_leader_epoch(reader.int32()?)
                    .with_committed_metadata(reader.nullable_text()?);
                reader.skip_tags()?;
                Ok(partition)
            })?;
            reader.skip_tags()?;
            Ok(topic.with_partitions(partitions))
        })?);
    reader.finish()?;
    Ok(request)
}

/// The body after the header.
pub fn decode_fetch_v10(body: &[u8]) -> Parsed<OffsetFetchRequest> {
    let mut reader = Reader::new(body);
    let groups = reader.array(|reader| {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(reader.text()?))
            .with_member_id(reader.nullable_text()?)
            .with_member_epoch(reader.int32()?);
        let topics = reader.nullable_array(|reader| {
            let topic = OffsetFetchRequestTopics::default()
                .with_topic_id(reader.uuid()?)
                .with_partition_indexes(reader.array(Reader::int32)?);
            reader.skip_tags()?;
            Ok(topic)
        })?;
        reader.skip_tags()?;
        Ok(group.with_topics(topics))
    })?;
    let request = OffsetFetchRequest::default().with_groups(groups).with_require_stable(reader.take(1)? != [0]);
    reader.finish()?;
    Ok(request)
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Of all arrays together, as in the guard: an element may take far more memory than its bytes here.
    elements_left: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Reader { rest: body, elements_left: REQUEST_ELEMENTS_MAX }
    }

    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(OffsetRequestError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub(super) fn int32(&mut self) -> Parsed<i32> {
        Ok(i32::from_be_bytes(self.bytes()?))
    }

    fn int64(&mut self) -> Parsed<i64> {
        Ok(i64::from_be_bytes(self.bytes()?))
    }

    pub(super) fn uuid(&mut self) -> Parsed<Uuid> {
        Ok(Uuid::from_bytes(self.bytes()?))
    }

    fn varint(&mut self) -> Parsed<usize> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.bytes()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value as usize);
            }
        }
        Err(OffsetRequestError::Length)
    }

    pub(super) fn text(&mut self) -> Parsed<StrBytes> {
        self.nullable_text()?.ok_or(OffsetRequestError::Length)
    }

    /// One more than the length; 0 is null.
    pub(super) fn nullable_text(&mut self) -> Parsed<Option<StrBytes>> {
        let Some(length) = self.varint()?.checked_sub(1) else { return Ok(None) };
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| OffsetRequestError::NotText)?;
        Ok(Some(StrBytes::from_string(text.to_string())))
    }

    pub(super) fn array<T>(&mut self, item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.nullable_array(item)?.ok_or(OffsetRequestError::Length)
    }

    fn nullable_array<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Option<Vec<T>>> {
        let Some(count) = self.varint()?.checked_sub(1) else { return Ok(None) };
        // Each item takes four bytes at least, so a claim beyond that is a lie; and nothing is reserved by it.
        if count > self.rest.len() / 4 {
            return Err(OffsetRequestError::Truncated);
        }
        self.elements_left = self.elements_left.checked_sub(count).ok_or(OffsetRequestError::TooManyElements)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(Some(items))
    }

    pub(super) fn skip_tags(&mut self) -> Parsed<()> {
        for _ in 0..self.varint()? {
            let _tag = self.varint()?;
            let size = self.varint()?;
            self.take(size)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Parsed<()> {
        self.skip_tags()?;
        if self.rest.is_empty() { Ok(()) } else { Err(OffsetRequestError::Trailing(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_commit_is_read() {
        let mut body = b"\x02g\x00\x00\x00\x05\x02m\x00\x02".to_vec();
        body.extend([7u8; 16]);
        body.extend(b"\x02\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x2a\x00\x00\x00\x01\x02x\x00\x00\x00");
        let request = decode_commit_v10(&body).expect("well-formed");
        assert_eq!((request.group_id.as_str(), request.generation_id_or_member_epoch), ("g", 5));
        assert_eq!(request.group_instance_id, None);
        let topic = &request.topics[0];
        assert_eq!(topic.topic_id, Uuid::from_bytes([7; 16]));
        let partition = &topic.partitions[0];
        assert_eq!((partition.partition_index, partition.committed_offset), (3, 42));
        assert_eq!(partition.committed_leader_epoch, 1);
        assert_eq!(partition.committed_metadata.as_deref(), Some("x"));
        assert_eq!(decode_commit_v10(&body[..body.len() - 1]), Err(OffsetRequestError::Truncated));
    }

    #[test]
    fn a_fetch_of_some_and_of_all_topics_is_read() {
        let mut body = b"\x03\x02g\x00\xff\xff\xff\xff\x02".to_vec();
        body.extend([7u8; 16]);
        body.extend(b"\x02\x00\x00\x00\x03\x00\x00\x02h\x02m\x00\x00\x00\x09\x00\x00\x01\x00");
        let request = decode_fetch_v10(&body).expect("well-formed");
        assert!(request.require_stable);
        let topics = request.groups[0].topics.as_ref().expect("some topics");
        assert_eq!(topics[0].partition_indexes, [3]);
        assert_eq!(request.groups[1].topics, None);
        assert_eq!(request.groups[1].member_epoch, 9);
    }

    #[test]
    fn a_huge_count_reserves_nothing() {
        let body = b"\xff\xff\xff\xff\x0f\x00\x00";
        assert_eq!(decode_fetch_v10(body), Err(OffsetRequestError::Truncated));
    }

    #[test]
    fn elements_are_bounded_over_all_arrays() {
        // `count` + 1 as a varint of three bytes.
        let varint = |count: usize| {
            let n = count + 1;
            [(n & 0x7f) as u8 | 0x80, (n >> 7 & 0x7f) as u8 | 0x80, (n >> 14) as u8]
        };
        let body = |partitions: usize| {
            let mut body = b"\x02\x02g\0\xff\xff\xff\xff\x02".to_vec();
            body.extend([7u8; 16]);
            body.extend(varint(partitions));
            body.resize(body.len() + 4 * partitions, 0);
            body.extend([0, 0, 0, 0]);
            body
        };
        // The group and the topic are elements as well.
        let most = decode_fetch_v10(&body(REQUEST_ELEMENTS_MAX - 2)).expect("as many as may be");
        assert_eq!(most.groups.len(), 1);
        assert_eq!(decode_fetch_v10(&body(REQUEST_ELEMENTS_MAX - 1)), Err(OffsetRequestError::TooManyElements));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_commit_v10(&body);
            let _ = decode_fetch_v10(&body);
        }
    }
}
