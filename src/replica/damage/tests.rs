//! Damaged copies, each on a real log.

use super::*;
use crate::config::topic::Durability;
use crate::replica::follower::Fetched;
use crate::replica::testing::{Replica, batch, flip, image, three};
use bytes::Bytes;

/// Readiness waits until the controller was told of its damage, and nobody is there to tell it.
fn opened_damaged() -> Replica {
    let one = Replica::new(1, Durability::PageCache);
    one.show(&image(1, &[1, 2, 3], 0, 0, None));
    one.partition.append(&batch(&["a"]), 1).unwrap();
    one.partition.mind_opened(Offset(2));
    assert!(one.node.is_ready_held());
    one
}

#[tokio::test]
async fn a_partition_that_goes_before_its_damage_was_told_holds_readiness_no_more() {
    for clean in [true, false] {
        let one = opened_damaged();
        one.partition.stop(clean).1.unwrap();
        assert!(!one.node.is_ready_held(), "stopped, clean: {clean}");
        one.partition.mind_opened(Offset(2));
        assert!(!one.node.is_ready_held(), "nor does a stopped one begin to");
    }
    let Replica { node, partition, words, .. } = opened_damaged();
    drop((partition, words, node.take_listed()));
    assert!(!node.is_ready_held(), "dropped without a stop");
    let released = node.ready_released.notified();
    tokio::time::timeout(Duration::from_secs(10), released).await.expect("who waits for readiness is told");
}

/// Its records were lost after the checkpoint of the high watermark, so that nothing else would tell of them.
#[test]
fn an_image_of_before_the_restart_does_not_have_a_loss_forgotten() {
    let one = Replica::new(1, Durability::PageCache);
    let lost = Damage { from: Offset(0), to: Offset(0), reason: "recovery cut it".to_string() };
    one.partition.state.lock().log.as_mut().unwrap().note_damage(lost);
    one.show(&image(1, &[1, 2, 3], 1, 1, None));
    assert_eq!(one.node.gauges.damaged(), 1, "the controller is to hear of it");
    let mut registered = image(1, &[1], 2, 2, None);
    registered.index = RaftIndex(101);
    one.show(&registered);
    assert_eq!(one.node.gauges.damaged(), 0, "chosen in spite of it");
}

/// Broker 2 is damaged at `offset`, out of sync, and follows broker 1 in epoch 1.
async fn damaged_follower(durability: Durability, records: &[&[&str]], offset: i64) -> [Replica; 3] {
    let [one, two, three] = three(durability);
    for values in records {
        one.partition.append(&batch(values), 1).unwrap();
    }
    for _ in 0..2 {
        two.catch_up(&one).await;
        three.catch_up(&one).await;
    }
    flip(&two.partition, offset, false);
    two.partition.look_into(Look::at(Offset(offset)));
    assert_eq!(two.node.gauges.damaged(), 1);
    for replica in [&one, &two] {
        replica.show(&image(1, &[1, 3], 1, 1, None));
    }
    [one, two, three]
}

#[tokio::test]
async fn an_answer_without_records_cuts_nothing() {
    let [one, two, _three] = damaged_follower(Durability::Sync, &[&["a"], &["b"], &["c"]], 1).await;
    let position = two.partition.position(LeaderEpoch(1)).expect("it asks for what is damaged");
    assert_eq!((position.offset, position.fills), (Offset(1), true));
    // A new leader knows of less than what was acked; and it may be throttled.
    let nothing = Fetched { records: Bytes::new(), high_watermark: Offset(0), log_start: Offset(0) };
    assert!(!two.partition.on_fetched(LeaderEpoch(1), nothing).unwrap());
    assert_eq!((two.end(), two.node.gauges.damaged()), (3, 1));
    assert!(two.fetch(&one).await.unwrap());
    assert_eq!((two.end(), two.node.gauges.damaged()), (3, 0), "filled");
    let position = two.partition.position(LeaderEpoch(1)).expect("it follows");
    assert!(position.needs_flush || !two.partition.state.lock().log.as_ref().unwrap().has_unsynced_patches());
}

#[tokio::test]
async fn a_copy_is_cut_where_its_leaders_log_ends() {
    let [one, two, three] = three(Durability::PageCache);
    one.partition.append(&batch(&["a"]), 1).unwrap();
    two.catch_up(&one).await;
    three.catch_up(&one).await;
    one.partition.append(&batch(&["only here"]), 1).unwrap();
    flip(&one.partition, 1, false);
    one.partition.look_into(Look::at(Offset(1)));
    for replica in [&one, &two] {
        replica.show(&image(2, &[2, 3], 1, 1, None));
    }
    assert!(one.fetch(&two).await.unwrap());
    assert_eq!((one.end(), one.node.gauges.damaged()), (1, 0));
}

#[tokio::test]
async fn what_is_deleted_at_the_leader_need_not_be_filled_and_costs_nothing_behind_it() {
    for deleted in [2, 1] {
        let records: [&[&str]; 2] = [&["a", "b"], &["c"]];
        let [one, two, _three] = damaged_follower(Durability::PageCache, &records, 0).await;
        assert_eq!(one.partition.delete_records(Offset(deleted)).unwrap(), Offset(deleted));
        assert!(two.fetch(&one).await.unwrap());
        let status = two.partition.status();
        assert_eq!((status.log_start, status.log_end), (Offset(deleted), Offset(3)));
        if deleted == 1 {
            assert_eq!(two.node.gauges.damaged(), 1, "half of the damaged batch still counts");
            assert!(two.fetch(&one).await.unwrap());
        }
        assert_eq!((two.end(), two.node.gauges.damaged()), (3, 0), "below {deleted} deleted");
    }
}

#[test]
fn only_a_copy_that_nobody_relies_on_is_cut() {
    let (five, six) = (LeaderEpoch(5), LeaderEpoch(6));
    let of = |is_trusted, has_other_leader| Reliance { is_trusted, has_other_leader, is_only: false };
    let cases = [
        ("the leader hands over", of(true, false), five, five, Step::Report),
        ("a follower in sync leaves first", of(true, true), five, five, Step::Report),
        ("an eligible replica of a partition without a leader", of(true, false), six, five, Step::Report),
        ("elected meanwhile or still in sync in a later epoch", of(true, true), six, five, Step::Report),
        ("out of sync, but the leader has heard of it in this epoch", of(false, true), five, five, Step::Report),
        ("out, in an epoch in which it never fetched", of(false, true), six, five, Step::Repair),
        ("after a restart that fenced it", of(false, true), five, LeaderEpoch::NONE, Step::Repair),
        ("out, and nobody to fetch from", of(false, false), six, five, Step::Wait),
        ("the image is not known yet", of(false, false), LeaderEpoch::NONE, LeaderEpoch::NONE, Step::Wait),
    ];
    for (says, reliance, epoch, noted_in, expected) in cases {
        assert_eq!(step(reliance, epoch, noted_in), expected, "{says}");
    }
}
