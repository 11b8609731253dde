use super::super::fetch_session::wish;
use super::*;
use crate::kafka::handlers::metadata::testing::ORDERS;
use crate::log::partition_log::Chunk;
use bytes::Bytes;

const KEY: TopicKey = TopicKey::Id(ORDERS);
const CONSUMER: Rules =
    Rules { min_bytes: 1, max_bytes: 1_000, is_follower: false, read_committed: false, is_incremental: true };
const FOLLOWER: Rules = Rules { is_follower: true, ..CONSUMER };

fn outcome(bytes: usize, high_watermark: i64) -> ReadOutcome {
    ReadOutcome {
        chunk: Chunk { bytes: Bytes::from(vec![0; bytes]) },
        high_watermark: Offset(high_watermark),
        last_stable: Offset(high_watermark),
        log_start: Offset(0),
        diverging: None,
        preferred: None,
        held_until: None,
    }
}

fn session(partitions: i32) -> Session {
    let mut session = Session::default();
    for partition in 0..partitions {
        session.put(KEY, partition, wish(10));
    }
    session
}

/// A source of batches of 100 bytes, so many a partition.
fn batches(counts: &[usize]) -> impl FnMut(u32, &mut Entry, Limit) -> Outcome + use<> {
    let counts = counts.to_vec();
    move |_, entry, limit| {
        let fitting = limit.max_bytes / 100;
        let count = if limit.at_least_one { fitting.max(1) } else { fitting };
        Ok(outcome(count.min(counts[entry.partition as usize]) * 100, 20))
    }
}

fn partitions(answered: &[Answered]) -> Vec<(i32, usize)> {
    answered.iter().map(|one| (one.partition, size(&one.outcome))).collect()
}

#[test]
fn limits_hold_but_the_first_batch_goes_out_whatever_its_size() {
    let mut session = session(4);
    let tokens = session.hot();
    let mut round = Round::new(Rules { max_bytes: 250, ..CONSUMER });
    round.read(&mut session, &tokens, batches(&[0, 2, 2, 1]));
    assert_eq!(round.bytes(), 200);
    assert_eq!(partitions(&round.finish(&mut session)), [(0, 0), (1, 200), (2, 0), (3, 0)]);

    let mut round = Round::new(Rules { max_bytes: 10, is_incremental: false, ..CONSUMER });
    round.read(&mut session, &tokens, batches(&[0, 1, 1, 1]));
    assert_eq!(round.bytes(), 100, "one whole batch above max_bytes, and only one");
}

#[test]
fn a_busy_partition_stands_behind_the_others_next_time() {
    let mut session = session(2);
    for expected in [0, 1, 0] {
        let tokens = session.hot();
        let mut round = Round::new(Rules { max_bytes: 100, ..CONSUMER });
        round.read(&mut session, &tokens, batches(&[9, 9]));
        assert_eq!(partitions(&round.finish(&mut session)), [(expected, 100)]);
    }
}

#[test]
fn min_bytes_errors_and_divergence_end_the_wait() {
    let mut session = session(2);
    let tokens = session.hot();
    let mut round = Round::new(Rules { min_bytes: 300, ..CONSUMER });
    round.read(&mut session, &tokens, batches(&[1, 1]));
    assert!(!round.is_enough(&session));
    round.read(&mut session, &tokens[..1], batches(&[2, 0]));
    assert_eq!(round.bytes(), 300, "read again, it replaces what was read before");
    assert!(round.is_enough(&session));

    let mut round = Round::new(CONSUMER);
    let code = Code::NotLeaderOrFollower;
    let failure = Failure { code, id: None, hint: None, log_start: Offset(-1) };
    round.read(&mut session, &tokens[..1], |_, _, _| Err(failure.clone()));
    assert!(round.is_enough(&session));

    let mut round = Round::new(CONSUMER);
    let diverging = ReadOutcome { diverging: Some((LeaderEpoch(1), Offset(5))), ..outcome(0, 20) };
    round.read(&mut session, &tokens[..1], |_, _, _| Ok(diverging.clone()));
    assert!(round.is_enough(&session));

    assert!(Round::new(CONSUMER).is_enough(&Session::default()), "nothing to wait for");
    assert!(!Round::new(CONSUMER).is_enough(&session));
    assert!(Round::new(Rules { min_bytes: 0, ..CONSUMER }).is_enough(&session));
    assert!(!Round::new(Rules { min_bytes: 9_000, ..CONSUMER }).is_enough(&session));
}

