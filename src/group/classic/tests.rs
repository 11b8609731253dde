//! What scripts do not show: bounds, and what many members cost.

use super::*;
use crate::group::coordinator::GroupError;
use crate::group::machine::{Attempt, Effect, Ticket};
use crate::group::settings::{ConsumerRules, GROUP_BYTES_MAX, MEMBER_BYTES_MAX, Rules};
use crate::metadata::group_change::{ClassicMember, GroupHeader, GroupMember, GroupWrite};
use crate::metadata::image::groups;
use bytes::Bytes;

const RULES: Rules = Rules {
    initial_delay_ms: 0,
    session_min_ms: 6_000,
    session_max_ms: 60_000,
    group_size_max: 5_000,
    empty_check_ms: 600_000,
    consumer: ConsumerRules::FOR_TESTS,
};

#[test]
fn ids_given_out_have_their_share_of_the_groups_bytes() {
    let mut join = Join {
        session_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::new())],
        member_id_required: true,
        ..Join::default()
    };
    let mut group = Group::new(Rules { group_size_max: 100_000, ..RULES }, 0);
    let refused = (0..100_000u64).find(|n| {
        let id = format!("{n:01000}");
        group.join(Ticket(*n), &join, id, 1) == [Effect::Joined(Ticket(*n), Err(GroupError::GroupFull))]
    });
    assert!(refused.is_some_and(|n| (n as usize) < GROUP_BYTES_MAX / 1_000), "{refused:?}");
    // Who uses its id is not counted twice.
    join.member = format!("{:01000}", 0);
    join.client_id = "c".repeat(10);
    assert_eq!(group.join(Ticket(9_999), &join, String::new(), 2), []);
}

#[test]
fn sessions_start_anew_after_the_coordinator_slept() {
    let mut group = stable_group();
    group.restart_sessions(60_000);
    assert!(group.tick(60_000).is_empty());
    assert_eq!(group.phase(), Phase::Stable);
    assert_eq!(group.next_deadline(), Some(70_000));
}

/// One member, restored at 0.
fn stable_group() -> Group {
    let member = ClassicMember { session_timeout_ms: 10_000, ..ClassicMember::default() };
    let header = GroupHeader::Classic {
        protocol_type: "consumer".into(),
        protocol: None,
        generation: 1,
        leader: None,
        is_whole: true,
    };
    let mut stored = groups::Group::new(header);
    stored.members.insert("a-1".into(), GroupMember::Classic(member).into());
    Group::restore(RULES, &stored, 0)
}

#[test]
fn what_does_not_fit_into_one_command_is_refused() {
    let big = Bytes::from(vec![0; MEMBER_BYTES_MAX]);
    let mut join = Join {
        member: "a-1".into(),
        session_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), big.clone())],
        ..Join::default()
    };
    let mut group = stable_group();
    let refused = group.join(Ticket(1), &join, String::new(), 1);
    assert_eq!(refused, [Effect::Joined(Ticket(1), Err(GroupError::MemberTooLarge))]);
    join.protocols[0].1 = Bytes::new();
    assert!(matches!(group.join(Ticket(2), &join, String::new(), 2)[..], [Effect::Joined(_, Ok(_))]));
    let assignments = [("a-1".to_string(), big)].into_iter().collect();
    let sync = SyncGroup { member: "a-1".into(), generation: 2, assignments, ..SyncGroup::default() };
    assert!(group.sync(Ticket(3), sync, 3).contains(&Effect::Synced(Ticket(3), Err(GroupError::MemberTooLarge))));
}

const MANY: u64 = 5_000;

fn many_join(n: u64, member: &str) -> Join {
    Join {
        member: member.into(),
        client_id: format!("c{n}"),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(b"topics")), ("rr".into(), Bytes::from_static(b"topics"))],
        ..Join::default()
    }
}

fn write_of(effects: Vec<Effect>) -> (Attempt, GroupWrite) {
    let mut writes = effects.into_iter().filter_map(|effect| match effect {
        Effect::Commit { attempt, write } => Some((attempt, write)),
        _ => None,
    });
    let write = writes.next().expect("a commit");
    assert!(writes.next().is_none(), "one commit");
    write
}

/// The leader gives each member something; `changed` members something else.
fn assign(group: &mut Group, changed: u64, now: u64) -> (Attempt, GroupWrite) {
    let given =
        (0..MANY).map(|n| (format!("m{n:04}"), Bytes::from(format!("p{}", if n < changed { n + 1 } else { n }))));
    let leader = group.leader.clone().expect("there are members");
    let sync = SyncGroup {
        member: leader,
        generation: group.generation,
        assignments: given.collect(),
        ..SyncGroup::default()
    };
    write_of(group.sync(Ticket(0), sync, now))
}

#[test]
fn a_rebalance_of_many_writes_only_who_changed() {
    let mut group = Group::new(Rules { initial_delay_ms: 100, ..RULES }, 0);
    for n in 0..MANY {
        assert_eq!(group.join(Ticket(n), &many_join(n, ""), format!("m{n:04}"), 1), []);
    }
    group.tick(101);
    assert_eq!(group.tick(201).len(), MANY as usize, "everyone is answered");
    let (attempt, write) = assign(&mut group, 0, 300);
    assert_eq!((write.put.len(), write.blobs.len()), (MANY as usize, 1));
    group.committed(attempt, Ok(()), 301);
    // One subscribes to something else, and all join again; two get something else.
    let mut other = many_join(3, "m0003");
    other.protocols[0].1 = Bytes::from_static(b"others");
    assert_eq!(group.join(Ticket(0), &other, String::new(), 400), []);
    let mut answered = 0;
    for n in (0..MANY).filter(|n| *n != 3) {
        answered += group.join(Ticket(n), &many_join(n, &format!("m{n:04}")), String::new(), 401).len();
    }
    assert_eq!((answered, group.phase()), (MANY as usize, Phase::CompletingRebalance));
    let (attempt, write) = assign(&mut group, 2, 500);
    let put: Vec<&str> = write.put.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!((put, write.removed.len()), (vec!["m0000", "m0001", "m0003"], 0));
    group.committed(attempt, Ok(()), 501);
    // Half of them leave in one request.
    let leavers: Vec<Leaver> =
        (0..MANY / 2).map(|n| Leaver { member: format!("m{n:04}"), ..Leaver::default() }).collect();
    let (results, _) = group.leave(&leavers, 600);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!((group.member_count(), group.phase()), (MANY as usize / 2, Phase::PreparingRebalance));
}
