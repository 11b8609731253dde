//! `/metrics` as Prometheus scrapes it from real nodes.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use std::time::Duration;
use support::metrics::{get, scrape, sum};
use support::{Cluster, wait_for};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_kill_is_seen_in_the_numbers_and_so_is_the_return() {
    let cluster = Cluster::start("metrics", 3, &[]);
    cluster.create_topic("t", 6, 3, &[]);
    wait_for("each node follows", SOON, || {
        (sum(&cluster, &[1, 2, 3], "highwater_replicas_hosted")? == 18.0).then_some(())
    });
    wait_for("all is in sync", SOON, || {
        let led = sum(&cluster, &[1, 2, 3], "highwater_partitions_led")?;
        let behind = sum(&cluster, &[1, 2, 3], "highwater_partitions_under_replicated")?;
        (led == 6.0 && behind == 0.0).then_some(())
    });
    assert_eq!(sum(&cluster, &[1, 2, 3], "highwater_controller_active"), Some(1.0));
    let before = scrape(&cluster, 1).expect("it answers");
    assert_eq!(before["highwater_cluster_partitions"], 6.0);
    assert_eq!(before["highwater_cluster_brokers{state=\"alive\"}"], 3.0);
    assert_eq!(before["highwater_leader_elections_total{reason=\"created\"}"], 6.0);
    assert_eq!(before["highwater_broker_fencings_total{reason=\"connection_lost\"}"], 0.0);
    assert_eq!(before["highwater_replicas_damaged"], 0.0);
    assert!(before["highwater_process_resident_memory_bytes"] > 1e6);
    assert!(before["highwater_raft_applied_index"] >= 1.0 && before["highwater_raft_term"] >= 1.0);

    cluster.kill(3);
    wait_for("the loss shows", SOON, || {
        let left = [1, 2];
        let behind = sum(&cluster, &left, "highwater_partitions_under_replicated")?;
        (sum(&cluster, &left, "highwater_partitions_led")? == 6.0 && behind == 6.0).then_some(())
    });
    for node in [1, 2] {
        // The one may be a step behind the other.
        let after = wait_for("every survivor knows", SOON, || {
            let now = scrape(&cluster, node)?;
            (now["highwater_cluster_brokers{state=\"fenced\"}"] == 1.0).then_some(now)
        });
        assert_eq!(after["highwater_cluster_brokers{state=\"alive\"}"], 2.0);
        assert_eq!(after["highwater_cluster_partitions_under_replicated"], 6.0);
        assert_eq!(after["highwater_cluster_partitions_offline"], 0.0);
        let fencings: f64 = after
            .iter()
            .filter(|(name, _)| name.starts_with("highwater_broker_fencings_total"))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(fencings, 1.0);
        assert!(after["highwater_leader_elections_total{reason=\"fenced\"}"] >= 1.0);
        assert_eq!(after["highwater_isr_shrinks_total"], 6.0);
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "always the same lines");
    }
    let expands = scrape(&cluster, 1).expect("it answers")["highwater_isr_expands_total"];

    cluster.start_node(3);
    wait_for("all is in sync again", SOON, || {
        let now = scrape(&cluster, 1)?;
        (now["highwater_cluster_partitions_under_replicated"] == 0.0).then_some(())
    });
    assert_eq!(scrape(&cluster, 1).expect("it answers")["highwater_isr_expands_total"], expands + 6.0);
    assert!(get(&cluster, 1, "/metric").expect("it answers").0.starts_with("http/1.1 404"));
}
