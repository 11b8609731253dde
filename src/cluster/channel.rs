//! The door to the controller: straight if it is this node, else over gRPC; retries what is safe to retry.

use super::node::{Node, stopped};
use super::peers::{self, Pool};
use super::proto::{SubmitRequest, submit_answer::Outcome};
use crate::controller::controller::{Controller, ControllerError, PROPOSE_TIMEOUT};
use crate::ids::RaftIndex;
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer, SubmitError, SubmitFuture};
use crate::metadata::raft::types::{RaftNodeId, decode_message, encode_message};
use crate::platform::clock;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Between two attempts while there is no controller.
const BACK_OFF: Duration = Duration::from_millis(20);
/// A controller that was replaced may still answer what it was asked; for this long.
const REPLACED_GRACE: Duration = Duration::from_millis(200);

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq)]
enum Attempt {
    Answered(RaftIndex, IntentAnswer),
    /// Certainly without effect: no controller, the wrong one, or no connection to it.
    NoEffect,
    /// It may or may not have taken effect.
    Unknown(String),
    /// Would fail the same way again.
    Refused(String),
}

/// What to do after an attempt.
#[derive(Debug, Clone, PartialEq)]
enum Next {
    Answer(RaftIndex, IntentAnswer),
    Retry,
    Fail(SubmitError),
}

/// The retry rules. An unknown outcome is retried only where doing it twice is doing it once.
fn next(attempt: Attempt, idempotent: bool) -> Next {
    match attempt {
        Attempt::Answered(index, answer) => Next::Answer(index, answer),
        Attempt::NoEffect => Next::Retry,
        Attempt::Unknown(_) if idempotent => Next::Retry,
        Attempt::Unknown(why) | Attempt::Refused(why) => Next::Fail(SubmitError::Unreachable(why)),
    }
}

/// Doing it twice is doing it once, and the second answer is true as well. Creations and compare-and-sets are not: the
/// second attempt would meet the first one's effect and answer "exists" or "stale" for what succeeded. Nor is an ISR
/// proposal: a second attempt that is refused says nothing about the first, so its leader has to know that there was one.
/// A block of producer ids allocated twice only leaves a gap.
fn is_idempotent(intent: &Intent) -> bool {
    match intent {
        Intent::SetConfigs { .. }
        | Intent::AllocateProducerIds { .. }
        | Intent::BeginShutdown { .. }
        | Intent::FenceSelf { .. }
        | Intent::ElectPreferred { .. }
        | Intent::SetDraining { .. }
        | Intent::MoveAway { .. }
        | Intent::DescribeQuorum
        | Intent::ReportDamage { .. } => true,
        Intent::CreateTopics { validate_only, .. } | Intent::CreatePartitions { validate_only, .. } => *validate_only,
        Intent::AlterIsr { .. }
        | Intent::DeleteTopics { .. }
        | Intent::ChangeGroups(_)
        | Intent::AlterReassignments { .. }
        | Intent::ElectUnclean { .. }
        | Intent::UnregisterBroker { .. }
        | Intent::ChangeVoters(_) => false,
    }
}

/// Cheap to clone. Its work runs on the control runtime, so that data load does not starve it.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
    runtime: Handle,
}

struct Inner {
    node: Node,
    controller: Arc<Controller>,
    pool: Pool,
    stop: watch::Receiver<bool>,
}

impl Channel {
    /// `stop` ends waiting intents with [`SubmitError::Stopping`].
    pub fn new(node: Node, controller: Arc<Controller>, runtime: Handle, stop: watch::Receiver<bool>) -> Channel {
        Channel { inner: Arc::new(Inner { node, controller, pool: Pool::default(), stop }), runtime }
    }
}

impl ControllerChannel for Channel {
    fn submit(&self, intent: Intent, timeout: Duration) -> SubmitFuture<'_> {
        let inner = self.inner.clone();
        let work = self.runtime.spawn(async move { inner.submit(intent, timeout).await });
        Box::pin(async move { work.await.unwrap_or(Err(SubmitError::Stopping)) })
    }
}

