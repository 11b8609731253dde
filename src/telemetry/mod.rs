//! Health: how far a node is, and why.

pub mod health;
