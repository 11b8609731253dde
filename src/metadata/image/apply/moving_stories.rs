//! What happens to a partition that moves, and to one whose broker is drained, told as scripts (replication.md, rule 12).
//!
//! A moving partition reads `… · to 2 3 4: adding 4, removing 1`.

use super::stories::{AFTER_KILL, AFTER_POWER_LOSS, Restart, WIPED, World};
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;

/// Brokers 1 to 5, and `t` on 1, 2 and 3.
fn five() -> World {
    let mut w = World::three();
    w.gains(4);
    w.gains(5);
    w
}

fn story(w: &World) -> Vec<&'static str> {
    let told = |event: &Event| match event {
        Event::ReassignmentBegan { .. } => Some("began"),
        Event::ReassignmentCompleted { .. } => Some("completed"),
        Event::ReassignmentCancelled { .. } => Some("cancelled"),
        Event::LeaderElected { reason: ElectionReason::Reassigned, old, new, .. } if old != new => Some("elected"),
        Event::LeaderElected { reason: ElectionReason::Drained, .. } => Some("drained"),
        _ => None,
    };
    w.events.iter().filter_map(told).collect()
}

#[test]
fn a_new_replica_joins_and_the_old_one_leaves_in_the_same_command() {
    let mut w = five();
    w.events.clear();
    assert_eq!(w.moves(&[2, 3, 4]), Ok(()));
    w.reads("leader 1 · isr 2 3 1 · elr - · epochs 0/1 · to 2 3 4: adding 4, removing 1");
    assert_eq!(w.replicas(), [2, 3, 4, 1]);
    assert!(w.proposes(1, &[1, 2, 3, 4]).is_ok());
    w.reads("leader 2 · isr 2 3 4 · elr - · epochs 1/2");
    assert_eq!(w.replicas(), [2, 3, 4]);
    assert_eq!(story(&w), ["began", "completed", "elected"]);
    assert_eq!(w.cancels(), Err(MetadataError::NoReassignment));
}

#[test]
fn a_leader_that_stays_leads_on_in_a_new_epoch_so_that_old_fetches_of_who_left_are_fenced() {
    let mut w = five();
    assert_eq!(w.moves(&[1, 2, 4]), Ok(()));
    assert!(w.proposes(1, &[1, 2, 3, 4]).is_ok());
    w.reads("leader 1 · isr 1 2 4 · elr - · epochs 1/2");
}

#[test]
fn all_of_the_set_moves_only_once_all_of_the_new_ones_are_in_sync() {
    let mut w = World::three();
    for broker in 4..=6 {
        w.gains(broker);
    }
    assert_eq!(w.moves(&[4, 5, 6]), Ok(()));
    assert!(w.proposes(1, &[1, 2, 3, 4]).is_ok());
    assert!(w.proposes(1, &[1, 2, 3, 4, 5]).is_ok());
    w.reads("leader 1 · isr 4 5 1 2 3 · elr - · epochs 0/3 · to 4 5 6: adding 4 5 6, removing 1 2 3");
    assert!(w.proposes(1, &[1, 2, 3, 4, 5, 6]).is_ok());
    w.reads("leader 4 · isr 4 5 6 · elr - · epochs 1/4");
}

#[test]
fn cancelling_puts_the_old_replicas_back_in_their_order() {
    let mut w = five();
    w.events.clear();
    assert_eq!(w.moves(&[5, 4, 3]), Ok(()));
    assert!(w.proposes(1, &[1, 2, 3, 4]).is_ok());
    // Another target on the way: what was there before the first move is what a cancellation gives.
    assert_eq!(w.moves(&[4, 1, 2]), Ok(()));
    w.reads("leader 1 · isr 4 1 2 · elr - · epochs 1/3");
    assert_eq!(w.moves(&[5, 2, 1]), Ok(()));
    assert!(w.moves(&[3, 2, 1]).is_ok());
    w.reads("leader 1 · isr 2 1 4 · elr - · epochs 2/5 · to 3 2 1: adding 3, removing 4");
    assert_eq!(w.replicas(), [3, 2, 1, 4], "5 never held anything that counts, and is gone");
    assert_eq!(w.cancels(), Ok(()));
    w.reads("leader 1 · isr 4 1 2 · elr - · epochs 3/6");
    assert_eq!(w.replicas(), [4, 1, 2]);
    assert_eq!(story(&w), ["began", "began", "completed", "began", "began", "cancelled"]);
}

