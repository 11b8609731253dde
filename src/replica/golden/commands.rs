//! What is committed: the controller's commands, and brokers' proposals and reports on their way to it.

use super::actions::{has, number};
use super::world::World;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::intent::IntentError;
use crate::platform::clock;
use crate::replica::isr::Verdict;
use crate::replica::node::Proposed;
use crate::replica::testing::id;
use uuid::Uuid;

impl World {
    pub fn controller(&mut self, words: &[&str]) -> Vec<String> {
        let brokers = |words: &[&str]| words.iter().map(|word| BrokerId(number(word) as i32)).collect::<Vec<_>>();
        let command = match words {
            ["fences", fenced @ ..] => {
                let brokers = brokers(fenced).into_iter().map(|b| (b, self.epoch(b.0))).collect();
                Command::FenceBrokers { brokers, reason: FenceReason::SessionExpired }
            }
            ["unfences", broker] => {
                let broker = BrokerId(number(broker) as i32);
                Command::UnfenceBroker { broker, epoch: self.epoch(broker.0) }
            }
            ["elects", leader, reason] => {
                let reason = match *reason {
                    "unclean" => ElectionReason::Unclean,
                    "drained" => ElectionReason::Drained,
                    "preferred" => ElectionReason::Preferred,
                    other => panic!("elects for {other}?"),
                };
                let partition_epoch = self.partition_epoch();
                let leader = BrokerId(number(leader) as i32);
                Command::ElectLeaders { elections: vec![Election { partition: id(), partition_epoch, leader, reason }] }
            }
            ["moves", "to", target @ ..] => self.reassigns(Some(brokers(target))),
            ["cancels", "the", "move"] => self.reassigns(None),
            [how @ ("drains" | "undrains"), broker] => {
                Command::SetDraining { broker: BrokerId(number(broker) as i32), draining: *how == "drains" }
            }
            ["deletes", "the", "topic"] => Command::DeleteTopics { topics: vec![id().topic] },
            ["creates", "another", "on", replicas @ ..] => {
                let topic = NewTopic {
                    name: "t".into(),
                    id: TopicId(Uuid::from_u128(10)),
                    assignments: vec![brokers(replicas)],
                    configs: Default::default(),
                };
                Command::CreateTopics { topics: vec![topic] }
            }
            other => panic!("controller {other:?}?"),
        };
        let (answer, mut told) = self.commit(&command);
        let refused = |error: MetadataError| format!("refused: {error}");
        match answer {
            Answer::Refused(error) => told.push(refused(error)),
            Answer::Elections(results) | Answer::Reassignments(results) => {
                told.extend(results.into_iter().filter_map(Result::err).map(refused));
            }
            Answer::Topics(results) => told.extend(results.into_iter().filter_map(Result::err).map(refused)),
            _ => {}
        }
        told
    }

    fn partition_epoch(&self) -> PartitionEpoch {
        self.image.partition(id()).unwrap().partition_epoch
    }

    fn reassigns(&self, replicas: Option<Vec<BrokerId>>) -> Command {
        let change = ReassignmentChange { partition: id(), partition_epoch: self.partition_epoch(), replicas };
        Command::AlterReassignments { changes: vec![change] }
    }

    /// Rule 17: it hands over what others can lead, and stays registered.
    pub fn asks_to_stop(&mut self, broker: i32) -> Vec<String> {
        let epoch = self.process(broker).node.epoch();
        self.commit(&Command::BeginShutdown { broker: BrokerId(broker), epoch }).1
    }

    /// What it has to propose goes to the controller. `lost`: it is committed, and the answer does not arrive. `delayed`:
    /// the proposal itself is still under way when its sender gives up waiting.
    pub fn proposes(&mut self, broker: i32, rest: &[&str]) -> Vec<String> {
        let proposed = self.proposed.remove(&broker).unwrap_or_default();
        if proposed.is_empty() {
            return vec!["nothing to propose".into()];
        }
        let mut said = Vec::new();
        let epoch = self.process(broker).node.epoch();
        for Proposed { partition, proposal } in proposed {
            if has(rest, "delayed") {
                self.delayed.push((broker, epoch, proposal.clone()));
                said.push("no answer".into());
                partition.on_verdict(proposal.partition_epoch, Verdict::Unknown, clock::now());
                continue;
            }
            let mut verdict = self.alter_isr(broker, epoch, &proposal, &mut said);
            if has(rest, "lost") {
                said.push("the answer is lost".into());
                verdict = Verdict::Unknown;
            }
            partition.on_verdict(proposal.partition_epoch, verdict, clock::now());
        }
        said
    }

    /// Proposals that were under way arrive; nobody waits for their answers any more.
    pub fn delayed_arrive(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for (broker, epoch, proposal) in std::mem::take(&mut self.delayed) {
            self.alter_isr(broker, epoch, &proposal, &mut said);
        }
        said
    }

    fn alter_isr(
        &mut self,
        broker: i32,
        epoch: BrokerEpoch,
        proposal: &IsrProposal,
        said: &mut Vec<String>,
    ) -> Verdict {
        let command = Command::AlterIsr { broker: BrokerId(broker), epoch, proposals: vec![proposal.clone()] };
        let (answer, told) = self.commit(&command);
        said.extend(told);
        let error = match answer {
            Answer::Isr(mut results) => match results.remove(0) {
                Ok(_) => return Verdict::Accepted,
                Err(error) => error,
            },
            Answer::Refused(error) => error,
            other => panic!("{other:?}"),
        };
        said.push(format!("refused: {error}"));
        if matches!(error, MetadataError::IneligibleReplica(_)) { Verdict::Refused } else { Verdict::Stale }
    }

    pub fn reports(&mut self, broker: i32) -> Vec<String> {
        let partition = self.process(broker).partition.clone();
        let report = match partition.damage_report() {
            None => return vec!["nothing to report".into()],
            Some(None) => return vec!["nobody relies on it".into()],
            Some(Some(report)) => report,
        };
        let epoch = self.process(broker).node.epoch();
        let (answer, mut said) =
            self.commit(&Command::ReportDamage { broker: BrokerId(broker), epoch, reports: vec![report] });
        let result = match answer {
            Answer::Elections(mut results) => results.remove(0).map_err(IntentError::from),
            Answer::Refused(error) => Err(error.into()),
            other => panic!("{other:?}"),
        };
        if let Err(error) = &result {
            said.push(format!("refused: {error}"));
        }
        partition.on_damage_answer(&result);
        said
    }
}
