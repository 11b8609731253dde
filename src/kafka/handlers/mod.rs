//! One file per group of APIs.

pub mod classic_group;
pub mod find_coordinator;
pub mod offset_requests;
pub mod offsets;
