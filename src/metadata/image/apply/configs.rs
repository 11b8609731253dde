//! Configs, features, the cluster's name.

use super::Change;
use super::transition::Next;
use crate::ids::*;
use crate::metadata::command::*;
use crate::metadata::event::Event;
use crate::metadata::image::configs::{DURABILITY, MIN_INSYNC_REPLICAS};
use crate::metadata::image::topics::Topic;
use std::sync::Arc;

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
        let mut configs = self.image.configs.clone();
        configs.change(&change.resource, change.set.iter().map(|(name, value)| (name, value.as_ref())));
        let leaving: Vec<TopicId> = if change.set.contains_key(DURABILITY) {
            let leaves =
                |topic: &Topic| self.image.configs.is_page_cache(&topic.name) && !configs.is_page_cache(&topic.name);
            self.topics_of(&change.resource).filter(|topic| leaves(topic)).map(|topic| topic.id).collect()
        } else {
            Vec::new()
        };
        self.check_led(&leaving)?;
        self.image.configs = configs;
        leaving.into_iter().for_each(|id| self.leave_page_cache(id));
        let names = change.set.keys().cloned().collect();
        self.events.push(Event::ConfigChanged { resource: change.resource.clone(), names });
        if change.set.contains_key(MIN_INSYNC_REPLICAS) {
            let ids: Vec<TopicId> = self.topics_of(&change.resource).map(|topic| topic.id).collect();
            ids.into_iter().for_each(|id| self.settle_elr(id));
        }
        Ok(())
    }

    /// The topics that a resource's topic configs are for.
    fn topics_of(&self, resource: &ConfigResource) -> Box<dyn Iterator<Item = &Arc<Topic>> + '_> {
        match resource {
            ConfigResource::Topic(name) => Box::new(self.image.topic_by_name(name).into_iter()),
            ConfigResource::BrokerDefault => Box::new(self.image.topics.values()),
            ConfigResource::Broker(_) | ConfigResource::Group(_) => Box::new(std::iter::empty()),
        }
    }

    /// Rule 9: once a topic's acks are synced its replicas are trusted after a power loss. Those that are in sync write out
    /// what they have as they hear of it. One that is away may have acked records in its page cache only: where it is the
    /// last one nobody could tell, so the change has to wait for it.
    fn check_led(&self, leaving: &[TopicId]) -> Result<(), MetadataError> {
        for topic in leaving.iter().filter_map(|id| self.image.topic(*id)) {
            if let Some(number) = topic.partitions.iter().position(|partition| partition.leader.is_none()) {
                return Err(MetadataError::Invalid(format!(
                    "{DURABILITY} of topic {} cannot leave page-cache now: partition {number} has no leader, and its last \
                     replica may hold acked records in memory only; bring it back first",
                    topic.name
                )));
            }
        }
        Ok(())
    }

    /// Whoever is away is not eligible any more. The epoch is renewed: what a leader knows of its followers' ends may lie in
    /// their page caches, and counts no more.
    fn leave_page_cache(&mut self, id: TopicId) {
        let count = self.image.topic(id).map_or(0, |topic| topic.partitions.len());
        for number in (0..).take(count) {
            let place = TopicPartition::new(id, number);
            self.change_partition(place, ElectionReason::Durability, |image, _, old| {
                let away: Vec<BrokerId> = old.elr.iter().copied().filter(|b| !image.is_alive(*b)).collect();
                Some(Next { lost: away, renewed: true, ..Next::new(old.isr.clone(), old.leader) })
            });
        }
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
