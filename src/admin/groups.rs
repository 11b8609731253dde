//! The `Groups` service. A call about one group is answered by its coordinator: here, or asked of its admin port.

use super::addresses;
use super::errors;
use super::group_reset;
use super::group_views as views;
use super::proto::groups_client::GroupsClient;
use super::proto::groups_server::Groups;
use super::proto::*;
use super::server::LocalGroups;
use crate::group::coordinator::Coordinator;
use crate::group::partitioner::coordinator_of;
use crate::ids::BrokerId;
use crate::metadata::image::Image;
use crate::metadata::quorum::Quorum;
use crate::platform::clock;
use futures::future::join_all;
use std::future::Future;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// How long the other coordinators have to list their groups.
const LIST_TIMEOUT: Duration = Duration::from_secs(1);
/// A call that its coordinator answers: over what that waits for commits and for leaders.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(15);
/// Bound of one answer: a group with some 50,000 partitions.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[derive(Clone)]
pub struct GroupsService {
    pub node: BrokerId,
    pub quorum: Quorum,
    pub groups: LocalGroups,
}

/// Who answers for a group.
enum Place<'a> {
    Here(&'a Coordinator),
    There(GroupsClient<Channel>),
}

impl GroupsService {
    fn place(&self, group: &str, local_only: bool) -> Result<Place<'_>, Status> {
        let image = self.quorum.image();
        let moving = || Status::unavailable(format!("group '{group}' has no coordinator right now; retry"));
        let coordinator = match coordinator_of(group, &image) {
            Some(coordinator) => coordinator,
            None if image.groups.groups.contains_key(group) => return Err(moving()),
            // The offsets topic is made for the first group.
            None => return self.groups.get().map(Place::Here).ok_or_else(moving),
        };
        if coordinator == self.node {
            return self.groups.get().map(Place::Here).ok_or_else(moving);
        }
        if local_only {
            return Err(Status::unavailable(format!("broker {coordinator} coordinates group '{group}' now; retry")));
        }
        Ok(Place::There(client(&image, coordinator).ok_or_else(moving)?))
    }
}

/// Connects at its first use.
fn client(image: &Image, broker: BrokerId) -> Option<GroupsClient<Channel>> {
    let address = addresses::text(&image.brokers.get(&broker)?.registration.admin_endpoint);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?.connect_timeout(LIST_TIMEOUT);
    Some(GroupsClient::new(endpoint.connect_lazy()).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// What the coordinator answers is the answer.
async fn forwarded<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<Response<T>, Status> {
    match tokio::time::timeout(FORWARD_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(Response::new(answer.into_inner())),
        Ok(Err(status)) => Err(Status::new(status.code(), status.message())),
        Err(_) => Err(Status::deadline_exceeded("the group's coordinator did not answer; look before you retry")),
    }
}

#[tonic::async_trait]
impl Groups for GroupsService {
    async fn list(&self, request: Request<ListGroupsRequest>) -> Result<Response<ListGroupsResponse>, Status> {
        let request = request.into_inner();
        let image = self.quorum.image();
        let mut told = match self.groups.get() {
            Some(groups) => views::local(groups, &image, self.node, clock::wall_ms()),
            None => Vec::new(),
        };
        let mut silent = Vec::new();
        if !request.local_only {
            let others = image.brokers.iter().filter(|(id, broker)| **id != self.node && !broker.fenced);
            let asked = others.map(|(id, _)| {
                let client = client(&image, *id);
                async move {
                    let mut client = client?;
                    let request = ListGroupsRequest { local_only: true, ..ListGroupsRequest::default() };
                    let answer = tokio::time::timeout(LIST_TIMEOUT, client.list(request)).await;
                    answer.ok()?.ok().map(|answer| answer.into_inner().groups)
                }
            });
            let answers = join_all(asked).await;
            let others = image.brokers.iter().filter(|(id, broker)| **id != self.node && !broker.fenced);
            for ((id, _), answer) in others.zip(answers) {
                match answer {
                    Some(groups) => told.extend(groups),
                    None => silent.push(id.0),
                }
            }
            views::add_untold(&mut told, &image);
        }
        let groups = views::filtered(told, &request.states, &request.types);
        Ok(Response::new(ListGroupsResponse { groups, silent_brokers: silent }))
    }

    async fn describe(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<Response<DescribeGroupResponse>, Status> {
        let mut request = request.into_inner();
        match self.place(&request.name, request.local_only)? {
            Place::There(mut client) => {
                request.local_only = true;
                forwarded(client.describe(request)).await
            }
            Place::Here(groups) => {
                let told = views::describe(groups, &self.quorum.image(), self.node, &request.name).await;
                told.map(Response::new).map_err(|error| of_group(&request.name, &error))
            }
        }
    }

    async fn reset_offsets(
        &self,
        request: Request<ResetOffsetsRequest>,
    ) -> Result<Response<ResetOffsetsResponse>, Status> {
        let mut request = request.into_inner();
        if coordinator_of(&request.name, &self.quorum.image()).is_none()
            && let Some(groups) = self.groups.get()
        {
            // The first group of a cluster: this makes the offsets topic. Where it fails, so does what follows.
            let _ = groups.locate(&request.name).await;
        }
        match self.place(&request.name, request.local_only)? {
            Place::There(mut client) => {
                request.local_only = true;
                forwarded(client.reset_offsets(request)).await
            }
            Place::Here(groups) => group_reset::reset(groups, &self.quorum.image(), request).await.map(Response::new),
        }
    }

    async fn delete(&self, request: Request<DeleteGroupRequest>) -> Result<Response<DeleteGroupResponse>, Status> {
        let mut request = request.into_inner();
        match self.place(&request.name, request.local_only)? {
            Place::There(mut client) => {
                request.local_only = true;
                forwarded(client.delete(request)).await
            }
            Place::Here(groups) => {
                let deleted = groups.delete(&request.name).await;
                deleted.map_err(|error| of_group(&request.name, &error))?;
                Ok(Response::new(DeleteGroupResponse {}))
            }
        }
    }
}

/// With the words for a person who named the group.
pub(super) fn of_group(group: &str, error: &crate::group::coordinator::GroupError) -> Status {
    use crate::group::coordinator::GroupError;
    let status = errors::of_group(error);
    let message = match error {
        GroupError::GroupNotFound => format!("there is no consumer group '{group}'"),
        GroupError::NonEmptyGroup => format!("group '{group}' has members; stop its consumers first"),
        _ => return status,
    };
    Status::new(status.code(), message)
}
