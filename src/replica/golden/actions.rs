//! The words of a script.

use super::world::{Restart, World, error_name, values};
use crate::config::topic::Durability;
use crate::ids::*;
use crate::log::partition_log::{Checked, Cursor};
use crate::metadata::command::*;
use crate::metadata::intent::IntentError;
use crate::platform::clock;
use crate::platform::disk::faults::{Fault, Operation, arm};
use crate::replica::damage::Word;
use crate::replica::follower::Fetched;
use crate::replica::isr::Verdict;
use crate::replica::node::Proposed;
use crate::replica::partition::{FollowerState, OffsetSpec, PartitionError, ReadRequest};
use crate::replica::synced::sync_all;
use crate::replica::testing::{batch, flip, id};
use std::time::Duration;

fn number(word: &str) -> i64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn has(words: &[&str], word: &str) -> bool {
    words.contains(&word)
}

/// The word after `name`.
fn after<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1).copied())
}

impl World {
    pub async fn act(&mut self, words: &[&str]) -> Vec<String> {
        let mut said = match words {
            ["topic", durability, "min", min, rest @ ..] => {
                let durability = if *durability == "sync" { Durability::Sync } else { Durability::PageCache };
                let replicas: Vec<i32> = match rest {
                    [] => vec![1, 2, 3],
                    replicas => replicas.iter().map(|r| number(r) as i32).collect(),
                };
                self.begin(durability, min, &replicas);
                vec![self.partition_line()]
            }
            ["image"] => vec![self.partition_line()],
            ["logs"] => {
                let up: Vec<i32> = self.machines.iter().filter(|(_, m)| m.process.is_some()).map(|(b, _)| *b).collect();
                up.into_iter().map(|broker| self.log_line(broker)).collect()
            }
            ["all", "see"] => {
                let up: Vec<i32> = self.machines.iter().filter(|(_, m)| m.process.is_some()).map(|(b, _)| *b).collect();
                up.into_iter().for_each(|broker| self.see(broker));
                Vec::new()
            }
            ["controller", rest @ ..] => self.controller(rest),
            [broker, rest @ ..] => {
                let broker = number(broker) as i32;
                self.broker(broker, rest).await
            }
            [] => Vec::new(),
        };
        self.settle().await;
        said.extend(self.replies());
        said
    }

    fn controller(&mut self, words: &[&str]) -> Vec<String> {
        let brokers = |words: &[&str]| words.iter().map(|word| BrokerId(number(word) as i32)).collect::<Vec<_>>();
        let command = match words {
            ["fences", fenced @ ..] => {
                let brokers = brokers(fenced).into_iter().map(|b| (b, self.epoch(b.0))).collect();
                Command::FenceBrokers { brokers, reason: FenceReason::SessionExpired }
            }
            ["unfences", broker] => {
                let broker = BrokerId(number(broker) as i32);
                Command::UnfenceBroker { broker, epoch: self.epoch(broker.0) }
            }
            ["elects", leader, reason] => {
                let reason = if *reason == "unclean" { ElectionReason::Unclean } else { ElectionReason::Preferred };
                let partition_epoch = self.image.partition(id()).unwrap().partition_epoch;
                let leader = BrokerId(number(leader) as i32);
                Command::ElectLeaders { elections: vec![Election { partition: id(), partition_epoch, leader, reason }] }
            }
            other => panic!("controller {other:?}?"),
        };
        let (answer, mut told) = self.commit(&command);
        match answer {
            Answer::Refused(error) => told.push(format!("refused: {error}")),
            Answer::Elections(results) => {
                told.extend(results.into_iter().filter_map(Result::err).map(|error| format!("refused: {error}")));
            }
            _ => {}
        }
        told
    }

