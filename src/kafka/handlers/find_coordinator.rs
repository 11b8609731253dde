//! FindCoordinator: who leads the group's offsets partition, by the addresses of the listener that was asked.

use crate::group::coordinator::GroupError;
use crate::kafka::context::RequestContext;
use crate::kafka::errors;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

const GROUP: i8 = 0;

/// Where a coordinator is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    id: i32,
    host: String,
    port: u16,
}

pub async fn handle(context: &RequestContext, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let keys = if context.version >= 4 { request.coordinator_keys } else { vec![request.key] };
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let outcome = find(context, request.key_type, &key).await;
        found.push((key, outcome));
    }
    response(context.version, found)
}

async fn find(context: &RequestContext, key_type: i8, key: &str) -> Result<Place, GroupError> {
    if key_type != GROUP {
        return Err(GroupError::UnsupportedCoordinator);
    }
    let broker = context.services.groups.locate(key).await?;
    let image = context.services.quorum.image();
    let endpoint = image
        .brokers
        .get(&broker)
        .filter(|broker| !broker.fenced)
        .and_then(|broker| broker.registration.kafka_endpoints.iter().find(|e| *e.listener == *context.listener))
        .ok_or(GroupError::NotAvailable)?;
    Ok(Place { id: broker.0, host: endpoint.host.clone(), port: endpoint.port })
}

fn response(version: i16, found: Vec<(StrBytes, Result<Place, GroupError>)>) -> FindCoordinatorResponse {
    let coordinators = found.into_iter().map(|(key, outcome)| {
        let coordinator = Coordinator::default().with_key(key);
        match outcome {
            Ok(place) => coordinator
                .with_node_id(BrokerId(place.id))
                .with_host(StrBytes::from_string(place.host))
                .with_port(i32::from(place.port)),
            Err(error) => coordinator
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(errors::group(&error))
                .with_error_message(Some(StrBytes::from_string(error.to_string()))),
        }
    });
    let coordinators: Vec<Coordinator> = coordinators.collect();
    if version >= 4 {
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    let only = coordinators.into_iter().next().unwrap_or_default();
    FindCoordinatorResponse::default()
        .with_error_code(only.error_code)
        .with_error_message(only.error_message.filter(|_| version >= 1))
        .with_node_id(only.node_id)
        .with_host(only.host)
        .with_port(only.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn responses_encode_in_every_version() {
        for version in 0..=6 {
            let place = Place { id: 2, host: "broker-2".into(), port: 9092 };
            let good = response(version, vec![(StrBytes::from_static_str("g"), Ok(place))]);
            good.encode(&mut BytesMut::new(), version).expect("a found coordinator encodes");
            let bad = response(version, vec![(StrBytes::from_static_str("g"), Err(GroupError::NotAvailable))]);
            bad.encode(&mut BytesMut::new(), version).expect("an error encodes");
            let code = if version >= 4 { bad.coordinators[0].error_code } else { bad.error_code };
            assert_eq!(code, 15);
            if version < 4 {
                assert_eq!((good.node_id, good.host.as_str(), good.port), (BrokerId(2), "broker-2", 9092));
            }
        }
    }
}
