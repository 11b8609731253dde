//! The `Groups` service: what coordinators have committed.

use super::proto::groups_server::Groups;
use super::proto::{
    DescribeGroupRequest, DescribeGroupResponse, GroupMember, GroupSummary, ListGroupsRequest, ListGroupsResponse,
};
use crate::metadata::quorum::Quorum;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub struct GroupsService {
    pub quorum: Quorum,
}

fn count(members: usize) -> i32 {
    i32::try_from(members).unwrap_or(i32::MAX)
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
                protocol_type: group.protocol_type.clone(),
                generation: group.generation,
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
        let members = group
            .members
            .iter()
            .map(|(id, member)| GroupMember {
                id: id.clone(),
                instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                session_timeout_ms: member.session_timeout_ms,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
            })
            .collect();
        Ok(Response::new(DescribeGroupResponse {
            name,
            protocol_type: group.protocol_type.clone(),
            protocol: group.protocol.clone(),
            generation: group.generation,
            leader: group.leader.clone(),
            members,
        }))
    }
}
