//! Connections to other nodes' cluster ports.

use super::proto::cluster_client::ClusterClient;
use super::proto::{DescribeAnswer, DescribeRequest};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A name look-up and a TCP handshake between nodes.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// One Describe in all.
pub const DESCRIBE_TIMEOUT: Duration = Duration::from_millis(800);
/// Pooled connections; the pool starts anew above it.
const POOLED_MAX: usize = 64;

/// A client that connects at its first use, and resolves the name anew at each connect: a container's address changes.
/// Must be called on the runtime that is to drive the connection.
pub fn client(address: &str) -> Result<ClusterClient<Channel>, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| Status::invalid_argument(format!("'{address}' is not a host:port address: {e}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    Ok(ClusterClient::new(endpoint.connect_lazy()))
}

/// Asks a node who it is, over a connection of its own.
pub async fn describe(address: &str, cluster_id: String) -> Result<DescribeAnswer, Status> {
    let mut client = client(address)?;
    let call = async move { client.describe(DescribeRequest { cluster_id }).await };
    match tokio::time::timeout(DESCRIBE_TIMEOUT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {DESCRIBE_TIMEOUT:?}"))),
    }
}

/// True if the request cannot have reached the peer: the connection itself could not be made.
pub fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Connections kept by address. A failed one is dropped, so that no stale address is kept.
#[derive(Default)]
pub struct Pool {
    clients: Mutex<BTreeMap<String, ClusterClient<Channel>>>,
}

impl Pool {
    pub fn get(&self, address: &str) -> Result<ClusterClient<Channel>, Status> {
        let mut clients = self.clients.lock();
        if let Some(pooled) = clients.get(address) {
            return Ok(pooled.clone());
        }
        if clients.len() >= POOLED_MAX {
            clients.clear();
        }
        let fresh = client(address)?;
        clients.insert(address.to_string(), fresh.clone());
        Ok(fresh)
    }

    pub fn forget(&self, address: &str) {
        self.clients.lock().remove(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_known_to_have_sent_nothing() {
        // Bound, then dropped: nobody listens there now.
        let listener = crate::platform::network::listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let status = describe(&address, String::new()).await.unwrap_err();
        assert!(never_sent(&status), "{status:?}");
        assert!(!never_sent(&Status::unavailable("broken pipe")));
    }
}
