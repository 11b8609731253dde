//! Which nodes to talk to, and the first of them that answers.

use super::command::Global;
use super::dev::folder::{ClusterFile, DEFAULT_FOLDER};
use crate::admin::proto;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A paused node accepts connections (its kernel does) and answers nothing.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Over the server's own bound for what it asks of the controller.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Bound of one answer; the server's bound for descriptions.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The cluster's addresses, given or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    pub admin: Vec<String>,
    pub bootstrap: Vec<String>,
}

impl Reach {
    pub fn of(global: &Global) -> anyhow::Result<Reach> {
        // Only asked where it matters: a damaged file of some dev cluster must not stop a command for another.
        let dev = if global.admin.is_some() && global.bootstrap.is_some() {
            None
        } else {
            ClusterFile::read(Path::new(DEFAULT_FOLDER))?
        };
        Ok(Reach::resolve(global, dev.as_ref()))
    }

    /// Of a dev cluster.
    pub fn of_dev(file: &ClusterFile) -> Reach {
        Reach { admin: file.addresses(|ports| ports.admin), bootstrap: file.addresses(|ports| ports.kafka) }
    }

    fn resolve(global: &Global, dev: Option<&ClusterFile>) -> Reach {
        let found = dev.map_or_else(
            || Reach { admin: vec!["127.0.0.1:9094".into()], bootstrap: vec!["127.0.0.1:9092".into()] },
            Reach::of_dev,
        );
        Reach {
            admin: global.admin.as_deref().map_or(found.admin, split),
            bootstrap: global.bootstrap.as_deref().map_or(found.bootstrap, split),
        }
    }

    /// A channel to the first admin address that answers.
    pub async fn admin(&self) -> anyhow::Result<Channel> {
        let mut failures = Vec::new();
        for address in &self.admin {
            match probe(address).await {
                Ok((channel, _)) => return Ok(channel),
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        anyhow::bail!(
            "no node answers on its admin port\n  {}\nIs the cluster up (highwater dev status)? --admin names another.",
            failures.join("\n  ")
        )
    }
}

fn split(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(ToString::to_string).collect()
}

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| format!("'{address}' is not an address of the form host:port"))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true))
}

/// Connects and asks for health; any answer will do. Gives whether the node is ready.
pub async fn probe(address: &str) -> Result<(Channel, bool), String> {
    let endpoint = endpoint(address)?.timeout(CALL_TIMEOUT);
    let asked = async {
        let channel = endpoint.connect().await.map_err(|error| root_cause(&error))?;
        let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
        let health = health.map_err(|status| status.message().to_string())?.into_inner();
        Ok((channel, health.status() == tonic_health::pb::health_check_response::ServingStatus::Serving))
    };
    tokio::time::timeout(PROBE_TIMEOUT, asked).await.unwrap_or_else(|_| Err("no answer".to_string()))
}

/// A channel for a stream, which has no deadline of its own.
pub async fn stream_channel(address: &str) -> Result<Channel, String> {
    endpoint(address)?.connect().await.map_err(|error| root_cause(&error))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// What a refused call tells a person: the words, with the code where the words alone may mislead.
pub fn refused(status: &tonic::Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::NotFound | tonic::Code::AlreadyExists | tonic::Code::InvalidArgument => {
            anyhow::anyhow!("{}", status.message())
        }
        code => anyhow::anyhow!("{} ({})", status.message(), code.description()),
    }
}

pub type ClusterClient = proto::cluster_client::ClusterClient<Channel>;
pub type TopicsClient = proto::topics_client::TopicsClient<Channel>;
pub type BrokersClient = proto::brokers_client::BrokersClient<Channel>;
pub type ReassignmentsClient = proto::reassignments_client::ReassignmentsClient<Channel>;
pub type QuorumClient = proto::quorum_client::QuorumClient<Channel>;
pub type GroupsClient = proto::groups_client::GroupsClient<Channel>;

impl Reach {
    pub async fn cluster(&self) -> anyhow::Result<ClusterClient> {
        Ok(ClusterClient::new(self.admin().await?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
    pub async fn topics(&self) -> anyhow::Result<TopicsClient> {
        Ok(TopicsClient::new(self.admin().await?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
    pub async fn brokers(&self) -> anyhow::Result<BrokersClient> {
        Ok(BrokersClient::new(self.admin().await?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
    pub async fn reassignments(&self) -> anyhow::Result<ReassignmentsClient> {
        let admin = self.admin().await?;
        Ok(ReassignmentsClient::new(admin)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
    pub async fn quorum(&self) -> anyhow::Result<QuorumClient> {
        Ok(QuorumClient::new(self.admin().await?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
    pub async fn groups(&self) -> anyhow::Result<GroupsClient> {
        Ok(GroupsClient::new(self.admin().await?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;

    fn global(admin: Option<&str>) -> Global {
        Global { admin: admin.map(ToString::to_string), bootstrap: None, output: Format::Table }
    }

    #[test]
    fn what_is_given_wins_over_the_dev_cluster_and_that_over_the_defaults() {
        let dev = ClusterFile { nodes: 2, port: 19_092, set: Default::default(), racks: Vec::new() };
        assert_eq!(Reach::resolve(&global(None), None).admin, ["127.0.0.1:9094"]);
        let found = Reach::resolve(&global(None), Some(&dev));
        assert_eq!(found.admin, ["127.0.0.1:19094", "127.0.0.1:19104"]);
        assert_eq!(found.bootstrap, ["127.0.0.1:19092", "127.0.0.1:19102"]);
        let given = Reach::resolve(&global(Some("a:1, b:2,")), Some(&dev));
        assert_eq!(given.admin, ["a:1", "b:2"]);
        assert_eq!(given.bootstrap, found.bootstrap);
    }
}
