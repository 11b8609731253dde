//! The controller's elections as they go: follows the image, asks replicas where the image does not know, proposes.
//!
//! What takes an answer from another node runs beside the rest, so that a broker that does not answer holds up nobody's
//! drain or shutdown.

use super::controller::Controller;
use super::election::{self, PreferredElections};
use super::unclean::Leaderless;
use crate::ids::*;
use crate::metadata::command::{Answer, Command, Election, ElectionReason};
use crate::metadata::event::Event;
use crate::metadata::quorum::Update;
use crate::platform::clock;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;

/// Rounds of questions under way at a time.
const ROUNDS_MAX: usize = 4;

/// What the acting controller watches.
struct Watched {
    /// `None`: leaders are not handed back by themselves.
    preferred: Option<PreferredElections>,
    leaderless: Leaderless,
}

impl Controller {
    /// Gives leadership back to preferred replicas, and elects uncleanly where that is allowed, while this node is the
    /// controller.
    pub async fn run_elections(&self, mut stop: watch::Receiver<bool>) {
        let mut updates = self.quorum.subscribe();
        let mut leadership = self.quorum.leadership();
        // A node that led when it stopped may lead again before this task begins.
        leadership.mark_changed();
        let mut watched: Option<Watched> = None;
        let mut rounds = FuturesUnordered::<BoxFuture<'_, ()>>::new();
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
                    watched = leads.then(|| self.watch_all());
                }
                update = updates.recv() => match update {
                    Ok(update) => {
                        if let Some(watched) = &mut watched {
                            watched.take(&update);
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        // The rest of the backlog is older than the image looked at now.
                        while !matches!(updates.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
                        if watched.is_some() {
                            watched = Some(self.watch_all());
                        }
                    }
                    Err(RecvError::Closed) => return,
                },
                Some(()) = rounds.next(), if !rounds.is_empty() => {}
                _ = tick.tick() => {
                    let Some(watched) = &mut watched else { continue };
                    if rounds.len() >= ROUNDS_MAX {
                        continue;
                    }
                    let (image, now) = (self.quorum.image(), clock::now());
                    let due = watched.preferred.as_mut().map(|e| e.due(&image, now)).unwrap_or_default();
                    if !due.is_empty() {
                        rounds.push(Box::pin(self.hand_back(due)));
                    }
                    let orphans = watched.leaderless.due(&image, now);
                    if !orphans.is_empty() {
                        rounds.push(Box::pin(self.adopt(orphans)));
                    }
                }
            }
        }
    }

    fn watch_all(&self) -> Watched {
        let (image, now) = (self.quorum.image(), clock::now());
        let hands_back = self.config.kafka.boolean("auto.leader.rebalance.enable");
        let mut watched =
            Watched { preferred: hands_back.then(PreferredElections::default), leaderless: Leaderless::default() };
        watched.preferred.iter_mut().for_each(|preferred| preferred.rebuild(&image, now));
        watched.leaderless.rebuild(&image, now);
        watched
    }

    /// A leader on its way out goes at once; one that only is not the preferred one waits until that has caught up.
    async fn hand_back(&self, due: Vec<Election>) {
        let (preferred, mut elections): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|election| election.reason == ElectionReason::Preferred);
        if !preferred.is_empty() {
            let image = self.quorum.image();
            let leader_of = |e: &Election| Some((image.partition(e.partition)?.leader?, e.partition));
            let asked = preferred.iter().filter_map(leader_of).collect();
            let told: Vec<_> = self.ask(asked).await.into_values().flatten().collect();
            elections.extend(preferred.into_iter().filter(|e| election::is_caught_up(&image, e, &told)));
        }
        self.elect(elections, "leaders handed over").await;
    }

    /// Where nobody who held everything is alive, and the topic would rather lose than wait.
    async fn adopt(&self, orphans: Vec<TopicPartition>) {
        let image = self.quorum.image();
        let elections = self.unclean_elections(&image, &orphans).await;
        for (id, election) in orphans.iter().zip(&elections) {
            if let Err(error) = election {
                tracing::warn!(partition = %id, %error, "no unclean election yet");
            }
        }
        self.elect(elections.into_iter().flatten().collect(), "leaders elected uncleanly").await;
    }

    async fn elect(&self, elections: Vec<Election>, what: &str) {
        if elections.is_empty() {
            return;
        }
        match self.propose(Command::ElectLeaders { elections }).await {
            Ok((_, Answer::Elections(results))) => {
                let done = results.iter().filter(|result| result.is_ok()).count();
                tracing::info!(partitions = done, refused = results.len() - done, "{what}");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "an election was not committed; will try again"),
        }
    }
}

