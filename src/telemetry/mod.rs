//! Metrics, logging set-up and health.

pub mod health;
pub mod metrics;
pub mod tracing;
