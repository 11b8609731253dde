//! Do all nodes hold the same metadata (invariant 5)? Every thousandth image is hashed on each node, heartbeats carry the
//! newest hash, and the controller compares those of one index. Pure.
//!
//! Nobody's image is right by rank: the one that differs from a majority is wrong, the controller's own included. Without
//! a majority nobody is stopped. Nodes of different releases are not compared, since an encoding may have grown.

use crate::ids::*;
use std::collections::BTreeMap;

/// What one broker said of its image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    index: RaftIndex,
    hash: u64,
    release: String,
}

/// Bound: the brokers that have sent a heartbeat; one that is gone is dropped when it is not registered any more.
#[derive(Debug, Default)]
pub struct Agreement {
    reports: BTreeMap<BrokerId, Report>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As the others, or nothing to compare with.
    Agrees,
    /// Two images, and no majority for either.
    Disputed,
    /// Most others hold another image at this index.
    Differs,
}

impl Agreement {
    /// A heartbeat's hash; index 0 means that there is none yet.
    pub fn report(&mut self, broker: BrokerId, index: RaftIndex, hash: u64, release: &str) -> Finding {
        if index == RaftIndex(0) {
            return Finding::Agrees;
        }
        let report = Report { index, hash, release: release.to_string() };
        self.reports.insert(broker, report.clone());
        let mut counts = BTreeMap::<u64, usize>::new();
        for other in self.reports.values().filter(|o| o.index == report.index && o.release == report.release) {
            *counts.entry(other.hash).or_default() += 1;
        }
        let all: usize = counts.values().sum();
        let most = counts.iter().max_by_key(|(_, count)| **count).map(|(hash, count)| (*hash, *count));
        match most {
            _ if counts.len() <= 1 => Finding::Agrees,
            Some((most, count)) if count * 2 > all => {
                if most == hash {
                    Finding::Agrees
                } else {
                    Finding::Differs
                }
            }
            _ => Finding::Disputed,
        }
    }

    pub fn retain(&mut self, is_registered: impl Fn(BrokerId) -> bool) {
        self.reports.retain(|broker, _| is_registered(*broker));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(agreement: &mut Agreement, broker: i32, index: u64, hash: u64) -> Finding {
        agreement.report(BrokerId(broker), RaftIndex(index), hash, "1.0.0")
    }

    #[test]
    fn whoever_differs_from_most_is_wrong_also_the_controller() {
        let mut agreement = Agreement::default();
        assert_eq!(say(&mut agreement, 1, 1_000, 7), Finding::Agrees);
        assert_eq!(say(&mut agreement, 2, 1_000, 8), Finding::Disputed, "one against one proves nothing");
        assert_eq!(say(&mut agreement, 3, 1_000, 8), Finding::Agrees);
        assert_eq!(say(&mut agreement, 1, 1_000, 7), Finding::Differs);
    }

    #[test]
    fn a_node_without_a_hash_yet_is_not_compared() {
        let mut agreement = Agreement::default();
        for broker in [1, 2] {
            assert_eq!(say(&mut agreement, broker, 0, 99), Finding::Agrees);
        }
        assert_eq!(say(&mut agreement, 1, 1_000, 7), Finding::Agrees);
        assert_eq!(say(&mut agreement, 2, 2_000, 8), Finding::Agrees, "another index");
        assert_eq!(say(&mut agreement, 3, 0, 0), Finding::Agrees, "it started from a snapshot");
    }

    #[test]
    fn releases_are_compared_among_themselves() {
        let mut agreement = Agreement::default();
        say(&mut agreement, 1, 1_000, 7);
        say(&mut agreement, 2, 1_000, 7);
        assert_eq!(agreement.report(BrokerId(3), RaftIndex(1_000), 8, "1.1.0"), Finding::Agrees);
        agreement.retain(|broker| broker == BrokerId(1));
        assert_eq!(agreement.reports.len(), 1);
    }
}
