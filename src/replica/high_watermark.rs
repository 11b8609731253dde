//! The high watermark: what all of the maximal ISR holds (REPLICATION rule 2).

use crate::ids::{BrokerId, Offset};
use crate::metadata::command::ConfigResource;
use crate::metadata::image::Image;

const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

/// The lowest of what each member holds durably; `None` while one of them has not told.
pub(super) fn lowest(ends: impl IntoIterator<Item = Option<Offset>>) -> Option<Offset> {
    let mut lowest: Option<Offset> = None;
    for end in ends {
        let end = end?;
        lowest = Some(lowest.map_or(end, |low| low.min(end)));
    }
    lowest
}

/// min(min.insync.replicas, replica count): no partition asks for more copies than it has. Every node must come to the
/// same number, so it is read from the image alone: the topic's override, else the default of all brokers, else 2 where
/// three copies or more are kept and 1 where fewer.
pub(super) fn effective_min_isr(image: &Image, topic: &str, replicas: &[BrokerId]) -> usize {
    let of = |resource: ConfigResource| image.configs.overrides.get(&resource)?.get(MIN_INSYNC_REPLICAS)?.parse().ok();
    let configured = of(ConfigResource::Topic(topic.to_string())).or_else(|| of(ConfigResource::BrokerDefault));
    let default = if replicas.len() >= 3 { 2 } else { 1 };
    configured.filter(|n: &usize| *n >= 1).unwrap_or(default).min(replicas.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_member_holds_it_back() {
        assert_eq!(lowest([Some(Offset(5)), Some(Offset(3)), Some(Offset(9))]), Some(Offset(3)));
        assert_eq!(lowest([Some(Offset(5)), None]), None);
    }

    #[test]
    fn min_isr_is_bounded_by_the_replica_count() {
        let brokers = |n: i32| (1..=n).map(BrokerId).collect::<Vec<_>>();
        let mut image = Image::default();
        assert_eq!(effective_min_isr(&image, "t", &brokers(1)), 1);
        assert_eq!(effective_min_isr(&image, "t", &brokers(2)), 1);
        assert_eq!(effective_min_isr(&image, "t", &brokers(3)), 2);
        let set = |value: &str| [(MIN_INSYNC_REPLICAS.to_string(), value.to_string())].into_iter().collect();
        image.configs.overrides.insert(ConfigResource::BrokerDefault, set("3"));
        assert_eq!(effective_min_isr(&image, "t", &brokers(2)), 2);
        image.configs.overrides.insert(ConfigResource::Topic("t".into()), set("1"));
        assert_eq!(effective_min_isr(&image, "t", &brokers(3)), 1);
    }
}
