//! Produce 0–2, which are advertised but not served: each partition answers UNSUPPORTED_VERSION in the old shape.
//!
//! Clients look at the advertised range to learn what a broker can do and then never send these.

use crate::kafka::errors::Code;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The answer, or `None` if the request is malformed or wants none (acks=0): then only closing is left.
pub fn refuse(correlation_id: i32, version: i16, body: &Bytes) -> Option<Bytes> {
    if !(0..=2).contains(&version) {
        return None;
    }
    let mut body = body.clone();
    let acks = body.try_get_i16().ok()?;
    let _timeout_ms = body.try_get_i32().ok()?;
    if acks == 0 {
        return None;
    }
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    frame.put_i32(correlation_id);
    let topics = count(&mut body)?;
    frame.put_i32(topics);
    for _ in 0..topics {
        let length = usize::try_from(body.try_get_i16().ok()?).ok()?;
        let name = take(&mut body, length)?;
        frame.put_i16(i16::try_from(length).ok()?);
        frame.put(name);
        let partitions = count(&mut body)?;
        frame.put_i32(partitions);
        for _ in 0..partitions {
            frame.put_i32(body.try_get_i32().ok()?);
            let records = usize::try_from(body.try_get_i32().ok()?.max(0)).ok()?;
            take(&mut body, records)?;
            frame.put_i16(Code::UnsupportedVersion.code());
            frame.put_i64(-1);
            if version >= 2 {
                frame.put_i64(-1);
            }
        }
    }
    if version >= 1 {
        frame.put_i32(0);
    }
    let length = i32::try_from(frame.len() - 4).ok()?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Some(frame.freeze())
}

/// Nothing is reserved by it: each element is read before it is answered.
fn count(body: &mut Bytes) -> Option<i32> {
    body.try_get_i32().ok().filter(|count| *count >= 0)
}

fn take(body: &mut Bytes, length: usize) -> Option<Bytes> {
    (body.len() >= length).then(|| body.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(acks: i16) -> Bytes {
        let mut body = BytesMut::new();
        body.put_i16(acks);
        body.put_i32(1_000);
        body.put_i32(1);
        body.put_i16(2);
        body.put_slice(b"ab");
        body.put_i32(1);
        body.put_i32(7);
        body.put_i32(3);
        body.put_slice(b"xyz");
        body.freeze()
    }

    #[test]
    fn each_partition_is_refused_in_its_versions_shape() {
        for (version, size) in [(0, 34), (1, 38), (2, 46)] {
            let mut frame = refuse(5, version, &request(1)).unwrap();
            assert_eq!(frame.len(), size, "version {version}");
            assert_eq!(frame.get_i32() as usize, frame.len());
            assert_eq!(frame.get_i32(), 5);
            frame.advance(4 + 4 + 4);
            assert_eq!((frame.get_i32(), frame.get_i16(), frame.get_i64()), (7, 35, -1));
        }
        assert!(refuse(5, 2, &request(0)).is_none(), "acks=0 has no answer");
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200), version in 0i16..3) {
            let _ = refuse(1, version, &Bytes::from(body));
        }

        #[test]
        fn any_cut_of_a_good_request_has_no_answer(cut in 0usize..29) {
            prop_assert!(refuse(1, 1, &request(1).slice(..cut)).is_none());
        }
    }
}
