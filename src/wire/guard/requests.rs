//! The requests that are served, field by field, in wire order.
//!
//! A version range here is what `kafka-protocol`'s decoder takes, which for OffsetCommit, OffsetFetch and
//! InitProducerId is one less than the highest version that its `ApiKey::valid_versions` names.

use super::schema::{Api, Field, NEVER, blob, fixed, fixeds, one, optional, structs, text, texts};

pub const REQUESTS: &[Api] = &[
    Api::new(0, "Produce", 3, 13, 9, PRODUCE),
    Api::new(1, "Fetch", 4, 18, 12, FETCH),
    Api::new(2, "ListOffsets", 1, 10, 6, LIST_OFFSETS),
    Api::new(3, "Metadata", 0, 13, 9, METADATA),
    Api::new(8, "OffsetCommit", 2, 9, 8, OFFSET_COMMIT),
    Api::new(9, "OffsetFetch", 1, 9, 6, OFFSET_FETCH),
    Api::new(10, "FindCoordinator", 0, 6, 3, FIND_COORDINATOR),
    Api::new(11, "JoinGroup", 0, 9, 6, JOIN_GROUP),
    Api::new(12, "Heartbeat", 0, 4, 4, HEARTBEAT),
    Api::new(13, "LeaveGroup", 0, 5, 4, LEAVE_GROUP),
    Api::new(14, "SyncGroup", 0, 5, 4, SYNC_GROUP),
    Api::new(15, "DescribeGroups", 0, 6, 5, DESCRIBE_GROUPS),
    Api::new(16, "ListGroups", 0, 5, 3, LIST_GROUPS),
    Api::new(18, "ApiVersions", 0, 4, 3, API_VERSIONS),
    Api::new(19, "CreateTopics", 2, 7, 5, CREATE_TOPICS),
    Api::new(20, "DeleteTopics", 1, 6, 4, DELETE_TOPICS),
    Api::new(22, "InitProducerId", 0, 5, 2, INIT_PRODUCER_ID),
    Api::new(23, "OffsetForLeaderEpoch", 2, 4, 4, OFFSET_FOR_LEADER_EPOCH),
    Api::new(32, "DescribeConfigs", 1, 4, 4, DESCRIBE_CONFIGS),
    Api::new(33, "AlterConfigs", 0, 2, 2, ALTER_CONFIGS),
    Api::new(35, "DescribeLogDirs", 1, 4, 2, DESCRIBE_LOG_DIRS),
    Api::new(37, "CreatePartitions", 0, 3, 2, CREATE_PARTITIONS),
    Api::new(42, "DeleteGroups", 0, 2, 2, DELETE_GROUPS),
    Api::new(43, "ElectLeaders", 0, 2, 2, ELECT_LEADERS),
    Api::new(44, "IncrementalAlterConfigs", 0, 1, 1, INCREMENTAL_ALTER_CONFIGS),
    Api::new(45, "AlterPartitionReassignments", 0, 1, 0, ALTER_PARTITION_REASSIGNMENTS),
    Api::new(46, "ListPartitionReassignments", 0, 0, 0, LIST_PARTITION_REASSIGNMENTS),
    Api::new(47, "OffsetDelete", 0, 0, NEVER, OFFSET_DELETE),
    Api::new(55, "DescribeQuorum", 0, 2, 0, DESCRIBE_QUORUM),
    Api::new(60, "DescribeCluster", 0, 2, 0, DESCRIBE_CLUSTER),
    Api::new(64, "UnregisterBroker", 0, 0, 0, UNREGISTER_BROKER),
    Api::new(68, "ConsumerGroupHeartbeat", 0, 1, 0, CONSUMER_GROUP_HEARTBEAT),
    Api::new(69, "ConsumerGroupDescribe", 0, 1, 0, CONSUMER_GROUP_DESCRIBE),
    Api::new(75, "DescribeTopicPartitions", 0, 0, 0, DESCRIBE_TOPIC_PARTITIONS),
    Api::new(80, "AddRaftVoter", 0, 0, 0, ADD_RAFT_VOTER),
    Api::new(81, "RemoveRaftVoter", 0, 0, 0, REMOVE_RAFT_VOTER),
];

const PRODUCE: &[Field] = &[
    text("transactional_id"),
    fixed("acks", 2),
    fixed("timeout_ms", 4),
    structs(
        "topic_data",
        &[
            text("name").until(12),
            fixed("topic_id", 16).since(13),
            structs("partition_data", &[fixed("index", 4), blob("records")]),
        ],
    ),
];

