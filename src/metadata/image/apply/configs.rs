//! Configs, features, the cluster's name.

use super::Change;
use super::transition::Next;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;
use crate::metadata::image::configs::MIN_INSYNC_REPLICAS;

impl Change<'_> {
    pub(super) fn set_configs(&mut self, changes: &[ConfigChange]) -> Answer {
        Answer::Configs(changes.iter().map(|change| self.set_config(change)).collect())
    }

    fn set_config(&mut self, change: &ConfigChange) -> Result<(), MetadataError> {
        if let ConfigResource::Topic(name) = &change.resource
            && !self.image.topic_ids.contains_key(name)
        {
            return Err(MetadataError::UnknownTopic);
        }
        self.image.configs.change(&change.resource, change.set.iter().map(|(name, value)| (name, value.as_ref())));
        let names = change.set.keys().cloned().collect();
        self.events.push(Event::ConfigChanged { resource: change.resource.clone(), names });
        if change.set.contains_key(MIN_INSYNC_REPLICAS) {
            match &change.resource {
                ConfigResource::Topic(name) => {
                    let id = self.image.topic_ids.get(name).copied();
                    id.into_iter().for_each(|id| self.settle_elr(id));
                }
                ConfigResource::BrokerDefault => {
                    let ids: Vec<TopicId> = self.image.topics.keys().copied().collect();
                    ids.into_iter().for_each(|id| self.settle_elr(id));
                }
                ConfigResource::Broker(_) | ConfigResource::Group(_) => {}
            }
        }
        Ok(())
    }

    /// Rule 8 under a changed min.insync.replicas: where the ISR is large enough now, the high watermark moves again
    /// without the replicas in the ELR, so they may not stay eligible one command longer.
    fn settle_elr(&mut self, id: TopicId) {
        let count = self.image.topic(id).map_or(0, |topic| topic.partitions.len());
        for number in (0..).take(count) {
            let place = TopicPartition::new(id, number);
            self.change_partition(place, ElectionReason::Preferred, |_, _, old| {
                (!old.elr.is_empty() || old.reassignment.is_some()).then(|| Next::new(old.isr.clone(), old.leader))
            });
        }
    }

    pub(super) fn finalize_feature(&mut self, name: &str, level: i16) -> Answer {
        self.image.features.insert(name.to_string(), level);
        self.events.push(Event::FeatureFinalized { name: name.to_string(), level });
        Answer::Done
    }

    pub(super) fn form_cluster(&mut self, cluster_id: ClusterId) -> Result<Answer, MetadataError> {
        let current = self.image.cluster_id;
        if current == ClusterId::default() {
            self.image.cluster_id = cluster_id;
        } else if current != cluster_id {
            return Err(MetadataError::Invalid(format!("the cluster is named {current} already")));
        }
        Ok(Answer::Done)
    }
}
