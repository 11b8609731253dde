//! Fast failover: watches the leader's process, asks for pre-votes, and starts elections through openraft's public calls.
//!
//! Each voter keeps one idle TCP connection to the leader. A process that dies closes it within a millisecond, whatever
//! killed it, and a dial that is then refused is proof enough to campaign. A voter keeps a lease on its leader, during
//! which openraft refuses every candidate; campaigning itself is how a voter gives that lease up, so a voter that
//! promised its vote does so before it answers the real request. Votes of one term order by node id: a candidate whose
//! id is lower than that of a voter which promised goes one term further.

use super::client::{PreVoteError, Transport};
use super::log_store::{LogReader, LogStoreError};
use super::standing::*;
use super::types::*;
use crate::platform::network::{self, TcpStream};
use crate::platform::{clock, probe};
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::ServerState;
use openraft::error::Fatal;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often the standing is looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A dial of the leader, and a pre-vote's way there and back (which may hold such a dial).
const DIAL_TIMEOUT: Duration = Duration::from_millis(50);
const PRE_VOTE_TIMEOUT: Duration = Duration::from_millis(150);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// Before the leader is dialled again for an idle connection.
const RECONNECT: Duration = Duration::from_millis(50);

/// Cheap to clone; all clones share one voter's standing.
#[derive(Clone)]
pub struct Failover {
    raft: Raft,
    me: RaftNodeId,
    transport: Transport,
    log: LogReader,
    standing: Arc<Mutex<Standing>>,
    /// The standing changed: look at it now.
    changed: Arc<Notify>,
}

impl Failover {
    /// Spawns its tasks on the current runtime; they end with the Raft core.
    pub fn start(raft: Raft, me: RaftNodeId, transport: Transport, log: LogReader) -> Failover {
        let standing = Arc::new(Mutex::new(Standing::new(me, clock::now())));
        let failover = Failover { raft, me, transport, log, standing, changed: Arc::default() };
        tokio::spawn(failover.clone().watch_leader());
        tokio::spawn(failover.clone().campaign_when_due());
        failover
    }

    /// A message of a leader came in, under this vote.
    pub fn heard(&self, vote: &Vote) {
        let current = self.raft.metrics().borrow().vote;
        if *vote >= current {
            self.standing.lock().heard(clock::now());
        }
    }

    /// Answers another voter's pre-vote.
    pub async fn pre_vote(&self, asked: &PreVote) -> Result<PreVoteAnswer, LogStoreError> {
        let mine = self.log.last_log_id()?;
        let mut dialed = None;
        loop {
            let view = self.view();
            let opinion = self.standing.lock().opinion(&view, asked, mine, dialed, clock::now());
            match opinion {
                Opinion::Answer(answer) => {
                    tracing::debug!(candidate = %asked.candidate, ?answer, "pre-vote");
                    self.changed.notify_one();
                    return Ok(answer);
                }
                Opinion::Dial(leader) => {
                    let target = self.address(leader).map(probe::Target::Name);
                    let refused = match target {
                        Some(target) => is_refused(probe::probe(&target, DIAL_TIMEOUT).await),
                        None => false,
                    };
                    if refused {
                        self.standing.lock().found_gone(leader, clock::now());
                    }
                    dialed = Some(leader);
                }
            }
        }
    }

    /// Before a real vote is answered: gives up the lease on a leader that this voter called gone.
    pub async fn keep_promise(&self, candidate: &Vote) -> Result<(), Fatal<RaftNodeId>> {
        let Some(to) = candidate.leader_id().voted_for() else { return Ok(()) };
        // Metrics lag behind while the core writes a vote: that a lease was given up is remembered here.
        let current = self.raft.metrics().borrow().vote;
        let leased = current.is_committed() && current.leader_id().voted_for() != Some(to);
        let (view, now) = (self.view(), clock::now());
        let gives_up = {
            let mut standing = self.standing.lock();
            standing.give_way(&view, now);
            standing.votes(to, now);
            leased && *candidate > current && standing.gives_up_lease(to, current, now)
        };
        if gives_up {
            self.raft.trigger().elect().await?;
        }
        Ok(())
    }

