//! Consumer groups' committed membership and assignment.

use super::persistent;
use crate::metadata::command::MetadataError;
use crate::metadata::group_change::*;
use bytes::Bytes;
use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rebalances that a group remembers.
pub const HISTORY_MAX: usize = 20;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Groups {
    #[serde(deserialize_with = "persistent::map")]
    pub groups: OrdMap<String, Arc<Group>>,
}

/// Invariants, while the header is whole: `blobs` are exactly what members name, with true counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Grows with each write; > 0.
    pub revision: u64,
    pub header: GroupHeader,
    #[serde(deserialize_with = "persistent::map")]
    pub members: OrdMap<String, Arc<GroupMember>>,
    #[serde(deserialize_with = "persistent::map")]
    pub blobs: OrdMap<BlobId, Blob>,
    /// The newest last; at most [`HISTORY_MAX`].
    #[serde(deserialize_with = "persistent::vector")]
    pub history: Vector<Rebalance>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blob {
    pub bytes: Bytes,
    /// How often members name it.
    pub references: u32,
}

impl Group {
    pub fn new(header: GroupHeader) -> Group {
        Group { revision: 0, header, members: OrdMap::new(), blobs: OrdMap::new(), history: Vector::new() }
    }

    /// The group after a write; refused if it names bytes that are not there, or gives other bytes a known name.
    pub fn after(&self, write: &GroupWrite, revision: u64) -> Result<Group, MetadataError> {
        let mut next = self.clone();
        for (id, bytes) in &write.blobs {
            match next.blobs.get(id) {
                None => {
                    next.blobs.insert(*id, Blob { bytes: bytes.clone(), references: 0 });
                }
                Some(known) if known.bytes == *bytes => {}
                Some(_) => return Err(MetadataError::Invalid(format!("other bytes are named {} already", id.0))),
            }
        }
        let mut unused: BTreeSet<BlobId> = write.blobs.iter().map(|(id, _)| *id).collect();
        for id in &write.removed {
            if let Some(gone) = next.members.remove(id) {
                next.release(&gone, &mut unused);
            }
        }
        for (id, member) in &write.put {
            for blob in member.blobs() {
                let Some(blob) = next.blobs.get_mut(&blob) else {
                    return Err(MetadataError::Invalid(format!("member '{id}' names bytes that are not there")));
                };
                blob.references += 1;
            }
            if let Some(former) = next.members.insert(id.clone(), Arc::new(member.clone())) {
                next.release(&former, &mut unused);
            }
        }
        // A later part of a torn write may name what this part gave up.
        if write.header.is_whole() {
            if !self.header.is_whole() {
                unused.extend(next.blobs.keys().copied());
            }
            for id in unused {
                if next.blobs.get(&id).is_some_and(|blob| blob.references == 0) {
                    next.blobs.remove(&id);
                }
            }
        }
        // The same again is what a write with an unknown outcome had told already.
        if let Some(rebalance) = &write.rebalance
            && next.history.last() != Some(rebalance)
        {
            next.history.push_back(rebalance.clone());
            while next.history.len() > HISTORY_MAX {
                next.history.pop_front();
            }
        }
        next.header = write.header.clone();
        next.revision = revision;
        Ok(next)
    }

    fn release(&mut self, member: &GroupMember, unused: &mut BTreeSet<BlobId>) {
        for id in member.blobs() {
            if let Some(blob) = self.blobs.get_mut(&id) {
                blob.references -= 1;
                unused.insert(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(is_whole: bool) -> GroupHeader {
        GroupHeader::Classic { protocol_type: "consumer".into(), protocol: None, generation: 1, leader: None, is_whole }
    }

    fn member(blobs: &[u64]) -> GroupMember {
        let protocols = blobs.iter().map(|id| ("range".to_string(), BlobId(*id))).collect();
        GroupMember::Classic(ClassicMember { protocols, ..ClassicMember::default() })
    }

    fn write(put: &[(&str, &[u64])], removed: &[&str], blobs: &[(u64, &'static str)], is_whole: bool) -> GroupWrite {
        GroupWrite {
            header: header(is_whole),
            put: put.iter().map(|(id, blobs)| (id.to_string(), member(blobs))).collect(),
            removed: removed.iter().map(|id| id.to_string()).collect(),
            blobs: blobs.iter().map(|(id, text)| (BlobId(*id), Bytes::from_static(text.as_bytes()))).collect(),
            rebalance: None,
        }
    }

    fn counts(group: &Group) -> Vec<(u64, u32)> {
        group.blobs.iter().map(|(id, blob)| (id.0, blob.references)).collect()
    }

    #[test]
    fn bytes_stay_as_long_as_a_member_names_them() {
        let group = Group::new(header(true));
        let group =
            group.after(&write(&[("a", &[1, 1]), ("b", &[1, 2])], &[], &[(1, "x"), (2, "y")], true), 1).unwrap();
        assert_eq!(counts(&group), [(1, 3), (2, 1)]);
        let group = group.after(&write(&[("b", &[1])], &[], &[(1, "x"), (9, "nobody's")], true), 2).unwrap();
        assert_eq!((counts(&group), group.revision), (vec![(1, 3)], 2));
        let group = group.after(&write(&[("c", &[1])], &["a", "never there"], &[], true), 3).unwrap();
        assert_eq!(counts(&group), [(1, 2)]);
        let group = group.after(&write(&[], &["b", "c"], &[], true), 4).unwrap();
        assert_eq!((counts(&group), group.members.len()), (vec![], 0));
    }

    #[test]
    fn unknown_and_double_names_are_refused() {
        let group = Group::new(header(true)).after(&write(&[("a", &[1])], &[], &[(1, "x")], true), 1).unwrap();
        for bad in [write(&[("b", &[7])], &[], &[], true), write(&[], &[], &[(1, "other")], true)] {
            assert!(matches!(group.after(&bad, 2), Err(MetadataError::Invalid(_))));
        }
    }

    #[test]
    fn a_torn_write_keeps_what_its_later_parts_may_name() {
        let group = Group::new(header(true)).after(&write(&[("a", &[1])], &[], &[(1, "x")], true), 1).unwrap();
        let group = group.after(&write(&[], &["a"], &[], false), 2).unwrap();
        assert_eq!(counts(&group), [(1, 0)]);
        let named = group.after(&write(&[("b", &[1])], &[], &[], true), 3).unwrap();
        assert_eq!(counts(&named), [(1, 1)]);
        let unnamed = group.after(&write(&[("b", &[])], &[], &[], true), 3).unwrap();
        assert_eq!(counts(&unnamed), []);
    }

    #[test]
    fn the_history_is_bounded_and_tells_nothing_twice() {
        let mut group = Group::new(header(true));
        for (revision, epoch) in (1..).zip((0..30).flat_map(|epoch| [epoch, epoch])) {
            let reason = RebalanceReason::MemberJoined("m".into());
            let rebalance = Rebalance { at_ms: 1, epoch, members: 1, reason, others: 0, said: None };
            let write = GroupWrite { rebalance: Some(rebalance), ..write(&[], &[], &[], true) };
            group = group.after(&write, revision).unwrap();
        }
        let epochs: Vec<i32> = group.history.iter().map(|rebalance| rebalance.epoch).collect();
        assert_eq!(epochs, (10..30).collect::<Vec<_>>());
    }
}
