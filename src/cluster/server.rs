//! The cluster port: Raft and the cluster service on one listener, and the tasks behind them.

use super::membership;
use super::node::{Node, stopped};
use super::proto::cluster_server::ClusterServer;
use super::service::ClusterService;
use super::sessions::Sessions;
use super::states::LocalReplicas;
use crate::controller::controller::Controller;
use crate::controller::liveness::Timing;
use crate::metadata::raft::server::RaftService;
use crate::platform::network::TcpListener;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

/// Serves until `stop`; then connections are cut, not drained: a leader that lingers in its shutdown would keep its
/// port open, and survivors could not tell that it is gone.
pub fn start(
    listener: TcpListener,
    raft: RaftService,
    node: Node,
    controller: Arc<Controller>,
    replicas: LocalReplicas,
    timing: Timing,
    stop: watch::Receiver<bool>,
) -> std::io::Result<(SocketAddr, JoinHandle<()>)> {
    let address = listener.local_addr()?;
    let sessions = Sessions::start(node.clone(), controller.clone(), timing, stop.clone());
    tokio::spawn(membership::run(node.clone(), stop.clone()));
    let elections = controller.clone();
    let elections_stop = stop.clone();
    tokio::spawn(async move { elections.run_elections(elections_stop).await });
    let cluster = ClusterServer::new(ClusterService::new(node, controller, sessions, replicas));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .add_service(raft.server())
        .add_service(cluster)
        .serve_with_incoming(incoming);
    let mut stop = stop;
    let task = tokio::spawn(async move {
        tokio::select! {
            () = stopped(&mut stop) => {}
            result = serving => {
                if let Err(error) = result {
                    tracing::error!(%error, "the cluster port stopped serving");
                }
            }
        }
    });
    Ok((address, task))
}
