use super::*;
use crate::kafka::handlers::fetch_frame;
use crate::kafka::handlers::metadata::testing::{self, ORDERS};
use crate::kafka::names::topic_name;
use crate::kafka::versions::FETCH;
use crate::log::partition_log::Chunk;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};

const DOOR: Door<'_> = Door { listener: "external", is_replica_listener: false };

fn key(version: i16) -> TopicKey {
    topic_key(version, &topic_name("orders"), ORDERS.0)
}

fn answered(version: i16) -> Vec<Answered> {
    let outcome = ReadOutcome {
        chunk: Chunk { bytes: Bytes::from_static(b"records") },
        high_watermark: Offset(9),
        last_stable: Offset(8),
        log_start: Offset(1),
        diverging: None,
        preferred: None,
        held_until: None,
    };
    let empty =
        ReadOutcome { chunk: Chunk::default(), diverging: Some((LeaderEpoch(2), Offset(5))), ..outcome.clone() };
    let id = |partition| TopicPartition::new(ORDERS, partition);
    let newer = LeaderHint { leader: Some(BrokerId(2)), epoch: LeaderEpoch(9) };
    let outcomes = vec![
        Ok(outcome),
        Ok(empty),
        Err(failure(id(2), &PartitionError::NotLeader(newer))),
        Err(failure(id(1), &PartitionError::NotHosted)),
        Err(failure(id(0), &PartitionError::OutOfRange { asked: Offset(0), start: Offset(4), end: Offset(7) })),
        Err(known(&testing::image(), &key(version), 99).unwrap_err()),
    ];
    let rows = (0..).zip(outcomes);
    rows.map(|(partition, outcome)| Answered { topic: key(version), partition, outcome }).collect()
}

#[test]
fn every_version_encodes_data_divergence_and_errors() {
    for version in 4..=18 {
        for committed in [false, true] {
            let response = respond(version, &testing::image(), DOOR, committed, answered(version));
            let expected = testing::encodes(FETCH, version, &response);
            let pieces = fetch_frame::encode(1, version, &response).unwrap();
            assert_eq!(pieces.iter().flatten().copied().collect::<Vec<u8>>(), expected, "v{version}");
            assert_eq!(response.responses.len(), 1, "partitions of one topic stand together");
            let rows = &response.responses[0].partitions;
            assert!(rows.iter().all(|row| row.records.is_some()), "never null");
            assert_eq!(rows[0].aborted_transactions.is_some(), committed);
            assert_eq!(rows.iter().map(|row| row.error_code).collect::<Vec<_>>(), [0, 0, 6, 6, 1, 3]);
            assert_eq!(rows[4].log_start_offset, if version >= 5 { 4 } else { -1 });
        }
    }
}

#[test]
fn a_consumer_at_the_wrong_broker_learns_the_right_one() {
    let response = respond(16, &testing::image(), DOOR, false, answered(16));
    let rows = &response.responses[0].partitions;
    assert_eq!((rows[2].current_leader.leader_id.0, rows[2].current_leader.leader_epoch), (2, 9));
    assert_eq!((rows[3].current_leader.leader_id.0, rows[3].current_leader.leader_epoch), (-1, 6), "nobody leads");
    let nodes: Vec<_> = response.node_endpoints.iter().map(|node| (node.node_id.0, &*node.host)).collect();
    assert_eq!(nodes, [(2, "external-2")]);
    assert!(respond(15, &testing::image(), DOOR, false, answered(15)).node_endpoints.is_empty());
}

fn request(version: i16, partitions: &[i32]) -> FetchRequest {
    let rows = partitions.iter().map(|partition| {
        FetchPartition::default().with_partition(*partition).with_fetch_offset(5).with_partition_max_bytes(100)
    });
    let topic = FetchTopic::default().with_partitions(rows.collect());
    let topic = if version >= BY_ID { topic.with_topic_id(ORDERS.0) } else { topic.with_topic(topic_name("orders")) };
    FetchRequest::default().with_topics(vec![topic])
}

#[test]
fn who_fetches_stands_where_the_version_says() {
    let old = FetchRequest::default().with_replica_id(3.into());
    assert_eq!(fetcher(14, &old), Fetcher::Follower { broker: BrokerId(3), epoch: BrokerEpoch(-1) });
    assert_eq!(fetcher(15, &old), Fetcher::Consumer);
    let state = ReplicaState::default().with_replica_id(3.into()).with_replica_epoch(8);
    let new = FetchRequest::default().with_replica_state(state);
    assert_eq!(fetcher(17, &new), Fetcher::Follower { broker: BrokerId(3), epoch: BrokerEpoch(8) });
    assert_eq!(fetcher(14, &FetchRequest::default().with_replica_id((-2).into())), Fetcher::Consumer);
}

