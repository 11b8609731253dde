//! For each finding the smallest history that shows it, and histories that must be accepted.

use super::checker::{End, Finding, check};
use super::history::{History, Line, Told};

fn told(name: &str, lines: &[&str]) -> Told {
    let parse = |line: &&str| Line::parse(line).unwrap_or_else(|| panic!("no member prints {line:?}"));
    Told { name: name.to_string(), lines: lines.iter().map(parse).collect(), killed: None }
}

fn history(members: Vec<Told>) -> History {
    History { members, acked: [((0, 0), 10), ((0, 1), 11)].into() }
}

fn findings(members: Vec<Told>) -> Vec<Finding> {
    check(&history(members)).findings
}

const ALL: [&str; 3] = ["assigned 100 1 0", "record 0 0 10", "record 0 1 11"];

#[test]
fn a_partition_handed_over_in_order_is_accepted() {
    let first =
        told("a", &["assigned 100 1 0", "record 0 0 10", "committing 110 0 1", "committed 120 0 1", "revoked 130 1 0"]);
    let second =
        told("b", &["assigned 170 2 0", "record 0 1 11", "committing 180 0 2", "committed 185 0 2", "left 190"]);
    let report = check(&history(vec![first, second]));
    assert_eq!(report.findings, []);
    assert_eq!(report.longest_without_owner[&0], 40);
    assert_eq!((report.repeated, report.commits_refused, report.ended(End::Revoked)), (0, 0, 2));
}

#[test]
fn a_killed_members_time_ends_and_what_it_had_not_committed_is_processed_again() {
    let mut first = told("a", &[ALL[0], ALL[1], ALL[2]]);
    first.killed = Some(150);
    let second = told("b", &["assigned 6000 2 0", "record 0 0 10", "record 0 1 11"]);
    let report = check(&history(vec![first, second]));
    assert_eq!(report.findings, []);
    assert_eq!((report.repeated, report.longest_without_owner[&0]), (2, 5850));
}

#[test]
fn a_commit_whose_answer_was_lost_may_count_or_not() {
    let first = told("a", &[ALL[0], ALL[1], "committing 110 0 1", "lost 400 1 0"]);
    for begun in [&["assigned 200 2 0", "record 0 1 11"][..], &["assigned 200 2 0", "record 0 0 10", "record 0 1 11"]] {
        let report = check(&history(vec![first.clone(), told("b", begun)]));
        assert_eq!(report.findings, [], "{begun:?}");
        assert_eq!(report.commits_refused, 1);
    }
}

#[test]
fn a_record_nobody_processed_is_found() {
    assert_eq!(findings(vec![told("a", &ALL[..2])]), [Finding::NotProcessed { partition: 0, offset: 1 }]);
}

#[test]
fn another_value_is_found() {
    let found = findings(vec![told("a", &[ALL[0], ALL[1], "record 0 1 12"])]);
    assert_eq!(found, [Finding::OtherValue { partition: 0, offset: 1, value: 12 }]);
}

#[test]
fn two_owners_at_one_time_are_found_also_where_one_never_ends() {
    for last in ["revoked 300 1 0", "note 300 nothing"] {
        let first = told("a", &[ALL[0], ALL[1], ALL[2], last]);
        let found = findings(vec![first, told("b", &["assigned 200 2 0"])]);
        assert_eq!(found, [Finding::TwoOwners { partition: 0, members: ["a".into(), "b".into()], at: 200 }], "{last}");
    }
}

#[test]
fn an_assignment_told_late_and_lost_at_once_does_no_harm_unless_something_was_processed() {
    let first = told("a", &[ALL[0], ALL[1], ALL[2], "revoked 300 3 0"]);
    let late = told("b", &["assigned 200 - 0", "lost 200 - 0"]);
    assert_eq!(findings(vec![first.clone(), late]), []);
    let harm = told("b", &["assigned 200 - 0", ALL[1], "lost 200 - 0"]);
    let found = Finding::TwoOwners { partition: 0, members: ["a".into(), "b".into()], at: 200 };
    assert_eq!(findings(vec![first, harm]), [found]);
}

#[test]
fn a_member_killed_later_was_an_owner_until_then() {
    let mut first = told("a", &ALL);
    first.killed = Some(500);
    let found = findings(vec![first, told("b", &["assigned 200 2 0"])]);
    assert_eq!(found, [Finding::TwoOwners { partition: 0, members: ["a".into(), "b".into()], at: 200 }]);
}

