//! When a voter may campaign, and whom it lets campaign: pure decisions; [`failover`](super::failover) performs them.
//!
//! openraft's own election timers are off. They wait out a lease even where the leader is known to be dead, and a node
//! that wakes from a pause would campaign at once and depose a healthy leader. Instead, as in Raft's pre-vote (Ongaro's
//! thesis, §9.6), a candidate first asks a majority whether *they* miss the leader too:
//!
//! ```text
//! leader's connection breaks ─→ dial it ─→ refused ─→ gone ──┐
//! nothing heard from it for a while ─────────────────────────┴→ my turn? ─→ pre-vote ─→ a majority agrees ─→ elect
//!                                                                             └→ "my log is longer": that one campaigns
//! ```
//!
//! Nothing is decided here that safety rests on: votes still compare terms and logs, and what is read needs a quorum.

use super::types::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A voter that has not heard of a live leader for this long campaigns; each further place in line waits one more step.
/// Far above a leader's stalls on a loaded machine (75 ms is ordinary, a slow fsync can take 200), since a silent failure
/// is rare, and for brokers their sessions (1.5 s) decide anyway.
pub const SILENCE: Duration = Duration::from_millis(450);
const SILENCE_STEP: Duration = Duration::from_millis(60);
/// One that heard the leader within this time says so to a candidate.
const FRESH: Duration = Duration::from_millis(250);
/// Between the survivors' turns when the leader is known to be gone.
const TURN: Duration = Duration::from_millis(20);
/// After a campaign before the next try, beside the flushes of its election; doubled with each that failed in a row, to
/// [`RETRIES_DOUBLED_MAX`] times.
const RETRY: Duration = Duration::from_millis(120);
const RETRIES_DOUBLED_MAX: u32 = 4;
/// After letting another campaign; doubled as above, for the same reason.
const YIELD: Duration = Duration::from_millis(300);
const RETRY_STEP: Duration = Duration::from_millis(40);
/// The longest election writes to disk six times, one after another, before the others hear the new leader: the
/// candidate its vote (twice if it is outranked), a voter the end of its lease and its vote, the new leader its
/// leadership and its first entry. On a slow disk that is longer than all the other waits here, and an election that is
/// run over by the next one elects nobody.
const ELECTION_FLUSHES: u32 = 6;
/// A leader's messages come late by what it writes in between.
const SILENCE_FLUSHES: u32 = 2;
/// A pre-vote is worth a real vote for this long, beside the flushes of the candidate.
const GRANT_HOLDS: Duration = Duration::from_millis(500);
/// What a candidate says of its disk counts up to this.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// A clock that jumped this far was this node's own pause, which says nothing of the leader and is not counted.
const STALL: Duration = Duration::from_millis(150);

/// "Would you vote for me?"
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVote {
    pub candidate: RaftNodeId,
    pub last_log_id: Option<LogId>,
    /// How long the candidate's disk takes for a flush.
    pub flush: Duration,
    /// The entry that made the candidate a voter, as far as it knows.
    pub members_at: Option<LogId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreVoteAnswer {
    Granted,
    /// The leader was heard a moment ago, or answers when dialled.
    LeaderLives,
    /// The voter holds more of the log, and campaigns itself.
    LongerLog,
    /// The voter campaigns itself, or let another one, or still writes what an election asks of it.
    Busy,
    /// A committed change of the members, newer than what the candidate knows, left it without a vote.
    NotAVoter,
}

/// The Raft core's state that decisions read.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub leader: Option<RaftNodeId>,
    /// The voter sets of which each needs a majority: one, or two while the members change.
    pub voters: Vec<BTreeSet<RaftNodeId>>,
    /// How long a flush of the Raft log takes here, of late.
    pub flush: Duration,
    /// This node follows or leads the group by its newest list of members.
    pub is_member: bool,
    /// The entry with that list, and whether it is committed.
    pub members_at: Option<LogId>,
    pub members_committed: bool,
}

impl View {
    pub fn is_voter(&self, node: RaftNodeId) -> bool {
        self.voters.iter().any(|set| set.contains(&node))
    }

    /// A majority of every voter set is among `nodes`.
    pub fn is_quorum(&self, nodes: &BTreeSet<RaftNodeId>) -> bool {
        !self.voters.is_empty() && self.voters.iter().all(|set| set.intersection(nodes).count() > set.len() / 2)
    }

    /// The voters but `me` and the leader.
    pub fn others(&self, me: RaftNodeId) -> BTreeSet<RaftNodeId> {
        let all = self.voters.iter().flatten().copied();
        all.filter(|node| *node != me && Some(*node) != self.leader).collect()
    }

