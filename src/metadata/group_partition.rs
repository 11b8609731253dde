//! Which offsets partition coordinates a group: Kafka's rule, so that its tools find the group's records. The image holds
//! coordinators to it, since two that think the group theirs would each be refused nothing.

/// The topic whose partitions' leaders coordinate groups, and hold their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// The same for transactions.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// A topic whose partitions each stand for what hashes to them: with another count all of that would move.
pub fn has_fixed_partitions(topic: &str) -> bool {
    matches!(topic, OFFSETS_TOPIC | TRANSACTIONS_TOPIC)
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
