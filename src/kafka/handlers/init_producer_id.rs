//! InitProducerId for idempotent producers. Ids are handed out from blocks that the controller allocates, so that most
//! producers cost no Raft entry.

use crate::ids::*;
use crate::kafka::context::RequestContext;
use crate::kafka::errors::Code;
use crate::metadata::intent::{Intent, IntentAnswer};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use parking_lot::Mutex;
use std::ops::Range;
use std::time::Duration;
use tokio::sync::Semaphore;

const ALLOCATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Invariant: an id leaves `block` once; a block is replaced only when it is empty.
pub struct ProducerIds {
    block: Mutex<Range<i64>>,
    /// One allocation at a time: the others wait for its block.
    allocating: Semaphore,
}

impl Default for ProducerIds {
    fn default() -> Self {
        Self { block: Mutex::new(0..0), allocating: Semaphore::new(1) }
    }
}

impl ProducerIds {
    fn take(&self) -> Option<ProducerId> {
        self.block.lock().next().map(ProducerId)
    }

    fn refill(&self, first: ProducerId, count: i64) {
        let mut block = self.block.lock();
        if block.is_empty() {
            *block = first.0..first.0.saturating_add(count.max(0));
        }
    }

    async fn next(&self, context: &RequestContext) -> Result<ProducerId, Code> {
        if let Some(id) = self.take() {
            return Ok(id);
        }
        // It is never closed.
        let _turn = self.allocating.acquire().await;
        if let Some(id) = self.take() {
            return Ok(id);
        }
        let services = &context.services;
        let intent =
            Intent::AllocateProducerIds { broker: services.config.node_id, epoch: *services.broker_epoch.borrow() };
        match services.controller.submit(intent, ALLOCATION_TIMEOUT).await {
            Ok(IntentAnswer::ProducerIds { first, count }) => self.refill(first, count),
            Ok(answer) => tracing::error!(?answer, "not an answer to AllocateProducerIds"),
            Err(error) => tracing::debug!(%error, "no producer ids now"),
        }
        // Producers retry on this one.
        self.take().ok_or(Code::CoordinatorLoadInProgress)
    }
}

/// Without a transactional id a producer always gets a fresh id, whatever it brings along: nobody here knows whether
/// the id is its own, and an epoch handed out twice would let two producers write as one. A producer that recovers
/// raises its own epoch (KIP-360).
pub async fn handle(context: &RequestContext, request: InitProducerIdRequest) -> InitProducerIdResponse {
    if request.transactional_id.is_some() {
        return refused(Code::InvalidTxnState);
    }
    match context.services.state.producer_ids.next(context).await {
        Ok(id) => granted(id, ProducerEpoch(0)),
        Err(code) => refused(code),
    }
}

fn granted(id: ProducerId, epoch: ProducerEpoch) -> InitProducerIdResponse {
    InitProducerIdResponse::default().with_producer_id(id.0.into()).with_producer_epoch(epoch.0)
}

fn refused(code: Code) -> InitProducerIdResponse {
    InitProducerIdResponse::default().with_error_code(code.code()).with_producer_epoch(-1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::INIT_PRODUCER_ID;

    #[test]
    fn ids_leave_a_block_once_and_a_block_is_not_lost() {
        let ids = ProducerIds::default();
        assert_eq!(ids.take(), None);
        ids.refill(ProducerId(1_000), 2);
        ids.refill(ProducerId(5_000), 2);
        assert_eq!([ids.take(), ids.take(), ids.take()], [Some(ProducerId(1_000)), Some(ProducerId(1_001)), None]);
        ids.refill(ProducerId(i64::MAX), 1_000);
        assert_eq!(ids.take(), None, "an overflow gives none rather than a wrong one");
    }

    #[test]
    fn every_version_encodes() {
        for version in 0..=5 {
            testing::encodes(INIT_PRODUCER_ID, version, &granted(ProducerId(9), ProducerEpoch(1)));
            testing::encodes(INIT_PRODUCER_ID, version, &refused(Code::InvalidTxnState));
        }
    }
}
