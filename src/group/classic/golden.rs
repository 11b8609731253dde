//! Golden scripts of one group: an event a line (`@now what …`), and after `->` what came of it. A script is a file in
//! `golden/`; `GOLDEN=write cargo test --lib golden` writes what happens now; read the difference before you keep it.
//!
//! Requests are numbered as they come (`join#3` is the answer to the third). A fresh member id is the client's name and
//! how many joins there were.

use super::*;
use crate::group::coordinator::GroupError;
use crate::group::machine::{Attempt, Effect, Millis, Ticket};
use crate::group::settings::{ConsumerRules, Rules};
use crate::metadata::group_change::{GroupMember, GroupWrite, Rebalance};
use crate::metadata::image::groups;
use crate::platform::disk;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub(super) const RULES: Rules = Rules {
    initial_delay_ms: 3_000,
    session_min_ms: 6_000,
    session_max_ms: 60_000,
    group_size_max: 3,
    empty_check_ms: 600_000,
    consumer: ConsumerRules::FOR_TESTS,
};

pub(super) struct Harness {
    rules: Rules,
    pub group: Group,
    tickets: u64,
    ids: u64,
    /// The newest attempt that was not answered yet, and what was committed last.
    pub wanted: Option<(Attempt, GroupWrite)>,
    pub stored: Option<groups::Group>,
    pub out: String,
}

pub(super) struct Line<'a> {
    pub words: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn option(&self, name: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Option<i32> {
        Some(self.option(name)?.parse().expect("a number"))
    }

    fn pairs(&self, name: &str) -> Vec<(String, Bytes)> {
        let pair = |text: &str| {
            let (key, value) = text.split_once(':').unwrap_or((text, ""));
            (key.to_string(), Bytes::copy_from_slice(value.as_bytes()))
        };
        self.option(name).map(|all| all.split(',').map(pair).collect()).unwrap_or_default()
    }
}

/// A write: what of the members changed, and why.
fn told(write: &GroupWrite) -> String {
    let mut text = format!("commit generation {}", write.header.epoch());
    for (id, member) in &write.put {
        let GroupMember::Classic(member) = member else { panic!("a classic group has classic members") };
        write!(text, " {id}:{}", show(&member.assignment)).expect("a string takes all");
    }
    for id in &write.removed {
        write!(text, ", without {id}").expect("a string takes all");
    }
    if let Some(Rebalance { reason, others, said, .. }) = &write.rebalance {
        write!(text, ", because {reason:?}").expect("a string takes all");
        if *others > 0 {
            write!(text, " and {others} more").expect("a string takes all");
        }
        if let Some(said) = said {
            write!(text, ", said {said:?}").expect("a string takes all");
        }
    }
    text
}

