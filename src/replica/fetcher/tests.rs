//! The loop over a real connection, against a leader that keeps fetch sessions as the fetch handler does.

use super::*;
use crate::config::topic::Durability;
use crate::platform::network::{self, TcpListener, TcpStream};
use crate::replica::damage::{Look, Word};
use crate::replica::fetchers::Fetchers;
use crate::replica::partition::{FollowerState, PartitionError, ReadRequest};
use crate::replica::testing::{Replica, answer, batch, flip, image, image_at, three};
use crate::replica::watcher::Watcher;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{EpochEndOffset, FetchableTopicResponse};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The fetches that came.
#[derive(Default)]
struct Calls {
    /// That asked for nothing.
    empty: AtomicUsize,
    refused: AtomicUsize,
}

/// Serves one partition's leader; a parked fetch is answered at a mark or at its wait's end, one of nothing at once.
async fn serve(listener: TcpListener, leader: Arc<Partition>, calls: Arc<Calls>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve_one(stream, leader.clone(), calls.clone()));
    }
}

async fn serve_one(mut stream: TcpStream, leader: Arc<Partition>, calls: Arc<Calls>) {
    let watcher = Watcher::new();
    leader.watch(&watcher, 0);
    let mut session: Option<ReadRequest> = None;
    loop {
        let Ok(size) = stream.read_i32().await else { return };
        let mut frame = vec![0; usize::try_from(size).unwrap()];
        stream.read_exact(&mut frame).await.unwrap();
        let mut frame = Bytes::from(frame);
        let header = RequestHeader::decode(&mut frame, 2).unwrap();
        assert_eq!(header.request_api_version, FETCH_VERSION);
        let request = FetchRequest::decode(&mut frame, FETCH_VERSION).unwrap();
        if request.session_epoch == 0 {
            session = None;
        }
        for partition in request.topics.iter().flat_map(|t| &t.partitions) {
            session = Some(ReadRequest {
                offset: Offset(partition.fetch_offset),
                max_bytes: 1 << 20,
                at_least_one: true,
                current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
                read_committed: false,
                any_replica: false,
                follower: Some(FollowerState {
                    broker: BrokerId(request.replica_state.replica_id.0),
                    broker_epoch: BrokerEpoch(request.replica_state.replica_epoch),
                    last_fetched_epoch: LeaderEpoch(partition.last_fetched_epoch),
                    log_start: Offset(partition.log_start_offset),
                    refused: partition.unknown_tagged_fields.contains_key(&crate::wire::codec::FETCH_REFUSED_TAG),
                    fills: partition.unknown_tagged_fields.contains_key(&crate::wire::codec::FETCH_FILLS_TAG),
                }),
            });
        }
        if !request.forgotten_topics_data.is_empty() {
            session = None;
        }
        watcher.take();
        let mut data = session.as_ref().and_then(|read| answer_to(&leader, read));
        if data.is_none() {
            calls.empty.fetch_add(1, Ordering::Relaxed);
        }
        if data.as_ref().is_some_and(|d| d.records.as_ref().is_none_or(Bytes::is_empty) && d.error_code == 0) {
            let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap());
            let _marked_or_not = tokio::time::timeout(wait, watcher.marked()).await;
            data = session.as_ref().and_then(|read| answer_to(&leader, read));
        }
        if data.as_ref().is_some_and(|d| d.error_code != 0) {
            calls.refused.fetch_add(1, Ordering::Relaxed);
        }
        let topic = FetchableTopicResponse::default()
            .with_topic_id(leader.id.topic.0)
            .with_partitions(data.into_iter().collect());
        let response = FetchResponse::default().with_session_id(5).with_responses(vec![topic]);
        let mut body = BytesMut::new();
        ResponseHeader::default().with_correlation_id(header.correlation_id).encode(&mut body, 1).unwrap();
        response.encode(&mut body, FETCH_VERSION).unwrap();
        let mut whole = BytesMut::from(&i32::try_from(body.len()).unwrap().to_be_bytes()[..]);
        whole.extend_from_slice(&body);
        if stream.write_all(&whole).await.is_err() {
            return;
        }
    }
}

fn answer_to(leader: &Partition, read: &ReadRequest) -> Option<PartitionData> {
    let data = PartitionData::default().with_partition_index(leader.id.partition);
    Some(match leader.read(read) {
        Ok(outcome) => {
            let mut data = data
                .with_high_watermark(outcome.high_watermark.0)
                .with_log_start_offset(outcome.log_start.0)
                .with_records(Some(outcome.chunk.bytes));
            if let Some((epoch, end)) = outcome.diverging {
                data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch.0).with_end_offset(end.0);
            }
            data
        }
        Err(PartitionError::UnknownEpoch) => data.with_error_code(ResponseError::UnknownLeaderEpoch.code()),
        Err(_) => data.with_error_code(ResponseError::NotLeaderOrFollower.code()),
    })
}

struct Pair {
    leader: Replica,
    followers: Vec<(Replica, Fetchers)>,
    port: u16,
    calls: Arc<Calls>,
}