/// Resolves when `stop` says so, or when nobody is left to say it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Watched {
    fn take(&mut self, update: &Update) {
        let now = clock::now();
        let image = &update.image;
        if update.resync {
            self.preferred.iter_mut().for_each(|preferred| preferred.rebuild(image, now));
            self.leaderless.rebuild(image, now);
            return;
        }
        let mut changed = Vec::new();
        for event in update.events.iter() {
            match &event.event {
                // Whom it may lead changed for all that it holds.
                Event::BrokerDraining { broker, .. } => changed.extend(image.partitions_on(*broker)),
                Event::TopicDeleted { topic, partitions, .. } => {
                    changed.extend((0..*partitions).map(|number| TopicPartition::new(*topic, number)));
                }
                event => changed.extend(event.partition()),
            }
        }
        if let Some(preferred) = &mut self.preferred {
            preferred.observe(image, changed.iter().copied(), now);
        }
        self.leaderless.observe(image, changed, now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::replica_states::StatesFuture;
    use super::*;
    use crate::config::broker::{BrokerConfigs, ListenerConfig, NodeConfig};
    use crate::metadata::quorum::{Quorum, QuorumConfig};
    use crate::metadata::raft::types::RaftNodeId;
    use crate::platform::random;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(20);

    struct Nobody;

    impl super::super::replica_states::ReplicaStates for Nobody {
        fn ask(&self, _: BrokerId, _: Vec<TopicPartition>) -> StatesFuture<'_> {
            Box::pin(async { Err("nobody is there".to_string()) })
        }
    }

    #[tokio::test]
    async fn a_controller_that_led_before_it_listened_acts_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let me = RaftNodeId { node: BrokerId(1), directory: DirectoryId(random::uuid()) };
        let room = crate::platform::disk::room::Room::of(folder.path());
        let config = QuorumConfig { dir: folder.path().join("metadata"), me, cluster_id: None, room };
        let (quorum, _service) = Quorum::start(config).await.unwrap();
        quorum.initialize(ClusterId(random::uuid()), BTreeMap::from([(me, "127.0.0.1:1".to_string())])).await.unwrap();
        tokio::time::timeout(LONG, quorum.leadership().wait_for(|l| l.is_controller)).await.unwrap().unwrap();

        let given = BTreeMap::from([("min.insync.replicas".to_string(), "1".to_string())]);
        let listener = ListenerConfig { name: "x".into(), bind: "x:1".into(), advertised: "x:1".into() };
        let config = NodeConfig {
            node_id: BrokerId(1),
            data_dir: folder.path().into(),
            is_broker: true,
            is_controller: true,
            rack: None,
            kafka_listeners: Vec::new(),
            replica_listener: listener.clone(),
            cluster_listener: listener.clone(),
            admin_listener: listener,
            controllers: Vec::new(),
            kafka: BrokerConfigs { given },
        };
        let controller = Controller::new(quorum.clone(), Arc::new(config), Arc::new(Nobody));
        let (_stop, stopped) = watch::channel(false);
        let acting = async {
            while quorum.image().configs.overrides.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = controller.run_elections(stopped) => panic!("it ended"),
            done = tokio::time::timeout(LONG, acting) => done.expect("the controller's first act: the cluster's defaults"),
        }
    }
}
