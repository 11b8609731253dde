//! Every metric by name, and the page that tells them in Prometheus' text format.
//!
//! Nothing is registered anywhere and nothing is counted for the page's sake: whoever scrapes makes a [`Page`], fills it
//! from what the house keeps anyway, and renders it. So a node that nobody scrapes pays nothing.
//!
//! Names: `highwater_`, what is counted, the unit last; `_total` behind counters. Only the lag of consumer groups has
//! labels that name groups, topics and partitions, and a bound for its lines; otherwise the page is as long on a node
//! with 100,000 replicas as on an empty one.

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    /// Since the process started; never falls.
    Counter,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// What one is a count of.
    pub unit: &'static str,
    pub help: &'static str,
    pub label: Option<Breakdown>,
    /// Names of labels whose values are data. Invariant: whoever tells it bounds how many lines there are.
    pub open: &'static [&'static str],
}

/// One line a value. Invariant: `values` is all there may be.
#[derive(Debug, PartialEq, Eq)]
pub struct Breakdown {
    pub name: &'static str,
    pub values: &'static [&'static str],
}

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, help, label: None, open: &[] }
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, help, label: None, open: &[] }
}

impl Metric {
    const fn by(self, name: &'static str, values: &'static [&'static str]) -> Metric {
        Metric { label: Some(Breakdown { name, values }), ..self }
    }

    const fn of(self, open: &'static [&'static str]) -> Metric {
        Metric { open, ..self }
    }
}

// This node's partitions and replicas.

pub static PARTITIONS_LED: Metric = gauge("highwater_partitions_led", "partitions", "Partitions that this node leads.");
pub static PARTITIONS_UNDER_REPLICATED: Metric = gauge(
    "highwater_partitions_under_replicated",
    "partitions",
    "Partitions led here with a replica that is not in sync.",
);
pub static PARTITIONS_UNDER_MIN_ISR: Metric = gauge(
    "highwater_partitions_under_min_isr",
    "partitions",
    "Partitions led here that refuse acks=all: fewer replicas are in sync than min.insync.replicas.",
);
pub static PARTITIONS_MOVING: Metric =
    gauge("highwater_partitions_moving", "partitions", "Partitions led here that are being moved to other replicas.");
pub static MOVES_LEFT_RECORDS: Metric = gauge(
    "highwater_moves_left_records",
    "records",
    "What the replicas added by moves of partitions led here have left to copy.",
);
pub static REPLICAS_HOSTED: Metric =
    gauge("highwater_replicas_hosted", "replicas", "Replicas on this node, leaders included.");
pub static REPLICAS_DAMAGED: Metric = gauge(
    "highwater_replicas_damaged",
    "replicas",
    "Replicas on this node whose records are damaged and not repaired yet.",
);
pub static SCRUBBED_BYTES: Metric =
    counter("highwater_scrubbed_bytes_total", "bytes", "Read by the background search for damaged records.");
pub static DAMAGE_FOUND: Metric = counter(
    "highwater_damage_found_total",
    "replicas",
    "Times that a replica on this node was found damaged, by whatever found it.",
);

pub static STRAYS: Metric = gauge(
    "highwater_stray_folders",
    "folders",
    "Folders of unknown partitions that were found at a start and are kept for a grace time.",
);
pub static STRAY_BYTES: Metric =
    gauge("highwater_stray_bytes", "bytes", "What the folders of unknown partitions take on the disk.");

// The whole cluster, as this node knows it.

pub static CLUSTER_PARTITIONS: Metric =
    gauge("highwater_cluster_partitions", "partitions", "Partitions in the cluster.");
pub static CLUSTER_PARTITIONS_OFFLINE: Metric = gauge(
    "highwater_cluster_partitions_offline",
    "partitions",
    "Partitions in the cluster without a leader: they can be neither written nor read.",
);
pub static CLUSTER_PARTITIONS_UNDER_REPLICATED: Metric = gauge(
    "highwater_cluster_partitions_under_replicated",
    "partitions",
    "Partitions in the cluster with a replica that is not in sync.",
);
pub static CLUSTER_PARTITIONS_MOVING: Metric = gauge(
    "highwater_cluster_partitions_moving",
    "partitions",
    "Partitions in the cluster that are being moved to other replicas.",
);
pub static CLUSTER_BROKERS: Metric =
    gauge("highwater_cluster_brokers", "brokers", "Registered brokers.").by("state", &["alive", "fenced", "stopping"]);
