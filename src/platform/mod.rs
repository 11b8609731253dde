//! The seam to the machine: clock, disk, network, chance. Only this room names `std::fs`, `Instant::now`,
//! `SystemTime::now`, `tokio::net` and `rand` (enforced in `clippy.toml`).

pub mod bugs;
pub mod clock;
pub mod disk;
pub mod network;
pub mod probe;
pub mod process;
pub mod random;
