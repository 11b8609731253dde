//! Topic configs under Kafka's names: definitions, defaults, validation, and the resolved form.

pub use super::definition::{ConfigError, Definition, Kind};

use super::broker::BrokerConfigs;
use super::definition;

pub(super) const COMPRESSION_TYPES: &[&str] = &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"];
pub(super) const CLEANUP_POLICIES: &[&str] = &["delete", "compact"];
pub(super) const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
pub(super) const DURABILITIES: &[&str] = &["sync", "page-cache"];

const I32: i64 = i32::MAX as i64;

const fn define(
    name: &'static str,
    default: &'static str,
    kind: Kind,
    broker_synonym: Option<&'static str>,
    doc: &'static str,
) -> Definition {
    Definition { name, default, kind, doc, broker_synonym }
}

/// Sorted by name.
const DEFINITIONS: &[Definition] = &[
    define(
        "cleanup.policy",
        "delete",
        Kind::ListOf(CLEANUP_POLICIES),
        Some("log.cleanup.policy"),
        "delete drops old segments; compact asks for a key in each record, and nothing is compacted yet: all of them stay.",
    ),
    define(
        "compression.type",
        "producer",
        Kind::OneOf(COMPRESSION_TYPES),
        Some("compression.type"),
        "The codec batches are stored with; producer keeps what was sent.",
    ),
    define(
        "delete.retention.ms",
        "86400000",
        Kind::Int { min: 0, max: i64::MAX },
        None,
        "How long tombstones of a compacted topic are kept; nothing is compacted yet.",
    ),
    define(
        "file.delete.delay.ms",
        "60000",
        Kind::Int { min: 0, max: i64::MAX },
        None,
        "Accepted for compatibility; files go at once.",
    ),
    define(
        "flush.messages",
        "9223372036854775807",
        Kind::Int { min: 1, max: i64::MAX },
        None,
        "Accepted for compatibility; highwater.durability decides when records are on disk.",
    ),
    define(
        "flush.ms",
        "9223372036854775807",
        Kind::Int { min: 0, max: i64::MAX },
        None,
        "Accepted for compatibility; highwater.durability decides when records are on disk.",
    ),
    define(
        "follower.replication.throttled.replicas",
        "",
        Kind::Replicas,
        None,
        "Replicas that fetch under follower.replication.throttled.rate while they are not in sync, as partition:broker, or *; \
         those that a move adds do so in any case.",
    ),
    define(
        "highwater.durability",
        "sync",
        Kind::OneOf(DURABILITIES),
        Some("highwater.durability"),
        "When a replica counts a record as held: after fdatasync (sync), or once in the page cache.",
    ),
    define(
        "index.interval.bytes",
        "4096",
        Kind::Int { min: 0, max: I32 },
        Some("log.index.interval.bytes"),
        "Bytes of log between two index entries.",
    ),
    define(
        "leader.replication.throttled.replicas",
        "",
        Kind::Replicas,
        None,
        "Leaders that send under leader.replication.throttled.rate to replicas that are not in sync, as partition:broker, or \
         *; to those that a move adds they do so in any case.",
    ),
    define(
        "max.compaction.lag.ms",
        "9223372036854775807",
        Kind::Int { min: 1, max: i64::MAX },
        None,
        "The longest a record stays uncompacted; nothing is compacted yet.",
    ),
    define(
        "max.message.bytes",
        "1048588",
        Kind::Int { min: 0, max: I32 },
        Some("message.max.bytes"),
        "The largest record batch accepted.",
    ),
    define(
        "message.timestamp.after.max.ms",
        "3600000",
        Kind::Int { min: 0, max: i64::MAX },
        Some("log.message.timestamp.after.max.ms"),
        "How far a record's timestamp may be ahead of the broker's clock.",
    ),
    define(
        "message.timestamp.before.max.ms",
        "9223372036854775807",
        Kind::Int { min: 0, max: i64::MAX },
        Some("log.message.timestamp.before.max.ms"),
        "How far a record's timestamp may be behind the broker's clock.",
    ),
    define(
        "message.timestamp.type",
        "CreateTime",
        Kind::OneOf(TIMESTAMP_TYPES),
        Some("log.message.timestamp.type"),
        "Whose time a record carries.",
    ),
    define(
        "min.cleanable.dirty.ratio",
        "0.5",
        Kind::Text,
        None,
        "The share of a compacted log that may be uncompacted; nothing is compacted yet.",
    ),
    define(
        "min.compaction.lag.ms",
        "0",
        Kind::Int { min: 0, max: i64::MAX },
        None,
        "The shortest a record stays uncompacted; nothing is compacted yet.",
    ),
    define(
        "min.insync.replicas",
        "-1",
        Kind::Int { min: -1, max: I32 },
        Some("min.insync.replicas"),
        "Replicas that must be in sync for acks=all; -1 means 2 where there are 3 or more replicas, else 1.",
    ),
    define(
        "preallocate",
        "true",
        Kind::Boolean,
        None,
        "Accepted for compatibility; the active segment is always preallocated.",
    ),
    define(
        "retention.bytes",
        "-1",
        Kind::Int { min: -1, max: i64::MAX },
        Some("log.retention.bytes"),
        "Bytes of log kept per partition; -1 means without limit.",
    ),
    define(
        "retention.ms",
        "604800000",
        Kind::Int { min: -1, max: i64::MAX },
        Some("log.retention.ms"),
        "How long records are kept; -1 means for ever.",
    ),
    define(
        "segment.bytes",
        "1073741824",
        Kind::Int { min: 1_024, max: I32 },
        Some("log.segment.bytes"),
        "Size at which a segment is rolled.",
    ),
    define(
        "segment.index.bytes",
        "10485760",
        Kind::Int { min: 4, max: I32 },
        None,
        "Accepted for compatibility; indexes grow as needed.",
    ),
    define("segment.jitter.ms", "0", Kind::Int { min: 0, max: i64::MAX }, None, "Accepted for compatibility."),
    define(
        "segment.ms",
        "604800000",
        Kind::Int { min: 1, max: i64::MAX },
        Some("log.roll.ms"),
        "Age after which a segment is rolled even if it is not full.",
    ),
    define(
        "unclean.leader.election.enable",
        "false",
        Kind::Boolean,
        Some("unclean.leader.election.enable"),
        "Allow a leader from outside the ISR, which may lose acked records.",
    ),
];

