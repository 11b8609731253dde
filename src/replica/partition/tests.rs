//! Three replicas over real logs, with the fetches carried by hand.

use super::*;
use crate::config::topic::Durability;
use crate::log::flush::Flushable;
use crate::log::partition_log::AppendError;
use crate::replica::damage::Word;
use crate::replica::follower::FollowError;
use crate::replica::role::Standing;
use crate::replica::synced::sync_all;
use crate::replica::testing::{Replica, answer, batch, batch_of, flip, image, three, topic_config};
use futures::FutureExt;
use std::io;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_all_waits_until_all_of_the_isr_has_it_on_disk() {
    let [one, two, three] = three(Durability::Sync);
    let mut appended = one.partition.append(&batch(&["a", "b"]), -1).unwrap();
    assert_eq!(appended.appended.end_offset, Offset(2));
    let consumer = Watcher::of_consumer();
    one.partition.watch(&consumer, 7);
    assert!(two.fetch(&one).await.unwrap());
    assert!(three.fetch(&one).await.unwrap());
    assert!(one.consume(0).unwrap().is_empty(), "nothing is committed before it is on three disks");
    assert!(appended.wait.as_mut().unwrap().0.try_recv().is_err());
    assert!(!two.fetch(&one).await.unwrap());
    assert!(!three.fetch(&one).await.unwrap());
    answer(appended.wait.take()).await.unwrap();
    assert_eq!(consumer.take(), vec![7]);
    assert!(!one.consume(0).unwrap().is_empty());
    assert_eq!(one.partition.status().high_watermark, Offset(2));
    // The followers learn it with the next answer.
    two.fetch(&one).await.unwrap();
    assert_eq!(two.partition.status().high_watermark, Offset(2));
    assert_eq!(two.partition.status().durable_end, Offset(2));
    let latest = one.partition.find_offset(OffsetSpec::Latest, false, LeaderEpoch(0)).unwrap().unwrap();
    assert_eq!((latest.offset, latest.epoch), (Offset(2), LeaderEpoch(0)));
}

#[tokio::test]
async fn what_follows_a_batch_that_came_before_its_leader_is_told_to_come_again() {
    let [one, two, three] = three(Durability::PageCache);
    let of = |value: &str, sequence: i32| batch_of(&[value], (9, 0, sequence));
    one.partition.append(&of("a", 0), -1).unwrap();
    two.catch_up(&one).await;
    three.catch_up(&one).await;
    // A client heard of the new leader before that did itself.
    assert!(matches!(two.partition.append(&of("b", 1), -1), Err(PartitionError::NotLeader(_))));
    two.show(&image(2, &[2, 3], 1, 1, None));
    match two.partition.append(&of("c", 2), -1) {
        Err(PartitionError::NotLeader(hint)) => assert_eq!(hint.leader, Some(BrokerId(2)), "and this is the one"),
        other => panic!("{other:?}"),
    }
    assert!(!two.partition.append(&of("b", 1), -1).unwrap().appended.duplicate);
    assert!(!two.partition.append(&of("c", 2), -1).unwrap().appended.duplicate);
}

