//! The cluster that scripts play in: an image and three nodes that see it when they are told to.

use super::fetches::ParkedFetch;
use crate::config::topic::Durability;
use crate::ids::*;
use crate::log::flush::{FlushTask, Flusher};
use crate::log::folder::LogFolder;
use crate::log::partition_log::PartitionLog;
use crate::metadata::command::*;
use crate::metadata::event::Event;
use crate::metadata::image::Image;
use crate::platform::clock;
use crate::platform::disk::faults::Armed;
use crate::records::Records;
use crate::records::batch::batches;
use crate::replica::damage::Word;
use crate::replica::follower::ReplicaConfig;
use crate::replica::node::{Node, Proposed, Queues};
use crate::replica::partition::{HighWatermarkWait, Partition, PartitionError};
use crate::replica::reconcile::{is_assigned, is_caught_up, strays};
use crate::replica::role::{Standing, log_config};
use crate::replica::synced::sync_all;
use crate::replica::testing::{id, topic_config};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// How a process begins.
#[derive(Clone, Copy, Default)]
pub struct Restart {
    pub clean: bool,
    pub rebooted: bool,
    pub wiped: bool,
    /// What was not synced is gone.
    pub power_lost: bool,
    /// It must learn the metadata from its beginning: no log is opened before an image says which.
    pub blank: bool,
}

/// One broker's process, or what is left of it.
pub struct Process {
    pub node: Arc<Node>,
    pub partition: Arc<Partition>,
    pub queues: Queues,
    pub logs: LogFolder,
    strays_set_aside: bool,
}

pub struct Machine {
    pub data: TempDir,
    pub process: Option<Process>,
    pub boot: u32,
    pub folder: u32,
    pub processes: u32,
    /// Its checkpoint.
    pub high_watermark: Offset,
    pub durable: Offset,
    pub clean: bool,
    pub fault: Option<Armed>,
    /// What it last acted on: a restarted process opens what that assigns to it.
    seen: Image,
    pub holds_flushes: bool,
    /// Begun and not ended.
    pub flush: Option<FlushTask>,
}

pub struct World {
    pub image: Image,
    /// The image before the topic was created.
    pub early: Image,
    pub index: u64,
    pub durability: Durability,
    pub machines: BTreeMap<i32, Machine>,
    /// Producers, by the broker that owes them an answer.
    pub waiting: Vec<(i32, String, HighWatermarkWait)>,
    pub proposed: BTreeMap<i32, Vec<Proposed>>,
    /// On their way to the controller, and given up by who sent them.
    pub delayed: Vec<(i32, BrokerEpoch, IsrProposal)>,
    pub parked: Vec<ParkedFetch>,
}

fn endpoint() -> Endpoint {
    Endpoint { listener: "x".into(), host: "h".into(), port: 1 }
}

pub fn list(brokers: &[BrokerId]) -> String {
    let all: Vec<String> = brokers.iter().map(|b| b.to_string()).collect();
    if all.is_empty() { "-".into() } else { all.join(" ") }
}

pub fn error_name(error: &PartitionError) -> String {
    use PartitionError::*;
    let name = match error {
        NotLeader(_) => "NOT_LEADER_OR_FOLLOWER",
        FencedEpoch(_) => "FENCED_LEADER_EPOCH",
        UnknownEpoch => "UNKNOWN_LEADER_EPOCH",
        NotHosted => "not hosted",
        NotEnoughReplicas => "NOT_ENOUGH_REPLICAS",
        NotEnoughReplicasAfterAppend => "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        OffsetNotAvailable => "OFFSET_NOT_AVAILABLE",
        OutOfRange { start, end, .. } => return format!("OFFSET_OUT_OF_RANGE of {start}..={end}"),
        UnknownReplica => "UNKNOWN_REPLICA",
        Append(error) => return format!("append: {error}"),
        Storage(_) => "KAFKA_STORAGE_ERROR",
        Damaged { from, to, alone } => {
            let alone = if *alone { ", nobody else has it" } else { "" };
            return format!("KAFKA_STORAGE_ERROR: {from}..{to} is damaged{alone}");
        }
    };
    name.to_string()
}

