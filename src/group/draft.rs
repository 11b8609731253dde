//! What the next write of a group must carry: the members that changed, and names for their opaque bytes.
//!
//! Invariant: a write holds every member that changed since the last write known to be committed. So it means the same
//! whether or not a write before it, whose outcome nobody knows, landed.

use super::machine::Attempt;
use crate::metadata::group_change::{BlobId, GroupHeader, GroupMember, GroupWrite, Rebalance};
use crate::metadata::image::groups;
use crate::metadata::raft::types::digest;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

#[derive(Clone, Debug, Default)]
pub struct Draft {
    attempts: u64,
    /// Members that changed, with the first attempt that can hold the change.
    changed: BTreeMap<String, Attempt>,
    names: HashMap<Bytes, BlobId>,
    blobs: BTreeMap<BlobId, Blob>,
}

#[derive(Clone, Debug)]
struct Blob {
    bytes: Bytes,
    /// How often the state machine's members name it.
    uses: u32,
    /// A write held it: until a later one is committed its name must not be given to other bytes.
    offered: bool,
    /// The first attempt without any use of it.
    idle_since: Attempt,
}

impl Draft {
    /// What the image holds of a group; [`Draft::adopt`] each of its members' bytes.
    pub fn restore(group: &groups::Group) -> Draft {
        let mut draft = Draft::default();
        for (id, blob) in &group.blobs {
            let held = Blob { bytes: blob.bytes.clone(), uses: 0, offered: true, idle_since: Attempt(0) };
            draft.names.insert(blob.bytes.clone(), *id);
            draft.blobs.insert(*id, held);
        }
        draft
    }

    /// One more member names bytes that [`Draft::restore`] found; false: they were not there.
    pub fn adopt(&mut self, id: BlobId) -> bool {
        self.blobs.get_mut(&id).map(|blob| blob.uses += 1).is_some()
    }

    /// The members are as the image holds them.
    pub fn settle(&mut self) {
        self.changed.clear();
    }

    /// Nothing changed since the last write known to be committed.
    pub fn is_settled(&self) -> bool {
        self.changed.is_empty()
    }

    /// One more member names these bytes.
    pub fn acquire(&mut self, bytes: &Bytes) -> BlobId {
        let id = match self.names.get(bytes) {
            Some(id) => *id,
            None => {
                let mut id = BlobId(digest(bytes));
                while self.blobs.contains_key(&id) {
                    id = BlobId(id.0.wrapping_add(1));
                }
                let blob = Blob { bytes: bytes.clone(), uses: 0, offered: false, idle_since: Attempt(0) };
                self.names.insert(bytes.clone(), id);
                self.blobs.insert(id, blob);
                id
            }
        };
        self.blobs.get_mut(&id).expect("names and blobs hold the same").uses += 1;
        id
    }

    /// One member fewer names them.
    pub fn release(&mut self, id: BlobId) {
        let next = self.next();
        let Some(blob) = self.blobs.get_mut(&id) else { return };
        blob.uses = blob.uses.saturating_sub(1);
        if blob.uses > 0 {
            return;
        }
        blob.idle_since = next;
        if !blob.offered {
            let bytes = blob.bytes.clone();
            self.names.remove(&bytes);
            self.blobs.remove(&id);
        }
    }

    pub fn bytes(&self, id: BlobId) -> Bytes {
        self.blobs.get(&id).map(|blob| blob.bytes.clone()).unwrap_or_default()
    }

    /// The member is new, gone, or other than it was.
    pub fn touch(&mut self, member: &str) {
        let next = self.next();
        match self.changed.get_mut(member) {
            Some(since) => *since = next,
            None => {
                self.changed.insert(member.to_string(), next);
            }
        }
    }

    /// Whom the next write holds, or takes out.
    pub fn changed(&self) -> impl Iterator<Item = &String> {
        self.changed.keys()
    }

    /// The attempt that the next write will be.
    pub fn next(&self) -> Attempt {
        Attempt(self.attempts + 1)
    }

