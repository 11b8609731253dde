//! The follower's side: one fetcher per leader broker (and durability), and how replicas are configured.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// A follower silent or behind for this long leaves the ISR.
    pub lag_time_max: Duration,
    /// Bytes per fetch in all and per partition.
    pub fetch_bytes_max: usize,
    pub fetch_partition_bytes_max: usize,
    pub fetch_wait_max: Duration,
    pub retention_check_interval: Duration,
}
