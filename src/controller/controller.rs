//! The controller's shell: takes intents, commits what the planning files choose, answers each item.

use super::election::{self, PreferredElections};
use super::placement::{self, Load};
use super::plan::{Item, PARTITIONS_PER_COMMAND_MAX, Packer, Plan};
use super::{configs, isr_change, producer_ids, topics};
use crate::config::broker::NodeConfig;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::image::Image;
use crate::metadata::intent::{Intent, IntentAnswer, IntentError};
use crate::metadata::quorum::{ProposeError, Quorum};
use crate::metadata::raft::types::RaftNodeId;
use crate::platform::{clock, random};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;

/// A commit takes a few milliseconds; after this long its outcome is called unknown.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Loads are counted over the whole image at most this often; what was placed meanwhile is added as it is placed.
const LOADS_FRESH: Duration = Duration::from_secs(5);

/// Why an intent got no answer as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    #[error("this node is not the controller; the leader is {0:?}")]
    NotController(Option<RaftNodeId>),
    #[error("not committed within {0:?}; the outcome is unknown")]
    Unknown(Duration),
    /// Without effect, and the same again if it is tried again.
    #[error("{0}")]
    Refused(String),
    #[error("the metadata quorum on this node stopped: {0}")]
    Stopped(String),
}

impl From<ProposeError> for ControllerError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotController(leader) => ControllerError::NotController(leader),
            ProposeError::Unknown(after) => ControllerError::Unknown(after),
            error @ ProposeError::TooLarge { .. } => ControllerError::Refused(error.to_string()),
            ProposeError::Fatal(why) => ControllerError::Stopped(why),
        }
    }
}

/// What each broker carries, as of the last count plus what was placed since.
struct CountedLoads {
    at: Instant,
    loads: BTreeMap<BrokerId, Load>,
}

/// Answers intents while this node is the controller, and refuses them otherwise.
///
/// Its choices may be stale by the time they commit; `apply` checks every epoch again, so that costs a retry at worst.
pub struct Controller {
    quorum: Quorum,
    config: Arc<NodeConfig>,
    loads: Mutex<Option<CountedLoads>>,
}

impl Controller {
    pub fn new(quorum: Quorum, config: Arc<NodeConfig>) -> Controller {
        Controller { quorum, config, loads: Mutex::new(None) }
    }

    /// Commits what the intent asks for. Answers once applied here, with the index at which the answer holds.
    pub async fn handle(&self, intent: Intent) -> Result<(RaftIndex, IntentAnswer), ControllerError> {
        self.check_controller()?;
        let image = self.quorum.image();
        match intent {
            Intent::CreateTopics { topics, validate_only } => {
                let defaults = topics::Defaults::of(&self.config);
                let plan = self.with_loads(&image, |loads, seed| {
                    let fresh_id = || TopicId(random::uuid());
                    topics::create(&image, defaults, loads, seed, topics, validate_only, fresh_id)
                });
                let (index, results) = self.commit(&image, plan, |outcome, _| outcome).await?;
                Ok((index, IntentAnswer::Topics(results)))
            }
            Intent::CreatePartitions { topics, validate_only } => {
                let plan =
                    self.with_loads(&image, |loads, seed| topics::grow(&image, loads, seed, topics, validate_only));
                let (index, results) = self.commit(&image, plan, |outcome, _| outcome).await?;
                Ok((index, IntentAnswer::Topics(results)))
            }
            Intent::DeleteTopics { topics } => self.commit_results(&image, topics::delete(&image, topics)).await,
            Intent::SetConfigs { changes, validate_only } => {
                self.commit_results(&image, configs::plan(&image, changes, validate_only)).await
            }
            Intent::AlterIsr { broker, epoch, proposals } => {
                let plan = isr_change::plan(&image, broker, epoch, proposals);
                let (index, results) =
                    self.commit(&image, plan, |placeholder, epoch| epoch.unwrap_or(placeholder)).await?;
                Ok((index, IntentAnswer::Isr(results)))
            }
            Intent::AllocateProducerIds { broker, epoch } => {
                match self.propose(producer_ids::allocate(broker, epoch)).await? {
                    (index, Answer::ProducerIds { first, count }) => {
                        Ok((index, IntentAnswer::ProducerIds { first, count }))
                    }
                    (index, answer) => Ok((index, one_result(answer))),
                }
            }
            Intent::SetGroup(change) => {
                let mut packer = Packer::new(1, 1);
                let item = match packer.add(change, 1) {
                    Ok((command, position)) => Item::Proposed { command, position, outcome: () },
                    Err(too_large) => Item::Decided(Err(IntentError::InvalidRequest(format!(
                        "the group's membership takes {} bytes, more than one metadata command may have",
                        too_large.bytes
                    )))),
                };
                let commands = packer.into_commands(|mut changes| {
                    Command::SetGroup(changes.pop().expect("a packed command has one change"))
                });
                self.commit_results(&image, Plan { commands, items: vec![item] }).await
            }
            Intent::BeginShutdown { broker, epoch } => {
                let (index, answer) = self.propose(Command::BeginShutdown { broker, epoch }).await?;
                Ok((index, one_result(answer)))
            }
            Intent::FenceSelf { broker, epoch } => {
                let (index, answer) = self.fence(vec![(broker, epoch)], FenceReason::Shutdown).await?;
                Ok((index, one_result(answer)))
            }
            Intent::ElectPreferred { partitions } => {
                self.commit_results(&image, elections_asked(&image, partitions)).await
            }
            Intent::ReportDamage { broker, epoch, reports } => {
                self.commit_results(&image, isr_change::damage(broker, epoch, reports)).await
            }
        }
    }

