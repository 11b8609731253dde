//! How events' outcomes read in a script.

use crate::group::classic::{Joined, Synced};
use crate::group::consumer::{HeartbeatAnswer, embedded};
use crate::group::coordinator::GroupError;
use crate::metadata::group_change::*;
use crate::metadata::image::Image;

pub fn partitions(image: &Image, list: &TopicPartitions) -> String {
    let name = |topic| image.topic(topic).map_or("(deleted)".to_string(), |topic| topic.name.clone());
    named(list.iter().map(|(topic, list)| (name(*topic), list.clone())))
}

fn named(list: impl Iterator<Item = (String, Vec<i32>)>) -> String {
    let one = |(topic, list): (String, Vec<i32>)| {
        let numbers: Vec<String> = list.iter().map(i32::to_string).collect();
        format!("{topic}:{}", numbers.join(","))
    };
    let mut topics: Vec<String> = list.map(one).collect();
    topics.sort();
    if topics.is_empty() { "nothing".to_string() } else { topics.join(" ") }
}

pub fn write(image: &Image, write: &GroupWrite) -> String {
    let header = match &write.header {
        GroupHeader::Consumer { epoch, assignor, .. } => format!("epoch {epoch} {assignor}"),
        GroupHeader::Classic { generation, .. } => format!("generation {generation}"),
    };
    let reason = write.rebalance.as_ref().map(|rebalance| {
        let more = if rebalance.others > 0 { format!(" and {} more", rebalance.others) } else { String::new() };
        let whom = rebalance.reason.whom().map(|whom| format!(" {whom}")).unwrap_or_default();
        format!(" because {}{whom}{more}", rebalance.reason.name())
    });
    let mut parts = vec![format!("writes {header}{}", reason.unwrap_or_default())];
    parts.extend(write.removed.iter().map(|id| format!("without {id}")));
    parts.extend(write.put.iter().map(|(id, member)| match member {
        GroupMember::Classic(_) => format!("{id} classic"),
        GroupMember::Consumer(member) => consumer_member(image, id, member),
    }));
    parts.join(" · ")
}

fn consumer_member(image: &Image, id: &str, member: &ConsumerMember) -> String {
    let mut text = format!("{id} at {} has {}", member.member_epoch, partitions(image, &member.assigned));
    match member.state {
        MemberState::Stable => {}
        MemberState::Unrevoked => text += &format!(", gives up {}", partitions(image, &member.pending_revocation)),
        MemberState::Unreleased => text += ", waits",
    }
    if member.target != member.assigned {
        text += &format!(", is to have {}", partitions(image, &member.target));
    }
    text
}

pub fn beaten(image: &Image, who: &str, answer: &Result<HeartbeatAnswer, GroupError>) -> String {
    match answer {
        Err(error) => format!("{who}: {error}"),
        Ok(answer) if answer.epoch < 0 => format!("{who} is told that it has left"),
        Ok(answer) => {
            let assignment = answer.assignment.as_ref().map(|list| format!(", has {}", partitions(image, list)));
            format!("{who} is told epoch {}{}", answer.epoch, assignment.unwrap_or_default())
        }
    }
}

pub fn joined(who: &str, answer: &Result<Joined, GroupError>) -> String {
    match answer {
        Err(error) => format!("{who}: {error}"),
        Ok(joined) if joined.leader == joined.member => format!("{who} leads generation {}", joined.generation),
        Ok(joined) => format!("{who} joined generation {}", joined.generation),
    }
}

pub fn synced(who: &str, answer: &Result<Synced, GroupError>) -> String {
    match answer {
        Err(error) => format!("{who}: {error}"),
        Ok(synced) => {
            let list = embedded::read_assignment(&synced.assignment).expect("a consumer's assignment");
            format!("{who} synced, has {}", named(list.into_iter()))
        }
    }
}
