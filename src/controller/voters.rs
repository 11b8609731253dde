//! Changing who votes, one change at a time: checked against what this controller sees, then carried out.

use super::controller::{ControllerError, check_leads};
use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::quorum::{MembershipError, Quorum};
use crate::metadata::raft::types::RaftNodeId;
use crate::metadata::voters::{self, REACHABLE_WITHIN, Step, VoterChange, VoterError, VoterOutcome};
use crate::platform::clock;
use std::time::Duration;
use tokio::sync::Mutex;

/// Heartbeats between the voters come every 50 ms.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Held while a change is under way: a second one is told so instead of waiting.
#[derive(Default)]
pub(super) struct VoterChanges {
    one_at_a_time: Mutex<()>,
}

impl VoterChanges {
    /// The inner error is the answer; the outer one is of a node that cannot give it.
    pub async fn make(
        &self,
        quorum: &Quorum,
        change: VoterChange,
    ) -> Result<Result<VoterOutcome, VoterError>, ControllerError> {
        let Ok(_turn) = self.one_at_a_time.try_lock() else { return Ok(Err(VoterError::InProgress)) };
        let step = match ready(quorum, &change).await {
            Ok(step) => step,
            // Who lost the leadership meanwhile hears nobody, which says nothing about the voters.
            Err(error) => return check_leads(quorum).map(|()| Err(error)),
        };
        let keep = stays_a_learner(&quorum.image(), &step);
        tracing::info!(?change, voters = ?names(&step), "changing who votes");
        let outcome = match quorum.change_voters(step.voters.clone(), keep).await {
            Ok(()) => Ok(VoterOutcome {
                voters: step.voters.iter().copied().collect(),
                warning: voters::warning(step.voters.len()),
            }),
            Err(error) => Err(refusal(error)?),
        };
        match &outcome {
            Ok(_) => tracing::info!(voters = ?names(&step), "the voters changed"),
            Err(error) => tracing::warn!(%error, "the voters were not changed"),
        }
        if step.leaves == Some(quorum.me()) && outcome.is_ok() {
            tracing::info!("this node votes no more: it hands over to one that does");
        }
        Ok(outcome)
    }
}

/// Plans the change once a majority has answered since it was asked for, which takes a heartbeat.
async fn ready(quorum: &Quorum, change: &VoterChange) -> Result<Step, VoterError> {
    let asked = clock::now();
    loop {
        let passed = clock::now().saturating_duration_since(asked);
        match voters::plan(&quorum.status(), change, passed) {
            Err(VoterError::WouldLoseMajority { .. } | VoterError::NoMajority { .. }) if passed < REACHABLE_WITHIN => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            result => return result,
        }
    }
}

/// One that hosts a broker goes on following the log; a lost folder, or a node that only voted, is forgotten.
fn stays_a_learner(image: &Image, step: &Step) -> bool {
    let hosts_broker = |id: RaftNodeId| {
        image.brokers.get(&id.node).is_some_and(|broker| broker.registration.directory == id.directory)
    };
    !step.forget && step.leaves.is_some_and(hosts_broker)
}

fn names(step: &Step) -> Vec<BrokerId> {
    step.voters.iter().map(|id| id.node).collect()
}

fn refusal(error: MembershipError) -> Result<VoterError, ControllerError> {
    Ok(match error {
        MembershipError::NotController(leader) => return Err(ControllerError::NotController(leader)),
        MembershipError::Fatal(why) => return Err(ControllerError::Stopped(why)),
        MembershipError::InProgress => VoterError::InProgress,
        MembershipError::Unknown(_) => VoterError::Unknown,
        MembershipError::NotAMember(id) => VoterError::NotAMember(id.node),
        MembershipError::NotCaughtUp { node, matched, last } => {
            VoterError::NotCaughtUp { node, matched: matched.unwrap_or_default(), last }
        }
        error @ (MembershipError::AlreadyFormed | MembershipError::WrongCluster(_) | MembershipError::Refused(_)) => {
            VoterError::Refused(error.to_string())
        }
    })
}
