//! What a group is to its offsets: may they be deleted, do they grow old.

use super::cell::Entry;
use super::classic::Phase;
use super::subscription::{self, CONSUMER};
use crate::metadata::image::Image;
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Deleted, or another broker's by now.
    Dead,
    /// Nobody ever joined: its consumers assign partitions to themselves.
    Standalone,
    Empty {
        /// When the last member went, by its coordinator's wall clock; `None` where nobody wrote it down.
        since_ms: Option<i64>,
    },
    Live {
        /// The members speak the consumer protocol, so it can be told which topics they want.
        consumers: bool,
        /// No rebalance is under way.
        settled: bool,
        /// `None` where a member's subscription cannot be read.
        subscribed: Option<BTreeSet<String>>,
    },
}

impl Standing {
    pub fn of(group: &str, entry: &Entry, image: &Image) -> Standing {
        let machine = &entry.machine;
        match machine.phase() {
            Phase::Dead => Standing::Dead,
            Phase::Empty if machine.protocol_type().is_empty() => Standing::Standalone,
            Phase::Empty => Standing::Empty { since_ms: None },
            phase => {
                let consumers = machine.protocol_type() == CONSUMER;
                Standing::Live {
                    consumers,
                    settled: phase == Phase::Stable,
                    subscribed: if consumers { subscribed(group, image) } else { None },
                }
            }
        }
    }
}

/// All that any member of the committed generation subscribes to, in whatever protocol.
fn subscribed(group: &str, image: &Image) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for member in image.groups.groups.get(group).iter().flat_map(|group| group.members.values()) {
        for (_, metadata) in &member.protocols {
            all.extend(subscription::topics(metadata)?);
        }
    }
    Some(all)
}
