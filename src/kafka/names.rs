//! Strings of the protocol: topic names and what is special about some.

pub use crate::group::topic::is_internal;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

const TOPIC_NAME_BYTES_MAX: usize = 249;

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_string())
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Whether Kafka allows a topic of this name.
pub fn is_valid_topic(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= TOPIC_NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_are_checked_as_kafka_does() {
        for good in ["a", "A.b_c-9", &"x".repeat(249), "..."] {
            assert!(is_valid_topic(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ü", "a/b", &"x".repeat(250)] {
            assert!(!is_valid_topic(bad), "{bad}");
        }
    }
}
