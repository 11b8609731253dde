//! Broker configs under Kafka's names: what is defined, its defaults, and the values in force on this node.

pub use super::definition::{ConfigError, Definition, Kind};
pub use super::node::{ListenerConfig, NodeConfig};

use super::definition;
use std::collections::BTreeMap;

const fn int(name: &'static str, default: &'static str, min: i64, max: i64, doc: &'static str) -> Definition {
    Definition { name, default, kind: Kind::Int { min, max }, doc, broker_synonym: None }
}

const fn one_of(
    name: &'static str,
    default: &'static str,
    allowed: &'static [&'static str],
    doc: &'static str,
) -> Definition {
    Definition { name, default, kind: Kind::OneOf(allowed), doc, broker_synonym: None }
}

const fn boolean(name: &'static str, default: &'static str, doc: &'static str) -> Definition {
    Definition { name, default, kind: Kind::Boolean, doc, broker_synonym: None }
}

/// The one selector that does anything, by the name of Kafka's class (KIP-392).
pub const RACK_AWARE_SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

const I32: i64 = i32::MAX as i64;

/// Sorted by name. Where a default differs from Apache Kafka's, the doc says so.
const DEFINITIONS: &[Definition] = &[
    boolean(
        "auto.create.topics.enable",
        "true",
        "Create a topic when a client asks for the metadata of one that is missing.",
    ),
    boolean(
        "auto.leader.rebalance.enable",
        "true",
        "Hand leadership back to the preferred replica once it is in sync and settled.",
    ),
    int(
        "broker.heartbeat.interval.ms",
        "100",
        10,
        60_000,
        "How often a broker tells the controller that it is alive (Kafka: 2000).",
    ),
    int(
        "broker.session.timeout.ms",
        "1500",
        200,
        600_000,
        "Silence after which the controller fences a broker (Kafka: 9000).",
    ),
    one_of(
        "compression.type",
        "producer",
        super::topic::COMPRESSION_TYPES,
        "The codec batches are stored with; producer keeps what was sent.",
    ),
    int("connections.max.idle.ms", "600000", 1_000, i64::MAX, "Idle time after which a client's connection is closed."),
    int(
        "default.replication.factor",
        "-1",
        -1,
        32_767,
        "Replicas of a topic that asks for the default; -1 means the smaller of 3 and the registered brokers (Kafka: 1).",
    ),
    boolean("delete.topic.enable", "true", "Allow DeleteTopics."),
    int(
        "follower.replication.throttled.rate",
        "52428800",
        1,
        i64::MAX,
        "Bytes a second that this broker fetches, in all, for replicas that a move adds to it until they are in sync \
         (Kafka: without limit, and only for listed replicas).",
    ),
    int(
        "group.consumer.heartbeat.interval.ms",
        "3000",
        1,
        I32,
        "How often members of the consumer protocol are told to send heartbeats (Kafka: 5000).",
    ),
    int(
        "group.consumer.max.heartbeat.interval.ms",
        "15000",
        1,
        I32,
        "The longest heartbeat interval that a group may be given.",
    ),
    int(
        "group.consumer.max.session.timeout.ms",
        "60000",
        1,
        I32,
        "The longest session timeout that a group of the consumer protocol may be given.",
    ),
    int(
        "group.consumer.max.size",
        "5000",
        1,
        I32,
        "The most members one group of the consumer protocol may have, 5000 at most (Kafka: without limit).",
    ),
    one_of(
        "group.consumer.migration.policy",
        "bidirectional",
        &["bidirectional", "upgrade", "downgrade", "disabled"],
        "Whether a live group passes from the classic protocol to the consumer protocol (upgrade) and back (downgrade).",
    ),
    int(
        "group.consumer.min.heartbeat.interval.ms",
        "1000",
        1,
        I32,
        "The shortest heartbeat interval that a group may be given (Kafka: 5000).",
    ),
    int(
        "group.consumer.min.session.timeout.ms",
        "6000",
        1,
        I32,
        "The shortest session timeout that a group of the consumer protocol may be given (Kafka: 45000).",
    ),
    int(
        "group.consumer.session.timeout.ms",
        "45000",
        1,
        I32,
        "Silence after which a member of the consumer protocol is out of the group.",
    ),
    int(
        "group.initial.rebalance.delay.ms",
        "3000",
        0,
        I32,
        "How long a new group waits for more members before its first rebalance.",
    ),
    int("group.max.session.timeout.ms", "1800000", 1, I32, "The longest session timeout a member may ask for."),
    int("group.max.size", "5000", 1, I32, "The most members one group may have, 5000 at most (Kafka: without limit)."),
    int("group.min.session.timeout.ms", "6000", 1, I32, "The shortest session timeout a member may ask for."),
    one_of(
        "highwater.durability",
        "sync",
        super::topic::DURABILITIES,
        "When a replica counts a record as held: after fdatasync (sync), or once in the page cache.",
    ),
    int("highwater.flush.threads", "4", 1, 64, "Threads that fdatasync dirty logs in parallel."),
    int("highwater.group.lag.interval.ms", "5000", 500, 3_600_000, "How often the lag of consumer groups is measured."),
    int(
        "highwater.group.lag.metrics.max",
        "1000",
        0,
        100_000,
        "Partitions, and groups, whose lag /metrics lists: those that are furthest behind; the rest is counted.",
    ),
    int(
        "highwater.scrub.bytes.per.second",
        "4194304",
        0,
        i64::MAX,
        "How fast a node reads its logs in search of damaged records; 0 means that it does not.",
    ),
    int(
        "highwater.scrub.interval.ms",
        "604800000",
        1_000,
        i64::MAX,
        "From the beginning of one search for damaged records to the beginning of the next.",
    ),
    int(
        "highwater.stray.retention.ms",
        "604800000",
        -1,
        i64::MAX,
        "How long a node keeps folders of partitions that turned out to be unknown when it came back; -1 means for ever.",
    ),
    int(
        "leader.replication.throttled.rate",
        "9223372036854775807",
        1,
        i64::MAX,
        "Bytes a second that this broker sends, in all, to replicas that a move adds until they are in sync (Kafka: only \
         to replicas that topics list), and to listed ones.",
    ),
    Definition {
        name: "log.cleanup.policy",
        default: "delete",
        kind: Kind::ListOf(super::topic::CLEANUP_POLICIES),
        doc: "delete, compact, or both; nothing is compacted yet.",
        broker_synonym: None,
    },
    int("log.index.interval.bytes", "4096", 0, I32, "Bytes of log between two index entries."),
    int(
        "log.message.timestamp.after.max.ms",
        "3600000",
        0,
        i64::MAX,
        "How far a record's timestamp may be ahead of the broker's clock.",
    ),
    int(
        "log.message.timestamp.before.max.ms",
        "9223372036854775807",
        0,
        i64::MAX,
        "How far a record's timestamp may be behind the broker's clock.",
    ),
    one_of("log.message.timestamp.type", "CreateTime", super::topic::TIMESTAMP_TYPES, "Whose time a record carries."),
    int("log.retention.bytes", "-1", -1, i64::MAX, "Bytes of log kept per partition; -1 means without limit."),
    int("log.retention.check.interval.ms", "300000", 1, i64::MAX, "How often retention looks for segments to drop."),
    int("log.retention.ms", "604800000", -1, i64::MAX, "How long records are kept; -1 means for ever."),
    int("log.roll.ms", "604800000", 1, i64::MAX, "Age after which a segment is rolled even if it is not full."),
    int("log.segment.bytes", "1073741824", 1_024, I32, "Size at which a segment is rolled."),
    int("max.connections", "10000", 1, I32, "The most connections per listener (Kafka: 2147483647 in all)."),
    int("max.incremental.fetch.session.cache.slots", "1000", 0, I32, "The most fetch sessions kept for clients."),
    int("message.max.bytes", "1048588", 0, I32, "The largest record batch accepted."),
    int(
        "min.insync.replicas",
        "-1",
        -1,
        I32,
        "Replicas that must be in sync for acks=all; -1 means 2 where there are 3 or more replicas, else 1 (Kafka: 1).",
    ),
    int("num.partitions", "1", 1, I32, "Partitions of a topic that asks for the default."),
    int("offset.metadata.max.bytes", "4096", 0, I32, "The largest metadata string committed with an offset."),
    int("offsets.commit.timeout.ms", "5000", 1, I32, "How long a commit may wait for its replicas."),
    int(
        "offsets.retention.check.interval.ms",
        "600000",
        1,
        I32,
        "How often empty groups and old offsets are looked for.",
    ),
    int("offsets.retention.minutes", "10080", 1, I32, "How long offsets of an empty group are kept."),
    int("offsets.topic.num.partitions", "50", 1, I32, "Partitions of __consumer_offsets."),
    int(
        "offsets.topic.replication.factor",
        "3",
        1,
        32_767,
        "Replicas of __consumer_offsets, at most the registered brokers.",
    ),
    int("offsets.topic.segment.bytes", "104857600", 1_024, I32, "Segment size of __consumer_offsets."),
    int("producer.id.expiration.ms", "86400000", 1, I32, "How long an idle producer's sequence state is kept."),
    int(
        "replica.alter.log.dirs.io.max.bytes.per.second",
        "9223372036854775807",
        1,
        i64::MAX,
        "Accepted for compatibility; a broker has one log folder, and moves nothing between several.",
    ),
    int("replica.fetch.max.bytes", "1048576", 1_024, I32, "Bytes a follower fetches per partition."),
    int("replica.fetch.response.max.bytes", "10485760", 1_024, I32, "Bytes a follower fetches at a time."),
    int("replica.fetch.wait.max.ms", "500", 1, I32, "How long a follower's fetch may park."),
    int(
        "replica.lag.time.max.ms",
        "2000",
        100,
        I32,
        "Silence or lag after which a follower leaves the ISR (Kafka: 30000).",
    ),
    one_of(
        "replica.selector.class",
        "",
        &["", "org.apache.kafka.common.replica.LeaderSelector", RACK_AWARE_SELECTOR],
        "Whether a consumer that tells its rack reads from an in-sync replica in it (RackAwareReplicaSelector).",
    ),
    int("socket.request.max.bytes", "104857600", 1_024, I32, "The largest request accepted."),
    boolean(
        "unclean.leader.election.enable",
        "false",
        "Allow a leader from outside the ISR, which may lose acked records.",
    ),
];