    async fn broker(&mut self, broker: i32, words: &[&str]) -> Vec<String> {
        match words {
            ["sees"] => {
                self.see(broker);
                Vec::new()
            }
            ["produces", value, rest @ ..] => self.produce(broker, value, rest),
            ["fetches", "from", leader, rest @ ..] => self.fetch(broker, number(leader) as i32, rest).await,
            ["consumes", "from", offset] => self.consume(broker, number(offset)),
            ["latest"] => {
                let found = self.process(broker).partition.find_offset(OffsetSpec::Latest, false, LeaderEpoch::NONE);
                vec![match found {
                    Ok(Some(found)) => format!("latest is {}", found.offset),
                    Ok(None) => "there is none".into(),
                    Err(error) => error_name(&error),
                }]
            }
            ["ends", "epoch", epoch, rest @ ..] => {
                let current = LeaderEpoch(after(rest, "in").map_or(-1, |e| number(e) as i32));
                let epoch = LeaderEpoch(number(epoch) as i32);
                vec![match self.process(broker).partition.end_of_epoch(current, epoch) {
                    Ok(Some((epoch, end))) => format!("epoch {epoch} ends at {end}"),
                    Ok(None) => "unknown epoch".into(),
                    Err(error) => error_name(&error),
                }]
            }
            ["deletes", "below", offset] => {
                let deleted = self.process(broker).partition.delete_records(Offset(number(offset)));
                vec![deleted.map_or_else(|error| error_name(&error), |start| format!("log start {start}"))]
            }
            ["crashes"] => {
                self.crash(broker, false);
                Vec::new()
            }
            ["stops"] => {
                self.crash(broker, true);
                Vec::new()
            }
            ["restarts", how @ ..] => {
                let restart = Restart {
                    clean: self.machines[&broker].clean,
                    rebooted: has(how, "rebooted"),
                    wiped: has(how, "wiped"),
                    power_lost: has(how, "unpowered"),
                };
                self.start(broker, restart);
                let lossy = self.process(broker).logs.is_lossy();
                let mut told = self.register(broker, lossy);
                if lossy {
                    told.insert(0, "registers as lossy".into());
                }
                told
            }
            ["proposes"] => self.proposes(broker),
            ["ticks", "after", ms, rest @ ..] => {
                let now = clock::now() + Duration::from_millis(number(ms) as u64);
                let process = self.process(broker);
                if let Some(heard) = after(rest, "hearing") {
                    process.node.saw(BrokerId(number(heard) as i32), now);
                }
                process.partition.tick(&self.image, now);
                Vec::new()
            }
            ["flips", offset, rest @ ..] => {
                flip(&self.process(broker).partition, number(offset), has(rest, "header"));
                Vec::new()
            }
            ["scrubs"] => {
                let (partition, mut cursor) = (self.process(broker).partition.clone(), Cursor::default());
                let Some((_, end)) = partition.durable_bounds() else { return vec!["damage is known".into()] };
                while let Some(Checked { next, .. }) = partition.check(cursor, end, 1 << 20) {
                    match next {
                        Some(next) => cursor = next,
                        None => return vec!["all is good".into()],
                    }
                }
                self.damage_line(broker)
            }
            ["looks"] => {
                let words = self.words(broker);
                let mut said = Vec::new();
                for word in words {
                    if let Word::Suspect(partition, offset) = word {
                        said.push(format!("looks at what lies from {offset} on"));
                        partition.look_into(offset);
                    }
                }
                said.extend(self.damage_line(broker));
                said
            }
            ["reports"] => self.reports(broker),
            ["disk", "fails", what] => {
                let operation = match *what {
                    "write" => Operation::Write,
                    "sync" => Operation::Sync,
                    "preallocate" => Operation::Preallocate,
                    other => panic!("{other}?"),
                };
                self.arm(broker, Fault::broken(operation))
            }
            ["disk", "is", "full"] => self.arm(broker, Fault::full_after(0)),
            ["disk", "is", "whole"] => {
                self.machines.get_mut(&broker).unwrap().fault = None;
                Vec::new()
            }
            other => panic!("broker {broker} {other:?}?"),
        }
    }

    fn arm(&mut self, broker: i32, fault: Fault) -> Vec<String> {
        // The log's own folder, not the whole disk: the note of the loss must still fit on it.
        let folder = self.process(broker).logs.found().unwrap().remove(0).path;
        self.machines.get_mut(&broker).unwrap().fault = Some(arm(&folder, fault));
        Vec::new()
    }

    fn damage_line(&self, broker: i32) -> Vec<String> {
        let guard = self.process(broker).partition.state.lock();
        let damage = guard.log.as_ref().and_then(|log| log.damage().cloned());
        vec![damage.map_or("nothing is damaged".into(), |d| format!("damaged: {}..{}", d.from, d.to))]
    }

