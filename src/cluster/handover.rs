//! A controller that votes no more hands its leadership over.
//!
//! openraft 0.9 lets a leader that became a learner lead on for ever, and has no leader transfer. A voter refuses others
//! their vote while it hears a leader, but not once it has campaigned itself. So the remaining voters are asked to
//! campaign one after another, the highest id last: its vote is the highest of the term, and the others grant it.
//!
//! ```text
//! leader, no voter ─→ Campaign: voter 2 (refused by 3) ─→ Campaign: voter 3 ─→ 2 grants it ─→ 3 leads
//! ```

use super::node::Node;
use super::peers;
use super::proto::CampaignRequest;
use crate::metadata::quorum::{QuorumMember, QuorumStatus};
use crate::metadata::raft::types::RaftNodeId;
use crate::metadata::voters::is_reachable;
use std::time::Duration;

const CAMPAIGN_TIMEOUT: Duration = Duration::from_millis(800);

/// Whom to ask to campaign, in order; empty while this node votes. Those that lack a part of the log are not asked:
/// they would only raise the term.
fn candidates(status: &QuorumStatus, me: RaftNodeId) -> Vec<&QuorumMember> {
    if status.members.iter().any(|m| m.voter && m.node == me) {
        return Vec::new();
    }
    let holds_all = |m: &&QuorumMember| m.matched.is_some_and(|at| at >= status.last_log_index);
    let mut found: Vec<_> = status.members.iter().filter(|m| m.voter && is_reachable(m)).filter(holds_all).collect();
    found.sort_by_key(|m| m.node);
    found
}

/// True if this node, the controller, votes no more and so asked the others to elect one. Where that fails it leads on,
/// and tries again at the next look.
pub async fn hand_over(node: &Node) -> bool {
    let status = node.quorum.status();
    let candidates = candidates(&status, node.me);
    for candidate in &candidates {
        let request = CampaignRequest { cluster_id: node.cluster.text(), term: status.leadership.term };
        let asked = async {
            let mut client = peers::client(&candidate.address)?;
            client.campaign(request).await
        };
        match tokio::time::timeout(CAMPAIGN_TIMEOUT, asked).await {
            Ok(Ok(_)) => tracing::info!(voter = %candidate.node, "asked to lead: this controller votes no more"),
            Ok(Err(status)) => {
                tracing::warn!(voter = %candidate.node, error = status.message(), "cannot hand over to it")
            }
            Err(_) => tracing::warn!(voter = %candidate.node, "cannot hand over to it: no answer"),
        }
    }
    !candidates.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RaftIndex;

    #[test]
    fn only_a_leader_without_a_vote_hands_over_and_the_highest_id_campaigns_last() {
        let member = |n: u64, voter, matched| QuorumMember {
            node: RaftNodeId::from(n),
            voter,
            matched: Some(RaftIndex(matched)),
            heard: Some(Duration::ZERO),
            ..Default::default()
        };
        let mut status = QuorumStatus { last_log_index: RaftIndex(9), ..Default::default() };
        status.members =
            vec![member(4, true, 9), member(1, false, 9), member(3, true, 8), member(2, true, 9), member(5, false, 9)];
        let asked = |status: &QuorumStatus, me: u64| {
            candidates(status, RaftNodeId::from(me)).iter().map(|m| m.node.node.0).collect::<Vec<_>>()
        };
        assert_eq!(asked(&status, 1), [2, 4], "3 lacks an entry, 5 has no vote");
        assert!(asked(&status, 4).is_empty(), "it votes: nothing to hand over");
        status.members[0].heard = None;
        assert_eq!(asked(&status, 1), [2]);
    }
}
