//! A leader's ISR proposals and a replica's damage: passed on as they are, since `apply` compares and sets.

use super::plan::{Item, PARTITIONS_PER_COMMAND_MAX, Packer, Plan};
use crate::ids::{BrokerEpoch, BrokerId, PartitionEpoch};
use crate::metadata::command::{Command, DamageReport, IsrProposal, MetadataError};
use crate::metadata::image::Image;
use crate::metadata::intent::IntentError;

/// Proposals of many partitions share a command. A caller whose epoch is stale is refused without a commit: the
/// controller's image is never older than the registration that replaced it.
pub fn plan(image: &Image, broker: BrokerId, epoch: BrokerEpoch, proposals: Vec<IsrProposal>) -> Plan<PartitionEpoch> {
    let refusal = match image.brokers.get(&broker) {
        None => Some(MetadataError::UnknownBroker(broker)),
        Some(known) if known.epoch != epoch => {
            Some(MetadataError::StaleBrokerEpoch { broker, given: epoch, current: known.epoch })
        }
        Some(_) => None,
    };
    let mut packer = Packer::new(PARTITIONS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let items = proposals
        .into_iter()
        .map(|proposal| match &refusal {
            Some(error) => Item::Decided(Err(error.clone().into())),
            None => match packer.add(proposal, 1) {
                Ok((command, position)) => Item::Proposed { command, position, outcome: PartitionEpoch(0) },
                Err(_) => Item::Decided(Err(IntentError::InvalidRequest("the proposed ISR is too large".to_string()))),
            },
        })
        .collect();
    Plan { commands: packer.into_commands(|proposals| Command::AlterIsr { broker, epoch, proposals }), items }
}

/// Reports of damaged copies, many in a command; each is judged where it lands.
pub fn damage(broker: BrokerId, epoch: BrokerEpoch, reports: Vec<DamageReport>) -> Plan<()> {
    let mut packer = Packer::new(PARTITIONS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let items = reports
        .into_iter()
        .map(|report| match packer.add(report, 1) {
            Ok((command, position)) => Item::Proposed { command, position, outcome: () },
            Err(_) => Item::Decided(Err(IntentError::InvalidRequest("the report is too large".to_string()))),
        })
        .collect();
    Plan { commands: packer.into_commands(|reports| Command::ReportDamage { broker, epoch, reports }), items }
}

#[cfg(test)]
mod tests {
    use super::super::testing::image_with;
    use super::*;
    use crate::ids::*;

    #[test]
    fn a_stale_broker_is_refused_and_many_proposals_split() {
        let image = image_with(&[1]);
        let proposal = IsrProposal {
            partition: TopicPartition::new(TopicId::default(), 0),
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            isr: vec![(BrokerId(1), BrokerEpoch(11))],
        };
        let all = vec![proposal; 2_500];
        assert_eq!(plan(&image, BrokerId(1), BrokerEpoch(11), all.clone()).commands.len(), 3);
        assert!(plan(&image, BrokerId(1), BrokerEpoch(10), all.clone()).commands.is_empty());
        assert!(plan(&image, BrokerId(2), BrokerEpoch(11), all).commands.is_empty());
    }
}
