//! What protocols the classic members of a group have in common, without a look at each of them.

use crate::metadata::group_change::ClassicPart;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Supporters {
    /// Classic members.
    members: usize,
    /// How many of them support each protocol.
    each: BTreeMap<String, usize>,
}

impl Supporters {
    /// Of a member that speaks the new protocol there is nothing to count.
    pub fn add(&mut self, classic: Option<&ClassicPart>) {
        self.members += usize::from(classic.is_some());
        for name in names(classic) {
            *self.each.entry(name.to_string()).or_default() += 1;
        }
    }

    /// What was added before.
    pub fn remove(&mut self, classic: Option<&ClassicPart>) {
        self.members -= usize::from(classic.is_some());
        for name in names(classic) {
            let count = self.each.get_mut(name).expect("each member's protocols are counted");
            *count -= 1;
            if *count == 0 {
                self.each.remove(name);
            }
        }
    }

    /// Do all support it, but perhaps the one that is replaced?
    pub fn all_but(&self, replaced: Option<&ClassicPart>, name: &str) -> bool {
        let own = usize::from(names(replaced).contains(name));
        self.each.get(name).copied().unwrap_or(0) - own == self.members - usize::from(replaced.is_some())
    }
}

/// Each once.
fn names(classic: Option<&ClassicPart>) -> BTreeSet<&str> {
    classic.iter().flat_map(|classic| &classic.protocols).map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::group_change::BlobId;

    #[test]
    fn what_all_others_support() {
        let of = |names: &[&str]| {
            let protocols = names.iter().map(|name| (name.to_string(), BlobId(1))).collect();
            ClassicPart { session_timeout_ms: 1, protocols }
        };
        let (one, two) = (of(&["range", "range", "sticky"]), of(&["sticky"]));
        let mut supporters = Supporters::default();
        assert!(supporters.all_but(None, "range"), "nobody is there");
        supporters.add(None);
        supporters.add(Some(&one));
        supporters.add(Some(&two));
        assert!(supporters.all_but(None, "sticky") && !supporters.all_but(None, "range"));
        assert!(supporters.all_but(Some(&two), "range") && !supporters.all_but(Some(&one), "range"));
        supporters.remove(Some(&two));
        assert!(supporters.all_but(None, "range") && !supporters.all_but(None, "other"));
        supporters.remove(Some(&one));
        assert_eq!(supporters, Supporters::default());
    }
}
