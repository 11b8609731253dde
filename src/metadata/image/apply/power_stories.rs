//! What a power loss costs, told as scripts (replication.md, rule 9).

use super::stories::{AFTER_KILL, AFTER_POWER_LOSS, Restart, World};
use crate::metadata::command::{ConfigResource, MetadataError};
use crate::metadata::image::configs::{DURABILITY, DURABILITY_PAGE_CACHE};

#[test]
fn power_loss_costs_what_was_only_in_the_page_cache() {
    // With synced acks the disk is trusted.
    let mut w = World::three();
    w.fences(&[1, 2]);
    w.reads("leader 3 · isr 3 · elr 1 2 · epochs 1/1");
    w.registers(1, AFTER_POWER_LOSS);
    w.unfences(1);
    w.reads("leader 3 · isr 3 · elr 1 2 · epochs 1/1");

    let mut w = World::three_with(&[("highwater.durability", "page-cache")]);
    w.fences(&[1, 2]);
    w.registers(1, AFTER_POWER_LOSS);
    w.reads("leader 3 · isr 3 · elr 2 · epochs 1/2");
    // A kill without a reboot leaves the page cache whole; so does a clean stop before the reboot.
    w.registers(2, AFTER_KILL);
    w.reads("leader 3 · isr 3 · elr 2 · epochs 1/2");
    w.registers(2, Restart { clean: true, boot: 5, ..AFTER_KILL });
    w.reads("leader 3 · isr 3 · elr 2 · epochs 1/2");
    w.registers(3, AFTER_POWER_LOSS);
    w.reads("leader - · isr - · elr 2 · epochs 2/3");
    w.unfences(2);
    w.reads("leader 2 · isr 2 · elr - · epochs 3/4");
}

#[test]
fn the_only_replica_of_a_page_cache_topic_goes_on_with_what_it_has() {
    let mut w = World::empty();
    w.registers(1, AFTER_KILL);
    w.unfences(1);
    w.creates("t", &[1], &[("highwater.durability", "page-cache")]);
    w.registers(1, AFTER_POWER_LOSS);
    w.unfences(1);
    w.reads("leader 1 · isr 1 · elr - · epochs 2/2");
}

/// Which configs a topic leaves page-cache mode by.
fn ways_out() -> [(ConfigResource, Option<&'static str>); 2] {
    let topic = || ConfigResource::Topic("t".into());
    [(topic(), Some("sync")), (topic(), None)]
}

#[test]
fn who_was_away_when_a_topic_left_page_cache_mode_is_not_trusted_for_it() {
    for (resource, value) in ways_out() {
        let mut w = World::three_with(&[(DURABILITY, DURABILITY_PAGE_CACHE)]);
        w.fences(&[1, 2]);
        w.reads("leader 3 · isr 3 · elr 1 2 · epochs 1/1");
        w.registers(1, AFTER_KILL);
        w.unfences(1);
        w.sets(resource, DURABILITY, value);
        // In a new epoch: the leader counts nothing any more that a follower had before it heard of the change.
        w.reads("leader 3 · isr 3 · elr 1 · epochs 2/2");
        w.fences(&[3]);
        w.reads("leader 1 · isr 1 · elr 3 · epochs 3/3");
        w.fences(&[1]);
        // It lacks what was only in its page cache when its power went.
        w.registers(2, AFTER_POWER_LOSS);
        w.unfences(2);
        w.reads("leader - · isr 1 · elr 3 · epochs 4/4");
    }
}

#[test]
fn a_topic_leaves_page_cache_mode_only_while_all_of_it_is_led() {
    for by_default in [false, true] {
        let topic = ConfigResource::Topic("t".into());
        let own: &[(&str, &str)] = if by_default { &[] } else { &[(DURABILITY, DURABILITY_PAGE_CACHE)] };
        let mut w = World::three_with(own);
        let resource = if by_default { ConfigResource::BrokerDefault } else { topic };
        w.sets(resource.clone(), DURABILITY, Some(DURABILITY_PAGE_CACHE));
        w.fences(&[1, 2, 3]);
        let refused = w.tries_to_set(resource.clone(), DURABILITY, Some("sync"));
        assert!(matches!(&refused, Err(MetadataError::Invalid(why)) if why.contains("partition 0 has no leader")));
        w.sets(resource.clone(), "retention.ms", Some("1"));
        // The last one lost power: as before it is out.
        w.registers(3, AFTER_POWER_LOSS);
        w.unfences(3);
        w.registers(2, AFTER_KILL);
        w.unfences(2);
        w.reads("leader 2 · isr 2 · elr 1 · epochs 2/3");
        w.sets(resource, DURABILITY, Some("sync"));
        w.reads("leader 2 · isr 2 · elr - · epochs 3/4");
    }
}