    /// The place of `me` in the line of candidates: the highest id first, since votes of one term order by id.
    fn place(&self, me: RaftNodeId) -> u32 {
        let before = self.others(me).into_iter().filter(|other| *other > me).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }
}

/// What a voter does about another's pre-vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    Answer(PreVoteAnswer),
    /// Dial the leader first, and ask again with what that told.
    Dial(RaftNodeId),
}

/// What one voter knows of its leader and of elections under way.
pub struct Standing {
    me: RaftNodeId,
    /// When a leader or a candidate was last heard, or when this node began to listen.
    heard: Instant,
    /// The leader that a dial found gone, since when.
    gone: Option<(RaftNodeId, Instant)>,
    not_before: Instant,
    /// Since when this voter takes part in an election, its own or another's, that has not shown a leader.
    election: Option<Instant>,
    /// Whom this voter let campaign, and when.
    granted: Option<Grant>,
    /// The vote under which this voter last gave its lease up: once is enough.
    given_up: Option<Vote>,
    /// While pre-votes are asked for.
    asking: bool,
    /// Campaigns since a leader was heard.
    campaigns: u32,
    looked: Instant,
    /// It had a vote since it was started.
    voted: bool,
    /// The list of members that counts this node as a voter, and of which another voter knows that it is past.
    past: Option<LogId>,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    to: RaftNodeId,
    at: Instant,
    flush: Duration,
    /// It holds more of the log, or else a higher id: it is the one to win.
    is_stronger: bool,
}

impl Standing {
    pub fn new(me: RaftNodeId, now: Instant) -> Standing {
        Standing {
            me,
            heard: now,
            gone: None,
            not_before: now,
            election: None,
            granted: None,
            given_up: None,
            asking: false,
            campaigns: 0,
            looked: now,
            voted: false,
            past: None,
        }
    }