pub static LEADER_ELECTIONS: Metric = counter(
    "highwater_leader_elections_total",
    "elections",
    "Leader elections of partitions in the cluster, also those that nobody won.",
)
.by(
    "reason",
    &[
        "created",
        "damaged",
        "drained",
        "durability",
        "fenced",
        "preferred",
        "reassigned",
        "returned",
        "shutdown",
        "unclean",
    ],
);
pub static BROKER_FENCINGS: Metric =
    counter("highwater_broker_fencings_total", "fencings", "Brokers in the cluster that were fenced.")
        .by("reason", &["connection_lost", "restarted", "session_expired", "shutdown"]);
pub static ISR_SHRINKS: Metric =
    counter("highwater_isr_shrinks_total", "changes", "Times that a replica in the cluster fell out of sync.");
pub static ISR_EXPANDS: Metric =
    counter("highwater_isr_expands_total", "changes", "Times that a replica in the cluster came into sync.");

// Consumer groups that this node coordinates.

pub static GROUPS: Metric =
    gauge("highwater_groups", "groups", "Groups that this node coordinates, also those that only have offsets.")
        .by("state", &["assigning", "completing_rebalance", "empty", "preparing_rebalance", "reconciling", "stable"]);
pub static GROUP_MEMBERS: Metric =
    gauge("highwater_group_members", "members", "Members of the groups that this node coordinates.");
pub static GROUPS_HELD: Metric =
    gauge("highwater_groups_held_bytes", "bytes", "What these members take, without their assignments.");
pub static GROUP_JOINS_PARKED: Metric =
    gauge("highwater_group_joins_parked", "requests", "JoinGroup requests that wait for the other members.");
pub static GROUP_REBALANCES: Metric = counter(
    "highwater_group_rebalances_total",
    "rebalances",
    "Rebalances that were carried through, by what came first.",
)
.by(
    "reason",
    &[
        "assignor_changed",
        "coordinator_moved",
        "leader_rejoined",
        "member_joined",
        "member_left",
        "member_replaced",
        "member_timed_out",
        "member_too_large",
        "member_too_slow",
        "not_committed",
        "partitions_changed",
        "protocol_changed",
        "requested",
        "subscription_changed",
    ],
);
pub static GROUP_COMMITS: Metric =
    counter("highwater_group_commits_total", "writes", "States of groups that were committed to the metadata.");
pub static GROUP_COMMANDS: Metric = counter(
    "highwater_group_commands_total",
    "commands",
    "Times that states of groups were given to the controller, those of many groups at once.",
);
pub static GROUP_LAG_RECORDS: Metric =
    gauge("highwater_group_lag_records", "records", "Records between the committed offset and the high watermark.")
        .of(&["group", "topic", "partition"]);
pub static GROUP_LAG_SECONDS: Metric = gauge(
    "highwater_group_lag_seconds",
    "seconds",
    "Age of the first record after the committed offset, in whole seconds.",
)
.of(&["group", "topic", "partition"]);
pub static GROUP_TOTAL_LAG_RECORDS: Metric =
    gauge("highwater_group_total_lag_records", "records", "Lag of a group over all its partitions.").of(&["group"]);
pub static GROUP_MAX_LAG_SECONDS: Metric = gauge(
    "highwater_group_max_lag_seconds",
    "seconds",
    "Lag of the group's partition that is furthest behind in time, in whole seconds.",
)
.of(&["group"]);
pub static GROUP_LAG_UNLISTED_PARTITIONS: Metric = gauge(
    "highwater_group_lag_unlisted_partitions",
    "partitions",
    "Partitions of groups whose lag is measured and not listed, being smaller than all that are.",
);
pub static GROUP_LAG_UNLISTED_RECORDS: Metric =
    gauge("highwater_group_lag_unlisted_records", "records", "Lag of the partitions that are not listed, in all.");
