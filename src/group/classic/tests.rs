//! Golden scripts: an event a line (`@now what …`), what came of it indented below.
//!
//! Requests are numbered by their lines (`join#3` is the answer to the third parked request). A fresh member id is the
//! client's name and how often the harness has drawn one.

mod harness;

use super::*;
use crate::group::coordinator::GroupError;
use crate::group::machine::{Effect, Ticket};
use crate::group::settings::{GROUP_BYTES_MAX, MEMBER_BYTES_MAX, Rules};
use crate::metadata::group_change::{ClassicMember, GroupHeader, GroupMember};
use crate::metadata::image::groups;
use bytes::Bytes;
use harness::{RULES, golden};

fn at_once() -> Rules {
    Rules { initial_delay_ms: 0, ..RULES }
}

#[test]
fn two_members_join_within_the_initial_delay_and_share() {
    golden(
        RULES,
        "
        @0 join a v=4
            join#1 MemberIdRequired(\"a-1\")
            = Empty gen=0 until 10000
        @1 join a as=a-1 v=4 with=range:A,rr:A
            = PreparingRebalance gen=0 until 3001
        @500 join b with=rr:B,range:B
            = PreparingRebalance gen=0 until 3001
        @3001 tick
            = PreparingRebalance gen=0 until 6001
        @6001 tick
            join#2 a-1 gen=1 range leader=a-1 [\"a-1:A\", \"b-3:B\"]
            join#3 b-3 gen=1 range leader=a-1 []
            = CompletingRebalance gen=1 until 16001
        @6010 sync b-3 gen=1
            = CompletingRebalance gen=1 until 16001
        @6020 heartbeat a-1 gen=1
            Ok(())
            = CompletingRebalance gen=1 until 16020
        @6020 offsets as=a-1 gen=1
            Err(RebalanceInProgress)
            = CompletingRebalance gen=1 until 16020
        @6030 sync a-1 gen=1 give=a-1:p0,b-3:p1
            commit gen=1 [\"a-1:p0\", \"b-3:p1\"]
            = CompletingRebalance gen=1 until -
        @6040 committed
            sync#5 \"p0\"
            sync#4 \"p1\"
            = Stable gen=1 until 16040
        @6050 offsets as=a-1 gen=1
            Ok(())
            = Stable gen=1 until 16040
        ",
    );
}

#[test]
fn one_dies_and_the_other_takes_all() {
    golden(
        at_once(),
        "
        @0 join a
            join#1 a-1 gen=1 range leader=a-1 [\"a-1:t\"]
            = CompletingRebalance gen=1 until 10000
        @10 join b
            = PreparingRebalance gen=1 until 10000
        @20 heartbeat a-1 gen=1
            Err(RebalanceInProgress)
            = PreparingRebalance gen=1 until 10020
        @30 join a as=a-1
            join#3 a-1 gen=2 range leader=a-1 [\"a-1:t\", \"b-2:t\"]
            join#2 b-2 gen=2 range leader=a-1 []
            = CompletingRebalance gen=2 until 10030
        @40 sync a-1 gen=2 give=a-1:p0,b-2:p1
            commit gen=2 [\"a-1:p0\", \"b-2:p1\"]
            = CompletingRebalance gen=2 until 10030
        @50 committed
            sync#4 \"p0\"
            = Stable gen=2 until 10030
        @60 sync b-2 gen=2
            sync#5 \"p1\"
            = Stable gen=2 until 10050
        @8000 heartbeat a-1 gen=2
            Ok(())
            = Stable gen=2 until 10060
        @10060 tick
            = PreparingRebalance gen=2 until 18000
        @10100 heartbeat b-2 gen=2
            Err(UnknownMember)
            = PreparingRebalance gen=2 until 18000
        @10200 heartbeat a-1 gen=2
            Err(RebalanceInProgress)
            = PreparingRebalance gen=2 until 20200
        @10300 join a as=a-1
            join#6 a-1 gen=3 range leader=a-1 [\"a-1:t\"]
            = CompletingRebalance gen=3 until 20300
        @10400 sync a-1 gen=3 give=a-1:all
            commit gen=3 [\"a-1:all\"]
            = CompletingRebalance gen=3 until -
        @10500 committed
            sync#7 \"all\"
            = Stable gen=3 until 20500
        @10600 leave as=a-1
            Ok(())
            commit gen=4 []
            = Empty gen=4 until 610600
        @610600 tick
            long empty
            = Empty gen=4 until -
        ",
    );
}

/// A stable group of the static members x (leader) and y, generation 2.
const STATIC_PAIR: &str = "
        @0 join x instance=X v=9
            join#1 x-1 gen=1 range leader=x-1 [\"x-1:t\"]
            = CompletingRebalance gen=1 until 10000
        @10 join y instance=Y v=9
            = PreparingRebalance gen=1 until 10000
        @20 join x as=x-1 instance=X v=9
            join#3 x-1 gen=2 range leader=x-1 [\"x-1:t\", \"y-2:t\"]
            join#2 y-2 gen=2 range leader=x-1 []
            = CompletingRebalance gen=2 until 10020
        @30 sync x-1 gen=2 instance=X give=x-1:p0,y-2:p1
            commit gen=2 [\"x-1:p0\", \"y-2:p1\"]
            = CompletingRebalance gen=2 until 10020
        @40 committed
            sync#4 \"p0\"
            = Stable gen=2 until 10020
        @50 sync y-2 gen=2 instance=Y
            sync#5 \"p1\"
            = Stable gen=2 until 10040
        ";

fn golden_after(setting: &str, rest: &str) {
    golden(at_once(), &format!("{setting}{rest}"));
}

#[test]
fn a_static_member_returns_without_a_rebalance_and_its_former_self_is_fenced() {
    golden_after(
        STATIC_PAIR,
        "
        @100 join y instance=Y v=9
            commit gen=2 [\"x-1:p0\", \"y-4:p1\"]
            = Stable gen=2 until 10040
        @110 committed
            join#6 y-4 gen=2 range leader=x-1 []
            = Stable gen=2 until 10040
        @120 sync y-4 gen=2 instance=Y
            sync#7 \"p1\"
            = Stable gen=2 until 10040
        @130 heartbeat y-2 gen=2 instance=Y
            Err(FencedInstance)
            = Stable gen=2 until 10040
        @140 heartbeat y-2 gen=2
            Err(UnknownMember)
            = Stable gen=2 until 10040
        @150 offsets as=y-2 instance=Y gen=2
            Err(FencedInstance)
            = Stable gen=2 until 10040
        @160 heartbeat z instance=Z gen=2
            Err(UnknownMember)
            = Stable gen=2 until 10040
        @170 leave instance=Y
            Ok(())
            = PreparingRebalance gen=2 until 10040
        ",
    );
}

#[test]
fn two_static_members_return_at_once_and_the_leader_skips_the_assignment() {
    golden_after(
        STATIC_PAIR,
        "
        @100 join y instance=Y v=9
            commit gen=2 [\"x-1:p0\", \"y-4:p1\"]
            = Stable gen=2 until 10040
        @105 join x instance=X v=9
            commit gen=2 [\"x-5:p0\", \"y-4:p1\"]
            = Stable gen=2 until -
        @110 committed
            join#7 x-5 gen=2 range leader=x-5 [\"x-5:t\", \"y-4:t\"] skip
            join#6 y-4 gen=2 range leader=x-5 []
            = Stable gen=2 until 10110
        ",
    );
}

#[test]
fn an_old_static_leader_is_told_of_its_former_self() {
    golden_after(
        STATIC_PAIR,
        "
        @100 join x instance=X v=5
            commit gen=2 [\"x-4:p0\", \"y-2:p1\"]
            = Stable gen=2 until 10050
        @110 committed
            join#6 x-4 gen=2 range leader=x-1 []
            = Stable gen=2 until 10050
        @120 join x instance=X as=x-4 v=5 with=range:new
            = PreparingRebalance gen=2 until 10050
        ",
    );
}

#[test]
fn a_static_member_may_be_away_for_its_session() {
    golden(
        at_once(),
        "
        @0 join x instance=X session=60000 rebalance=7000
            join#1 x-1 gen=1 range leader=x-1 [\"x-1:t\"]
            = CompletingRebalance gen=1 until 7000
        @5 sync x-1 instance=X gen=1 give=x-1:all
            commit gen=1 [\"x-1:all\"]
            = CompletingRebalance gen=1 until -
        @6 committed
            sync#2 \"all\"
            = Stable gen=1 until 60006
        @10 join b rebalance=6000
            = PreparingRebalance gen=1 until 7010
        @7010 tick
            join#3 b-2 gen=2 range leader=b-2 [\"b-2:t\", \"x-1:t\"]
            = CompletingRebalance gen=2 until 14010
        @7020 sync b-2 gen=2 give=b-2:p0,x-1:p1
            commit gen=2 [\"b-2:p0\", \"x-1:p1\"]
            = CompletingRebalance gen=2 until 60006
        @7030 committed
            sync#4 \"p0\"
            = Stable gen=2 until 17030
        @17000 heartbeat b-2 gen=2
            Ok(())
            = Stable gen=2 until 27000
        @27000 join x instance=X session=60000 rebalance=7000 v=9
            commit gen=2 [\"b-2:p0\", \"x-3:p1\"]
            = Stable gen=2 until 27000
        @27000 tick
            join#5 x-3 gen=3 range leader=x-3 [\"x-3:t\"]
            = CompletingRebalance gen=3 until 34000
        @27010 committed
            = CompletingRebalance gen=3 until 34000
        ",
    );
}

#[test]
fn the_leader_leaves_before_it_has_assigned() {
    golden(
        at_once(),
        "
        @0 join a
            join#1 a-1 gen=1 range leader=a-1 [\"a-1:t\"]
            = CompletingRebalance gen=1 until 10000
        @10 join b
            = PreparingRebalance gen=1 until 10000
        @20 join a as=a-1
            join#3 a-1 gen=2 range leader=a-1 [\"a-1:t\", \"b-2:t\"]
            join#2 b-2 gen=2 range leader=a-1 []
            = CompletingRebalance gen=2 until 10020
        @30 sync b-2 gen=2
            = CompletingRebalance gen=2 until 10020
        @40 leave as=a-1
            Ok(())
            sync#4 RebalanceInProgress
            = PreparingRebalance gen=2 until 10020
        @50 join b as=b-2
            join#5 b-2 gen=3 range leader=b-2 [\"b-2:t\"]
            = CompletingRebalance gen=3 until 10050
        @20050 heartbeat b-2 gen=3
            Ok(())
            = CompletingRebalance gen=3 until 20050
        @20050 tick
            = Empty gen=4 until 620050
        ",
    );
}

#[test]
fn a_restored_group_goes_on_where_it_was() {
    golden(
        at_once(),
        "
        @0 join a
            join#1 a-1 gen=1 range leader=a-1 [\"a-1:t\"]
            = CompletingRebalance gen=1 until 10000
        @10 sync a-1 gen=1 give=a-1:all
            commit gen=1 [\"a-1:all\"]
            = CompletingRebalance gen=1 until -
        @20 committed
            sync#2 \"all\"
            = Stable gen=1 until 10020
        @5000 coordinator-moves
            = Stable gen=1 until 15000
        @5010 heartbeat a-1 gen=1
            Ok(())
            = Stable gen=1 until 15010
        @5020 sync a-1 gen=1
            sync#3 \"all\"
            = Stable gen=1 until 15020
        @5030 offsets as=a-1 gen=1
            Ok(())
            = Stable gen=1 until 15030
        @5040 join b
            = PreparingRebalance gen=1 until 15030
        @5050 coordinator-moves
            join#4 NotCoordinator
            = Stable gen=1 until 15050
        @5060 join b as=b-2
            join#5 UnknownMember
            = Stable gen=1 until 15050
        @5070 heartbeat a-1 gen=2
            Err(IllegalGeneration)
            = Stable gen=1 until 15050
        ",
    );
}

#[test]
fn who_is_not_of_the_generation_is_refused() {
    golden(
        at_once(),
        "
        @0 join a
            join#1 a-1 gen=1 range leader=a-1 [\"a-1:t\"]
            = CompletingRebalance gen=1 until 10000
        @1 sync a-1 gen=0
            sync#2 IllegalGeneration
            = CompletingRebalance gen=1 until 10000
        @2 sync z gen=1
            sync#3 UnknownMember
            = CompletingRebalance gen=1 until 10000
        @3 sync a-1 gen=1 protocol=rr
            sync#4 InconsistentProtocol
            = CompletingRebalance gen=1 until 10000
        @4 offsets gen=-1
            Err(UnknownMember)
            = CompletingRebalance gen=1 until 10000
        @5 offsets as=a-1 gen=0
            Err(IllegalGeneration)
            = CompletingRebalance gen=1 until 10000
        @6 join b with=rr:B
            join#5 InconsistentProtocol
            = CompletingRebalance gen=1 until 10000
        @7 join b type=connect
            join#6 InconsistentProtocol
            = CompletingRebalance gen=1 until 10000
        @8 join b session=5999
            join#7 InvalidSessionTimeout
            = CompletingRebalance gen=1 until 10000
        @9 join b session=60001
            join#8 InvalidSessionTimeout
            = CompletingRebalance gen=1 until 10000
        @10 join b as=b-77
            join#9 UnknownMember
            = CompletingRebalance gen=1 until 10000
        @11 leave as=z
            Err(UnknownMember)
            = CompletingRebalance gen=1 until 10000
        ",
    );
}

#[test]
fn an_empty_group_takes_commits_of_consumers_that_assign_themselves() {
    golden(
        at_once(),
        "
        @0 offsets gen=-1
            Ok(())
            = Empty gen=0 until 600000
        @1 offsets as=z gen=3
            Err(UnknownMember)
            = Empty gen=0 until 600000
        ",
    );
}

#[test]
fn a_member_that_missed_its_answer_gets_it_again_and_a_new_subscription_rebalances() {
    golden(
        at_once(),
        "
        @0 join a with=range:A
            join#1 a-1 gen=1 range leader=a-1 [\"a-1:A\"]
            = CompletingRebalance gen=1 until 10000
        @5 join a as=a-1 with=range:A
            join#2 a-1 gen=1 range leader=a-1 [\"a-1:A\"]
            = CompletingRebalance gen=1 until 10005
        @10 join b with=range:B
            = PreparingRebalance gen=1 until 10005
        @20 join a as=a-1 with=range:A
            join#4 a-1 gen=2 range leader=a-1 [\"a-1:A\", \"b-3:B\"]
            join#3 b-3 gen=2 range leader=a-1 []
            = CompletingRebalance gen=2 until 10020
        @30 sync a-1 gen=2
            commit gen=2 [\"a-1:\", \"b-3:\"]
            = CompletingRebalance gen=2 until 10020
        @40 committed
            sync#5 \"\"
            = Stable gen=2 until 10020
        @50 sync b-3 gen=2
            sync#6 \"\"
            = Stable gen=2 until 10040
        @60 join b as=b-3 with=range:B
            join#7 b-3 gen=2 range leader=a-1 []
            = Stable gen=2 until 10040
        @70 join b as=b-3 with=range:more
            = PreparingRebalance gen=2 until 10040
        @80 join a as=a-1 with=range:A
            join#9 a-1 gen=3 range leader=a-1 [\"a-1:A\", \"b-3:more\"]
            join#8 b-3 gen=3 range leader=a-1 []
            = CompletingRebalance gen=3 until 10080
        @90 sync a-1 gen=3
            commit gen=3 [\"a-1:\", \"b-3:\"]
            = CompletingRebalance gen=3 until 10080
        @95 sync b-3 gen=3
            = CompletingRebalance gen=3 until -
        @96 commit-fails
            sync#10 NotAvailable
            sync#11 NotAvailable
            = PreparingRebalance gen=3 until 10096
        ",
    );
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    golden(
        at_once(),
        "
        @0 join a rebalance=7000 session=60000
            join#1 a-1 gen=1 range leader=a-1 [\"a-1:t\"]
            = CompletingRebalance gen=1 until 7000
        @10 join b rebalance=6000
            = PreparingRebalance gen=1 until 7010
        @7010 tick
            join#2 b-2 gen=2 range leader=b-2 [\"b-2:t\"]
            = CompletingRebalance gen=2 until 13010
        @7020 heartbeat a-1 gen=1
            Err(UnknownMember)
            = CompletingRebalance gen=2 until 13010
        @13010 tick
            = Empty gen=3 until 613010
        ",
    );
}

#[test]
fn ids_given_out_are_waited_for_and_count() {
    golden(
        at_once(),
        "
        @0 join a v=4
            join#1 MemberIdRequired(\"a-1\")
            = Empty gen=0 until 10000
        @1 join b v=4
            join#2 MemberIdRequired(\"b-2\")
            = Empty gen=0 until 10000
        @2 join c v=4
            join#3 MemberIdRequired(\"c-3\")
            = Empty gen=0 until 10000
        @3 join d v=4
            join#4 GroupFull
            = Empty gen=0 until 10000
        @4 join a as=a-1 v=4
            = PreparingRebalance gen=0 until 10001
        @5 leave as=c-3
            Ok(())
            = PreparingRebalance gen=0 until 10001
        @10001 tick
            join#5 a-1 gen=1 range leader=a-1 [\"a-1:t\"]
            = CompletingRebalance gen=1 until 20001
        ",
    );
}

#[test]
fn an_id_given_out_does_not_take_a_static_members_place() {
    golden(
        at_once(),
        "
        @0 join s instance=i
            join#1 s-1 gen=1 range leader=s-1 [\"s-1:t\"]
            = CompletingRebalance gen=1 until 10000
        @2 join a v=4
            join#2 MemberIdRequired(\"a-2\")
            = CompletingRebalance gen=1 until 10000
        @3 join a as=a-2 instance=i v=5
            join#3 UnknownMember
            = CompletingRebalance gen=1 until 10000
        ",
    );
}

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
fn a_client_that_gives_up_leaves_nothing() {
    golden(
        at_once(),
        "
        @0 join a v=4
            join#1 MemberIdRequired(\"a-1\")
            = Empty gen=0 until 10000
        @10000 tick
            long empty
            = Empty gen=0 until -
        ",
    );
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
    assert_eq!(group.sync(Ticket(3), sync, 3), [Effect::Synced(Ticket(3), Err(GroupError::MemberTooLarge))]);
}
