//! What a topic's config says about a produce, resolved once and kept until the config changes.

use crate::config::broker::BrokerConfigs;
use crate::config::topic::TopicConfig;
use crate::ids::*;
use crate::metadata::command::ConfigResource;
use crate::metadata::image::Image;
use crate::metadata::image::topics::Topic;
use crate::records::Compression;
use imbl::OrdMap;
use parking_lot::Mutex;
use std::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceRules {
    /// A compacted topic takes no record without a key.
    pub keys_required: bool,
    /// `None`: batches stay as the producer compressed them.
    pub compression: Option<Compression>,
    /// `max.message.bytes`.
    pub batch_bytes_max: usize,
}

/// The overrides that a resolved config came from; it holds while they are the same.
#[derive(Clone, Debug, Default, PartialEq)]
struct Overrides {
    topic: OrdMap<String, String>,
    broker: OrdMap<String, String>,
    all_brokers: OrdMap<String, String>,
}

struct Resolved {
    /// The image they were last compared in: within it nothing can differ.
    index: RaftIndex,
    overrides: Overrides,
    rules: ProduceRules,
}

/// Bound: about twice the topics that exist.
#[derive(Default)]
pub struct TopicRules {
    resolved: Mutex<HashMap<TopicId, Resolved>>,
}

impl TopicRules {
    pub fn of(&self, image: &Image, topic: &Topic, config: &BrokerConfigs, me: BrokerId) -> ProduceRules {
        let mut resolved = self.resolved.lock();
        if let Some(known) = resolved.get_mut(&topic.id) {
            if known.index == image.index {
                return known.rules;
            }
            let overrides = overrides(image, topic, me);
            if known.overrides != overrides {
                known.rules = resolve(&overrides, config);
                known.overrides = overrides;
            }
            known.index = image.index;
            return known.rules;
        }
        if resolved.len() > 2 * image.topics.len() + 64 {
            resolved.retain(|id, _| image.topics.contains_key(id));
        }
        let overrides = overrides(image, topic, me);
        let rules = resolve(&overrides, config);
        resolved.insert(topic.id, Resolved { index: image.index, overrides, rules });
        rules
    }
}

fn overrides(image: &Image, topic: &Topic, me: BrokerId) -> Overrides {
    Overrides {
        topic: image.configs.of_topic(&topic.name),
        broker: image.configs.of(&ConfigResource::Broker(me)),
        all_brokers: image.configs.of(&ConfigResource::BrokerDefault),
    }
}

fn pairs(map: &OrdMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

fn resolve(overrides: &Overrides, config: &BrokerConfigs) -> ProduceRules {
    let broker = config.with_overrides(pairs(&overrides.all_brokers).chain(pairs(&overrides.broker)));
    let topic = TopicConfig::resolve(pairs(&overrides.topic), &broker);
    ProduceRules {
        keys_required: topic.compact,
        // "producer" names no codec.
        compression: Compression::from_name(&topic.compression_type),
        batch_bytes_max: usize::try_from(topic.max_message_bytes).unwrap_or(usize::MAX),
    }
}

/// The broker configs in force on this node: static ones, those of all brokers, this broker's own.
pub fn broker_configs(image: &Image, config: &BrokerConfigs, me: BrokerId) -> BrokerConfigs {
    let all_brokers = image.configs.of(&ConfigResource::BrokerDefault);
    let own = image.configs.of(&ConfigResource::Broker(me));
    config.with_overrides(pairs(&all_brokers).chain(pairs(&own)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;

    fn set(image: &mut Image, resource: ConfigResource, name: &str, value: &str) {
        let mut values = image.configs.of(&resource);
        values.insert(name.to_string(), value.to_string());
        image.configs.overrides.insert(resource, values);
        image.index = RaftIndex(image.index.0 + 1);
    }

    #[test]
    fn rules_follow_the_config_and_only_the_config() {
        let (rules, config, me) = (TopicRules::default(), BrokerConfigs::default(), BrokerId(1));
        let mut image = testing::image();
        let topic = image.topic(testing::ORDERS).unwrap().clone();
        let plain = ProduceRules { keys_required: false, compression: None, batch_bytes_max: 1_048_588 };
        assert_eq!(rules.of(&image, &topic, &config, me), plain);

        set(&mut image, ConfigResource::Topic("orders".to_string()), "cleanup.policy", "compact,delete");
        let compacted = ProduceRules { keys_required: true, ..plain };
        assert_eq!(rules.of(&image, &topic, &config, me), compacted);

        set(&mut image, ConfigResource::BrokerDefault, "compression.type", "zstd");
        assert_eq!(rules.of(&image, &topic, &config, me).compression, Some(Compression::Zstd));
        set(&mut image, ConfigResource::Broker(me), "compression.type", "lz4");
        assert_eq!(rules.of(&image, &topic, &config, me).compression, Some(Compression::Lz4));
        set(&mut image, ConfigResource::Topic("orders".to_string()), "compression.type", "producer");
        assert_eq!(rules.of(&image, &topic, &config, me), compacted);
    }
}
