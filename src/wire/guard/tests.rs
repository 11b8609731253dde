//! The table against the decoder it guards: bodies made from the table must decode to their last byte, what the
//! encoder makes must pass the walk, and nothing that passes may harm the decoder.

use super::schema::{Api, Field, Kind};
use super::*;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, Message, Request};
use proptest::prelude::*;

/// Runs `$check::<Request>(api)` for each API in the tables, and fails if a table has one that is not listed.
macro_rules! for_each_api {
    ($check:ident $(, $argument:expr)*) => {{
        let mut keys = Vec::new();
        for_each_api!(@list $check, keys, [$($argument),*],
            ProduceRequest, FetchRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
            FindCoordinatorRequest, JoinGroupRequest, HeartbeatRequest, LeaveGroupRequest, SyncGroupRequest,
            DescribeGroupsRequest, ListGroupsRequest, ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
            InitProducerIdRequest, OffsetForLeaderEpochRequest, DescribeConfigsRequest, AlterConfigsRequest,
            DescribeLogDirsRequest, CreatePartitionsRequest, DeleteGroupsRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest,
            AlterPartitionReassignmentsRequest, ListPartitionReassignmentsRequest, OffsetDeleteRequest,
            DescribeQuorumRequest, DescribeClusterRequest, UnregisterBrokerRequest, ConsumerGroupHeartbeatRequest,
            ConsumerGroupDescribeRequest, DescribeTopicPartitionsRequest,
            AddRaftVoterRequest, RemoveRaftVoterRequest);
        for table in [requests::REQUESTS, responses::RESPONSES] {
            assert_eq!(table.iter().map(|api| api.key).collect::<Vec<_>>(), keys);
        }
    }};
    (@list $check:ident, $keys:ident, $arguments:tt, $($request:ty),*) => {
        $($keys.push(<$request>::KEY); for_each_api!(@call $check, $request, $arguments);)*
    };
    (@call $check:ident, $request:ty, [$($argument:expr),*]) => { $check::<$request>($($argument),*) };
}

/// Few good numbers from one seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Writes a random valid body by the table.
struct Maker<'a> {
    version: i16,
    flexible: bool,
    chance: &'a mut Chance,
}

impl Maker<'_> {
    fn fields(&mut self, fields: &'static [Field], out: &mut BytesMut) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.is_in(version)) {
            self.value(field.kind, out);
        }
        if !self.flexible {
            return;
        }
        let mut tags = Vec::new();
        for field in fields.iter().filter(|field| field.is_in(version)) {
            if let Some(tag) = field.tag
                && self.chance.below(2) == 0
            {
                let mut value = BytesMut::new();
                self.value(field.kind, &mut value);
                tags.push((tag, value));
            }
        }
        if self.chance.below(3) == 0 {
            tags.push((1000, BytesMut::from(&b"unknown"[..])));
        }
        put_varint(out, tags.len() as u32);
        tags.sort_by_key(|(tag, _)| *tag);
        for (tag, value) in tags {
            put_varint(out, tag);
            put_varint(out, value.len() as u32);
            out.put_slice(&value);
        }
    }

    fn value(&mut self, kind: Kind, out: &mut BytesMut) {
        let count = self.chance.below(4) as usize;
        match kind {
            Kind::Fixed(bytes) => self.filler(bytes, out),
            Kind::Text => self.text(out),
            Kind::Blob => {
                self.length(count * 7, out);
                self.filler(count * 7, out);
            }
            Kind::Fixeds(bytes) => {
                self.length(count, out);
                self.filler(count * bytes, out);
            }
            Kind::Texts => {
                self.length(count, out);
                (0..count).for_each(|_| self.text(out));
            }
            Kind::Structs(fields) => {
                self.length(count, out);
                (0..count).for_each(|_| self.fields(fields, out));
            }
            Kind::One(fields) => self.fields(fields, out),
            Kind::Optional(fields) => {
                let present = self.chance.below(2) == 0;
                out.put_i8(if present { 1 } else { -1 });
                if present {
                    self.fields(fields, out);
                }
            }
        }
    }

    fn text(&mut self, out: &mut BytesMut) {
        let length = self.chance.below(9) as usize;
        if self.flexible {
            put_varint(out, length as u32 + 1)
        } else {
            out.put_i16(length as i16)
        }
        out.put_bytes(b'x', length);
    }

    fn length(&mut self, length: usize, out: &mut BytesMut) {
        if self.flexible { put_varint(out, length as u32 + 1) } else { out.put_i32(length as i32) }
    }

    fn filler(&mut self, bytes: usize, out: &mut BytesMut) {
        (0..bytes).for_each(|_| out.put_u8(self.chance.below(256) as u8));
    }
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn made(api: &'static Api, version: i16, seed: u64) -> Bytes {
    let mut out = BytesMut::new();
    let mut chance = Chance(seed | 1);
    Maker { version, flexible: api.is_flexible(version), chance: &mut chance }.fields(api.fields, &mut out);
    out.freeze()
}

fn encoded<M: Encodable>(message: &M, version: i16) -> Option<Bytes> {
    let mut out = BytesMut::new();
    message.encode(&mut out, version).ok()?;
    Some(out.freeze())
}

fn ranges_agree<T: Request>() {
    let (request, response) = (request_api(T::KEY).unwrap(), response_api(T::KEY).unwrap());
    for api in [request, response] {
        assert_eq!(api.version_min, T::VERSIONS.min, "{}", api.name);
        assert_eq!(api.version_max, T::VERSIONS.max.min(T::Response::VERSIONS.max), "{}", api.name);
        for version in api.version_min..=api.version_max {
            assert_eq!(api.is_flexible(version), T::header_version(version) == 2, "{} v{version}", api.name);
        }
    }
}

