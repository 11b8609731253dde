//! A small Kafka client: one connection, requests pipelined, answers in order.
//!
//! Used by the follower's fetcher, by tools and by the command line. It knows nothing of topics or leaders.

use super::codec::{self, CodecError};
use super::frame::{FrameError, FrameLimits, FrameReader};
use crate::platform::network::{self, TcpStream};
use bytes::Bytes;
use kafka_protocol::protocol::Request;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// The largest response taken; a Fetch answers with tens of MiB at most.
pub const RESPONSE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How long a response may take from its first byte to its last.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(30);

/// How many requests may wait for their answers.
pub const IN_FLIGHT_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("cannot write to {address}: {source}")]
    Write { address: String, source: io::Error },
    #[error("{address} sent no usable frame: {source}")]
    Frame { address: String, source: FrameError },
    #[error("{address} closed the connection")]
    Closed { address: String },
    #[error("{address} did not answer within {timeout:?}")]
    Timeout { address: String, timeout: Duration },
    #[error("{address} answered {answered} where {expected} was due")]
    Correlation { address: String, expected: i32, answered: i32 },
    #[error("an answer was awaited as API {awaited}, but API {due} is due")]
    WrongApi { awaited: i16, due: i16 },
    #[error("{IN_FLIGHT_MAX} requests wait for their answers already")]
    TooManyInFlight,
    #[error("the connection broke before and must be opened anew")]
    Broken,
    #[error(transparent)]
    Codec(#[from] CodecError),
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    correlation_id: i32,
    key: i16,
    version: i16,
}

/// Invariant: while `broken` is false the stream stands between two requests on its way out, and what comes in are
/// the answers to `in_flight`, in order. A call that fails or is dropped half-way leaves it true.
#[derive(Debug)]
pub struct Connection {
    address: String,
    client_id: String,
    frames: FrameReader<TcpStream>,
    in_flight: VecDeque<InFlight>,
    next_correlation_id: i32,
    broken: bool,
}

impl Connection {
    /// Dials `address` ("host:port"); the name is resolved anew each time.
    pub async fn open(address: &str, client_id: &str, timeout: Duration) -> Result<Self, ClientError> {
        let stream = network::dial(address, timeout)
            .await
            .map_err(|source| ClientError::Connect { address: address.to_string(), source })?;
        let limits = FrameLimits { size_max: RESPONSE_BYTES_MAX, frame_deadline: RESPONSE_DEADLINE, idle: None };
        Ok(Self {
            address: address.to_string(),
            client_id: client_id.to_string(),
            frames: FrameReader::new(stream, limits),
            in_flight: VecDeque::new(),
            next_correlation_id: 0,
            broken: false,
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Must the connection be opened anew?
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// How many requests wait for their answers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends `request` and returns its correlation id; the answer is read later, in order.
    pub async fn send_request<T: Request>(&mut self, version: i16, request: &T) -> Result<i32, ClientError> {
        let correlation_id = self.send_frame(version, request).await?;
        self.in_flight.push_back(InFlight { correlation_id, key: T::KEY, version });
        Ok(correlation_id)
    }

    /// Sends a request that has no answer (Produce with acks=0).
    pub async fn send_one_way<T: Request>(&mut self, version: i16, request: &T) -> Result<(), ClientError> {
        self.send_frame(version, request).await.map(drop)
    }

    /// Reads the answer to the oldest request in flight, which must be a `T`. Cancel-safe: a dropped read can be
    /// begun again.
    pub async fn read_response<T: Request>(&mut self) -> Result<T::Response, ClientError> {
        let (version, body) = self.read_body(T::KEY).await?;
        self.break_on_error(codec::decode_response::<T>(version, body).map_err(ClientError::from))
    }

    /// Sends `request` and reads its answer, all within `timeout`. With others in flight before it, use
    /// [`send_request`](Self::send_request) and [`read_response`](Self::read_response).
    pub async fn call<T: Request>(
        &mut self,
        version: i16,
        request: &T,
        timeout: Duration,
    ) -> Result<T::Response, ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        if let Some(due) = self.in_flight.front() {
            return Err(ClientError::WrongApi { awaited: T::KEY, due: due.key });
        }
        let done = tokio::time::timeout(timeout, async {
            self.send_request(version, request).await?;
            self.read_response::<T>().await
        })
        .await;
        done.unwrap_or_else(|_| {
            // The answer may still come and must not be taken for another's.
            self.broken = true;
            Err(ClientError::Timeout { address: self.address.clone(), timeout })
        })
    }

    async fn send_frame<T: Request>(&mut self, version: i16, request: &T) -> Result<i32, ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return Err(ClientError::TooManyInFlight);
        }
        let correlation_id = self.next_correlation_id;
        let frame = codec::encode_request(correlation_id, &self.client_id, version, request)?;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        // Until the last byte is out, a dropped write leaves half a frame behind.
        self.broken = true;
        let written = self.frames.get_mut().write_all(&frame).await;
        written.map_err(|source| ClientError::Write { address: self.address.clone(), source })?;
        self.broken = false;
        Ok(correlation_id)
    }

