//! One file per group of APIs.

pub mod api_versions;
pub mod classic_group;
pub mod cluster;
pub mod configs;
pub mod configs_alter;
pub mod consumer_group;
pub mod elections;
pub mod epochs;
pub mod fetch;
pub mod fetch_frame;
pub mod fetch_round;
pub mod fetch_session;
pub mod fetch_session_cache;
pub mod find_coordinator;
pub mod init_producer_id;
pub mod list_offsets;
pub mod metadata;
pub mod offset_delete;
pub mod offset_requests;
pub mod offsets;
pub mod produce;
pub mod produce_legacy;
pub mod produce_records;
pub mod quorum;
pub mod reassignments;
pub mod topics;