/// What the table makes, the decoder reads to its last byte, and what the encoder makes of it passes the walk.
fn table_and_decoder_agree<T: Request>(seed: u64) {
    fn agree<M: Decodable + Encodable>(
        api: &'static Api,
        version: i16,
        seed: u64,
        walk: impl Fn(&[u8]) -> Result<(), GuardError>,
    ) {
        let body = made(api, version, seed);
        let told = format!("{} v{version} seed {seed}", api.name);
        walk(&body).unwrap_or_else(|error| panic!("{told}: {error}"));
        let mut rest = body.clone();
        let decoded = M::decode(&mut rest, version).unwrap_or_else(|error| panic!("{told}: {error}"));
        assert!(rest.is_empty(), "{told}: the decoder left {} bytes", rest.len());
        let again = encoded(&decoded, version).unwrap_or_else(|| panic!("{told} does not encode"));
        walk(&again).unwrap_or_else(|error| panic!("{told} as encoded: {error}"));
    }
    let (request, response) = (request_api(T::KEY).unwrap(), response_api(T::KEY).unwrap());
    for version in request.version_min..=request.version_max {
        agree::<T>(request, version, seed, |body| check_request(T::KEY, version, body));
        agree::<T::Response>(response, version, seed, |body| check_response(T::KEY, version, body));
    }
}

fn decode_if_let_through<T: Request>(version: i16, body: Vec<u8>) {
    if check_request(T::KEY, version, &body).is_ok() {
        let _ = T::decode(&mut Bytes::from(body.clone()), version);
    }
    if check_response(T::KEY, version, &body).is_ok() {
        let _ = T::Response::decode(&mut Bytes::from(body), version);
    }
}

/// The largest lengths at every place, and every cut.
fn hostile_lengths_are_survived<T: Request>(seed: u64) {
    for api in [request_api(T::KEY).unwrap(), response_api(T::KEY).unwrap()] {
        for version in api.version_min..=api.version_max {
            let good = made(api, version, seed);
            for at in 0..good.len() {
                decode_if_let_through::<T>(version, good[..at].to_vec());
                for hostile in
                    [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0x80, 0, 0, 0], &[0x7f, 0xff]]
                {
                    let end = (at + hostile.len()).min(good.len());
                    decode_if_let_through::<T>(version, [&good[..at], hostile, &good[end..]].concat());
                }
            }
        }
    }
}

fn random_damage_is_survived<T: Request>(seed: u64) {
    let mut chance = Chance(seed | 1);
    for api in [request_api(T::KEY).unwrap(), response_api(T::KEY).unwrap()] {
        for version in api.version_min..=api.version_max {
            let mut body = made(api, version, seed).to_vec();
            for _ in 0..=chance.below(4) {
                let at = chance.below(body.len() as u64 + 1) as usize;
                match chance.below(3) {
                    0 => body.insert(at, chance.below(256) as u8),
                    1 => body.truncate(at),
                    _ => {
                        if let Some(byte) = body.get_mut(at) {
                            *byte = chance.below(256) as u8;
                        }
                    }
                }
            }
            decode_if_let_through::<T>(version, body);
        }
    }
}

/// A default message as the encoder writes it, nulls included.
fn defaults_pass<T: Request + Default>()
where
    T::Response: Default,
{
    let api = request_api(T::KEY).unwrap();
    for version in api.version_min..=api.version_max {
        if let Some(body) = encoded(&T::default(), version) {
            check_request(T::KEY, version, &body).unwrap();
        }
        if let Some(body) = encoded(&T::Response::default(), version) {
            check_response(T::KEY, version, &body).unwrap();
        }
    }
}

#[test]
fn the_tables_state_the_decoders_versions() {
    for_each_api!(ranges_agree);
}

#[test]
fn default_messages_pass() {
    for_each_api!(defaults_pass);
}

#[test]
fn the_largest_lengths_at_every_place_and_every_cut_are_survived() {
    for_each_api!(hostile_lengths_are_survived, 0x9e37_79b9_7f4a_7c15);
}

#[test]
fn the_lengths_that_abort_the_decoder_are_refused() {
    // Metadata v1, v9 and Produce v3 that claim 2³¹ − 1 topics.
    let refused = [
        (3, 1, vec![0x7f, 0xff, 0xff, 0xff]),
        (3, 9, vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        (0, 3, vec![0xff, 0xff, 0, 1, 0, 0, 0, 9, 0x7f, 0xff, 0xff, 0xff]),
    ];
    for (key, version, body) in refused {
        assert!(matches!(check_request(key, version, &body), Err(GuardError::Short { .. })), "{key} v{version}");
    }
    assert_eq!(check_request(999, 0, &[]), Err(GuardError::UnknownKey(999)));
    assert!(matches!(check_request(3, 99, &[]), Err(GuardError::UnknownVersion { .. })));
}

#[test]
fn elements_are_bounded_in_all_and_not_only_by_array() {
    // DeleteGroups v0: an array of empty strings, two bytes each.
    let groups = |count: usize| {
        let mut body = (count as i32).to_be_bytes().to_vec();
        body.resize(4 + 2 * count, 0);
        body
    };
    check_request(42, 0, &groups(REQUEST_ELEMENTS_MAX)).unwrap();
    let over = check_request(42, 0, &groups(REQUEST_ELEMENTS_MAX + 1));
    assert!(matches!(over, Err(GuardError::TooManyElements { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn valid_bodies_pass_and_decode(seed: u64) {
        for_each_api!(table_and_decoder_agree, seed);
    }

    #[test]
    fn damaged_bodies_harm_nobody(seed: u64) {
        for_each_api!(random_damage_is_survived, seed);
    }
}
