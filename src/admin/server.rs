//! Starts and stops the admin port.

use super::brokers::BrokersService;
use super::cluster::ClusterService;
use super::counts::{self, Counts};
use super::door::{Page, Routes};
use super::groups::GroupsService;
use super::metrics::Metrics;
use super::proto::DESCRIPTORS;
use super::proto::brokers_server::BrokersServer;
use super::proto::cluster_server::ClusterServer;
use super::proto::events_server::EventsServer;
use super::proto::groups_server::GroupsServer;
use super::proto::quorum_server::QuorumServer;
use super::proto::reassignments_server::ReassignmentsServer;
use super::proto::topics_server::TopicsServer;
use super::quorum::QuorumService;
use super::reassignments::ReassignmentsService;
use super::topics::TopicsService;
use super::watch::EventsService;
use crate::config::broker::{ListenerConfig, NodeConfig};
use crate::controller::replica_states::ReplicaStates;
use crate::group::coordinator::Coordinator;
use crate::metadata::intent::ControllerChannel;
use crate::metadata::quorum::Quorum;
use crate::platform::network;
use crate::replica::hosted::Hosted;
use futures::StreamExt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How long calls under way may take after the stop.
const GRACE: Duration = Duration::from_secs(2);

/// The groups that this node coordinates, once it is a broker. Cheap to clone.
pub type LocalGroups = Arc<OnceLock<Coordinator>>;

/// What the admin services reach.
pub struct AdminParts {
    pub groups: LocalGroups,
    pub quorum: Quorum,
    pub hosted: Hosted,
    pub controller: Arc<dyn ControllerChannel>,
    pub replicas: Arc<dyn ReplicaStates>,
    pub config: Arc<NodeConfig>,
}

/// Binds `listener` and serves on it until `stop` turns true; the task ends when the last call has, at most two
/// seconds later. Health is SERVING, and `/readyz` answers 200, while `ready` is true. Events are counted for `/metrics`
/// from here on.
pub async fn serve(
    parts: AdminParts,
    listener: ListenerConfig,
    stop: watch::Receiver<bool>,
    ready: watch::Receiver<bool>,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let socket = network::listen(&listener.bind).await.map_err(|error| {
        io::Error::new(error.kind(), format!("the admin listener cannot bind {}: {error}", listener.bind))
    })?;
    let address = socket.local_addr()?;
    let node = parts.config.node_id;
    let (reporter, health) = tonic_health::server::health_reporter();
    let broken = |error: tonic_reflection::server::Error| io::Error::other(format!("descriptors: {error}"));
    let brokers_controller = parts.controller.clone();
    let reassignments = ReassignmentsService {
        quorum: parts.quorum.clone(),
        controller: parts.controller.clone(),
        replicas: parts.replicas.clone(),
    };
    let counts = Counts::default();
    tokio::spawn(counts::follow(parts.quorum.clone(), counts.clone(), stop.clone()));
    let metrics = Arc::new(Metrics::new(&parts, counts));
    let groups = GroupsService { node, quorum: parts.quorum.clone(), groups: parts.groups };
    let metrics: Page = Arc::new(move || {
        let metrics = metrics.clone();
        Box::pin(async move { Ok(metrics.page().await) })
    });
    let door = Routes::new()
        .with(ClusterServer::new(ClusterService { node, quorum: parts.quorum.clone(), hosted: parts.hosted.clone() }))
        .with(QuorumServer::new(QuorumService { controller: parts.controller.clone() }))
        .with(TopicsServer::new(TopicsService {
            node,
            quorum: parts.quorum.clone(),
            hosted: parts.hosted,
            controller: parts.controller,
        }))
        .with(BrokersServer::new(BrokersService { quorum: parts.quorum.clone(), controller: brokers_controller }))
        .with(ReassignmentsServer::new(reassignments))
        .with(GroupsServer::new(groups))
        .with(EventsServer::new(EventsService::new(parts.quorum, stop.clone())))
        .with(health)
        .with(reflection().build_v1().map_err(broken)?)
        .with(reflection().build_v1alpha().map_err(broken)?)
        .door(ready.clone(), metrics);

    let task = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(socket).map(|stream| {
            if let Ok(stream) = &stream {
                // A failure costs latency only.
                let _ = stream.set_nodelay(true);
            }
            stream
        });
        let serving = Server::builder()
            .accept_http1(true)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .serve_with_incoming_shutdown(door, incoming, stopped(stop.clone()));
        let deadline = async {
            stopped(stop).await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "the admin port stopped serving");
            },
            () = deadline => {}
            () = follow_readiness(reporter, ready) => {}
        }
    });
    Ok((address, task))
}

/// Lists what this port serves, and describes it in full.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(<ClusterServer<ClusterService> as NamedService>::NAME)
        .with_service_name(<QuorumServer<QuorumService> as NamedService>::NAME)
        .with_service_name(<TopicsServer<TopicsService> as NamedService>::NAME)
        .with_service_name(<BrokersServer<BrokersService> as NamedService>::NAME)
        .with_service_name(<ReassignmentsServer<ReassignmentsService> as NamedService>::NAME)
        .with_service_name(<GroupsServer<GroupsService> as NamedService>::NAME)
        .with_service_name(<EventsServer<EventsService> as NamedService>::NAME)
        .with_service_name("grpc.health.v1.Health")
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Never ends: the last word stays in force when the sender is gone.
async fn follow_readiness(reporter: HealthReporter, mut ready: watch::Receiver<bool>) {
    const SERVICES: [&str; 8] = [
        "",
        <ClusterServer<ClusterService> as NamedService>::NAME,
        <QuorumServer<QuorumService> as NamedService>::NAME,
        <TopicsServer<TopicsService> as NamedService>::NAME,
        <GroupsServer<GroupsService> as NamedService>::NAME,
        <BrokersServer<BrokersService> as NamedService>::NAME,
        <ReassignmentsServer<ReassignmentsService> as NamedService>::NAME,
        <EventsServer<EventsService> as NamedService>::NAME,
    ];
    loop {
        let status = if *ready.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    #[tokio::test]
    async fn reflection_lists_the_operators_services_and_describes_them() {
        let (_ready, ready) = watch::channel(true);
        let nothing: Page = Arc::new(|| Box::pin(async { Ok(None) }));
        let door = Routes::new().with(reflection().build_v1().unwrap()).door(ready, nothing);
        let socket = network::listen("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", socket.local_addr().unwrap());
        tokio::spawn(Server::builder().serve_with_incoming(door, TcpListenerStream::new(socket)));
        let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let mut client = ServerReflectionClient::new(channel);
        let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let asked = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("highwater.admin.v1.Events".into())),
        ];
        let mut answers = client.server_reflection_info(futures::stream::iter(asked)).await.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(list)) =
            answers.message().await.unwrap().unwrap().message_response
        else {
            panic!("a list was asked for");
        };
        let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        let ours = ["Brokers", "Cluster", "Events", "Groups", "Quorum", "Reassignments", "Topics"]
            .map(|name| format!("highwater.admin.v1.{name}"));
        assert!(ours.iter().all(|name| names.contains(name)), "{names:?}");
        assert!(names.contains(&"grpc.health.v1.Health".to_string()));
        assert!(!names.iter().any(|name| name.contains("raft")), "what this port does not serve is not listed");
        let described = answers.message().await.unwrap().unwrap().message_response;
        assert!(matches!(described, Some(MessageResponse::FileDescriptorResponse(_))), "{described:?}");
    }
}