    /// Commits a registration; the answer carries the new broker epoch.
    pub async fn register(&self, registration: BrokerRegistration) -> Result<(RaftIndex, Answer), ControllerError> {
        self.propose(Command::RegisterBroker(registration)).await
    }

    pub async fn fence(
        &self,
        brokers: Vec<(BrokerId, BrokerEpoch)>,
        reason: FenceReason,
    ) -> Result<(RaftIndex, Answer), ControllerError> {
        self.propose(Command::FenceBrokers { brokers, reason }).await
    }

    pub async fn unfence(&self, broker: BrokerId, epoch: BrokerEpoch) -> Result<(RaftIndex, Answer), ControllerError> {
        self.propose(Command::UnfenceBroker { broker, epoch }).await
    }

    /// Commits what this node's file says of configs that every node must see alike, where the cluster has no value yet.
    /// Set once, they change only through IncrementalAlterConfigs of the broker default.
    async fn seed_configs(&self) {
        let changes = configs::seeds(&self.quorum.image(), &self.config.kafka);
        if changes.set.is_empty() {
            return;
        }
        tracing::info!(configs = ?changes.set, "the cluster's defaults come from this node's configuration");
        if let Err(error) = self.propose(Command::SetConfigs { changes: vec![changes] }).await {
            tracing::warn!(%error, "the cluster's defaults were not set; the next controller tries again");
        }
    }

    /// Gives leadership back to preferred replicas, tick by tick, while this node is the controller.
    pub async fn run_elections(&self, mut stop: watch::Receiver<bool>) {
        let mut updates = self.quorum.subscribe();
        let mut leadership = self.quorum.leadership();
        let mut elections: Option<PreferredElections> = None;
        let mut tick = tokio::time::interval(election::TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let leads = leadership.borrow_and_update().is_controller;
                    if leads {
                        self.seed_configs().await;
                    }
                    elections = (leads && self.returns_leadership()).then(|| self.all_elections());
                }
                update = updates.recv() => match update {
                    Ok(update) => {
                        if let Some(elections) = &mut elections {
                            if update.resync {
                                elections.rebuild(&update.image, clock::now());
                            } else {
                                let changed = update.events.iter().filter_map(|e| e.event.partition());
                                elections.observe(&update.image, changed, clock::now());
                            }
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        // The rest of the backlog is older than the image looked at now.
                        while !matches!(updates.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
                        if let Some(elections) = &mut elections {
                            elections.rebuild(&self.quorum.image(), clock::now());
                        }
                    }
                    Err(RecvError::Closed) => return,
                },
                _ = tick.tick() => {
                    let due = elections.as_mut().map(|e| e.due(&self.quorum.image(), clock::now())).unwrap_or_default();
                    if !due.is_empty() {
                        let count = due.len();
                        match self.propose(Command::ElectLeaders { elections: due }).await {
                            Ok(_) => tracing::info!(partitions = count, "leaders handed back"),
                            Err(error) => tracing::warn!(%error, "could not hand leaders back; will try again"),
                        }
                    }
                }
            }
        }
    }

    fn all_elections(&self) -> PreferredElections {
        let mut elections = PreferredElections::default();
        elections.rebuild(&self.quorum.image(), clock::now());
        elections
    }

    fn returns_leadership(&self) -> bool {
        self.config.kafka.boolean("auto.leader.rebalance.enable")
    }

    fn check_controller(&self) -> Result<(), ControllerError> {
        let leadership = *self.quorum.leadership().borrow();
        if leadership.is_controller { Ok(()) } else { Err(ControllerError::NotController(leadership.leader)) }
    }

    async fn propose(&self, command: Command) -> Result<(RaftIndex, Answer), ControllerError> {
        self.check_controller()?;
        Ok(self.quorum.propose(command, PROPOSE_TIMEOUT).await?)
    }

