//! What groups' states cost the quorum, and what becomes of a write whose answer is lost.

use super::super::settings::{COMMITS_IN_FLIGHT_MAX, GROUPS_PER_PARTITION_MAX};
use super::tests::*;
use super::*;
use crate::ids::LeaderEpoch;
use crate::metadata::group_change::{GroupHeader, GroupWrite, RebalanceReason};
use crate::platform::clock;
use bytes::Bytes;
use futures::future::join_all;

fn settings(group_size_max: usize, initial_delay_ms: u64) -> Settings {
    let mut settings = Settings::for_tests();
    settings.rules.group_size_max = group_size_max;
    settings.rules.initial_delay_ms = initial_delay_ms;
    settings
}

fn of(group: &str, join: Join) -> Join {
    Join { group: group.into(), ..join }
}

/// A group of one, joined but not synced yet.
async fn alone(stage: &Stage, group: &str) -> SyncGroup {
    let joined = stage.groups.join(of(group, join("a", ""))).await.expect("joined");
    SyncGroup { group: group.into(), ..sync(&joined.member, 1, &[(&joined.member, "all")]) }
}

#[tokio::test]
async fn a_hundred_members_that_join_at_once_are_one_command() {
    let stage = Stage::with(settings(100, 100)).await;
    let joins = (0..100).map(|n| stage.groups.join(join(&format!("c{n}"), "")));
    let joined: Vec<Joined> = join_all(joins).await.into_iter().map(|joined| joined.expect("joined")).collect();
    assert!(joined.iter().all(|joined| joined.generation == 1));
    let syncs = joined.iter().map(|joined| {
        let is_leader = joined.member == joined.leader;
        let given = joined.members.iter().map(|member| (member.id.clone(), Bytes::from(member.id.clone())));
        let assignments = if is_leader { given.collect() } else { BTreeMap::new() };
        stage.groups.sync(SyncGroup { assignments, ..sync(&joined.member, 1, &[]) })
    });
    for (synced, joined) in join_all(syncs).await.into_iter().zip(&joined) {
        assert_eq!(synced.expect("synced").assignment, joined.member);
    }
    assert_eq!(stage.cluster.commands.lock().len(), 1);
    let stored = stage.cluster.stored("g").expect("stored");
    assert_eq!((stored.members.len(), stored.blobs.len()), (100, 1), "what all say is stored once");
    let gauges = stage.groups.gauges();
    assert_eq!((gauges.commits, gauges.commands, gauges.members, gauges.parked_joins), (1, 1, 100, 0));
    assert_eq!(gauges.by_state, BTreeMap::from([("stable", 1)]));
    assert_eq!(gauges.rebalances, BTreeMap::from([("member_joined", 1)]));
}

#[tokio::test]
async fn groups_that_commit_at_once_share_a_command() {
    let stage = Stage::new().await;
    let (one, other) = (alone(&stage, "one").await, alone(&stage, "other").await);
    let (first, second) = tokio::join!(stage.groups.sync(one), stage.groups.sync(other));
    assert_eq!((first.expect("synced").assignment, second.expect("synced").assignment), ("all".into(), "all".into()));
    let sizes: Vec<usize> = stage.cluster.commands.lock().iter().map(Vec::len).collect();
    assert_eq!(sizes, [2]);
}

