//! Frames: a 4-byte length, then so many bytes.
//!
//! ```text
//! idle: at most 8 KiB to read into ─▶ length known ─▶ buffer grows with what arrived ─▶ split off as `Bytes`
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// What an idle connection reads into: many small requests at once, yet 10,000 connections cost only 80 MB.
const IDLE_BYTES: usize = 8 * 1024;

/// How far the buffer may run ahead of what arrived, for a peer that has shown nothing yet.
const STEP_BYTES: usize = 64 * 1024;

/// How far it may run ahead for a peer whose last frame was that large: saves the copies of growing.
const EARNED_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame may not have the negative length {0}")]
    NegativeLength(i32),
    #[error("a frame of {length} bytes is larger than the {max} bytes allowed")]
    TooLarge { length: usize, max: usize },
    #[error("the peer closed the connection inside a frame, after {0} bytes of it")]
    Truncated(usize),
    #[error("a frame was begun but not finished within {0:?}")]
    Slow(Duration),
    #[error("nothing came for {0:?}")]
    Idle(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// The largest frame taken, without its length field.
    pub size_max: usize,
    /// How long one frame may take, counted from when its first byte was seen.
    pub frame_deadline: Duration,
    /// How long the peer may say nothing between frames; `None` is without limit.
    pub idle: Option<Duration>,
}

/// Reads frames off a stream.
///
/// Invariants: `buffer` starts at a frame's length field; `begun` is set exactly while it holds a part of a frame
/// that was waited for. All state is here, so a dropped `next` loses nothing.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    limits: FrameLimits,
    buffer: BytesMut,
    begun: Option<Instant>,
    idle_since: Option<Instant>,
    /// The size of the last whole frame, up to [`EARNED_BYTES_MAX`].
    earned: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(reader: R, limits: FrameLimits) -> Self {
        Self { reader, limits, buffer: BytesMut::new(), begun: None, idle_since: None, earned: 0 }
    }

    /// The next frame without its length field, or `None` when the peer closed between frames. Cancel-safe.
    ///
    /// The frame shares its allocation with its neighbours: copy what is to be kept for long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let wanted = match self.announced()? {
                Some(length) if self.buffer.len() >= 4 + length => return Ok(Some(self.split(length))),
                Some(length) => 4 + length,
                None => 4,
            };
            if self.fill(wanted).await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    arrived => Err(FrameError::Truncated(arrived)),
                };
            }
        }
    }

    /// A whole frame that has arrived already, without waiting.
    pub fn next_arrived(&mut self) -> Result<Option<Bytes>, FrameError> {
        match self.announced()? {
            Some(length) if self.buffer.len() >= 4 + length => Ok(Some(self.split(length))),
            _ => Ok(None),
        }
    }

    /// The stream itself, to write to it.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    /// The length of the frame at the front, once its four bytes are there.
    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(bytes) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = i32::from_be_bytes(*bytes);
        let max = self.limits.size_max;
        match usize::try_from(length) {
            Err(_) => Err(FrameError::NegativeLength(length)),
            Ok(length) if length > max => Err(FrameError::TooLarge { length, max }),
            Ok(length) => Ok(Some(length)),
        }
    }

    fn split(&mut self, length: usize) -> Bytes {
        let mut frame = self.buffer.split_to(4 + length);
        if self.buffer.is_empty() {
            // Or the empty rest would keep a large frame's memory for as long as the connection idles.
            self.buffer = BytesMut::new();
        }
        self.begun = None;
        self.idle_since = None;
        self.earned = length.min(EARNED_BYTES_MAX);
        let _ = frame.split_to(4);
        frame.freeze()
    }

    /// Reads once, towards a front frame of `wanted` bytes with its length field.
    async fn fill(&mut self, wanted: usize) -> Result<usize, FrameError> {
        self.make_room(wanted);
        // A large frame takes exactly its own bytes, so that the head of the next one need not be copied over.
        let room = if wanted > STEP_BYTES { wanted - self.buffer.len() } else { usize::MAX };
        let deadline = if !self.buffer.is_empty() {
            let begun = *self.begun.get_or_insert_with(Instant::now);
            Some((begun + self.limits.frame_deadline, FrameError::Slow(self.limits.frame_deadline)))
        } else if let Some(idle) = self.limits.idle {
            let since = *self.idle_since.get_or_insert_with(Instant::now);
            Some((since + idle, FrameError::Idle(idle)))
        } else {
            None
        };
        let mut target = (&mut self.buffer).limit(room);
        let read = self.reader.read_buf(&mut target);
        let count = within(deadline, read).await??;
        if self.begun.is_none() && count > 0 {
            self.begun = Some(Instant::now());
        }
        Ok(count)
    }

    /// Makes room to read into: never more than a step, or what the peer has earned, ahead of what arrived, except
    /// that a large frame doubles, which copies each byte once at most on average.
    fn make_room(&mut self, wanted: usize) {
        let arrived = self.buffer.len();
        if self.buffer.capacity() > arrived && (self.buffer.capacity() >= wanted || wanted > STEP_BYTES) {
            return;
        }
        let target = if wanted <= IDLE_BYTES {
            IDLE_BYTES
        } else {
            let ahead = STEP_BYTES.max(self.earned).max(arrived);
            wanted.min(arrived + ahead)
        };
        let mut grown = BytesMut::with_capacity(target);
        grown.extend_from_slice(&self.buffer);
        self.buffer = grown;
    }
}