/// All topic configs, sorted by name.
pub fn definitions() -> &'static [Definition] {
    DEFINITIONS
}

/// Checks one topic config before it is set.
pub fn validate(name: &str, value: &str) -> Result<(), ConfigError> {
    definition::find(DEFINITIONS, name)?.check(value)
}

/// When a replica counts a record as held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// After fdatasync (the default).
    #[default]
    Sync,
    /// When it is in the page cache: Kafka's promise.
    PageCache,
}

/// A topic's resolved configuration: its overrides over the broker's defaults. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub segment_bytes: u64,
    pub segment_ms: i64,
    /// −1: without limit.
    pub retention_bytes: i64,
    /// −1: for ever.
    pub retention_ms: i64,
    pub compact: bool,
    pub delete: bool,
    pub index_interval_bytes: u32,
    pub max_message_bytes: u32,
    /// `None`: 2 where there are 3 or more replicas, else 1. See [`TopicConfig::effective_min_isr`].
    pub min_insync_replicas: Option<usize>,
    pub log_append_time: bool,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// `producer`, or a codec's name.
    pub compression_type: String,
    pub unclean_leader_election: bool,
    pub durability: Durability,
    pub producer_id_expiration_ms: i64,
}

impl TopicConfig {
    /// Resolves overrides (checked when they were set; one that does not check counts as not given).
    pub fn resolve<'a>(overrides: impl IntoIterator<Item = (&'a str, &'a str)>, broker: &BrokerConfigs) -> TopicConfig {
        let given: std::collections::BTreeMap<&str, &str> =
            overrides.into_iter().filter(|(name, value)| validate(name, value).is_ok()).collect();
        let text = |name: &str| -> &str {
            if let Some(value) = given.get(name) {
                return value;
            }
            let definition = definition::find(DEFINITIONS, name).expect("resolve asks only for defined topic configs");
            definition.broker_synonym.map_or(definition.default, |synonym| broker.text(synonym))
        };
        let int = |name: &str| -> i64 { text(name).trim().parse().expect("integer configs are checked above") };
        let policies = text("cleanup.policy");
        let has_policy = |policy: &str| policies.split(',').any(|item| item.trim() == policy);
        TopicConfig {
            segment_bytes: int("segment.bytes").unsigned_abs(),
            segment_ms: int("segment.ms"),
            retention_bytes: int("retention.bytes"),
            retention_ms: int("retention.ms"),
            compact: has_policy("compact"),
            delete: has_policy("delete"),
            index_interval_bytes: u32::try_from(int("index.interval.bytes")).unwrap_or(u32::MAX),
            max_message_bytes: u32::try_from(int("max.message.bytes")).unwrap_or(u32::MAX),
            min_insync_replicas: usize::try_from(int("min.insync.replicas")).ok().filter(|count| *count > 0),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: int("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: int("message.timestamp.after.max.ms"),
            compression_type: text("compression.type").to_string(),
            unclean_leader_election: text("unclean.leader.election.enable") == "true",
            durability: if text("highwater.durability") == "page-cache" {
                Durability::PageCache
            } else {
                Durability::Sync
            },
            producer_id_expiration_ms: broker.int("producer.id.expiration.ms"),
        }
    }

    /// Effective min ISR = min(min.insync.replicas, replica count), everywhere (replication.md, rule 2).
    pub fn effective_min_isr(&self, replicas: usize) -> usize {
        self.min_insync_replicas.unwrap_or(if replicas >= 3 { 2 } else { 1 }).min(replicas).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_passes_its_own_check_and_synonyms_exist() {
        for definition in DEFINITIONS {
            definition.check(definition.default).unwrap();
            if let Some(synonym) = definition.broker_synonym {
                super::super::broker::validate(synonym, definition.default).unwrap();
            }
        }
        assert!(DEFINITIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn overrides_win_over_the_brokers_value_and_that_over_the_default() {
        let broker = BrokerConfigs::default().with_overrides([("log.retention.ms", "1000")]);
        assert_eq!(TopicConfig::resolve([], &broker).retention_ms, 1_000);
        assert_eq!(TopicConfig::resolve([("retention.ms", "5")], &broker).retention_ms, 5);
        assert_eq!(TopicConfig::resolve([("retention.ms", "never")], &broker).retention_ms, 1_000);
        assert_eq!(TopicConfig::resolve([], &BrokerConfigs::default()).segment_bytes, 1 << 30);
    }

    #[test]
    fn min_isr_is_two_of_three_and_never_more_than_the_replicas() {
        let default = TopicConfig::resolve([], &BrokerConfigs::default());
        assert_eq!([1, 2, 3, 5].map(|n| default.effective_min_isr(n)), [1, 1, 2, 2]);
        let three = TopicConfig::resolve([("min.insync.replicas", "3")], &BrokerConfigs::default());
        assert_eq!(three.effective_min_isr(2), 2);
    }

    #[test]
    fn a_copied_flush_messages_does_not_switch_off_sync() {
        let config = TopicConfig::resolve([("flush.messages", "9223372036854775807")], &BrokerConfigs::default());
        assert_eq!(config.durability, Durability::Sync);
    }
}
