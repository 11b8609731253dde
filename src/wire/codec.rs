//! Requests and responses as bytes: headers by hand, bodies through the guard and then the generated decoders.
//!
//! ```text
//! request frame:  key i16 · version i16 · correlation id i32 · client id · [tagged fields] · body
//! response frame: correlation id i32 · [tagged fields] · body
//! ```

/// A tagged field of ours in a Fetch's partition, sent by followers: what came from this offset before was damaged. Far
/// above any tag that Kafka's schemas use.
pub const FETCH_REFUSED_TAG: i32 = 10_000;
/// Another one: the follower's log goes on behind this offset, and what is asked for fills damage in it. A leader whose log
/// ends there answers that the logs part.
pub const FETCH_FILLS_TAG: i32 = 10_001;

use super::guard::{self, GuardError};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};

/// How many tagged fields a request header may hold; none is defined yet.
const HEADER_TAGS_MAX: u32 = 64;

/// OffsetCommit, OffsetFetch and AddRaftVoter in a version that the generated decoders, and so the guard, do not know: their bodies
/// are decoded elsewhere, and their headers are flexible.
const DECODED_BY_HAND: [(i16, i16); 3] = [(8, 10), (9, 10), (80, 1)];

#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("the header is cut off: {0} bytes are no request")]
    ShortHeader(usize),
    #[error("the header is malformed: {0}")]
    BadHeader(&'static str),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("API {key} v{version} does not decode: {reason}")]
    Decode { key: i16, version: i16, reason: String },
    #[error("API {key} v{version} does not encode: {reason}")]
    Encode { key: i16, version: i16, reason: String },
    #[error("API key {0} is unknown")]
    UnknownKey(i16),
}

/// A request header. Key and version are as the client sent them and may name nothing that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub api_key: i16,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
}

/// Takes the header off `frame`; what stays in it is the body.
///
/// With a key or version that is not served the tagged fields are left in place, since nobody knows whether there are
/// any: the caller answers such a request by its header alone.
pub fn decode_header(frame: &mut Bytes) -> Result<Header, CodecError> {
    if frame.len() < 10 {
        return Err(CodecError::ShortHeader(frame.len()));
    }
    let api_key = frame.get_i16();
    let version = frame.get_i16();
    let correlation_id = frame.get_i32();
    let client_id = match frame.get_i16() {
        -1 => None,
        length => {
            let length = usize::try_from(length).map_err(|_| CodecError::BadHeader("negative client id length"))?;
            if length > frame.len() {
                return Err(CodecError::BadHeader("the client id is cut off"));
            }
            let id = StrBytes::from_utf8(frame.split_to(length));
            Some(id.map_err(|_| CodecError::BadHeader("the client id is not UTF-8"))?)
        }
    };
    let is_by_hand = DECODED_BY_HAND.contains(&(api_key, version));
    if is_by_hand || guard::request_api(api_key).is_some_and(|api| api.knows(version) && api.is_flexible(version)) {
        skip_tagged_fields(frame)?;
    }
    Ok(Header { api_key, version, correlation_id, client_id })
}

/// Decodes a request body to its last byte. `key` is the header's and must be `T`'s.
pub fn decode_request<T: Request>(key: i16, version: i16, body: Bytes) -> Result<T, CodecError> {
    if key != T::KEY {
        return Err(CodecError::UnknownKey(key));
    }
    guard::check_request(key, version, &body)?;
    decode_whole(key, version, body)
}

/// Takes the response header off `frame`: the correlation id. What stays in it is the body.
pub fn decode_response_header(key: i16, version: i16, frame: &mut Bytes) -> Result<i32, CodecError> {
    if frame.len() < 4 {
        return Err(CodecError::ShortHeader(frame.len()));
    }
    let correlation_id = frame.get_i32();
    if response_header_version(key, version)? >= 1 {
        skip_tagged_fields(frame)?;
    }
    Ok(correlation_id)
}