/// All broker configs, sorted by name.
pub fn definitions() -> &'static [Definition] {
    DEFINITIONS
}

/// Broker configs that change while brokers run, beside those that are defaults of topic configs.
pub const DYNAMIC: [&str; 3] = [
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
];

/// Checks one broker config before it is set.
pub fn validate(name: &str, value: &str) -> Result<(), ConfigError> {
    definition::find(DEFINITIONS, name)?.check(value)
}

/// Checks that a session outlasts a few heartbeats: a broker that is only late must not be fenced.
pub fn validate_session(broker: &BrokerConfigs) -> Result<(), ConfigError> {
    const INTERVAL: &str = "broker.heartbeat.interval.ms";
    const TIMEOUT: &str = "broker.session.timeout.ms";
    let (interval, timeout) = (broker.int(INTERVAL), broker.int(TIMEOUT));
    if interval <= timeout / 4 {
        return Ok(());
    }
    Err(ConfigError(format!("{INTERVAL} ({interval}) must be at most a quarter of {TIMEOUT} ({timeout})")))
}

/// Values of Kafka-named broker configs: what was given (validated), over the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BrokerConfigs {
    pub given: BTreeMap<String, String>,
}

impl BrokerConfigs {
    /// The value in force of a defined text config. Asking for an undefined name is a bug in the caller.
    pub fn text(&self, name: &str) -> &str {
        if let Some(value) = self.given.get(name) {
            return value;
        }
        definition::find(DEFINITIONS, name).expect("callers ask only for defined broker configs").default
    }

    /// The value in force of an integer config.
    pub fn int(&self, name: &str) -> i64 {
        self.text(name).trim().parse().expect("integer configs are checked when they are given")
    }

    pub fn boolean(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// These values with dynamic overrides on top; an override that does not check is left out.
    pub fn with_overrides<'a>(&self, overrides: impl IntoIterator<Item = (&'a str, &'a str)>) -> BrokerConfigs {
        let mut merged = self.clone();
        for (name, value) in overrides {
            if validate(name, value).is_ok() {
                merged.given.insert(name.to_string(), value.to_string());
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_passes_its_own_check_and_names_are_sorted() {
        for definition in DEFINITIONS {
            definition.check(definition.default).unwrap();
            assert!(!definition.doc.is_empty(), "{} has no doc", definition.name);
        }
        assert!(DEFINITIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn an_override_that_does_not_check_is_left_out() {
        let configs = BrokerConfigs::default().with_overrides([("num.partitions", "6"), ("message.max.bytes", "many")]);
        assert_eq!(configs.int("num.partitions"), 6);
        assert_eq!(configs.int("message.max.bytes"), 1_048_588);
    }
}
