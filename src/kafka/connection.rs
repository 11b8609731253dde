//! One connection: requests in, replies out, in order.
//!
//! ```text
//! frames ─→ start (a produce appends here, before the next frame is looked at) ─→ in flight ─→ outbox ─→ socket
//! ```
//!
//! Produce requests overlap: while one waits for its replicas the next is appended. Any other request starts only when
//! no other but Produce is in flight, as in Kafka, where clients rely on it: a LeaveGroup must not overtake the
//! OffsetCommit before it.

use super::budget::{Budget, Lease};
use super::context::RequestContext;
use super::dispatch::{self, Outcome, Started};
use super::handlers::offset_requests::OffsetRequestError;
use super::reply::Outbox;
use super::versions;
use crate::wire::codec::{self, CodecError, Header};
use crate::wire::frame::{FrameError, FrameLimits, FrameReader};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Requests begun whose reply is not yet written.
const IN_FLIGHT_MAX: usize = 64;
/// Above this no more requests are read until the peer has taken some of its replies.
const UNWRITTEN_BYTES_MAX: usize = 1 << 20;
/// How long a peer may take none of its replies' bytes.
const WRITE_DEADLINE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(30) };
/// What requests in flight may still take once the node stops.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Slices of one vectored write.
const SLICES_MAX: usize = 64;
/// Half-read bytes a connection may always have, however many others hold theirs.
const UNREAD_BYTES_FREE: usize = 1 << 20;

/// Why a connection was closed from this side.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    #[error("reading: {0}")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    OffsetRequest(#[from] OffsetRequestError),
    #[error("writing: {0}")]
    Write(#[source] io::Error),
    #[error("the peer took none of its replies for {0:?}")]
    NotReading(Duration),
    #[error("API key {0} is not served here")]
    UnknownApi(i16),
    #[error("version {version} of API key {key} is not served")]
    UnknownVersion { key: i16, version: i16 },
    #[error("a produce with acks=0 failed and closing is its only answer: {0}")]
    Unacknowledged(String),
}

impl Closed {
    /// A peer that went away, or one that is told so as the protocol wants it: nothing an operator should look at.
    pub fn is_ordinary(&self) -> bool {
        let gone = |error: &io::Error| {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof)
        };
        match self {
            Closed::Frame(FrameError::Idle(_) | FrameError::Truncated(_)) | Closed::Unacknowledged(_) => true,
            Closed::Frame(FrameError::Io(error)) | Closed::Write(error) => gone(error),
            _ => false,
        }
    }
}

/// Serves one connection until the peer closes it, something is wrong, or `stop` is true.
pub async fn run<R, W>(
    reader: R,
    writer: W,
    context: RequestContext,
    limits: FrameLimits,
    stop: watch::Receiver<bool>,
) -> Result<(), Closed>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let reader = CountedReader::new(reader, context.services.state.request_bytes.clone());
    // What is begun after a "not yet" is the same request again: it is held back, and no frame is read meanwhile.
    let mut again = false;
    let start: Starter = Box::new(move |header, body| {
        let started = dispatch::start(&context, header, body, again);
        again = matches!(started, Ok(Started::NotYet(_)));
        started
    });
    serve(FrameReader::new(reader, limits), writer, start, stop).await
}

/// Waits until the node stops; a sender that is gone is a stop as well.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // What it returns borrows the value: let go at once.
    drop(stop.wait_for(|stop| *stop).await);
}

/// Starts one request: [`dispatch::start`], and in tests whatever shows the order of things.
type Starter = Box<dyn FnMut(&Header, Bytes) -> Result<Started, Closed> + Send>;