/// "a@0 b@1": values with their leader epochs.
pub fn values(bytes: &Bytes) -> String {
    let mut all = Vec::new();
    for at in batches(bytes) {
        let Ok(at) = at else {
            all.push("?".to_string());
            break;
        };
        let epoch = at.header.leader_epoch;
        match Records::open(at.of(bytes), 1 << 20) {
            Ok(records) => {
                for record in records.iter() {
                    let value = record.ok().and_then(|r| r.value.map(|v| String::from_utf8_lossy(v).into_owned()));
                    all.push(format!("{}@{epoch}", value.unwrap_or_else(|| "?".into())));
                }
            }
            Err(_) => all.push(format!("?@{epoch}")),
        }
    }
    if all.is_empty() { "-".into() } else { all.join(" ") }
}

impl World {
    pub fn empty() -> World {
        World {
            image: Image::default(),
            early: Image::default(),
            index: 0,
            durability: Durability::Sync,
            machines: BTreeMap::new(),
            waiting: Vec::new(),
            proposed: BTreeMap::new(),
            delayed: Vec::new(),
            parked: Vec::new(),
        }
    }

    /// Commits a command; what it did, as watchers are told.
    pub fn commit(&mut self, command: &Command) -> (Answer, Vec<String>) {
        self.index += 1;
        let applied = self.image.apply(RaftIndex(self.index), command);
        self.image.assert_consistent();
        let told = applied.events.iter().filter_map(|event| match event {
            Event::LeaderElected { new, epoch, .. } => {
                Some(format!("leader {} in epoch {epoch}", new.map_or("-".into(), |b| b.to_string())))
            }
            Event::IsrChanged { new, elr, .. } => {
                let elr = if elr.is_empty() { String::new() } else { format!(" · elr {}", list(elr)) };
                Some(format!("isr {}{elr}", list(new)))
            }
            Event::ReplicaDamaged { broker, from, .. } => Some(format!("broker {broker} is damaged from {from} on")),
            Event::ReassignmentBegan { from, to, .. } => Some(format!("moves from {} to {}", list(from), list(to))),
            Event::ReassignmentCompleted { replicas, .. } => Some(format!("moved to {}", list(replicas))),
            Event::ReassignmentCancelled { replicas, .. } => Some(format!("back on {}", list(replicas))),
            _ => None,
        });
        (applied.answer, told.collect())
    }

    pub fn epoch(&self, broker: i32) -> BrokerEpoch {
        self.image.brokers.get(&BrokerId(broker)).map_or(BrokerEpoch(-1), |b| b.epoch)
    }

    /// Brokers 1 to `brokers`, alive, with topic `t` on `replicas`.
    pub fn begin(&mut self, durability: Durability, min_isr: &str, replicas: &[i32], brokers: i32) {
        self.durability = durability;
        for broker in 1..=brokers {
            let machine = Machine {
                data: tempfile::tempdir().unwrap(),
                process: None,
                boot: 1,
                folder: 1,
                processes: 0,
                high_watermark: Offset::ZERO,
                durable: Offset::ZERO,
                clean: false,
                fault: None,
                seen: Image::default(),
                holds_flushes: false,
                flush: None,
            };
            self.machines.insert(broker, machine);
            self.register(broker, false);
            let command = Command::UnfenceBroker { broker: BrokerId(broker), epoch: self.epoch(broker) };
            assert_eq!(self.commit(&command).0, Answer::Done);
        }
        let name = if durability == Durability::Sync { "sync" } else { "page-cache" };
        let configs = [("highwater.durability", name), ("min.insync.replicas", min_isr)];
        let topic = NewTopic {
            name: "t".into(),
            id: id().topic,
            assignments: vec![replicas.iter().copied().map(BrokerId).collect()],
            configs: configs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        };
        self.early = self.image.clone();
        self.commit(&Command::CreateTopics { topics: vec![topic] });
        for broker in 1..=brokers {
            self.machines.get_mut(&broker).expect("made above").seen = self.image.clone();
            self.start(broker, Restart::default());
            self.see(broker);
        }
    }

    pub fn register(&mut self, broker: i32, data_lost: bool) -> Vec<String> {
        let machine = self.machines.get_mut(&broker).expect("a known broker");
        machine.processes += 1;
        let number = |kind: u128, n: u32| Uuid::from_u128(kind << 64 | u128::from(n) << 8 | broker as u128);
        let registration = BrokerRegistration {
            broker: BrokerId(broker),
            directory: DirectoryId(number(1, machine.folder)),
            incarnation: IncarnationId(number(2, machine.processes)),
            boot_id: format!("boot-{}", machine.boot),
            clean_stop: machine.clean,
            data_lost,
            kafka_endpoints: Vec::new(),
            replica_endpoint: endpoint(),
            cluster_endpoint: endpoint(),
            admin_endpoint: endpoint(),
            rack: None,
            version: String::new(),
        };
        machine.clean = false;
        let (_, told) = self.commit(&Command::RegisterBroker(registration));
        if let Some(process) = self.machines.get(&broker).and_then(|m| m.process.as_ref()) {
            process.node.set_epoch(self.epoch(broker));
        }
        told
    }

