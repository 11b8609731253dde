//! Calls to whoever leads one partition now.

use super::metadata::{CLIENT_ID, Metadata};
use crate::wire::client::Connection;
use kafka_protocol::protocol::Request;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);

/// One partition's leader, with a connection of its own.
pub struct Leader {
    pub metadata: Metadata,
    pub partition: usize,
    /// The leader's id and epoch that the connection was opened for.
    open: Option<(i32, i32, Connection)>,
}

/// No answer; the caller tries again. What was sent may or may not have arrived.
#[derive(Debug)]
pub struct NoAnswer;

impl Leader {
    pub fn new(metadata: Metadata, partition: usize) -> Leader {
        Leader { metadata, partition, open: None }
    }

    /// The leader's epoch that the next call is meant for; −1 before the first.
    pub fn epoch(&self) -> i32 {
        self.open.as_ref().map_or(-1, |(_, epoch, _)| *epoch)
    }

    /// Makes sure of a connection to the leader that metadata names now; pauses and fails where there is none.
    pub async fn reach(&mut self) -> Result<(), NoAnswer> {
        let view = self.metadata.view();
        let Some((leader, epoch, address)) = view.leader(self.partition) else {
            return self.ask_again().await;
        };
        if matches!(&self.open, Some((l, e, open)) if (*l, *e) == (leader, epoch) && !open.is_broken()) {
            return Ok(());
        }
        self.open = None;
        match Connection::open(address, CLIENT_ID, CONNECT_TIMEOUT).await {
            Ok(open) => {
                self.open = Some((leader, epoch, open));
                Ok(())
            }
            Err(_) => self.ask_again().await,
        }
    }

    /// Calls the leader. Gives up early when another is elected: a hung one would keep the caller until `limit`.
    pub async fn call<T: Request>(
        &mut self,
        version: i16,
        request: &T,
        limit: Duration,
    ) -> Result<T::Response, NoAnswer> {
        self.reach().await?;
        let Some((leader, epoch, mut connection)) = self.open.take() else { return Err(NoAnswer) };
        let mut views = self.metadata.watch();
        let partition = self.partition;
        let moved = views.wait_for(|view| view.leader(partition).is_some_and(|(l, e, _)| (l, e) != (leader, epoch)));
        let answer = tokio::select! {
            answer = connection.call(version, request, limit) => answer.ok(),
            _ = moved => None,
        };
        match answer {
            Some(answer) => {
                self.open = Some((leader, epoch, connection));
                Ok(answer)
            }
            None => self.ask_again().await,
        }
    }

    /// Sends what has no answer.
    pub async fn send<T: Request>(&mut self, version: i16, request: &T, limit: Duration) -> Result<(), NoAnswer> {
        self.reach().await?;
        let Some((_, _, connection)) = &mut self.open else { return Err(NoAnswer) };
        if matches!(timeout(limit, connection.send_one_way(version, request)).await, Ok(Ok(()))) {
            return Ok(());
        }
        self.open = None;
        self.ask_again().await
    }

    /// Waits for news of who leads.
    pub async fn ask_again<R>(&mut self) -> Result<R, NoAnswer> {
        self.metadata.refresh(self.metadata.view().version).await;
        sleep(PAUSE).await;
        Err(NoAnswer)
    }
}