#[test]
fn a_leader_among_the_new_ones_hands_back_when_the_move_is_cancelled() {
    let mut w = five();
    assert_eq!(w.moves(&[4, 5, 1]), Ok(()));
    assert!(w.proposes(1, &[1, 2, 3, 4]).is_ok());
    assert_eq!(w.elects(4, ElectionReason::Preferred), Ok(()));
    assert_eq!(w.cancels(), Ok(()));
    w.reads("leader 1 · isr 1 2 3 · elr - · epochs 2/4");
}

#[test]
fn going_back_is_refused_where_only_the_new_ones_hold_everything() {
    let mut w = five();
    assert_eq!(w.moves(&[4, 5]), Ok(()));
    assert!(w.proposes(1, &[1, 2, 3, 4]).is_ok());
    w.fences(&[1, 2, 3]);
    w.reads("leader 4 · isr 4 · elr - · epochs 1/3 · to 4 5: adding 4 5, removing 1 2 3");
    assert!(matches!(w.cancels(), Err(MetadataError::InvalidAssignment(_))));
    assert!(w.proposes(4, &[4, 5]).is_ok());
    w.reads("leader 4 · isr 4 5 · elr - · epochs 2/4");
}

#[test]
fn going_back_is_refused_where_only_an_added_one_is_eligible() {
    let mut w = World::three();
    for broker in 4..=6 {
        w.gains(broker);
    }
    assert_eq!(w.moves(&[4, 5, 6]), Ok(()));
    assert!(w.proposes(1, &[1, 2, 3, 4]).is_ok());
    w.fences(&[2, 3]);
    w.fences(&[4]);
    w.reads("leader 1 · isr 1 · elr 4 · epochs 0/4 · to 4 5 6: adding 4 5 6, removing 1 2 3");
    w.registers(1, WIPED);
    w.reads("leader - · isr - · elr 4 · epochs 1/5 · to 4 5 6: adding 4 5 6, removing 1 2 3");
    assert!(matches!(w.cancels(), Err(MetadataError::InvalidAssignment(_))), "4 has the last copy");
    w.gains(4);
    w.reads("leader 4 · isr 4 · elr - · epochs 2/6 · to 4 5 6: adding 4 5 6, removing 1 2 3");
    // Once one of the original replicas has caught up there is something to go back to.
    w.unfences(1);
    assert!(w.proposes(4, &[4, 1]).is_ok());
    assert_eq!(w.cancels(), Ok(()));
    w.reads("leader 1 · isr 1 · elr - · epochs 3/8");
}

#[test]
fn going_back_without_a_leader_is_allowed_where_an_original_one_is_eligible() {
    let mut w = World::three();
    w.gains(4);
    assert_eq!(w.moves(&[4, 2, 3]), Ok(()));
    w.fences(&[3]);
    w.fences(&[2]);
    w.reads("leader 1 · isr 1 · elr 2 · epochs 0/3 · to 4 2 3: adding 4, removing 1");
    w.registers(1, WIPED);
    assert_eq!(w.cancels(), Ok(()));
    w.reads("leader - · isr - · elr 2 · epochs 2/5");
    w.gains(2);
    w.reads("leader 2 · isr 2 · elr - · epochs 3/6");
}