fn show(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Harness {
    pub fn new(rules: Rules) -> Harness {
        let group = Group::new(rules, 0);
        Harness { rules, group, tickets: 0, ids: 0, wanted: None, stored: None, out: String::new() }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn say(&mut self, text: &str) {
        writeln!(self.out, "    -> {text}").expect("a string takes all");
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Joined(Ticket(n), Err(error)) => self.say(&format!("join#{n} {error:?}")),
                Effect::Joined(Ticket(n), Ok(joined)) => {
                    let members: Vec<String> =
                        joined.members.iter().map(|m| format!(" {}:{}", m.id, show(&m.metadata))).collect();
                    let members =
                        if members.is_empty() { String::new() } else { format!(", members{}", members.concat()) };
                    let skip = if joined.skip_assignment { ", skip the assignment" } else { "" };
                    let Joined { member, generation, protocol, leader, .. } = joined;
                    self.say(&format!(
                        "join#{n} {member} in generation {generation}, {protocol}, leader {leader}{members}{skip}"
                    ));
                }
                Effect::Synced(Ticket(n), Err(error)) => self.say(&format!("sync#{n} {error:?}")),
                Effect::Synced(Ticket(n), Ok(synced)) => {
                    self.say(&format!("sync#{n} [{}]", show(&synced.assignment)));
                }
                Effect::Commit { attempt, write } => {
                    self.say(&told(&write));
                    self.wanted = Some((attempt, write));
                }
                Effect::LongEmpty => self.say("long empty"),
                Effect::Beaten(..) => panic!("a classic group takes no such heartbeats"),
            }
        }
    }

    fn stored_after(&self, write: &GroupWrite) -> groups::Group {
        let stored = self.stored.clone().unwrap_or_else(|| groups::Group::new(write.header.clone()));
        let revision = stored.revision + 1;
        stored.after(write, revision).expect("writes fit what is stored")
    }

    pub fn run(&mut self, now: Millis, line: &Line<'_>) {
        let who = line.words.get(1).copied().unwrap_or_default();
        let instance = line.option("instance");
        match line.words[0] {
            "join" => {
                let version = line.number("v").unwrap_or(3);
                let member = line.option("as").unwrap_or_default();
                let join = Join {
                    group: "g".into(),
                    member: member.into(),
                    instance: instance.map(Into::into),
                    client_id: who.into(),
                    client_host: "/host".into(),
                    session_timeout_ms: line.number("session").unwrap_or(10_000),
                    rebalance_timeout_ms: line.number("rebalance").unwrap_or(20_000),
                    protocol_type: line.option("type").unwrap_or("consumer").into(),
                    protocols: if line.option("with").is_some() {
                        line.pairs("with")
                    } else {
                        vec![("range".into(), Bytes::from_static(b"t"))]
                    },
                    member_id_required: version >= 4,
                    skip_assignment_supported: version >= 9,
                    reason: line.option("reason").map(Into::into),
                };
                self.ids += 1;
                let fresh_id = format!("{who}-{}", self.ids);
                let ticket = self.ticket();
                let effects = self.group.join(ticket, &join, fresh_id, now);
                self.perform(effects);
            }
            "sync" => {
                let sync = SyncGroup {
                    group: "g".into(),
                    member: who.into(),
                    instance: instance.map(Into::into),
                    generation: line.number("gen").expect("sync has a generation"),
                    protocol_type: line.option("type").map(Into::into),
                    protocol: line.option("protocol").map(Into::into),
                    assignments: line.pairs("give").into_iter().collect::<BTreeMap<_, _>>(),
                };
                let ticket = self.ticket();
                let effects = self.group.sync(ticket, sync, now);
                self.perform(effects);
            }
            "heartbeat" => {
                let answer = self.group.heartbeat(who, instance, line.number("gen").expect("a generation"), now);
                self.say(&format!("{answer:?}"));
            }
            "offsets" => {
                let generation = line.number("gen").unwrap_or(-1);
                let answer =
                    self.group.check_offset_commit(line.option("as").unwrap_or_default(), instance, generation, now);
                self.say(&format!("{answer:?}"));
            }
            "leave" => {
                let named = line.option("as").unwrap_or_default();
                let leavers: Vec<Leaver> = named
                    .split(',')
                    .map(|member| Leaver {
                        member: member.into(),
                        instance: instance.map(Into::into),
                        reason: line.option("reason").map(Into::into),
                    })
                    .collect();
                let (answers, effects) = self.group.leave(&leavers, now);
                for answer in answers {
                    self.say(&format!("{answer:?}"));
                }
                self.perform(effects);
            }
            "committed" => {
                let (attempt, write) = self.wanted.take().expect("a commit is awaited");
                self.stored = Some(self.stored_after(&write));
                let effects = self.group.committed(attempt, Ok(()), now);
                self.perform(effects);
            }
            // It landed, but the coordinator does not know.
            "landed" => {
                let (_, write) = self.wanted.take().expect("a commit is awaited");
                self.stored = Some(self.stored_after(&write));
            }
            // It landed, and the coordinator is told that nobody knows.
            "answer-lost" => {
                let (attempt, write) = self.wanted.take().expect("a commit is awaited");
                self.stored = Some(self.stored_after(&write));
                let effects = self.group.committed(attempt, Err(GroupError::NotAvailable), now);
                self.perform(effects);
            }
            // Only a part of it landed.
            "torn" => {
                let (_, mut write) = self.wanted.take().expect("a commit is awaited");
                write.header = write.header.torn();
                self.stored = Some(self.stored_after(&write));
            }
            "commit-fails" => {
                let (attempt, _) = self.wanted.take().expect("a commit is awaited");
                let error = if who == "moved" { GroupError::NotCoordinator } else { GroupError::NotAvailable };
                let effects = self.group.committed(attempt, Err(error), now);
                self.perform(effects);
            }
            "coordinator-moves" => {
                let effects = self.group.end(GroupError::NotCoordinator);
                self.perform(effects);
                if let Some(size) = line.number("size") {
                    self.rules.group_size_max = usize::try_from(size).expect("a size");
                }
                self.group = Group::restore(self.rules, self.stored.as_ref().expect("stored"), now);
                self.wanted = None;
            }
            "tick" => {
                let effects = self.group.tick(now);
                self.perform(effects);
            }
            other => panic!("unknown event {other}"),
        }
        let mut exact = self.group.clone();
        exact.expect_anew();
        let waits = exact.next_deadline().map_or("-".into(), |at| at.to_string());
        let text = format!("{} {}, until {waits}", self.group.phase().name(), self.group.generation);
        self.say(&text);
        self.check_invariants();
    }

    fn check_invariants(&self) {
        let group = &self.group;
        let statics: BTreeMap<_, _> =
            group.members.iter().filter_map(|(id, m)| Some((m.instance.clone()?, id.clone()))).collect();
        assert_eq!(statics, group.statics);
        if group.phase() != Phase::Dead {
            assert_eq!(group.members.is_empty(), group.phase() == Phase::Empty || group.members.is_empty());
            assert_eq!(group.leader.is_some(), !group.members.is_empty());
            assert!(group.leader.iter().all(|leader| group.members.contains_key(leader)));
        }
        let joining = group.members.values().filter(|member| member.joining.is_some()).count();
        assert_eq!(group.joining, joining);
        let mut supporters = BTreeMap::new();
        for name in group.members.values().flat_map(|member| member.protocol_names()) {
            *supporters.entry(name.to_string()).or_default() += 1;
        }
        assert_eq!(group.supporters, supporters);
        let pending: usize = group.pending.keys().map(|id| super::member::pending_bytes(id)).sum();
        let members: usize = group.members.iter().map(|(id, member)| member.bytes(id, &group.draft)).sum();
        assert_eq!(group.bytes, pending + members);
        let mut exact = group.clone();
        exact.expect_anew();
        assert!(exact.soonest.is_none() || group.soonest <= exact.soonest);
        assert!(group.pending.keys().all(|id| !group.members.contains_key(id)));
        assert_eq!(group.barrier.is_some(), group.phase() == Phase::PreparingRebalance);
    }
}