#[tokio::test]
async fn a_failover_tells_who_waits_and_cuts_the_old_leaders_tail() {
    let [one, two, three] = three(Durability::PageCache);
    let first = one.partition.append(&batch(&["a"]), -1).unwrap();
    two.catch_up(&one).await;
    three.catch_up(&one).await;
    answer(first.wait).await.unwrap();
    // Only broker 1 has these.
    let lost = one.partition.append(&batch(&["b", "c"]), -1).unwrap();
    let failover = image(2, &[2, 3], 1, 1, None);
    assert_eq!(two.show(&failover), Standing::Leading(LeaderEpoch(1)));
    two.partition.append(&batch(&["x"]), 1).unwrap();
    three.show(&failover);
    // A client that knows the newer epoch comes to the one that does not yet.
    let newer = one.partition.find_offset(OffsetSpec::Latest, false, LeaderEpoch(1));
    assert!(matches!(newer, Err(PartitionError::UnknownEpoch)));
    one.show(&failover);
    match answer(lost.wait).await {
        Err(PartitionError::NotLeader(hint)) => {
            assert_eq!(hint, LeaderHint { leader: Some(BrokerId(2)), epoch: LeaderEpoch(1) });
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(one.partition.append(&batch(&["d"]), 1), Err(PartitionError::NotLeader(_))));
    // The new leader does not know yet how far its predecessor's commits went.
    let latest = two.partition.find_offset(OffsetSpec::Latest, false, LeaderEpoch(1));
    let known = two.partition.status().high_watermark;
    assert_eq!(known < Offset(1), matches!(latest, Err(PartitionError::OffsetNotAvailable)));
    one.catch_up(&two).await;
    three.catch_up(&two).await;
    assert_eq!((one.end(), two.end(), three.end()), (2, 2, 2));
    assert_eq!(two.partition.status().high_watermark, Offset(2));
    let held = |replica: &Replica| {
        let reader = replica.partition.state.lock().log.as_ref().unwrap().reader();
        reader.read(Offset(0), 1 << 20, Offset(2), true).unwrap().bytes
    };
    assert_eq!(held(&one), held(&two));
    assert_eq!(held(&three), held(&two));
    let old = two.partition.end_of_epoch(LeaderEpoch(0), LeaderEpoch(0));
    assert!(matches!(old, Err(PartitionError::FencedEpoch(_))));
    assert_eq!(two.partition.end_of_epoch(LeaderEpoch(1), LeaderEpoch(0)).unwrap(), Some((LeaderEpoch(0), Offset(1))));
}

#[tokio::test]
async fn acked_data_is_cut_only_after_an_unclean_election() {
    let [one, two, three] = three(Durability::PageCache);
    one.partition.append(&batch(&["a"]), 1).unwrap();
    one.partition.append(&batch(&["b"]), 1).unwrap();
    two.catch_up(&one).await;
    three.fetch(&one).await.unwrap();
    three.fetch(&one).await.unwrap();
    two.fetch(&one).await.unwrap();
    assert_eq!(two.partition.status().high_watermark, Offset(2));
    // A broker with an empty log is made leader, and nobody says that this was unclean.
    let empty = Replica::new(3, Durability::PageCache);
    let wrong = image(3, &[3, 2], 1, 1, None);
    empty.show(&wrong);
    empty.partition.append(&batch(&["z"]), 1).unwrap();
    two.show(&wrong);
    let refused = two.fetch(&empty).await;
    assert!(matches!(refused, Err(FollowError::BelowHighWatermark { .. })), "{refused:?}");
    assert_eq!(two.end(), 2);
    let said = image(3, &[3, 2], 1, 2, Some(1));
    two.show(&said);
    two.catch_up(&empty).await;
    assert_eq!((two.end(), two.partition.status().high_watermark), (1, Offset(1)));
}

#[tokio::test]
async fn what_is_in_flight_behind_a_refused_batch_is_not_out_of_sequence() {
    let [one, two, _three] = three(Durability::PageCache);
    let sends = |value, sequence| one.partition.append(&batch_of(&[value], (7, 0, sequence)), -1);
    let waiting = sends("a", 0).unwrap();
    one.show(&image(1, &[1], 0, 1, None));
    assert!(matches!(answer(waiting.wait).await, Err(PartitionError::NotEnoughReplicasAfterAppend)));
    assert!(matches!(sends("b", 1), Err(PartitionError::NotEnoughReplicas)));
    // The ISR is large enough again before the client heard of that, and what it sent meanwhile arrives.
    two.catch_up(&one).await;
    one.show(&image(1, &[1, 2], 0, 2, None));
    let told = sends("c", 2);
    assert!(matches!(told, Err(PartitionError::NotEnoughReplicas)), "{told:?}");
    for (value, sequence) in [("a", 0), ("b", 1), ("c", 2)] {
        sends(value, sequence).unwrap();
    }
    two.catch_up(&one).await;
    assert_eq!(one.end(), 3);
}

#[tokio::test]
async fn too_small_an_isr_refuses_and_grows_again_by_proposal() {
    let [mut one, two, _three] = three(Durability::PageCache);
    let waiting = one.partition.append(&batch(&["a"]), -1).unwrap();
    one.show(&image(1, &[1], 0, 1, None));
    assert!(matches!(answer(waiting.wait).await, Err(PartitionError::NotEnoughReplicasAfterAppend)));
    assert!(matches!(one.partition.append(&batch(&["b"]), -1), Err(PartitionError::NotEnoughReplicas)));
    assert_eq!(one.node.gauges.under_min_isr(), 1);
    one.partition.append(&batch(&["b"]), 1).unwrap();
    assert!(one.consume(0).unwrap().is_empty(), "the high watermark stands still");
    assert!(one.proposals.recv().now_or_never().is_none());
    two.catch_up(&one).await;
    let proposed = one.proposals.recv().now_or_never().flatten().expect("a proposal");
    let members: Vec<_> = proposed.proposal.isr.iter().map(|(b, e)| (b.0, e.0)).collect();
    assert_eq!(members, vec![(1, 101), (2, 102)]);
    one.show(&image(1, &[1, 2], 0, 2, None));
    assert_eq!(one.partition.status().high_watermark, Offset(2));
    assert_eq!((one.node.gauges.under_min_isr(), one.node.gauges.under_replicated()), (0, 1));
}

#[tokio::test]
async fn a_follower_of_an_older_registration_is_not_known() {
    let [one, two, _three] = three(Durability::PageCache);
    let mut request = ReadRequest {
        offset: Offset::ZERO,
        max_bytes: 1024,
        at_least_one: true,
        current_leader_epoch: LeaderEpoch(0),
        read_committed: false,
        any_replica: false,
        follower: Some(FollowerState {
            broker: BrokerId(2),
            broker_epoch: BrokerEpoch(101),
            last_fetched_epoch: LeaderEpoch::NONE,
            refused: false,
            fills: false,
            log_start: Offset::ZERO,
        }),
    };
    assert!(matches!(one.partition.read(&request), Err(PartitionError::UnknownReplica)));
    request.follower.as_mut().unwrap().broker_epoch = BrokerEpoch(102);
    assert!(one.partition.read(&request).is_ok());
    request.follower.as_mut().unwrap().broker = BrokerId(4);
    assert!(matches!(one.partition.read(&request), Err(PartitionError::UnknownReplica)));
    assert!(matches!(two.partition.read(&request), Err(PartitionError::NotLeader(_))));
}

#[tokio::test]
async fn a_follower_below_the_leaders_start_begins_anew_even_inside_a_batch() {
    let [one, two, late] = three(Durability::PageCache);
    one.show(&image(1, &[1, 2], 0, 1, None));
    one.partition.append(&batch(&["a", "b", "c"]), 1).unwrap();
    one.partition.append(&batch(&["d"]), 1).unwrap();
    two.catch_up(&one).await;
    assert_eq!(one.partition.status().high_watermark, Offset(4));
    assert_eq!(one.partition.delete_records(Offset(1)).unwrap(), Offset(1));
    late.catch_up(&one).await;
    let status = late.partition.status();
    assert_eq!((status.log_start, status.log_end, status.high_watermark), (Offset(1), Offset(4), Offset(4)));
    // The one that was up to date follows the start.
    two.fetch(&one).await.unwrap();
    assert_eq!(two.partition.status().log_start, Offset(1));
    assert!(matches!(one.partition.delete_records(Offset(5)), Err(PartitionError::OutOfRange { .. })));
}

#[tokio::test]
async fn a_follower_takes_nothing_of_a_newer_epoch_than_it_follows() {
    let [one, two, three] = three(Durability::PageCache);
    let newer = image(2, &[2, 3], 1, 1, None);
    two.show(&newer);
    two.partition.append(&batch(&["x"]), 1).unwrap();
    // A leader of epoch 0, deposed while it read, sends what its successor wrote.
    let request = ReadRequest {
        any_replica: false,
        offset: Offset::ZERO,
        max_bytes: 1024,
        at_least_one: true,
        current_leader_epoch: LeaderEpoch(1),
        read_committed: false,
        follower: Some(FollowerState {
            broker: BrokerId(3),
            broker_epoch: BrokerEpoch(103),
            last_fetched_epoch: LeaderEpoch::NONE,
            log_start: Offset::ZERO,
            refused: false,
            fills: false,
        }),
    };
    let records = two.partition.read(&request).unwrap().chunk.bytes;
    assert!(!records.is_empty());
    let fetched = crate::replica::follower::Fetched { records, high_watermark: Offset(0), log_start: Offset(0) };
    let refused = three.partition.on_fetched(LeaderEpoch(0), fetched);
    assert!(matches!(refused, Err(FollowError::NewerEpoch { .. })), "{refused:?}");
    assert_eq!((three.end(), one.end()), (0, 0));
}

#[tokio::test]
async fn a_leader_deposed_while_it_reads_answers_nothing() {
    let [one, two, three] = three(Durability::PageCache);
    one.partition.append(&batch(&["a"]), 1).unwrap();
    two.catch_up(&one).await;
    let (deposed, newer) = (one.partition.clone(), image(2, &[2, 3], 1, 1, None));
    *one.partition.between.lock() = Some(Box::new(move || {
        deposed.apply(&newer, clock::now());
    }));
    let request = ReadRequest {
        any_replica: false,
        offset: Offset::ZERO,
        max_bytes: 1024,
        at_least_one: true,
        current_leader_epoch: LeaderEpoch(0),
        read_committed: false,
        follower: Some(FollowerState {
            broker: BrokerId(3),
            broker_epoch: BrokerEpoch(103),
            last_fetched_epoch: LeaderEpoch::NONE,
            log_start: Offset::ZERO,
            refused: false,
            fills: false,
        }),
    };
    assert!(matches!(one.partition.read(&request), Err(PartitionError::FencedEpoch(_))));
    assert_eq!(three.end(), 0);
}

#[tokio::test]
async fn a_retry_queues_the_flush_that_failed_in_passing() {
    let [one, _two, _three] = three(Durability::Sync);
    // Nobody flushes but this test.
    one.node.flusher.stop();
    let records = batch_of(&["a"], (7, 0, 0));
    one.partition.append(&records, -1).unwrap();
    assert!(one.partition.queued.load(Ordering::Acquire));
    // Too many open files, say: begun, and nothing came of it.
    drop(one.partition.begin_flush().expect("there is something to flush"));
    assert!(!one.partition.queued.load(Ordering::Acquire));
    assert!(one.partition.append(&records, -1).unwrap().appended.duplicate);
    assert!(one.partition.queued.load(Ordering::Acquire), "the retry waits for a flush, so it asks for one");
}

#[tokio::test]
async fn page_cache_topics_flush_what_a_roll_sealed_once_and_nothing_else() {
    let [one, two, _three] = three(Durability::PageCache);
    let image = image(1, &[1, 2, 3], 0, 0, None);
    for replica in [&one, &two] {
        // Nobody flushes but this test.
        replica.node.flusher.stop();
        let hour = 3_600_000;
        let config = TopicConfig { segment_bytes: 150, segment_ms: hour, ..topic_config(Durability::PageCache) };
        replica.partition.configure(&config, &image, clock::now());
    }
    let queued = |replica: &Replica| replica.partition.queued.load(Ordering::Acquire);
    let append = async |value: &str| {
        one.partition.append(&batch(&[value]), 1).unwrap();
        two.catch_up(&one).await;
    };
    append("a").await;
    append("b").await;
    assert!(!queued(&one) && !queued(&two), "no record costs a flush");
    append("c").await;
    for replica in [&one, &two] {
        assert!(queued(replica), "the segment of a and b is sealed");
    }
    let tasks = [&one, &two].map(|replica| replica.partition.begin_flush().expect("a segment is sealed"));
    append("d").await;
    for (replica, task) in [&one, &two].into_iter().zip(tasks) {
        assert!(!queued(replica), "while it is flushed nobody asks again");
        let result = task.sync();
        replica.partition.end_flush(task, result);
        let status = replica.partition.status();
        assert_eq!((status.durable_end, status.log_end), (Offset(2), Offset(4)), "the active segment is not flushed");
        assert!(replica.partition.begin_flush().is_none());
        // A segment that grew too old is sealed by retention.
        replica.partition.apply_retention(clock::wall_ms() + 7_200_000).unwrap();
        assert!(queued(replica));
        let task = replica.partition.begin_flush().expect("a segment is sealed");
        let result = task.sync();
        replica.partition.end_flush(task, result);
        assert_eq!(replica.partition.status().durable_end, Offset(4));
    }
}

/// `leader.replication.throttled.rate`: what this leader sends in all, whoever fetches it.
#[tokio::test]
async fn replicas_that_a_move_adds_share_what_the_leader_may_send() {
    use crate::metadata::command::ConfigResource;
    use crate::metadata::image::Image;
    use crate::metadata::image::topics::Reassignment;
    let [one, two, three] = three(Durability::PageCache);
    let moving = |version, isr: &[i32], adding: &[i32], rate: Option<i64>| {
        let mut image = image(1, isr, 1, version, None);
        let topic = Arc::make_mut(image.topics.get_mut(&one.partition.id.topic).unwrap());
        let adding = adding.iter().copied().map(BrokerId).collect();
        let original = isr.iter().copied().map(BrokerId).collect();
        let reassignment = Reassignment { original, adding, removing: Vec::new() };
        topic.partitions.get_mut(0).unwrap().reassignment = Some(Box::new(reassignment));
        if let Some(rate) = rate {
            let set = [("leader.replication.throttled.rate".to_string(), rate.to_string())].into_iter().collect();
            image.configs.overrides.insert(ConfigResource::Broker(BrokerId(1)), set);
        }
        image
    };
    let show = |image: &Image| {
        for replica in [&one, &two, &three] {
            replica.show(image);
        }
    };
    show(&moving(1, &[1], &[2, 3], Some(1)));
    one.partition.append(&batch(&["a"]), 1).unwrap();
    assert!(two.fetch(&one).await.unwrap(), "the first answer is paid for once its size is known");
    assert!(!three.fetch(&one).await.unwrap(), "and with it all that the leader may send for a minute");
    assert_eq!((two.end(), three.end()), (1, 0));
    show(&moving(2, &[1, 2], &[3], Some(1)));
    one.partition.append(&batch(&["b"]), 1).unwrap();
    assert!(two.fetch(&one).await.unwrap(), "one in sync is not throttled");
    assert!(!three.fetch(&one).await.unwrap());
    show(&moving(3, &[1, 2], &[3], None));
    assert!(three.fetch(&one).await.unwrap(), "without a bound it goes on");
    three.catch_up(&one).await;
    assert_eq!(three.end(), 2);
}

#[test]
fn a_follower_goes_on_after_what_passes() {
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    for error in [FollowError::Append(AppendError::NoRoom), FollowError::Storage(full())] {
        assert!(!error.is_final(), "{error}");
    }
    for error in [FollowError::Append(AppendError::Offline), FollowError::Storage(io::Error::other("EIO"))] {
        assert!(error.is_final(), "{error}");
    }
}

#[tokio::test]
async fn a_follower_that_cannot_cut_above_a_lost_header_suspects_itself_and_goes_on_once_repaired() {
    let [mut one, two, three] = three(Durability::PageCache);
    for value in ["a", "b", "c"] {
        one.partition.append(&batch(&[value]), 1).unwrap();
    }
    two.catch_up(&one).await;
    three.catch_up(&one).await;
    one.partition.append(&batch(&["only here"]), 1).unwrap();
    two.show(&image(2, &[1, 2, 3], 1, 1, None));
    one.show(&image(2, &[1, 2, 3], 1, 1, None));
    two.partition.append(&batch(&["d"]), 1).unwrap();
    flip(&one.partition, 1, true);
    let error = one.fetch(&two).await.unwrap_err();
    assert!(!error.is_final() && !error.is_suspicious(), "{error}");
    assert_eq!(one.end(), 4, "nothing was cut");
    let Ok(Word::Suspect(partition, offset)) = one.words.try_recv() else { panic!("nobody looks into it") };
    assert_eq!(offset.from(), Offset(1));
    partition.look_into(offset);
    let report = one.partition.damage_report().flatten().expect("the controller is told");
    assert_eq!(report.from, Offset(1));
    one.show(&image(2, &[2, 3], 2, 2, None));
    two.show(&image(2, &[2, 3], 2, 2, None));
    one.catch_up(&two).await;
    assert_eq!(one.end(), 4);
    assert_eq!(one.partition.status().last_epoch, LeaderEpoch(1));
}

/// The kernel tells a write-back error once per open file: a second fdatasync beside the first would miss it and call the
/// lost pages durable.
#[tokio::test]
async fn one_flush_of_a_log_is_under_way_at_a_time() {
    let [one, _two, _three] = three(Durability::Sync);
    // Nobody flushes but this test.
    one.node.flusher.stop();
    one.partition.append(&batch(&["a"]), 1).unwrap();
    let first = one.partition.begin_flush().expect("there is something to flush");
    one.partition.append(&batch(&["b"]), 1).unwrap();
    one.partition.append(&batch(&["c"]), 1).unwrap();
    assert!(one.partition.begin_flush().is_none(), "the first is under way");
    one.partition.end_flush(first, Ok(()));
    assert_eq!(one.partition.status().durable_end, Offset(1));
    assert!(one.partition.queued.load(Ordering::Acquire), "what came meanwhile is flushed next");
    let second = one.partition.begin_flush().expect("there is more to flush");
    assert_eq!(second.end, Offset(3), "one flush for all of it");
    assert!(one.partition.begin_flush().is_none());
    one.partition.end_flush(second, Err(io::Error::other("EIO")));
    assert!(one.partition.begin_flush().is_none(), "never sync again");
    assert_eq!(one.partition.status().durable_end, Offset(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_flush_waits_for_the_one_after_that_under_way() {
    let [one, _two, _three] = three(Durability::Sync);
    // Appended behind the partition's back, so that nothing but this test asks for a flush.
    let under_way = {
        let mut guard = one.partition.state.lock();
        guard.log.as_mut().unwrap().append_as_leader(&batch(&["a"]), LeaderEpoch(0), clock::wall_ms()).unwrap();
        drop(guard);
        one.partition.begin_flush().expect("there is something to flush")
    };
    let mut waiting = std::pin::pin!(sync_all(&one.node.flusher, vec![one.partition.clone()]));
    assert!(waiting.as_mut().now_or_never().is_none());
    let result = under_way.sync();
    one.partition.end_flush(under_way, result);
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("through");
    assert_eq!(one.partition.status().durable_end, Offset(1));
    one.node.flusher.stop();
    let refused = sync_all(&one.node.flusher, vec![one.partition.clone()]);
    tokio::time::timeout(Duration::from_secs(10), refused).await.expect("nobody flushes any more");
}

#[tokio::test]
async fn a_clean_stop_hears_of_the_error_that_a_flush_under_way_meets() {
    let [one, _two, _three] = three(Durability::Sync);
    one.node.flusher.stop();
    one.partition.append(&batch(&["a"]), 1).unwrap();
    let task = one.partition.begin_flush().expect("there is something to flush");
    let stopping = one.partition.clone();
    let stopped = std::thread::spawn(move || stopping.stop(true).1);
    let end = clock::now() + Duration::from_secs(10);
    while one.partition.standing() != Standing::Stopped {
        assert!(clock::now() < end, "it never stops");
        std::thread::yield_now();
    }
    one.partition.end_flush(task, Err(io::Error::other("EIO")));
    assert!(stopped.join().unwrap().is_err(), "what is not on disk is not closed cleanly");
}
