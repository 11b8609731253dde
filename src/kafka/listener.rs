//! Accepts connections of one listener.

use super::connection::{self, Closed};
use super::context::{RequestContext, Services};
use crate::config::broker::ListenerConfig;
use crate::platform::network::{self, TcpListener, TcpStream};
use crate::wire::frame::FrameLimits;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// After a failed accept (no file descriptor is free, most likely) others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long one frame may take to arrive.
const FRAME_DEADLINE: Duration = Duration::from_secs(60);
/// Requests of the replica listener are small.
const REPLICA_REQUEST_BYTES_MAX: usize = 16 << 20;

/// Binds and serves until `stop` is true; then connections finish what they have begun. Returns the address bound.
pub async fn serve(
    services: Arc<Services>,
    listener: ListenerConfig,
    is_replica: bool,
    stop: watch::Receiver<bool>,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let socket = network::listen(&listener.bind).await?;
    let address = socket.local_addr()?;
    let kafka = &services.config.kafka;
    let size = |name| usize::try_from(kafka.int(name)).unwrap_or(usize::MAX);
    let idle = Duration::from_millis(kafka.int("connections.max.idle.ms").unsigned_abs());
    let frames = FrameLimits {
        size_max: if is_replica { REPLICA_REQUEST_BYTES_MAX } else { size("socket.request.max.bytes") },
        frame_deadline: FRAME_DEADLINE,
        idle: (!is_replica).then_some(idle),
    };
    let door = Door {
        connections_max: size("max.connections"),
        frames,
        listener: Arc::from(listener.name),
        is_replica,
        services,
        stop,
    };
    tracing::debug!(listener = %door.listener, %address, "bound");
    Ok((address, tokio::spawn(door.accept(socket))))
}

struct Door {
    connections_max: usize,
    frames: FrameLimits,
    listener: Arc<str>,
    is_replica: bool,
    services: Arc<Services>,
    stop: watch::Receiver<bool>,
}

impl Door {
    async fn accept(self, socket: TcpListener) {
        let mut connections = JoinSet::new();
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(&mut connections, stream, peer),
                    Err(error) => {
                        self.warn(|left_out| {
                            tracing::warn!(listener = %self.listener, %error, left_out, "cannot accept a connection; is the limit of open files reached?");
                        });
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                () = connection::stopped(&mut stop) => break,
            }
        }
        drop(socket);
        while connections.join_next().await.is_some() {}
    }

    fn admit(&self, connections: &mut JoinSet<()>, stream: TcpStream, peer: SocketAddr) {
        if connections.len() >= self.connections_max {
            self.warn(|left_out| {
                tracing::warn!(listener = %self.listener, %peer, max = self.connections_max, left_out, "refused: max.connections is reached");
            });
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "closed before it was served");
            return;
        }
        let context = RequestContext {
            services: self.services.clone(),
            listener: self.listener.clone(),
            is_replica_listener: self.is_replica,
            peer,
            client_id: String::new(),
            version: 0,
            is_producers: Arc::default(),
        };
        let (frames, stop) = (self.frames, self.stop.clone());
        connections.spawn(async move {
            let (reader, writer) = stream.into_split();
            let services = context.services.clone();
            let Err(closed) = connection::run(reader, writer, context, frames, stop).await else { return };
            if closed.is_ordinary() {
                tracing::debug!(%peer, reason = %closed, "connection closed");
            } else if let Some(left_out) = services.state.log_limit.admit() {
                report(peer, &closed, left_out);
            }
        });
    }

    fn warn(&self, line: impl FnOnce(u64)) {
        if let Some(left_out) = self.services.state.log_limit.admit() {
            line(left_out);
        }
    }
}

fn report(peer: SocketAddr, closed: &Closed, left_out: u64) {
    tracing::warn!(%peer, reason = %closed, left_out, "closing a connection");
}
