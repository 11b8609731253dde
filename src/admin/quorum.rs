//! The `Quorum` service: who votes on metadata, and changing that.

use super::errors;
use super::proto::quorum_server::Quorum;
use super::proto::*;
use crate::ids::*;
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer};
use crate::metadata::voters::{self, MemberReport, QuorumReport, VoterChange, VoterOutcome};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use uuid::Uuid;

const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
const CHANGE_TIMEOUT_MAX: Duration = Duration::from_secs(600);

pub struct QuorumService {
    pub controller: Arc<dyn ControllerChannel>,
}

impl QuorumService {
    async fn change(&self, change: VoterChange, timeout: Duration) -> Result<Response<VotersResponse>, Status> {
        let result = voters::change(&*self.controller, change, timeout).await;
        let outcome = result.map_err(|error| errors::of_submit(&error))?.map_err(|error| errors::of_voter(&error))?;
        Ok(Response::new(answer(outcome)))
    }
}

#[tonic::async_trait]
impl Quorum for QuorumService {
    async fn describe(
        &self,
        _request: Request<DescribeQuorumRequest>,
    ) -> Result<Response<DescribeQuorumResponse>, Status> {
        let asked = self.controller.submit(Intent::DescribeQuorum, DESCRIBE_TIMEOUT).await;
        match asked.map_err(|error| errors::of_submit(&error))? {
            IntentAnswer::Quorum(report) => Ok(Response::new(describe(&report))),
            _ => Err(errors::of_mismatch()),
        }
    }

    async fn add(&self, request: Request<AddVoterRequest>) -> Result<Response<VotersResponse>, Status> {
        let AddVoterRequest { node, directory_id, timeout_ms } = request.into_inner();
        let change = VoterChange::Add { node: BrokerId(node), directory: directory(&directory_id)? };
        self.change(change, timeout(timeout_ms)).await
    }

    async fn remove(&self, request: Request<RemoveVoterRequest>) -> Result<Response<VotersResponse>, Status> {
        let RemoveVoterRequest { node, directory_id, force } = request.into_inner();
        let change = VoterChange::Remove { node: BrokerId(node), directory: directory(&directory_id)?, force };
        self.change(change, CHANGE_TIMEOUT).await
    }

    async fn replace_lost(&self, request: Request<ReplaceLostRequest>) -> Result<Response<VotersResponse>, Status> {
        let ReplaceLostRequest { node, force, timeout_ms } = request.into_inner();
        self.change(VoterChange::ReplaceLost { node: BrokerId(node), force }, timeout(timeout_ms)).await
    }
}

fn timeout(ms: u32) -> Duration {
    if ms == 0 { CHANGE_TIMEOUT } else { Duration::from_millis(ms.into()).min(CHANGE_TIMEOUT_MAX) }
}

fn directory(text: &str) -> Result<Option<DirectoryId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = Uuid::parse_str(text).map_err(|_| Status::invalid_argument("directory_id is not a UUID"))?;
    Ok(Some(DirectoryId(id)))
}

fn answer(outcome: VoterOutcome) -> VotersResponse {
    let voter = |id: &crate::metadata::raft::types::RaftNodeId| Voter {
        node: id.node.0,
        directory_id: id.directory.to_string(),
    };
    VotersResponse { voters: outcome.voters.iter().map(voter).collect(), warning: outcome.warning }
}

fn describe(report: &QuorumReport) -> DescribeQuorumResponse {
    let mut members: Vec<&MemberReport> = report.members.iter().collect();
    members.sort_by_key(|member| (!member.voter, member.node));
    let replica = |member: &MemberReport| QuorumReplica {
        node: member.node.node.0,
        directory_id: member.node.directory.to_string(),
        address: member.address.clone(),
        voter: member.voter,
        matched_index: member.matched.map(|index| index.0),
        lag: member.matched.map(|index| report.last_log_index.0.saturating_sub(index.0)),
        last_fetch_ms: member.last_fetch_ms,
        last_caught_up_ms: member.last_caught_up_ms,
    };
    DescribeQuorumResponse {
        leader: report.leader.node.0,
        leader_directory_id: report.leader.directory.to_string(),
        term: report.term,
        last_log_index: report.last_log_index.0,
        committed_index: report.committed.0,
        members: members.into_iter().map(replica).collect(),
        now_ms: report.now_ms,
        warning: report.warning(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::raft::types::RaftNodeId;

    #[test]
    fn voters_come_first_each_with_its_lag() {
        let member = |node: u64, voter, matched| MemberReport {
            node: RaftNodeId::from(node),
            address: String::new(),
            voter,
            matched,
            last_fetch_ms: None,
            last_caught_up_ms: None,
        };
        let report = QuorumReport {
            leader: RaftNodeId::from(2),
            term: 3,
            last_log_index: RaftIndex(10),
            committed: RaftIndex(9),
            members: vec![
                member(1, false, None),
                member(2, true, Some(RaftIndex(10))),
                member(3, true, Some(RaftIndex(4))),
            ],
            half_way: false,
            now_ms: 1,
        };
        let told = describe(&report);
        let rows: Vec<_> = told.members.iter().map(|m| (m.node, m.voter, m.lag)).collect();
        assert_eq!(rows, [(2, true, Some(0)), (3, true, Some(6)), (1, false, None)]);
        assert!(told.warning.unwrap().contains("2 voters"));
    }

    #[test]
    fn a_directory_is_a_uuid_or_nothing() {
        assert_eq!(directory("").unwrap(), None);
        assert!(directory("x").is_err());
        assert_eq!((timeout(0), timeout(u32::MAX)), (CHANGE_TIMEOUT, CHANGE_TIMEOUT_MAX));
    }
}
