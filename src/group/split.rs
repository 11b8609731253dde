//! A group's write as changes that fit into commands.

use super::settings::PART_BYTES_MAX;
use crate::metadata::group_change::{BlobId, GroupWrite};
use crate::metadata::raft::types::encoded_size;
use bytes::Bytes;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// The parts of a write, in order, each with the bytes that it is the first to name; only the last is whole and tells of
/// the rebalance. `is_held`: the group has these bytes already.
pub fn split(write: &GroupWrite, is_held: impl Fn(BlobId, &Bytes) -> bool) -> VecDeque<GroupWrite> {
    let mut blobs: BTreeMap<BlobId, &Bytes> =
        write.blobs.iter().filter(|(id, bytes)| !is_held(*id, bytes)).map(|(id, bytes)| (*id, bytes)).collect();
    let mut parts = Parts { done: VecDeque::new(), open: part(write), bytes: 0 };
    for id in &write.removed {
        parts.make_room(write, size(id));
        parts.open.removed.push(id.clone());
    }
    for (id, member) in &write.put {
        let named: Vec<(BlobId, Bytes)> =
            member.blobs().filter_map(|id| Some((id, blobs.remove(&id)?.clone()))).collect();
        parts.make_room(write, size(&(id, member)) + size(&named));
        parts.open.put.push((id.clone(), member.clone()));
        parts.open.blobs.extend(named);
    }
    parts.open.header = write.header.clone();
    parts.open.rebalance = write.rebalance.clone();
    parts.done.push_back(parts.open);
    parts.done
}

struct Parts {
    done: VecDeque<GroupWrite>,
    open: GroupWrite,
    bytes: usize,
}

impl Parts {
    fn make_room(&mut self, write: &GroupWrite, bytes: usize) {
        if self.bytes > 0 && self.bytes + bytes > PART_BYTES_MAX {
            self.done.push_back(std::mem::replace(&mut self.open, part(write)));
            self.bytes = 0;
        }
        self.bytes += bytes;
    }
}

fn part(write: &GroupWrite) -> GroupWrite {
    let header = write.header.torn();
    GroupWrite { header, put: Vec::new(), removed: Vec::new(), blobs: Vec::new(), rebalance: None }
}

fn size(value: &impl Serialize) -> usize {
    encoded_size(value).ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::group_change::*;
    use crate::metadata::image::groups::Group;

    fn write(members: usize, metadata: &[usize]) -> GroupWrite {
        let header = GroupHeader::Classic {
            protocol_type: "consumer".into(),
            protocol: Some("range".into()),
            generation: 3,
            leader: Some("m0".into()),
            is_whole: true,
        };
        let blobs: Vec<(BlobId, Bytes)> =
            (0..).zip(metadata).map(|(id, bytes)| (BlobId(id), Bytes::from(vec![7; *bytes]))).collect();
        let member = |n: usize| {
            let protocols = vec![("range".to_string(), BlobId((n % metadata.len()) as u64))];
            GroupMember::Classic(ClassicMember { protocols, ..ClassicMember::default() })
        };
        let put = (0..members).map(|n| (format!("m{n}"), member(n))).collect();
        let reason = RebalanceReason::MemberJoined("m0".into());
        let rebalance = Some(Rebalance { at_ms: 1, epoch: 3, members: 1, reason, others: 0, said: None });
        GroupWrite { header, put, removed: vec!["gone".into()], blobs, rebalance }
    }

    #[test]
    fn what_fits_is_one_part_without_the_bytes_that_are_held() {
        let whole = write(3, &[10, 20]);
        assert_eq!(split(&whole, |_, _| false), [whole.clone()]);
        let parts = split(&whole, |id, _| id == BlobId(0));
        assert_eq!(parts[0].blobs, whole.blobs[1..]);
    }

    #[test]
    fn parts_are_bounded_and_amount_to_the_whole() {
        let whole = write(5_000, &[200 * 1024, 100, 150 * 1024]);
        let parts = split(&whole, |_, _| false);
        assert!(parts.len() > 2, "{}", parts.len());
        let mut group = Group::new(parts[0].header.clone());
        for (revision, part) in (1..).zip(&parts) {
            assert!(size(part) < PART_BYTES_MAX + 4_096);
            assert_eq!(part.header.is_whole(), revision as usize == parts.len());
            group = group.after(part, revision).expect("each part stands on those before it");
        }
        let at_once = Group::new(whole.header.clone()).after(&whole, group.revision).expect("fits");
        assert_eq!(group, at_once);
    }
}
