//! What members ask and are told.

use crate::group::assignor::Assignor;
use crate::group::coordinator::GroupError;
use crate::group::settings::{MEMBER_BYTES_MAX, MEMBER_ID_BYTES_MAX};
use crate::metadata::group_change::TopicPartitions;

/// The epoch with which a member joins, or joins anew and owns nothing.
pub const JOIN: i32 = 0;
/// The epoch with which a member leaves.
pub const LEAVE: i32 = -1;
/// The epoch with which a static member leaves to come back.
pub const LEAVE_STATIC: i32 = -2;

/// A ConsumerGroupHeartbeat request. What is `None` has not changed since the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    pub group: String,
    pub member: String,
    /// The member's epoch, or one of [`LEAVE`] and [`LEAVE_STATIC`]; 0: it joins.
    pub epoch: i32,
    pub instance: Option<String>,
    pub rack: Option<String>,
    pub rebalance_timeout_ms: Option<i32>,
    pub topics: Option<Vec<String>>,
    /// Empty: none any more.
    pub regex: Option<String>,
    pub assignor: Option<String>,
    /// What the member owns.
    pub owned: Option<TopicPartitions>,
    pub client_id: String,
    pub client_host: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    pub member: String,
    pub epoch: i32,
    /// After how many milliseconds the next heartbeat is due.
    pub interval_ms: i32,
    /// All that the member may own; `None`: what it was told last.
    pub assignment: Option<TopicPartitions>,
}

impl Heartbeat {
    /// What can be said of a heartbeat without its group.
    pub fn check(&self) -> Result<(), GroupError> {
        let refuse = |why: &'static str| Err(GroupError::InvalidRequest(why));
        let is_empty = |text: &Option<String>| text.as_ref().is_some_and(String::is_empty);
        if is_empty(&self.instance) {
            return refuse("InstanceId can't be empty.");
        }
        if is_empty(&self.rack) {
            return refuse("RackId can't be empty.");
        }
        if self.member.is_empty() {
            return refuse("MemberId can't be empty.");
        }
        if self.member.len() > MEMBER_ID_BYTES_MAX {
            return refuse("MemberId is too long.");
        }
        match self.epoch {
            JOIN if self.rebalance_timeout_ms.is_none() => {
                return refuse("RebalanceTimeoutMs must be provided in first request.");
            }
            JOIN if self.owned.as_ref().is_none_or(|owned| !owned.is_empty()) => {
                return refuse("TopicPartitions must be empty when (re-)joining.");
            }
            JOIN if self.topics.is_none() && self.regex.is_none() => {
                return refuse(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                );
            }
            LEAVE_STATIC if self.instance.is_none() => return refuse("InstanceId can't be null."),
            epoch if epoch < LEAVE_STATIC => return refuse("MemberEpoch is invalid."),
            _ => {}
        }
        if self.assignor.as_ref().is_some_and(|name| Assignor::named(name).is_none()) {
            return Err(GroupError::UnsupportedAssignor);
        }
        if self.bytes() > MEMBER_BYTES_MAX { Err(GroupError::MemberTooLarge) } else { Ok(()) }
    }

    /// About what the group must keep of it.
    pub fn bytes(&self) -> usize {
        let texts = [&self.instance, &self.rack, &self.regex].into_iter().flatten().chain(self.topics.iter().flatten());
        let texts = texts.chain([&self.member, &self.client_id, &self.client_host]);
        texts.map(|text| text.len() + 8).sum()
    }

    /// The member tells all of itself, as after an error: it is told all of what it has.
    pub fn is_full(&self) -> bool {
        let tells_wishes = self.topics.is_some() || self.regex.is_some();
        self.epoch == JOIN || self.rebalance_timeout_ms.is_some() && tells_wishes && self.owned.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TopicId;
    use uuid::Uuid;

    fn join() -> Heartbeat {
        Heartbeat {
            group: "g".into(),
            member: "m".into(),
            rebalance_timeout_ms: Some(1),
            topics: Some(vec![]),
            owned: Some(TopicPartitions::new()),
            ..Heartbeat::default()
        }
    }

    #[test]
    fn each_field_has_its_rules() {
        assert_eq!(join().check(), Ok(()));
        let some = || Some(TopicPartitions::from([(TopicId(Uuid::nil()), vec![1])]));
        for bad in [
            Heartbeat { member: String::new(), ..join() },
            Heartbeat { member: "m".repeat(MEMBER_ID_BYTES_MAX + 1), ..join() },
            Heartbeat { instance: Some(String::new()), ..join() },
            Heartbeat { rack: Some(String::new()), ..join() },
            Heartbeat { rebalance_timeout_ms: None, ..join() },
            Heartbeat { owned: None, ..join() },
            Heartbeat { owned: some(), ..join() },
            Heartbeat { topics: None, ..join() },
            Heartbeat { epoch: LEAVE_STATIC, ..join() },
            Heartbeat { epoch: -3, ..join() },
        ] {
            assert!(matches!(bad.check(), Err(GroupError::InvalidRequest(_))), "{bad:?}");
        }
        for good in [
            Heartbeat { topics: None, regex: Some("a.*".into()), ..join() },
            Heartbeat { epoch: LEAVE_STATIC, instance: Some("i".into()), ..join() },
            Heartbeat { epoch: 5, owned: some(), ..join() },
            Heartbeat { assignor: Some("range".into()), ..join() },
        ] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
        let other = Heartbeat { assignor: Some("sticky".into()), ..join() };
        assert_eq!(other.check(), Err(GroupError::UnsupportedAssignor));
        let large = Heartbeat { topics: Some(vec!["t".repeat(249); 1_000]), ..join() };
        assert_eq!(large.check(), Err(GroupError::MemberTooLarge));
    }
}
