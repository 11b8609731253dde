//! Who votes, and what it takes to change that: the rules, apart from carrying them out (KIP-853).
//!
//! ```text
//! change ─→ plan(status) ─┬→ refused: why, and what to do
//!                         └→ Step: the voters from now on ─→ Quorum::change_voters (joint consensus)
//! ```

use super::intent::{ControllerChannel, Intent, IntentAnswer, SubmitError};
use super::quorum::{QuorumMember, QuorumStatus};
use super::raft::types::RaftNodeId;
use crate::ids::*;
use crate::platform::clock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// A learner may vote when it is this close to the end of the log.
pub const LAG_MAX: u64 = 100;
/// A member that answered within this time is reachable: some forty heartbeats.
pub const REACHABLE_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries of a change that only has to wait.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// One try, with its way to the controller and back.
const TRY_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoterChange {
    /// A member that only follows the log votes from now on. `directory`: only with that data folder.
    Add { node: BrokerId, directory: Option<DirectoryId> },
    /// A voter only follows the log from now on, or is forgotten if it hosts no broker. `force`: even where no majority
    /// of the rest answers.
    Remove { node: BrokerId, directory: Option<DirectoryId>, force: bool },
    /// The vote of a node whose data folder is lost goes to its new folder, in one step. `force`: even where the old
    /// folder still answers.
    ReplaceLost { node: BrokerId, force: bool },
}

/// Who votes after a change, and what an operator should know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterOutcome {
    pub voters: Vec<RaftNodeId>,
    pub warning: Option<String>,
}

/// Why a change was not made. Nothing happened, but for `Unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum VoterError {
    #[error("{0} votes already")]
    AlreadyVotes(RaftNodeId),
    #[error(
        "node {node} votes already, with data folder {voting}; if that folder is lost, `highwater quorum replace {node}` \
         gives its vote to the new one"
    )]
    VotesWithOtherFolder { node: BrokerId, voting: DirectoryId },
    #[error("node {0} is not a voter")]
    NotAVoter(BrokerId),
    #[error("node {node} has data folder {actual}, not {asked}")]
    OtherDirectory { node: BrokerId, asked: DirectoryId, actual: DirectoryId },
    #[error(
        "node {0} is no member of the cluster: start it with `controllers` naming the cluster's nodes, it joins by \
         itself, and then add it"
    )]
    NotAMember(BrokerId),
    #[error("{0} does not answer the controller; start it, or look at its log and its cluster address")]
    Unreachable(RaftNodeId),
    #[error("{node} still catches up: it has {matched} of a log that ends at {last}; it may vote once it is there")]
    NotCaughtUp { node: RaftNodeId, matched: RaftIndex, last: RaftIndex },
    #[error("{0} is the only voter: add another one first")]
    LastVoter(RaftNodeId),
    #[error(
        "only {reachable} of the {voters} voters that would remain answer, and {needed} must: after this nothing could be \
         committed until another of them is back. Start those, or give --force to do it all the same"
    )]
    WouldLoseMajority { reachable: usize, voters: usize, needed: usize },
    #[error("only {reachable} of {voters} voters answer, and a change needs {needed} of them: start another one first")]
    NoMajority { reachable: usize, voters: usize, needed: usize },
    #[error(
        "node {0} has no new data folder: start it with an empty one, it joins by itself, and ask again; or, if it is to \
         stay away, `highwater quorum remove {0}`"
    )]
    NoNewFolder(BrokerId),
    #[error(
        "{0} answers: its folder is not lost. Stop whichever of the two processes is not meant to be, or give --force"
    )]
    NotLost(RaftNodeId),
    #[error(
        "another change of the voters is under way, and needs a majority of those before it and of those after it; retry"
    )]
    InProgress,
    #[error("not committed in time: it may still take effect; look at `highwater quorum describe`")]
    Unknown,
    #[error("{0}")]
    Refused(String),
}

impl VoterError {
    /// Nothing happened, and the same may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        use VoterError::{InProgress, NotCaughtUp, NotLost, Unreachable};
        // A folder that was lost a moment ago answered a moment ago.
        matches!(self, NotCaughtUp { .. } | Unreachable(_) | NotLost(_) | InProgress)
    }
}

