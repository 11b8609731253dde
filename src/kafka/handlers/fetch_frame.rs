//! The Fetch answer as a frame in pieces: records are passed on, not copied.
//!
//! Written by hand beside the generated encoder, which copies; later a piece may be a range of a file.

use crate::kafka::versions::FETCH;
use crate::wire::codec::CodecError;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use std::collections::VecDeque;

/// Records up to this size are cheaper to copy than to pass on as a piece of their own.
const COPIED_BYTES_MAX: usize = 4096;

/// A whole response frame, its 4-byte length included.
pub fn encode(correlation_id: i32, version: i16, response: &FetchResponse) -> Result<VecDeque<Bytes>, CodecError> {
    let mut frame = Frame { version, pieces: VecDeque::new(), tail: BytesMut::with_capacity(256) };
    frame.tail.put_i32(correlation_id);
    frame.no_tags();
    frame.response(response);
    frame.finish()
}

struct Frame {
    version: i16,
    pieces: VecDeque<Bytes>,
    /// What comes after the last piece.
    tail: BytesMut,
}

impl Frame {
    fn is_flexible(&self) -> bool {
        self.version >= 12
    }

    fn response(&mut self, response: &FetchResponse) {
        self.tail.put_i32(response.throttle_time_ms);
        if self.version >= 7 {
            self.tail.put_i16(response.error_code);
            self.tail.put_i32(response.session_id);
        }
        self.count(response.responses.len());
        for topic in &response.responses {
            self.topic(topic);
        }
        if self.version >= 16 && !response.node_endpoints.is_empty() {
            let mut nodes = BytesMut::new();
            put_uvarint(&mut nodes, response.node_endpoints.len() + 1);
            response.node_endpoints.iter().for_each(|node| put_node(&mut nodes, node));
            self.tail.put_u8(1);
            put_tag(&mut self.tail, 0, &nodes);
        } else {
            self.no_tags();
        }
    }

    fn topic(&mut self, topic: &FetchableTopicResponse) {
        match self.version {
            13.. => self.tail.put_slice(topic.topic_id.as_bytes()),
            12 => put_compact(&mut self.tail, topic.topic.as_bytes()),
            // A name read from a request is no longer than this length can say.
            _ => {
                self.tail.put_i16(i16::try_from(topic.topic.len()).unwrap_or(i16::MAX));
                self.tail.put_slice(&topic.topic.as_bytes()[..topic.topic.len().min(i16::MAX as usize)]);
            }
        }
        self.count(topic.partitions.len());
        for partition in &topic.partitions {
            self.partition(partition);
        }
        self.no_tags();
    }

    fn partition(&mut self, data: &PartitionData) {
        self.tail.put_i32(data.partition_index);
        self.tail.put_i16(data.error_code);
        self.tail.put_i64(data.high_watermark);
        self.tail.put_i64(data.last_stable_offset);
        if self.version >= 5 {
            self.tail.put_i64(data.log_start_offset);
        }
        match &data.aborted_transactions {
            None if self.is_flexible() => self.tail.put_u8(0),
            None => self.tail.put_i32(-1),
            Some(aborted) => {
                self.count(aborted.len());
                for one in aborted {
                    self.tail.put_i64(one.producer_id.0);
                    self.tail.put_i64(one.first_offset);
                    self.no_tags();
                }
            }
        }
        if self.version >= 11 {
            self.tail.put_i32(data.preferred_read_replica.0);
        }
        self.records(data.records.clone().unwrap_or_default());
        if self.is_flexible() {
            self.partition_tags(data);
        }
    }

    fn partition_tags(&mut self, data: &PartitionData) {
        let diverging = Some(&data.diverging_epoch).filter(|one| **one != EpochEndOffset::default());
        let leader = Some(&data.current_leader).filter(|one| **one != LeaderIdAndEpoch::default());
        self.tail.put_u8(u8::from(diverging.is_some()) + u8::from(leader.is_some()));
        if let Some(diverging) = diverging {
            let mut body = BytesMut::new();
            body.put_i32(diverging.epoch);
            body.put_i64(diverging.end_offset);
            body.put_u8(0);
            put_tag(&mut self.tail, 0, &body);
        }
        if let Some(leader) = leader {
            let mut body = BytesMut::new();
            body.put_i32(leader.leader_id.0);
            body.put_i32(leader.leader_epoch);
            body.put_u8(0);
            put_tag(&mut self.tail, 1, &body);
        }
    }

    fn records(&mut self, records: Bytes) {
        if self.is_flexible() {
            put_uvarint(&mut self.tail, records.len() + 1);
        } else {
            // Bounded by what one fetch may give, far below what the field can say.
            self.tail.put_i32(i32::try_from(records.len()).unwrap_or(i32::MAX));
        }
        if records.len() <= COPIED_BYTES_MAX {
            self.tail.put_slice(&records);
        } else {
            self.pieces.push_back(self.tail.split().freeze());
            self.pieces.push_back(records);
        }
    }

    fn count(&mut self, count: usize) {
        if self.is_flexible() {
            put_uvarint(&mut self.tail, count + 1);
        } else {
            self.tail.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
        }
    }

    fn no_tags(&mut self) {
        if self.is_flexible() {
            self.tail.put_u8(0);
        }
    }

