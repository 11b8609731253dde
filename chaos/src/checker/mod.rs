//! Judges a history, after Jepsen's Kafka workload: pure, so each anomaly has a tiny history that shows it.
//!
//! ```text
//! sends + reads + what is there at the end ─→ values (lost, duplicate, order) ─┐
//! polls of each reader ─→ polls (gaps, going back)                            ├─→ anomalies, each with its evidence
//! commits, members' reads ─→ group (at least once)                            ─┤
//! who owned what when ─→ owners (one at a time, never back)                   ─┘
//! ```

mod group;
mod owners;
mod polls;
mod values;
mod verdict;

#[cfg(test)]
mod tests;

pub use verdict::{Anomaly, Kind, Verdict, check};
