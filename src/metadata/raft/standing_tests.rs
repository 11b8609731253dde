use super::*;
use crate::platform::clock;
use openraft::LeaderId;

fn id(node: u64) -> RaftNodeId {
    RaftNodeId::from(node)
}

fn log(term: u64, index: u64) -> Option<LogId> {
    Some(LogId::new(LeaderId::new(term, id(1)), index))
}

/// A voter's story on a clock of its own, milliseconds from its start.
struct Story {
    start: Instant,
    me: u64,
    view: View,
    standing: Standing,
}

impl Story {
    /// Voter `me` of `count`, following `leader`, which it heard at 0.
    fn of(me: u64, count: u64, leader: Option<u64>) -> Story {
        let start = clock::now();
        let view = View { leader: leader.map(id), voters: vec![(1..=count).map(id).collect()], ..View::default() };
        Story { start, me, view, standing: Standing::new(id(me), start) }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// When it would campaign, having looked every 100 ms until `ms`.
    fn due(&mut self, ms: u64) -> Option<u64> {
        self.looks_until(ms);
        let due = self.standing.due(&self.view, self.at(ms))?;
        Some(due.saturating_duration_since(self.start).as_millis() as u64)
    }

    fn looks_until(&mut self, ms: u64) {
        let looked = self.standing.looked.saturating_duration_since(self.start).as_millis() as u64;
        for ms in (looked..ms).step_by(100) {
            self.standing.due(&self.view, self.at(ms));
        }
    }

    fn asked_by(&mut self, candidate: u64, its: Option<LogId>, mine: Option<LogId>, ms: u64) -> Opinion {
        assert_ne!(candidate, self.me);
        let asked =
            PreVote { candidate: id(candidate), last_log_id: its, flush: self.view.flush, members_at: log(1, 1) };
        self.standing.opinion(&self.view, &asked, mine, None, self.at(ms))
    }
}

const GRANTED: Opinion = Opinion::Answer(PreVoteAnswer::Granted);

#[test]
fn the_survivors_of_a_refused_leader_take_turns_the_highest_id_first() {
    let turn = |me| {
        let mut story = Story::of(me, 5, Some(4));
        story.standing.found_gone(id(4), story.at(30));
        story.due(31)
    };
    assert_eq!([5, 3, 2, 1].map(turn), [Some(30), Some(50), Some(70), Some(90)]);
}

#[test]
fn a_silent_leader_is_missed_later_and_each_voter_has_a_time_of_its_own() {
    let mut story = Story::of(3, 3, Some(1));
    assert_eq!(story.due(100), Some(450));
    story.standing.heard(story.at(200));
    assert_eq!(story.due(300), Some(650));
    assert_eq!(Story::of(2, 3, Some(1)).due(1), Some(510));
}

#[test]
fn a_voters_own_pause_is_not_the_leaders_silence() {
    let mut story = Story::of(3, 3, Some(1));
    assert_eq!(story.due(100), Some(450));
    let woken = story.standing.due(&story.view, story.at(9_000)).unwrap();
    assert_eq!(woken, story.at(9_350), "not at once: of the silence it was awake for 100 ms");
}

#[test]
fn a_silent_leader_is_missed_by_a_voter_that_stalls_again_and_again() {
    let mut story = Story::of(3, 3, Some(1));
    let looks = [100, 200, 300, 500, 600, 700, 900, 1_000];
    let missed = looks.into_iter().find(|ms| {
        let now = story.at(*ms);
        story.standing.due(&story.view, now).is_some_and(|due| due <= now)
    });
    assert_eq!(missed, Some(700));
}

#[test]
fn the_leader_and_those_without_a_vote_never_campaign() {
    assert_eq!(Story::of(1, 3, Some(1)).due(2_000), None);
    assert_eq!(Story::of(4, 3, Some(1)).due(2_000), None);
    assert_eq!(Story::of(4, 0, None).due(2_000), None, "not in any cluster yet");
}

#[test]
fn a_candidate_is_refused_while_the_leader_is_heard() {
    let mut story = Story::of(2, 3, Some(1));
    assert_eq!(story.asked_by(3, log(1, 9), log(1, 9), 200), Opinion::Dial(id(1)));
    let asked = PreVote { candidate: id(3), last_log_id: log(1, 9), flush: Duration::ZERO, members_at: log(1, 1) };
    let lives = story.standing.opinion(&story.view, &asked, log(1, 9), Some(id(1)), story.at(210));
    assert_eq!(lives, Opinion::Answer(PreVoteAnswer::LeaderLives));
    let now = story.at(211);
    assert!(!story.standing.gives_up_lease(id(3), Vote::new_committed(1, id(1)), now));
}

#[test]
fn a_candidate_is_let_once_the_leader_is_gone_or_silent() {
    let mut story = Story::of(2, 3, Some(1));
    story.standing.found_gone(id(1), story.at(10));
    assert_eq!(story.asked_by(3, log(1, 9), log(1, 9), 11), GRANTED);
    let (leader, now, later) = (Vote::new_committed(1, id(1)), story.at(11), story.at(600));
    assert!(!story.standing.gives_up_lease(id(1), leader, now), "another was promised");
    assert!(!story.standing.gives_up_lease(id(3), leader, later), "for a moment only");
    assert!(story.standing.gives_up_lease(id(3), leader, now));
    assert!(
        !story.standing.gives_up_lease(id(3), leader, now),
        "once: campaigning again would outrank what it promised"
    );
    assert_eq!(story.due(12), Some(351), "its own turn waits for what comes of that");

    let mut silent = Story::of(2, 3, Some(1));
    assert_eq!(silent.asked_by(3, log(1, 9), log(1, 9), 300), GRANTED);
    assert_eq!(
        Story::of(1, 3, Some(1)).asked_by(3, log(9, 9), log(1, 9), 300),
        Opinion::Answer(PreVoteAnswer::LeaderLives)
    );
}

#[test]
fn a_candidate_with_a_shorter_log_sends_the_asked_one_off_instead() {
    let mut story = Story::of(2, 3, Some(1));
    story.standing.found_gone(id(1), story.at(10));
    assert_eq!(story.asked_by(3, log(1, 8), log(1, 9), 15), Opinion::Answer(PreVoteAnswer::LongerLog));
    assert_eq!(story.due(15), Some(30), "its turn, 20 ms after the leader was found gone");
    let mut candidate = Story::of(3, 3, Some(1));
    candidate.standing.found_gone(id(1), candidate.at(10));
    candidate.standing.campaigning(&candidate.view, candidate.at(10));
    assert_eq!(candidate.due(20), Some(130), "the refused one does not insist");
    assert_eq!(candidate.asked_by(2, log(1, 9), log(1, 8), 35), GRANTED);
}

#[test]
fn one_candidate_at_a_time() {
    let mut story = Story::of(1, 5, Some(4));
    story.standing.found_gone(id(4), story.at(10));
    assert_eq!(story.asked_by(5, log(1, 9), log(1, 9), 11), GRANTED);
    assert_eq!(story.asked_by(3, log(1, 9), log(1, 9), 12), Opinion::Answer(PreVoteAnswer::Busy));
    assert_eq!(story.asked_by(5, log(1, 9), log(1, 9), 13), GRANTED, "it may ask again");
    assert!(story.standing.yields(&story.view, story.at(20)));
    assert_eq!(story.asked_by(3, log(1, 9), log(1, 9), 150), GRANTED, "nothing came of the first");
}

#[test]
fn two_that_ask_each_other_do_not_both_give_up() {
    let campaigner = |me| {
        let mut story = Story::of(me, 3, Some(1));
        story.standing.found_gone(id(1), story.at(10));
        story.standing.campaigning(&story.view, story.at(10));
        story
    };
    let (mut two, mut three) = (campaigner(2), campaigner(3));
    assert_eq!(three.asked_by(2, log(1, 9), log(1, 9), 12), Opinion::Answer(PreVoteAnswer::Busy));
    assert_eq!(two.asked_by(3, log(1, 9), log(1, 9), 12), GRANTED);
    assert!(two.standing.yields(&two.view, two.at(13)) && !three.standing.yields(&three.view, three.at(13)));
    assert_eq!(campaigner(3).asked_by(2, log(1, 9), log(1, 8), 12), GRANTED, "a longer log wins");
}

#[test]
fn a_leader_heard_ends_every_waiting() {
    let mut story = Story::of(3, 3, None);
    (0..6).for_each(|_| story.standing.campaigning(&story.view, story.at(10)));
    story.view.leader = Some(id(1));
    story.standing.heard(story.at(100));
    story.standing.found_gone(id(1), story.at(110));
    assert_eq!(story.due(111), Some(110), "killed just after it was elected: again at once");
}

#[test]
fn elections_that_fail_leave_each_other_more_and_more_room() {
    let mut story = Story::of(2, 3, None);
    (0..3).for_each(|_| story.standing.campaigning(&story.view, story.at(10)));
    story.standing.campaigned(story.at(10));
    assert_eq!(story.asked_by(3, log(1, 9), log(1, 9), 2_000), GRANTED);
    assert_eq!(story.due(2_001), Some(2_000 + (300 + 40) * 8), "a slow disk needs that long for its votes");
}

/// A candidate that lacks its own vote's flush must neither try again nor help another one.
#[test]
fn a_slow_disks_election_is_not_run_over() {
    let flush = Duration::from_millis(150);
    let mut candidate = Story::of(2, 3, Some(3));
    candidate.view.flush = flush;
    candidate.standing.found_gone(id(3), candidate.at(10));
    candidate.standing.campaigning(&candidate.view, candidate.at(10));
    candidate.standing.campaigned(candidate.at(12));
    assert_eq!(candidate.due(13), Some(130), "no majority was asked yet, or none agreed");
    candidate.standing.elects(candidate.at(13));
    assert_eq!(candidate.due(14), Some(10 + 120 + 6 * 150));
    let busy = Opinion::Answer(PreVoteAnswer::Busy);
    assert_eq!(candidate.asked_by(1, log(1, 9), log(1, 9), 700), busy);
    assert_eq!(candidate.asked_by(1, log(1, 9), log(2, 10), 700), busy, "it may lead already");
    assert_eq!(candidate.asked_by(1, log(1, 10), log(1, 9), 700), GRANTED, "but never will, with a shorter log");

    // The voter's disk is fast, the candidate's is not.
    let mut voter = Story::of(1, 3, Some(3));
    voter.standing.found_gone(id(3), voter.at(10));
    let asked = PreVote { candidate: id(2), last_log_id: log(1, 9), flush, members_at: log(1, 1) };
    assert_eq!(voter.standing.opinion(&voter.view, &asked, log(1, 9), None, voter.at(11)), GRANTED);
    voter.standing.give_way(&voter.view, voter.at(160));
    voter.standing.votes(id(2), voter.at(160));
    assert_eq!(voter.due(161), Some(160 + 340 + 6 * 150));
    assert_eq!(voter.asked_by(2, log(1, 9), log(1, 9), 400), busy, "the second try would take back the first vote");
    voter.standing.heard(voter.at(800));
    voter.view.leader = Some(id(2));
    assert_eq!(voter.due(801), Some(800 + 450 + 60));
}

#[test]
fn a_leader_on_a_slow_disk_is_missed_later() {
    let mut story = Story::of(3, 3, Some(1));
    story.view.flush = Duration::from_millis(300);
    assert_eq!(story.due(100), Some(1_050));
}

#[test]
fn without_a_leader_there_is_a_retry_and_a_new_leader_ends_it() {
    let mut story = Story::of(3, 3, None);
    assert_eq!(story.due(1), Some(120));
    story.standing.campaigning(&story.view, story.at(120));
    assert_eq!(story.due(130), Some(240));
    story.standing.campaigning(&story.view, story.at(240));
    assert_eq!(story.due(250), Some(480), "longer each time");
    story.view.leader = Some(id(2));
    story.standing.heard(story.at(490));
    assert_eq!(story.due(500), Some(940));
}

#[test]
fn while_the_members_change_both_majorities_are_needed() {
    let view =
        View { leader: None, voters: vec![(1..=3).map(id).collect(), (3..=5).map(id).collect()], ..View::default() };
    let quorum = |nodes: &[u64]| view.is_quorum(&nodes.iter().copied().map(id).collect());
    assert!(!quorum(&[1, 2, 3]) && !quorum(&[3, 4, 5]) && quorum(&[2, 3, 4]));
    assert!(!View::default().is_quorum(&BTreeSet::from([id(1)])));
}

#[test]
fn a_removed_voter_stops_campaigning_once_it_is_told() {
    let mut voter = Story::of(1, 2, Some(2));
    (voter.view.members_at, voter.view.members_committed) = (log(1, 5), false);
    assert_ne!(voter.asked_by(3, log(1, 9), log(1, 9), 600), Opinion::Answer(PreVoteAnswer::NotAVoter), "not yet sure");
    voter.view.members_committed = true;
    assert_eq!(voter.asked_by(3, log(1, 9), log(1, 9), 600), Opinion::Answer(PreVoteAnswer::NotAVoter));
    voter.view.members_at = log(1, 1);
    assert_ne!(
        voter.asked_by(3, log(1, 9), log(1, 9), 600),
        Opinion::Answer(PreVoteAnswer::NotAVoter),
        "no newer list"
    );

    let mut removed = Story::of(3, 3, None);
    (removed.view.members_at, removed.view.is_member) = (log(1, 1), true);
    assert!(removed.due(100).is_some());
    let asked = PreVote { candidate: id(3), last_log_id: None, flush: Duration::ZERO, members_at: log(1, 1) };
    removed.standing.told_removed(&asked);
    assert!(removed.due(200).is_none() && removed.standing.is_removed(&removed.view));
    // Taken in again: the log that it is sent has a newer list.
    removed.view.members_at = log(1, 7);
    assert!(removed.due(300).is_some() && !removed.standing.is_removed(&removed.view));

    // One that was sent the list without it needs nobody to tell.
    (removed.view.voters, removed.view.is_member) = (vec![[id(1), id(2)].into()], false);
    assert!(removed.due(400).is_none() && removed.standing.is_removed(&removed.view));
    let mut joining = Story::of(4, 3, None);
    joining.view.members_at = log(1, 1);
    assert!(joining.due(100).is_none() && !joining.standing.is_removed(&joining.view), "it never voted");
}
