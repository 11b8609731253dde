//! `/metrics`: gathered when it is asked for.

use super::brokers::liveness;
use super::counts::{ByReason, Counts, Totals};
use super::proto::Liveness;
use super::server::{AdminParts, LocalGroups};
use crate::group::coordinator::Coordinator;
use crate::group::counts::Gauges;
use crate::group::lag::Lags;
use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::image::topics::Partition;
use crate::metadata::quorum::{Quorum, QuorumStatus};
use crate::platform::clock;
use crate::platform::process::{self, Usage};
use crate::replica::hosted::Hosted;
use crate::telemetry::metrics::{self as names, Metric, Page};
use std::sync::Arc;
use tokio::sync::Semaphore;

pub struct Metrics {
    node: BrokerId,
    quorum: Quorum,
    hosted: Hosted,
    counts: Counts,
    groups: LocalGroups,
    /// Lines for the lag of partitions, and of groups.
    lag_lines_max: usize,
    /// One page at a time: each is a walk over all partitions, and anybody may ask.
    turn: Semaphore,
}

impl Metrics {
    pub fn new(parts: &AdminParts, counts: Counts) -> Metrics {
        let lag_lines_max = usize::try_from(parts.config.kafka.int("highwater.group.lag.metrics.max")).unwrap_or(0);
        Metrics {
            node: parts.config.node_id,
            quorum: parts.quorum.clone(),
            hosted: parts.hosted.clone(),
            counts,
            groups: parts.groups.clone(),
            lag_lines_max,
            turn: Semaphore::new(1),
        }
    }

    /// Off the threads that serve; `None` if the node stops meanwhile.
    pub async fn page(self: Arc<Self>) -> Option<String> {
        let _turn = self.turn.acquire().await.ok()?;
        let own = self.clone();
        tokio::task::spawn_blocking(move || own.render()).await.ok()
    }

    fn render(&self) -> String {
        let (page, image) = (Page::default(), self.quorum.image());
        let in_cluster = InCluster::of(&image);
        tell_node(&page, &self.hosted);
        in_cluster.tell(&page);
        let (moving, left) = self.moves_led(&image, in_cluster.moving);
        page.set(&names::PARTITIONS_MOVING, moving);
        page.set(&names::MOVES_LEFT_RECORDS, left);
        tell_totals(&page, &self.counts.totals());
        let lags = self.groups.get().map(Coordinator::lags).unwrap_or_default();
        tell_lags(&page, &lags, self.lag_lines_max, clock::wall_ms());
        tell_groups(&page, &self.groups.get().map(Coordinator::gauges).unwrap_or_default());
        tell_quorum(&page, &self.quorum.status());
        match process::usage() {
            Ok(usage) => tell_process(&page, usage),
            // Not on this kernel: better no line than a wrong one.
            Err(error) => tracing::debug!(%error, "the process's memory and CPU time are not known"),
        }
        page.render()
    }

    /// Partitions led here that are being moved, and how many records their added replicas lack.
    fn moves_led(&self, image: &Image, in_cluster: u64) -> (u64, u64) {
        let (mut moving, mut left) = (0, 0u64);
        if in_cluster == 0 {
            return (0, 0);
        }
        for topic in image.topics.values() {
            for (number, partition) in (0..).zip(topic.partitions.iter()) {
                if partition.reassignment.is_none() || partition.leader != Some(self.node) {
                    continue;
                }
                moving += 1;
                let Some(hosted) = self.hosted.get(TopicPartition::new(topic.id, number)) else { continue };
                let status = hosted.status();
                left =
                    left.saturating_add(records_left(partition, &status.followers, status.log_start, status.log_end));
            }
        }
        (moving, left)
    }
}

/// `followers`: what their leader knows them to hold; one that has not fetched yet holds nothing.
fn records_left(
    partition: &Partition,
    followers: &[(BrokerId, Option<Offset>)],
    log_start: Offset,
    log_end: Offset,
) -> u64 {
    let held = |broker: &BrokerId| followers.iter().find(|(id, _)| id == broker).and_then(|(_, end)| *end);
    let left = partition.adding().iter().map(|broker| {
        let held = held(broker).map_or(log_start, |end| end.max(log_start));
        u64::try_from(log_end.0.saturating_sub(held.0)).unwrap_or(0)
    });
    left.fold(0, u64::saturating_add)
}

fn whole(count: i64) -> u64 {
    // Taken down before it was put up, as two threads may: for a moment.
    u64::try_from(count).unwrap_or(0)
}

fn tell_node(page: &Page, hosted: &Hosted) {
    let gauges = hosted.gauges();
    page.set(&names::PARTITIONS_LED, whole(gauges.leaders()));
    page.set(&names::PARTITIONS_UNDER_REPLICATED, whole(gauges.under_replicated()));
    page.set(&names::PARTITIONS_UNDER_MIN_ISR, whole(gauges.under_min_isr()));
    page.set(&names::REPLICAS_HOSTED, hosted.count() as u64);
    page.set(&names::REPLICAS_DAMAGED, whole(gauges.damaged()));
    page.set(&names::SCRUBBED_BYTES, gauges.scrubbed_bytes());
    page.set(&names::DAMAGE_FOUND, gauges.damage_found());
    let strays = hosted.strays_held();
    page.set(&names::STRAYS, strays.folders as u64);
    page.set(&names::STRAY_BYTES, strays.bytes);
}

