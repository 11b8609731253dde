//! Commands about brokers: registering, fencing, unfencing, stopping, forgetting.

use super::Change;
use super::transition::{Next, come_back, depart, drain, hand_over};
use crate::ids::*;
use crate::metadata::command::{Answer, BrokerRegistration, ElectionReason, FenceReason, MetadataError};
use crate::metadata::event::Event;
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::metadata::image::topics::Partition;
use std::collections::BTreeSet;

/// How much of what a broker held survived until it registered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survived {
    All,
    /// The machine went down uncleanly: what was only in the page cache is gone (replication.md, rule 9).
    Disk,
    /// Another or an untrustworthy folder: an empty replica (rules 11 and 19).
    Nothing,
}

impl Change<'_> {
    /// A new process of a broker: its old one is fenced in this same apply, since a fast restart is otherwise unseen, and
    /// what did not survive leaves every ISR and ELR before the broker may be unfenced.
    ///
    /// Whether the old process still answers is the controller's to know; it refuses a duplicate before it proposes.
    pub(super) fn register(&mut self, registration: &BrokerRegistration) -> Result<Answer, MetadataError> {
        let broker = registration.broker;
        let old = self.image.brokers.get(&broker).cloned();
        if let Some(old) = &old
            && old.registration.incarnation == registration.incarnation
        {
            // A proposal whose outcome was unknown, tried again.
            return Ok(Answer::Registered { epoch: old.epoch });
        }
        let survived = survived(old.as_ref().map(|b| &b.registration), registration);
        if let Some(old) = old.as_ref().filter(|b| !b.fenced) {
            self.events.push(Event::BrokerFenced { broker, epoch: old.epoch, reason: FenceReason::Restarted });
        }
        let epoch = BrokerEpoch(i64::try_from(self.index.0).unwrap_or(i64::MAX));
        let draining = old.as_ref().is_some_and(|b| b.draining);
        let fresh = Broker { registration: registration.clone(), epoch, fenced: true, shutting_down: false, draining };
        self.image.brokers.insert(broker, fresh);
        let reason = ElectionReason::Fenced(FenceReason::Restarted);
        for place in self.partitions_on(broker) {
            self.change_partition(place, reason, |image, topic, old| {
                let lost = if has_lost(image, topic, old, broker, survived) { vec![broker] } else { Vec::new() };
                let counted = old.isr.contains(&broker) || old.elr.contains(&broker);
                let unsynced_lost =
                    lost.is_empty() && counted && survived == Survived::Disk && image.configs.is_page_cache(topic);
                Some(Next { unsynced_lost, ..depart(old, &lost, image) })
            });
        }
        self.events.push(Event::BrokerRegistered { broker, epoch, restarted: old.is_some() });
        Ok(Answer::Registered { epoch })
    }

    /// Brokers whose epoch is stale or that are fenced already are left as they are. Refused only if that is all of them
    /// and one was stale or unknown.
    pub(super) fn fence(
        &mut self,
        brokers: &[(BrokerId, BrokerEpoch)],
        reason: FenceReason,
    ) -> Result<Answer, MetadataError> {
        let mut refused = None;
        let mut places = BTreeSet::new();
        let mut fenced_any = false;
        // First all of them are fenced: none of them may inherit from another.
        for (broker, epoch) in brokers {
            if let Err(error) = self.check_epoch(*broker, *epoch) {
                refused.get_or_insert(error);
                continue;
            }
            let state = self.image.brokers.get_mut(broker).expect("its epoch was checked");
            fenced_any = true;
            if !state.fenced {
                state.fenced = true;
                self.events.push(Event::BrokerFenced { broker: *broker, epoch: *epoch, reason });
                places.extend(self.partitions_on(*broker));
            }
        }
        for place in places {
            self.change_partition(place, ElectionReason::Fenced(reason), |image, _, old| Some(depart(old, &[], image)));
        }
        match refused {
            Some(error) if !fenced_any => Err(error),
            _ => Ok(Answer::Done),
        }
    }

    pub(super) fn unfence(&mut self, broker: BrokerId, epoch: BrokerEpoch) -> Result<Answer, MetadataError> {
        self.check_epoch(broker, epoch)?;
        let state = self.image.brokers.get_mut(&broker).expect("its epoch was checked");
        if !state.fenced {
            return Ok(Answer::Done);
        }
        if state.shutting_down {
            return Err(MetadataError::Invalid(format!("broker {broker} is shutting down; it returns by registering")));
        }
        state.fenced = false;
        self.events.push(Event::BrokerUnfenced { broker, epoch });
        for place in self.partitions_on(broker) {
            self.change_partition(place, ElectionReason::Returned, |image, _, old| come_back(old, broker, image));
        }
        Ok(Answer::Done)
    }

    /// May be proposed again while the broker is stopping: it then hands over what it could not before.
    pub(super) fn begin_shutdown(&mut self, broker: BrokerId, epoch: BrokerEpoch) -> Result<Answer, MetadataError> {
        self.check_epoch(broker, epoch)?;
        let state = self.image.brokers.get_mut(&broker).expect("its epoch was checked");
        if !state.shutting_down {
            state.shutting_down = true;
            self.events.push(Event::BrokerShuttingDown { broker });
        }
        for place in self.partitions_on(broker) {
            self.change_partition(place, ElectionReason::Shutdown, |image, topic, old| {
                hand_over(old, broker, image.effective_min_isr(topic, old.counted_replicas()), image)
            });
        }
        Ok(Answer::Done)
    }

    /// All that the broker leads and others can lead moves in this apply. Its place in the ISRs stays.
    pub(super) fn set_draining(&mut self, broker: BrokerId, draining: bool) -> Result<Answer, MetadataError> {
        let state = self.image.brokers.get_mut(&broker).ok_or(MetadataError::UnknownBroker(broker))?;
        if state.draining != draining {
            state.draining = draining;
            self.events.push(Event::BrokerDraining { broker, draining });
        }
        if draining {
            for place in self.partitions_on(broker) {
                self.change_partition(place, ElectionReason::Drained, |image, _, old| drain(old, broker, image));
            }
        }
        Ok(Answer::Done)
    }

    /// Forgets a fenced broker. What its folder holds is forgotten with it: should it register again, it starts empty.
    pub(super) fn unregister(&mut self, broker: BrokerId) -> Result<Answer, MetadataError> {
        let state = self.image.brokers.get(&broker).ok_or(MetadataError::UnknownBroker(broker))?;
        if !state.fenced {
            let reason = format!("broker {broker} is alive; stop it before it is removed");
            return Err(MetadataError::Invalid(reason));
        }
        self.image.brokers.remove(&broker);
        self.events.push(Event::BrokerUnregistered { broker });
        Ok(Answer::Done)
    }
}