pub static GROUP_LAG_UNLISTED_GROUPS: Metric = gauge(
    "highwater_group_lag_unlisted_groups",
    "groups",
    "Groups whose total lag is not listed, being smaller than all that are.",
);
pub static GROUP_LAG_UNMEASURED_OFFSETS: Metric = gauge(
    "highwater_group_lag_unmeasured_offsets",
    "offsets",
    "Committed offsets whose lag is not measured, being too many.",
);

// The metadata log on this node.

pub static CONTROLLER_ACTIVE: Metric =
    gauge("highwater_controller_active", "0 or 1", "1 on the node that acts as the controller, 0 elsewhere.");
pub static RAFT_TERM: Metric =
    gauge("highwater_raft_term", "terms", "The Raft term; it grows with each controller election.");
pub static RAFT_LOG_INDEX: Metric =
    gauge("highwater_raft_log_index", "entries", "The newest entry in this node's metadata log.");
pub static RAFT_COMMIT_INDEX: Metric =
    gauge("highwater_raft_commit_index", "entries", "The newest entry of the metadata log known to be committed.");
pub static RAFT_APPLIED_INDEX: Metric =
    gauge("highwater_raft_applied_index", "entries", "The newest entry of the metadata log that this node acts on.");

// The process.

pub static PROCESS_RESIDENT_MEMORY: Metric =
    gauge("highwater_process_resident_memory_bytes", "bytes", "Memory of the process that is in RAM.");
pub static PROCESS_CPU: Metric =
    counter("highwater_process_cpu_seconds_total", "seconds", "CPU time of the process, in whole seconds.");

/// In the order of `docs/metrics.md`.
pub static ALL: [&Metric; 42] = [
    &PARTITIONS_LED,
    &PARTITIONS_UNDER_REPLICATED,
    &PARTITIONS_UNDER_MIN_ISR,
    &PARTITIONS_MOVING,
    &MOVES_LEFT_RECORDS,
    &REPLICAS_HOSTED,
    &REPLICAS_DAMAGED,
    &SCRUBBED_BYTES,
    &DAMAGE_FOUND,
    &STRAYS,
    &STRAY_BYTES,
    &CLUSTER_PARTITIONS,
    &CLUSTER_PARTITIONS_OFFLINE,
    &CLUSTER_PARTITIONS_UNDER_REPLICATED,
    &CLUSTER_PARTITIONS_MOVING,
    &CLUSTER_BROKERS,
    &LEADER_ELECTIONS,
    &BROKER_FENCINGS,
    &ISR_SHRINKS,
    &ISR_EXPANDS,
    &GROUPS,
    &GROUP_MEMBERS,
    &GROUPS_HELD,
    &GROUP_JOINS_PARKED,
    &GROUP_REBALANCES,
    &GROUP_COMMITS,
    &GROUP_COMMANDS,
    &GROUP_LAG_RECORDS,
    &GROUP_LAG_SECONDS,
    &GROUP_TOTAL_LAG_RECORDS,
    &GROUP_MAX_LAG_SECONDS,
    &GROUP_LAG_UNLISTED_PARTITIONS,
    &GROUP_LAG_UNLISTED_RECORDS,
    &GROUP_LAG_UNLISTED_GROUPS,
    &GROUP_LAG_UNMEASURED_OFFSETS,
    &CONTROLLER_ACTIVE,
    &RAFT_TERM,
    &RAFT_LOG_INDEX,
    &RAFT_COMMIT_INDEX,
    &RAFT_APPLIED_INDEX,
    &PROCESS_RESIDENT_MEMORY,
    &PROCESS_CPU,
];

/// What one scrape is told. The first of a process takes some milliseconds (the exporter looks at the clock): not for a
/// thread that serves.
pub struct Page {
    recorder: PrometheusRecorder,
}

impl Default for Page {
    fn default() -> Self {
        Page { recorder: PrometheusBuilder::new().build_recorder() }
    }
}

impl Page {
    pub fn set(&self, metric: &'static Metric, value: u64) {
        self.put(metric, Key::from_static_name(metric.name), value);
    }

    /// One value of the metric's label. Invariant: it is among those the metric lists.
    pub fn set_of(&self, metric: &'static Metric, value_of_label: &'static str, value: u64) {
        let label = metric.label.as_ref().expect("a metric told by label has one");
        debug_assert!(
            label.values.contains(&value_of_label),
            "{value_of_label} is no {} of {}",
            label.name,
            metric.name
        );
        let labels = vec![Label::from_static_parts(label.name, value_of_label)];
        self.put(metric, Key::from_parts(metric.name, labels), value);
    }