    /// Opens the log. The process acts on no image yet.
    pub fn start(&mut self, broker: i32, how: Restart) {
        let (epoch, durability) = (self.epoch(broker), self.durability);
        let machine = self.machines.get_mut(&broker).expect("a known broker");
        assert!(machine.process.is_none(), "broker {broker} runs already");
        if how.wiped {
            machine.data = tempfile::tempdir().unwrap();
            machine.folder += 1;
            machine.high_watermark = Offset::ZERO;
        }
        machine.holds_flushes = false;
        machine.flush = None;
        machine.boot += u32::from(how.rebooted || how.power_lost);
        machine.clean = how.clean;
        let config = topic_config(durability);
        let logs = LogFolder::open(machine.data.path(), how.clean).unwrap();
        let mut log = logs.log(id(), "t", log_config(&config)).unwrap();
        if how.power_lost {
            log.truncate_to(machine.durable).unwrap();
        }
        let (node, queues) = Node::new(BrokerId(broker), ReplicaConfig::default(), Flusher::start(1), Arc::default());
        node.set_epoch(epoch);
        let known = machine.high_watermark;
        let partition = Partition::new(node.clone(), id(), "t".into(), log, known, &config);
        if !how.power_lost {
            partition.mind_opened(known);
        }
        if how.blank || !is_assigned(&machine.seen, id(), BrokerId(broker)) {
            // A log that it did not open, or has not got.
            let _let_go = partition.stop(false);
            if !how.blank {
                logs.delete(id()).unwrap();
            }
        }
        machine.process = Some(Process { node, partition, queues, logs, strays_set_aside: false });
    }

    /// The process ends here and now. A killed one answers nobody.
    pub fn crash(&mut self, broker: i32, clean: bool) -> Vec<String> {
        let mut said = Vec::new();
        if !clean {
            self.waiting.retain(|(at, what, _)| {
                if *at == broker {
                    said.push(format!("{what} gets no answer"));
                }
                *at != broker
            });
        }
        let machine = self.machines.get_mut(&broker).expect("a known broker");
        let Process { node, partition, queues, logs, .. } = machine.process.take().expect("a running broker");
        let status = partition.status();
        (machine.high_watermark, machine.durable) = (status.high_watermark, status.durable_end);
        node.flusher.stop();
        let (_, closed) = partition.stop(clean);
        machine.clean = clean && closed.is_ok();
        self.parked.retain(|parked| clean || !parked.is_at(&partition));
        drop((partition, node, queues, logs));
        said
    }

    pub fn process(&self, broker: i32) -> &Process {
        self.machines[&broker].process.as_ref().unwrap_or_else(|| panic!("broker {broker} does not run"))
    }

    pub fn up(&self) -> Vec<i32> {
        self.machines.iter().filter(|(_, machine)| machine.process.is_some()).map(|(broker, _)| *broker).collect()
    }

    pub fn hosts(&self, broker: i32) -> bool {
        self.process(broker).partition.standing() != Standing::Stopped
    }

    pub fn see(&mut self, broker: i32) -> Vec<String> {
        self.see_image(broker, self.image.clone())
    }

    /// As the reconciler does: what is hosted and assigned takes its role, what is only assigned is opened, what is only
    /// hosted is set aside; and once the image has this process's registration, so is what nobody knows any more.
    pub fn see_image(&mut self, broker: i32, image: Image) -> Vec<String> {
        let (me, mut said, durability) = (BrokerId(broker), Vec::new(), self.durability);
        let machine = self.machines.get_mut(&broker).expect("a known broker");
        machine.seen = image.clone();
        let process = machine.process.as_mut().unwrap_or_else(|| panic!("broker {broker} does not run"));
        process.node.image.store(Arc::new(image.clone()));
        let config = topic_config(durability);
        let assigned = is_assigned(&image, id(), me);
        let hosts = process.partition.standing() != Standing::Stopped;
        if hosts && !assigned {
            process.partition.apply(&image, clock::now());
            let _let_go = process.partition.stop(false);
            process.logs.delete(id()).unwrap();
            said.push("removes its folder".into());
        }
        if !hosts && assigned {
            let log = process.logs.log(id(), "t", log_config(&config)).unwrap();
            said.push(format!("opens its log, which ends at {}", log.log_end()));
            let known = machine.high_watermark;
            process.partition = Partition::new(process.node.clone(), id(), "t".into(), log, known, &config);
        }
        if assigned {
            process.partition.apply(&image, clock::now());
        }
        let others = image.topics.keys().map(|topic| TopicPartition::new(*topic, 0)).filter(|other| *other != id());
        for other in others.filter(|other| is_assigned(&image, *other, me)) {
            drop(process.logs.log(other, "t", log_config(&config)).unwrap());
        }
        if is_caught_up(&image, process.node.epoch()) && !std::mem::replace(&mut process.strays_set_aside, true) {
            for stray in strays(process.logs.found().unwrap(), &image, me) {
                process.logs.set_aside(stray, self.index as i64).unwrap().unwrap();
                said.push("sets a folder aside that nobody knows any more".into());
            }
        }
        said
    }