#[test]
fn a_forged_follower_is_refused_in_every_version() {
    for version in 4..=18 {
        let response = unauthorized(version, request(version, &[0, 1]));
        testing::encodes(FETCH, version, &response);
        assert!(response.responses[0].partitions.iter().all(|row| row.error_code == 31));
        assert_eq!(response.error_code, if version >= 7 { 31 } else { 0 });
    }
}

#[test]
fn a_session_gains_and_loses_what_requests_say() {
    let mut session = Session::default();
    update(&mut session, 13, &request(13, &[0, 1]));
    assert_eq!(session.hot().len(), 2);
    session.hot().into_iter().for_each(|token| session.cool(token));
    update(&mut session, 13, &FetchRequest::default());
    assert!(session.hot().is_empty(), "nothing was named, and the sweep is not due");
    let forgotten = ForgottenTopic::default().with_topic_id(ORDERS.0).with_partitions(vec![0, 7]);
    update(&mut session, 13, &request(13, &[2]).with_forgotten_topics_data(vec![forgotten]));
    assert_eq!((session.len(), session.hot().len()), (2, 1));
    session.swept = clock::now().checked_sub(SWEEP_INTERVAL);
    if session.swept.is_some() {
        update(&mut session, 13, &FetchRequest::default());
        assert_eq!(session.hot().len(), 2, "swept: all are read again");
    }
}

#[test]
fn sessions_open_by_epoch() {
    let cache = SessionCache::of_clients(10, 10);
    let ask = |version, id, epoch| {
        open(&cache, version, &FetchRequest::default().with_session_id(id).with_session_epoch(epoch))
    };
    assert!(matches!(ask(6, 5, 5), Ok(Held::Own(_))), "before there were sessions");
    assert!(matches!(ask(7, 0, EPOCH_FIRST), Ok(Held::Own(_))));
    assert_eq!(ask(7, 5, 1).err(), Some(Code::FetchSessionIdNotFound));
    let id = cache.insert(Box::default(), false, clock::now(), || 5);
    assert!(matches!(ask(7, id, 1), Ok(Held::Kept(_))));
    assert_eq!(ask(7, id, 1).err(), Some(Code::InvalidFetchSessionEpoch));
    assert_eq!(ask(13, id, 2).err(), Some(Code::FetchSessionTopicIdError));
    assert!(matches!(ask(7, id, EPOCH_NONE), Ok(Held::Own(_))));
    assert_eq!(ask(7, id, 2).err(), Some(Code::FetchSessionIdNotFound), "the last fetch ended it");
}

#[test]
fn topics_that_cannot_exist_are_answered_and_not_kept() {
    let topic = |name: &str| {
        let partitions = vec![FetchPartition::default().with_partition(4)];
        FetchTopic::default().with_topic(topic_name(name)).with_partitions(partitions)
    };
    let long = "x".repeat(30_000);
    let request = FetchRequest::default().with_topics(vec![topic("orders"), topic(&long), topic("a b")]);
    let mut session = Session::default();
    let refused = update(&mut session, 12, &request);
    assert_eq!(session.hot().len(), 1);
    let codes: Vec<_> = refused.iter().map(|one| (one.partition, one.outcome.as_ref().err().unwrap().code)).collect();
    assert_eq!(codes, [(4, Code::UnknownTopicOrPartition); 2]);
    let response = respond(12, &testing::image(), DOOR, false, refused);
    testing::encodes(FETCH, 12, &response);
}

#[test]
fn only_live_brokers_of_the_rack_that_the_consumer_can_reach_are_near() {
    let image = testing::image();
    assert_eq!(brokers_in(&image, "rack-2", DOOR), [BrokerId(2)]);
    assert!(brokers_in(&image, "rack-3", DOOR).is_empty(), "fenced");
    assert!(brokers_in(&image, "rack-9", DOOR).is_empty());
    let elsewhere = Door { listener: "only-on-1", is_replica_listener: false };
    assert!(brokers_in(&image, "rack-2", elsewhere).is_empty(), "it has no such listener");
}

#[test]
fn the_preferred_replica_is_told_from_version_11_on() {
    let mut rows = answered(11);
    rows.truncate(1);
    rows[0].outcome.as_mut().unwrap().preferred = Some(BrokerId(2));
    let outcome = rows[0].outcome.as_ref().unwrap();
    assert_eq!(found(11, 0, outcome.clone(), false).preferred_read_replica.0, 2);
    assert_eq!(found(10, 0, outcome.clone(), false).preferred_read_replica.0, -1);
}