#[derive(Debug, Default, PartialEq, Eq)]
struct InCluster {
    partitions: u64,
    offline: u64,
    under_replicated: u64,
    moving: u64,
    alive: u64,
    fenced: u64,
    stopping: u64,
}

impl InCluster {
    fn of(image: &Image) -> InCluster {
        let mut all = InCluster::default();
        for partition in image.topics.values().flat_map(|topic| topic.partitions.iter()) {
            all.partitions += 1;
            all.offline += u64::from(partition.leader.is_none());
            all.under_replicated += u64::from(partition.is_under_replicated());
            all.moving += u64::from(partition.reassignment.is_some());
        }
        for broker in image.brokers.values() {
            match liveness(broker) {
                Liveness::Alive => all.alive += 1,
                Liveness::ShuttingDown => all.stopping += 1,
                Liveness::Fenced | Liveness::Unspecified => all.fenced += 1,
            }
        }
        all
    }

    fn tell(&self, page: &Page) {
        page.set(&names::CLUSTER_PARTITIONS, self.partitions);
        page.set(&names::CLUSTER_PARTITIONS_OFFLINE, self.offline);
        page.set(&names::CLUSTER_PARTITIONS_UNDER_REPLICATED, self.under_replicated);
        page.set(&names::CLUSTER_PARTITIONS_MOVING, self.moving);
        page.set_of(&names::CLUSTER_BROKERS, "alive", self.alive);
        page.set_of(&names::CLUSTER_BROKERS, "fenced", self.fenced);
        page.set_of(&names::CLUSTER_BROKERS, "stopping", self.stopping);
    }
}

fn tell_totals(page: &Page, totals: &Totals) {
    let by_reason = |metric: &'static Metric, counted: &ByReason| {
        // Also those that never happened: a rate needs a zero to begin with.
        for reason in metric.label.iter().flat_map(|label| label.values) {
            page.set_of(metric, reason, counted.get(reason).copied().unwrap_or(0));
        }
    };
    by_reason(&names::LEADER_ELECTIONS, &totals.elections);
    by_reason(&names::BROKER_FENCINGS, &totals.fencings);
    page.set(&names::ISR_SHRINKS, totals.isr_shrinks);
    page.set(&names::ISR_EXPANDS, totals.isr_expands);
}

fn tell_groups(page: &Page, gauges: &Gauges) {
    for (metric, counted) in [(&names::GROUPS, &gauges.by_state), (&names::GROUP_REBALANCES, &gauges.rebalances)] {
        for value in metric.label.iter().flat_map(|label| label.values) {
            page.set_of(metric, value, counted.get(value).copied().unwrap_or(0));
        }
    }
    page.set(&names::GROUP_MEMBERS, gauges.members);
    page.set(&names::GROUPS_HELD, gauges.bytes);
    page.set(&names::GROUP_JOINS_PARKED, gauges.parked_joins);
    page.set(&names::GROUP_COMMITS, gauges.commits);
    page.set(&names::GROUP_COMMANDS, gauges.commands);
}

fn tell_lags(page: &Page, lags: &Lags, lines_max: usize, now_ms: i64) {
    let (listed, left) = lags.furthest(lines_max);
    for (group, lag) in listed {
        let partition = lag.partition.partition.to_string();
        let labels = [&**group, &*lag.topic, &*partition];
        page.set_open(&names::GROUP_LAG_RECORDS, labels, lag.records());
        // Not known yet: better no line than a wrong one.
        if let Some(age_ms) = lag.age_ms(now_ms) {
            page.set_open(&names::GROUP_LAG_SECONDS, labels, age_ms / 1_000);
        }
    }
    page.set(&names::GROUP_LAG_UNLISTED_PARTITIONS, left.partitions as u64);
    page.set(&names::GROUP_LAG_UNLISTED_RECORDS, left.records);
    let (listed, left) = lags.furthest_groups(lines_max, now_ms);
    for (group, total) in listed {
        page.set_open(&names::GROUP_TOTAL_LAG_RECORDS, [&**group], total.records);
        page.set_open(&names::GROUP_MAX_LAG_SECONDS, [&**group], total.age_ms / 1_000);
    }
    page.set(&names::GROUP_LAG_UNLISTED_GROUPS, left.partitions as u64);
    page.set(&names::GROUP_LAG_UNMEASURED_OFFSETS, lags.unmeasured as u64);
}

fn tell_quorum(page: &Page, status: &QuorumStatus) {
    page.set(&names::CONTROLLER_ACTIVE, u64::from(status.leadership.is_controller));
    page.set(&names::RAFT_TERM, status.leadership.term);
    page.set(&names::RAFT_LOG_INDEX, status.last_log_index.0);
    page.set(&names::RAFT_COMMIT_INDEX, status.committed.0);
    page.set(&names::RAFT_APPLIED_INDEX, status.applied.0);
}

