//! What a script's lines mean.
//!
//! ```text
//! topic a 4 │ delete topic a │ group sets consumer.session.timeout.ms 9000 │ at most 2 members │ migration upgrade
//! m1 joins a,b [as i1] [matching p.*] [by range] [in r1] [within 500]
//! m1 beats 3 [owning a:0,1 b:2 | owning nothing] [wanting a,b] [matching p.* | matching nothing] [by range]
//! m1 leaves │ m1 leaves to return │ m1 dies │ m1 commits offsets at 3 [before v9] [as i1]
//! m1 asks a [as i1] [owning …] │ m1 syncs 3 │ m1 assigns 3 m1=a:0,1 m2=a:2 │ m1 pulses 3 │ m1 quits   (classic)
//! m1 insists a …   (asks by its id, even if it is no member)
//! after 1000 │ hold │ lands │ lands all │ fails │ is lost │ tears with m1 m2 │ coordinator moves │ describe
//! ```

use super::show;
use super::world::{NAME, World};
use crate::group::classic::{Join, Leaver, SyncGroup};
use crate::group::consumer::testing::topic;
use crate::group::consumer::{Heartbeat, LEAVE, LEAVE_STATIC, embedded};
use crate::group::coordinator::GroupError;
use crate::group::machine::Machine;
use crate::ids::RaftIndex;
use crate::metadata::command::ConfigResource;
use crate::metadata::group_change::TopicPartitions;
use crate::metadata::image::Image;
use imbl::OrdMap;
use std::collections::BTreeMap;

const MARKS: [&str; 7] = ["as", "matching", "by", "in", "within", "owning", "wanting"];

/// The words after `mark`, up to the next mark.
fn after<'a>(words: &[&'a str], mark: &str) -> Option<Vec<&'a str>> {
    let start = words.iter().position(|word| *word == mark)? + 1;
    Some(words[start..].iter().copied().take_while(|word| !MARKS.contains(word)).collect())
}

fn one(words: &[&str], mark: &str) -> Option<String> {
    after(words, mark).and_then(|words| words.first().map(|word| word.to_string()))
}

fn topics(list: &str) -> Vec<String> {
    if list == "nothing" { Vec::new() } else { list.split(',').map(str::to_string).collect() }
}

fn next(image: &mut Image) {
    image.index = RaftIndex(image.index.0 + 1);
}

impl World {
    pub fn act(&mut self, words: &[&str]) -> Vec<String> {
        match words {
            ["topic", name, count] => {
                let count = count.parse().unwrap();
                self.change_image(|image| {
                    topic(image, name, count);
                });
            }
            ["delete", "topic", name] => self.change_image(|image| {
                let id = image.topic_ids.remove(*name).expect("the topic is there");
                image.topics.remove(&id);
                next(image);
            }),
            ["group", "sets", name, value] => self.change_image(|image| {
                let set = OrdMap::unit(name.to_string(), value.to_string());
                image.configs.overrides.insert(ConfigResource::Group(NAME.to_string()), set);
                next(image);
            }),
            ["at", "most", count, "members"] => {
                self.rules.consumer.size_max = count.parse().unwrap();
                self.machine = Machine::new(self.rules, self.now);
            }
            ["migration", policy] => {
                self.rules.consumer.upgrades = matches!(*policy, "upgrade" | "bidirectional");
                self.rules.consumer.downgrades = matches!(*policy, "downgrade" | "bidirectional");
                self.machine = Machine::new(self.rules, self.now);
            }
            ["after", ms] => {
                self.now += ms.parse::<u64>().unwrap();
                self.event(|machine, now| ((), machine.tick(now)));
            }
            ["hold"] => self.holds = true,
            ["lands"] => self.land(),
            ["lands", "all"] => {
                self.holds = false;
                self.event(|_, _| ((), Vec::new()));
            }
            ["fails"] => self.fail(false),
            ["is", "lost"] => self.fail(true),
            ["tears", "with", members @ ..] => self.tear(members),
            ["coordinator", "moves"] => self.move_coordinator(),
            ["describe"] => self.describe(),
            [who, "joins", wanted, rest @ ..] => self.join(who, wanted, rest),
            [who, "beats", epoch, rest @ ..] => self.beat(who, epoch.parse().unwrap(), rest),
            [who, "leaves"] => self.leave(who, LEAVE),
            [who, "leaves", "to", "return"] => self.leave(who, LEAVE_STATIC),
            [who, "dies"] => self.owns(who, None),
            [who, "commits", "offsets", "at", epoch, rest @ ..] => {
                let epoch = epoch.parse().unwrap();
                let (instance, knows_epochs) = (one(rest, "as"), !rest.contains(&"before"));
                let outcome = self.machine.check_offset_commit(who, instance.as_deref(), epoch, knows_epochs, self.now);
                self.note(who, outcome, "taken");
            }
            [who, "asks", wanted, rest @ ..] => {
                let is_member = self.stored.as_ref().is_some_and(|group| group.members.contains_key(*who));
                self.ask(who, if is_member { who } else { "" }, wanted, rest);
            }
            [who, "insists", wanted, rest @ ..] => self.ask(who, who, wanted, rest),
            [who, "assigns", generation, rest @ ..] => self.assign(who, generation.parse().unwrap(), rest),
            [who, "syncs", generation] => self.sync(who, generation.parse().unwrap(), BTreeMap::new()),
            [who, "pulses", generation] => {
                let generation = generation.parse().unwrap();
                let outcome = self.event(|m, now| (m.heartbeat(who, None, generation, now), Vec::new()));
                self.note(who, outcome, "fine");
            }
            [who, "quits"] => {
                self.owns(who, None);
                let leaver = Leaver { member: who.to_string(), ..Leaver::default() };
                let outcome = self.event(|machine, now| machine.leave(&[leaver], now));
                self.note(who, outcome.into_iter().collect(), "has left");
            }
            _ => panic!("no such line: {}", words.join(" ")),
        }
        std::mem::take(&mut self.outputs)
    }