impl Inner {
    async fn submit(&self, intent: Intent, timeout: Duration) -> Result<IntentAnswer, SubmitError> {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = stopped(&mut stop) => Err(SubmitError::Stopping),
            result = self.submit_until(intent, timeout) => result,
        }
    }

    async fn submit_until(&self, intent: Intent, timeout: Duration) -> Result<IntentAnswer, SubmitError> {
        let deadline = clock::now() + timeout;
        let idempotent = is_idempotent(&intent);
        let mut leadership = self.node.quorum.leadership();
        let mut maybe_took_effect = false;
        loop {
            leadership.borrow_and_update();
            let attempt = match tokio::time::timeout(left(deadline), self.attempt(&intent)).await {
                Ok(attempt) => attempt,
                Err(_) => return Err(SubmitError::Timeout(timeout)),
            };
            maybe_took_effect |= matches!(attempt, Attempt::Unknown(_));
            match next(attempt, idempotent) {
                Next::Answer(index, answer) => {
                    // Committed: at the deadline the answer is still true, only this node's image is behind it.
                    self.node.quorum.await_applied(index, left(deadline)).await;
                    return Ok(answer);
                }
                Next::Fail(error) => return Err(error),
                Next::Retry => {}
            }
            if left(deadline).is_zero() {
                return Err(if maybe_took_effect { SubmitError::Timeout(timeout) } else { SubmitError::NoController });
            }
            let wait = BACK_OFF.min(left(deadline));
            let _ = tokio::time::timeout(wait, leadership.changed()).await;
        }
    }

    async fn attempt(&self, intent: &Intent) -> Attempt {
        let leadership = self.node.leadership();
        if leadership.is_controller {
            return match self.controller.handle(intent.clone()).await {
                Ok((index, answer)) => Attempt::Answered(index, answer),
                Err(ControllerError::NotController(_)) => Attempt::NoEffect,
                Err(ControllerError::Refused(why)) => Attempt::Refused(why),
                Err(error @ (ControllerError::Unknown(_) | ControllerError::Stopped(_))) => {
                    Attempt::Unknown(error.to_string())
                }
            };
        }
        match self.node.leader() {
            Some((leader, address)) if leader != self.node.me => self.attempt_remote(intent, leader, &address).await,
            _ => Attempt::NoEffect,
        }
    }

    async fn attempt_remote(&self, intent: &Intent, leader: RaftNodeId, address: &str) -> Attempt {
        let (mut client, intent) = match (self.pool.get(address), encode_message(intent)) {
            (Ok(client), Ok(intent)) => (client, intent),
            (Err(status), _) => return Attempt::Refused(status.message().to_string()),
            (_, Err(error)) => return Attempt::Refused(error.to_string()),
        };
        let request = SubmitRequest { cluster_id: self.node.cluster.text(), intent };
        let answer = tokio::select! {
            answer = client.submit(request) => answer,
            () = self.replaced(leader) => {
                self.pool.forget(address);
                return Attempt::Unknown(format!("controller {leader} was replaced before it answered"));
            }
            () = tokio::time::sleep(PROPOSE_TIMEOUT + Duration::from_secs(1)) => {
                self.pool.forget(address);
                return Attempt::Unknown(format!("controller {leader} at {address} does not answer"));
            }
        };
        match answer {
            Ok(answer) => match answer.into_inner().outcome {
                Some(Outcome::Answered(answered)) => match decode_message(&answered.answer) {
                    Ok(answer) => Attempt::Answered(RaftIndex(answered.raft_index), answer),
                    Err(error) => Attempt::Unknown(error.to_string()),
                },
                Some(Outcome::NotController(_)) => Attempt::NoEffect,
                Some(Outcome::Unknown(why)) => Attempt::Unknown(why),
                Some(Outcome::Refused(why)) => Attempt::Refused(why),
                None => Attempt::Refused(format!("controller {leader} answered in a way this version does not know")),
            },
            Err(status) => {
                self.pool.forget(address);
                match status.code() {
                    _ if peers::never_sent(&status) => Attempt::NoEffect,
                    // Said before anything was done with the intent.
                    tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument => {
                        Attempt::Refused(status.message().to_string())
                    }
                    _ => Attempt::Unknown(status.message().to_string()),
                }
            }
        }
    }

    /// Resolves a little after another leader than `leader` is known.
    async fn replaced(&self, leader: RaftNodeId) {
        let mut leadership = self.node.quorum.leadership();
        let other = leadership.wait_for(|now| now.leader.is_some_and(|l| l != leader)).await.is_ok();
        if !other {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(REPLACED_GRACE).await;
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(clock::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use crate::metadata::command::GroupChange;

    #[test]
    fn only_what_is_safe_is_tried_again() {
        let unknown = || Attempt::Unknown("broken pipe".into());
        let answered = Attempt::Answered(RaftIndex(7), IntentAnswer::Done);
        assert_eq!(next(answered, false), Next::Answer(RaftIndex(7), IntentAnswer::Done));
        assert_eq!(next(Attempt::NoEffect, false), Next::Retry, "nothing happened: safe for all");
        assert_eq!(next(unknown(), true), Next::Retry);
        assert_eq!(next(unknown(), false), Next::Fail(SubmitError::Unreachable("broken pipe".into())));
        assert!(matches!(next(Attempt::Refused("wrong cluster".into()), true), Next::Fail(_)), "never gets better");
    }

    #[test]
    fn which_intents_may_run_twice() {
        let create = |validate_only| Intent::CreateTopics { topics: Vec::new(), validate_only };
        assert!(!is_idempotent(&create(false)), "the second would answer 'exists' for what succeeded");
        assert!(is_idempotent(&create(true)));
        let change = GroupChange {
            group: "g".into(),
            coordinator: TopicPartition::new(TopicId::default(), 0),
            leader_epoch: LeaderEpoch(0),
            expected: 1,
            revision: 2,
            write: None,
        };
        assert!(!is_idempotent(&Intent::ChangeGroups(vec![change])));
        let isr = Intent::AlterIsr { broker: BrokerId(1), epoch: BrokerEpoch(1), proposals: Vec::new() };
        assert!(!is_idempotent(&isr), "its leader must know that an earlier attempt may still land");
        assert!(is_idempotent(&Intent::FenceSelf { broker: BrokerId(1), epoch: BrokerEpoch(1) }));
    }
}
