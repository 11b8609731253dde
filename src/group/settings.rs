//! The coordinator's configuration, read once from the node's; and every bound of this room in one place.

use crate::config::broker::BrokerConfigs;
use std::time::Duration;

/// Groups one offsets partition holds at most.
pub const GROUPS_PER_PARTITION_MAX: usize = 10_000;
/// A group's name at most, in UTF-8. Groups outlive the connections that made them, and so do their names.
pub const GROUP_ID_BYTES_MAX: usize = 4_096;
/// What a fresh member id takes of its client's name at most.
pub const MEMBER_ID_PREFIX_BYTES_MAX: usize = 255;
/// Members of one group at most, whatever `group.max.size` says: a rebalance looks at all of them.
pub const GROUP_SIZE_MAX: usize = 5_000;
/// One member with its metadata and assignment: it travels in one Raft command of at most 256 KiB.
pub const MEMBER_BYTES_MAX: usize = 220 * 1024;
/// A member of the consumer protocol as it is stored, with all that it has and is to have: the controller packs commands
/// of 240 KiB, and the group's name and the rebalance's reason come on top.
pub const STORED_MEMBER_BYTES_MAX: usize = 228 * 1024;
/// Protocols that one member supports; clients have one to three.
pub const PROTOCOLS_PER_MEMBER_MAX: usize = 64;
/// One protocol's name, and a protocol type.
pub const PROTOCOL_NAME_BYTES_MAX: usize = 1_024;
/// What all of a group's members have, each counted whole: the leader of a generation is sent all of it.
pub const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A member's id that a client made itself.
pub const MEMBER_ID_BYTES_MAX: usize = 1_024;
/// A pattern that a member subscribes to, in UTF-8.
pub const REGEX_BYTES_MAX: usize = 4_096;
/// What a compiled pattern may take, for the moment in which topics are matched with it.
pub const REGEX_COMPILED_BYTES_MAX: usize = 1024 * 1024;
/// Parentheses within parentheses of a pattern.
pub const REGEX_NESTING_MAX: u32 = 64;
/// Distinct patterns of one group: each keeps the topics that it stands for.
pub const PATTERNS_PER_GROUP_MAX: usize = 256;
/// A member that waits for what others must release first is told to ask again after this. Not sooner: librdkafka takes
/// the interval for its heartbeats' timeout too, and a heartbeat may stand behind an offset commit.
pub const UNSETTLED_INTERVAL_MS: i32 = 2_000;
/// What a client gives as its reason, kept in the history (KIP-800).
pub const REASON_BYTES_MAX: usize = 255;
/// How long a new member's join is parked, in milliseconds: its client may be gone, and then it must come back. Kafka's
/// value.
pub const NEW_MEMBER_JOIN_MS_MAX: u64 = 300_000;
/// What all groups of this broker take; beyond it nobody new may join.
pub const GROUPS_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Of one command's share in a large write: members and their bytes.
pub const PART_BYTES_MAX: usize = 224 * 1024;
/// What the committer submits at once; a message between nodes has at most 4 MiB.
pub const INTENT_BYTES_MAX: usize = 1024 * 1024;
/// Submissions of the committer that may be under way.
pub const COMMITS_IN_FLIGHT_MAX: usize = 8;
/// A write of a group that was not sent yet waits so many times as long as one that was.
pub const UNSENT_FACTOR: u64 = 6;
/// Offsets of one appended batch; a commit of more is several batches.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Before a write that the quorum did not take is tried again.
pub const COMMIT_RETRY_MS: u64 = 500;
/// Bytes per read while a partition is loaded.
pub const LOAD_BYTES_MAX: usize = 1024 * 1024;
/// Partitions being read at a time; the others wait their turn.
pub const LOADS_AT_ONCE: usize = 2;

/// Committed offsets whose lag is measured, and records whose times are looked up for it, each time.
pub const LAG_POSITIONS_MAX: usize = 200_000;
pub const LAG_TIMES_MAX: usize = 2_000;
/// Below this many records a partition is quickly loaded, however few of them are live.
pub const REWRITE_RECORDS_MIN: usize = 500_000;
/// So many records for each live offset are too many.
pub const REWRITE_FACTOR: usize = 4;
/// Offsets written anew at a time.
pub const REWRITE_AT_ONCE_MAX: usize = 2_000;
/// Offsets that one look for expired ones buries at most, of all groups and of one; the rest is for the next.
pub const EXPIRED_PER_PASS_MAX: usize = 50_000;
pub const EXPIRED_PER_GROUP_MAX: usize = 5_000;

/// What the state machine needs to know of the configuration. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub initial_delay_ms: u64,
    pub session_min_ms: u64,
    pub session_max_ms: u64,
    pub group_size_max: usize,
    /// An empty group is looked at this long after it became empty: without offsets it goes.
    pub empty_check_ms: u64,
    pub consumer: ConsumerRules,
}

