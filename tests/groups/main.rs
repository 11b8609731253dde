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

/// The brokers serve the consumer protocol (KIP-848).
const CONSUMER_PROTOCOL: bool = true;

type Story = fn(&str, scenario::Start<'_>);

/// Plays the long story with a program, unless it can't be run here.
fn play(name: &str, program: impl Fn() -> Option<Command>, protocol: &str) {
    play_as(scenario::play, name, program, protocol);
}

fn play_as(story: Story, name: &str, program: impl Fn() -> Option<Command>, protocol: &str) {
    if protocol == "consumer" && !CONSUMER_PROTOCOL {
        eprintln!("{name}: the consumer protocol is not served yet");
        return;
    }
    if program().is_none() {
        return;
    }
    story(name, &|bootstrap, topic, group| {
        let mut command = program().expect("it was there a moment ago");
        command.args([bootstrap, topic, group, protocol]);
        command
    });
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
    play("py-range", kafka_python, "range");
}

#[test]
fn librdkafka_by_range() {
    play("rd-range", librdkafka, "range");
}

#[test]
fn librdkafka_cooperative() {
    play("rd-cooperative", librdkafka, "cooperative");
}

#[test]
fn librdkafka_by_the_consumer_protocol() {
    play("rd-consumer", librdkafka, "consumer");
}

#[test]
fn java_cooperative() {
    play("java-cooperative", java, "cooperative");
}

#[test]
fn java_by_the_consumer_protocol() {
    play("java-consumer", java, "consumer");
}

#[test]
fn franz_go_cooperative() {
    play("go-cooperative", programs::go_member, "cooperative");
}

#[test]
fn franz_go_by_the_consumer_protocol() {
    play("go-consumer", programs::go_member, "consumer");
}

#[test]
fn a_librdkafka_member_that_hangs_does_no_harm_when_it_wakes() {
    play_as(scenario::play_hung, "rd-hung", librdkafka, "cooperative");
}

#[test]
fn a_java_member_that_hangs_does_no_harm_when_it_wakes_by_the_consumer_protocol() {
    play_as(scenario::play_hung, "java-hung", java, "consumer");
}