/// What a permitted change comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub voters: BTreeSet<RaftNodeId>,
    /// The voter that votes no more.
    pub leaves: Option<RaftNodeId>,
    /// The leaving one's folder is lost: nothing is left to follow the log.
    pub forget: bool,
}

/// Checks a change against what the controller sees of the quorum. A majority of the voters, before and after it, must have
/// answered within `fresh`: one that died a moment ago answered a moment ago, and without it a change might stand half way
/// for good.
pub fn plan(status: &QuorumStatus, change: &VoterChange, fresh: Duration) -> Result<Step, VoterError> {
    if status.half_way.is_some() {
        return Err(VoterError::InProgress);
    }
    let voters: BTreeSet<RaftNodeId> = status.members.iter().filter(|m| m.voter).map(|m| m.node).collect();
    let step = match *change {
        VoterChange::Add { node, directory } => {
            let learner = learner_to_add(status, node, directory)?;
            may_vote(status, learner)?;
            let voters = voters.iter().copied().chain([learner.node]).collect();
            Step { voters, leaves: None, forget: false }
        }
        VoterChange::Remove { node, directory, .. } => {
            let leaving = voter(status, node, directory)?.node;
            let voters: BTreeSet<_> = voters.iter().copied().filter(|id| *id != leaving).collect();
            if voters.is_empty() {
                return Err(VoterError::LastVoter(leaving));
            }
            Step { voters, leaves: Some(leaving), forget: false }
        }
        VoterChange::ReplaceLost { node, force } => {
            let old = voter(status, node, None)?;
            let new = learner_in_use(status, node).ok_or(VoterError::NoNewFolder(node))?;
            if is_reachable(old) && !force {
                return Err(VoterError::NotLost(old.node));
            }
            may_vote(status, new)?;
            let voters = voters.iter().copied().filter(|id| *id != old.node).chain([new.node]).collect();
            Step { voters, leaves: Some(old.node), forget: true }
        }
    };
    let before = majority(status, &voters, fresh);
    if before.0 < before.1 {
        return Err(VoterError::NoMajority { reachable: before.0, voters: voters.len(), needed: before.1 });
    }
    let (reachable, needed) = majority(status, &step.voters, fresh);
    if reachable < needed && !matches!(change, VoterChange::Remove { force: true, .. }) {
        return Err(VoterError::WouldLoseMajority { reachable, voters: step.voters.len(), needed });
    }
    Ok(step)
}

/// An even number of voters survives no more failures than one voter less, and needs one more to agree.
pub fn warning(voters: usize) -> Option<String> {
    if voters == 0 || !voters.is_multiple_of(2) {
        return None;
    }
    let survives = (voters - 1) / 2;
    Some(format!(
        "{voters} voters survive the loss of {survives}, no more than {} would: make the number odd by adding or removing one",
        voters - 1
    ))
}

pub fn is_reachable(member: &QuorumMember) -> bool {
    member.heard.is_some_and(|ago| ago <= REACHABLE_WITHIN)
}

pub fn is_caught_up(status: &QuorumStatus, member: &QuorumMember) -> bool {
    member.matched.is_some_and(|at| at.0 + LAG_MAX >= status.last_log_index.0)
}

/// How many of `voters` answered within `fresh`, and how many must.
fn majority(status: &QuorumStatus, voters: &BTreeSet<RaftNodeId>, fresh: Duration) -> (usize, usize) {
    let answered = |member: &QuorumMember| member.heard.is_some_and(|ago| ago <= fresh);
    let reachable = status.members.iter().filter(|m| voters.contains(&m.node) && answered(m)).count();
    (reachable, voters.len() / 2 + 1)
}

fn voter(status: &QuorumStatus, node: BrokerId, asked: Option<DirectoryId>) -> Result<&QuorumMember, VoterError> {
    let found = status.members.iter().find(|m| m.voter && m.node.node == node).ok_or(VoterError::NotAVoter(node))?;
    match asked {
        Some(asked) if asked != found.node.directory => {
            Err(VoterError::OtherDirectory { node, asked, actual: found.node.directory })
        }
        _ => Ok(found),
    }
}

