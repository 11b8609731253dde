//! The group reads everything at least once: commits stay, and what is committed was read by some member.

use super::verdict::{Anomaly, Kind, Verdict};
use crate::history::{Commit, History, Place};
use std::collections::{BTreeMap, HashSet};

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let mut highest: BTreeMap<Place, Commit> = BTreeMap::new();
    for commit in history.commits.iter().filter(|commit| commit.done_ms.is_some()) {
        let so_far = highest.entry(commit.place).or_insert(*commit);
        if so_far.offset < commit.offset {
            *so_far = *commit;
        }
    }
    for (place, commit) in &highest {
        let found = history.committed.get(place).copied().unwrap_or(-1);
        if found < commit.offset {
            let Commit { offset, asked_ms, .. } = commit;
            let place = history.place(*place);
            let told = format!("{place}: offset {offset} committed at {asked_ms} ms, at the end it is {found}");
            verdict.anomalies.push(Anomaly::new(Kind::CommitLost, told));
        }
    }
    let read: HashSet<(Place, i64)> =
        history.members.iter().flat_map(|member| &member.reads).map(|read| (read.place, read.offset)).collect();
    for (place, committed) in &history.committed {
        let name = history.place(*place);
        if let Some(missed) = (0..*committed).find(|offset| !read.contains(&(*place, *offset))) {
            let told = format!("{name}: committed up to {committed}, but no member read {missed}");
            verdict.anomalies.push(Anomaly::new(Kind::CommitUnread, told));
        }
    }
}
