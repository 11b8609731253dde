//! Groups and offsets that are deleted while clients, leaders and other members do something else.

use super::super::subscription::testing::subscription;
use super::tests::*;
use super::*;
use crate::ids::LeaderEpoch;

#[tokio::test]
async fn a_deletion_whose_client_goes_away_ends_all_the_same() {
    let stage = Stage::new().await;
    stage.commit("", -1, 1).await.expect("committed");
    // The tombstone is appended and not replicated when the client goes away.
    stage.log.high_watermark.send_replace(1);
    let groups = stage.groups.clone();
    let deleting = tokio::spawn(async move { groups.delete("g").await });
    until(|| stage.log.records.lock().len() == 2).await;
    deleting.abort();
    assert!(deleting.await.is_err_and(|error| error.is_cancelled()));
    stage.log.high_watermark.send_replace(usize::MAX);
    until(|| stage.groups.find("g").expect("led").is_none()).await;
    stage.commit("", -1, 2).await.expect("the name is free again");
    assert_eq!(stage.fetched(true), Ok(Some(2)));
}

#[tokio::test]
async fn a_group_that_cannot_be_removed_lives_on() {
    let mut settings = Settings::for_tests();
    settings.assignment_timeout = Duration::from_millis(100);
    let stage = Stage::with(settings).await;
    let joined = stage.join("a", "").await.expect("joined");
    stage.groups.sync(sync(&joined.member, 1, &[])).await.expect("synced");
    stage.groups.leave("g", &[leaver(&joined.member)]).expect("there");
    until(|| stage.cluster.stored("g").is_some_and(|state| state.members.is_empty())).await;
    let (slot, cell) = stage.groups.find("g").expect("led").expect("there");
    // Long empty, and nobody hears of it.
    *stage.cluster.loses_all.lock() = true;
    stage.groups.shell.with(&slot, &cell, |entry, now| ((), entry.machine.tick(now + 10_000_000)));
    assert!(cell.lock().machine.is_dead(), "on its way out");
    until(|| !cell.lock().machine.is_dead()).await;
    assert_eq!(stage.groups.describe("g").expect("it has an owner").phase, Phase::Empty);
    *stage.cluster.loses_all.lock() = false;
    stage.groups.shell.with(&slot, &cell, |entry, now| ((), entry.machine.tick(now + 10_000_000)));
    until(|| stage.cluster.stored("g").is_none() && stage.groups.list().groups.is_empty()).await;
}

#[tokio::test]
async fn what_a_member_may_read_is_not_deleted() {
    let stage = Stage::new().await;
    let wanted = [("t".to_string(), vec![0]), ("other".to_string(), vec![0])];
    let refused = Err(GroupError::SubscribedToTopic);
    let outcomes = async || {
        let deleted = stage.groups.delete_offsets("g", &wanted).await.expect("the group is there");
        deleted.into_iter().map(|(_, partitions)| partitions[0].1.clone()).collect::<Vec<_>>()
    };
    // Its first generation is not committed yet.
    let subscribing = Join { protocols: vec![("range".into(), subscription(&["t"]).into())], ..join("a", "") };
    let joined = stage.groups.join(subscribing).await.expect("joined");
    assert_eq!(outcomes().await, [refused.clone(), Ok(())]);
    stage.groups.leave("g", &[leaver(&joined.member)]).expect("there");
    // What it says cannot be read.
    let joined = stage.join("a", "").await.expect("joined");
    assert_eq!(outcomes().await, [refused.clone(), refused.clone()]);
    stage.groups.sync(sync(&joined.member, joined.generation, &[(&joined.member, "all")])).await.expect("synced");
    assert_eq!(outcomes().await, [refused.clone(), refused.clone()]);
    stage.groups.leave("g", &[leaver(&joined.member)]).expect("there");
    until(|| stage.cluster.stored("g").is_some_and(|state| state.members.is_empty())).await;
    // A pattern is known by what it matches.
    let beat = Heartbeat {
        group: "g".into(),
        member: "m".into(),
        epoch: consumer::JOIN,
        rebalance_timeout_ms: Some(10_000),
        regex: Some("t.*".into()),
        owned: Some(Default::default()),
        ..Heartbeat::default()
    };
    stage.groups.consumer_heartbeat(beat).await.expect("joined");
    assert_eq!(outcomes().await, [refused, Ok(())]);
}

fn of_partition(partition: i32, offset: i64) -> OffsetCommit {
    let mut commit = commit("", -1, offset);
    commit.offsets[0].partition = partition;
    commit
}

/// By partition of `t`.
fn committed(stage: &Stage) -> Vec<(i32, i64)> {
    let all = stage.groups.fetch_offsets("g", None, false).expect("led");
    let places = all.into_iter().flat_map(|(_, partitions)| partitions);
    places.filter_map(|(partition, outcome)| Some((partition, outcome.expect("fetched")?.offset))).collect()
}