fn tell_process(page: &Page, usage: Usage) {
    page.set(&names::PROCESS_RESIDENT_MEMORY, usage.resident_bytes);
    page.set(&names::PROCESS_CPU, usage.cpu.as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::classic::Phase;
    use crate::metadata::group_change::RebalanceReason;
    use crate::metadata::image::topics::{Reassignment, Topic};

    fn partition(leader: Option<i32>, isr: &[i32], adding: &[i32]) -> Partition {
        let ids = |brokers: &[i32]| brokers.iter().copied().map(BrokerId).collect::<Vec<_>>();
        let reassignment = (!adding.is_empty())
            .then(|| Box::new(Reassignment { original: ids(&[1, 2]), adding: ids(adding), removing: Vec::new() }));
        Partition {
            replicas: [ids(&[1, 2]), ids(adding)].concat(),
            isr: ids(isr),
            elr: vec![],
            leader: leader.map(BrokerId),
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(4),
            unclean_epoch: None,
            reassignment,
        }
    }

    #[test]
    fn partitions_are_counted_by_what_ails_them() {
        let id = TopicId::default();
        let partitions = [partition(Some(1), &[1, 2], &[3]), partition(Some(1), &[1], &[]), partition(None, &[], &[])];
        let mut image = Image::default();
        image.topics.insert(id, Arc::new(Topic { id, name: "t".into(), partitions: partitions.into_iter().collect() }));
        let expected = InCluster { partitions: 3, offline: 1, under_replicated: 2, moving: 1, ..InCluster::default() };
        assert_eq!(InCluster::of(&image), expected);
    }

    #[test]
    fn what_a_move_lacks_is_counted_from_the_leaders_start() {
        let moving = partition(Some(1), &[1, 2], &[3, 4]);
        let left = |held: &[(i32, Option<i64>)]| {
            let held: Vec<_> = held.iter().map(|(id, end)| (BrokerId(*id), end.map(Offset))).collect();
            records_left(&moving, &held, Offset(100), Offset(1_100))
        };
        assert_eq!(left(&[(2, Some(1_000)), (3, None), (4, Some(600))]), 1_500, "2 is not added");
        assert_eq!(left(&[(3, Some(10)), (4, Some(1_100))]), 1_000, "what is below the start is not copied");
        assert_eq!(left(&[]), 2_000);
        assert_eq!(left(&[(3, Some(1_100)), (4, Some(1_200))]), 0);
    }

    #[test]
    fn groups_are_told_by_state_and_rebalances_by_reason() {
        let page = Page::default();
        let gauges = Gauges {
            by_state: [("stable", 3)].into(),
            members: 7,
            rebalances: [("member_left", 2)].into(),
            ..Gauges::default()
        };
        tell_groups(&page, &gauges);
        let told = page.render();
        for line in [
            "highwater_groups{state=\"stable\"} 3\n",
            "highwater_groups{state=\"empty\"} 0\n",
            "highwater_group_members 7\n",
            "highwater_group_rebalances_total{reason=\"member_left\"} 2\n",
        ] {
            assert!(told.contains(line), "{line} is not in {told}");
        }
    }

    #[test]
    fn every_state_and_reason_has_a_line() {
        let values = |metric: &'static Metric| metric.label.as_ref().expect("it has a label").values;
        for phase in [Phase::Empty, Phase::PreparingRebalance, Phase::CompletingRebalance, Phase::Stable] {
            assert!(values(&names::GROUPS).contains(&phase.label()), "{phase:?}");
        }
        let named: [fn(String) -> RebalanceReason; 10] = [
            RebalanceReason::MemberJoined,
            RebalanceReason::MemberLeft,
            RebalanceReason::MemberTimedOut,
            RebalanceReason::MemberTooSlow,
            RebalanceReason::MemberTooLarge,
            RebalanceReason::SubscriptionChanged,
            RebalanceReason::MemberReplaced,
            RebalanceReason::LeaderRejoined,
            RebalanceReason::PartitionsChanged,
            RebalanceReason::AssignorChanged,
        ];
        let mut reasons: Vec<_> = named.iter().map(|reason| reason("m".into()).name()).collect();
        reasons.extend(
            [
                RebalanceReason::CoordinatorMoved,
                RebalanceReason::NotCommitted,
                RebalanceReason::ProtocolChanged,
                RebalanceReason::Requested,
            ]
            .iter()
            .map(RebalanceReason::name),
        );
        reasons.sort_unstable();
        assert_eq!(reasons, values(&names::GROUP_REBALANCES));
    }

    #[test]
    fn what_never_happened_is_told_as_zero() {
        let page = Page::default();
        let totals = Totals { elections: ByReason::from([("unclean", 2)]), ..Totals::default() };
        tell_totals(&page, &totals);
        let told = page.render();
        assert!(told.contains("highwater_leader_elections_total{reason=\"unclean\"} 2\n"), "{told}");
        assert!(told.contains("highwater_leader_elections_total{reason=\"damaged\"} 0\n"), "{told}");
        assert!(told.contains("highwater_broker_fencings_total{reason=\"restarted\"} 0\n"), "{told}");
    }
}
