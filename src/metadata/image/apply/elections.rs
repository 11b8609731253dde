//! Leaders chosen by the controller: preferred, handed over, or, where allowed, unclean.

use super::Change;
use super::isr::find;
use super::transition::{Next, choose};
use crate::metadata::command::*;

impl Change<'_> {
    pub(super) fn elect_leaders(&mut self, elections: &[Election]) -> Answer {
        Answer::Elections(elections.iter().map(|election| self.elect(election)).collect())
    }

    /// An unclean election is granted only to a live replica of a partition that has no leader; whether the topic allows
    /// it, and who has the longest log, the controller has asked (replication.md, rule 10). A clean candidate is elected
    /// cleanly whatever the reason given.
    fn elect(&mut self, election: &Election) -> Result<(), MetadataError> {
        let old = find(self.image, election.partition)?;
        if old.partition_epoch != election.partition_epoch {
            return Err(MetadataError::StalePartitionEpoch {
                given: election.partition_epoch,
                current: old.partition_epoch,
            });
        }
        let leader = election.leader;
        if !self.image.is_active(leader) || !old.replicas.contains(&leader) {
            return Err(MetadataError::IneligibleLeader(leader));
        }
        // Where the leader is on its way out, a drained broker may be all there is.
        let stays = old.leader.is_some_and(|current| self.image.is_active(current));
        if stays && self.image.is_draining(leader) {
            return Err(MetadataError::IneligibleLeader(leader));
        }
        let next = match choose(old, leader, self.image) {
            Some(next) => next,
            None if election.reason == ElectionReason::Unclean && old.leader.is_none() => {
                Next { unclean: true, ..Next::new(vec![leader], Some(leader)) }
            }
            None => return Err(MetadataError::IneligibleLeader(leader)),
        };
        self.change_partition(election.partition, election.reason, |_, _, _| Some(next));
        Ok(())
    }
}
