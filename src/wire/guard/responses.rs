//! The responses that our own client reads, field by field, in wire order.

use super::schema::{Api, Field, NEVER, blob, fixed, fixeds, one, optional, structs, text, texts};

pub const RESPONSES: &[Api] = &[
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
    Api::new(80, "AddRaftVoter", 0, 0, 0, RAFT_VOTER),
    Api::new(81, "RemoveRaftVoter", 0, 0, 0, RAFT_VOTER),
];

const PRODUCE: &[Field] = &[
    structs(
        "responses",
        &[
            text("name").until(12),
            fixed("topic_id", 16).since(13),
            structs(
                "partition_responses",
                &[
                    fixed("index", 4),
                    fixed("error_code", 2),
                    fixed("base_offset", 8),
                    fixed("log_append_time_ms", 8),
                    fixed("log_start_offset", 8).since(5),
                    structs("record_errors", &[fixed("batch_index", 4), text("batch_index_error_message")]).since(8),
                    text("error_message").since(8),
                    one("current_leader", &[fixed("leader_id", 4), fixed("leader_epoch", 4)]).since(10).tag(0),
                ],
            ),
        ],
    ),
    fixed("throttle_time_ms", 4),
    structs("node_endpoints", &[fixed("node_id", 4), text("host"), fixed("port", 4), text("rack")]).since(10).tag(0),
];

const FETCH: &[Field] = &[
    fixed("throttle_time_ms", 4),
    fixed("error_code", 2).since(7),
    fixed("session_id", 4).since(7),
    structs(
        "responses",
        &[
            text("topic").until(12),
            fixed("topic_id", 16).since(13),
            structs(
                "partitions",
                &[
                    fixed("partition_index", 4),
                    fixed("error_code", 2),
                    fixed("high_watermark", 8),
                    fixed("last_stable_offset", 8),
                    fixed("log_start_offset", 8).since(5),
                    one("diverging_epoch", &[fixed("epoch", 4), fixed("end_offset", 8)]).since(12).tag(0),
                    one("current_leader", &[fixed("leader_id", 4), fixed("leader_epoch", 4)]).since(12).tag(1),
                    one("snapshot_id", &[fixed("end_offset", 8), fixed("epoch", 4)]).since(12).tag(2),
                    structs("aborted_transactions", &[fixed("producer_id", 8), fixed("first_offset", 8)]),
                    fixed("preferred_read_replica", 4).since(11),
                    blob("records"),
                ],
            ),
        ],
    ),
    structs("node_endpoints", &[fixed("node_id", 4), text("host"), fixed("port", 4), text("rack")]).since(16).tag(0),
];

const LIST_OFFSETS: &[Field] = &[
    fixed("throttle_time_ms", 4).since(2),
    structs(
        "topics",
        &[
            text("name"),
            structs(
                "partitions",
                &[
                    fixed("partition_index", 4),
                    fixed("error_code", 2),
                    fixed("timestamp", 8),
                    fixed("offset", 8),
                    fixed("leader_epoch", 4).since(4),
                ],
            ),
        ],
    ),
];

const METADATA: &[Field] = &[
    fixed("throttle_time_ms", 4).since(3),
    structs("brokers", &[fixed("node_id", 4), text("host"), fixed("port", 4), text("rack").since(1)]),
    text("cluster_id").since(2),
    fixed("controller_id", 4).since(1),
    structs(
        "topics",
        &[
            fixed("error_code", 2),
            text("name"),
            fixed("topic_id", 16).since(10),
            fixed("is_internal", 1).since(1),
            structs(
                "partitions",
                &[
                    fixed("error_code", 2),
                    fixed("partition_index", 4),
                    fixed("leader_id", 4),
                    fixed("leader_epoch", 4).since(7),
                    fixeds("replica_nodes", 4),
                    fixeds("isr_nodes", 4),
                    fixeds("offline_replicas", 4).since(5),
                ],
            ),
            fixed("topic_authorized_operations", 4).since(8),
        ],
    ),
    fixed("cluster_authorized_operations", 4).since(8).until(10),
    fixed("error_code", 2).since(13),
];

const OFFSET_COMMIT: &[Field] = &[
    fixed("throttle_time_ms", 4).since(3),
    structs(
        "topics",
        &[
            text("name").until(9),
            fixed("topic_id", 16).since(10),
            structs("partitions", &[fixed("partition_index", 4), fixed("error_code", 2)]),
        ],
    ),
];

