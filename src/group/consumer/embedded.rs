//! What consumers of the classic protocol put into their opaque bytes: subscriptions and assignments
//! (Kafka's `ConsumerProtocolSubscription` and `ConsumerProtocolAssignment`, versions 0 to 3).
//!
//! Read by hand: the bytes come from clients, and no length in them is believed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;

/// Partitions by topic name.
pub type Named = BTreeMap<String, Vec<i32>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    pub version: i16,
    pub topics: Vec<String>,
    /// Since version 1; before, members give up everything before they join.
    pub owned: Named,
    pub rack: Option<String>,
}

const WITH_OWNED: i16 = 1;
const WITH_GENERATION: i16 = 2;
const WITH_RACK: i16 = 3;

/// `None`: these are no bytes of a consumer.
pub fn subscription(bytes: &Bytes) -> Option<Subscription> {
    let mut rest = bytes.clone();
    let version = rest.try_get_i16().ok().filter(|version| *version >= 0)?;
    let mut found = Subscription { version, ..Subscription::default() };
    for _ in 0..count(&mut rest, 2)? {
        found.topics.push(text(&mut rest)?);
    }
    let _user_data = opaque(&mut rest)?;
    if version >= WITH_OWNED {
        found.owned = partitions(&mut rest)?;
    }
    if version >= WITH_GENERATION {
        rest.try_get_i32().ok()?;
    }
    if version >= WITH_RACK {
        found.rack = match rest.try_get_i16().ok()? {
            -1 => None,
            length => Some(taken(&mut rest, usize::try_from(length).ok()?)?),
        };
    }
    Some(found)
}

/// Empty bytes are an empty assignment: a member that came too late for its generation has them.
pub fn read_assignment(bytes: &Bytes) -> Option<Named> {
    if bytes.is_empty() {
        return Some(Named::new());
    }
    let mut rest = bytes.clone();
    rest.try_get_i16().ok().filter(|version| *version >= 0)?;
    partitions(&mut rest)
}

pub fn assignment(version: i16, assigned: &Named) -> Bytes {
    let length = |count: usize| i32::try_from(count).expect("a member's partitions are counted by i32");
    let mut bytes = BytesMut::new();
    bytes.put_i16(version.clamp(0, WITH_RACK));
    bytes.put_i32(length(assigned.len()));
    for (topic, partitions) in assigned {
        bytes.put_i16(i16::try_from(topic.len()).expect("a topic's name has 249 bytes at most"));
        bytes.put_slice(topic.as_bytes());
        bytes.put_i32(length(partitions.len()));
        partitions.iter().for_each(|partition| bytes.put_i32(*partition));
    }
    // No user data.
    bytes.put_i32(-1);
    bytes.freeze()
}

fn partitions(rest: &mut Bytes) -> Option<Named> {
    let mut found = Named::new();
    for _ in 0..count(rest, 6)? {
        let topic = text(rest)?;
        let own = found.entry(topic).or_default();
        for _ in 0..count(rest, 4)? {
            own.push(rest.try_get_i32().ok()?);
        }
        own.sort_unstable();
        own.dedup();
    }
    Some(found)
}

/// An array's length: as many items as the bytes have room for, each of `least` bytes.
fn count(rest: &mut Bytes, least: usize) -> Option<usize> {
    let count = usize::try_from(rest.try_get_i32().ok()?.max(0)).ok()?;
    (count <= rest.len() / least).then_some(count)
}

fn text(rest: &mut Bytes) -> Option<String> {
    let length = usize::try_from(rest.try_get_i16().ok()?).ok()?;
    taken(rest, length)
}

fn opaque(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(rest.try_get_i32().ok()?.max(0)).ok()?;
    (length <= rest.len()).then(|| rest.split_to(length))
}

fn taken(rest: &mut Bytes, length: usize) -> Option<String> {
    if length > rest.len() {
        return None;
    }
    String::from_utf8(rest.split_to(length).to_vec()).ok()
}

/// As a consumer of version 1 says it.
#[cfg(test)]
pub fn subscription_for_tests(topics: &[String], owned: &Named) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(1);
    bytes.put_i32(i32::try_from(topics.len()).unwrap());
    for topic in topics {
        bytes.put_i16(i16::try_from(topic.len()).unwrap());
        bytes.put_slice(topic.as_bytes());
    }
    bytes.put_i32(-1);
    // The partitions are written as those of an assignment are.
    let owned = assignment(1, owned);
    bytes.put_slice(&owned[2..owned.len() - 4]);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition;
    use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
    use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
    use proptest::prelude::*;

    fn encoded(version: i16) -> Bytes {
        let mut message = ConsumerProtocolSubscription::default()
            .with_topics(vec![StrBytes::from_static_str("a"), StrBytes::from_static_str("b")])
            .with_user_data(Some(Bytes::from_static(b"mine")));
        if version >= 1 {
            let owned = TopicPartition::default().with_topic(StrBytes::from_static_str("a").into());
            message.owned_partitions = vec![owned.with_partitions(vec![3, 1])];
        }
        if version >= 3 {
            message.rack_id = Some(StrBytes::from_static_str("r"));
        }
        let mut bytes = BytesMut::new();
        bytes.put_i16(version);
        message.encode(&mut bytes, version).unwrap();
        bytes.freeze()
    }

    #[test]
    fn subscriptions_of_every_version_are_read() {
        for version in 0..=3 {
            let found = subscription(&encoded(version)).unwrap();
            assert_eq!(found.topics, ["a", "b"]);
            assert_eq!(found.owned.get("a"), (version >= 1).then(|| vec![1, 3]).as_ref());
            assert_eq!(found.rack.is_some(), version >= 3);
        }
    }

    #[test]
    fn assignments_are_kafkas_own() {
        for version in 0..=3 {
            let assigned = Named::from([("a".to_string(), vec![0, 5])]);
            let bytes = assignment(version, &assigned);
            assert_eq!(read_assignment(&bytes), Some(assigned));
            let mut rest = bytes.clone();
            assert_eq!(rest.get_i16(), version);
            let decoded = ConsumerProtocolAssignment::decode(&mut rest, version).unwrap();
            assert_eq!(decoded.assigned_partitions[0].partitions, [0, 5]);
            assert!(rest.is_empty());
        }
        assert_eq!(read_assignment(&Bytes::new()), Some(Named::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..80), version in 0..4_i16, cut in 0..60_usize) {
            let _ = subscription(&Bytes::from(bytes.clone()));
            let _ = read_assignment(&Bytes::from(bytes));
            let whole = encoded(version);
            if cut < whole.len() {
                prop_assert_eq!(subscription(&whole.slice(..cut)), None);
            }
        }
    }
}
