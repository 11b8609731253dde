//! The `Brokers` service: taking brokers out of service, and out of the cluster.

use super::errors;
use super::proto::brokers_server::Brokers;
use super::proto::{
    BrokerSummary, ListBrokersRequest, ListBrokersResponse, Liveness, MoveAwayRequest, MoveAwayResponse,
    SetDrainingRequest, SetDrainingResponse, UnregisterBrokerRequest, UnregisterBrokerResponse,
};
use crate::ids::BrokerId;
use crate::metadata::command::MetadataError;
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer, IntentError};
use crate::metadata::quorum::Quorum;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

const INTENT_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub struct BrokersService {
    pub quorum: Quorum,
    pub controller: Arc<dyn ControllerChannel>,
}

#[tonic::async_trait]
impl Brokers for BrokersService {
    async fn list(&self, _request: Request<ListBrokersRequest>) -> Result<Response<ListBrokersResponse>, Status> {
        Ok(Response::new(ListBrokersResponse { brokers: summaries(&self.quorum.image()) }))
    }

    async fn set_draining(
        &self,
        request: Request<SetDrainingRequest>,
    ) -> Result<Response<SetDrainingResponse>, Status> {
        let SetDrainingRequest { broker, draining } = request.into_inner();
        let refusals = self.submit(Intent::SetDraining { broker: BrokerId(broker), draining }).await?;
        refusals.first().map_or(Ok(Response::new(SetDrainingResponse {})), |error| Err(errors::of_intent(error)))
    }

    async fn move_away(&self, request: Request<MoveAwayRequest>) -> Result<Response<MoveAwayResponse>, Status> {
        let broker = BrokerId(request.into_inner().broker);
        let refusals = self.submit(Intent::MoveAway { broker }).await?;
        // A partition that changed meanwhile is begun when this is asked again.
        let stale =
            |error: &&IntentError| matches!(error, IntentError::Metadata(MetadataError::StalePartitionEpoch { .. }));
        let refused = refusals.iter().find(|error| !stale(error));
        refused.map_or(Ok(Response::new(MoveAwayResponse {})), |error| Err(errors::of_intent(error)))
    }

    async fn unregister(
        &self,
        request: Request<UnregisterBrokerRequest>,
    ) -> Result<Response<UnregisterBrokerResponse>, Status> {
        let UnregisterBrokerRequest { broker, force } = request.into_inner();
        let refusals = self.submit(Intent::UnregisterBroker { broker: BrokerId(broker), force }).await?;
        refusals.first().map_or(Ok(Response::new(UnregisterBrokerResponse {})), |error| Err(errors::of_intent(error)))
    }
}

impl BrokersService {
    /// The refused items.
    async fn submit(&self, intent: Intent) -> Result<Vec<IntentError>, Status> {
        let answer = self.controller.submit(intent, INTENT_TIMEOUT).await;
        match answer.map_err(|error| errors::of_submit(&error))? {
            IntentAnswer::Done => Ok(Vec::new()),
            IntentAnswer::Results(results) => Ok(results.into_iter().filter_map(Result::err).collect()),
            IntentAnswer::Topics(_)
            | IntentAnswer::Isr(_)
            | IntentAnswer::ProducerIds { .. }
            | IntentAnswer::Quorum(_)
            | IntentAnswer::Voters(_) => Err(errors::of_mismatch()),
        }
    }
}

pub(super) fn liveness(broker: &Broker) -> Liveness {
    if broker.fenced {
        Liveness::Fenced
    } else if broker.shutting_down {
        Liveness::ShuttingDown
    } else {
        Liveness::Alive
    }
}

fn summaries(image: &Image) -> Vec<BrokerSummary> {
    let summary = |(id, broker): (&BrokerId, &Broker)| {
        let mut row = BrokerSummary {
            id: id.0,
            liveness: liveness(broker).into(),
            draining: broker.draining,
            rack: broker.registration.rack.clone(),
            ..BrokerSummary::default()
        };
        for partition in image.partitions_on(*id).filter_map(|place| image.partition(place)) {
            row.replicas += 1;
            row.leaders += i32::from(partition.leader == Some(*id));
            row.arriving += i32::from(partition.adding().contains(id));
            row.leaving += i32::from(partition.removing().contains(id));
        }
        row
    };
    image.brokers.iter().map(summary).collect()
}
