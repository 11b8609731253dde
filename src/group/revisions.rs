//! Which revisions of a group are its coordinator's own doing. What the image says of a group is only taken for the
//! state that the next write follows if this coordinator wrote or loaded it: otherwise a write computed from something
//! else would be let through.

/// Invariant: what is offered is above what is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    /// Of the last write known to be committed, or of what was loaded; 0: the group is not in the image.
    committed: u64,
    /// The first and the last that were sent since; nobody knows whether they landed.
    offered: Option<(u64, u64)>,
    /// A removal is among them.
    may_be_gone: bool,
}

impl Revisions {
    /// The group is in the image with this revision, 0: not at all.
    pub fn at(committed: u64) -> Revisions {
        Revisions { committed, offered: None, may_be_gone: false }
    }

    /// A change with this revision is on its way.
    pub fn offer(&mut self, revision: u64, removes: bool) {
        let first = self.offered.map_or(revision, |(first, _)| first);
        self.offered = Some((first, revision));
        self.may_be_gone |= removes;
    }

    /// May a group that the image does not have be gone, or never have been there? Not one whose first write was sent:
    /// that may land still.
    pub fn may_be_gone(&self) -> bool {
        (self.committed == 0 && self.offered.is_none()) || self.may_be_gone
    }

    /// Did this coordinator write or load what the image has?
    pub fn is_own(&self, stored: u64) -> bool {
        stored <= self.committed || self.offered.is_some_and(|(first, last)| (first..=last).contains(&stored))
    }

    /// What the next change follows, where the image has `stored`, which may be behind.
    pub fn expected(&self, stored: u64) -> u64 {
        let is_later = stored > self.committed && self.is_own(stored);
        let is_gone = stored == 0 && self.may_be_gone;
        if is_later || is_gone { stored } else { self.committed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_write_follows_what_the_coordinator_knows_of() {
        let mut own = Revisions::at(5);
        assert_eq!((own.expected(5), own.expected(4), own.expected(0)), (5, 5, 5), "the image may be behind");
        assert!(own.is_own(5) && own.is_own(0));
        assert_eq!((own.expected(7), own.is_own(7)), (5, false), "another wrote it");
        own.offer(6, false);
        own.offer(8, false);
        assert_eq!((own.expected(5), own.expected(6), own.expected(8), own.expected(9)), (5, 6, 8, 5));
        own.offer(9, true);
        assert_eq!((own.expected(0), own.expected(5), own.expected(9)), (0, 5, 9));
        assert!(own.may_be_gone() && !Revisions::at(9).may_be_gone() && Revisions::default().may_be_gone());
    }

    #[test]
    fn a_group_whose_first_write_was_sent_is_not_known_to_be_gone() {
        let mut own = Revisions::default();
        own.offer(1, false);
        assert!(!own.may_be_gone(), "it may land");
        assert_eq!((own.expected(0), own.expected(1), own.is_own(1)), (0, 1, true));
        own.offer(2, true);
        assert!(own.may_be_gone());
    }
}