fn survived(old: Option<&BrokerRegistration>, new: &BrokerRegistration) -> Survived {
    match old {
        Some(old) if old.directory == new.directory && !new.data_lost => {
            if new.clean_stop || old.boot_id == new.boot_id { Survived::All } else { Survived::Disk }
        }
        // Never seen, forgotten, wiped, or its disk failed: nothing vouches for what it holds.
        _ => Survived::Nothing,
    }
}

/// In page-cache topics a lost page cache costs acked records, so the replica leaves ISR and ELR, even the last one. Not
/// so the only replica there is: nobody has more than it, so waiting for another would help no one. One that a move adds
/// is another only once it is in sync, or was: before, it has a part of what this one had, and perhaps more than this one
/// has kept. The image then records that what was not synced is lost, so that it may cut below its high watermark.
fn has_lost(image: &Image, topic: &str, partition: &Partition, broker: BrokerId, survived: Survived) -> bool {
    let counts =
        |b: &BrokerId| !partition.adding().contains(b) || partition.isr.contains(b) || partition.elr.contains(b);
    let is_only = || !partition.replicas.iter().any(|b| *b != broker && counts(b));
    match survived {
        Survived::All => false,
        Survived::Disk => image.configs.is_page_cache(topic) && !is_only(),
        Survived::Nothing => true,
    }
}