/// Decodes a response body to its last byte. Bytes inside (a Fetch answer's records) are slices of `body`.
pub fn decode_response<T: Request>(version: i16, body: Bytes) -> Result<T::Response, CodecError> {
    guard::check_response(T::KEY, version, &body)?;
    decode_whole(T::KEY, version, body)
}

/// A whole response frame, its 4-byte length included.
pub fn encode_response<R: Encodable>(
    correlation_id: i32,
    key: i16,
    version: i16,
    body: &R,
) -> Result<Bytes, CodecError> {
    let header = usize::from(response_header_version(key, version)? >= 1);
    let mut frame = start_frame(4 + header, key, version, body)?;
    frame.put_i32(correlation_id);
    if header == 1 {
        // No tagged fields.
        frame.put_u8(0);
    }
    encode_body(frame, key, version, body)
}

/// A whole request frame, its 4-byte length included.
pub fn encode_request<T: Request>(
    correlation_id: i32,
    client_id: &str,
    version: i16,
    request: &T,
) -> Result<Bytes, CodecError> {
    let id_length = i16::try_from(client_id.len()).map_err(|_| CodecError::BadHeader("the client id is too long"))?;
    let flexible = T::header_version(version) >= 2;
    let mut frame = start_frame(10 + client_id.len() + usize::from(flexible), T::KEY, version, request)?;
    frame.put_i16(T::KEY);
    frame.put_i16(version);
    frame.put_i32(correlation_id);
    frame.put_i16(id_length);
    frame.put_slice(client_id.as_bytes());
    if flexible {
        frame.put_u8(0);
    }
    encode_body(frame, T::KEY, version, request)
}

/// 1 where tagged fields follow the correlation id, else 0. Always 0 for ApiVersions: the client cannot know the
/// server's versions before it has read that answer.
pub fn response_header_version(key: i16, version: i16) -> Result<i16, CodecError> {
    let api = ApiKey::try_from(key).map_err(|()| CodecError::UnknownKey(key))?;
    Ok(api.response_header_version(version))
}

fn start_frame<R: Encodable>(header: usize, key: i16, version: i16, body: &R) -> Result<BytesMut, CodecError> {
    let encode = |reason: String| CodecError::Encode { key, version, reason };
    let size = header + body.compute_size(version).map_err(|error| encode(error.to_string()))?;
    let length = i32::try_from(size).map_err(|_| encode(format!("{size} bytes are too many for a frame")))?;
    let mut frame = BytesMut::with_capacity(4 + size);
    frame.put_i32(length);
    Ok(frame)
}

fn encode_body<R: Encodable>(mut frame: BytesMut, key: i16, version: i16, body: &R) -> Result<Bytes, CodecError> {
    let encode = |reason: String| CodecError::Encode { key, version, reason };
    body.encode(&mut frame, version).map_err(|error| encode(error.to_string()))?;
    let written = frame.len() - 4;
    let claimed = usize::try_from(i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]])).unwrap_or(usize::MAX);
    // A wrong length would make the peer misread everything after this frame.
    if written != claimed {
        return Err(encode(format!("{written} bytes were written where {claimed} were computed")));
    }
    Ok(frame.freeze())
}

fn decode_whole<T: Decodable>(key: i16, version: i16, mut body: Bytes) -> Result<T, CodecError> {
    T::decode(&mut body, version).map_err(|error| CodecError::Decode { key, version, reason: error.to_string() })
}

fn skip_tagged_fields(frame: &mut Bytes) -> Result<(), CodecError> {
    let count = header_varint(frame)?;
    if count > HEADER_TAGS_MAX {
        return Err(CodecError::BadHeader("too many tagged fields"));
    }
    for _ in 0..count {
        header_varint(frame)?;
        let size = header_varint(frame)? as usize;
        if size > frame.len() {
            return Err(CodecError::BadHeader("a tagged field is cut off"));
        }
        frame.advance(size);
    }
    Ok(())
}

