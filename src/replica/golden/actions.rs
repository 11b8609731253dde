//! The words of a script.

use super::world::{Restart, World, error_name};
use crate::config::topic::Durability;
use crate::ids::*;
use crate::log::partition_log::{Checked, Cursor};
use crate::platform::clock;
use crate::platform::disk::faults::{Fault, Operation, arm};
use crate::replica::damage::Word;
use crate::replica::partition::OffsetSpec;
use crate::replica::testing::{batch_of, flip, flip_epoch};
use std::time::Duration;

pub fn number(word: &str) -> i64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

pub fn has(words: &[&str], word: &str) -> bool {
    words.contains(&word)
}

/// The word after `name`.
pub fn after<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1).copied())
}

impl World {
    pub async fn act(&mut self, words: &[&str]) -> Vec<String> {
        let mut said = match words {
            ["topic", durability, "min", min, rest @ ..] => {
                let durability = if *durability == "sync" { Durability::Sync } else { Durability::PageCache };
                let (replicas, of) = match rest {
                    [replicas @ .., "of", brokers] => (replicas, number(brokers) as i32),
                    replicas => (replicas, 3),
                };
                let replicas: Vec<i32> = match replicas {
                    [] => vec![1, 2, 3],
                    replicas => replicas.iter().map(|r| number(r) as i32).collect(),
                };
                self.begin(durability, min, &replicas, of);
                vec![self.partition_line()]
            }
            ["image"] => vec![self.partition_line()],
            ["logs"] => {
                let up = self.up();
                up.into_iter().filter(|broker| self.hosts(*broker)).map(|broker| self.log_line(broker)).collect()
            }
            ["folders"] => self.up().into_iter().map(|broker| self.folder_line(broker)).collect(),
            ["all", "see"] => {
                let up = self.up();
                let all = up.into_iter().flat_map(|broker| {
                    let said = self.see(broker);
                    said.into_iter().map(move |line| format!("{broker} {line}"))
                });
                all.collect()
            }
            ["controller", rest @ ..] => self.controller(rest),
            ["what", "was", "delayed", "arrives"] => self.delayed_arrive(),
            [broker, rest @ ..] => {
                let broker = number(broker) as i32;
                self.broker(broker, rest).await
            }
            [] => Vec::new(),
        };
        self.settle().await;
        said.extend(self.replies());
        said.extend(self.answer_parked());
        said
    }

    async fn broker(&mut self, broker: i32, words: &[&str]) -> Vec<String> {
        match words {
            ["sees"] => self.see(broker),
            ["sees", "what", "was", "before", "the", "topic"] => self.see_image(broker, self.early.clone()),
            ["asks", "to", "stop"] => self.asks_to_stop(broker),
            ["produces", value, rest @ ..] => self.produce(broker, value, rest),
            ["fetches", "from", leader, rest @ ..] => self.fetch(broker, number(leader) as i32, rest).await,
            ["consumes", "from", offset, rest @ ..] => self.consume(broker, number(offset), rest),
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
            ["crashes"] => self.crash(broker, false),
            ["stops"] => self.crash(broker, true),
            ["restarts", how @ ..] => {
                let restart = Restart {
                    clean: self.machines[&broker].clean,
                    rebooted: has(how, "rebooted"),
                    wiped: has(how, "wiped"),
                    power_lost: has(how, "unpowered"),
                    blank: has(how, "blank"),
                };
                self.start(broker, restart);
                let lossy = self.process(broker).logs.is_lossy();
                let mut told = self.register(broker, lossy);
                if lossy {
                    told.insert(0, "registers as lossy".into());
                }
                told
            }
            ["proposes", rest @ ..] => self.proposes(broker, rest),
            ["ticks", "after", ms, rest @ ..] => {
                let now = clock::now() + Duration::from_millis(number(ms) as u64);
                let process = self.process(broker);
                if let Some(heard) = after(rest, "hearing") {
                    process.node.saw(BrokerId(number(heard) as i32), now);
                }
                process.partition.tick(&self.image, now);
                Vec::new()
            }
            ["flips", "the", "epoch", "of", offset] => {
                flip_epoch(&self.process(broker).partition, number(offset));
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
                    if let Word::Suspect(partition, look) = word {
                        said.push(format!("looks at what lies from {} on", look.from()));
                        partition.look_into(look);
                    }
                }
                said.extend(self.damage_line(broker));
                said
            }
            ["ends", "the", "grace", "time"] => {
                let removed = self.process(broker).logs.remove_old_strays(i64::MAX, 0);
                vec![format!("removes {} set aside", removed.len())]
            }
            ["reports"] => self.reports(broker),
            ["holds", "flushes"] => {
                self.hold_flushes(broker);
                Vec::new()
            }
            ["flushes", "to", "disk"] => {
                let mut guard = self.process(broker).partition.state.lock();
                let log = guard.log.as_mut().expect("a log");
                let task = log.begin_flush().expect("something to flush");
                let synced = task.sync();
                vec![format!("{} are on its disk", log.end_flush(&task, &synced))]
            }
            ["flushes"] => {
                self.flush(broker).await;
                Vec::new()
            }
            ["releases", "flushes"] => {
                self.machines.get_mut(&broker).unwrap().holds_flushes = false;
                self.flush(broker).await;
                Vec::new()
            }
            ["begins", "a", "flush"] => self.begin_flush(broker),
            ["ends", "its", "flush"] => self.end_flush(broker),
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

    /// "a,b" is a batch of two; `as 7/0/3` is an idempotent producer's: its id, its epoch, the first sequence.
    fn produce(&mut self, broker: i32, value: &str, rest: &[&str]) -> Vec<String> {
        let acks = after(rest, "acks").map_or(-1, |acks| if acks == "all" { -1 } else { number(acks) as i16 });
        let producer: Vec<i64> = after(rest, "as").unwrap_or("-1/-1/-1").split('/').map(number).collect();
        let producer = (producer[0], producer[1] as i16, producer[2] as i32);
        let records = batch_of(&value.split(',').collect::<Vec<_>>(), producer);
        match self.process(broker).partition.append(&records, acks) {
            Ok(outcome) => {
                let at = outcome.appended.base_offset;
                let what = if outcome.appended.duplicate { "a duplicate of what lies at" } else { "appended at" };
                match outcome.wait {
                    Some(wait) => {
                        self.waiting.push((broker, value.to_string(), wait));
                        vec![format!("{what} {at}, waits")]
                    }
                    None => vec![format!("{what} {at}")],
                }
            }
            Err(error) => vec![error_name(&error)],
        }
    }
}
