//! For each anomaly the smallest history that has it; each differs from the clean one in one thing.

use super::{Anomaly, Kind, Verdict, check};
use crate::history::{Commit, End, Hang, History, Outcome, Ownership, PlaceName, Promise, Read, Reader, Send, Value};

const IDEMPOTENT: u16 = 0;
const RETRYING: u16 = 1;
const ACKS_ONE: u16 = 2;

fn read(offset: i64, value: Value) -> Read {
    Read { place: 0, offset, value: Some(value), at_ms: 0 }
}

fn send(value: Value, outcome: Outcome) -> Send {
    Send { value, place: 0, sent_ms: 0, done_ms: u32::from(outcome != Outcome::Unknown), outcome }
}

fn commit(member: usize, offset: i64, asked_ms: u32, done_ms: Option<u32>) -> Commit {
    Commit { member, place: 0, offset, asked_ms, done_ms }
}

fn owned(member: usize, from_ms: u32, until_ms: u32, end: End, began: i64) -> Ownership {
    Ownership { member, place: 0, from_ms, until_ms, end, began: Some(began) }
}

fn v(producer: u16, sequence: u64) -> Value {
    Value::new(producer, sequence)
}

/// One partition: p0 sent three, the second's outcome is unknown (it is there), and one of p1 and p2 each.
fn clean() -> History {
    let log = [v(0, 0), v(0, 1), v(0, 2), v(1, 0), v(2, 0)];
    let reads: Vec<Read> = (0..).zip(log).map(|(offset, value)| read(offset, value)).collect();
    let promise = |name, once, kept| Promise { name, once, kept };
    let reader = |name: &str| Reader { name: name.into(), reads: reads.clone(), resets: vec![] };
    History {
        places: vec![PlaceName { topic: "t".into(), partition: 0, page_cache: false }],
        promises: vec![promise("idempotent", true, true), promise("all", false, true), promise("one", false, false)],
        sends: vec![
            send(v(IDEMPOTENT, 0), Outcome::Acked(0)),
            send(v(IDEMPOTENT, 1), Outcome::Unknown),
            send(v(IDEMPOTENT, 2), Outcome::Acked(2)),
            send(v(IDEMPOTENT, 3), Outcome::Failed),
            send(v(RETRYING, 0), Outcome::Acked(3)),
            send(v(ACKS_ONE, 0), Outcome::Acked(4)),
        ],
        readers: vec![reader("r0")],
        members: vec![reader("m0")],
        commits: vec![commit(0, 2, 4, Some(5)), commit(0, 4, 8, Some(9))],
        ownerships: vec![owned(0, 1, 20, End::Open, 0)],
        hangs: vec![],
        committed: [(0, 5)].into(),
        last: reader("last"),
        high_watermarks: [(0, 5)].into(),
    }
}

fn kinds(history: &History) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = check(history).anomalies.iter().map(|anomaly| anomaly.kind).collect();
    kinds.dedup();
    kinds
}

fn replace(reads: &mut [Read], offset: i64, value: Value) {
    reads.iter_mut().find(|read| read.offset == offset).unwrap().value = Some(value);
}

#[test]
fn a_clean_history_passes_and_is_counted() {
    let verdict = check(&clean());
    assert_eq!(verdict.anomalies, []);
    let counts = verdict.counts;
    assert_eq!((counts.acked, counts.unknown, counts.failed, counts.unknown_kept), (4, 1, 1, 1));
    assert_eq!((counts.read, counts.retried_twice, counts.acks_one_lost), (10, 0, 0));
}

#[test]
fn an_acked_write_that_another_took_the_place_of_is_lost() {
    let mut history = clean();
    history.sends.push(send(v(RETRYING, 1), Outcome::Unknown));
    for reads in [&mut history.last.reads, &mut history.readers[0].reads, &mut history.members[0].reads] {
        replace(reads, 0, v(RETRYING, 1));
    }
    assert_eq!(kinds(&history), [Kind::LostWrite]);
}

#[test]
fn an_acked_write_beyond_the_end_is_unseen() {
    let mut history = clean();
    history.sends.push(send(v(RETRYING, 1), Outcome::Acked(5)));
    assert_eq!(kinds(&history), [Kind::UnseenWrite]);
}

