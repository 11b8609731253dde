//! What an intent becomes: commands to commit, and where each item's answer will come from.

use crate::ids::PartitionEpoch;
use crate::metadata::command::{Answer, Command, MetadataError};
use crate::metadata::intent::IntentError;
use crate::metadata::raft::types::encoded_size;
use serde::Serialize;

/// One command stays below this, with room for its own envelope: Raft bounds an entry at 256 KiB.
pub const COMMAND_BYTES_MAX: usize = 240 * 1024;
/// Topics in one command.
pub const TOPICS_PER_COMMAND_MAX: usize = 512;
/// Partitions in one command, unless a single topic has more.
pub const PARTITIONS_PER_COMMAND_MAX: usize = 1_000;

/// Invariant: every `Proposed` item points at an existing command, and at its own position in it.
#[derive(Debug)]
pub struct Plan<T> {
    pub commands: Vec<Command>,
    /// In the order asked.
    pub items: Vec<Item<T>>,
}

#[derive(Debug)]
pub enum Item<T> {
    /// Known without a commit: refused, or only to be validated.
    Decided(Result<T, IntentError>),
    /// Answered by position `position` of command `command`; `outcome` is what success means.
    Proposed { command: usize, position: usize, outcome: T },
}

impl<T> Plan<T> {
    /// One answer an item, from the answers of all commands.
    pub fn resolve(
        self,
        answers: &[Answer],
        finish: impl Fn(T, Option<PartitionEpoch>) -> T,
    ) -> Vec<Result<T, IntentError>> {
        self.items
            .into_iter()
            .map(|item| match item {
                Item::Decided(result) => result,
                Item::Proposed { command, position, outcome } => {
                    let epoch = answer_of(answers.get(command), position)?;
                    Ok(finish(outcome, epoch))
                }
            })
            .collect()
    }
}

/// The result at one position of a command's answer.
fn answer_of(answer: Option<&Answer>, position: usize) -> Result<Option<PartitionEpoch>, MetadataError> {
    let missing = || Err(MetadataError::Invalid("the committed command gave no answer for this item".to_string()));
    match answer {
        Some(Answer::Refused(error)) => Err(error.clone()),
        Some(Answer::Done) => Ok(None),
        Some(Answer::Topics(results)) => results.get(position).cloned().map_or_else(missing, |r| r.map(|_| None)),
        Some(Answer::Isr(results)) => results.get(position).cloned().map_or_else(missing, |r| r.map(Some)),
        Some(
            Answer::Elections(results)
            | Answer::Configs(results)
            | Answer::Reassignments(results)
            | Answer::Groups(results),
        ) => results.get(position).cloned().map_or_else(missing, |r| r.map(|()| None)),
        Some(Answer::Registered { .. }) | Some(Answer::ProducerIds { .. }) | None => missing(),
    }
}

/// Fills commands up to their bounds, in order.
pub struct Packer<P> {
    batches: Vec<Vec<P>>,
    count_max: usize,
    weight_max: usize,
    weight: usize,
    bytes: usize,
}

/// A single part that no command can carry.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge {
    pub bytes: usize,
}

impl<P: Serialize> Packer<P> {
    /// At most `count_max` parts and a weight of `weight_max` a command.
    pub fn new(count_max: usize, weight_max: usize) -> Self {
        Self { batches: Vec::new(), count_max, weight_max, weight: 0, bytes: 0 }
    }

    /// Adds a part; gives the command and the position it landed in.
    pub fn add(&mut self, part: P, weight: usize) -> Result<(usize, usize), TooLarge> {
        let bytes = encoded_size(&part).ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        if bytes > COMMAND_BYTES_MAX {
            return Err(TooLarge { bytes });
        }
        let full = self.batches.last().is_none_or(|batch| {
            batch.len() >= self.count_max
                || self.weight + weight > self.weight_max
                || self.bytes + bytes > COMMAND_BYTES_MAX
        });
        if full {
            self.batches.push(Vec::new());
            self.weight = 0;
            self.bytes = 0;
        }
        self.weight += weight;
        self.bytes += bytes;
        let command = self.batches.len() - 1;
        let batch = &mut self.batches[command];
        batch.push(part);
        Ok((command, batch.len() - 1))
    }

    pub fn into_commands(self, command: impl Fn(Vec<P>) -> Command) -> Vec<Command> {
        self.batches.into_iter().map(command).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_every_bound_and_the_order() {
        let mut packer = Packer::<String>::new(3, 10);
        let places: Vec<_> = (0..7).map(|n| packer.add(format!("{n}"), 1).unwrap()).collect();
        assert_eq!(places, vec![(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]);
        assert_eq!(packer.add("heavy".into(), 10), Ok((3, 0)), "weight starts a new command");
        assert_eq!(packer.add("x".repeat(COMMAND_BYTES_MAX / 2), 0), Ok((3, 1)));
        assert_eq!(packer.add("x".repeat(COMMAND_BYTES_MAX * 2 / 3), 0), Ok((4, 0)), "bytes start a new command");
        assert!(packer.add("x".repeat(COMMAND_BYTES_MAX + 1), 0).is_err(), "no command could carry it");
    }

    #[test]
    fn each_item_gets_its_own_answer() {
        let plan = Plan {
            commands: Vec::new(),
            items: vec![
                Item::Proposed { command: 1, position: 0, outcome: PartitionEpoch(0) },
                Item::Decided(Err(IntentError::InvalidRequest("no".into()))),
                Item::Proposed { command: 0, position: 1, outcome: PartitionEpoch(0) },
                Item::Proposed { command: 0, position: 7, outcome: PartitionEpoch(0) },
            ],
        };
        let answers = [
            Answer::Isr(vec![Ok(PartitionEpoch(1)), Ok(PartitionEpoch(2))]),
            Answer::Refused(MetadataError::UnknownPartition),
        ];
        let results = plan.resolve(&answers, |_, epoch| epoch.unwrap());
        assert_eq!(results[0], Err(MetadataError::UnknownPartition.into()));
        assert_eq!(results[1], Err(IntentError::InvalidRequest("no".into())));
        assert_eq!(results[2], Ok(PartitionEpoch(2)));
        assert!(results[3].is_err(), "a missing answer is an error, never a success");
    }
}