    async fn read_body(&mut self, key: i16) -> Result<(i16, Bytes), ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        let due = match self.in_flight.front() {
            Some(due) if due.key == key => *due,
            Some(due) => return Err(ClientError::WrongApi { awaited: key, due: due.key }),
            None => return Err(ClientError::WrongApi { awaited: key, due: -1 }),
        };
        let frame = match self.frames.next().await {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(ClientError::Closed { address: self.address.clone() }),
            Err(source) => Err(ClientError::Frame { address: self.address.clone(), source }),
        };
        let mut frame = self.break_on_error(frame)?;
        self.in_flight.pop_front();
        let answered = codec::decode_response_header(due.key, due.version, &mut frame).map_err(ClientError::from);
        let answered = self.break_on_error(answered)?;
        if answered != due.correlation_id {
            self.broken = true;
            let address = self.address.clone();
            return Err(ClientError::Correlation { address, expected: due.correlation_id, answered });
        }
        Ok((due.version, frame))
    }

    fn break_on_error<V>(&mut self, result: Result<V, ClientError>) -> Result<V, ClientError> {
        self.broken |= result.is_err();
        result
    }
}

/// Opens a connection, makes one call and closes it.
pub async fn call_once<T: Request>(
    address: &str,
    client_id: &str,
    version: i16,
    request: &T,
    timeout: Duration,
) -> Result<T::Response, ClientError> {
    Connection::open(address, client_id, timeout).await?.call(version, request, timeout).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{
        FetchRequest, FetchResponse, HeartbeatRequest, HeartbeatResponse, fetch_response::FetchableTopicResponse,
        fetch_response::PartitionData,
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// Answers each request with what `answer` makes of its header and body; hangs up when that is nothing.
    async fn serve<A>(answer: A) -> (String, tokio::task::JoinHandle<()>)
    where
        A: Fn(codec::Header, Bytes) -> Option<Bytes> + Send + 'static,
    {
        let listener = network::listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let limits = FrameLimits { size_max: 1 << 20, frame_deadline: SECOND, idle: None };
            let mut frames = FrameReader::new(stream, limits);
            while let Some(mut frame) = frames.next().await.unwrap() {
                let header = codec::decode_header(&mut frame).unwrap();
                let Some(reply) = answer(header, frame) else { return };
                frames.get_mut().write_all(&reply).await.unwrap();
            }
        });
        (address, task)
    }

    fn heartbeat_answer(header: codec::Header, body: Bytes) -> Option<Bytes> {
        let request = codec::decode_request::<HeartbeatRequest>(header.api_key, header.version, body).unwrap();
        let response = HeartbeatResponse::default().with_throttle_time_ms(request.generation_id);
        Some(codec::encode_response(header.correlation_id, header.api_key, header.version, &response).unwrap())
    }

    #[tokio::test]
    async fn pipelined_requests_are_answered_in_order() {
        let (address, server) = serve(heartbeat_answer).await;
        let mut connection = Connection::open(&address, "test", SECOND).await.unwrap();
        for generation in 0..10 {
            let request = HeartbeatRequest::default().with_generation_id(generation);
            connection.send_request(4, &request).await.unwrap();
        }
        assert_eq!(connection.in_flight(), 10);
        for generation in 0..10 {
            let response = connection.read_response::<HeartbeatRequest>().await.unwrap();
            assert_eq!(response.throttle_time_ms, generation);
        }
        drop(connection);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn fetched_records_come_through_the_guard() {
        let records = Bytes::from(vec![7; 100_000]);
        let sent = records.clone();
        let (address, _server) = serve(move |header, _| {
            let partition = PartitionData::default().with_records(Some(sent.clone()));
            let topic = FetchableTopicResponse::default().with_partitions(vec![partition]);
            let response = FetchResponse::default().with_responses(vec![topic]);
            Some(codec::encode_response(header.correlation_id, 1, header.version, &response).unwrap())
        })
        .await;
        let response = call_once(&address, "test", 17, &FetchRequest::default(), SECOND).await.unwrap();
        assert_eq!(response.responses[0].partitions[0].records.as_ref(), Some(&records));
    }

    #[tokio::test]
    async fn after_a_timeout_the_connection_is_not_used_again() {
        let listener = network::listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut connection = Connection::open(&address, "test", SECOND).await.unwrap();
        let request = HeartbeatRequest::default();
        let timeout = Duration::from_millis(20);
        assert!(matches!(connection.call(4, &request, timeout).await, Err(ClientError::Timeout { .. })));
        assert!(matches!(connection.call(4, &request, timeout).await, Err(ClientError::Broken)));
        assert!(connection.is_broken());
    }

    #[tokio::test]
    async fn a_wrong_correlation_id_and_a_hang_up_are_typed() {
        let (address, _server) =
            serve(|_, _| Some(codec::encode_response(99, 12, 4, &HeartbeatResponse::default()).unwrap())).await;
        let wrong = call_once(&address, "test", 4, &HeartbeatRequest::default(), SECOND).await;
        assert!(matches!(wrong, Err(ClientError::Correlation { answered: 99, .. })));
        let (address, _server) = serve(|_, _| None).await;
        let closed = call_once(&address, "test", 4, &HeartbeatRequest::default(), SECOND).await;
        assert!(matches!(closed, Err(ClientError::Closed { .. } | ClientError::Frame { .. })));
    }
}