    /// "a,b" is a batch of two.
    fn produce(&mut self, broker: i32, value: &str, rest: &[&str]) -> Vec<String> {
        let acks = after(rest, "acks").map_or(-1, |acks| if acks == "all" { -1 } else { number(acks) as i16 });
        let records = batch(&value.split(',').collect::<Vec<_>>());
        match self.process(broker).partition.append(&records, acks) {
            Ok(outcome) => {
                let at = outcome.appended.base_offset;
                match outcome.wait {
                    Some(wait) => {
                        self.waiting.push((value.to_string(), wait));
                        vec![format!("appended at {at}, waits")]
                    }
                    None => vec![format!("appended at {at}")],
                }
            }
            Err(error) => vec![error_name(&error)],
        }
    }

    fn consume(&self, broker: i32, offset: i64) -> Vec<String> {
        let request = ReadRequest {
            any_replica: false,
            offset: Offset(offset),
            max_bytes: 1 << 20,
            at_least_one: true,
            current_leader_epoch: LeaderEpoch::NONE,
            read_committed: false,
            follower: None,
        };
        vec![match self.process(broker).partition.read(&request) {
            Ok(outcome) => values(&outcome.chunk.bytes),
            Err(error) => error_name(&error),
        }]
    }

    /// One round: flush what must be, ask, take the answer, unless it is `lost`. `claiming E`: it asks in another epoch
    /// than the one it knows.
    async fn fetch(&mut self, broker: i32, leader: i32, rest: &[&str]) -> Vec<String> {
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
            }),
        };
        let answer = self.process(leader).partition.read(&request);
        if has(rest, "lost") {
            said.push("the answer is lost".into());
            return said;
        }
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
        match outcome {
            Ok(_) => said.push(format!("end {} · hw {}", status.log_end, status.high_watermark)),
            Err(error) => said.push(format!("refuses: {}", short(&error.to_string()))),
        }
        said
    }

    fn proposes(&mut self, broker: i32) -> Vec<String> {
        let proposed = self.proposed.remove(&broker).unwrap_or_default();
        if proposed.is_empty() {
            return vec!["nothing to propose".into()];
        }
        let mut said = Vec::new();
        for Proposed { partition, proposal } in proposed {
            let command = Command::AlterIsr {
                broker: BrokerId(broker),
                epoch: self.process(broker).node.epoch(),
                proposals: vec![proposal.clone()],
            };
            let (answer, told) = self.commit(&command);
            said.extend(told);
            let verdict = match answer {
                Answer::Isr(results) => match &results[0] {
                    Ok(_) => Verdict::Accepted,
                    Err(error) => {
                        said.push(format!("refused: {error}"));
                        match error {
                            MetadataError::IneligibleReplica(_) => Verdict::Refused,
                            _ => Verdict::Stale,
                        }
                    }
                },
                Answer::Refused(error) => {
                    said.push(format!("refused: {error}"));
                    Verdict::Stale
                }
                other => panic!("{other:?}"),
            };
            partition.on_verdict(proposal.partition_epoch, verdict, clock::now());
        }
        said
    }

    fn reports(&mut self, broker: i32) -> Vec<String> {
        let partition = self.process(broker).partition.clone();
        let report = match partition.damage_report() {
            None => return vec!["nothing to report".into()],
            Some(None) => return vec!["nobody relies on it".into()],
            Some(Some(report)) => report,
        };
        let epoch = self.process(broker).node.epoch();
        let (answer, mut said) =
            self.commit(&Command::ReportDamage { broker: BrokerId(broker), epoch, reports: vec![report] });
        let result = match answer {
            Answer::Elections(mut results) => results.remove(0).map_err(IntentError::from),
            Answer::Refused(error) => Err(error.into()),
            other => panic!("{other:?}"),
        };
        if let Err(error) = &result {
            said.push(format!("refused: {error}"));
        }
        partition.on_damage_answer(&result);
        said
    }
}

/// An error's first words: CRCs and the like differ from run to run.
fn short(text: &str) -> String {
    text.split([':', ';']).next().unwrap_or_default().to_string()
}