const OFFSET_FETCH: &[Field] = &[
    fixed("throttle_time_ms", 4).since(3),
    structs(
        "topics",
        &[
            text("name"),
            structs(
                "partitions",
                &[
                    fixed("partition_index", 4),
                    fixed("committed_offset", 8),
                    fixed("committed_leader_epoch", 4).since(5),
                    text("metadata"),
                    fixed("error_code", 2),
                ],
            ),
        ],
    )
    .until(7),
    fixed("error_code", 2).since(2).until(7),
    structs(
        "groups",
        &[
            text("group_id"),
            structs(
                "topics",
                &[
                    text("name").until(9),
                    fixed("topic_id", 16).since(10),
                    structs(
                        "partitions",
                        &[
                            fixed("partition_index", 4),
                            fixed("committed_offset", 8),
                            fixed("committed_leader_epoch", 4),
                            text("metadata"),
                            fixed("error_code", 2),
                        ],
                    ),
                ],
            ),
            fixed("error_code", 2),
        ],
    )
    .since(8),
];

const FIND_COORDINATOR: &[Field] = &[
    fixed("throttle_time_ms", 4).since(1),
    fixed("error_code", 2).until(3),
    text("error_message").since(1).until(3),
    fixed("node_id", 4).until(3),
    text("host").until(3),
    fixed("port", 4).until(3),
    structs(
        "coordinators",
        &[
            text("key"),
            fixed("node_id", 4),
            text("host"),
            fixed("port", 4),
            fixed("error_code", 2),
            text("error_message"),
        ],
    )
    .since(4),
];

const JOIN_GROUP: &[Field] = &[
    fixed("throttle_time_ms", 4).since(2),
    fixed("error_code", 2),
    fixed("generation_id", 4),
    text("protocol_type").since(7),
    text("protocol_name"),
    text("leader"),
    fixed("skip_assignment", 1).since(9),
    text("member_id"),
    structs("members", &[text("member_id"), text("group_instance_id").since(5), blob("metadata")]),
];

const HEARTBEAT: &[Field] = &[fixed("throttle_time_ms", 4).since(1), fixed("error_code", 2)];

const LEAVE_GROUP: &[Field] = &[
    fixed("throttle_time_ms", 4).since(1),
    fixed("error_code", 2),
    structs("members", &[text("member_id"), text("group_instance_id"), fixed("error_code", 2)]).since(3),
];

const SYNC_GROUP: &[Field] = &[
    fixed("throttle_time_ms", 4).since(1),
    fixed("error_code", 2),
    text("protocol_type").since(5),
    text("protocol_name").since(5),
    blob("assignment"),
];

const DESCRIBE_GROUPS: &[Field] = &[
    fixed("throttle_time_ms", 4).since(1),
    structs(
        "groups",
        &[
            fixed("error_code", 2),
            text("error_message").since(6),
            text("group_id"),
            text("group_state"),
            text("protocol_type"),
            text("protocol_data"),
            structs(
                "members",
                &[
                    text("member_id"),
                    text("group_instance_id").since(4),
                    text("client_id"),
                    text("client_host"),
                    blob("member_metadata"),
                    blob("member_assignment"),
                ],
            ),
            fixed("authorized_operations", 4).since(3),
        ],
    ),
];

const LIST_GROUPS: &[Field] = &[
    fixed("throttle_time_ms", 4).since(1),
    fixed("error_code", 2),
    structs(
        "groups",
        &[text("group_id"), text("protocol_type"), text("group_state").since(4), text("group_type").since(5)],
    ),
];

const API_VERSIONS: &[Field] = &[
    fixed("error_code", 2),
    structs("api_keys", &[fixed("api_key", 2), fixed("min_version", 2), fixed("max_version", 2)]),
    fixed("throttle_time_ms", 4).since(1),
    structs("supported_features", &[text("name"), fixed("min_version", 2), fixed("max_version", 2)]).since(3).tag(0),
    fixed("finalized_features_epoch", 8).since(3).tag(1),
    structs("finalized_features", &[text("name"), fixed("max_version_level", 2), fixed("min_version_level", 2)])
        .since(3)
        .tag(2),
    fixed("zk_migration_ready", 1).since(3).tag(3),
];

