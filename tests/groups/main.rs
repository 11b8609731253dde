//! Consumer groups under clients that nobody here wrote, while members, coordinators and brokers die.
//!
//! ```text
//! tests/clients/* (members) ─ lines ─→ member ─→ history ─→ checker (pure) ─→ findings
//!                                        ↑ scenario: who joins, leaves and dies when
//! ```
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod checker;
#[cfg(test)]
mod checker_tests;
mod connect;
mod history;
mod member;
mod process;
mod programs;
mod scenario;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod tools;

use std::process::Command;

type Story = fn(&str, scenario::Start<'_>, &str);

/// Plays a story with a program, unless it can't be run here.
fn play(story: Story, name: &str, program: impl Fn() -> Option<Command>, protocol: &str) {
    if program().is_none() {
        return;
    }
    let start = |bootstrap: &str, topic: &str, group: &str, protocol: &str| {
        let mut command = program().expect("it was there a moment ago");
        command.args([bootstrap, topic, group, protocol]);
        command
    };
    story(name, &start, protocol);
}

fn kafka_python() -> Option<Command> {
    programs::python("member_kafka_python.py", "kafka")
}

fn librdkafka() -> Option<Command> {
    programs::python("member_librdkafka.py", "confluent_kafka")
}

fn java() -> Option<Command> {
    programs::java("GroupMember")
}

#[test]
fn kafka_python_by_range() {
    play(scenario::play, "py-range", kafka_python, "range");
}

#[test]
fn librdkafka_by_range() {
    play(scenario::play, "rd-range", librdkafka, "range");
}

#[test]
fn librdkafka_cooperative() {
    play(scenario::play, "rd-cooperative", librdkafka, "cooperative");
}

#[test]
fn librdkafka_by_the_consumer_protocol() {
    play(scenario::play, "rd-consumer", librdkafka, "consumer");
}

#[test]
fn java_cooperative() {
    play(scenario::play, "java-cooperative", java, "cooperative");
}

#[test]
fn java_by_the_consumer_protocol() {
    play(scenario::play, "java-consumer", java, "consumer");
}

#[test]
fn franz_go_cooperative() {
    play(scenario::play, "go-cooperative", programs::go_member, "cooperative");
}

#[test]
fn franz_go_by_the_consumer_protocol() {
    play(scenario::play, "go-consumer", programs::go_member, "consumer");
}

#[test]
fn a_librdkafka_member_that_hangs_does_no_harm_when_it_wakes() {
    play(scenario::play_hung, "rd-hung", librdkafka, "cooperative");
}

#[test]
fn a_java_member_that_hangs_does_no_harm_when_it_wakes_by_the_consumer_protocol() {
    play(scenario::play_hung, "java-hung", java, "consumer");
}

#[test]
fn a_librdkafka_group_passes_to_the_consumer_protocol_and_back() {
    play(scenario::play_migration, "rd-migration", librdkafka, "cooperative");
}

#[test]
fn a_java_group_passes_to_the_consumer_protocol_and_back() {
    play(scenario::play_migration, "java-migration", java, "cooperative");
}
