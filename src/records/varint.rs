//! Zigzag varints, as records use them.

use bytes::{BufMut, BytesMut};

pub(super) fn put_int(buffer: &mut BytesMut, value: i32) {
    put_long(buffer, i64::from(value));
}

pub(super) fn put_long(buffer: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        buffer.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buffer.put_u8(rest as u8);
}

/// How many bytes `put_long` writes.
pub(super) fn size_of_long(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes a value off the front; `None` if it is cut off or too large.
pub(super) fn take_long(bytes: &mut &[u8]) -> Option<i64> {
    let mut zigzag = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        // The tenth byte has room for one bit.
        if shift == 63 && byte > 1 {
            return None;
        }
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
        }
    }
    None
}

pub(super) fn take_int(bytes: &mut &[u8]) -> Option<i32> {
    take_long(bytes).and_then(|value| i32::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        for (value, expected) in [(0, &[0u8][..]), (-1, &[1]), (1, &[2]), (300, &[0xd8, 0x04]), (-64, &[0x7f])] {
            let mut buffer = BytesMut::new();
            put_int(&mut buffer, value);
            assert_eq!(&buffer[..], expected);
        }
    }

    proptest! {
        #[test]
        fn every_value_survives_and_its_size_is_known(value: i64) {
            let mut buffer = BytesMut::new();
            put_long(&mut buffer, value);
            prop_assert_eq!(buffer.len(), size_of_long(value));
            let mut bytes = &buffer[..];
            prop_assert_eq!(take_long(&mut bytes), Some(value));
            prop_assert!(bytes.is_empty());
            prop_assert_eq!(take_int(&mut &buffer[..]), i32::try_from(value).ok());
        }
    }
}
