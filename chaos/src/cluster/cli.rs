//! The broker's own command line, used as an operator would: for what it knows (`--help` tells).

use super::layout::{Layout, NodeId, Port};
use crate::shell::run_words;
use std::path::{Path, PathBuf};

/// What this binary's command line can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    pub drain: bool,
    pub reassign: bool,
    pub quorum: bool,
    /// Built with the feature `chaos-bugs`.
    pub bugs: bool,
}

impl Abilities {
    pub fn of(binary: &Path) -> anyhow::Result<Abilities> {
        let help = |words: &[&str]| {
            let mut line = vec![binary.to_str().unwrap_or_default()];
            line.extend(words);
            run_words(&line)
        };
        let all = help(&["--help"])?;
        let known = |noun: &str, verbs: &[&str]| {
            lists(&all, noun) && help(&[noun, "--help"]).is_ok_and(|text| verbs.iter().all(|verb| lists(&text, verb)))
        };
        Ok(Abilities {
            drain: known("broker", &["drain", "undrain"]),
            reassign: known("topic", &["reassign"]),
            quorum: known("quorum", &["add", "remove"]),
            bugs: help(&["--version"])?.contains("chaos-bugs"),
        })
    }
}

/// Whether a help text lists a command: a line that begins with it.
fn lists(help: &str, command: &str) -> bool {
    help.lines().any(|line| line.starts_with(' ') && line.split_whitespace().next() == Some(command))
}

#[derive(Clone, Debug)]
pub struct Cli {
    pub binary: PathBuf,
    pub layout: Layout,
}

impl Cli {
    /// Asks whichever node answers.
    fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let admin: Vec<String> = self.layout.ids().map(|node| self.layout.address(node, Port::Admin)).collect();
        let admin = admin.join(",");
        // A command waits for its change; one that hangs must not stop the faults.
        let mut line = vec!["timeout", "20", self.binary.to_str().unwrap_or_default()];
        line.extend(words);
        line.extend(["--admin", &admin]);
        run_words(&line)
    }

    pub fn drain(&self, broker: NodeId) -> anyhow::Result<String> {
        self.run(&["broker", "drain", &broker.to_string()])
    }

    pub fn undrain(&self, broker: NodeId) -> anyhow::Result<String> {
        self.run(&["broker", "undrain", &broker.to_string()])
    }

    pub fn reassign(&self, topic: &str, partition: i32, replicas: &[NodeId]) -> anyhow::Result<String> {
        let replicas: Vec<String> = replicas.iter().map(ToString::to_string).collect();
        let (partition, replicas) = (partition.to_string(), replicas.join(","));
        // Other faults are to come in the middle of the move.
        let (of, to) = (["--partition", &partition], ["--replicas", &replicas, "--no-wait"]);
        self.run(&[["topic", "reassign", topic].as_slice(), &of, &to].concat())
    }

    pub fn quorum_remove(&self, node: NodeId) -> anyhow::Result<String> {
        self.run(&["quorum", "remove", &node.to_string()])
    }

    pub fn quorum_replace(&self, node: NodeId) -> anyhow::Result<String> {
        self.run(&["quorum", "replace", &node.to_string()])
    }

    pub fn quorum_add(&self, node: NodeId) -> anyhow::Result<String> {
        match self.run(&["quorum", "add", &node.to_string()]) {
            // Its removal was refused, or an earlier try took effect after its deadline.
            Err(error) if format!("{error:#}").contains("votes already") => Ok(String::new()),
            added => added,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_listed_only_at_the_start_of_a_line() {
        let help = "Commands:\n  topic   Create, list and drain\n  broker  Brokers\nUsage: highwater quorum";
        assert!(lists(help, "topic") && lists(help, "broker"));
        assert!(!lists(help, "drain") && !lists(help, "quorum") && !lists(help, "Commands:"));
    }
}