#[test]
fn a_moved_high_watermark_concerns_followers_at_once_and_consumers_with_their_next_answer() {
    let mut session = session(1);
    let tokens = session.hot();
    for (rules, high_watermark, enough, told) in [
        (FOLLOWER, 20, true, 1),
        (FOLLOWER, 20, false, 0),
        (FOLLOWER, 21, true, 1),
        (CONSUMER, 22, false, 1),
        (CONSUMER, 22, false, 0),
    ] {
        let mut round = Round::new(rules);
        round.read(&mut session, &tokens, |_, _, _| Ok(outcome(0, high_watermark)));
        assert_eq!(round.is_enough(&session), enough);
        assert_eq!(round.finish(&mut session).len(), told);
    }
}

#[test]
fn a_full_answer_names_every_partition() {
    let mut session = session(3);
    let tokens = session.hot();
    for _ in 0..2 {
        let mut round = Round::new(Rules { is_incremental: false, ..CONSUMER });
        round.read(&mut session, &tokens, batches(&[0, 0, 1]));
        assert_eq!(partitions(&round.finish(&mut session)), [(0, 0), (1, 0), (2, 100)]);
    }
}

#[test]
fn only_a_partition_proven_empty_rests() {
    let mut session = session(3);
    let tokens = session.hot();
    // 0 is at its end (read first); 1 has data; 2 has a batch that does not fit beside it.
    let mut round = Round::new(Rules { max_bytes: 150, ..FOLLOWER });
    round.read(&mut session, &tokens, batches(&[0, 1, 1]));
    round.finish(&mut session);
    assert_eq!(session.hot(), [tokens[2], tokens[1]]);

    // A consumer that stands at the high watermark needs no further proof.
    session.put(KEY, 2, wish(20));
    let hot = session.hot();
    let mut round = Round::new(Rules { max_bytes: 150, ..CONSUMER });
    round.read(&mut session, &[hot[1], hot[0]], batches(&[0, 1, 0]));
    round.finish(&mut session);
    assert_eq!(session.hot(), [tokens[1]]);

    let failure = Failure { code: Code::NotLeaderOrFollower, id: None, hint: None, log_start: Offset(-1) };
    let mut round = Round::new(CONSUMER);
    round.read(&mut session, &tokens[1..2], |_, _, _| Err(failure.clone()));
    assert_eq!(round.finish(&mut session).len(), 1);
    assert_eq!(session.hot(), [tokens[1]], "an error is asked about again");
    let mut round = Round::new(CONSUMER);
    round.read(&mut session, &tokens[1..2], batches(&[0, 0, 0]));
    assert_eq!(round.finish(&mut session).len(), 1, "that it is over is told");
}

#[test]
fn a_nearer_replica_is_named_at_once_and_again() {
    let mut session = session(1);
    let tokens = session.hot();
    for _ in 0..2 {
        let mut round = Round::new(Rules { min_bytes: 1_000, ..CONSUMER });
        round.read(&mut session, &tokens, |_, _, _| Ok(ReadOutcome { preferred: Some(BrokerId(2)), ..outcome(0, 20) }));
        assert!(round.is_enough(&session), "nothing to wait for here");
        let answered = round.finish(&mut session);
        assert_eq!(answered.len(), 1, "a session does not leave it out as unchanged");
        assert_eq!(session.hot(), tokens, "and looks again, should the other replica fall out of sync");
    }
}

/// It has records that are not sent yet: no mark will say so again.
#[test]
fn what_is_held_back_is_looked_at_again_at_its_time() {
    let mut session = session(2);
    let tokens = session.hot();
    let until = crate::platform::clock::now() + std::time::Duration::from_millis(70);
    let mut round = Round::new(FOLLOWER);
    let held = |token: u32| (token == tokens[0]).then_some(until);
    round.read(&mut session, &tokens, |token, _, _| Ok(ReadOutcome { held_until: held(token), ..outcome(0, 20) }));
    assert_eq!(round.held_until(), Some(until));
    round.finish(&mut session);
    assert!(session.hot().contains(&tokens[0]), "it must not rest");
    let mut round = Round::new(FOLLOWER);
    round.read(&mut session, &tokens, |_, _, _| Ok(outcome(0, 20)));
    assert_eq!(round.held_until(), None);
    assert!(!round.is_enough(&session), "nothing is held, and nothing is new");
}
