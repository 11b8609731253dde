//! Consumer groups: the coordinator is the leader of the group's `__consumer_offsets` partition.

pub mod coordinator;