const CREATE_TOPICS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    structs(
        "topics",
        &[
            text("name"),
            fixed("topic_id", 16).since(7),
            fixed("error_code", 2),
            text("error_message"),
            fixed("topic_config_error_code", 2).since(5).tag(0),
            fixed("num_partitions", 4).since(5),
            fixed("replication_factor", 2).since(5),
            structs(
                "configs",
                &[
                    text("name"),
                    text("value"),
                    fixed("read_only", 1),
                    fixed("config_source", 1),
                    fixed("is_sensitive", 1),
                ],
            )
            .since(5),
        ],
    ),
];

const DELETE_TOPICS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    structs(
        "responses",
        &[text("name"), fixed("topic_id", 16).since(6), fixed("error_code", 2), text("error_message").since(5)],
    ),
];

const INIT_PRODUCER_ID: &[Field] = &[
    fixed("throttle_time_ms", 4),
    fixed("error_code", 2),
    fixed("producer_id", 8),
    fixed("producer_epoch", 2),
    fixed("ongoing_txn_producer_id", 8).since(6),
    fixed("ongoing_txn_producer_epoch", 2).since(6),
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    fixed("throttle_time_ms", 4),
    structs(
        "topics",
        &[
            text("topic"),
            structs(
                "partitions",
                &[fixed("error_code", 2), fixed("partition", 4), fixed("leader_epoch", 4), fixed("end_offset", 8)],
            ),
        ],
    ),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    structs(
        "results",
        &[
            fixed("error_code", 2),
            text("error_message"),
            fixed("resource_type", 1),
            text("resource_name"),
            structs(
                "configs",
                &[
                    text("name"),
                    text("value"),
                    fixed("read_only", 1),
                    fixed("config_source", 1),
                    fixed("is_sensitive", 1),
                    structs("synonyms", &[text("name"), text("value"), fixed("source", 1)]),
                    fixed("config_type", 1).since(3),
                    text("documentation").since(3),
                ],
            ),
        ],
    ),
];

const ALTER_CONFIGS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    structs(
        "responses",
        &[fixed("error_code", 2), text("error_message"), fixed("resource_type", 1), text("resource_name")],
    ),
];

const DESCRIBE_LOG_DIRS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    fixed("error_code", 2).since(3),
    structs(
        "results",
        &[
            fixed("error_code", 2),
            text("log_dir"),
            structs(
                "topics",
                &[
                    text("name"),
                    structs(
                        "partitions",
                        &[
                            fixed("partition_index", 4),
                            fixed("partition_size", 8),
                            fixed("offset_lag", 8),
                            fixed("is_future_key", 1),
                        ],
                    ),
                ],
            ),
            fixed("total_bytes", 8).since(4),
            fixed("usable_bytes", 8).since(4),
        ],
    ),
];

const CREATE_PARTITIONS: &[Field] =
    &[fixed("throttle_time_ms", 4), structs("results", &[text("name"), fixed("error_code", 2), text("error_message")])];

const DELETE_GROUPS: &[Field] =
    &[fixed("throttle_time_ms", 4), structs("results", &[text("group_id"), fixed("error_code", 2)])];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    structs(
        "responses",
        &[fixed("error_code", 2), text("error_message"), fixed("resource_type", 1), text("resource_name")],
    ),
];

const OFFSET_DELETE: &[Field] = &[
    fixed("error_code", 2),
    fixed("throttle_time_ms", 4),
    structs("topics", &[text("name"), structs("partitions", &[fixed("partition_index", 4), fixed("error_code", 2)])]),
];

const QUORUM_REPLICA: &[Field] = &[
    fixed("replica_id", 4),
    fixed("replica_directory_id", 16).since(2),
    fixed("log_end_offset", 8),
    fixed("last_fetch_timestamp", 8).since(1),
    fixed("last_caught_up_timestamp", 8).since(1),
];

const DESCRIBE_QUORUM: &[Field] = &[
    fixed("error_code", 2),
    text("error_message").since(2),
    structs(
        "topics",
        &[
            text("topic_name"),
            structs(
                "partitions",
                &[
                    fixed("partition_index", 4),
                    fixed("error_code", 2),
                    text("error_message").since(2),
                    fixed("leader_id", 4),
                    fixed("leader_epoch", 4),
                    fixed("high_watermark", 8),
                    structs("current_voters", QUORUM_REPLICA),
                    structs("observers", QUORUM_REPLICA),
                ],
            ),
        ],
    ),
    structs("nodes", &[fixed("node_id", 4), structs("listeners", &[text("name"), text("host"), fixed("port", 2)])])
        .since(2),
];

