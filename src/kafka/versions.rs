//! Which APIs are served in which versions; what ApiVersions advertises is this table and nothing else.

/// One served API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    pub key: i16,
    /// The lowest version told to clients; below `min` only where clients need to be told so.
    pub advertised_min: i16,
    pub min: i16,
    pub max: i16,
    /// Served on the replica listener too.
    pub for_replicas: bool,
}

impl Api {
    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;
pub const LIST_OFFSETS: i16 = 2;
pub const METADATA: i16 = 3;
pub const OFFSET_COMMIT: i16 = 8;
pub const OFFSET_FETCH: i16 = 9;
pub const FIND_COORDINATOR: i16 = 10;
pub const JOIN_GROUP: i16 = 11;
pub const HEARTBEAT: i16 = 12;
pub const LEAVE_GROUP: i16 = 13;
pub const SYNC_GROUP: i16 = 14;
pub const DESCRIBE_GROUPS: i16 = 15;
pub const LIST_GROUPS: i16 = 16;
pub const API_VERSIONS: i16 = 18;
pub const CREATE_TOPICS: i16 = 19;
pub const DELETE_TOPICS: i16 = 20;
pub const INIT_PRODUCER_ID: i16 = 22;
pub const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
pub const DESCRIBE_CONFIGS: i16 = 32;
pub const DESCRIBE_LOG_DIRS: i16 = 35;
pub const CREATE_PARTITIONS: i16 = 37;
pub const DELETE_GROUPS: i16 = 42;
pub const ELECT_LEADERS: i16 = 43;
pub const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
pub const ALTER_PARTITION_REASSIGNMENTS: i16 = 45;
pub const LIST_PARTITION_REASSIGNMENTS: i16 = 46;
pub const OFFSET_DELETE: i16 = 47;
pub const DESCRIBE_QUORUM: i16 = 55;
pub const DESCRIBE_CLUSTER: i16 = 60;
pub const UNREGISTER_BROKER: i16 = 64;
pub const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
pub const CONSUMER_GROUP_DESCRIBE: i16 = 69;
pub const ADD_RAFT_VOTER: i16 = 80;
pub const REMOVE_RAFT_VOTER: i16 = 81;

const fn client(key: i16, min: i16, max: i16) -> Api {
    Api { key, advertised_min: min, min, max, for_replicas: false }
}

const fn both(key: i16, min: i16, max: i16) -> Api {
    Api { key, advertised_min: min, min, max, for_replicas: true }
}

/// Sorted by key.
pub const TABLE: &[Api] = &[
    // librdkafka takes a broker without Produce 0 for one that cannot take compressed batches.
    Api { key: PRODUCE, advertised_min: 0, min: 3, max: 13, for_replicas: false },
    both(FETCH, 4, 18),
    client(LIST_OFFSETS, 1, 10),
    client(METADATA, 0, 13),
    client(OFFSET_COMMIT, 2, 10),
    client(OFFSET_FETCH, 1, 10),
    client(FIND_COORDINATOR, 0, 6),
    client(JOIN_GROUP, 0, 9),
    client(HEARTBEAT, 0, 4),
    client(LEAVE_GROUP, 0, 5),
    client(SYNC_GROUP, 0, 5),
    client(DESCRIBE_GROUPS, 0, 6),
    client(LIST_GROUPS, 0, 5),
    both(API_VERSIONS, 0, 4),
    client(CREATE_TOPICS, 2, 7),
    client(DELETE_TOPICS, 1, 6),
    client(INIT_PRODUCER_ID, 0, 5),
    both(OFFSET_FOR_LEADER_EPOCH, 2, 4),
    client(DESCRIBE_CONFIGS, 1, 4),
    client(DESCRIBE_LOG_DIRS, 1, 4),
    client(CREATE_PARTITIONS, 0, 3),
    client(DELETE_GROUPS, 0, 2),
    client(ELECT_LEADERS, 0, 2),
    client(INCREMENTAL_ALTER_CONFIGS, 0, 1),
    client(ALTER_PARTITION_REASSIGNMENTS, 0, 1),
    client(LIST_PARTITION_REASSIGNMENTS, 0, 0),
    client(OFFSET_DELETE, 0, 0),
    client(DESCRIBE_QUORUM, 0, 2),
    client(DESCRIBE_CLUSTER, 0, 2),
    client(UNREGISTER_BROKER, 0, 0),
    client(CONSUMER_GROUP_HEARTBEAT, 0, 1),
    client(CONSUMER_GROUP_DESCRIBE, 0, 1),
    client(ADD_RAFT_VOTER, 0, 1),
    client(REMOVE_RAFT_VOTER, 0, 0),
];

/// The served APIs of a kind of listener.
pub fn served(is_replica_listener: bool) -> impl Iterator<Item = &'static Api> {
    TABLE.iter().filter(move |api| api.for_replicas || !is_replica_listener)
}

pub fn find(key: i16, is_replica_listener: bool) -> Option<&'static Api> {
    served(is_replica_listener).find(|api| api.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::{offset_requests, quorum};
    use crate::wire::guard;
    use kafka_protocol::messages::ApiKey;

    #[test]
    fn the_table_is_sorted_and_every_version_can_be_decoded_and_encoded() {
        assert!(TABLE.windows(2).all(|pair| pair[0].key < pair[1].key));
        for api in TABLE {
            let known = ApiKey::try_from(api.key).expect("a known key").valid_versions();
            let newest = if api.key == ADD_RAFT_VOTER { quorum::WITH_ACK } else { known.max };
            assert!(known.min <= api.min && api.max <= newest, "key {}: {known} is known", api.key);
            assert!(api.advertised_min <= api.min && api.min <= api.max, "key {}", api.key);
            let guarded = guard::request_api(api.key).expect("a guarded key");
            let by_hand = |version| match api.key {
                OFFSET_COMMIT | OFFSET_FETCH => version == offset_requests::BY_ID,
                ADD_RAFT_VOTER => version == quorum::WITH_ACK,
                _ => false,
            };
            assert!((api.min..=api.max).all(|version| guarded.knows(version) || by_hand(version)), "key {}", api.key);
            assert!(api.advertised_min == api.min || api.key == PRODUCE, "key {}", api.key);
        }
    }

    #[test]
    fn the_replica_listener_serves_only_what_followers_need() {
        let keys: Vec<i16> = served(true).map(|api| api.key).collect();
        assert_eq!(keys, [FETCH, API_VERSIONS, OFFSET_FOR_LEADER_EPOCH]);
        assert!(find(PRODUCE, true).is_none());
        assert_eq!(served(false).count(), TABLE.len());
    }

    #[test]
    fn produce_is_advertised_from_0_and_served_from_3() {
        let produce = find(PRODUCE, false).unwrap();
        assert_eq!((produce.advertised_min, produce.max), (0, 13));
        assert!(!produce.serves(2) && produce.serves(3));
    }
}
