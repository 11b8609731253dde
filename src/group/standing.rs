//! What a group is to its offsets: may they be deleted, do they grow old.

use super::cell::Entry;
use super::machine::Machine;
use super::subscription::{self, CONSUMER};
use crate::metadata::group_change::GroupMember;
use crate::metadata::image::Image;
use crate::metadata::image::groups::Group;
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
        /// By name; `None` where that is not known of every member: then it may be any topic.
        subscribed: Option<BTreeSet<String>>,
    },
}

impl Standing {
    pub fn of(group: &str, entry: &Entry, image: &Image) -> Standing {
        let machine = &entry.machine;
        let stored = image.groups.groups.get(group);
        if machine.is_dead() {
            return Standing::Dead;
        }
        if !machine.is_empty() {
            let consumers = machine.protocol_type() == CONSUMER;
            return Standing::Live {
                consumers,
                settled: machine.state_name() == "Stable",
                subscribed: if consumers { subscribed(machine, stored.map(|stored| &**stored)) } else { None },
            };
        }
        if machine.protocol_type().is_empty() {
            return Standing::Standalone;
        }
        let last = stored.and_then(|stored| stored.history.last());
        Standing::Empty { since_ms: last.filter(|last| last.members == 0).map(|last| last.at_ms) }
    }
}

/// All that any member subscribes to, in whatever protocol. Of a classic group as its members say now, so that those
/// count too whose generation is not committed yet.
fn subscribed(machine: &Machine, stored: Option<&Group>) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    match machine {
        Machine::Classic(group) => {
            for metadata in group.metadata() {
                all.extend(subscription::topics(&metadata)?);
            }
        }
        Machine::Consumer(_) => {
            for member in stored?.members.values() {
                match &**member {
                    GroupMember::Consumer(member) if member.subscribed_regex.as_deref().unwrap_or("").is_empty() => {
                        all.extend(member.subscribed_topics.iter().cloned());
                    }
                    // What a pattern matches is not written down; a classic member here is left of a torn write.
                    GroupMember::Consumer(_) | GroupMember::Classic(_) => return None,
                }
            }
        }
    }
    Some(all)
}
