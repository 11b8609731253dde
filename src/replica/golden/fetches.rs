//! Reading: consumers' and followers' fetches, those that are parked, and when what they brought is on disk.

use super::actions::{after, has, number};
use super::world::{World, error_name, values};
use crate::ids::*;
use crate::log::flush::Flushable;
use crate::log::partition_log::Damage;
use crate::replica::follower::Fetched;
use crate::replica::partition::{FollowerState, Partition, PartitionError, ReadOutcome, ReadRequest};
use crate::replica::role::Standing;
use crate::replica::synced::sync_all;
use crate::replica::watcher::Watcher;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A fetch that found nothing and waits at a broker for a change.
pub struct ParkedFetch {
    at: Arc<Partition>,
    watcher: Arc<Watcher>,
    request: ReadRequest,
    /// The follower that asked; `None`: a consumer.
    follower: Option<(i32, Arc<Partition>)>,
    high_watermark: Offset,
}

impl ParkedFetch {
    pub fn is_at(&self, partition: &Arc<Partition>) -> bool {
        Arc::ptr_eq(&self.at, partition)
    }
}

type Answer = Result<ReadOutcome, PartitionError>;

impl World {
    /// `in E`: the consumer says which leader epoch it knows. `waiting`: it waits if there is nothing.
    pub fn consume(&mut self, broker: i32, offset: i64, rest: &[&str]) -> Vec<String> {
        let request = ReadRequest {
            any_replica: false,
            offset: Offset(offset),
            max_bytes: 1 << 20,
            at_least_one: true,
            current_leader_epoch: LeaderEpoch(after(rest, "in").map_or(-1, |epoch| number(epoch) as i32)),
            read_committed: false,
            follower: None,
        };
        let at = self.process(broker).partition.clone();
        let watcher = Watcher::of_consumer();
        at.watch(&watcher, 0);
        let answer = at.read(&request);
        if has(rest, "waiting") && answer.as_ref().is_ok_and(|outcome| outcome.chunk.bytes.is_empty()) {
            let high_watermark = answer.map_or(Offset::ZERO, |outcome| outcome.high_watermark);
            self.parked.push(ParkedFetch { at, watcher, request, follower: None, high_watermark });
            return vec!["waits".into()];
        }
        vec![consumed(&answer)]
    }

    /// One round: flush what must be, ask, take the answer, unless it is `lost`. `claiming E`: it asks in another epoch
    /// than the one it knows. `waiting`: the leader parks it if there is nothing to say.
    pub async fn fetch(&mut self, broker: i32, leader: i32, rest: &[&str]) -> Vec<String> {
        let process = self.process(broker);
        let (partition, node) = (process.partition.clone(), process.node.clone());
        let epoch = partition.status().leader_epoch;
        let before = partition.status().log_end;
        let Some(mut position) = partition.position(epoch) else { return vec!["does not fetch".into()] };
        let mut said = Vec::new();
        let cut = partition.status().log_end;
        if cut < before {
            said.push(format!("cuts its damage off, at {cut}"));
        }
        if position.needs_flush {
            if self.machines[&broker].holds_flushes {
                let status = partition.status();
                let (end, synced) = (status.log_end, status.durable_end);
                return vec![format!("does not fetch: it holds {end}, and {synced} are on its disk")];
            }
            sync_all(&node.flusher, vec![partition.clone()]).await;
            match partition.position(epoch) {
                Some(flushed) if !flushed.needs_flush => position = flushed,
                _ => return vec!["does not fetch: what it holds could not be flushed".into()],
            }
        }
        let request = ReadRequest {
            any_replica: false,
            offset: position.offset,
            max_bytes: 1 << 20,
            at_least_one: true,
            current_leader_epoch: LeaderEpoch(after(rest, "claiming").map_or(epoch.0, |e| number(e) as i32)),
            read_committed: false,
            follower: Some(FollowerState {
                broker: node.broker,
                broker_epoch: BrokerEpoch(after(rest, "registered").map_or(node.epoch().0, number)),
                last_fetched_epoch: position.last_fetched_epoch,
                log_start: position.log_start,
                refused: position.refused,
                fills: position.fills,
            }),
        };
        let at = self.process(leader).partition.clone();
        let watcher = Watcher::new();
        at.watch(&watcher, 0);
        let answer = at.read(&request);
        if has(rest, "lost") {
            said.push("the answer is lost".into());
            return said;
        }
        let known = partition.status().high_watermark;
        if has(rest, "waiting") && !is_news(&answer, known) {
            let follower = Some((broker, partition));
            self.parked.push(ParkedFetch { at, watcher, request, follower, high_watermark: known });
            return vec!["waits".into()];
        }
        said.extend(take(&partition, epoch, answer));
        said
    }