#[test]
fn two_owners_in_one_generation_are_found_even_of_a_member_that_was_expelled() {
    let first = told("a", &[ALL[0], ALL[1], ALL[2], "lost 300 -1 0"]);
    let found = findings(vec![first, told("b", &["assigned 200 1 0"])]);
    let members = ["a".to_string(), "b".to_string()];
    assert_eq!(found, [Finding::TwoOwnersOfGeneration { partition: 0, generation: 1, members }]);
}

#[test]
fn a_partition_kept_through_a_rebalance_is_owned_in_the_new_generation_too() {
    let first = told("a", &[ALL[0], ALL[1], ALL[2], "assigned 200 3 1", "revoked 300 3 0"]);
    let found = findings(vec![first, told("b", &["assigned 300 2 0"])]);
    let members = ["a".to_string(), "b".to_string()];
    assert_eq!(found, [Finding::TwoOwnersOfGeneration { partition: 0, generation: 2, members }]);
}

#[test]
fn a_position_before_an_answered_commit_is_found() {
    let first = told(
        "a",
        &[
            ALL[0],
            ALL[1],
            ALL[2],
            "committing 110 0 1",
            "committed 115 0 1",
            "committing 120 0 2",
            "committed 130 0 2",
            "revoked 140 1 0",
        ],
    );
    for (began, line) in [(1, "record 0 1 11"), (0, "record 0 0 10")] {
        let found = findings(vec![first.clone(), told("b", &["assigned 200 2 0", line])]);
        let expected = Finding::WentBack { partition: 0, member: "b".into(), began, committed: 2 };
        assert_eq!(found, [expected]);
    }
}

#[test]
fn a_position_where_nobody_committed_is_found() {
    let first = told("a", &[ALL[0], ALL[1], "revoked 140 1 0"]);
    let found = findings(vec![first, told("b", &["assigned 200 2 0", "record 0 1 11"])]);
    assert_eq!(found, [Finding::Jumped { partition: 0, member: "b".into(), began: 1 }]);
}

#[test]
fn a_member_may_go_on_where_it_was_but_not_past_another_that_came_between() {
    let kept = [ALL[0], ALL[1], "revoked 140 1 0", "assigned 200 2 0", ALL[2]];
    assert_eq!(findings(vec![told("a", &kept)]), []);
    let between = told("b", &["assigned 150 1 0", ALL[1], "revoked 160 1 0"]);
    let jumped = Finding::Jumped { partition: 0, member: "a".into(), began: 1 };
    let kept =
        [ALL[0], ALL[1], "revoked 140 0 0", "assigned 200 2 0", ALL[2]].map(|line| line.replace("100 1", "100 0"));
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    assert_eq!(findings(vec![told("a", &kept), between]), [jumped]);
}

#[test]
fn records_that_do_not_follow_one_another_are_found() {
    let lines = [ALL[0], ALL[1], ALL[2], "record 0 3 13", "record 0 3 13"];
    let gap = |after, offset| Finding::Gap { partition: 0, member: "a".into(), after, offset };
    assert_eq!(findings(vec![told("a", &lines)]), [gap(1, 3), gap(3, 3)]);
}

#[test]
fn processing_without_owning_is_found() {
    let found = findings(vec![told("a", &[ALL[0], ALL[1], ALL[2], "revoked 200 1 0", "record 0 2 12"])]);
    assert_eq!(found, [Finding::NotOwned { partition: 0, member: "a".into(), offset: 2 }]);
}

#[test]
fn being_assigned_a_partition_twice_is_found() {
    let found = findings(vec![told("a", &[ALL[0], ALL[1], ALL[2], "assigned 200 2 0"])]);
    assert_eq!(found, [Finding::AssignedTwice { partition: 0, member: "a".into() }]);
}

#[test]
fn a_commit_above_what_was_processed_is_found() {
    let found = findings(vec![told("a", &[ALL[0], ALL[1], ALL[2], "committing 200 0 3"])]);
    assert_eq!(found, [Finding::CommittedAhead { partition: 0, member: "a".into(), offset: 3 }]);
}

#[test]
fn torn_and_foreign_lines_are_no_lines() {
    for line in ["", "record", "record 0 1", "assigned 5 1", "assigned x 1 0", "committed 5 0", "hello 1 2 3"] {
        assert_eq!(Line::parse(line), None, "{line:?}");
    }
    assert_eq!(
        Line::parse("assigned 5 - 0,11"),
        Some(Line::Assigned { at: 5, generation: None, partitions: vec![0, 11] })
    );
}