#[tokio::test]
async fn a_deleted_topics_offsets_go_in_the_end_and_no_new_topic_of_its_name_has_them() {
    let stage = Stage::new().await;
    let shell = stage.groups.shell.clone();
    for partition in [0, 1] {
        stage.groups.commit_offsets(of_partition(partition, 7)).await.expect("committed");
    }
    stage.cluster.name_topic("t", None);
    *stage.log.refuses.lock() = true;
    shell.forget_topics(&shell.slots());
    stage.cluster.name_topic("t", Some(9));
    assert_eq!(committed(&stage), [(0, 7), (1, 7)], "no tombstone could be written");
    *stage.log.refuses.lock() = false;
    stage.groups.commit_offsets(of_partition(1, 3)).await.expect("committed");
    until(|| committed(&stage) == [(1, 3)]).await;
    // Nor does a later coordinator find them.
    stage.lead(LeaderEpoch(6)).await;
    assert_eq!(committed(&stage), [(1, 3)]);
}

#[tokio::test]
async fn tombstones_that_were_refused_are_written_again() {
    let stage = Stage::new().await;
    let shell = stage.groups.shell.clone();
    stage.commit("", -1, 7).await.expect("committed");
    stage.cluster.name_topic("t", Some(9));
    *stage.log.refuses.lock() = true;
    shell.forget_topics(&shell.slots());
    *stage.log.refuses.lock() = false;
    until(|| committed(&stage).is_empty()).await;
}

#[tokio::test]
async fn a_deletion_heard_of_late_leaves_what_was_committed_to_the_new_topic() {
    let stage = Stage::new().await;
    let shell = stage.groups.shell.clone();
    stage.commit("", -1, 7).await.expect("committed");
    stage.cluster.name_topic("t", Some(9));
    stage.commit("", -1, 1).await.expect("committed");
    shell.forget_topics(&shell.slots());
    assert_eq!(stage.fetched(true), Ok(Some(1)), "nothing is on its way");
}

#[tokio::test]
async fn a_topic_that_is_replaced_while_the_partition_loads_leaves_no_offsets() {
    let stage = Stage::new().await;
    stage.commit("", -1, 7).await.expect("committed");
    stage.log.loads.send_replace(false);
    stage.cluster.set_epoch(LeaderEpoch(6));
    stage.groups.shell.lead_for_tests(place(), LeaderEpoch(6), stage.log.clone());
    stage.cluster.name_topic("t", Some(9));
    stage.log.loads.send_replace(true);
    until(|| !stage.groups.list().is_loading).await;
    until(|| stage.fetched(true) == Ok(None)).await;
    assert_eq!(stage.log.records.lock().len(), 2);
}

#[tokio::test]
async fn offsets_of_a_topic_that_a_member_reads_are_not_deleted_and_others_are() {
    let stage = Stage::new().await;
    let wanted = [("t".to_string(), vec![0]), ("other".to_string(), vec![0, 5])];
    assert_eq!(stage.groups.delete_offsets("g", &wanted).await, Err(GroupError::GroupNotFound));
    let subscribing = Join { protocols: vec![("range".into(), subscription(&["t"]).into())], ..join("a", "") };
    let joined = stage.groups.join(subscribing).await.expect("joined");
    stage.groups.sync(sync(&joined.member, 1, &[(&joined.member, "all")])).await.expect("synced");
    stage.commit(&joined.member, 1, 42).await.expect("committed");
    let mut other = commit(&joined.member, 1, 7);
    other.offsets[0].topic = "other".into();
    stage.groups.commit_offsets(other).await.expect("committed");
    let deleted = stage.groups.delete_offsets("g", &wanted).await.expect("the group is there");
    assert_eq!(deleted[0].1, [(0, Err(GroupError::SubscribedToTopic))]);
    assert_eq!(deleted[1].1, [(0, Ok(())), (5, Ok(()))], "one was never committed");
    assert_eq!(stage.fetched(false), Ok(Some(42)));
    let all = stage.groups.fetch_offsets("g", None, false).expect("there");
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(stage.log.records.lock().len(), 3, "a tombstone only for what there was");

    stage.groups.leave("g", &[leaver(&joined.member)]).expect("there");
    stage.groups.delete_offsets("g", &wanted).await.expect("the group is there still");
    assert_eq!(stage.fetched(false), Ok(None));
}

#[tokio::test]
async fn other_protocols_than_the_consumers_keep_their_offsets_while_they_have_members() {
    let stage = Stage::new().await;
    let connect = Join { protocol_type: "connect".into(), ..join("a", "") };
    stage.groups.join(connect).await.expect("joined");
    let wanted = [("t".to_string(), vec![0])];
    assert_eq!(stage.groups.delete_offsets("g", &wanted).await, Err(GroupError::NonEmptyGroup));
}