fn header_varint(frame: &mut Bytes) -> Result<u32, CodecError> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        if frame.is_empty() {
            return Err(CodecError::BadHeader("the tagged fields are cut off"));
        }
        let byte = frame.get_u8();
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CodecError::BadHeader("a varint of more than 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, HeartbeatRequest, HeartbeatResponse};
    use proptest::prelude::*;

    fn body_of(frame: &Bytes) -> Bytes {
        let length = i32::from_be_bytes(frame[..4].try_into().unwrap());
        assert_eq!(length as usize, frame.len() - 4);
        frame.slice(4..)
    }

    #[test]
    fn a_request_survives_the_round_trip_in_both_header_forms() {
        for version in 0..=4 {
            let request = HeartbeatRequest::default().with_member_id(StrBytes::from_static_str("m"));
            let mut frame = body_of(&encode_request(7, "client", version, &request).unwrap());
            let header = decode_header(&mut frame).unwrap();
            assert_eq!((header.api_key, header.version, header.correlation_id), (12, version, 7));
            assert_eq!(header.client_id.as_deref(), Some("client"));
            assert_eq!(decode_request::<HeartbeatRequest>(12, version, frame).unwrap(), request);
        }
    }

    #[test]
    fn a_response_carries_tagged_fields_from_the_first_flexible_version_on() {
        for version in 0..=4 {
            let mut frame = body_of(&encode_response(9, 12, version, &HeartbeatResponse::default()).unwrap());
            let expected = 4 + if version >= 1 { 6 } else { 2 } + if version >= 4 { 2 } else { 0 };
            assert_eq!(frame.len(), expected, "version {version}");
            assert_eq!(decode_response_header(12, version, &mut frame).unwrap(), 9);
            decode_response::<HeartbeatRequest>(version, frame).unwrap();
        }
    }

    #[test]
    fn the_answer_to_api_versions_has_the_oldest_header_at_every_version() {
        for version in 0..=4 {
            let frame = body_of(&encode_response(1, 18, version, &ApiVersionsResponse::default()).unwrap());
            // Right after the correlation id stands the error code, no tagged fields.
            let body = frame.slice(4..);
            decode_response::<ApiVersionsRequest>(version, body).unwrap();
        }
    }

    #[test]
    fn a_version_from_the_future_still_yields_its_header() {
        // Key 18, version 99, correlation id 5, client id "x", then a body nobody knows.
        let mut frame = Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 5, 0, 1, b'x', 0xff, 0xff]);
        let header = decode_header(&mut frame).unwrap();
        assert_eq!((header.version, header.correlation_id), (99, 5));
        assert!(decode_request::<ApiVersionsRequest>(18, 99, frame).is_err());
    }

    #[test]
    fn headers_of_requests_decoded_by_hand_lose_their_tagged_fields() {
        let body = b"\x02\x02g\0\xff\xff\xff\xff\0\0\x01\0";
        for key in [8, 9] {
            let header = [0, key, 0, 10, 0, 0, 0, 1, 0xff, 0xff, 0];
            let mut frame = Bytes::from([&header[..], &body[..]].concat());
            let header = decode_header(&mut frame).unwrap();
            assert_eq!((header.api_key, header.version, header.correlation_id), (key.into(), 10, 1));
            assert_eq!(&frame[..], body);
        }
    }

    #[test]
    fn short_and_lying_headers_are_typed_errors() {
        for length in 0..10 {
            let mut frame = Bytes::from(vec![0; length]);
            assert!(matches!(decode_header(&mut frame), Err(CodecError::ShortHeader(_))));
        }
        let lying = [&[0u8, 12, 0, 4, 0, 0, 0, 1][..], &[0x7f, 0xff]].concat();
        assert!(matches!(decode_header(&mut Bytes::from(lying)), Err(CodecError::BadHeader(_))));
        let negative = [&[0u8, 12, 0, 4, 0, 0, 0, 1][..], &[0xff, 0xfe]].concat();
        assert!(matches!(decode_header(&mut Bytes::from(negative)), Err(CodecError::BadHeader(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_header_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), key in 0u8..80, version in 0u8..20) {
            let mut frame = bytes.clone();
            if frame.len() > 4 {
                (frame[0], frame[1], frame[2], frame[3]) = (0, key, 0, version);
            }
            let _ = decode_header(&mut Bytes::from(frame));
        }
    }
}