async fn serve<R, W>(
    frames: FrameReader<CountedReader<R>>,
    mut writer: W,
    start: Starter,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Closed>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut state = Connection {
        frames,
        start,
        in_flight: FuturesOrdered::new(),
        serial: 0,
        held_back: None,
        outbox: Outbox::default(),
        ending: None,
    };
    let mut write_deadline = Instant::now() + WRITE_DEADLINE;
    let mut stop_deadline = None;
    loop {
        state.advance();
        if state.is_over() {
            return state.ending.take().unwrap_or(Ok(()));
        }
        let had_bytes = !state.outbox.is_empty();
        if !had_bytes {
            write_deadline = Instant::now() + WRITE_DEADLINE;
        }
        let may_read = state.may_read();
        let Connection { frames, in_flight, outbox, ending, serial, .. } = &mut state;
        tokio::select! {
            biased;
            Some((is_serial, outcome)) = in_flight.next(), if !in_flight.is_empty() => {
                *serial -= usize::from(is_serial);
                settle(outcome, outbox, ending);
            }
            written = write_some(&mut writer, outbox), if had_bytes => {
                outbox.advance(written.map_err(Closed::Write)?);
                write_deadline = Instant::now() + WRITE_DEADLINE;
            }
            frame = frames.next(), if may_read => match frame {
                Ok(Some(frame)) => state.accept(frame),
                Ok(None) => {
                    // Nobody is there to read an answer.
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            },
            () = sleep_until(write_deadline), if had_bytes => return Err(Closed::NotReading(WRITE_DEADLINE)),
            () = stopped(&mut stop), if stop_deadline.is_none() => {
                stop_deadline = Some(Instant::now() + STOP_GRACE);
                state.end(Ok(()));
            }
            () = sleep_until(stop_deadline.unwrap_or(write_deadline)), if stop_deadline.is_some() => return Ok(()),
        }
    }
}

/// Invariants: `serial` counts what is in flight that a request held back waits for, which is the requests that are not
/// Produce, at most one, and the wait of a produce that is itself held back, at most one; while a request is held back,
/// or the connection is ending, no frame is read.
struct Connection<R> {
    frames: FrameReader<CountedReader<R>>,
    start: Starter,
    in_flight: FuturesOrdered<InFlight>,
    serial: usize,
    held_back: Option<(Header, Bytes, Lease)>,
    outbox: Outbox,
    /// No more requests; close with this once the replies before it are written.
    ending: Option<Result<(), Closed>>,
}

impl<R: AsyncRead + Unpin> Connection<R> {
    /// Does all that needs no waiting, so that small replies share one write.
    fn advance(&mut self) {
        loop {
            while let Some(Some((is_serial, outcome))) = self.in_flight.next().now_or_never() {
                self.serial -= usize::from(is_serial);
                settle(outcome, &mut self.outbox, &mut self.ending);
            }
            if self.ending.is_none()
                && self.serial == 0
                && let Some((header, body, lease)) = self.held_back.take()
            {
                self.begin(header, body, lease);
                continue;
            }
            if !self.may_read() {
                return;
            }
            match self.frames.next_arrived() {
                Ok(Some(frame)) => self.accept(frame),
                Ok(None) => return,
                Err(error) => self.end(Err(error.into())),
            }
        }
    }

    fn may_read(&self) -> bool {
        self.ending.is_none()
            && self.held_back.is_none()
            && self.in_flight.len() + self.outbox.count() < IN_FLIGHT_MAX
            && self.outbox.bytes() < UNWRITTEN_BYTES_MAX
    }

    fn is_over(&self) -> bool {
        let cut_short = matches!(self.ending, Some(Err(Closed::Unacknowledged(_))));
        self.ending.is_some() && self.outbox.is_empty() && (cut_short || self.in_flight.is_empty())
    }

    fn end(&mut self, how: Result<(), Closed>) {
        self.held_back = None;
        self.ending.get_or_insert(how);
    }

    fn accept(&mut self, mut frame: Bytes) {
        let lease = self.frames.get_mut().frame_done(4 + frame.len());
        match codec::decode_header(&mut frame) {
            Ok(header) if header.api_key != versions::PRODUCE && self.serial > 0 => {
                self.held_back = Some((header, frame, lease));
            }
            Ok(header) => self.begin(header, frame, lease),
            Err(error) => self.end(Err(error.into())),
        }
    }

    fn begin(&mut self, header: Header, body: Bytes, lease: Lease) {
        match (self.start)(&header, body.clone()) {
            Ok(Started::NotYet(wait)) => {
                self.serial += 1;
                let work = Work::Later(Box::pin(wait.map(|()| Outcome::Silence)));
                self.in_flight.push_back(InFlight { is_serial: true, work, _held: None });
                self.held_back = Some((header, body, lease));
            }
            // The usual end of a produce that waits for nobody: no future is made.
            Ok(Started::Ready(outcome)) if self.in_flight.is_empty() => {
                settle(outcome, &mut self.outbox, &mut self.ending);
            }
            Ok(started) => {
                let is_serial = header.api_key != versions::PRODUCE;
                self.serial += usize::from(is_serial);
                // A produce's bytes are in the log by now; other requests keep theirs while they run.
                let held = is_serial.then_some(lease);
                let work = match started {
                    Started::Ready(outcome) => Work::Ready(Some(outcome)),
                    Started::Later(future) => Work::Later(future),
                    Started::NotYet(_) => unreachable!("handled above"),
                };
                self.in_flight.push_back(InFlight { is_serial, work, _held: held });
            }
            // What was begun before it still gets its answer.
            Err(closed) => self.end(Err(closed)),
        }
    }
}

fn settle(outcome: Outcome, outbox: &mut Outbox, ending: &mut Option<Result<(), Closed>>) {
    match outcome {
        // After a failed one the peer must not see answers to later ones.
        _ if matches!(ending, Some(Err(Closed::Unacknowledged(_)))) => {}
        Outcome::Reply(reply) => outbox.push(reply),
        Outcome::Silence => {}
        Outcome::Close(closed) => {
            ending.get_or_insert(Err(closed));
        }
    }
}

enum Work {
    Ready(Option<Outcome>),
    Later(BoxFuture<'static, Outcome>),
}

struct InFlight {
    is_serial: bool,
    work: Work,
    _held: Option<Lease>,
}

impl Future for InFlight {
    type Output = (bool, Outcome);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(bool, Outcome)> {
        let outcome = match &mut self.work {
            Work::Ready(outcome) => outcome.take().expect("a future is not polled after it was ready"),
            Work::Later(future) => ready!(future.as_mut().poll(cx)),
        };
        Poll::Ready((self.is_serial, outcome))
    }
}

/// One vectored write of what is there. Dropped before it is ready, it has written nothing.
async fn write_some<W: AsyncWrite + Unpin>(writer: &mut W, outbox: &Outbox) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let filled = outbox.fill(&mut slices);
        match ready!(Pin::new(&mut *writer).poll_write_vectored(cx, &slices[..filled])) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    })
    .await
}

/// Counts what was read of frames that are not whole yet against the node's budget.
///
/// A peer that would go on reading into a budget that is used up is cut off: waiting for others, which may be waiting
/// for it, would help nobody.
struct CountedReader<R> {
    reader: R,
    budget: Arc<Budget>,
    unread: Lease,
}

impl<R> CountedReader<R> {
    fn new(reader: R, budget: Arc<Budget>) -> Self {
        let unread = budget.lease(0);
        Self { reader, budget, unread }
    }

    /// A frame of so many bytes is whole: they are its request's from here on.
    fn frame_done(&mut self, bytes: usize) -> Lease {
        self.unread.split(bytes)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for CountedReader<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unread.bytes() > UNREAD_BYTES_FREE && this.budget.available() == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the node holds as many bytes of half-read requests as it may",
            )));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.reader).poll_read(cx, buf))?;
        this.unread.grow(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
