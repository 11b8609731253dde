//! Newtypes for every number that names or fences something.
//!
//! An offset is not a count, a leader epoch is not a partition epoch: the compiler keeps them apart.
//! Numbers that fence: see `docs/architecture.md`, "Numbers that fence".

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(value: Uuid) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// A node's id: the `node.id` of its configuration, Kafka's broker id.
    BrokerId(i32)
);
number!(
    /// The position of a record in a partition; an "end" offset is one past the last record.
    Offset(i64)
);
number!(
    /// Bumped each time a partition gets a leader; stamped into every batch (KIP-101).
    LeaderEpoch(i32)
);
number!(
    /// Bumped by any change of a partition's leader, ISR, ELR or replicas (KIP-497).
    PartitionEpoch(i32)
);
number!(
    /// The Raft index of a broker's registration: a new process has a larger one (KIP-631).
    BrokerEpoch(i64)
);
number!(
    /// An idempotent or transactional producer (KIP-98); −1 means none.
    ProducerId(i64)
);
number!(
    /// Fences older producers of the same producer id; −1 means none.
    ProducerEpoch(i16)
);
number!(
    /// An index in the metadata Raft log.
    RaftIndex(u64)
);
identity!(
    /// Names a topic for ever; a topic deleted and created again has another.
    TopicId
);
identity!(
    /// Names one data folder: a wiped folder is a different node (KIP-853).
    DirectoryId
);
identity!(
    /// Names one run of a broker process.
    IncarnationId
);
identity!(
    /// Names the cluster, fixed when it forms.
    ClusterId
);

impl Offset {
    pub const ZERO: Offset = Offset(0);

    /// The offset `count` records further on.
    pub fn plus(self, count: i64) -> Offset {
        Offset(self.0 + count)
    }
}

impl Add<i64> for Offset {
    type Output = Offset;
    fn add(self, count: i64) -> Offset {
        Offset(self.0 + count)
    }
}

impl AddAssign<i64> for Offset {
    fn add_assign(&mut self, count: i64) {
        self.0 += count;
    }
}

impl Sub<Offset> for Offset {
    type Output = i64;
    fn sub(self, other: Offset) -> i64 {
        self.0 - other.0
    }
}

impl LeaderEpoch {
    /// "No epoch known" on the wire.
    pub const NONE: LeaderEpoch = LeaderEpoch(-1);
    pub fn next(self) -> LeaderEpoch {
        LeaderEpoch(self.0 + 1)
    }
}

impl PartitionEpoch {
    pub fn next(self) -> PartitionEpoch {
        PartitionEpoch(self.0 + 1)
    }
}

impl ProducerId {
    pub const NONE: ProducerId = ProducerId(-1);
}

/// One partition of one topic, by id: what folders, fetches and elections are keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    pub topic: TopicId,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: TopicId, partition: i32) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