/// Of a node's folders that do not vote the one that answers.
fn learner_in_use(status: &QuorumStatus, node: BrokerId) -> Option<&QuorumMember> {
    let folders = status.members.iter().filter(|m| !m.voter && m.node.node == node);
    folders.min_by_key(|m| (m.heard.is_none(), m.heard))
}

fn learner_to_add(
    status: &QuorumStatus,
    node: BrokerId,
    asked: Option<DirectoryId>,
) -> Result<&QuorumMember, VoterError> {
    if let Ok(voting) = voter(status, node, None) {
        return Err(match asked {
            Some(asked) if asked != voting.node.directory => {
                VoterError::VotesWithOtherFolder { node, voting: voting.node.directory }
            }
            _ => VoterError::AlreadyVotes(voting.node),
        });
    }
    let any = learner_in_use(status, node).ok_or(VoterError::NotAMember(node))?;
    let mut folders = status.members.iter().filter(|m| m.node.node == node);
    match asked {
        None => Ok(any),
        Some(asked) => folders.find(|m| m.node.directory == asked).ok_or(VoterError::OtherDirectory {
            node,
            asked,
            actual: any.node.directory,
        }),
    }
}

/// openraft calls a learner added before anything has reached it: what it holds is looked at here.
fn may_vote(status: &QuorumStatus, learner: &QuorumMember) -> Result<(), VoterError> {
    if !is_reachable(learner) {
        return Err(VoterError::Unreachable(learner.node));
    }
    if !is_caught_up(status, learner) {
        let matched = learner.matched.unwrap_or_default();
        return Err(VoterError::NotCaughtUp { node: learner.node, matched, last: status.last_log_index });
    }
    Ok(())
}

/// Asks the controller for a change, again while it only has to wait (a new voter catches up), until `timeout`.
pub async fn change(
    controller: &dyn ControllerChannel,
    change: VoterChange,
    timeout: Duration,
) -> Result<Result<VoterOutcome, VoterError>, SubmitError> {
    let deadline = clock::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(clock::now());
        // Never cut short by the caller's deadline: the outcome would be unknown for nothing.
        let answer = controller.submit(Intent::ChangeVoters(change), left.max(TRY_TIMEOUT)).await?;
        let result = match answer {
            IntentAnswer::Voters(result) => result,
            other => Err(VoterError::Refused(format!("the controller answered with {other:?}"))),
        };
        match result {
            Err(error) if error.is_passing() && left > RETRY_EVERY => tokio::time::sleep(RETRY_EVERY).await,
            result => return Ok(result),
        }
    }
}

/// One member of the quorum, as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    pub node: RaftNodeId,
    /// "host:port" of its cluster port.
    pub address: String,
    pub voter: bool,
    /// The newest log index it is known to hold.
    pub matched: Option<RaftIndex>,
    /// When it last answered the controller, and when it last held all of its log: milliseconds since 1970 by the
    /// controller's clock.
    pub last_fetch_ms: Option<i64>,
    pub last_caught_up_ms: Option<i64>,
}

/// The quorum, as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumReport {
    pub leader: RaftNodeId,
    pub term: u64,
    pub last_log_index: RaftIndex,
    pub committed: RaftIndex,
    pub members: Vec<MemberReport>,
    /// A change of the voters is under way: the voters are those before it and those after it.
    pub half_way: bool,
    /// When this was told.
    pub now_ms: i64,
}

impl QuorumReport {
    pub fn of(leader: RaftNodeId, status: &QuorumStatus, now_ms: i64) -> QuorumReport {
        let wall = |ago: Duration| now_ms - i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        let members = status.members.iter().map(|m| MemberReport {
            node: m.node,
            address: m.address.clone(),
            voter: m.voter,
            matched: m.matched,
            last_fetch_ms: m.heard.map(wall),
            last_caught_up_ms: m.caught_up.map(wall),
        });
        QuorumReport {
            leader,
            term: status.leadership.term,
            last_log_index: status.last_log_index,
            committed: status.committed,
            members: members.collect(),
            half_way: status.half_way.is_some(),
            now_ms,
        }
    }

