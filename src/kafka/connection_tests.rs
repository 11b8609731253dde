use super::*;
use crate::kafka::reply::Reply;
use bytes::{BufMut, BytesMut};
use std::collections::HashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};

const LIMITS: FrameLimits = FrameLimits { size_max: 1 << 20, frame_deadline: Duration::from_secs(5), idle: None };
const METADATA: i16 = versions::METADATA;
const PRODUCE: i16 = versions::PRODUCE;

fn request(key: i16, correlation_id: i32) -> Vec<u8> {
    let mut frame = BytesMut::new();
    frame.put_i32(10);
    frame.put_i16(key);
    frame.put_i16(3);
    frame.put_i32(correlation_id);
    frame.put_i16(-1);
    frame.to_vec()
}

fn answer(correlation_id: i32) -> Outcome {
    Outcome::Reply(Reply::of(Bytes::copy_from_slice(&correlation_id.to_be_bytes())))
}

/// A served connection whose requests wait until the test lets them go on.
struct Harness {
    near: DuplexStream,
    started: mpsc::UnboundedReceiver<(i32, oneshot::Sender<Outcome>)>,
    waiting: HashMap<i32, oneshot::Sender<Outcome>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(), Closed>>,
    budget: Arc<Budget>,
}

impl Harness {
    fn new() -> Harness {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(far);
        let (tell, started) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let budget = Budget::new(1 << 20);
        let start: Starter = Box::new(move |header, _| {
            let (go_on, wait) = oneshot::channel();
            tell.send((header.correlation_id, go_on)).ok();
            let id = header.correlation_id;
            Ok(Started::Later(Box::pin(async move { wait.await.unwrap_or_else(|_| answer(id)) })))
        });
        let frames = FrameReader::new(CountedReader::new(reader, budget.clone()), LIMITS);
        let task = tokio::spawn(serve(frames, writer, start, stopped));
        Harness { near, started, waiting: HashMap::new(), stop, task, budget }
    }

    async fn send(&mut self, key: i16, correlation_id: i32) {
        self.near.write_all(&request(key, correlation_id)).await.unwrap();
    }

    /// Waits until the next request has begun and tells which.
    async fn begun(&mut self) -> i32 {
        let next = tokio::time::timeout(Duration::from_secs(5), self.started.recv());
        let (id, go_on) = next.await.expect("a request begins").expect("the connection lives");
        self.waiting.insert(id, go_on);
        id
    }

    fn finish(&mut self, id: i32, outcome: Outcome) {
        self.waiting.remove(&id).expect("it has begun").send(outcome).ok();
    }

    async fn reply(&mut self) -> i32 {
        tokio::time::timeout(Duration::from_secs(5), self.near.read_i32()).await.expect("a reply").unwrap()
    }
}

#[tokio::test]
async fn produces_overlap_and_replies_keep_the_order() {
    let mut harness = Harness::new();
    for id in 1..=3 {
        harness.send(PRODUCE, id).await;
    }
    for id in 1..=3 {
        assert_eq!(harness.begun().await, id);
    }
    for id in [3, 2, 1] {
        harness.finish(id, answer(id));
    }
    for id in 1..=3 {
        assert_eq!(harness.reply().await, id);
    }
    assert_eq!(harness.budget.available(), 1 << 20, "nothing is counted when nothing is there");
}

#[tokio::test]
async fn other_requests_wait_for_each_other_but_not_for_produces() {
    let mut harness = Harness::new();
    harness.send(PRODUCE, 1).await;
    harness.send(METADATA, 2).await;
    harness.send(PRODUCE, 3).await;
    harness.send(METADATA, 4).await;
    harness.send(PRODUCE, 5).await;
    for id in 1..=3 {
        assert_eq!(harness.begun().await, id);
    }
    harness.finish(1, answer(1));
    assert_eq!(harness.reply().await, 1);
    assert!(harness.started.try_recv().is_err(), "4 waits for 2, and 5 stands behind it");
    harness.finish(2, answer(2));
    assert_eq!(harness.reply().await, 2);
    assert_eq!(harness.begun().await, 4);
    assert_eq!(harness.begun().await, 5);
    for id in 3..=5 {
        harness.finish(id, answer(id));
        assert_eq!(harness.reply().await, id);
    }
}

#[tokio::test]
async fn no_more_than_the_bound_are_in_flight() {
    let mut harness = Harness::new();
    let all = i32::try_from(IN_FLIGHT_MAX).unwrap() + 5;
    for id in 0..all {
        harness.send(PRODUCE, id).await;
    }
    for id in 0..all - 5 {
        assert_eq!(harness.begun().await, id);
    }
    assert!(harness.started.try_recv().is_err());
    harness.finish(0, answer(0));
    assert_eq!(harness.reply().await, 0);
    assert_eq!(harness.begun().await, all - 5);
}

#[tokio::test]
async fn a_closing_produce_ends_the_connection_without_the_replies_behind_it() {
    let mut harness = Harness::new();
    for id in 1..=3 {
        harness.send(PRODUCE, id).await;
        harness.begun().await;
    }
    harness.finish(3, answer(3));
    harness.finish(2, Outcome::Close(Closed::Unacknowledged("moved".to_string())));
    harness.finish(1, answer(1));
    assert_eq!(harness.reply().await, 1);
    assert!(harness.near.read_i32().await.is_err(), "nothing follows");
    let closed = harness.task.await.unwrap().unwrap_err();
    assert!(matches!(closed, Closed::Unacknowledged(_)) && closed.is_ordinary());
}

#[tokio::test]
async fn a_malformed_frame_closes_after_the_replies_before_it() {
    let mut harness = Harness::new();
    harness.send(PRODUCE, 1).await;
    harness.near.write_all(&[0, 0, 0, 1, 7]).await.unwrap();
    harness.begun().await;
    harness.finish(1, answer(1));
    assert_eq!(harness.reply().await, 1);
    let closed = harness.task.await.unwrap().unwrap_err();
    assert!(matches!(closed, Closed::Codec(_)) && !closed.is_ordinary(), "{closed}");
}

#[tokio::test]
async fn a_stop_lets_what_has_begun_finish() {
    let mut harness = Harness::new();
    harness.send(PRODUCE, 1).await;
    harness.begun().await;
    harness.stop.send(true).unwrap();
    harness.finish(1, answer(1));
    assert_eq!(harness.reply().await, 1);
    harness.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_cut_off() {
    let mut harness = Harness::new();
    for id in 1..=2 {
        harness.send(PRODUCE, id).await;
        harness.begun().await;
        let large = Reply::of(Bytes::from(vec![0; 100_000]));
        harness.finish(id, Outcome::Reply(large));
    }
    let closed = harness.task.await.unwrap().unwrap_err();
    assert!(matches!(closed, Closed::NotReading(_)), "{closed}");
}

#[tokio::test]
async fn half_read_requests_are_bounded_over_all_connections() {
    let budget = Budget::new(UNREAD_BYTES_FREE + 1000);
    let others = budget.lease(2_000);
    let bytes = vec![0; UNREAD_BYTES_FREE + 5_000];
    let mut reader = CountedReader::new(&bytes[..], budget.clone());
    let mut sink = Vec::new();
    let error = reader.read_to_end(&mut sink).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    assert!(sink.len() >= UNREAD_BYTES_FREE, "what is free to each was read");
    drop(reader.frame_done(usize::MAX));
    assert!(reader.read(&mut [0; 10]).await.is_ok(), "with its frame done it may read on");
    drop((reader, others));
    assert_eq!(budget.available(), UNREAD_BYTES_FREE + 1000);
}
