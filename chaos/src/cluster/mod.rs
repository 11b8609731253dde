//! The cluster under test: processes, the network between them, their disks.
//!
//! ```text
//! outer process: makes the namespaces ─→ runs itself inside the hub ─→ removes them, whatever happened
//!                       hub: bridge 10.77.0.254, this program, its clients
//!                        ├── node 1: 10.77.0.1
//!                        ├── node 2: 10.77.0.2        iptables in a node's namespace cut its links
//!                        └── node 3: 10.77.0.3
//! ```

pub mod cli;
pub mod disk;
pub mod layout;
pub mod namespaces;
pub mod network;
pub mod node;
pub mod nodes;
pub mod threads;
