//! Damaged copies leave ISR and ELR before they are repaired, since a repair goes below the high watermark.

use super::Change;
use super::isr::find;
use super::transition::damaged;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;

impl Change<'_> {
    pub(super) fn report_damage(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
        reports: &[DamageReport],
    ) -> Result<Answer, MetadataError> {
        self.check_epoch(broker, epoch)?;
        Ok(Answer::Elections(reports.iter().map(|report| self.report_one(broker, report)).collect()))
    }

    fn report_one(&mut self, broker: BrokerId, report: &DamageReport) -> Result<(), MetadataError> {
        let old = find(self.image, report.partition)?;
        if old.leader_epoch != report.leader_epoch {
            return Err(MetadataError::StaleLeaderEpoch { given: report.leader_epoch, current: old.leader_epoch });
        }
        if !old.replicas.contains(&broker) {
            return Err(MetadataError::IneligibleReplica(broker));
        }
        let next = damaged(old, broker, self.image).ok_or(MetadataError::NoOtherReplica(broker))?;
        let topic = self.image.topic(report.partition.topic).ok_or(MetadataError::UnknownTopic)?.name.clone();
        let before = self.events.len();
        self.change_partition(report.partition, ElectionReason::Damaged, |_, _, _| Some(next));
        // Told again, or of a copy that nobody relies on while nobody leads: nothing changed.
        if self.events.len() > before {
            let partition = report.partition;
            self.events.insert(before, Event::ReplicaDamaged { partition, topic, broker, from: report.from });
        }
        Ok(())
    }
}
