use super::testing::{self, OFFSETS, ORDERS};
use super::*;
use crate::kafka::versions::METADATA;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use uuid::Uuid;

const DOOR: Door<'_> = Door { listener: "external", is_replica_listener: false };

fn build(version: i16, door: Door<'_>, wishes: &Wishes) -> MetadataResponse {
    let image = testing::image();
    let view = View {
        image: &image,
        door,
        me: BrokerId(2),
        lingering: BTreeSet::new(),
        version,
        topic_operations: true,
        cluster_operations: true,
    };
    let response = view.build(wishes, &Failures::from([("slow".to_string(), Code::LeaderNotAvailable)]));
    testing::encodes(METADATA, version, &response);
    response
}

fn names(names: &[&str]) -> Wishes {
    Wishes::Some(names.iter().map(|name| Wish::Name((*name).to_string())).collect())
}

#[test]
fn every_version_encodes_whatever_is_asked() {
    let mut asked = match names(&["orders", "missing", "not a name", "slow"]) {
        Wishes::Some(asked) => asked,
        Wishes::All => unreachable!(),
    };
    asked.extend([Wish::Id(ORDERS), Wish::Id(TopicId(Uuid::from_u128(9))), Wish::Nothing]);
    for version in 0..=13 {
        build(version, DOOR, &Wishes::All);
        build(version, DOOR, &Wishes::Some(asked.clone()));
    }
}

#[test]
fn fenced_brokers_are_not_listed_and_their_replicas_are_offline() {
    let response = build(13, DOOR, &names(&["orders"]));
    let brokers: Vec<i32> = response.brokers.iter().map(|broker| broker.node_id.0).collect();
    assert_eq!(brokers, [1, 2]);
    assert_eq!(response.brokers[0].rack.as_deref(), Some("rack-1"));
    assert_eq!(response.controller_id.0, 2, "this broker, which is live");
    let partition = &response.topics[0].partitions[0];
    assert_eq!(partition.offline_replicas.iter().map(|id| id.0).collect::<Vec<_>>(), [3]);
    assert_eq!((partition.leader_id.0, partition.leader_epoch, partition.error_code), (1, 5, 0));
}

