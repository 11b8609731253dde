//! What members say in the consumer protocol's own formats. To the coordinator they are opaque; only what is shown to
//! people, and which topics a group still wants, is read from them.
//!
//! ```text
//! subscription: version int16 · topics [string] · …          assignment: version int16 · [topic string · [int32]] · …
//! ```
//!
//! Later versions only add fields behind these. What cannot be read is `None`: a client may put there what it likes.

use std::collections::{BTreeMap, BTreeSet};

/// The protocol type whose members speak these formats.
pub const CONSUMER: &str = "consumer";

/// The topics that a member subscribes to.
pub fn topics(metadata: &[u8]) -> Option<BTreeSet<String>> {
    let mut reader = Reader(metadata);
    let _version = reader.int16()?;
    let count = reader.count()?;
    (0..count).map(|_| reader.text()).collect()
}

/// The partitions that a member is assigned, by topic.
pub fn assignment(bytes: &[u8]) -> Option<BTreeMap<String, BTreeSet<i32>>> {
    let mut reader = Reader(bytes);
    let _version = reader.int16()?;
    let mut assigned: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for _ in 0..reader.count()? {
        let topic = reader.text()?;
        let partitions = assigned.entry(topic).or_default();
        for _ in 0..reader.count()? {
            partitions.insert(reader.int32()?);
        }
    }
    Some(assigned)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn int16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn int32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// Of an array; null is empty. Nothing is reserved for it.
    fn count(&mut self) -> Option<i32> {
        self.int32().map(|count| count.max(0))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.int16()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok().map(ToString::to_string)
    }
}

#[cfg(test)]
pub mod testing {
    /// A subscription of version 0 without user data.
    pub fn subscription(topics: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        bytes.extend(i32::try_from(topics.len()).expect("few").to_be_bytes());
        for topic in topics {
            bytes.extend(i16::try_from(topic.len()).expect("short").to_be_bytes());
            bytes.extend(topic.as_bytes());
        }
        bytes.extend((-1i32).to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topics_and_partitions_are_read_whatever_follows() {
        let mut bytes = testing::subscription(&["a", "bc"]);
        bytes.extend(b"more of a later version");
        assert_eq!(topics(&bytes), Some(BTreeSet::from(["a".to_string(), "bc".to_string()])));
        let bytes =
            b"\x00\x01\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x01\xff\xff\xff\xff";
        assert_eq!(assignment(bytes), Some(BTreeMap::from([("t".to_string(), BTreeSet::from([1, 3]))])));
    }

    #[test]
    fn what_ends_too_early_or_is_no_text_is_nothing() {
        let bytes = testing::subscription(&["topic"]);
        assert!((0..bytes.len() - 4).all(|end| topics(&bytes[..end]).is_none()));
        assert_eq!(topics(b"\x00\x00\x00\x00\x00\x01\x00\x01\xff"), None);
        assert_eq!(topics(b"\x00\x00\x7f\xff\xff\xff"), None, "a huge count costs nothing");
        assert_eq!(topics(b"\x00\x00\xff\xff\xff\xff"), Some(BTreeSet::new()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = topics(&bytes);
            let _ = assignment(&bytes);
        }
    }
}
