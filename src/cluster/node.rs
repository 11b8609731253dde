//! Who this node is between nodes: its Raft identity, its cluster, and who leads now.

use super::proto;
use crate::ids::*;
use crate::metadata::quorum::{Leadership, Quorum};
use crate::metadata::raft::types::RaftNodeId;
use tokio::sync::watch;
use tonic::Status;
use uuid::Uuid;

/// Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub me: RaftNodeId,
    pub quorum: Quorum,
    pub cluster: ClusterIdentity,
}

impl Node {
    pub fn new(me: RaftNodeId, quorum: Quorum) -> Node {
        let cluster = ClusterIdentity::new(quorum.cluster_id());
        Node { me, quorum, cluster }
    }

    pub fn leadership(&self) -> Leadership {
        *self.quorum.leadership().borrow()
    }

    /// The leader and its cluster address, as far as this node knows.
    pub fn leader(&self) -> Option<(RaftNodeId, String)> {
        let leader = self.leadership().leader?;
        let member = self.quorum.status().members.into_iter().find(|m| m.node == leader)?;
        Some((leader, member.address))
    }

    /// The leader as an answer tells it.
    pub fn controller_hint(&self) -> Option<proto::Controller> {
        let leader = self.leadership().leader?;
        let address = self.leader().map(|(_, address)| address).unwrap_or_default();
        Some(proto::Controller { node_id: leader.node.0, directory_id: leader.directory.to_string(), address })
    }

    pub fn not_controller(&self) -> proto::NotController {
        proto::NotController { controller: self.controller_hint() }
    }
}

/// The cluster this node belongs to, unknown until it has formed or joined one. Once known it never changes.
#[derive(Clone)]
pub struct ClusterIdentity {
    known: watch::Receiver<Option<ClusterId>>,
}

impl ClusterIdentity {
    pub fn new(known: watch::Receiver<Option<ClusterId>>) -> Self {
        Self { known }
    }

    pub fn known(&self) -> Option<ClusterId> {
        *self.known.borrow()
    }

    /// As messages carry it: empty while unknown.
    pub fn text(&self) -> String {
        self.known().map(|id| id.to_string()).unwrap_or_default()
    }

    /// For messages that a node without a cluster may send too.
    pub fn check_if_given(&self, given: &str) -> Result<(), Status> {
        match (self.known(), given) {
            (None, _) | (Some(_), "") => Ok(()),
            (Some(mine), given) if mine.to_string() == given => Ok(()),
            (Some(mine), given) => Err(Status::failed_precondition(format!(
                "this node belongs to cluster {mine}, the caller to {given}: a data folder or an address of another \
                 cluster is in use"
            ))),
        }
    }

    /// For messages within a cluster.
    pub fn check(&self, given: &str) -> Result<(), Status> {
        if self.known().is_none() {
            return Err(Status::unavailable("this node has not joined a cluster yet"));
        }
        if given.is_empty() {
            return Err(Status::failed_precondition("the message carries no cluster id"));
        }
        self.check_if_given(given)
    }
}

/// Resolves when `stop` says so, or when nobody is left to say it.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ids travel as text. A bad one is the sender's mistake.
pub fn parse_uuid(text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| Status::invalid_argument("an id in the message is not a UUID"))
}

/// As [`parse_uuid`]; empty means none.
pub fn parse_cluster(text: &str) -> Result<Option<ClusterId>, Status> {
    if text.is_empty() { Ok(None) } else { parse_uuid(text).map(|id| Some(ClusterId(id))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_clusters_message_is_refused() {
        let mine = ClusterId(Uuid::from_u128(1));
        let other = ClusterId(Uuid::from_u128(2));
        let (known, receiver) = watch::channel(None);
        let identity = ClusterIdentity::new(receiver);
        assert!(identity.check(&mine.to_string()).is_err(), "nothing within a cluster before there is one");
        assert!(identity.check_if_given(&other.to_string()).is_ok());
        known.send_replace(Some(mine));
        assert!(identity.check(&mine.to_string()).is_ok());
        assert!(identity.check(&other.to_string()).is_err());
        assert!(identity.check("").is_err());
        assert!(identity.check_if_given("").is_ok());
        assert!(identity.check_if_given(&other.to_string()).is_err());
    }
}
