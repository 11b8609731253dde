//! A clean stop: leaders handed over first, the marker written last (replication.md, rule 17).

use crate::ids::*;
use crate::metadata::image::Image;
use crate::metadata::intent::{ControllerChannel, Intent};
use crate::metadata::quorum::Quorum;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

/// Asking to shut down, when a whole cluster may be stopping and nobody be left to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Waiting until this broker leads nothing that another could lead.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);
const FENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// Waiting for one listener's task.
const PORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Does this broker lead a partition that another active broker could lead right now?
pub fn leads_what_others_could(image: &Image, me: BrokerId) -> bool {
    let active = |id: &BrokerId| *id != me && image.brokers.get(id).is_some_and(|b| b.is_active());
    image
        .topics
        .values()
        .flat_map(|topic| topic.partitions.iter())
        .any(|p| p.leader == Some(me) && (p.isr.iter().any(active) || p.elr.iter().any(active)))
}

/// Asks to shut down and waits until all leaders are handed over, or for the deadline.
pub async fn hand_over(quorum: &Quorum, channel: &Arc<dyn ControllerChannel>, me: BrokerId, epoch: BrokerEpoch) {
    let mut updates = quorum.subscribe();
    if let Err(error) = channel.submit(Intent::BeginShutdown { broker: me, epoch }, ASK_TIMEOUT).await {
        tracing::warn!(%error, "could not ask the controller to take over; stopping without");
        return;
    }
    let handed_over = async {
        while leads_what_others_could(&quorum.image(), me) {
            if matches!(updates.recv().await, Err(RecvError::Closed)) {
                return;
            }
        }
    };
    if tokio::time::timeout(HAND_OVER_TIMEOUT, handed_over).await.is_err() {
        tracing::warn!("some partitions are still led here after {HAND_OVER_TIMEOUT:?}; stopping all the same");
    }
}

/// Tells the controller that this process is gone, so that nobody waits for its session.
pub async fn fence_self(channel: &Arc<dyn ControllerChannel>, me: BrokerId, epoch: BrokerEpoch) {
    if let Err(error) = channel.submit(Intent::FenceSelf { broker: me, epoch }, FENCE_TIMEOUT).await {
        tracing::warn!(%error, "could not sign off; the session will expire by itself");
    }
}

/// Waits for listeners whose `stop` is set; one that lingers is cut off.
pub async fn ports_closed(tasks: Vec<JoinHandle<()>>) {
    for mut task in tasks {
        if tokio::time::timeout(PORT_TIMEOUT, &mut task).await.is_err() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::{BrokerRegistration, Endpoint};
    use crate::metadata::image::brokers::Broker;
    use crate::metadata::image::topics::{Partition, Topic};

    fn broker(id: i32) -> Broker {
        let endpoint = Endpoint { listener: "x".into(), host: "h".into(), port: 1 };
        let registration = BrokerRegistration {
            broker: BrokerId(id),
            directory: DirectoryId::default(),
            incarnation: IncarnationId::default(),
            boot_id: String::new(),
            clean_stop: true,
            data_lost: false,
            kafka_endpoints: Vec::new(),
            replica_endpoint: endpoint.clone(),
            cluster_endpoint: endpoint.clone(),
            admin_endpoint: endpoint,
            rack: None,
            version: String::new(),
        };
        Broker { registration, epoch: BrokerEpoch(1), fenced: false, shutting_down: false, draining: false }
    }

    #[test]
    fn only_what_another_could_lead_is_waited_for() {
        let mut image = Image::default();
        for id in 1..=2 {
            image.brokers.insert(BrokerId(id), broker(id));
        }
        let mut partition = Partition {
            replicas: vec![BrokerId(1), BrokerId(2)],
            isr: vec![BrokerId(1), BrokerId(2)],
            elr: Vec::new(),
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            unclean_epoch: None,
            reassignment: None,
        };
        let check = |image: &mut Image, partition: &Partition| {
            let id = TopicId::default();
            let topic = Topic { id, name: "t".into(), partitions: [partition.clone()].into_iter().collect() };
            image.topics.insert(id, Arc::new(topic));
            leads_what_others_could(image, BrokerId(1))
        };
        assert!(check(&mut image, &partition));
        partition.isr = vec![BrokerId(1)];
        assert!(!check(&mut image, &partition), "the only one in sync: nobody to hand over to");
        partition.elr = vec![BrokerId(2)];
        assert!(check(&mut image, &partition));
        image.brokers.get_mut(&BrokerId(2)).unwrap().shutting_down = true;
        assert!(!check(&mut image, &partition), "the whole cluster is stopping");
    }
}