#[test]
fn acks_one_may_lose() {
    let mut history = clean();
    history.sends.push(send(v(ACKS_ONE, 1), Outcome::Acked(5)));
    let verdict = check(&history);
    assert_eq!((verdict.anomalies.len(), verdict.counts.acks_one_lost), (0, 1));
}

#[test]
fn a_page_cache_topic_may_lose_to_a_power_cut_of_all_and_to_nothing_else() {
    let mut history = clean();
    history.places[0].page_cache = true;
    history.sends.push(send(v(IDEMPOTENT, 4), Outcome::Acked(5)));
    assert_eq!(kinds(&history), [Kind::UnseenWrite]);
    history.forget_page_cache();
    (history.last, history.high_watermarks) = (Reader::default(), [].into());
    assert_eq!(kinds(&history), []);
}

fn append_everywhere(history: &mut History, offset: i64, value: Value) {
    for reads in [&mut history.last.reads, &mut history.readers[0].reads, &mut history.members[0].reads] {
        reads.push(read(offset, value));
    }
    history.high_watermarks.insert(0, offset + 1);
}

#[test]
fn a_value_twice_is_a_duplicate_only_where_once_is_promised() {
    let mut history = clean();
    append_everywhere(&mut history, 5, v(RETRYING, 0));
    assert_eq!((kinds(&history), check(&history).counts.retried_twice), (vec![], 1));
    append_everywhere(&mut history, 6, v(IDEMPOTENT, 1));
    assert_eq!(kinds(&history), [Kind::Duplicate]);
}

#[test]
fn an_ack_that_names_another_offset_is_inconsistent() {
    let mut history = clean();
    history.sends[4].outcome = Outcome::Acked(2);
    assert_eq!(kinds(&history), [Kind::InconsistentOffset]);
}

#[test]
fn two_values_at_one_offset_are_inconsistent() {
    let mut history = clean();
    replace(&mut history.readers[0].reads, 3, v(ACKS_ONE, 0));
    assert_eq!(kinds(&history), [Kind::InconsistentOffset]);
}

#[test]
fn two_readers_that_differ_are_inconsistent_even_above_the_end() {
    let mut history = clean();
    history.sends.push(send(v(IDEMPOTENT, 7), Outcome::Unknown));
    history.sends.push(send(v(IDEMPOTENT, 8), Outcome::Unknown));
    history.readers[0].reads.push(read(5, v(IDEMPOTENT, 7)));
    history.members[0].reads.push(read(5, v(IDEMPOTENT, 8)));
    history.high_watermarks.clear();
    assert_eq!(kinds(&history), [Kind::InconsistentOffset]);
}

#[test]
fn what_is_read_above_the_final_high_watermark_was_read_too_early() {
    let mut history = clean();
    history.sends.push(send(v(IDEMPOTENT, 7), Outcome::Unknown));
    history.readers[0].reads.push(read(5, v(IDEMPOTENT, 7)));
    assert_eq!(kinds(&history), [Kind::AboveHighWatermark]);
}

#[test]
fn a_reader_that_goes_back_or_jumps_is_seen() {
    let mut history = clean();
    history.readers[0].reads.swap(1, 2);
    assert_eq!(kinds(&history), [Kind::NonMonotonicPoll, Kind::SkippedPoll]);
    let mut history = clean();
    history.readers[0].reads.remove(2);
    assert_eq!(kinds(&history), [Kind::SkippedPoll]);
    let mut history = clean();
    let again = history.readers[0].reads[4];
    history.readers[0].reads.push(again);
    assert_eq!(kinds(&history), [Kind::NonMonotonicPoll]);
}

#[test]
fn acked_values_out_of_order_are_seen() {
    let mut history = clean();
    for reads in [&mut history.last.reads, &mut history.readers[0].reads, &mut history.members[0].reads] {
        replace(reads, 0, v(IDEMPOTENT, 2));
        replace(reads, 2, v(IDEMPOTENT, 0));
    }
    history.sends[0].outcome = Outcome::Acked(2);
    history.sends[2].outcome = Outcome::Acked(0);
    assert_eq!(kinds(&history), [Kind::NonMonotonicSend]);
    // Of unknown outcome: its request may have been late.
    (history.sends[0].outcome, history.sends[0].done_ms) = (Outcome::Unknown, 0);
    assert_eq!(kinds(&history), []);
}

