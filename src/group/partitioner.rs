//! Which offsets partition coordinates a group: Kafka's rule, so that its tools find the group's records.

use super::topic::OFFSETS_TOPIC;
use crate::ids::{BrokerId, TopicPartition};
use crate::metadata::image::Image;

/// The broker that coordinates a group; `None` while there is none.
pub fn coordinator_of(group: &str, image: &Image) -> Option<BrokerId> {
    let topic = image.topic_by_name(OFFSETS_TOPIC)?;
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    image.partition(TopicPartition::new(topic.id, partition_for(group, count.max(1))))?.leader
}

/// Java's `String.hashCode`: over UTF-16 units, wrapping.
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// `Utils.abs(hashCode) % partitions`, where Kafka's `abs` of the smallest integer is 0. `partitions` > 0.
pub fn partition_for(group: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition");
    java_hash(group).checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_java_does() {
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("a"), 97);
        assert_eq!(java_hash("hello"), 99_162_322);
        assert_eq!(java_hash("Aa"), java_hash("BB"));
        // Known to hash to the smallest integer.
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
        // One character outside the basic plane is two UTF-16 units: 0xD83D * 31 + 0xDE00.
        assert_eq!(java_hash("\u{1F600}"), 1_772_899);
        assert_eq!(java_hash("é"), 0xE9);
    }

    #[test]
    fn partitions_stay_in_range() {
        assert_eq!(partition_for("hello", 50), 22);
        assert_eq!(partition_for("polygenelubricants", 50), 0);
        // A negative hash: its absolute value counts, not its masked bits.
        let negative = "console-consumer-12345";
        let hash = java_hash(negative);
        assert_eq!(i64::from(partition_for(negative, 50)), i64::from(hash).abs() % 50);
        for group in ["", "x", "my-group", "gruppe-ä", "polygenelubricants"] {
            assert!((0..50).contains(&partition_for(group, 50)), "{group}");
        }
    }
}