/// The same for the consumer protocol (KIP-848); a group may have its own times within the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerRules {
    pub session_ms: i32,
    pub session_min_ms: i32,
    pub session_max_ms: i32,
    pub interval_ms: i32,
    pub interval_min_ms: i32,
    pub interval_max_ms: i32,
    pub size_max: usize,
    /// A classic group may become one of the consumer protocol.
    pub upgrades: bool,
    pub downgrades: bool,
}

impl ConsumerRules {
    fn of(config: &BrokerConfigs) -> ConsumerRules {
        let int = |name: &str| i32::try_from(config.int(name)).unwrap_or(i32::MAX);
        let (session_min_ms, interval_min_ms) =
            (int("group.consumer.min.session.timeout.ms"), int("group.consumer.min.heartbeat.interval.ms"));
        let policy = config.text("group.consumer.migration.policy");
        ConsumerRules {
            session_ms: int("group.consumer.session.timeout.ms"),
            session_min_ms,
            session_max_ms: int("group.consumer.max.session.timeout.ms").max(session_min_ms),
            interval_ms: int("group.consumer.heartbeat.interval.ms"),
            interval_min_ms,
            interval_max_ms: int("group.consumer.max.heartbeat.interval.ms").max(interval_min_ms),
            size_max: usize::try_from(config.int("group.consumer.max.size")).unwrap_or(1).clamp(1, GROUP_SIZE_MAX),
            upgrades: matches!(policy, "bidirectional" | "upgrade"),
            downgrades: matches!(policy, "bidirectional" | "downgrade"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub rules: Rules,
    pub metadata_bytes_max: usize,
    /// How long an offset commit waits for the high watermark.
    pub commit_timeout: Duration,
    /// How long an assignment waits for Raft.
    pub assignment_timeout: Duration,
    /// How long offsets are kept that nobody uses.
    pub offsets_retention_ms: i64,
    /// How often such are looked for.
    pub expiry_interval_ms: i64,
    pub topic_partitions: i32,
    pub topic_replication_factor: i16,
    pub topic_segment_bytes: i64,
}

impl Settings {
    pub fn of(config: &BrokerConfigs) -> Settings {
        let milliseconds = |name: &str| u64::try_from(config.int(name)).unwrap_or(0);
        let count = |name: &str| usize::try_from(config.int(name)).unwrap_or(0);
        Settings {
            rules: Rules {
                initial_delay_ms: milliseconds("group.initial.rebalance.delay.ms"),
                session_min_ms: milliseconds("group.min.session.timeout.ms"),
                session_max_ms: milliseconds("group.max.session.timeout.ms"),
                group_size_max: count("group.max.size").clamp(1, GROUP_SIZE_MAX),
                empty_check_ms: milliseconds("offsets.retention.check.interval.ms"),
                consumer: ConsumerRules::of(config),
            },
            // A text of the record format has a 2-byte length.
            metadata_bytes_max: count("offset.metadata.max.bytes").min(i16::MAX.unsigned_abs().into()),
            commit_timeout: Duration::from_millis(milliseconds("offsets.commit.timeout.ms")),
            assignment_timeout: Duration::from_millis(milliseconds("offsets.commit.timeout.ms")),
            offsets_retention_ms: config.int("offsets.retention.minutes").saturating_mul(60_000),
            expiry_interval_ms: config.int("offsets.retention.check.interval.ms"),
            topic_partitions: i32::try_from(config.int("offsets.topic.num.partitions")).unwrap_or(50).max(1),
            topic_replication_factor: i16::try_from(config.int("offsets.topic.replication.factor")).unwrap_or(3).max(1),
            topic_segment_bytes: config.int("offsets.topic.segment.bytes"),
        }
    }
}

#[cfg(test)]
impl ConsumerRules {
    /// The defaults.
    pub const FOR_TESTS: ConsumerRules = ConsumerRules {
        session_ms: 45_000,
        session_min_ms: 6_000,
        session_max_ms: 60_000,
        interval_ms: 3_000,
        interval_min_ms: 1_000,
        interval_max_ms: 15_000,
        size_max: 5_000,
        upgrades: true,
        downgrades: true,
    };
}

#[cfg(test)]
impl Settings {
    /// Kafka's defaults, but no initial delay.
    pub fn for_tests() -> Settings {
        Settings {
            rules: Rules {
                initial_delay_ms: 0,
                session_min_ms: 6_000,
                session_max_ms: 1_800_000,
                group_size_max: 100,
                empty_check_ms: 600_000,
                consumer: ConsumerRules::FOR_TESTS,
            },
            metadata_bytes_max: 4_096,
            commit_timeout: Duration::from_secs(5),
            assignment_timeout: Duration::from_secs(5),
            offsets_retention_ms: 7 * 24 * 3_600_000,
            expiry_interval_ms: 600_000,
            topic_partitions: 50,
            topic_replication_factor: 3,
            topic_segment_bytes: 104_857_600,
        }
    }
}