    pub fn folder_line(&self, broker: i32) -> String {
        let found = self.process(broker).logs.found().unwrap();
        let mut names: Vec<&str> =
            found.iter().map(|found| if found.id == id() { "the topic's" } else { "the other topic's" }).collect();
        names.extend(vec!["one set aside"; self.process(broker).logs.strays_held().folders]);
        format!("{broker}: {}", if names.is_empty() { "none".into() } else { names.join(", ") })
    }

    /// What flushes are due are done; what was suspected or proposed is left for the script.
    pub async fn settle(&mut self) {
        if self.durability == Durability::Sync {
            for machine in self.machines.values().filter(|machine| !machine.holds_flushes) {
                if let Some(process) = &machine.process {
                    sync_all(&process.node.flusher, vec![process.partition.clone()]).await;
                }
            }
        }
        for (broker, machine) in &mut self.machines {
            let Some(process) = &mut machine.process else { continue };
            while let Ok(proposed) = process.queues.proposals.try_recv() {
                self.proposed.entry(*broker).or_default().push(proposed);
            }
        }
    }

    /// Replies that came.
    pub fn replies(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        self.waiting.retain_mut(|(_, what, wait)| match wait.0.try_recv() {
            Ok(Ok(())) => {
                said.push(format!("{what} is acknowledged"));
                false
            }
            Ok(Err(error)) => {
                said.push(format!("{what} fails: {}", error_name(&error)));
                false
            }
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => true,
            Err(_) => {
                said.push(format!("{what} gets no answer"));
                false
            }
        });
        said
    }

    pub fn partition_line(&self) -> String {
        let Some(partition) = self.image.partition(id()) else { return "there is no such topic".into() };
        let leader = partition.leader.map_or("-".to_string(), |b| b.to_string());
        let (isr, elr) = (list(&partition.isr), list(&partition.elr));
        let (leader_epoch, epoch) = (partition.leader_epoch, partition.partition_epoch);
        let moving = partition.reassignment.as_ref().map_or(String::new(), |moving| {
            let (adding, removing) = (list(&moving.adding), list(&moving.removing));
            format!(" · to {}: adding {adding}, removing {removing}", list(&partition.target()))
        });
        format!("leader {leader} · isr {isr} · elr {elr} · epochs {leader_epoch}/{epoch}{moving}")
    }

    /// What a node holds, read back from its disk.
    pub fn log_line(&self, broker: i32) -> String {
        let partition = &self.process(broker).partition;
        let status = partition.status();
        let guard = partition.state.lock();
        let Some(log) = guard.log.as_ref() else { return format!("{broker}: stopped") };
        let read = log.reader().read(status.log_start, 1 << 20, status.log_end, true);
        let held = match read {
            Ok(chunk) => values(&chunk.bytes),
            Err(_) => "unreadable".to_string(),
        };
        let start =
            if status.log_start > Offset::ZERO { format!(" · from {}", status.log_start) } else { String::new() };
        let damage = log.damage().map_or(String::new(), |d| format!(" · damaged {}..{}", d.from, d.to));
        let offline = if PartitionLog::is_offline(log) { " · offline" } else { "" };
        format!("{broker}: {held}{start} · hw {}{damage}{offline}", status.high_watermark)
    }

    /// Performs what a node suspects. Blocks.
    pub fn words(&mut self, broker: i32) -> Vec<Word> {
        let machine = self.machines.get_mut(&broker).expect("a known broker");
        let process = machine.process.as_mut().expect("a running broker");
        std::iter::from_fn(|| process.queues.words.try_recv().ok()).collect()
    }
}
