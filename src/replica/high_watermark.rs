//! The high watermark: what all of the maximal ISR holds (replication.md, rule 2).

use crate::ids::Offset;

/// The lowest of what each member holds durably; `None` while one of them has not told.
pub(super) fn lowest(ends: impl IntoIterator<Item = Option<Offset>>) -> Option<Offset> {
    let mut lowest: Option<Offset> = None;
    for end in ends {
        let end = end?;
        lowest = Some(lowest.map_or(end, |low| low.min(end)));
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_member_holds_it_back() {
        assert_eq!(lowest([Some(Offset(5)), Some(Offset(3)), Some(Offset(9))]), Some(Offset(3)));
        assert_eq!(lowest([Some(Offset(5)), None]), None);
    }
}