/// Broker 1 leads; 2 and 3 fetch from it.
async fn start(durability: Durability) -> Pair {
    let listener = network::listen("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let leader = Replica::new(1, durability);
    let calls = Arc::<Calls>::default();
    tokio::spawn(serve(listener, leader.partition.clone(), calls.clone()));
    let followers = [2, 3].map(|broker| {
        let replica = Replica::new(broker, durability);
        let fetchers = Fetchers::new(replica.node.clone());
        (replica, fetchers)
    });
    Pair { leader, followers: followers.into(), port, calls }
}

impl Pair {
    fn show_leader(&self, epoch: i32) {
        self.leader.show(&image_at(self.port, 1, &[1, 2, 3], epoch, epoch, None));
    }

    fn show_followers(&mut self, epoch: i32, durability: Durability) {
        let image = image_at(self.port, 1, &[1, 2, 3], epoch, epoch, None);
        for (replica, fetchers) in &mut self.followers {
            replica.show(&image);
            fetchers.follow(&replica.partition, BrokerId(1), LeaderEpoch(epoch), durability);
            fetchers.kick();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acked_record_is_on_every_disk() {
    let mut pair = start(Durability::Sync).await;
    pair.show_leader(0);
    pair.show_followers(0, Durability::Sync);
    for number in 1..=200 {
        let appended = pair.leader.partition.append(&batch(&["a"]), -1).unwrap();
        answer(appended.wait).await.unwrap();
        for (follower, _) in &pair.followers {
            assert!(follower.partition.status().durable_end >= Offset(number));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_learns_late_is_asked_again() {
    let mut pair = start(Durability::PageCache).await;
    pair.show_leader(0);
    pair.show_followers(1, Durability::PageCache);
    let appended = pair.leader.partition.append(&batch(&["a"]), -1).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(pair.followers.iter().all(|(follower, _)| follower.end() == 0), "nothing is fetched in another epoch");
    pair.show_leader(1);
    // Broker 1 went on leading in the next epoch: the reply still waits, and comes.
    answer(appended.wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_be_followed_at_once_interrupts_a_parked_fetch() {
    let mut pair = start(Durability::PageCache).await;
    pair.show_leader(0);
    pair.show_followers(0, Durability::PageCache);
    let first = pair.leader.partition.append(&batch(&["a"]), -1).unwrap();
    answer(first.wait).await.unwrap();
    // The leader's fetches are parked in epoch 0; it moves on and no mark of its own tells the followers' sessions.
    for epoch in 1..20 {
        pair.show_leader(epoch);
        pair.show_followers(epoch, Durability::PageCache);
        let next = pair.leader.partition.append(&batch(&["b"]), -1).unwrap();
        answer(next.wait).await.unwrap();
    }
    let ends: Vec<i64> = pair.followers.iter().map(|(follower, _)| follower.end()).collect();
    assert_eq!(ends, vec![20, 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_sent_damaged_bytes_says_so() {
    let mut pair = start(Durability::PageCache).await;
    pair.show_leader(0);
    pair.leader.partition.append(&batch(&["a"]), 1).unwrap();
    flip(&pair.leader.partition, 0, false);
    pair.show_followers(0, Durability::PageCache);
    let word = tokio::time::timeout(Duration::from_secs(10), pair.leader.words.recv()).await.expect("it is told");
    assert!(matches!(word, Some(Word::Suspect(_, look)) if look.from() == Offset(0)));
    assert!(pair.followers.iter().all(|(follower, _)| follower.end() == 0), "what is damaged is not taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_all_partitions_rest_the_leader_is_not_asked() {
    let mut pair = start(Durability::PageCache).await;
    pair.show_leader(0);
    // Refused in an epoch that the leader does not know yet, and resting between.
    pair.show_followers(1, Durability::PageCache);
    let end = clock::now() + Duration::from_secs(10);
    while pair.calls.refused.load(Ordering::Relaxed) < 8 {
        assert!(clock::now() < end, "never refused that often");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(pair.calls.empty.load(Ordering::Relaxed), 0, "nothing is to be had between");
    // What comes while all rest is followed at once.
    pair.show_leader(2);
    pair.show_followers(2, Durability::PageCache);
    answer(pair.leader.partition.append(&batch(&["a"]), -1).unwrap().wait).await.unwrap();
}

/// It was opened in an epoch in which it was in sync, and leaves the ISR in the same epoch, without a report of its own.
#[tokio::test]
async fn a_damaged_copy_that_others_stop_relying_on_is_filled_without_a_new_order() {
    let [one, two, three] = three(Durability::PageCache);
    one.partition.append(&batch(&["a"]), 1).unwrap();
    two.catch_up(&one).await;
    three.catch_up(&one).await;
    flip(&two.partition, 0, false);
    two.partition.look_into(Look::at(Offset(0)));
    two.partition.mind_opened(Offset(0));
    let mut fetcher = Fetcher::new(two.node.clone(), BrokerId(1), false, Arc::default());
    let mut session = FetchSession::default();
    fetcher.mailbox.put(Order::Follow(two.partition.clone(), LeaderEpoch(0)));
    fetcher.take_orders(&mut session);
    assert!(fetcher.look(&mut session).is_empty(), "it counts as in sync");
    two.show(&image(1, &[1, 3], 0, 1, None));
    let end = clock::now() + Duration::from_secs(10);
    let position = loop {
        fetcher.wake_rested();
        if let Some((_, position)) = fetcher.look(&mut session).pop() {
            break position;
        }
        assert!(clock::now() < end, "it never fetches again");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!((position.offset, position.fills), (Offset(0), true));
}
