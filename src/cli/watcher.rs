//! Watches a cluster through whichever node answers, and goes on at another where it stopped.

use super::reach;
use crate::admin::proto::events_client::EventsClient;
use crate::admin::proto::{WatchRequest, WatchResponse};
use std::time::Duration;
use tonic::{Code, Status, Streaming};

/// Nodes tell their progress every second: one that is silent for this long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Where to go on, and what of the index under way has been passed on already.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resume {
    from: Option<u64>,
    /// An index whose last message has not come: how many of its events were passed on.
    half: Option<(u64, usize)>,
    /// Events of `half` seen since the last reconnect.
    seen: usize,
}

impl Resume {
    /// A stream begins anew from `from`.
    fn reconnected(&mut self) {
        self.seen = 0;
    }

    /// Takes note of a message, and takes out of it what was passed on before the reconnect.
    fn accept(&mut self, mut message: WatchResponse) -> WatchResponse {
        let passed = match self.half {
            Some((index, passed)) if index == message.index => passed,
            _ => {
                self.seen = 0;
                0
            }
        };
        let again = passed.saturating_sub(self.seen).min(message.events.len());
        self.seen += message.events.len();
        message.events.drain(..again);
        if message.partial {
            self.half = Some((message.index, passed.max(self.seen)));
        } else {
            self.half = None;
            self.seen = 0;
            self.from = Some(self.from.map_or(message.index, |from| from.max(message.index)));
        }
        message
    }
}

pub struct Watcher {
    addresses: Vec<String>,
    /// The address in use, or to be tried next.
    at: usize,
    resume: Resume,
    stream: Option<Streaming<WatchResponse>>,
}

impl Watcher {
    /// Connects to the first address that answers; `from` as in the admin API.
    pub async fn connect(addresses: Vec<String>, from: Option<u64>) -> anyhow::Result<Watcher> {
        let resume = Resume { from, ..Resume::default() };
        let mut watcher = Watcher { addresses, at: 0, resume, stream: None };
        let mut failures = Vec::new();
        for at in 0..watcher.addresses.len() {
            watcher.at = at;
            match watcher.open().await {
                Ok(()) => return Ok(watcher),
                Err(status) if is_final(&status) => return Err(reach::refused(&status)),
                Err(status) => failures.push(format!("{}: {}", watcher.address(), status.message())),
            }
        }
        anyhow::bail!("no node can be watched\n  {}", failures.join("\n  "))
    }

    pub fn address(&self) -> &str {
        &self.addresses[self.at]
    }

    /// Forget where it was: go on from now.
    pub fn skip_to_now(&mut self) {
        self.resume = Resume::default();
        self.stream = None;
    }

    /// The next message, of this node or another. An error is one that no other node heals, such as events that are
    /// no longer kept. `lost` is told of each change of node. Cancel-safe: a message is taken whole or not at all.
    pub async fn next(&mut self, mut lost: impl FnMut(&str)) -> Result<WatchResponse, Status> {
        loop {
            if let Some(stream) = &mut self.stream {
                let failure = match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                    Ok(Ok(Some(message))) => return Ok(self.resume.accept(message)),
                    Ok(Ok(None)) => "the stream ended".to_string(),
                    Ok(Err(status)) if is_final(&status) => return Err(status),
                    Ok(Err(status)) => status.message().to_string(),
                    Err(_) => "silent".to_string(),
                };
                lost(&format!("{}: {failure}; going on at another node", self.address()));
                self.stream = None;
                self.at = (self.at + 1) % self.addresses.len();
            }
            match self.open().await {
                Ok(()) => {}
                Err(status) if is_final(&status) => return Err(status),
                Err(_) => {
                    self.at = (self.at + 1) % self.addresses.len();
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(), Status> {
        let opened = async {
            let channel = reach::stream_channel(self.address()).await.map_err(Status::unavailable)?;
            let mut client = EventsClient::new(channel).max_decoding_message_size(reach::MESSAGE_BYTES_MAX);
            Ok(client.watch(WatchRequest { from_index: self.resume.from }).await?.into_inner())
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, opened).await;
        self.stream = Some(opened.unwrap_or_else(|_| Err(Status::unavailable("no answer")))?);
        self.resume.reconnected();
        Ok(())
    }
}

/// No other node would answer otherwise.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::OutOfRange | Code::InvalidArgument | Code::Unimplemented)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::proto::event::Kind;
    use crate::admin::proto::{BrokerShuttingDown, Event};

    fn message(index: u64, events: std::ops::Range<i32>, partial: bool) -> WatchResponse {
        let event = |broker| Event { kind: Some(Kind::BrokerShuttingDown(BrokerShuttingDown { broker })) };
        WatchResponse { index, events: events.map(event).collect(), partial }
    }

    #[test]
    fn whole_indexes_and_progress_move_the_place_to_resume() {
        let mut resume = Resume::default();
        assert_eq!(resume.accept(message(5, 0..2, false)).events.len(), 2);
        assert_eq!(resume.from, Some(5));
        resume.accept(message(9, 0..0, false));
        assert_eq!(resume.from, Some(9));
        resume.accept(message(7, 0..0, false));
        assert_eq!(resume.from, Some(9), "a node that lags behind does not move it back");
    }

    #[test]
    fn an_index_cut_in_the_middle_is_asked_for_again_and_passed_on_once() {
        let mut resume = Resume { from: Some(4), ..Resume::default() };
        assert_eq!(resume.accept(message(5, 0..3, true)).events.len(), 3);
        assert_eq!(resume.from, Some(4), "not before its last message");
        resume.reconnected();
        assert_eq!(resume.accept(message(5, 0..2, true)).events.len(), 0);
        assert_eq!(resume.accept(message(5, 2..5, true)).events, message(5, 3..5, true).events);
        assert_eq!(resume.accept(message(5, 5..6, false)).events.len(), 1);
        assert_eq!(resume, Resume { from: Some(5), half: None, seen: 0 });
        assert_eq!(resume.accept(message(6, 0..1, false)).events.len(), 1);
    }
}