#[test]
fn a_broker_lost_a_moment_ago_is_listed_and_its_replicas_are_offline_all_the_same() {
    let image = testing::image();
    let lingering = BTreeSet::from([BrokerId(3)]);
    let view = View {
        image: &image,
        door: DOOR,
        me: BrokerId(2),
        lingering,
        version: 13,
        topic_operations: false,
        cluster_operations: false,
    };
    let response = view.build(&names(&["orders"]), &Failures::new());
    assert_eq!(response.brokers.iter().map(|broker| broker.node_id.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(response.topics[0].partitions[0].offline_replicas[0].0, 3);
}

#[test]
fn with_every_broker_fenced_all_are_listed_all_the_same() {
    let mut image = testing::image();
    for id in [1, 2] {
        image.brokers.get_mut(&BrokerId(id)).unwrap().fenced = true;
    }
    let view = View {
        image: &image,
        door: DOOR,
        me: BrokerId(2),
        lingering: BTreeSet::from([BrokerId(3)]),
        version: 13,
        topic_operations: false,
        cluster_operations: false,
    };
    let response = view.build(&names(&["orders"]), &Failures::new());
    assert_eq!(response.brokers.len(), 3, "a client that is told of nobody can never ask again");
}

#[test]
fn a_partition_without_a_leader_is_a_row_with_an_error() {
    let partitions = &build(9, DOOR, &names(&["orders"])).topics[0].partitions;
    assert_eq!(partitions.len(), 3);
    assert_eq!((partitions[1].leader_id.0, partitions[1].error_code), (-1, 5));
}

#[test]
fn a_leader_without_the_clients_listener_is_not_named() {
    let door = Door { listener: "only-on-1", ..DOOR };
    for (version, code) in [(5, 5), (6, 72)] {
        let response = build(version, door, &names(&["orders"]));
        assert_eq!(response.brokers.len(), 1);
        assert_eq!(response.topics[0].partitions[0].error_code, 0);
        let third = &response.topics[0].partitions[2];
        assert_eq!((third.leader_id.0, third.error_code), (-1, code));
    }
}

#[test]
fn missing_invalid_and_internal_topics_are_told_apart() {
    let response = build(12, DOOR, &names(&["__consumer_offsets", "a b", "missing", "slow"]));
    let rows: Vec<_> =
        response.topics.iter().map(|t| (t.name.as_ref().unwrap().as_str(), t.error_code, t.is_internal)).collect();
    assert_eq!(rows, [("__consumer_offsets", 0, true), ("a b", 17, false), ("missing", 3, false), ("slow", 5, false)]);
    assert_eq!(response.topics[0].topic_id, OFFSETS.0);
    let unknown = Wishes::Some(BTreeSet::from([Wish::Id(TopicId(Uuid::from_u128(9)))]));
    assert_eq!(build(12, DOOR, &unknown).topics[0].error_code, 100);
}

#[test]
fn null_and_empty_mean_what_the_version_says() {
    let request = |topics| MetadataRequest::default().with_topics(topics);
    assert_eq!(wishes(0, &request(Some(vec![]))), Wishes::All);
    assert_eq!(wishes(1, &request(Some(vec![]))), Wishes::Some(BTreeSet::new()));
    assert_eq!(wishes(1, &request(None)), Wishes::All);
    let twice = vec![MetadataRequestTopic::default().with_name(Some(topic_name("orders"))); 2];
    assert_eq!(wishes(4, &request(Some(twice))), names(&["orders"]), "asked twice, answered once");
    let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(ORDERS.0);
    assert_eq!(wishes(12, &request(Some(vec![by_id]))), Wishes::Some(BTreeSet::from([Wish::Id(ORDERS)])));
}

#[test]
fn only_missing_and_ordinary_topics_are_created() {
    let image = testing::image();
    let asked = names(&["orders", "__transaction_state", "a b", "fresh"]);
    assert_eq!(creatable(&image, &asked), ["fresh"]);
    assert!(creatable(&image, &Wishes::All).is_empty());
}

#[test]
fn a_failed_creation_says_whether_to_ask_again() {
    let names = || vec!["a".to_string(), "b".to_string()];
    let outcome = crate::metadata::intent::TopicOutcome { id: ORDERS, partitions: 1, replication_factor: 1 };
    let results = vec![Ok(outcome), Err(IntentError::InvalidReplicationFactor(String::new()))];
    assert_eq!(
        failures(names(), Ok(IntentAnswer::Topics(results))),
        Failures::from([("b".to_string(), Code::InvalidReplicationFactor)])
    );
    let none = failures(names(), Err(SubmitError::NoController));
    assert!(none.len() == 2 && none.values().all(|code| *code == Code::LeaderNotAvailable));
}

/// Decision 5: the answer waits for the fence that is on its way.
#[tokio::test]
async fn an_answer_in_doubt_waits_for_the_fence() {
    let image = Arc::new(testing::image());
    let mut fenced = testing::image();
    fenced.brokers.get_mut(&BrokerId(2)).unwrap().fenced = true;
    let fenced = Arc::new(fenced);
    let newest = parking_lot::Mutex::new(image);
    let (tell, _) = tokio::sync::broadcast::channel(4);
    let until = clock::now() + Duration::from_secs(60);
    let doubt = |image: &Image| (!image.brokers[&BrokerId(2)].fenced).then_some(until);
    let mut answer = std::pin::pin!(settle(|| newest.lock().clone(), doubt, || tell.subscribe()));
    assert!(futures::poll!(answer.as_mut()).is_pending(), "broker 2 is lost, and not fenced yet");
    *newest.lock() = fenced.clone();
    tell.send(Update { image: fenced.clone(), events: Arc::new([]), resync: false }).ok().expect("it listens");
    let told = tokio::time::timeout(Duration::from_secs(10), answer).await.expect("the fence is here");
    assert!(Arc::ptr_eq(&told, &fenced));
}

#[tokio::test]
async fn an_answer_waits_once_however_often_contact_is_lost() {
    let image = Arc::new(testing::image());
    let (tell, _) = tokio::sync::broadcast::channel(4);
    // Lost anew at each look.
    let doubt = |_: &Image| Some(clock::now() + Duration::from_millis(50));
    let began = clock::now();
    let answer = settle(|| image.clone(), doubt, || tell.subscribe());
    tokio::time::timeout(Duration::from_secs(10), answer).await.expect("one deadline a request");
    assert!(began.elapsed() >= Duration::from_millis(50), "it waited for the fence");
    let at_once = settle(|| image.clone(), |_| None, || tell.subscribe());
    assert!(futures::FutureExt::now_or_never(at_once).is_some(), "nothing is in doubt");
}