const RAFT_VOTER: &[Field] = &[fixed("throttle_time_ms", 4), fixed("error_code", 2), text("error_message")];

const DESCRIBE_CLUSTER: &[Field] = &[
    fixed("throttle_time_ms", 4),
    fixed("error_code", 2),
    text("error_message"),
    fixed("endpoint_type", 1).since(1),
    text("cluster_id"),
    fixed("controller_id", 4),
    structs(
        "brokers",
        &[fixed("broker_id", 4), text("host"), fixed("port", 4), text("rack"), fixed("is_fenced", 1).since(2)],
    ),
    fixed("cluster_authorized_operations", 4),
];

const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    structs(
        "topics",
        &[
            fixed("error_code", 2),
            text("name"),
            fixed("topic_id", 16),
            fixed("is_internal", 1),
            structs(
                "partitions",
                &[
                    fixed("error_code", 2),
                    fixed("partition_index", 4),
                    fixed("leader_id", 4),
                    fixed("leader_epoch", 4),
                    fixeds("replica_nodes", 4),
                    fixeds("isr_nodes", 4),
                    fixeds("eligible_leader_replicas", 4),
                    fixeds("last_known_elr", 4),
                    fixeds("offline_replicas", 4),
                ],
            ),
            fixed("topic_authorized_operations", 4),
        ],
    ),
    optional("next_cursor", &[text("topic_name"), fixed("partition_index", 4)]),
];

const ELECT_LEADERS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    fixed("error_code", 2).since(1),
    structs(
        "replica_election_results",
        &[
            text("topic"),
            structs("partition_result", &[fixed("partition_id", 4), fixed("error_code", 2), text("error_message")]),
        ],
    ),
];

const ALTER_PARTITION_REASSIGNMENTS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    fixed("allow_replication_factor_change", 1).since(1),
    fixed("error_code", 2),
    text("error_message"),
    structs(
        "responses",
        &[
            text("name"),
            structs("partitions", &[fixed("partition_index", 4), fixed("error_code", 2), text("error_message")]),
        ],
    ),
];

const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[
    fixed("throttle_time_ms", 4),
    fixed("error_code", 2),
    text("error_message"),
    structs(
        "topics",
        &[
            text("name"),
            structs(
                "partitions",
                &[
                    fixed("partition_index", 4),
                    fixeds("replicas", 4),
                    fixeds("adding_replicas", 4),
                    fixeds("removing_replicas", 4),
                ],
            ),
        ],
    ),
];

const UNREGISTER_BROKER: &[Field] = &[fixed("throttle_time_ms", 4), fixed("error_code", 2), text("error_message")];

const CONSUMER_GROUP_HEARTBEAT: &[Field] = &[
    fixed("throttle_time_ms", 4),
    fixed("error_code", 2),
    text("error_message"),
    text("member_id"),
    fixed("member_epoch", 4),
    fixed("heartbeat_interval_ms", 4),
    optional("assignment", &[structs("topic_partitions", &[fixed("topic_id", 16), fixeds("partitions", 4)])]),
];

const DESCRIBED_ASSIGNMENT: &[Field] =
    &[structs("topic_partitions", &[fixed("topic_id", 16), text("topic_name"), fixeds("partitions", 4)])];

const CONSUMER_GROUP_DESCRIBE: &[Field] = &[
    fixed("throttle_time_ms", 4),
    structs(
        "groups",
        &[
            fixed("error_code", 2),
            text("error_message"),
            text("group_id"),
            text("group_state"),
            fixed("group_epoch", 4),
            fixed("assignment_epoch", 4),
            text("assignor_name"),
            structs(
                "members",
                &[
                    text("member_id"),
                    text("instance_id"),
                    text("rack_id"),
                    fixed("member_epoch", 4),
                    text("client_id"),
                    text("client_host"),
                    texts("subscribed_topic_names"),
                    text("subscribed_topic_regex"),
                    one("assignment", DESCRIBED_ASSIGNMENT),
                    one("target_assignment", DESCRIBED_ASSIGNMENT),
                    fixed("member_type", 1).since(1),
                ],
            ),
            fixed("authorized_operations", 4),
        ],
    ),
];
