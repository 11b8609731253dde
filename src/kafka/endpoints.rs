//! Brokers by the addresses of the listener that was asked, and who leads (KIP-951).

use super::context::RequestContext;
use crate::ids::*;
use crate::metadata::command::Endpoint;
use crate::metadata::image::Image;
use crate::metadata::image::brokers::Broker;
use crate::replica::partition::LeaderHint;

/// The listener a request came in on.
#[derive(Clone, Copy, Debug)]
pub struct Door<'a> {
    pub listener: &'a str,
    pub is_replica_listener: bool,
}

impl<'a> Door<'a> {
    pub fn of(context: &'a RequestContext) -> Door<'a> {
        Door { listener: &context.listener, is_replica_listener: context.is_replica_listener }
    }

    /// Where `broker` is reached by whoever came in here; `None` if it has no such listener.
    pub fn endpoint<'b>(&self, broker: &'b Broker) -> Option<&'b Endpoint> {
        if self.is_replica_listener {
            return Some(&broker.registration.replica_endpoint);
        }
        broker.registration.kafka_endpoints.iter().find(|endpoint| endpoint.listener == self.listener)
    }
}

/// A broker as an answer names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: BrokerId,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

impl Node {
    /// Of an unfenced broker that has this listener.
    pub fn of(image: &Image, id: BrokerId, door: Door<'_>) -> Option<Node> {
        let broker = image.brokers.get(&id).filter(|broker| !broker.fenced)?;
        let endpoint = door.endpoint(broker)?;
        Some(Node {
            id,
            host: endpoint.host.clone(),
            port: i32::from(endpoint.port),
            rack: broker.registration.rack.clone(),
        })
    }
}

/// Any live broker stands for the controller, since each passes on what is the controller's: this one if it is live.
pub fn controller_for_clients(image: &Image, me: BrokerId) -> Option<BrokerId> {
    let live = |id: &BrokerId| image.brokers.get(id).is_some_and(|broker| !broker.fenced);
    Some(me).filter(live).or_else(|| image.brokers.keys().copied().find(live))
}

/// Who leads, by the newer of what the partition and what the image says.
pub fn newest_leader(image: &Image, partition: TopicPartition, hint: Option<LeaderHint>) -> Option<LeaderHint> {
    let known = image.partition(partition).map(|p| LeaderHint { leader: p.leader, epoch: p.leader_epoch });
    match (hint, known) {
        (Some(hint), Some(known)) if hint.epoch > known.epoch => Some(hint),
        (hint, None) => hint,
        (_, known) => known,
    }
}

/// The leaders that one response names, each once.
#[derive(Debug, Default)]
pub struct NamedLeaders {
    nodes: Vec<Node>,
}

impl NamedLeaders {
    /// Notes the leader's address. True if the client can go there.
    pub fn name(&mut self, image: &Image, leader: BrokerId, door: Door<'_>) -> bool {
        if self.nodes.iter().any(|node| node.id == leader) {
            return true;
        }
        let node = Node::of(image, leader, door);
        let found = node.is_some();
        self.nodes.extend(node);
        found
    }

    pub fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::metadata::testing;

    const CLIENTS: Door<'_> = Door { listener: "external", is_replica_listener: false };

    #[test]
    fn brokers_are_named_by_the_listener_that_was_asked() {
        let image = testing::image();
        let node = Node::of(&image, BrokerId(1), CLIENTS).unwrap();
        assert_eq!((node.host.as_str(), node.port), ("external-1", 9001));
        let replica = Door { listener: "replica", is_replica_listener: true };
        assert_eq!(Node::of(&image, BrokerId(1), replica).unwrap().host, "replica-1");
        let missing = Door { listener: "nowhere", ..CLIENTS };
        assert!(Node::of(&image, BrokerId(1), missing).is_none());
        assert!(Node::of(&image, BrokerId(3), CLIENTS).is_none(), "fenced");
    }

    #[test]
    fn the_newer_epoch_says_who_leads() {
        let image = testing::image();
        let partition = TopicPartition::new(testing::ORDERS, 0);
        let image_says = LeaderHint { leader: Some(BrokerId(1)), epoch: LeaderEpoch(5) };
        let newer = LeaderHint { leader: Some(BrokerId(2)), epoch: LeaderEpoch(6) };
        let older = LeaderHint { leader: Some(BrokerId(2)), epoch: LeaderEpoch(4) };
        assert_eq!(newest_leader(&image, partition, Some(newer)), Some(newer));
        assert_eq!(newest_leader(&image, partition, Some(older)), Some(image_says));
        assert_eq!(newest_leader(&image, partition, None), Some(image_says));
        let unknown = TopicPartition::new(testing::ORDERS, 99);
        assert_eq!(newest_leader(&image, unknown, Some(older)), Some(older));
    }

    #[test]
    fn a_live_broker_stands_for_the_controller() {
        let image = testing::image();
        assert_eq!(controller_for_clients(&image, BrokerId(2)), Some(BrokerId(2)));
        assert_eq!(controller_for_clients(&image, BrokerId(3)), Some(BrokerId(1)), "a fenced one does not");
    }

    #[test]
    fn each_leader_is_named_once() {
        let image = testing::image();
        let mut named = NamedLeaders::default();
        assert!(named.name(&image, BrokerId(1), CLIENTS) && named.name(&image, BrokerId(1), CLIENTS));
        assert!(!named.name(&image, BrokerId(3), CLIENTS));
        assert_eq!(named.into_nodes().len(), 1);
    }
}
