//! DescribeCluster, UnregisterBroker.

use super::metadata::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED};
use super::topics::{Failed, outcomes};
use crate::ids::BrokerId;
use crate::kafka::context::RequestContext;
use crate::kafka::endpoints::{Door, controller_for_clients};
use crate::kafka::errors::Code;
use crate::kafka::names::text;
use crate::metadata::image::Image;
use crate::metadata::intent::Intent;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeClusterResponse, UnregisterBrokerRequest, UnregisterBrokerResponse,
};
use std::time::Duration;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub async fn describe(context: &RequestContext, request: DescribeClusterRequest) -> DescribeClusterResponse {
    let image = context.services.quorum.image();
    answer(&image, Door::of(context), context.services.config.node_id, context.version, &request)
}

/// The request carries no timeout of its own.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Forgets a broker that is not alive, if others hold what it held. Partitions that name it go on naming it.
pub async fn unregister(context: &RequestContext, request: UnregisterBrokerRequest) -> UnregisterBrokerResponse {
    let intent = Intent::UnregisterBroker { broker: BrokerId(request.broker_id.0), force: true };
    let answer = context.services.controller.submit(intent, TIMEOUT).await;
    let response = UnregisterBrokerResponse::default().with_error_message(None);
    match outcomes(answer, 1).pop() {
        Some(Err(Failed { code, message })) => {
            response.with_error_code(code.code()).with_error_message(Some(text(&message)))
        }
        _ => response,
    }
}

fn answer(
    image: &Image,
    door: Door<'_>,
    me: BrokerId,
    version: i16,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default().with_cluster_id(text(&image.cluster_id.to_string()));
    let refusal = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => {
            Some((Code::MismatchedEndpointType, "this endpoint is a broker's; controllers have no Kafka port"))
        }
        _ => Some((Code::UnsupportedEndpointType, "endpoint types are 1 (brokers) and 2 (controllers)")),
    };
    if let Some((code, message)) = refusal.filter(|_| version >= 1) {
        return response.with_error_code(code.code()).with_error_message(Some(text(message)));
    }
    let with_fenced = version >= 2 && request.include_fenced_brokers;
    let brokers =
        image.brokers.iter().filter(|(_, broker)| with_fenced || !broker.fenced).filter_map(|(id, broker)| {
            let endpoint = door.endpoint(broker)?;
            Some(
                DescribeClusterBroker::default()
                    .with_broker_id(id.0.into())
                    .with_host(text(&endpoint.host))
                    .with_port(i32::from(endpoint.port))
                    .with_rack(broker.registration.rack.as_deref().map(text))
                    .with_is_fenced(broker.fenced),
            )
        });
    let operations = request.include_cluster_authorized_operations;
    response
        .with_brokers(brokers.collect())
        .with_controller_id(controller_for_clients(image, me).map_or(-1, |id| id.0).into())
        .with_cluster_authorized_operations(if operations { CLUSTER_OPERATIONS } else { OPERATIONS_NOT_ASKED })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::DESCRIBE_CLUSTER;

    const DOOR: Door<'_> = Door { listener: "external", is_replica_listener: false };

    fn ask(version: i16, request: &DescribeClusterRequest) -> DescribeClusterResponse {
        let response = answer(&testing::image(), DOOR, BrokerId(2), version, request);
        testing::encodes(DESCRIBE_CLUSTER, version, &response);
        response
    }

    #[test]
    fn fenced_brokers_are_listed_only_where_asked_for() {
        let all = DescribeClusterRequest::default().with_include_fenced_brokers(true);
        for version in 0..=2 {
            let response = ask(version, &all.clone().with_include_cluster_authorized_operations(true));
            let ids: Vec<i32> = response.brokers.iter().map(|broker| broker.broker_id.0).collect();
            assert_eq!(ids, if version == 2 { vec![1, 2, 3] } else { vec![1, 2] });
            assert_eq!(response.controller_id.0, 2);
            assert_eq!(response.cluster_authorized_operations, CLUSTER_OPERATIONS);
        }
        assert_eq!(ask(2, &DescribeClusterRequest::default()).brokers.len(), 2);
    }

    #[test]
    fn controllers_are_not_described_here() {
        let request = DescribeClusterRequest::default().with_endpoint_type(CONTROLLERS);
        assert_eq!(ask(1, &request).error_code, 114);
        assert_eq!(ask(2, &request.with_endpoint_type(9)).error_code, 115);
    }
}