#[test]
fn a_half_copied_replica_does_not_make_the_only_one_wait_for_it_after_power_loss() {
    let mut w = World::empty();
    w.gains(1);
    w.gains(2);
    w.creates("t", &[1], &[("highwater.durability", "page-cache")]);
    assert_eq!(w.moves(&[2]), Ok(()));
    w.registers(1, AFTER_POWER_LOSS);
    w.reads("leader - · isr 1 · elr - · epochs 1/2 · to 2: adding 2, removing 1");
    let unclean = |w: &World| w.image.partition(World::place()).unwrap().unclean_epoch;
    assert_eq!(unclean(&w), Some(LeaderEpoch(1)), "2 may hold more than 1 does now");
    w.unfences(1);
    w.reads("leader 1 · isr 1 · elr - · epochs 2/3 · to 2: adding 2, removing 1");
    // Known to be fenced when it came back, too.
    w.fences(&[1]);
    w.registers(1, Restart { clean: true, ..AFTER_KILL });
    assert_eq!(unclean(&w), Some(LeaderEpoch(1)), "a clean stop loses nothing");
    w.registers(1, AFTER_POWER_LOSS);
    w.reads("leader - · isr 1 · elr - · epochs 3/5 · to 2: adding 2, removing 1");
    assert_eq!(unclean(&w), Some(LeaderEpoch(3)));
    w.unfences(1);
    assert!(w.proposes(1, &[1, 2]).is_ok());
    w.reads("leader 2 · isr 2 · elr - · epochs 5/7");
}

#[test]
fn an_added_replica_that_was_in_sync_is_waited_for_after_power_loss() {
    let mut w = World::empty();
    for broker in 1..=3 {
        w.gains(broker);
    }
    w.creates("t", &[1], &[("highwater.durability", "page-cache")]);
    assert_eq!(w.moves(&[2, 3]), Ok(()));
    assert!(w.proposes(1, &[1, 2]).is_ok());
    w.registers(1, AFTER_POWER_LOSS);
    w.reads("leader 2 · isr 2 · elr - · epochs 1/3 · to 2 3: adding 2 3, removing 1");
}

#[test]
fn the_target_dies_in_the_middle_and_the_move_waits_for_it() {
    let mut w = five();
    assert_eq!(w.moves(&[2, 3, 4]), Ok(()));
    w.fences(&[4]);
    w.reads("leader 1 · isr 2 3 1 · elr - · epochs 0/1 · to 2 3 4: adding 4, removing 1");
    assert_eq!(w.proposes(1, &[1, 2, 3, 4]), Err(MetadataError::IneligibleReplica(BrokerId(4))));
    w.registers(4, WIPED);
    w.unfences(4);
    assert!(w.proposes(1, &[1, 2, 3, 4]).is_ok());
    w.reads("leader 2 · isr 2 3 4 · elr - · epochs 1/2");
}

#[test]
fn the_leader_dies_in_the_middle_and_the_next_one_completes_the_move() {
    let mut w = five();
    assert_eq!(w.moves(&[2, 3, 4]), Ok(()));
    w.fences(&[1]);
    w.reads("leader 2 · isr 2 3 · elr - · epochs 1/2 · to 2 3 4: adding 4, removing 1");
    assert!(w.proposes(2, &[2, 3, 4]).is_ok());
    w.reads("leader 2 · isr 2 3 4 · elr - · epochs 2/3");
}

#[test]
fn a_dead_replica_is_replaced_though_another_one_is_away() {
    let mut w = five();
    w.fences(&[2, 3]);
    w.reads("leader 1 · isr 1 · elr 2 3 · epochs 0/1");
    assert_eq!(w.moves(&[1, 2, 4]), Ok(()));
    assert!(w.proposes(1, &[1, 4]).is_ok());
    w.reads("leader 1 · isr 1 4 · elr - · epochs 1/3");
    assert_eq!(w.replicas(), [1, 2, 4]);
}

