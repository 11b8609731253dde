//! `__consumer_offsets`: created on first need.

use super::settings::Settings;
use crate::metadata::group_partition::TRANSACTIONS_TOPIC;
use crate::metadata::image::Image;
use crate::metadata::intent::TopicIntent;

pub use crate::metadata::group_partition::OFFSETS_TOPIC;

/// The cluster's own topics: clients see them flagged, and no pattern matches them.
pub fn is_internal(name: &str) -> bool {
    matches!(name, OFFSETS_TOPIC | TRANSACTIONS_TOPIC)
}

/// What to ask the controller for; `None` while too few brokers are alive to hold all replicas at once. Fenced
/// brokers count for the replication factor: one that is starting must not end up with a topic of fewer copies.
pub fn wanted(image: &Image, settings: &Settings) -> Option<TopicIntent> {
    let registered = image.brokers.values().filter(|broker| !broker.draining).count();
    let registered = i16::try_from(registered).unwrap_or(i16::MAX);
    let active = image.brokers.values().filter(|broker| broker.takes_replicas()).count();
    let replication_factor = registered.min(settings.topic_replication_factor);
    if replication_factor == 0 || active < usize::from(replication_factor.unsigned_abs()) {
        return None;
    }
    let configs = [
        ("cleanup.policy", "compact".to_string()),
        ("compression.type", "producer".to_string()),
        ("segment.bytes", settings.topic_segment_bytes.to_string()),
    ];
    Some(TopicIntent {
        name: OFFSETS_TOPIC.to_string(),
        partitions: settings.topic_partitions,
        replication_factor,
        assignments: None,
        configs: configs.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use crate::metadata::command::{BrokerRegistration, Endpoint};
    use crate::metadata::image::brokers::Broker;

    fn image(fenced: &[bool]) -> Image {
        let endpoint = Endpoint { listener: String::new(), host: "h".into(), port: 1 };
        let mut image = Image::default();
        for (id, fenced) in (1..).map(BrokerId).zip(fenced) {
            let registration = BrokerRegistration {
                broker: id,
                directory: DirectoryId::default(),
                incarnation: IncarnationId::default(),
                boot_id: String::new(),
                clean_stop: true,
                data_lost: false,
                kafka_endpoints: Vec::new(),
                replica_endpoint: endpoint.clone(),
                cluster_endpoint: endpoint.clone(),
                admin_endpoint: endpoint.clone(),
                rack: None,
                version: String::new(),
            };
            let broker =
                Broker { registration, epoch: BrokerEpoch(1), fenced: *fenced, shutting_down: false, draining: false };
            image.brokers.insert(id, broker);
        }
        image
    }

    #[test]
    fn waits_until_as_many_are_alive_as_there_will_be_replicas() {
        let settings = Settings::for_tests();
        let factor = |fenced: &[bool]| wanted(&image(fenced), &settings).map(|topic| topic.replication_factor);
        assert_eq!(factor(&[]), None);
        assert_eq!(factor(&[false]), Some(1));
        assert_eq!(factor(&[false, true]), None);
        assert_eq!(factor(&[false, false, true]), None);
        assert_eq!(factor(&[false, false, false]), Some(3));
        assert_eq!(factor(&[false, false, false, true]), Some(3));
    }
}
