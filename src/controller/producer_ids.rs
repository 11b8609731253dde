//! Producer ids are handed to brokers in blocks, so that starting a producer costs a commit once in a thousand times.

use crate::ids::{BrokerEpoch, BrokerId};
use crate::metadata::command::Command;

/// Ids in one block (Kafka's number too). A block that a broker loses by restarting is never handed out again.
pub const BLOCK: i64 = 1_000;

pub fn allocate(broker: BrokerId, epoch: BrokerEpoch) -> Command {
    Command::AllocateProducerIds { broker, epoch, count: BLOCK }
}
