//! The command line.

use crate::faults::kind::Kind;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Break a real cluster while clients use it, heal it, read everything back, and check what the clients saw.
///
/// As root each node has a network namespace of its own, so that the network between them can be cut. Without root the
/// nodes share loopback and those faults are left out.
///
/// Exit codes: 0 nothing wrong (with --bug: the bug was caught), 1 an anomaly (with --bug: not caught), 2 the run itself
/// failed.
#[derive(Clone, Debug, Parser)]
#[command(name = "chaos")]
pub struct Args {
    /// The broker's executable [default: target/release/highwater beside this one]
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// How long faults go on: 90s, 3m, or seconds
    #[arg(long, default_value = "180s", value_parser = duration)]
    pub time: Duration,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=9))]
    pub nodes: u16,
    /// Repeats a run's plan of faults [default: from the clock]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Which faults, such as kill,pause,partition [default: all that can be made here]
    #[arg(long, value_delimiter = ',', value_parser = kinds)]
    pub faults: Vec<Kinds>,
    /// Every fault once, in a fixed order, in about three minutes
    #[arg(long, conflicts_with = "time")]
    pub short: bool,
    /// Records a second, over all producers
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    pub rate: u32,
    /// Expect the checker to catch this bug, built in with the feature chaos-bugs
    #[arg(long, value_name = "NAME")]
    pub bug: Option<String>,
    /// Where logs and history go; kept only on failure unless given [default: chaos-runs/SEED]
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Keep the clients' debug logs too: what librdkafka did, the newest 64 to 128 MiB of each client
    #[arg(long)]
    pub client_logs: bool,
    /// The power-cut layer's library, preloaded into the nodes [default: beside this executable]
    #[arg(long, value_name = "FILE")]
    pub powercut: Option<PathBuf>,
    /// The process that made the network this one runs in.
    #[arg(long, hide = true)]
    pub network_of: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Kinds(pub Vec<Kind>);

impl Args {
    /// The kinds named on the command line; if none were, those that bring the bug out, or all.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = match (self.faults.is_empty(), &self.bug) {
            (false, _) => self.faults.iter().flat_map(|kinds| kinds.0.clone()).collect(),
            (true, Some(bug)) => bring_out(bug).to_vec(),
            (true, None) => Kind::ALL.to_vec(),
        };
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The command that repeats this run.
    pub fn repeat(&self, seed: u64) -> String {
        let mut command = format!("cargo run --release -p chaos -- --seed {seed}");
        match self.short {
            true => command += " --short",
            false => command += &format!(" --time {}s", self.time.as_secs()),
        }
        if self.nodes != 3 {
            command += &format!(" --nodes {}", self.nodes);
        }
        if !self.faults.is_empty() {
            let names: Vec<&str> = self.kinds().iter().map(|kind| kind.name()).collect();
            command += &format!(" --faults {}", names.join(","));
        }
        if self.rate != 300 {
            command += &format!(" --rate {}", self.rate);
        }
        if let Some(bug) = &self.bug {
            command += &format!(" --bug {bug}");
        }
        command
    }
}

/// A bug shows when a leader that is cut off goes on, when one is killed, when the power goes, or when a member of a
/// group wakes that was given up.
fn bring_out(bug: &str) -> &'static [Kind] {
    match bug {
        "no-fsync" => &[Kind::PowerCutAll, Kind::PowerCut],
        "forget-producer-state" => &[Kind::Kill, Kind::Pause],
        "zombie-commits" => &[Kind::HangMember],
        _ => &[Kind::Isolate, Kind::Kill],
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(format!("'{unit}' is not a unit: give s, m or h")),
    };
    let number: u64 = number.parse().map_err(|_| "give a number, such as 180s".to_string())?;
    Ok(Duration::from_secs(number * seconds))
}

fn kinds(text: &str) -> Result<Kinds, String> {
    if text == "partition" {
        return Ok(Kinds(Kind::PARTITIONS.to_vec()));
    }
    match Kind::ALL.iter().find(|kind| kind.name() == text) {
        Some(kind) => Ok(Kinds(vec![*kind])),
        None => {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            Err(format!("no such fault; there are {}, and partition for all of the network's", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repeating_command_says_what_differs_from_the_defaults() {
        let args = Args::parse_from(["chaos", "--time", "2m", "--faults", "pause,kill", "--nodes", "5"]);
        let command = args.repeat(9);
        assert!(command.ends_with("-- --seed 9 --time 120s --nodes 5 --faults kill,pause"), "{command}");
        let again =
            Args::parse_from(command.split(" -- ").nth(1).map(|rest| format!("chaos {rest}")).unwrap().split(' '));
        assert_eq!(again.kinds(), args.kinds());
    }

    #[test]
    fn partition_stands_for_all_of_the_networks_faults() {
        let args = Args::parse_from(["chaos", "--faults", "partition"]);
        assert_eq!(args.kinds(), Kind::PARTITIONS);
        assert!(Args::try_parse_from(["chaos", "--faults", "kil"]).is_err());
    }
}