    /// Commits a plan's commands in order. If one has an unknown outcome so has the intent: an answer for the items
    /// before it would hide that.
    async fn commit<T>(
        &self,
        image: &Image,
        mut plan: Plan<T>,
        finish: impl Fn(T, Option<PartitionEpoch>) -> T,
    ) -> Result<(RaftIndex, Vec<Result<T, IntentError>>), ControllerError> {
        let mut index = image.index;
        let mut answers = Vec::with_capacity(plan.commands.len());
        for (number, command) in std::mem::take(&mut plan.commands).into_iter().enumerate() {
            let (at, answer) = self.propose(command).await.map_err(|error| after_commits(error, number))?;
            index = at;
            answers.push(answer);
        }
        Ok((index, plan.resolve(&answers, finish)))
    }

    async fn commit_results(
        &self,
        image: &Image,
        plan: Plan<()>,
    ) -> Result<(RaftIndex, IntentAnswer), ControllerError> {
        let (index, results) = self.commit(image, plan, |(), _| ()).await?;
        Ok((index, IntentAnswer::Results(results)))
    }

    /// The short lock is held over planning, so that two requests at once do not both choose the idlest broker.
    fn with_loads<R>(&self, image: &Image, plan: impl FnOnce(&mut BTreeMap<BrokerId, Load>, u64) -> R) -> R {
        let now = clock::now();
        let seed = random::between(0..u64::MAX);
        let mut counted = self.loads.lock();
        let fresh = counted.take().filter(|c| now.saturating_duration_since(c.at) < LOADS_FRESH);
        let counted =
            counted.insert(fresh.unwrap_or_else(|| CountedLoads { at: now, loads: placement::count_loads(image) }));
        plan(&mut counted.loads, seed)
    }
}

/// "Not the controller" means "nothing happened" only for the first command; after it, part of the intent is committed.
fn after_commits(error: ControllerError, committed: usize) -> ControllerError {
    match error {
        ControllerError::NotController(_) | ControllerError::Refused(_) if committed > 0 => {
            ControllerError::Unknown(Duration::ZERO)
        }
        other => other,
    }
}

/// Resolves when `stop` says so, or when nobody is left to say it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The answer of a command that is about one thing.
fn one_result(answer: Answer) -> IntentAnswer {
    match answer {
        Answer::Refused(error) => IntentAnswer::Results(vec![Err(error.into())]),
        _ => IntentAnswer::Done,
    }
}

/// An empty list asks for all partitions that a preferred replica could lead again: then there is nothing to answer a
/// partition, and the results tell only of elections that were tried.
fn elections_asked(image: &Image, partitions: Vec<TopicPartition>) -> Plan<()> {
    let all = partitions.is_empty();
    let partitions = if all { all_partitions(image) } else { partitions };
    let mut packer = Packer::new(PARTITIONS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let mut items = Vec::new();
    for id in partitions {
        match election::asked(image, id) {
            Ok(Some(election)) => items.push(match packer.add(election, 1) {
                Ok((command, position)) => Item::Proposed { command, position, outcome: () },
                Err(_) => Item::Decided(Err(IntentError::InvalidRequest("the election is too large".to_string()))),
            }),
            Ok(None) if !all => items.push(Item::Decided(Ok(()))),
            Err(error) if !all => items.push(Item::Decided(Err(error))),
            Ok(None) | Err(_) => {}
        }
    }
    Plan { commands: packer.into_commands(|elections| Command::ElectLeaders { elections }), items }
}

fn all_partitions(image: &Image) -> Vec<TopicPartition> {
    let of_topic = |topic: &crate::metadata::image::topics::Topic| {
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let id = topic.id;
        (0..count).map(move |number| TopicPartition::new(id, number))
    };
    image.topics.values().flat_map(|topic| of_topic(topic)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{edit, image_with, topic};
    use super::*;

    #[test]
    fn electing_preferred_leaders_on_request() {
        let mut image = image_with(&[1, 2]);
        let id = topic(&mut image, "t", 1, &[&[1, 2], &[1, 2], &[2, 1]]);
        let at = |n| TopicPartition::new(id, n);
        edit(&mut image, at(0), |p| p.leader = Some(BrokerId(2)));
        edit(&mut image, at(1), |p| (p.leader, p.isr) = (Some(BrokerId(2)), vec![BrokerId(2)]));
        let plan = elections_asked(&image, vec![at(0), at(1), at(2), at(9)]);
        assert!(matches!(plan.items[0], Item::Proposed { position: 0, .. }));
        assert!(matches!(plan.items[1], Item::Decided(Err(_))), "not in sync");
        assert!(matches!(plan.items[2], Item::Decided(Ok(()))), "leads already");
        assert!(matches!(plan.items[3], Item::Decided(Err(_))), "unknown");
        assert_eq!(elections_asked(&image, Vec::new()).items.len(), 1, "all means: those that can be");
    }

    #[test]
    fn losing_the_controllership_half_way_is_an_unknown_outcome() {
        let lost = || ControllerError::NotController(None);
        assert_eq!(after_commits(lost(), 0), lost());
        assert!(matches!(after_commits(lost(), 1), ControllerError::Unknown(_)));
    }
}