    /// Parked fetches whose partition changed look again, and answer if there is something to say.
    pub fn answer_parked(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        self.parked.retain(|parked| {
            if parked.watcher.take().is_empty() {
                return true;
            }
            let answer = parked.at.read(&parked.request);
            match &parked.follower {
                None if answer.as_ref().is_ok_and(|outcome| outcome.chunk.bytes.is_empty()) => return true,
                None => said.push(format!("the waiting consumer gets {}", consumed(&answer))),
                Some(_) if !is_news(&answer, parked.high_watermark) => return true,
                Some((broker, partition)) => {
                    let lines = take(partition, parked.request.current_leader_epoch, answer);
                    said.extend(lines.into_iter().map(|line| format!("the waiting fetch of {broker}: {line}")));
                }
            }
            false
        });
        said
    }

    /// The node's disk is slow: nothing it holds becomes durable but by the words of the script.
    pub fn hold_flushes(&mut self, broker: i32) {
        self.machines.get_mut(&broker).unwrap().holds_flushes = true;
        // As if it waited in the queue: what is appended is not queued again.
        self.process(broker).partition.queued.store(true, Ordering::Release);
    }

    pub async fn flush(&mut self, broker: i32) {
        let process = self.process(broker);
        sync_all(&process.node.flusher, vec![process.partition.clone()]).await;
        if self.machines[&broker].holds_flushes {
            self.hold_flushes(broker);
        }
    }

    pub fn begin_flush(&mut self, broker: i32) -> Vec<String> {
        let Some(task) = self.process(broker).partition.begin_flush() else { return vec!["nothing to flush".into()] };
        let said = vec![format!("up to {}", task.end)];
        self.machines.get_mut(&broker).unwrap().flush = Some(task);
        self.hold_flushes(broker);
        said
    }

    pub fn end_flush(&mut self, broker: i32) -> Vec<String> {
        let task = self.machines.get_mut(&broker).unwrap().flush.take().expect("a flush was begun");
        let partition = &self.process(broker).partition;
        let synced = task.sync();
        partition.end_flush(task, synced);
        let status = partition.status();
        vec![format!("{} of {} are on its disk", status.durable_end, status.log_end)]
    }
}

fn consumed(answer: &Answer) -> String {
    match answer {
        Ok(outcome) => values(&outcome.chunk.bytes),
        Err(error) => error_name(error),
    }
}

/// A leader answers a parked follower for records, for another high watermark, where the logs part, and with errors.
fn is_news(answer: &Answer, known: Offset) -> bool {
    answer.as_ref().map_or(true, |outcome| {
        !outcome.chunk.bytes.is_empty() || outcome.diverging.is_some() || outcome.high_watermark > known
    })
}

/// What a follower does with an answer to its fetch in `epoch`.
fn take(partition: &Partition, epoch: LeaderEpoch, answer: Answer) -> Vec<String> {
    if partition.standing() == Standing::Stopped {
        return vec!["comes too late".into()];
    }
    let mut said = Vec::new();
    let (damage, held) = (damage_of(partition), partition.status().log_end);
    let outcome = match answer {
        Ok(outcome) => match outcome.diverging {
            Some((epoch_asked, end)) => {
                said.push(format!("the logs part: epoch {epoch_asked} ends at {end}"));
                partition.on_diverging(epoch, (epoch_asked, end)).map(|()| true)
            }
            None => {
                let brought = outcome.chunk.bytes.clone();
                let fetched = Fetched {
                    records: outcome.chunk.bytes,
                    high_watermark: outcome.high_watermark,
                    log_start: outcome.log_start,
                };
                partition.on_fetched(epoch, fetched).inspect(|_| {
                    if !brought.is_empty() {
                        said.push(format!("takes {}", values(&brought)));
                    }
                })
            }
        },
        Err(PartitionError::OutOfRange { start, .. }) => {
            said.push(format!("out of range: the leader begins at {start}"));
            partition.on_out_of_range(epoch, start).map(|()| true)
        }
        Err(error) => {
            said.push(error_name(&error));
            return said;
        }
    };
    let status = partition.status();
    match damage {
        Some(before) if status.log_end < held => said.push(format!("cuts its damage off, at {}", before.from)),
        Some(before) => {
            let filled = damage_of(partition).map_or(before.to, |rest| rest.from);
            if filled > before.from {
                said.push(format!("fills {}..{filled}", before.from));
            }
        }
        None => {}
    }
    match outcome {
        Ok(_) => said.push(format!("end {} · hw {}", status.log_end, status.high_watermark)),
        Err(error) => said.push(format!("refuses: {}", short(&error.to_string()))),
    }
    said
}

fn damage_of(partition: &Partition) -> Option<Damage> {
    partition.state.lock().log.as_ref().and_then(|log| log.damage().cloned())
}

/// An error's first words: CRCs and the like differ from run to run.
fn short(text: &str) -> String {
    text.split([':', ';']).next().unwrap_or_default().to_string()
}