#[test]
fn without_idempotence_only_what_was_acked_before_must_stand_before() {
    let mut history = clean();
    for (offset, sequence) in [(5, 2), (6, 1)] {
        history.sends.push(send(v(RETRYING, sequence), Outcome::Acked(offset)));
        append_everywhere(&mut history, offset, v(RETRYING, sequence));
    }
    assert_eq!(kinds(&history), [], "they were under way together");
    history.sends[6].sent_ms = 9;
    assert_eq!(kinds(&history), [Kind::NonMonotonicSend], "the later was sent after the earlier's ack");
}

#[test]
fn a_patient_idempotent_producer_that_is_given_an_error_is_told() {
    let mut history = clean();
    history.sends[1].done_ms = 4;
    assert_eq!(kinds(&history), [Kind::ProducerFailed]);
}

#[test]
fn what_nobody_sent_is_a_phantom() {
    let mut history = clean();
    append_everywhere(&mut history, 5, v(IDEMPOTENT, 77));
    assert_eq!(kinds(&history), [Kind::Phantom]);
    let mut history = clean();
    append_everywhere(&mut history, 5, v(IDEMPOTENT, 3));
    assert_eq!(kinds(&history), [Kind::Phantom], "it never left the client");
}

#[test]
fn bytes_that_nobody_sent_are_corrupt() {
    let mut history = clean();
    history.readers[0].reads[3].value = None;
    assert_eq!(kinds(&history), [Kind::Corrupt]);
}

#[test]
fn a_reader_whose_position_is_gone_is_told() {
    let mut history = clean();
    history.readers[0].resets.push((7, "t-0: offset out of range".into()));
    assert_eq!(kinds(&history), [Kind::PositionLost]);
}

#[test]
fn a_hole_in_the_last_read_is_unreadable() {
    let mut history = clean();
    history.last.reads.remove(1);
    assert_eq!(kinds(&history), [Kind::Unreadable], "a hole");
    let mut history = clean();
    history.high_watermarks.insert(0, 6);
    assert_eq!(kinds(&history), [Kind::Unreadable], "a missing end");
}

#[test]
fn a_commit_that_went_back_is_lost() {
    let mut history = clean();
    history.committed.insert(0, 3);
    assert_eq!(kinds(&history), [Kind::CommitLost]);
    history.committed.clear();
    assert_eq!(kinds(&history), [Kind::CommitLost]);
}

#[test]
fn a_commit_above_what_the_members_read_skips_records() {
    let mut history = clean();
    history.members[0].reads.remove(2);
    assert_eq!(kinds(&history), [Kind::CommitUnread]);
    let rest = Reader { name: "m1".into(), reads: vec![history.last.reads[2]], resets: vec![] };
    history.members.push(rest);
    assert_eq!(kinds(&history), [], "another member read it");
}

/// The second member takes the partition over from the first, which was revoked at 10.
fn handed_over() -> History {
    let mut history = clean();
    history.members.push(Reader { name: "m1".into(), reads: vec![history.last.reads[4]], resets: vec![] });
    history.ownerships = vec![owned(0, 1, 10, End::Revoked, 0), owned(1, 12, 30, End::Open, 4)];
    history
}

#[test]
fn a_partition_may_be_handed_over_and_is_never_owned_twice() {
    let mut history = handed_over();
    assert_eq!(kinds(&history), []);
    history.ownerships[0].until_ms = 13;
    assert_eq!(kinds(&history), [Kind::TwoOwners]);
    history.ownerships[0].end = End::Lost;
    assert_eq!(kinds(&history), [], "it was expelled, and is told so only later");
    history.ownerships[0].end = End::Revoked;
    history.ownerships[1].end = End::Lost;
    assert_eq!(kinds(&history), [Kind::TwoOwners], "it read before it was told");
    history.ownerships[1].began = None;
    assert_eq!(kinds(&history), [], "it was told of both late, and did nothing in between");
}

#[test]
fn a_new_owner_that_begins_before_an_answered_commit_goes_back() {
    let mut history = handed_over();
    history.ownerships[1].began = Some(3);
    assert_eq!(kinds(&history), [Kind::WentBack]);
    history.commits[1].done_ms = Some(15);
    assert_eq!(kinds(&history), [], "not answered before it was given the partition");
}