    fn view(&self) -> View {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leads = metrics.state == ServerState::Leader;
        let members = &metrics.membership_config;
        View {
            leader: if leads { Some(self.me) } else { metrics.current_leader },
            voters: members.membership().get_joint_config().clone(),
            flush: self.log.flush_time(clock::now()),
            is_member: members.membership().get_node(&self.me).is_some(),
            members_at: *members.log_id(),
            members_committed: *members.log_id() <= metrics.last_applied,
        }
    }

    fn address(&self, node: RaftNodeId) -> Option<String> {
        let members = self.raft.metrics().borrow().membership_config.clone();
        members.membership().get_node(&node).map(|n| n.address.clone())
    }

    /// How long this node's disk takes for a flush, as far as something may wait for one just now.
    pub fn felt_flush_time(&self) -> Duration {
        self.log.felt_flush_time(clock::now())
    }

    /// This node voted, and the group went on without it.
    pub fn is_removed(&self) -> bool {
        let view = self.view();
        self.standing.lock().is_removed(&view)
    }

    async fn campaign_when_due(self) {
        let mut said_removed = false;
        loop {
            let now = clock::now();
            let view = self.view();
            let (due, removed) = {
                let mut standing = self.standing.lock();
                (standing.due(&view, now), standing.is_removed(&view))
            };
            if removed && !said_removed {
                tracing::warn!(
                    "this controller was removed from the quorum: it stands for no election, and hears no more of the \
                     cluster. Stop it; or start it again, and it joins as a member without a vote, which \
                     `highwater quorum add {}` gives it",
                    self.me.node
                );
            }
            said_removed = removed;
            if due.is_some_and(|at| at <= now) {
                self.standing.lock().campaigning(&view, now);
                if self.campaign(&view, now).await.is_err() {
                    return; // The core has stopped.
                }
                self.standing.lock().campaigned(clock::now());
                continue;
            }
            let wait = due.map_or(LOOK_EVERY, |at| at.saturating_duration_since(now).min(LOOK_EVERY));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
            }
            if self.raft.metrics().borrow().running_state.is_err() {
                return;
            }
        }
    }

    /// Asks the other voters, and elects if a majority would vote for this node.
    async fn campaign(&self, view: &View, began: Instant) -> Result<(), Fatal<RaftNodeId>> {
        let last_log_id = match self.log.last_log_id() {
            Ok(last_log_id) => last_log_id,
            Err(error) => {
                tracing::error!(%error, "cannot campaign");
                return Ok(());
            }
        };
        let asked = PreVote { candidate: self.me, last_log_id, flush: view.flush, members_at: view.members_at };
        let mut answers: FuturesUnordered<_> = view
            .others(self.me)
            .into_iter()
            .filter_map(|voter| self.address(voter).map(|address| (voter, address)))
            .map(|(voter, address)| async move {
                let answer = self.transport.pre_vote(voter, address, &asked);
                (voter, tokio::time::timeout(PRE_VOTE_TIMEOUT, answer).await.unwrap_or(Err(PreVoteError::Timeout)))
            })
            .collect();
        let mut granted = BTreeSet::from([self.me]);
        while !view.is_quorum(&granted) {
            match answers.next().await {
                None => {
                    tracing::debug!(?granted, "no majority misses the leader");
                    return Ok(());
                }
                Some((voter, Ok(PreVoteAnswer::Granted))) => {
                    granted.insert(voter);
                }
                Some((_, Ok(PreVoteAnswer::NotAVoter))) => {
                    self.standing.lock().told_removed(&asked);
                    return Ok(());
                }
                // That one campaigns at once; this one waits for its turn.
                Some((voter, answer)) => tracing::debug!(%voter, ?answer, "no pre-vote"),
            }
        }
        {
            let (mut standing, now) = (self.standing.lock(), clock::now());
            if standing.yields(view, now) {
                return Ok(());
            }
            standing.elects(now);
        }
        let outranked = granted.iter().any(|voter| *voter > self.me);
        tracing::info!(after = ?clock::now().saturating_duration_since(began), ?granted, "campaigning");
        for _ in 0..if outranked { 2 } else { 1 } {
            self.raft.trigger().elect().await?;
        }
        Ok(())
    }

    /// Keeps an idle connection to the leader, and dials when it breaks.
    async fn watch_leader(self) {
        loop {
            if self.raft.metrics().borrow().running_state.is_err() {
                return;
            }
            let leader = watched(&self.raft.metrics().borrow(), self.me);
            let Some((leader, address)) = leader.and_then(|l| Some((l, self.address(l)?))) else {
                self.other_leader(leader).await;
                continue;
            };
            let gone = tokio::select! {
                () = self.other_leader(Some(leader)) => continue,
                gone = watch_process(&address) => gone,
            };
            if gone && self.view().leader == Some(leader) && self.standing.lock().found_gone(leader, clock::now()) {
                tracing::info!(%leader, address, "the leader's process is gone");
                self.changed.notify_one();
            }
            tokio::select! {
                () = self.other_leader(Some(leader)) => {}
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }

    /// Resolves when another one is to be watched than `than`, or the core's life ends.
    async fn other_leader(&self, than: Option<RaftNodeId>) {
        let mut metrics = self.raft.metrics();
        let changed = metrics.wait_for(|now| watched(now, self.me) != than || now.running_state.is_err());
        let _ = changed.await;
    }
}

/// Whose process this node watches: nobody's while it does not vote. Both who watches and who waits for another one to
/// watch ask here; if their answers differed, the one would call the other without end.
fn watched(metrics: &RaftMetrics, me: RaftNodeId) -> Option<RaftNodeId> {
    let votes = metrics.membership_config.membership().voter_ids().any(|voter| voter == me);
    metrics.current_leader.filter(|leader| votes && *leader != me)
}

fn is_refused(outcome: probe::Outcome) -> bool {
    matches!(outcome, probe::Outcome::Refused | probe::Outcome::Unreachable)
}

/// Resolves when the connection to `address` ended, or could not be made: true if a dial then found nobody there.
async fn watch_process(address: &str) -> bool {
    let Ok(mut stream) = network::dial(address, CONNECT_TIMEOUT).await else {
        return is_refused(probe::probe(&probe::Target::Name(address.to_string()), DIAL_TIMEOUT).await);
    };
    let peer: Option<SocketAddr> = stream.peer_addr().ok();
    network::closed(&mut stream).await;
    drop::<TcpStream>(stream);
    let target = match peer {
        Some(peer) => probe::Target::Address(peer),
        None => probe::Target::Name(address.to_string()),
    };
    let outcome = probe::probe(&target, DIAL_TIMEOUT).await;
    // After a reset, silence tells as well: the host is gone, and its address with it.
    is_refused(outcome) || outcome == probe::Outcome::Silent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    #[test]
    fn only_a_voter_watches_and_never_itself() {
        let ids = [1, 2, 3].map(|n| RaftNodeId { node: BrokerId(n), directory: DirectoryId(Uuid::from_u128(1)) });
        let [one, two, learner] = ids;
        let nodes: BTreeMap<_, _> = ids.into_iter().map(|id| (id, RaftNode::default())).collect();
        let mut metrics = RaftMetrics::new_initial(one);
        assert_eq!(watched(&metrics, one), None, "nobody leads");
        let membership = openraft::Membership::new(vec![BTreeSet::from([one, two])], nodes);
        metrics.membership_config = Arc::new(Membership::new(None, membership));
        metrics.current_leader = Some(two);
        assert_eq!([one, two, learner].map(|me| watched(&metrics, me)), [Some(two), None, None]);
    }
}
