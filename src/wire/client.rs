//! placeholder: a small Kafka client, for replica fetches.

use kafka_protocol::protocol::Request;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(pub String);

pub struct Connection {}

impl Connection {
    pub async fn open(address: &str, client_id: &str, timeout: Duration) -> Result<Connection, ClientError> {
        let _ = (address, client_id, timeout);
        todo!()
    }
    pub async fn call<R: Request>(
        &mut self,
        version: i16,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Response, ClientError> {
        let _ = (request, version, timeout);
        todo!()
    }
}