async fn within<F: Future>(deadline: Option<(Instant, FrameError)>, future: F) -> Result<F::Output, FrameError> {
    match deadline {
        Some((at, error)) => timeout_at(at, future).await.map_err(|_| error),
        None => Ok(future.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    const LIMITS: FrameLimits =
        FrameLimits { size_max: 4 * 1024 * 1024, frame_deadline: Duration::from_secs(5), idle: None };

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut frame = (body.len() as i32).to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    fn block_on<F: Future<Output = ()>>(test: F) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn frames_of_every_size_come_out_as_they_went_in() {
        block_on(async {
            let bodies: Vec<Vec<u8>> = [0, 1, 200, 8188, 8189, 65_536, 70_000, 1 << 20, 3, 2 << 20, 5]
                .iter()
                .enumerate()
                .map(|(seed, size)| (0..*size).map(|i| (i * 31 + seed) as u8).collect())
                .collect();
            let (mut near, far) = tokio::io::duplex(50_000);
            let sent = bodies.clone();
            let writer = async move {
                for body in &sent {
                    near.write_all(&framed(body)).await.unwrap();
                }
            };
            let reader = async move {
                let mut frames = FrameReader::new(far, LIMITS);
                for body in &bodies {
                    assert_eq!(frames.next().await.unwrap().unwrap(), body);
                }
                assert!(frames.next().await.unwrap().is_none());
            };
            tokio::join!(writer, reader);
        });
    }

    #[test]
    fn an_announced_length_reserves_no_more_than_a_step() {
        block_on(async {
            let (mut near, far) = tokio::io::duplex(64);
            near.write_all(&(4_000_000i32).to_be_bytes()).await.unwrap();
            let mut frames = FrameReader::new(far, LIMITS);
            assert!(tokio::time::timeout(Duration::from_millis(1), frames.next()).await.is_err());
            assert!(frames.buffer.capacity() <= STEP_BYTES + 4, "{}", frames.buffer.capacity());
        });
    }

    #[test]
    fn impossible_lengths_and_a_close_inside_a_frame_are_typed() {
        block_on(async {
            for (bytes, expected) in [
                (&[0xff, 0xff, 0xff, 0xff][..], "negative"),
                (&[0x7f, 0, 0, 0], "larger"),
                (&[0, 0, 0, 9, 1, 2], "inside"),
                (&[0, 0], "inside"),
            ] {
                let mut frames = FrameReader::new(bytes, LIMITS);
                let error = frames.next().await.unwrap_err().to_string();
                assert!(error.contains(expected), "{bytes:?}: {error}");
            }
        });
    }

    #[test]
    fn a_frame_has_a_deadline_from_its_first_byte_and_silence_has_none() {
        block_on(async {
            let (mut near, far) = tokio::io::duplex(64);
            let limits = FrameLimits { frame_deadline: Duration::from_millis(20), ..LIMITS };
            let mut frames = FrameReader::new(far, limits);
            assert!(tokio::time::timeout(Duration::from_millis(60), frames.next()).await.is_err(), "silence is fine");
            near.write_all(&[0, 0]).await.unwrap();
            assert!(matches!(frames.next().await, Err(FrameError::Slow(_))));
        });
        block_on(async {
            let (_near, far) = tokio::io::duplex(64);
            let limits = FrameLimits { idle: Some(Duration::from_millis(10)), ..LIMITS };
            assert!(matches!(FrameReader::new(far, limits).next().await, Err(FrameError::Idle(_))));
        });
    }

    #[test]
    fn a_dropped_wait_loses_no_bytes() {
        block_on(async {
            let body: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
            let frame = framed(&body);
            let (mut near, far) = tokio::io::duplex(frame.len() + 1);
            let mut frames = FrameReader::new(far, LIMITS);
            for part in frame.chunks(7_001) {
                assert!(frames.next_arrived().unwrap().is_none());
                near.write_all(part).await.unwrap();
                tokio::select! {
                    biased;
                    done = frames.next() => { assert_eq!(done.unwrap().unwrap(), body); return; }
                    () = tokio::task::yield_now() => {}
                }
            }
            panic!("the frame never came");
        });
    }

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_ends_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            block_on(async move {
                let mut frames = FrameReader::new(&bytes[..], FrameLimits { size_max: 100, ..LIMITS });
                while let Ok(Some(frame)) = frames.next().await {
                    assert!(frame.len() <= 100);
                }
            });
        }
    }
}
