//! The `Groups` service: what coordinators have committed.

use super::proto::groups_server::Groups;
use super::proto::{
    DescribeGroupRequest, DescribeGroupResponse, GroupMember, GroupSummary, ListGroupsRequest, ListGroupsResponse,
};
use crate::metadata::group_change::{self, GroupHeader};
use crate::metadata::quorum::Quorum;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub struct GroupsService {
    pub quorum: Quorum,
}

fn count(members: usize) -> i32 {
    i32::try_from(members).unwrap_or(i32::MAX)
}

fn shown(id: &str, member: &group_change::GroupMember) -> GroupMember {
    let (session_timeout_ms, rebalance_timeout_ms) = match member {
        group_change::GroupMember::Classic(member) => (member.session_timeout_ms, member.rebalance_timeout_ms),
        group_change::GroupMember::Consumer(member) => {
            (member.classic.as_ref().map_or(0, |classic| classic.session_timeout_ms), member.rebalance_timeout_ms)
        }
    };
    let (client_id, client_host) = member.client();
    GroupMember {
        id: id.to_string(),
        instance_id: member.instance_id().map(Into::into),
        client_id: client_id.to_string(),
        client_host: client_host.to_string(),
        session_timeout_ms,
        rebalance_timeout_ms,
    }
}

#[tonic::async_trait]
impl Groups for GroupsService {
    async fn list(&self, _request: Request<ListGroupsRequest>) -> Result<Response<ListGroupsResponse>, Status> {
        let image = self.quorum.image();
        let groups = image
            .groups
            .groups
            .iter()
            .map(|(name, group)| GroupSummary {
                name: name.clone(),
                protocol_type: group.header.protocol_type().to_string(),
                generation: group.header.epoch(),
                members: count(group.members.len()),
            })
            .collect();
        Ok(Response::new(ListGroupsResponse { groups }))
    }

    async fn describe(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<Response<DescribeGroupResponse>, Status> {
        let name = request.into_inner().name;
        let image = self.quorum.image();
        let group = image
            .groups
            .groups
            .get(&name)
            .ok_or_else(|| Status::not_found(format!("there is no consumer group '{name}'")))?;
        let members = group.members.iter().map(|(id, member)| shown(id, member)).collect();
        let (protocol, leader) = match &group.header {
            GroupHeader::Classic { protocol, leader, .. } => (protocol.clone(), leader.clone()),
            GroupHeader::Consumer { assignor, .. } => (Some(assignor.clone()), None),
        };
        Ok(Response::new(DescribeGroupResponse {
            name,
            protocol_type: group.header.protocol_type().to_string(),
            protocol,
            generation: group.header.epoch(),
            leader,
            members,
        }))
    }
}
