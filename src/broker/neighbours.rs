//! The one place where the node calls the doors of the rooms on the floor below: their start-up signatures.

use crate::config::broker::{ListenerConfig, NodeConfig};
use crate::group::coordinator::{Coordinator, CoordinatorParts};
use crate::kafka::context::Services;
use crate::metadata::intent::ControllerChannel;
use crate::metadata::quorum::Quorum;
use crate::platform::network;
use crate::replica::hosted::Hosted;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A listener that was bound, and the task that serves it until `stop`.
pub type Serving = (SocketAddr, JoinHandle<()>);

/// It adds itself
/// to `hosted` as a listener, hence before `Hosted::run`.
pub fn start_groups(
    config: &Arc<NodeConfig>,
    quorum: &Quorum,
    hosted: &Hosted,
    controller: &Arc<dyn ControllerChannel>,
) -> Coordinator {
    Coordinator::start(CoordinatorParts {
        config: config.clone(),
        quorum: quorum.clone(),
        hosted: hosted.clone(),
        controller: controller.clone(),
    })
}

/// WIRE: `kafka::listener::serve(services, listener, is_replica, stop)`.
pub async fn serve_kafka(
    services: Arc<Services>,
    listener: ListenerConfig,
    is_replica: bool,
    stop: watch::Receiver<bool>,
) -> io::Result<Serving> {
    let _ = (services, is_replica);
    hold(listener, stop).await
}

/// Binds the port and serves nothing.
async fn hold(listener: ListenerConfig, mut stop: watch::Receiver<bool>) -> io::Result<Serving> {
    let socket = network::listen(&listener.bind).await?;
    let address = socket.local_addr()?;
    let task = tokio::spawn(async move {
        let _ = stop.wait_for(|stop| *stop).await;
        drop(socket);
    });
    Ok((address, task))
}