    /// With a value for each of the metric's open labels, in their order.
    pub fn set_open<const N: usize>(&self, metric: &'static Metric, values: [&str; N], value: u64) {
        assert_eq!(metric.open.len(), N, "a value for each label of {}", metric.name);
        let labels = metric
            .open
            .iter()
            .zip(values)
            .map(|(name, value)| Label::new(*name, value.to_string()))
            .collect::<Vec<_>>();
        self.put(metric, Key::from_parts(metric.name, labels), value);
    }

    fn put(&self, metric: &'static Metric, key: Key, value: u64) {
        let (name, help) = (KeyName::from_const_str(metric.name), metric.help.into());
        let metadata = Metadata::new(module_path!(), Level::INFO, None);
        match metric.kind {
            Kind::Gauge => {
                self.recorder.describe_gauge(name, None, help);
                // A float holds whole numbers exactly up to 2^53.
                self.recorder.register_gauge(&key, &metadata).set(value as f64);
            }
            Kind::Counter => {
                self.recorder.describe_counter(name, None, help);
                self.recorder.register_counter(&key, &metadata).absolute(value);
            }
        }
    }

    /// Sorted by name, so that two scrapes can be laid side by side.
    pub fn render(self) -> String {
        let text = self.recorder.handle().render();
        let mut blocks: Vec<Vec<&str>> = text.split("\n\n").map(|block| block.lines().collect()).collect();
        // HELP, TYPE and the samples are in this order by their first letters too.
        blocks.iter_mut().for_each(|lines| lines.sort_unstable());
        blocks.sort_unstable();
        let mut page = String::with_capacity(text.len());
        for line in blocks.into_iter().flatten() {
            page.push_str(line);
            page.push('\n');
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_say_what_they_are() {
        let mut names = BTreeSet::new();
        for metric in ALL {
            let Metric { name, kind, unit, help, .. } = metric;
            assert!(names.insert(*name), "{name} twice");
            assert!(name.starts_with("highwater_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(!["bytes", "seconds"].contains(unit) || name.trim_end_matches("_total").ends_with(unit), "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
        }
    }

    /// The table is for people, this list for the machine: they are the same.
    #[test]
    fn the_documentation_lists_exactly_these() {
        let rows = include_str!("../../docs/metrics.md").lines().filter(|line| line.starts_with("| `highwater_"));
        let documented: Vec<Vec<&str>> =
            rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect();
        assert_eq!(documented.len(), ALL.len());
        for (row, metric) in documented.iter().zip(ALL) {
            let labels: Vec<&str> =
                metric.label.iter().map(|label| label.name).chain(metric.open.iter().copied()).collect();
            let name = match labels.is_empty() {
                false => format!("`{}{{{}}}`", metric.name, labels.join(",")),
                true => format!("`{}`", metric.name),
            };
            let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
            assert_eq!(row[..3], [name.as_str(), kind, metric.unit]);
            for value in metric.label.iter().flat_map(|label| label.values) {
                assert!(row[3].contains(&format!("`{value}`")), "{name} does not tell of {value}");
            }
        }
    }

    #[test]
    fn a_page_is_sorted_text_with_help_and_type() {
        let page = Page::default();
        page.set(&RAFT_TERM, 7);
        page.set_of(&CLUSTER_BROKERS, "fenced", 1);
        page.set_of(&CLUSTER_BROKERS, "alive", 2);
        page.set(&ISR_SHRINKS, 0);
        let told = page.render();
        let expected = "\
# HELP highwater_cluster_brokers Registered brokers.
# TYPE highwater_cluster_brokers gauge
highwater_cluster_brokers{state=\"alive\"} 2
highwater_cluster_brokers{state=\"fenced\"} 1
# HELP highwater_isr_shrinks_total Times that a replica in the cluster fell out of sync.
# TYPE highwater_isr_shrinks_total counter
highwater_isr_shrinks_total 0
# HELP highwater_raft_term The Raft term; it grows with each controller election.
# TYPE highwater_raft_term gauge
highwater_raft_term 7
";
        assert_eq!(told, expected);
    }
}