    /// A message of a live leader came in.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.gone = None;
        self.campaigns = 0;
        self.not_before = now;
        self.election = None;
    }

    /// A dial of the leader was refused, or not answered after its connection broke. True: that is news.
    pub fn found_gone(&mut self, leader: RaftNodeId, now: Instant) -> bool {
        let is_news = self.gone.is_none_or(|(known, _)| known != leader);
        if is_news {
            self.gone = Some((leader, now));
        }
        is_news
    }

    fn is_gone(&self, leader: RaftNodeId) -> Option<Instant> {
        self.gone.filter(|(gone, _)| *gone == leader).map(|(_, since)| since)
    }

    /// What the flushes of one election take, by the slower of this disk and the candidate's.
    fn election_flushes(&self, view: &View) -> Duration {
        view.flush.max(self.granted.map_or(Duration::ZERO, |grant| grant.flush)) * ELECTION_FLUSHES
    }

    /// The election that this voter takes part in may still be on its way through the disks.
    fn is_electing(&self, view: &View, now: Instant) -> bool {
        self.election.is_some_and(|since| now < since + self.election_flushes(view))
    }

    /// When this voter is to campaign, as things stand; `None` while it leads or has no vote. To be asked at least every
    /// 150 ms: a longer gap was a pause, in which the leader's clock stands still.
    pub fn due(&mut self, view: &View, now: Instant) -> Option<Instant> {
        let away = now.saturating_duration_since(self.looked);
        self.looked = now;
        if away > STALL {
            self.heard = (self.heard + away).min(now);
        }
        let votes = view.is_voter(self.me);
        self.voted |= votes;
        if !votes || view.leader == Some(self.me) || self.is_removed(view) {
            return None;
        }
        let place = view.place(self.me);
        let at = match view.leader {
            Some(leader) => match self.is_gone(leader) {
                Some(since) => since + TURN * place,
                None => self.heard + SILENCE + SILENCE_STEP * place + view.flush * SILENCE_FLUSHES,
            },
            // Nobody leads: an election under way, or a group that just started.
            None => self.heard + RETRY + RETRY_STEP * place,
        };
        let flushes = if self.election.is_some() { self.election_flushes(view) } else { Duration::ZERO };
        Some(at.max(self.not_before + flushes))
    }

    /// Another voter knows of a newer list of members, without this one.
    pub fn told_removed(&mut self, asked: &PreVote) {
        self.past = asked.members_at;
    }

    /// This node voted and is no member any more: nobody sends it the log, so its own list of members may be past. It is
    /// taken in again when it joins.
    pub fn is_removed(&self, view: &View) -> bool {
        let left = self.voted && view.members_at.is_some() && !view.is_member;
        left || (self.past.is_some() && self.past == view.members_at)
    }

    /// A campaign begins: the next try waits for what comes of it.
    pub fn campaigning(&mut self, view: &View, now: Instant) {
        self.not_before = now + (RETRY + RETRY_STEP * view.place(self.me)) * 2u32.pow(self.campaigns);
        self.campaigns = (self.campaigns + 1).min(RETRIES_DOUBLED_MAX);
        self.asking = true;
    }

    /// A majority let this voter campaign, and now it does.
    pub fn elects(&mut self, now: Instant) {
        self.election = Some(now);
    }

    /// A campaign's answers took their time; that was no pause of this node.
    pub fn campaigned(&mut self, now: Instant) {
        self.looked = now;
        self.asking = false;
    }

    /// Asked to vote, `mine` being the end of this voter's log. `dialed`: the leader that was just found alive.
    pub fn opinion(
        &mut self,
        view: &View,
        asked: &PreVote,
        mine: Option<LogId>,
        dialed: Option<RaftNodeId>,
        now: Instant,
    ) -> Opinion {
        if view.members_committed && view.members_at > asked.members_at && !view.is_voter(asked.candidate) {
            return Opinion::Answer(PreVoteAnswer::NotAVoter);
        }
        let missing = match view.leader {
            Some(leader) if leader == self.me => false,
            Some(leader) if leader == asked.candidate || self.is_gone(leader).is_some() => true,
            Some(leader) => {
                if now.saturating_duration_since(self.heard) <= FRESH + view.flush {
                    // It may have died a moment ago, and its connection's end not have been seen yet.
                    return if dialed == Some(leader) {
                        Opinion::Answer(PreVoteAnswer::LeaderLives)
                    } else {
                        Opinion::Dial(leader)
                    };
                }
                true
            }
            None => true,
        };
        if !missing {
            return Opinion::Answer(PreVoteAnswer::LeaderLives);
        }
        // Also where this voter holds more of the log: then it was perhaps elected, and does not know it yet.
        if self.is_electing(view, now) && asked.last_log_id <= mine {
            return Opinion::Answer(PreVoteAnswer::Busy);
        }
        if mine > asked.last_log_id {
            self.not_before = now;
            self.election = None;
            // Its own campaign is due now; never later than it was.
            let silence = SILENCE * 2 + SILENCE_STEP * view.place(self.me) + view.flush * SILENCE_FLUSHES;
            self.heard = now.checked_sub(silence).map_or(self.heard, |long_ago| long_ago.min(self.heard));
            return Opinion::Answer(PreVoteAnswer::LongerLog);
        }
        let is_stronger = asked.last_log_id > mine || asked.candidate > self.me;
        let other = self.granted.filter(|g| g.to != asked.candidate && self.is_fresh(g, view, now));
        if other.is_some() || (self.asking && !is_stronger) {
            return Opinion::Answer(PreVoteAnswer::Busy);
        }
        self.granted = Some(Grant { to: asked.candidate, at: now, flush: asked.flush.min(FLUSH_MAX), is_stronger });
        self.give_way(view, now);
        Opinion::Answer(PreVoteAnswer::Granted)
    }

    /// A candidate that was let has this long until the next one is.
    fn is_fresh(&self, grant: &Grant, view: &View, now: Instant) -> bool {
        now.saturating_duration_since(grant.at) < RETRY + view.flush.max(grant.flush) * ELECTION_FLUSHES
    }

    /// A candidate asks for its vote: its election is not to be run over.
    pub fn give_way(&mut self, view: &View, now: Instant) {
        let until = now + (YIELD + RETRY_STEP * view.place(self.me)) * 2u32.pow(self.campaigns);
        self.not_before = self.not_before.max(until);
    }

    /// This voter told `candidate` that it would vote for it: its lease on the leader of `current` is to be given up, once.
    pub fn gives_up_lease(&mut self, candidate: RaftNodeId, current: Vote, now: Instant) -> bool {
        let promised = self.promised(candidate, now);
        if !promised || self.given_up == Some(current) {
            return false;
        }
        self.given_up = Some(current);
        true
    }

    fn promised(&self, candidate: RaftNodeId, now: Instant) -> bool {
        self.granted.is_some_and(|grant| {
            let holds = GRANT_HOLDS * 2u32.pow(self.campaigns) + grant.flush * ELECTION_FLUSHES;
            grant.to == candidate && now.saturating_duration_since(grant.at) < holds
        })
    }

    /// The vote that `candidate` was promised is asked for, and is about to be written.
    pub fn votes(&mut self, candidate: RaftNodeId, now: Instant) {
        if self.promised(candidate, now) {
            self.election = Some(now);
        }
    }

    /// A stronger candidate was promised a vote so lately that it is better left alone.
    pub fn yields(&self, view: &View, now: Instant) -> bool {
        self.granted.is_some_and(|g| g.is_stronger && self.is_fresh(&g, view, now))
    }
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