const FETCH: &[Field] = &[
    text("cluster_id").since(12).tag(0),
    fixed("replica_id", 4).until(14),
    one("replica_state", &[fixed("replica_id", 4), fixed("replica_epoch", 8)]).since(15).tag(1),
    fixed("max_wait_ms", 4),
    fixed("min_bytes", 4),
    fixed("max_bytes", 4),
    fixed("isolation_level", 1),
    fixed("session_id", 4).since(7),
    fixed("session_epoch", 4).since(7),
    structs(
        "topics",
        &[
            text("topic").until(12),
            fixed("topic_id", 16).since(13),
            structs(
                "partitions",
                &[
                    fixed("partition", 4),
                    fixed("current_leader_epoch", 4).since(9),
                    fixed("fetch_offset", 8),
                    fixed("last_fetched_epoch", 4).since(12),
                    fixed("log_start_offset", 8).since(5),
                    fixed("partition_max_bytes", 4),
                    fixed("replica_directory_id", 16).since(17).tag(0),
                    fixed("high_watermark", 8).since(18).tag(1),
                ],
            ),
        ],
    ),
    structs(
        "forgotten_topics_data",
        &[text("topic").until(12), fixed("topic_id", 16).since(13), fixeds("partitions", 4)],
    )
    .since(7),
    text("rack_id").since(11),
];

const LIST_OFFSETS: &[Field] = &[
    fixed("replica_id", 4),
    fixed("isolation_level", 1).since(2),
    structs(
        "topics",
        &[
            text("name"),
            structs(
                "partitions",
                &[fixed("partition_index", 4), fixed("current_leader_epoch", 4).since(4), fixed("timestamp", 8)],
            ),
        ],
    ),
    fixed("timeout_ms", 4).since(10),
];

const METADATA: &[Field] = &[
    structs("topics", &[fixed("topic_id", 16).since(10), text("name")]),
    fixed("allow_auto_topic_creation", 1).since(4),
    fixed("include_cluster_authorized_operations", 1).since(8).until(10),
    fixed("include_topic_authorized_operations", 1).since(8),
];

const OFFSET_COMMIT: &[Field] = &[
    text("group_id"),
    fixed("generation_id_or_member_epoch", 4),
    text("member_id"),
    text("group_instance_id").since(7),
    fixed("retention_time_ms", 8).until(4),
    structs(
        "topics",
        &[
            text("name"),
            structs(
                "partitions",
                &[
                    fixed("partition_index", 4),
                    fixed("committed_offset", 8),
                    fixed("committed_leader_epoch", 4).since(6),
                    text("committed_metadata"),
                ],
            ),
        ],
    ),
];

const OFFSET_FETCH: &[Field] = &[
    text("group_id").until(7),
    structs("topics", &[text("name"), fixeds("partition_indexes", 4)]).until(7),
    structs(
        "groups",
        &[
            text("group_id"),
            text("member_id").since(9),
            fixed("member_epoch", 4).since(9),
            structs("topics", &[text("name"), fixeds("partition_indexes", 4)]),
        ],
    )
    .since(8),
    fixed("require_stable", 1).since(7),
];

const FIND_COORDINATOR: &[Field] =
    &[text("key").until(3), fixed("key_type", 1).since(1), texts("coordinator_keys").since(4)];

const JOIN_GROUP: &[Field] = &[
    text("group_id"),
    fixed("session_timeout_ms", 4),
    fixed("rebalance_timeout_ms", 4).since(1),
    text("member_id"),
    text("group_instance_id").since(5),
    text("protocol_type"),
    structs("protocols", &[text("name"), blob("metadata")]),
    text("reason").since(8),
];

const HEARTBEAT: &[Field] =
    &[text("group_id"), fixed("generation_id", 4), text("member_id"), text("group_instance_id").since(3)];

const LEAVE_GROUP: &[Field] = &[
    text("group_id"),
    text("member_id").until(2),
    structs("members", &[text("member_id"), text("group_instance_id"), text("reason").since(5)]).since(3),
];

const SYNC_GROUP: &[Field] = &[
    text("group_id"),
    fixed("generation_id", 4),
    text("member_id"),
    text("group_instance_id").since(3),
    text("protocol_type").since(5),
    text("protocol_name").since(5),
    structs("assignments", &[text("member_id"), blob("assignment")]),
];

const DESCRIBE_GROUPS: &[Field] = &[texts("groups"), fixed("include_authorized_operations", 1).since(3)];

const LIST_GROUPS: &[Field] = &[texts("states_filter").since(4), texts("types_filter").since(5)];

const API_VERSIONS: &[Field] = &[text("client_software_name").since(3), text("client_software_version").since(3)];

const CREATE_TOPICS: &[Field] = &[
    structs(
        "topics",
        &[
            text("name"),
            fixed("num_partitions", 4),
            fixed("replication_factor", 2),
            structs("assignments", &[fixed("partition_index", 4), fixeds("broker_ids", 4)]),
            structs("configs", &[text("name"), text("value")]),
        ],
    ),
    fixed("timeout_ms", 4),
    fixed("validate_only", 1),
];