    fn note(&mut self, who: &str, outcome: Result<(), GroupError>, well: &str) {
        self.outputs.push(format!("{who}: {}", outcome.map_or_else(|error| error.to_string(), |()| well.to_string())));
    }

    fn partitions(&self, words: &[&str]) -> TopicPartitions {
        let named = words.iter().filter(|word| **word != "nothing").map(|word| {
            let (topic, list) = word.split_once(':').expect("topic:partitions");
            (self.image.topic_ids[topic], list.split(',').map(|number| number.parse().unwrap()).collect())
        });
        named.collect()
    }

    fn named(&self, partitions: TopicPartitions) -> embedded::Named {
        partitions.into_iter().map(|(topic, list)| (self.image.topic(topic).unwrap().name.clone(), list)).collect()
    }

    fn join(&mut self, who: &str, wanted: &str, rest: &[&str]) {
        let regex = one(rest, "matching");
        let beat = Heartbeat {
            group: NAME.into(),
            member: who.into(),
            rebalance_timeout_ms: Some(one(rest, "within").map_or(300_000, |ms| ms.parse().unwrap())),
            topics: Some(topics(wanted)).filter(|topics| !topics.is_empty() || regex.is_none()),
            owned: Some(TopicPartitions::new()),
            instance: one(rest, "as"),
            rack: one(rest, "in"),
            regex,
            assignor: one(rest, "by"),
            ..Heartbeat::default()
        };
        self.known.insert(who.to_string(), beat.clone());
        self.owns(who, None);
        self.send(who, beat);
    }

    fn send(&mut self, who: &str, beat: Heartbeat) {
        if let Err(error) = beat.check() {
            return self.note(who, Err(error), "");
        }
        let ticket = self.ticket(who);
        let image = self.image.clone();
        self.event(|machine, now| ((), machine.beat(ticket, NAME, beat, &image, now)));
    }

    fn beat(&mut self, who: &str, epoch: i32, rest: &[&str]) {
        let owned = after(rest, "owning").map(|words| self.partitions(&words));
        if let Some(owned) = &owned {
            self.owns(who, Some(owned.clone()));
        }
        let beat = Heartbeat {
            group: NAME.into(),
            member: who.into(),
            epoch,
            owned,
            topics: one(rest, "wanting").map(|list| topics(&list)),
            regex: one(rest, "matching").map(|text| if text == "nothing" { String::new() } else { text }),
            assignor: one(rest, "by"),
            instance: self.known.get(who).and_then(|known| known.instance.clone()),
            ..Heartbeat::default()
        };
        self.send(who, beat);
    }

    fn leave(&mut self, who: &str, epoch: i32) {
        self.owns(who, None);
        let instance = self.known.get(who).and_then(|known| known.instance.clone());
        let beat = Heartbeat { group: NAME.into(), member: who.into(), epoch, instance, ..Heartbeat::default() };
        self.send(who, beat);
    }

    /// A JoinGroup as a cooperative consumer of the classic protocol sends it.
    fn ask(&mut self, who: &str, id: &str, wanted: &str, rest: &[&str]) {
        let owned = after(rest, "owning").map(|words| self.partitions(&words)).unwrap_or_default();
        self.owns(who, Some(owned.clone()));
        let metadata = embedded::subscription_for_tests(&topics(wanted), &self.named(owned));
        let join = Join {
            group: NAME.into(),
            member: id.to_string(),
            instance: one(rest, "as"),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![("cooperative-sticky".into(), metadata)],
            ..Join::default()
        };
        let ticket = self.ticket(who);
        self.event(|machine, now| ((), machine.join(ticket, &join, who.to_string(), now)));
    }

    fn assign(&mut self, who: &str, generation: i32, rest: &[&str]) {
        let each = rest.iter().filter_map(|word| word.split_once('='));
        let assignments = each.map(|(member, list)| {
            let list: Vec<&str> = list.split('+').collect();
            (member.to_string(), embedded::assignment(1, &self.named(self.partitions(&list))))
        });
        let assignments = assignments.collect();
        self.sync(who, generation, assignments);
    }

    fn sync(&mut self, who: &str, generation: i32, assignments: BTreeMap<String, bytes::Bytes>) {
        let sync =
            SyncGroup { group: NAME.into(), member: who.into(), generation, assignments, ..SyncGroup::default() };
        let ticket = self.ticket(who);
        self.event(|machine, now| ((), machine.sync(ticket, sync, now)));
    }

    fn describe(&mut self) {
        let (kind, state) = (self.machine.type_name(), self.machine.state_name());
        let Some(found) = self.machine.describe_consumer() else {
            return self.outputs.push(format!("{kind} {state}"));
        };
        self.outputs.push(format!("{kind} {state} · epoch {} · {}", found.epoch, found.assignor));
        for member in found.members {
            let (has, target) =
                (show::partitions(&self.image, &member.assigned), show::partitions(&self.image, &member.target));
            let classic = if member.is_classic { " classic" } else { "" };
            self.outputs.push(format!("{}{classic} at {} has {has} of {target}", member.id, member.epoch));
        }
    }
}
