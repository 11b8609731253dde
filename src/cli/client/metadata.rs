//! Who leads what: one task asks the cluster, everyone watches what it learned.

use super::errors;
use crate::wire::client::Connection;
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::{MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

const VERSION: i16 = 9;
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Leaders that moved without an error here (a hung broker) are noticed by asking now and then.
const EVERY: Duration = Duration::from_secs(1);
/// However many lanes ask, the cluster is asked no more often than this.
const SPACING: Duration = Duration::from_millis(20);

pub const CLIENT_ID: &str = "highwater-cli";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionView {
    pub leader: Option<i32>,
    pub epoch: i32,
}

#[derive(Clone, Debug, Default)]
pub struct TopicView {
    /// Kafka's code; 0 if all is well.
    pub error: i16,
    /// Indexed by partition number.
    pub partitions: Vec<PartitionView>,
}

/// What the cluster told at one time. `version` counts; 0 is before the first answer.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub version: u64,
    pub brokers: BTreeMap<i32, String>,
    pub topic: TopicView,
}

impl View {
    /// The leader's id, epoch and address, if all are known.
    pub fn leader(&self, partition: usize) -> Option<(i32, i32, &str)> {
        let found = self.topic.partitions.get(partition)?;
        let leader = found.leader?;
        Some((leader, found.epoch, self.brokers.get(&leader)?))
    }
}

/// Metadata of one topic. Cheap to clone; the task ends with the last clone.
#[derive(Clone)]
pub struct Metadata {
    pub topic: Arc<str>,
    view: watch::Receiver<Arc<View>>,
    wish: Arc<Notify>,
}

impl Metadata {
    /// Starts asking; `bootstrap` is used until brokers are known, and again when none of them answers.
    pub fn open(bootstrap: Vec<String>, topic: &str) -> Metadata {
        let (publish, view) = watch::channel(Arc::new(View::default()));
        let wish = Arc::new(Notify::new());
        let topic: Arc<str> = topic.into();
        tokio::spawn(follow(bootstrap, topic.clone(), publish, wish.clone()));
        Metadata { topic, view, wish }
    }

    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Waits for a view newer than version `seen`, a second at most.
    pub async fn refresh(&self, seen: u64) {
        self.wish.notify_one();
        let mut view = self.view.clone();
        let newer = view.wait_for(|view| view.version > seen);
        let _ = timeout(CALL_TIMEOUT, newer).await;
    }

    /// The number of partitions, once the topic is known; an error if there is none of that name, or no answer.
    pub async fn partitions(&self, deadline: Duration) -> anyhow::Result<usize> {
        const UNKNOWN_TOPIC: i16 = 3;
        let until = Instant::now() + deadline;
        loop {
            let view = self.view();
            if view.version > 0 && view.topic.error == 0 && !view.topic.partitions.is_empty() {
                return Ok(view.topic.partitions.len());
            }
            if Instant::now() >= until {
                match view.topic.error {
                    _ if view.version == 0 => anyhow::bail!(
                        "no broker answers on its Kafka port within {deadline:?}; is the cluster up? \
                         --bootstrap names another"
                    ),
                    UNKNOWN_TOPIC => {
                        anyhow::bail!("there is no topic '{0}'; create it: highwater topic create {0}", self.topic)
                    }
                    code => anyhow::bail!("topic '{}': {}", self.topic, errors::words(code)),
                }
            }
            self.refresh(view.version).await;
            sleep(SPACING).await;
        }
    }
}

async fn follow(bootstrap: Vec<String>, topic: Arc<str>, publish: watch::Sender<Arc<View>>, wish: Arc<Notify>) {
    let mut connection: Option<Connection> = None;
    let mut turn = 0;
    while !publish.is_closed() {
        let view = publish.borrow().clone();
        let asked = match connection.take() {
            Some(open) => ask(open, &topic).await,
            None => {
                let address = candidate(&view, &bootstrap, turn);
                turn += 1;
                match Connection::open(&address, CLIENT_ID, CALL_TIMEOUT).await {
                    Ok(open) => ask(open, &topic).await,
                    Err(_) => None,
                }
            }
        };
        let Some((open, answer)) = asked else {
            sleep(SPACING).await;
            continue;
        };
        connection = Some(open);
        publish.send_replace(Arc::new(read(view.version + 1, &answer)));
        tokio::select! {
            () = wish.notified() => sleep(SPACING).await,
            () = sleep(EVERY) => {}
            () = publish.closed() => return,
        }
    }
}

/// Known brokers and bootstrap addresses in turn.
fn candidate(view: &View, bootstrap: &[String], turn: usize) -> String {
    let all: Vec<&String> = view.brokers.values().chain(bootstrap).collect();
    all.get(turn % all.len().max(1)).map_or_else(String::new, |address| (*address).clone())
}

async fn ask(mut connection: Connection, topic: &str) -> Option<(Connection, MetadataResponse)> {
    let name = TopicName(StrBytes::from_string(topic.to_string()));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name))]))
        .with_allow_auto_topic_creation(false);
    let answer = connection.call(VERSION, &request, CALL_TIMEOUT).await.ok()?;
    Some((connection, answer))
}

fn read(version: u64, answer: &MetadataResponse) -> View {
    let brokers = answer
        .brokers
        .iter()
        .map(|broker| {
            let host = broker.host.as_str();
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
            (broker.node_id.0, format!("{bracketed}:{}", broker.port))
        })
        .collect();
    let topic = answer.topics.first().map_or_else(TopicView::default, |topic| {
        let mut partitions: Vec<_> = topic.partitions.iter().collect();
        partitions.sort_by_key(|partition| partition.partition_index);
        let partitions = partitions
            .into_iter()
            .map(|partition| PartitionView {
                leader: Some(partition.leader_id.0).filter(|leader| *leader >= 0),
                epoch: partition.leader_epoch,
            })
            .collect();
        TopicView { error: topic.error_code, partitions }
    });
    View { version, brokers, topic }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };

    #[test]
    fn leaders_are_found_by_partition_whatever_the_order_of_the_answer() {
        let partition = |index: i32, leader: i32| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(BrokerId(leader))
                .with_leader_epoch(4)
        };
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(1))
            .with_host(StrBytes::from_static_str("::1"))
            .with_port(9092);
        let topic = MetadataResponseTopic::default().with_partitions(vec![partition(1, -1), partition(0, 1)]);
        let view = read(3, &MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]));
        assert_eq!(view.leader(0), Some((1, 4, "[::1]:9092")));
        assert_eq!(view.leader(1), None, "no leader now");
        assert_eq!(view.leader(2), None, "no such partition");
    }

    #[test]
    fn brokers_and_bootstrap_addresses_take_turns() {
        let mut view = View::default();
        let bootstrap = ["b:1".to_string()];
        assert_eq!(candidate(&view, &bootstrap, 5), "b:1");
        view.brokers.insert(1, "x:1".into());
        let turns: Vec<_> = (0..3).map(|turn| candidate(&view, &bootstrap, turn)).collect();
        assert_eq!(turns, ["x:1", "b:1", "x:1"]);
    }
}
