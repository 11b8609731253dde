use super::*;
use crate::config::broker::BrokerConfigs;
use crate::kafka::handlers::metadata::testing::{self, ORDERS};
use crate::kafka::versions::{CREATE_PARTITIONS, CREATE_TOPICS, DELETE_TOPICS};
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopicConfig};

fn outcome() -> TopicOutcome {
    TopicOutcome { id: ORDERS, partitions: 3, replication_factor: 2 }
}

fn failed() -> Result<Option<TopicOutcome>, Failed> {
    Err(Failed::new(Code::InvalidConfig, "no"))
}

#[test]
fn every_version_of_create_encodes() {
    let shown =
        || configs::of_new_topic(&BTreeMap::from([("retention.ms".into(), "5".into())]), &BrokerConfigs::default());
    for version in 2..=7 {
        let name = topic_name("orders");
        let rows = vec![
            created(version, &name, Ok(Some(outcome())), shown),
            created(version, &name, Ok(None), shown),
            created(version, &name, failed(), shown),
        ];
        if version >= 5 {
            assert_eq!((rows[0].num_partitions, rows[0].replication_factor), (3, 2));
            let configs = rows[0].configs.as_ref().unwrap();
            let retention = configs.iter().find(|config| &*config.name == "retention.ms").unwrap();
            assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5"), 1));
        }
        testing::encodes(CREATE_TOPICS, version, &CreateTopicsResponse::default().with_topics(rows));
    }
}

#[test]
fn every_version_of_delete_encodes_and_names_what_it_can() {
    let image = testing::image();
    for version in 1..=6 {
        let by_name = Named { name: Some(topic_name("orders")), id: Uuid::nil() };
        let mut rows =
            vec![deleted(version, &image, by_name.clone(), Ok(None)), deleted(version, &image, by_name, failed())];
        if version >= 6 {
            rows.push(deleted(version, &image, Named { name: None, id: ORDERS.0 }, Ok(None)));
            assert_eq!(rows[2].name.as_deref().map(|name| name.as_str()), Some("orders"));
            assert_eq!(rows[0].topic_id, ORDERS.0);
            rows.push(deleted(version, &image, Named { name: None, id: Uuid::from_u128(9) }, failed()));
        }
        testing::encodes(DELETE_TOPICS, version, &DeleteTopicsResponse::default().with_responses(rows));
    }
}

#[test]
fn every_version_of_create_partitions_encodes() {
    for version in 0..=3 {
        let rows = vec![grown(&topic_name("a"), Ok(None)), grown(&topic_name("b"), failed())];
        testing::encodes(CREATE_PARTITIONS, version, &CreatePartitionsResponse::default().with_results(rows));
    }
}

fn topic(partitions: i32, rows: &[(i32, &[i32])]) -> CreatableTopic {
    let rows = rows.iter().map(|(index, ids)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(*index)
            .with_broker_ids(ids.iter().map(|id| (*id).into()).collect())
    });
    CreatableTopic::default()
        .with_name(topic_name("t"))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_assignments(rows.collect())
}

#[test]
fn given_replicas_must_cover_every_partition_once() {
    let good = creatable(&topic(-1, &[(1, &[2, 1]), (0, &[1, 2])])).unwrap();
    assert_eq!(good.assignments.unwrap(), [[BrokerId(1), BrokerId(2)], [BrokerId(2), BrokerId(1)]]);
    let code = |topic| creatable(&topic).unwrap_err().code;
    assert_eq!(code(topic(-1, &[(0, &[1]), (2, &[1])])), Code::InvalidReplicaAssignment);
    assert_eq!(code(topic(-1, &[(0, &[1]), (0, &[2])])), Code::InvalidReplicaAssignment);
    assert_eq!(code(topic(2, &[(0, &[1])])), Code::InvalidRequest);
    let without_value = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(None);
    assert_eq!(code(topic(1, &[]).with_configs(vec![without_value])), Code::InvalidConfig);
}

#[test]
fn topics_to_delete_are_known_enabled_and_named_once() {
    let image = testing::image();
    let by_name = |name: &str| Named { name: Some(topic_name(name)), id: Uuid::nil() };
    let by_id = |id: Uuid| Named { name: None, id };
    let codes = |named: &[Named], enabled| -> Vec<Option<i16>> {
        deletable(&image, enabled, named).into_iter().map(|item| item.err().map(|failed| failed.code.code())).collect()
    };
    assert_eq!(codes(&[by_name("orders"), by_name("x"), by_id(Uuid::from_u128(9))], true), [None, Some(3), Some(100)]);
    assert_eq!(codes(&[by_name("orders"), by_id(ORDERS.0)], true), [Some(42), Some(42)], "the same by name and id");
    assert_eq!(codes(&[by_name("orders")], false), [Some(73)]);
    let both = Named { name: Some(topic_name("orders")), id: ORDERS.0 };
    assert_eq!(codes(&[both], true), [Some(42)]);
}

#[tokio::test]
async fn results_end_where_their_items_stand() {
    let items = vec![Ok(1), Err(twice()), Ok(2)];
    let results = ask(items, async |asked| {
        assert_eq!(asked, [1, 2]);
        Ok(IntentAnswer::Results(vec![Err(IntentError::InvalidRequest("x".into())), Ok(())]))
    })
    .await;
    let codes: Vec<i16> =
        results.iter().map(|result| result.as_ref().err().map_or(0, |failed| failed.code.code())).collect();
    assert_eq!(codes, [42, 42, 0]);
    assert_eq!(results[0].as_ref().unwrap_err().message, "x");
}

#[test]
fn an_answer_that_does_not_fit_fails_all() {
    let results = outcomes(Ok(IntentAnswer::Results(vec![Ok(())])), 2);
    assert!(results.len() == 2 && results.iter().all(Result::is_err));
    let results = outcomes(Err(SubmitError::NoController), 1);
    assert_eq!(results[0].as_ref().unwrap_err().code, Code::NotController);
}