    /// `member` tells what a member is now; `None`: it is gone.
    pub fn write(
        &mut self,
        header: GroupHeader,
        rebalance: Option<Rebalance>,
        member: impl Fn(&str) -> Option<GroupMember>,
    ) -> (Attempt, GroupWrite) {
        self.attempts += 1;
        let mut write = GroupWrite { header, put: Vec::new(), removed: Vec::new(), blobs: Vec::new(), rebalance };
        let mut named = BTreeMap::new();
        for id in self.changed.keys() {
            let Some(member) = member(id) else {
                write.removed.push(id.clone());
                continue;
            };
            for blob in member.blobs() {
                if let Some(held) = self.blobs.get_mut(&blob) {
                    held.offered = true;
                    named.entry(blob).or_insert_with(|| held.bytes.clone());
                }
            }
            write.put.push((id.clone(), member));
        }
        write.blobs = named.into_iter().collect();
        (Attempt(self.attempts), write)
    }

    /// The write of this attempt is in the image.
    pub fn committed(&mut self, attempt: Attempt) {
        self.changed.retain(|_, since| *since > attempt);
        let names = &mut self.names;
        self.blobs.retain(|_, blob| {
            let stays = blob.uses > 0 || blob.idle_since > attempt;
            if !stays {
                names.remove(&blob.bytes);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::group_change::ClassicMember;
    use std::collections::BTreeSet;

    fn header() -> GroupHeader {
        GroupHeader::Classic {
            protocol_type: "consumer".into(),
            protocol: None,
            generation: 1,
            leader: None,
            is_whole: true,
        }
    }

    fn member(blob: BlobId) -> GroupMember {
        GroupMember::Classic(ClassicMember { protocols: vec![("range".into(), blob)], ..ClassicMember::default() })
    }

    fn put(write: &GroupWrite) -> BTreeSet<&str> {
        write.put.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[test]
    fn a_write_holds_what_no_write_known_to_be_committed_held() {
        let mut draft = Draft::default();
        let blob = draft.acquire(&Bytes::from_static(b"topics"));
        assert_eq!(draft.acquire(&Bytes::from_static(b"topics")), blob, "stored once");
        let all = |_: &str| Some(member(blob));
        draft.touch("a");
        draft.touch("b");
        let (first, write) = draft.write(header(), None, all);
        assert_eq!((put(&write), write.blobs.len()), (BTreeSet::from(["a", "b"]), 1));
        // Its outcome is unknown: the next one holds all of it again.
        draft.touch("c");
        let (second, write) = draft.write(header(), None, |id| (id != "a").then(|| member(blob)));
        assert_eq!((put(&write), &write.removed[..]), (BTreeSet::from(["b", "c"]), &["a".to_string()][..]));
        draft.touch("b");
        draft.committed(second);
        let (_, write) = draft.write(header(), None, all);
        assert_eq!((put(&write), write.removed.len()), (BTreeSet::from(["b"]), 0), "it changed after the write");
        draft.committed(first);
    }

    #[test]
    fn a_name_is_free_again_once_the_image_does_not_hold_its_bytes() {
        let mut draft = Draft::default();
        let blob = draft.acquire(&Bytes::from_static(b"x"));
        draft.release(blob);
        assert!(draft.blobs.is_empty() && draft.names.is_empty(), "nobody was ever told of it");
        let blob = draft.acquire(&Bytes::from_static(b"x"));
        draft.touch("a");
        let (first, _) = draft.write(header(), None, |_| Some(member(blob)));
        draft.release(blob);
        draft.touch("a");
        draft.committed(first);
        assert_eq!(draft.blobs.len(), 1, "the image holds it");
        let (second, _) = draft.write(header(), None, |_| None);
        draft.committed(second);
        assert!(draft.blobs.is_empty() && draft.names.is_empty());
    }

    #[test]
    fn other_bytes_with_the_same_hash_get_another_name() {
        let mut draft = Draft::default();
        let blob = draft.acquire(&Bytes::from_static(b"x"));
        draft.names.clear();
        let other = draft.acquire(&Bytes::from_static(b"x"));
        assert_eq!(other, BlobId(blob.0.wrapping_add(1)));
    }
}