#[test]
fn fewer_copies_at_once_if_they_are_in_sync_and_later_if_not() {
    let mut w = five();
    assert_eq!(w.moves(&[2, 1]), Ok(()));
    w.reads("leader 1 · isr 2 1 · elr - · epochs 1/1");
    let mut w = five();
    w.fences(&[2]);
    assert_eq!(w.moves(&[2, 1]), Ok(()));
    w.reads("leader 1 · isr 1 3 · elr - · epochs 0/2 · to 2 1: adding -, removing 3");
    w.gains(2);
    assert!(w.proposes(1, &[1, 2, 3]).is_ok());
    w.reads("leader 1 · isr 2 1 · elr - · epochs 1/3");
}

#[test]
fn more_copies_do_not_raise_the_minimum_before_they_are_there() {
    let mut w = World::empty();
    for broker in 1..=3 {
        w.gains(broker);
    }
    w.creates("t", &[1], &[("min.insync.replicas", "2")]);
    assert_eq!(w.moves(&[1, 2, 3]), Ok(()));
    let partition = w.image.partition(World::place()).unwrap();
    assert_eq!(w.image.effective_min_isr("t", partition.counted_replicas()), 1, "one in sync goes on taking acks=all");
    assert!(w.proposes(1, &[1, 2]).is_ok());
    assert!(w.proposes(1, &[1, 2, 3]).is_ok());
    w.reads("leader 1 · isr 1 2 3 · elr - · epochs 0/3");
    let partition = w.image.partition(World::place()).unwrap();
    assert_eq!(w.image.effective_min_isr("t", partition.counted_replicas()), 2);
}

#[test]
fn nonsense_is_refused() {
    let mut w = five();
    assert!(matches!(w.moves(&[]), Err(MetadataError::InvalidAssignment(_))));
    assert!(matches!(w.moves(&[1, 1]), Err(MetadataError::InvalidAssignment(_))));
    assert_eq!(w.moves(&[1, 9]), Err(MetadataError::UnknownBroker(BrokerId(9))));
    let change = ReassignmentChange {
        partition: World::place(),
        partition_epoch: PartitionEpoch(7),
        replicas: Some(vec![BrokerId(4)]),
    };
    let answer = w.does(&Command::AlterReassignments { changes: vec![change] });
    let (given, current) = (PartitionEpoch(7), PartitionEpoch(0));
    assert_eq!(answer, Answer::Reassignments(vec![Err(MetadataError::StalePartitionEpoch { given, current })]));
}

#[test]
fn deleting_a_moving_topic_forgets_it_on_all_brokers() {
    let mut w = five();
    assert_eq!(w.moves(&[4, 5, 3]), Ok(()));
    w.does(&Command::DeleteTopics { topics: vec![World::place().topic] });
    assert!(w.image.replicas_on.is_empty());
}

#[test]
fn a_drained_broker_leads_nothing_stays_in_sync_and_none_come_back() {
    let mut w = World::three();
    w.events.clear();
    w.drains(1, true);
    w.reads("leader 2 · isr 1 2 3 · elr - · epochs 1/1");
    assert_eq!(story(&w), ["drained"]);
    assert_eq!(w.elects(1, ElectionReason::Preferred), Err(MetadataError::IneligibleLeader(BrokerId(1))));
    // It survives a restart.
    w.registers(1, AFTER_KILL);
    w.unfences(1);
    assert!(w.proposes(2, &[1, 2, 3]).is_ok());
    w.fences(&[2]);
    w.reads("leader 3 · isr 1 3 · elr - · epochs 2/4");
    // Nobody else is left: better a drained leader than none.
    w.fences(&[3]);
    w.reads("leader 1 · isr 1 · elr 3 · epochs 3/5");
    w.drains(1, false);
    w.gains(3);
    assert!(w.proposes(1, &[1, 3]).is_ok());
    w.drains(3, true);
    w.drains(1, true);
    w.reads("leader 1 · isr 1 3 · elr - · epochs 3/6");
}