    fn finish(mut self) -> Result<VecDeque<Bytes>, CodecError> {
        self.pieces.push_back(self.tail.freeze());
        let size: usize = self.pieces.iter().map(Bytes::len).sum();
        let length = i32::try_from(size).map_err(|_| CodecError::Encode {
            key: FETCH,
            version: self.version,
            reason: format!("{size} bytes are too many for a frame"),
        })?;
        self.pieces.push_front(Bytes::copy_from_slice(&length.to_be_bytes()));
        Ok(self.pieces)
    }
}

fn put_uvarint(buffer: &mut BytesMut, value: usize) {
    let mut rest = value;
    while rest >= 0x80 {
        buffer.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    buffer.put_u8(rest as u8);
}

fn put_compact(buffer: &mut BytesMut, bytes: &[u8]) {
    put_uvarint(buffer, bytes.len() + 1);
    buffer.put_slice(bytes);
}

fn put_tag(buffer: &mut BytesMut, tag: usize, body: &[u8]) {
    put_uvarint(buffer, tag);
    put_uvarint(buffer, body.len());
    buffer.put_slice(body);
}

fn put_node(buffer: &mut BytesMut, node: &NodeEndpoint) {
    buffer.put_i32(node.node_id.0);
    put_compact(buffer, node.host.as_bytes());
    buffer.put_i32(node.port);
    match &node.rack {
        Some(rack) => put_compact(buffer, rack.as_bytes()),
        None => buffer.put_u8(0),
    }
    buffer.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::names::{text, topic_name};
    use kafka_protocol::messages::fetch_response::AbortedTransaction;
    use proptest::prelude::*;
    use uuid::Uuid;

    #[derive(Clone, Debug)]
    struct Shape {
        records: usize,
        aborted: Option<usize>,
        hinted: bool,
        diverging: bool,
    }

    fn partition(version: i16, index: i32, shape: &Shape) -> PartitionData {
        let mut data = PartitionData::default()
            .with_partition_index(index)
            .with_error_code(3)
            .with_high_watermark(1 << 40)
            .with_last_stable_offset(77)
            .with_aborted_transactions(shape.aborted.map(|count| {
                vec![AbortedTransaction::default().with_producer_id(9.into()).with_first_offset(4); count]
            }))
            .with_records(Some(Bytes::from(vec![index as u8; shape.records])));
        if version >= 5 {
            data.log_start_offset = 12;
        }
        if version >= 12 && shape.diverging {
            data.diverging_epoch = EpochEndOffset::default().with_epoch(3).with_end_offset(9);
        }
        if version >= 16 && shape.hinted {
            data.current_leader = LeaderIdAndEpoch::default().with_leader_id(2.into()).with_leader_epoch(8);
        }
        data
    }

    fn response(version: i16, topics: &[Vec<Shape>], nodes: usize) -> FetchResponse {
        let topics = topics.iter().enumerate().map(|(at, shapes)| {
            let rows = (0..).zip(shapes).map(|(index, shape)| partition(version, index, shape)).collect();
            let topic = FetchableTopicResponse::default().with_partitions(rows);
            if version >= 13 {
                topic.with_topic_id(Uuid::from_u128(at as u128 + 1))
            } else {
                topic.with_topic(topic_name(&"t".repeat(at * 130 + 1)))
            }
        });
        let mut response = FetchResponse::default().with_responses(topics.collect());
        if version >= 7 {
            response.session_id = 99;
            response.error_code = 1;
        }
        if version >= 16 {
            let node = NodeEndpoint::default().with_node_id(1.into()).with_host(text("host")).with_port(9092);
            response.node_endpoints =
                (0..nodes).map(|at| node.clone().with_rack((at % 2 == 0).then(|| text("rack")))).collect();
        }
        response
    }

    fn shape() -> impl Strategy<Value = Shape> {
        (
            prop_oneof![Just(0usize), 1usize..200, 4_090usize..4_200, Just(20_000)],
            any::<Option<bool>>(),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(|(records, aborted, hinted, diverging)| Shape {
                records,
                aborted: aborted.map(usize::from),
                hinted,
                diverging,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_version_is_byte_for_byte_what_the_generated_encoder_writes(
            topics in proptest::collection::vec(proptest::collection::vec(shape(), 0..4), 0..4),
            nodes in 0usize..3,
        ) {
            for version in 4..=18 {
                let response = response(version, &topics, nodes);
                let expected = testing::encodes(FETCH, version, &response);
                let pieces = encode(1, version, &response).unwrap();
                prop_assert_eq!(pieces.iter().flatten().copied().collect::<Vec<u8>>(), expected, "v{}", version);
            }
        }
    }

    #[test]
    fn large_records_are_passed_on_and_small_ones_copied() {
        let shape = |records| Shape { records, aborted: None, hinted: false, diverging: false };
        let response = response(17, &[vec![shape(100), shape(20_000), shape(100)]], 0);
        let pieces = encode(1, 17, &response).unwrap();
        assert_eq!(pieces.len(), 4, "length, head, records, rest");
        let given = response.responses[0].partitions[1].records.as_ref().unwrap();
        assert_eq!(pieces[2].as_ptr(), given.as_ptr());
    }
}