fn rules(line: &Line<'_>) -> Rules {
    let delay = line.number("delay").expect("rules have a delay").unsigned_abs();
    let size = line.number("size").expect("rules have a size").unsigned_abs();
    Rules { initial_delay_ms: delay.into(), group_size_max: size as usize, ..RULES }
}

/// The script's text as it comes out now. Outputs in `script` are passed over.
fn play(script: &str) -> String {
    let mut harness = Harness::new(RULES);
    for line in script.lines().map(str::trim) {
        if line.starts_with("->") {
            continue;
        }
        writeln!(harness.out, "{line}").expect("a string takes all");
        let mut words = line.strip_prefix('@').unwrap_or(line).split_whitespace();
        match words.next() {
            None | Some("#") => {}
            Some("rules") => {
                let out = std::mem::take(&mut harness.out);
                harness = Harness { out, ..Harness::new(rules(&Line { words: words.collect() })) };
            }
            Some(now) => {
                let now = now.parse().unwrap_or_else(|_| panic!("{line}: @ and a time"));
                harness.run(now, &Line { words: words.collect() });
            }
        }
    }
    harness.out
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/group/classic/golden")
}

#[test]
fn every_script_plays_as_written() {
    let names = disk::list(&folder()).unwrap().into_iter().map(|entry| entry.name);
    let scripts: Vec<String> = names.filter(|name| name.ends_with(".script")).collect();
    assert!(scripts.len() >= 20, "the scripts are there: {scripts:?}");
    let mut wrong = String::new();
    for name in scripts {
        let path = folder().join(&name);
        let expected = String::from_utf8(disk::read_file(&path).unwrap().unwrap()).unwrap();
        let found = play(&expected);
        if std::env::var("GOLDEN").is_ok_and(|mode| mode == "write") {
            disk::write_atomic(&path, found.as_bytes()).unwrap();
        } else if found != expected {
            writeln!(wrong, "{name} plays as\n{found}").expect("a string takes all");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
