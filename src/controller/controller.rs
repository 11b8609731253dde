//! The controller's shell: takes intents, commits what the planning files choose, answers each item.

use super::election;
use super::placement::{self, Load};
use super::plan::{Item, PARTITIONS_PER_COMMAND_MAX, Packer, Plan};
use super::replica_states::{ReplicaState, ReplicaStates};
use super::voters::VoterChanges;
use super::{configs, groups, isr_change, moves, producer_ids, topics, unclean};
use crate::config::broker::NodeConfig;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::image::Image;
use crate::metadata::intent::{Intent, IntentAnswer, IntentError};
use crate::metadata::quorum::{ProposeError, Quorum};
use crate::metadata::raft::types::RaftNodeId;
use crate::metadata::voters::QuorumReport;
use crate::platform::{clock, random};
use futures::future::join_all;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A commit takes a few milliseconds; after this long its outcome is called unknown.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// An item that another change of its partition came between is tried so many times in all.
const ATTEMPTS_MAX: usize = 5;
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
    pub(super) quorum: Quorum,
    pub(super) config: Arc<NodeConfig>,
    replicas: Arc<dyn ReplicaStates>,
    loads: Mutex<Option<CountedLoads>>,
    voter_changes: VoterChanges,
}

impl Controller {
    pub fn new(quorum: Quorum, config: Arc<NodeConfig>, replicas: Arc<dyn ReplicaStates>) -> Controller {
        Controller { quorum, config, replicas, loads: Mutex::new(None), voter_changes: VoterChanges::default() }
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
                self.commit_results(&image, configs::plan(&image, &self.config.kafka, changes, validate_only)).await
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
            Intent::ChangeGroups(changes) => self.commit_results(&image, groups::plan(changes)).await,
            Intent::BeginShutdown { broker, epoch } => {
                let (index, answer) = self.propose(Command::BeginShutdown { broker, epoch }).await?;
                Ok((index, one_result(answer)))
            }
            Intent::FenceSelf { broker, epoch } => {
                let (index, answer) = self.fence(vec![(broker, epoch)], FenceReason::Shutdown).await?;
                Ok((index, one_result(answer)))
            }
            Intent::ElectPreferred { partitions } => {
                let plan = |image: &Image, ids: Vec<TopicPartition>| {
                    elections_plan(ids.into_iter().map(|id| election::asked(image, id)))
                };
                self.commit_fresh(partitions, plan).await
            }
            Intent::ElectUnclean { partitions } => {
                let elections = self.unclean_elections(&image, &partitions).await;
                self.commit_results(&image, elections_plan(elections.into_iter())).await
            }
            Intent::AlterReassignments { wishes, keep_replication_factor } => {
                let plan = |image: &Image, wishes| moves::alter(image, wishes, keep_replication_factor);
                self.commit_fresh(wishes, plan).await
            }
            Intent::MoveAway { broker } => match self.with_loads(&image, |loads, _| moves::away(&image, loads, broker))
            {
                Ok(plan) => self.commit_results(&image, plan).await,
                Err(error) => Ok((image.index, IntentAnswer::Results(vec![Err(error)]))),
            },
            Intent::SetDraining { broker, draining } => {
                let (index, answer) = self.propose(Command::SetDraining { broker, draining }).await?;
                Ok((index, one_result(answer)))
            }
            Intent::UnregisterBroker { broker, force } => match moves::unregister(&image, broker, force) {
                Ok(command) => {
                    let (index, answer) = self.propose(command).await?;
                    Ok((index, one_result(answer)))
                }
                Err(error) => Ok((image.index, IntentAnswer::Results(vec![Err(error)]))),
            },
            Intent::DescribeQuorum => {
                let report = QuorumReport::of(self.quorum.me(), &self.quorum.status(), clock::wall_ms());
                Ok((image.index, IntentAnswer::Quorum(report)))
            }
            Intent::ChangeVoters(change) => {
                let result = self.voter_changes.make(&self.quorum, change).await?;
                Ok((image.index, IntentAnswer::Voters(result)))
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
    pub(super) async fn seed_configs(&self) {
        let changes = configs::seeds(&self.quorum.image(), &self.config.kafka);
        if changes.set.is_empty() {
            return;
        }
        tracing::info!(configs = ?changes.set, "the cluster's defaults come from this node's configuration");
        if let Err(error) = self.propose(Command::SetConfigs { changes: vec![changes] }).await {
            tracing::warn!(%error, "the cluster's defaults were not set; the next controller tries again");
        }
    }

    /// The states of the replicas of `asked`; a broker that does not tell is missing.
    pub(super) async fn ask(&self, asked: Vec<(BrokerId, TopicPartition)>) -> BTreeMap<BrokerId, Vec<ReplicaState>> {
        let mut by_broker = BTreeMap::<BrokerId, Vec<TopicPartition>>::new();
        for (broker, id) in asked {
            by_broker.entry(broker).or_default().push(id);
        }
        let answers = by_broker.into_iter().map(|(broker, ids)| async move {
            match self.replicas.ask(broker, ids).await {
                Ok(states) => Some((broker, states)),
                Err(error) => {
                    tracing::warn!(%broker, error, "a broker does not tell what its replicas hold");
                    None
                }
            }
        });
        join_all(answers).await.into_iter().flatten().collect()
    }

    /// One election a partition, or why there is none.
    pub(super) async fn unclean_elections(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> Vec<Result<Election, IntentError>> {
        let to_ask: Vec<_> = partitions.iter().map(|id| (*id, unclean::to_ask(image, *id))).collect();
        let mut asked = Vec::new();
        for (id, brokers) in &to_ask {
            asked.extend(brokers.iter().flatten().map(|broker| (*broker, *id)));
        }
        let told = self.ask(asked).await;
        to_ask
            .into_iter()
            .map(|(id, brokers)| {
                let states = told.iter().filter_map(|(broker, states)| {
                    Some((*broker, states.iter().find(|state| state.partition == id)?.clone()))
                });
                unclean::choose(image, id, &brokers?, &states.collect())
            })
            .collect()
    }

    pub(super) fn check_controller(&self) -> Result<(), ControllerError> {
        check_leads(&self.quorum)
    }

    pub(super) async fn propose(&self, command: Command) -> Result<(RaftIndex, Answer), ControllerError> {
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

    /// As [`commit_results`](Self::commit_results) of what is planned for `wishes`; those that an ISR change came between
    /// are planned anew by the image that has it.
    async fn commit_fresh<W: Clone>(
        &self,
        wishes: Vec<W>,
        plan: impl Fn(&Image, Vec<W>) -> Plan<()>,
    ) -> Result<(RaftIndex, IntentAnswer), ControllerError> {
        let image = self.quorum.image();
        let (mut index, mut results) = self.commit(&image, plan(&image, wishes.clone()), |(), _| ()).await?;
        for _ in 1..ATTEMPTS_MAX {
            let stale: Vec<usize> = (0..results.len()).filter(|at| is_stale(&results[*at])).collect();
            if stale.is_empty() {
                break;
            }
            let image = self.quorum.image();
            let again = stale.iter().map(|at| wishes[*at].clone()).collect();
            let fresh = self.commit(&image, plan(&image, again), |(), _| ()).await;
            let (at, fresh) = fresh.map_err(|error| after_commits(error, 1))?;
            index = at;
            for (place, result) in stale.into_iter().zip(fresh) {
                results[place] = result;
            }
        }
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

/// This node is the controller; else who may be.
pub(super) fn check_leads(quorum: &Quorum) -> Result<(), ControllerError> {
    let leadership = *quorum.leadership().borrow();
    if leadership.is_controller { Ok(()) } else { Err(ControllerError::NotController(leadership.leader)) }
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

/// The answer of a command that is about one thing.
fn one_result(answer: Answer) -> IntentAnswer {
    match answer {
        Answer::Refused(error) => IntentAnswer::Results(vec![Err(error.into())]),
        _ => IntentAnswer::Done,
    }
}

fn is_stale(result: &Result<(), IntentError>) -> bool {
    matches!(result, Err(IntentError::Metadata(MetadataError::StalePartitionEpoch { .. })))
}

fn elections_plan(elections: impl Iterator<Item = Result<Election, IntentError>>) -> Plan<()> {
    let mut packer = Packer::new(PARTITIONS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let items = elections
        .map(|election| match election.map(|election| packer.add(election, 1)) {
            Ok(Ok((command, position))) => Item::Proposed { command, position, outcome: () },
            Ok(Err(_)) => Item::Decided(Err(IntentError::InvalidRequest("the election is too large".to_string()))),
            Err(error) => Item::Decided(Err(error)),
        })
        .collect();
    Plan { commands: packer.into_commands(|elections| Command::ElectLeaders { elections }), items }
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
        let asked = [at(0), at(1), at(2), at(9)].into_iter().map(|id| election::asked(&image, id));
        let plan = elections_plan(asked);
        assert!(matches!(plan.items[0], Item::Proposed { position: 0, .. }));
        let refused = |item: &Item<()>| match item {
            Item::Decided(Err(error)) => error.clone(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(refused(&plan.items[1]), IntentError::PreferredLeaderNotAvailable(_)), "not in sync");
        assert_eq!(refused(&plan.items[2]), IntentError::ElectionNotNeeded);
        assert_eq!(refused(&plan.items[3]), MetadataError::UnknownPartition.into());
    }

    #[test]
    fn losing_the_controllership_half_way_is_an_unknown_outcome() {
        let lost = || ControllerError::NotController(None);
        assert_eq!(after_commits(lost(), 0), lost());
        assert!(matches!(after_commits(lost(), 1), ControllerError::Unknown(_)));
    }
}