const DELETE_TOPICS: &[Field] = &[
    structs("topics", &[text("name"), fixed("topic_id", 16)]).since(6),
    texts("topic_names").until(5),
    fixed("timeout_ms", 4),
];

const INIT_PRODUCER_ID: &[Field] = &[
    text("transactional_id"),
    fixed("transaction_timeout_ms", 4),
    fixed("producer_id", 8).since(3),
    fixed("producer_epoch", 2).since(3),
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    fixed("replica_id", 4).since(3),
    structs(
        "topics",
        &[
            text("topic"),
            structs("partitions", &[fixed("partition", 4), fixed("current_leader_epoch", 4), fixed("leader_epoch", 4)]),
        ],
    ),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    structs("resources", &[fixed("resource_type", 1), text("resource_name"), texts("configuration_keys")]),
    fixed("include_synonyms", 1),
    fixed("include_documentation", 1).since(3),
];

const ALTER_CONFIGS: &[Field] = &[
    structs(
        "resources",
        &[fixed("resource_type", 1), text("resource_name"), structs("configs", &[text("name"), text("value")])],
    ),
    fixed("validate_only", 1),
];

const DESCRIBE_LOG_DIRS: &[Field] = &[structs("topics", &[text("topic"), fixeds("partitions", 4)])];

const CREATE_PARTITIONS: &[Field] = &[
    structs("topics", &[text("name"), fixed("count", 4), structs("assignments", &[fixeds("broker_ids", 4)])]),
    fixed("timeout_ms", 4),
    fixed("validate_only", 1),
];

const DELETE_GROUPS: &[Field] = &[texts("groups_names")];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    structs(
        "resources",
        &[
            fixed("resource_type", 1),
            text("resource_name"),
            structs("configs", &[text("name"), fixed("config_operation", 1), text("value")]),
        ],
    ),
    fixed("validate_only", 1),
];

const OFFSET_DELETE: &[Field] =
    &[text("group_id"), structs("topics", &[text("name"), structs("partitions", &[fixed("partition_index", 4)])])];

const DESCRIBE_QUORUM: &[Field] =
    &[structs("topics", &[text("topic_name"), structs("partitions", &[fixed("partition_index", 4)])])];

const ADD_RAFT_VOTER: &[Field] = &[
    text("cluster_id"),
    fixed("timeout_ms", 4),
    fixed("voter_id", 4),
    fixed("voter_directory_id", 16),
    structs("listeners", &[text("name"), text("host"), fixed("port", 2)]),
];

const REMOVE_RAFT_VOTER: &[Field] = &[text("cluster_id"), fixed("voter_id", 4), fixed("voter_directory_id", 16)];

const DESCRIBE_CLUSTER: &[Field] = &[
    fixed("include_cluster_authorized_operations", 1),
    fixed("endpoint_type", 1).since(1),
    fixed("include_fenced_brokers", 1).since(2),
];

const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    structs("topics", &[text("name")]),
    fixed("response_partition_limit", 4),
    optional("cursor", &[text("topic_name"), fixed("partition_index", 4)]),
];

const ELECT_LEADERS: &[Field] = &[
    fixed("election_type", 1).since(1),
    structs("topic_partitions", &[text("topic"), fixeds("partitions", 4)]),
    fixed("timeout_ms", 4),
];

const ALTER_PARTITION_REASSIGNMENTS: &[Field] = &[
    fixed("timeout_ms", 4),
    fixed("allow_replication_factor_change", 1).since(1),
    structs("topics", &[text("name"), structs("partitions", &[fixed("partition_index", 4), fixeds("replicas", 4)])]),
];

const LIST_PARTITION_REASSIGNMENTS: &[Field] =
    &[fixed("timeout_ms", 4), structs("topics", &[text("name"), fixeds("partition_indexes", 4)])];

const UNREGISTER_BROKER: &[Field] = &[fixed("broker_id", 4)];

const CONSUMER_GROUP_HEARTBEAT: &[Field] = &[
    text("group_id"),
    text("member_id"),
    fixed("member_epoch", 4),
    text("instance_id"),
    text("rack_id"),
    fixed("rebalance_timeout_ms", 4),
    texts("subscribed_topic_names"),
    text("subscribed_topic_regex").since(1),
    text("server_assignor"),
    structs("topic_partitions", &[fixed("topic_id", 16), fixeds("partitions", 4)]),
];

const CONSUMER_GROUP_DESCRIBE: &[Field] = &[texts("group_ids"), fixed("include_authorized_operations", 1)];