#[test]
fn a_commit_taken_from_a_member_that_was_expelled_is_a_zombies() {
    let mut history = handed_over();
    history.ownerships[0] = owned(0, 1, 25, End::Lost, 0);
    history.commits.push(commit(0, 4, 20, None));
    assert_eq!(kinds(&history), [], "it was refused");
    history.commits[2].done_ms = Some(21);
    assert_eq!(kinds(&history), [Kind::ZombieCommit]);
    // The new owner's own, while the old one does not know yet.
    history.commits[2].member = 1;
    assert_eq!(kinds(&history), []);
}

#[test]
fn a_member_that_hangs_loses_its_partitions_to_another_while_it_hangs() {
    let mut history = handed_over();
    history.ownerships = vec![owned(0, 1, 30_000, End::Lost, 0), owned(1, 9_000, 60_000, End::Open, 4)];
    history.hangs = vec![Hang { member: 0, is_meant: true, from_ms: 2_000, until_ms: 22_000 }];
    assert_eq!(kinds(&history), []);
    history.ownerships[1].from_ms = 31_000;
    assert_eq!(kinds(&history), [Kind::HungOwner]);
    history.hangs[0].until_ms = 9_000;
    assert_eq!(kinds(&history), [], "it did not hang for long");
    history.hangs[0] = Hang { is_meant: false, until_ms: 22_000, ..history.hangs[0] };
    assert_eq!(kinds(&history), [], "nobody answered it, or the others");
}

#[test]
fn a_member_that_hangs_through_a_rebalance_is_out_before_it_is_told() {
    let mut history = handed_over();
    let after_hang =
        |end_ms, given_ms| vec![owned(0, 1, end_ms, End::Revoked, 0), owned(1, given_ms, 60_000, End::Open, 4)];
    history.hangs = vec![Hang { member: 0, is_meant: true, from_ms: 2_000, until_ms: 22_000 }];
    history.ownerships = after_hang(22_100, 9_000);
    assert_eq!(kinds(&history), []);
    history.ownerships = after_hang(22_100, 6_900);
    assert_eq!(kinds(&history), [Kind::TwoOwners], "it could still have polled in time");
    history.ownerships = after_hang(40_000, 9_000);
    assert_eq!(kinds(&history), [Kind::TwoOwners], "it went on with it after it hung");
    history.ownerships = after_hang(34_000, 28_000);
    let found = kinds(&history);
    assert_eq!(found, [Kind::TwoOwners, Kind::HungOwner], "it polled again when another was given it");
    history.ownerships = after_hang(22_100, 9_000);
    history.hangs[0].member = 1;
    assert_eq!(kinds(&history), [Kind::TwoOwners], "another hung");
}

#[test]
fn what_a_member_is_told_after_it_hung_may_be_over() {
    let mut history = handed_over();
    history.hangs = vec![Hang { member: 0, is_meant: true, from_ms: 2_000, until_ms: 22_000 }];
    history.ownerships = vec![owned(1, 1_900, 60_000, End::Revoked, 4), owned(0, 22_050, 22_600, End::Lost, 4)];
    history.commits.push(commit(1, 5, 22_300, Some(22_310)));
    assert_eq!(kinds(&history), [], "given while it hung, and lost with its first commit");
    history.ownerships[1].until_ms = 40_000;
    assert_eq!(kinds(&history), [Kind::TwoOwners, Kind::ZombieCommit], "it read for long");
    history.commits.pop();
    history.ownerships[1].from_ms = 30_000;
    history.ownerships[1].until_ms = 31_000;
    assert_eq!(kinds(&history), [Kind::TwoOwners], "given long after");
    history.ownerships[1] = owned(0, 22_050, 22_600, End::Revoked, 4);
    assert_eq!(kinds(&history), [Kind::TwoOwners], "it had it");
}

#[test]
fn a_bug_is_caught_by_the_data_alone() {
    let of = |kinds: &[Kind]| Verdict {
        anomalies: kinds.iter().map(|kind| Anomaly::new(*kind, "")).collect(),
        ..Verdict::default()
    };
    assert!(of(&[]).is_as_expected(false) && !of(&[]).is_as_expected(true));
    let slow = of(&[Kind::TooSlow, Kind::NodeEnded]);
    assert!(!slow.is_as_expected(false) && !slow.is_as_expected(true), "a busy machine shows them, too");
    let lost = of(&[Kind::LostWrite, Kind::TooSlow]);
    assert!(!lost.is_as_expected(false) && lost.is_as_expected(true));
}
