//! The admin API, asked with a deadline: a node that does not answer is an answer, too.

pub mod proto {
    #![allow(clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("highwater.admin.v1");
}

use crate::cluster::layout::{Layout, NodeId, Port};
use crate::workload::topics::REPLICAS;
use proto::cluster_client::ClusterClient;
use proto::topics_client::TopicsClient;
use proto::{
    CreateTopicRequest, DeleteTopicRequest, DescribeClusterRequest, DescribeClusterResponse, DescribeTopicRequest,
    DescribeTopicResponse,
};
use std::collections::HashMap;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

const CONNECT: Duration = Duration::from_millis(300);

pub struct Admin {
    runtime: tokio::runtime::Runtime,
    layout: Layout,
}

#[derive(Clone, Debug)]
pub struct NewTopic {
    pub name: &'static str,
    pub partitions: i32,
    pub configs: &'static [(&'static str, &'static str)],
}

impl Admin {
    pub fn new(layout: &Layout) -> anyhow::Result<Admin> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Admin { runtime, layout: layout.clone() })
    }

    /// A connection for each call: nodes come and go.
    async fn channel(layout: &Layout, node: NodeId) -> Option<Channel> {
        let address = format!("http://{}", layout.address(node, Port::Admin));
        Endpoint::from_shared(address).ok()?.connect_timeout(CONNECT).connect().await.ok()
    }

    pub fn describe(&self, node: NodeId, image_hash: bool, deadline: Duration) -> Option<DescribeClusterResponse> {
        self.within(deadline, async {
            let channel = Self::channel(&self.layout, node).await?;
            let request = DescribeClusterRequest { image_hash };
            Some(ClusterClient::new(channel).describe(request).await.ok()?.into_inner())
        })
    }

    /// With the offsets that the leaders tell.
    pub fn topic(&self, node: NodeId, name: &str, deadline: Duration) -> Option<DescribeTopicResponse> {
        self.within(deadline, async {
            let channel = Self::channel(&self.layout, node).await?;
            let request = DescribeTopicRequest { name: name.to_string(), local_only: false };
            Some(TopicsClient::new(channel).describe(request).await.ok()?.into_inner())
        })
    }

    pub fn create(&self, node: NodeId, topic: &NewTopic, deadline: Duration) -> Result<(), String> {
        let created = self.within(deadline, async {
            let channel = Self::channel(&self.layout, node).await?;
            let configs: HashMap<_, _> =
                topic.configs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let request = CreateTopicRequest {
                name: topic.name.to_string(),
                partitions: Some(topic.partitions),
                replication_factor: Some(REPLICAS as i32),
                configs,
                validate_only: false,
            };
            Some(TopicsClient::new(channel).create(request).await)
        });
        match created {
            Some(Ok(_)) => Ok(()),
            Some(Err(status)) if status.code() == tonic::Code::AlreadyExists => Ok(()),
            Some(Err(status)) => Err(status.message().to_string()),
            None => Err("no answer".to_string()),
        }
    }

    /// Whether it is gone now.
    pub fn delete(&self, node: NodeId, topic: &str, deadline: Duration) -> bool {
        let request = DeleteTopicRequest { name: topic.to_string() };
        let deleted = self.within(deadline, async {
            let channel = Self::channel(&self.layout, node).await?;
            Some(TopicsClient::new(channel).delete(request).await)
        });
        match deleted {
            Some(Ok(_)) => true,
            Some(Err(status)) => status.code() == tonic::Code::NotFound,
            None => false,
        }
    }

    fn within<T>(&self, deadline: Duration, call: impl Future<Output = Option<T>>) -> Option<T> {
        self.runtime.block_on(async { tokio::time::timeout(deadline, call).await.ok().flatten() })
    }
}