    /// What an operator should know of the voters.
    pub fn warning(&self) -> Option<String> {
        if self.half_way {
            let why = "a change of the voters is under way: nothing is committed without a majority of those before it and \
                       of those after it";
            return Some(why.to_string());
        }
        warning(self.members.iter().filter(|m| m.voter).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::quorum::HalfWay;
    use uuid::Uuid;

    fn plan(status: &QuorumStatus, change: &VoterChange) -> Result<Step, VoterError> {
        super::plan(status, change, REACHABLE_WITHIN)
    }

    fn id(node: i32, directory: u128) -> RaftNodeId {
        RaftNodeId { node: BrokerId(node), directory: DirectoryId(Uuid::from_u128(directory)) }
    }

    fn member(node: RaftNodeId, voter: bool, matched: u64, heard_ms: Option<u64>) -> QuorumMember {
        let address = format!("node-{}:9093", node.node);
        let heard = heard_ms.map(Duration::from_millis);
        QuorumMember { node, address, voter, matched: Some(RaftIndex(matched)), heard, caught_up: heard }
    }

    /// Voters 1 to 3, all well; the log ends at 1,000.
    fn three() -> QuorumStatus {
        let members = (1..=3).map(|n| member(id(n, 1), true, 1_000, Some(10))).collect();
        QuorumStatus { last_log_index: RaftIndex(1_000), members, ..Default::default() }
    }

    fn add(node: i32) -> VoterChange {
        VoterChange::Add { node: BrokerId(node), directory: None }
    }

    fn remove(node: i32, force: bool) -> VoterChange {
        VoterChange::Remove { node: BrokerId(node), directory: None, force }
    }

    fn replace(node: i32, force: bool) -> VoterChange {
        VoterChange::ReplaceLost { node: BrokerId(node), force }
    }

    fn ids(step: &Step) -> Vec<RaftNodeId> {
        step.voters.iter().copied().collect()
    }

    #[test]
    fn a_learner_votes_once_it_answers_and_has_caught_up() {
        let mut status = three();
        assert_eq!(plan(&status, &add(4)), Err(VoterError::NotAMember(BrokerId(4))));
        assert_eq!(plan(&status, &add(3)), Err(VoterError::AlreadyVotes(id(3, 1))));
        status.members.push(member(id(4, 1), false, 899, Some(10)));
        let behind = VoterError::NotCaughtUp { node: id(4, 1), matched: RaftIndex(899), last: RaftIndex(1_000) };
        assert_eq!(plan(&status, &add(4)), Err(behind.clone()));
        assert!(behind.is_passing());
        status.members[3].matched = None;
        assert!(matches!(plan(&status, &add(4)), Err(VoterError::NotCaughtUp { .. })), "nothing is known to be there");
        status.members[3] = member(id(4, 1), false, 1_000, Some(2_001));
        assert_eq!(plan(&status, &add(4)), Err(VoterError::Unreachable(id(4, 1))), "what it had once does not count");
        status.members[3].heard = Some(Duration::from_millis(2_000));
        let step = plan(&status, &add(4)).unwrap();
        assert_eq!((ids(&step), step.leaves), (vec![id(1, 1), id(2, 1), id(3, 1), id(4, 1)], None));
    }

    #[test]
    fn of_two_folders_the_one_that_answers_votes() {
        let mut status = three();
        status.members.push(member(id(4, 1), false, 1_000, None));
        status.members.push(member(id(4, 2), false, 1_000, Some(10)));
        assert!(ids(&plan(&status, &add(4)).unwrap()).contains(&id(4, 2)), "the other one is lost");
        status.members[3].heard = Some(Duration::from_secs(60));
        assert!(ids(&plan(&status, &add(4)).unwrap()).contains(&id(4, 2)));
    }

    #[test]
    fn a_folder_that_is_named_must_be_the_one() {
        let mut status = three();
        status.members.push(member(id(4, 1), false, 1_000, Some(10)));
        let asked = DirectoryId(Uuid::from_u128(9));
        let with = |node| VoterChange::Add { node: BrokerId(node), directory: Some(asked) };
        let gone = |node| VoterChange::Remove { node: BrokerId(node), directory: Some(asked), force: true };
        let other = |node| VoterError::OtherDirectory { node: BrokerId(node), asked, actual: id(0, 1).directory };
        assert_eq!(plan(&status, &with(4)), Err(other(4)));
        assert_eq!(plan(&status, &gone(3)), Err(other(3)));
        assert!(matches!(plan(&status, &with(3)), Err(VoterError::VotesWithOtherFolder { .. })));
    }

    #[test]
    fn a_removal_leaves_a_majority_that_answers_unless_it_is_forced() {
        let mut status = three();
        assert_eq!(plan(&status, &remove(7, true)), Err(VoterError::NotAVoter(BrokerId(7))));
        assert_eq!(plan(&status, &remove(1, false)).unwrap().leaves, Some(id(1, 1)));
        status.members[2].heard = None;
        assert_eq!(ids(&plan(&status, &remove(3, false)).unwrap()), [id(1, 1), id(2, 1)], "the dead one may go");
        let lost = VoterError::WouldLoseMajority { reachable: 1, voters: 2, needed: 2 };
        assert_eq!(plan(&status, &remove(2, false)), Err(lost.clone()));
        assert!(lost.to_string().contains("--force") && !lost.is_passing());
        assert_eq!(ids(&plan(&status, &remove(2, true)).unwrap()), [id(1, 1), id(3, 1)]);
        status.members[1].heard = None;
        let stuck = VoterError::NoMajority { reachable: 1, voters: 3, needed: 2 };
        assert_eq!(plan(&status, &remove(2, true)), Err(stuck), "no force commits without the old majority");
    }

    #[test]
    fn one_change_at_a_time() {
        let mut status = three();
        status.half_way = Some(HalfWay { index: RaftIndex(900), committed: true });
        assert_eq!(plan(&status, &remove(1, true)), Err(VoterError::InProgress));
        assert!(VoterError::InProgress.is_passing());
        assert!(QuorumReport::of(id(1, 1), &status, 0).warning().unwrap().contains("under way"));
    }

    #[test]
    fn the_last_voter_stays() {
        let mut status = three();
        status.members.truncate(1);
        assert_eq!(plan(&status, &remove(1, true)), Err(VoterError::LastVoter(id(1, 1))));
    }

    #[test]
    fn a_lost_folders_vote_goes_to_the_new_one_in_one_step() {
        let mut status = three();
        assert_eq!(plan(&status, &replace(3, false)), Err(VoterError::NoNewFolder(BrokerId(3))));
        // Two folders came since; the one that answers is meant.
        status.members.push(member(id(3, 2), false, 400, None));
        status.members.push(member(id(3, 3), false, 1_000, Some(10)));
        assert_eq!(plan(&status, &replace(3, false)), Err(VoterError::NotLost(id(3, 1))));
        assert_eq!(ids(&plan(&status, &replace(3, true)).unwrap()), [id(1, 1), id(2, 1), id(3, 3)]);
        status.members[2].heard = Some(Duration::from_secs(60));
        let step = plan(&status, &replace(3, false)).unwrap();
        assert_eq!((ids(&step), step.leaves), (vec![id(1, 1), id(2, 1), id(3, 3)], Some(id(3, 1))));
        assert!(step.forget);
        status.members[4].matched = Some(RaftIndex(1));
        assert!(matches!(plan(&status, &replace(3, false)), Err(VoterError::NotCaughtUp { .. })));
    }

    #[test]
    fn even_numbers_are_warned_of() {
        assert_eq!([1, 3, 5].map(warning), [None, None, None]);
        assert!(warning(4).unwrap().contains("survive the loss of 1"));
        assert!(warning(2).unwrap().contains("survive the loss of 0"));
    }
}