#[tokio::test]
async fn a_groups_writes_follow_each_other() {
    let stage = Stage::new().await;
    let asked = alone(&stage, "g").await;
    let member = asked.member.clone();
    stage.cluster.gate.send_replace(false);
    let groups = stage.groups.clone();
    let syncing = tokio::spawn(async move { groups.sync(asked).await });
    until(|| stage.groups.gauges().commands == 1).await;
    // The assignment is under way when its only member leaves.
    assert_eq!(stage.groups.leave("g", &[leaver(&member)]), Ok(vec![Ok(())]));
    assert_eq!(syncing.await.expect("no panic"), Err(GroupError::UnknownMember));
    stage.cluster.gate.send_replace(true);
    until(|| stage.cluster.commands.lock().len() == 2).await;
    {
        let commands = stage.cluster.commands.lock();
        assert_eq!(commands[1][0].expected, commands[0][0].revision);
    }
    until(|| stage.cluster.stored("g").is_some_and(|stored| stored.members.is_empty())).await;
    assert_eq!(stage.cluster.stored("g").expect("stored").header.epoch(), 2);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_found_in_the_image() {
    let stage = Stage::new().await;
    let asked = alone(&stage, "g").await;
    *stage.cluster.loses_answer.lock() = Some(true);
    assert_eq!(stage.groups.sync(asked).await.expect("synced").assignment, "all");
    assert_eq!(stage.cluster.commands.lock().len(), 1, "it is not written again");
}

#[tokio::test]
async fn a_write_that_was_lost_is_offered_again() {
    let stage = Stage::new().await;
    let asked = alone(&stage, "g").await;
    *stage.cluster.loses_answer.lock() = Some(false);
    assert_eq!(stage.groups.sync(asked).await.expect("synced").assignment, "all", "and no member had to join again");
}

#[tokio::test]
async fn what_another_wrote_is_noticed_and_gone_on_from() {
    let mut settings = Settings::for_tests();
    settings.assignment_timeout = std::time::Duration::from_millis(200);
    let stage = Stage::with(settings).await;
    let asked = alone(&stage, "g").await;
    let member = asked.member.clone();
    stage.groups.sync(asked).await.expect("synced");
    let header = GroupHeader::Classic {
        protocol_type: "consumer".into(),
        protocol: None,
        generation: 7,
        leader: None,
        is_whole: true,
    };
    let removed = vec![member.clone()];
    let write = GroupWrite { header, put: Vec::new(), removed, blobs: Vec::new(), rebalance: None };
    stage.cluster.writes("g", Some(write));
    // The next write was computed from another state than that.
    assert_eq!(stage.groups.leave("g", &[leaver(&member)]), Ok(vec![Ok(())]));
    until(|| stage.cluster.commands.lock().len() >= 2).await;
    let epoch = |stage: &Stage| stage.cluster.stored("g").map(|stored| stored.header.epoch());
    assert_eq!(epoch(&stage), Some(7));
    let generation = async |stage: &Stage| {
        let deadline = std::time::Duration::from_secs(10);
        let joining = async {
            loop {
                // Until the write that was under way is refused, and the group loaded, everyone is told to ask again.
                let Ok(joined) = stage.join("a", "").await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let asked = sync(&joined.member, joined.generation, &[(&joined.member, "all")]);
                if stage.groups.sync(asked).await.is_ok() {
                    return (joined.generation, joined.member);
                }
            }
        };
        tokio::time::timeout(deadline, joining).await.expect("in time")
    };
    let (next, member) = generation(&stage).await;
    assert_eq!((next, epoch(&stage)), (8, Some(8)));
    // And gone altogether.
    stage.cluster.writes("g", None);
    assert_eq!(stage.groups.leave("g", &[leaver(&member)]), Ok(vec![Ok(())]));
    let (next, _) = generation(&stage).await;
    assert_eq!((next, epoch(&stage)), (1, Some(1)));
}

#[tokio::test]
async fn a_write_waits_for_a_quorum_only_so_long() {
    let mut settings = Settings::for_tests();
    settings.assignment_timeout = std::time::Duration::from_millis(200);
    let stage = Stage::with(settings).await;
    let asked = alone(&stage, "g").await;
    let member = asked.member.clone();
    // Another change comes between each time.
    let cluster = stage.cluster.clone();
    let spoiler = tokio::spawn(async move {
        loop {
            *cluster.loses_answer.lock() = Some(false);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    assert_eq!(stage.groups.sync(asked).await, Err(GroupError::NotAvailable));
    spoiler.abort();
    assert_eq!(stage.groups.heartbeat("g", &member, None, 1), Err(GroupError::RebalanceInProgress));
}

#[tokio::test]
async fn the_time_of_a_write_begins_when_it_is_sent() {
    let mut settings = Settings::for_tests();
    settings.assignment_timeout = std::time::Duration::from_millis(200);
    let stage = Stage::with(settings).await;
    let last = alone(&stage, "last").await;
    stage.cluster.gate.send_replace(false);
    let mut syncing = Vec::new();
    for n in 0..COMMITS_IN_FLIGHT_MAX {
        let (groups, asked) = (stage.groups.clone(), alone(&stage, &format!("group-{n}")).await);
        syncing.push(tokio::spawn(async move { groups.sync(asked).await }));
        until(|| stage.groups.gauges().commands == u64::try_from(n + 1).expect("small")).await;
    }
    let groups = stage.groups.clone();
    syncing.push(tokio::spawn(async move { groups.sync(last).await }));
    let timers = &stage.groups.shell.timers;
    let begun = timers.now();
    until(|| timers.now() > begun + 300).await;
    stage.cluster.gate.send_replace(true);
    for synced in join_all(syncing).await {
        assert_eq!(synced.expect("no panic").expect("synced").assignment, "all");
    }
}

#[tokio::test]
async fn the_history_outlives_coordinators() {
    let stage = Stage::new().await;
    let asked = alone(&stage, "g").await;
    let first = asked.member.clone();
    stage.groups.sync(asked).await.expect("synced");
    stage.lead(LeaderEpoch(6)).await;
    let groups = stage.groups.clone();
    let why = Some("scaled up".to_string());
    let second = tokio::spawn(async move { groups.join(Join { reason: why, ..join("b", "") }).await });
    until(|| stage.groups.heartbeat("g", &first, None, 1) == Err(GroupError::RebalanceInProgress)).await;
    stage.join("a", &first).await.expect("joined");
    let second = second.await.expect("no panic").expect("joined").member;
    stage.groups.sync(sync(&first, 2, &[(&first, "p0"), (&second, "p1")])).await.expect("synced");
    stage.lead(LeaderEpoch(7)).await;
    let told: Vec<_> = stage.groups.history("g").into_iter().map(|r| (r.epoch, r.members, r.reason, r.said)).collect();
    let joined = RebalanceReason::MemberJoined;
    assert_eq!(told, [(1, 1, joined(first), None), (2, 2, joined(second), Some("scaled up".into()))]);
    assert!(stage.groups.history("g").iter().all(|rebalance| rebalance.at_ms > 0));
}

#[tokio::test]
async fn a_group_of_five_thousand_takes_several_commands_and_is_whole() {
    const MEMBERS: usize = 5_000;
    let stage = Stage::with(settings(MEMBERS, 300)).await;
    let begun = clock::now();
    let joins = (0..MEMBERS).map(|n| stage.groups.join(join(&format!("c{n}"), "")));
    let joined: Vec<Joined> = join_all(joins).await.into_iter().map(|joined| joined.expect("joined")).collect();
    println!("{MEMBERS} members joined after {:?}", clock::now() - begun);
    let leader = joined.iter().find(|joined| joined.member == joined.leader).expect("one leads");
    assert_eq!(leader.members.len(), MEMBERS);
    assert_eq!(stage.join("late", "").await, Err(GroupError::GroupFull));
    let assignments = leader.members.iter().map(|member| (member.id.clone(), Bytes::from(vec![7; 300]))).collect();
    let begun = clock::now();
    let asked = SyncGroup { assignments, ..sync(&leader.member, 1, &[]) };
    let followers = joined.iter().filter(|joined| joined.member != joined.leader);
    let syncs = followers.map(|joined| stage.groups.sync(sync(&joined.member, 1, &[])));
    let (synced, followers) = tokio::join!(stage.groups.sync(asked), join_all(syncs));
    assert_eq!(synced.expect("synced").assignment.len(), 300);
    assert!(followers.into_iter().all(|synced| synced.expect("synced").assignment.len() == 300));
    println!("their assignment was committed after {:?}", clock::now() - begun);
    let stored = stage.cluster.stored("g").expect("stored");
    assert_eq!((stored.members.len(), stored.blobs.len(), stored.header.is_whole()), (MEMBERS, 1, true));
    let changes: usize = stage.cluster.commands.lock().iter().map(Vec::len).sum();
    assert!(changes > 5, "{changes}");
    // A new coordinator has them all.
    stage.lead(LeaderEpoch(6)).await;
    assert_eq!(stage.groups.describe("g").expect("there").members.len(), MEMBERS);
    let begun = clock::now();
    for joined in &joined {
        assert_eq!(stage.groups.heartbeat("g", &joined.member, None, 1), Ok(()));
    }
    println!("{MEMBERS} heartbeats took {:?}", clock::now() - begun);
}

#[tokio::test]
async fn ten_thousand_groups_are_bounded() {
    let stage = Stage::new().await;
    let begun = clock::now();
    let names: Vec<String> = (0..GROUPS_PER_PARTITION_MAX).map(|n| format!("group-{n}")).collect();
    let alone = |name: &String| {
        let (name, stage) = (name.clone(), &stage);
        async move {
            let asked = alone(stage, &name).await;
            stage.groups.sync(asked).await.expect("synced")
        }
    };
    join_all(names.iter().map(alone)).await;
    let commands = stage.cluster.commands.lock().len();
    println!("{} groups were committed after {:?}, in {commands} commands", names.len(), clock::now() - begun);
    assert!(commands < names.len() / 10, "{commands}");
    assert_eq!(stage.groups.list().groups.len(), names.len());
    let one_more = stage.groups.join(of("one more", join("a", ""))).await;
    assert_eq!(one_more, Err(GroupError::NotAvailable));
    let held = stage.groups.gauges().bytes;
    assert!(held < 10_000_000, "{held}");
    let begun = clock::now();
    stage.lead(LeaderEpoch(6)).await;
    println!("a new coordinator had them after {:?}", clock::now() - begun);
    until(|| stage.groups.gauges().bytes == held).await;
}
