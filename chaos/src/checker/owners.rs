//! Who owned what: one member at a time, from where the group had come to, and nobody who does not look after it.

use super::verdict::{Anomaly, Kind, Verdict};
use crate::history::{Commit, End, Hang, History, Ownership};

/// A member that hangs for longer has been expelled and its partitions given to others: its client leaves after
/// `max.poll.interval.ms` (6 s), and a rebalance waits for nobody longer than that.
const HUNG_JUDGED_MS: u32 = 18_000;
/// From then on the others may have its partitions: a rebalance that began before the member fell silent waits for it no
/// longer than 6 s, and it takes up to a second until it hears of one.
const POLL_MAX_MS: u32 = 5_000;
/// A member that polls again is told so soon, unless a commit on the way waits for its coordinator.
const TOLD_WITHIN_MS: u32 = 15_000;
/// What waited for its poll comes with one of the next.
const TOLD_AT_ONCE_MS: u32 = 2_000;

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    for (number, second) in history.ownerships.iter().enumerate() {
        let others = history.ownerships.iter().enumerate().filter(|(other, first)| {
            let is_before = (first.from_ms, *other) < (second.from_ms, number);
            is_before && first.place == second.place && first.member != second.member
        });
        let overlaps = |first: &&Ownership| {
            let knew = first.end != End::Lost && !is_out(history, first, second.from_ms);
            second.from_ms < first.until_ms && knew && !is_stale(history, second)
        };
        for first in others.map(|(_, first)| first).filter(overlaps) {
            verdict.anomalies.push(Anomaly::new(Kind::TwoOwners, both(history, first, second)));
        }
        went_back(history, second, verdict);
    }
    for commit in &history.commits {
        zombie(history, commit, verdict);
    }
    for hang in &history.hangs {
        hung(history, hang, verdict);
    }
}

/// Whether the owner had not polled for too long then, so that it was out of its group. Its client says "lost" of that,
/// except where a rebalance had begun before: that one, already on its way to the member, revokes.
fn is_out(history: &History, owner: &Ownership, then_ms: u32) -> bool {
    history.hangs.iter().filter(|hang| hang.member == owner.member).any(|hang| {
        owner.from_ms <= hang.until_ms
            && (hang.from_ms + POLL_MAX_MS..=hang.until_ms + POLL_MAX_MS).contains(&then_ms)
            && (hang.from_ms..hang.until_ms + TOLD_WITHIN_MS).contains(&owner.until_ms)
    })
}

/// One that did not look for long is told late of what it was given, and then that it has lost it. In between it may
/// have read.
fn is_stale(history: &History, owner: &Ownership) -> bool {
    let mut own = history.hangs.iter().filter(|hang| hang.member == owner.member);
    let mut is_told_late = || {
        own.any(|hang| {
            (hang.from_ms..hang.until_ms + TOLD_AT_ONCE_MS).contains(&owner.from_ms)
                && owner.until_ms < hang.until_ms + TOLD_WITHIN_MS
        })
    };
    owner.end == End::Lost && (owner.began.is_none() || is_told_late())
}

fn told(history: &History, ownership: &Ownership) -> String {
    let Ownership { member, from_ms, until_ms, end, .. } = ownership;
    format!("{} from {from_ms} to {until_ms} ms ({end:?})", history.members[*member].name)
}

fn both(history: &History, first: &Ownership, second: &Ownership) -> String {
    format!("{}: {}, {}", history.place(first.place), told(history, first), told(history, second))
}

fn went_back(history: &History, ownership: &Ownership, verdict: &mut Verdict) {
    let Some(began) = ownership.began else { return };
    let before = history.commits.iter().filter(|commit| {
        commit.place == ownership.place && commit.done_ms.is_some_and(|done| done < ownership.from_ms)
    });
    if let Some(commit) = before.max_by_key(|commit| commit.offset).filter(|commit| began < commit.offset) {
        let (place, owner) = (history.place(ownership.place), told(history, ownership));
        let Commit { offset, asked_ms, .. } = commit;
        let told = format!("{place}: {owner} began at {began}, {offset} was committed at {asked_ms} ms");
        verdict.anomalies.push(Anomaly::new(Kind::WentBack, told));
    }
}

/// Taken although the partition had been given to another since the member got it.
fn zombie(history: &History, commit: &Commit, verdict: &mut Verdict) {
    if commit.done_ms.is_none() {
        return;
    }
    let covers =
        |o: &&Ownership| o.place == commit.place && o.from_ms < commit.asked_ms && commit.asked_ms < o.until_ms;
    let own = history.ownerships.iter().filter(covers).filter(|o| o.member == commit.member).map(|o| o.from_ms).max();
    let is_newer = |o: &&Ownership| o.member != commit.member && Some(o.from_ms) > own && !is_stale(history, o);
    let newer = history.ownerships.iter().filter(covers).find(is_newer);
    if let Some(newer) = newer {
        let (place, member) = (history.place(commit.place), &history.members[commit.member].name);
        let Commit { offset, asked_ms, .. } = commit;
        let told = format!("{place}: {member} committed {offset} at {asked_ms} ms; {}", told(history, newer));
        verdict.anomalies.push(Anomaly::new(Kind::ZombieCommit, told));
    }
}

fn hung(history: &History, hang: &Hang, verdict: &mut Verdict) {
    let Hang { member, is_meant, from_ms, until_ms } = *hang;
    if !is_meant || until_ms - from_ms < HUNG_JUDGED_MS {
        return;
    }
    let owned = history.ownerships.iter().filter(|o| o.member == member && o.from_ms < from_ms && from_ms < o.until_ms);
    for kept in owned {
        // Or before: when it was told to hang twice, with a poll in between that said something else first.
        let taken = |o: &Ownership| {
            o.place == kept.place && o.member != member && (kept.from_ms..until_ms).contains(&o.from_ms)
        };
        if !history.ownerships.iter().any(taken) {
            let (place, name) = (history.place(kept.place), &history.members[member].name);
            let told =
                format!("{place}: {name} did not poll from {from_ms} to {until_ms} ms, nobody else was given it");
            verdict.anomalies.push(Anomaly::new(Kind::HungOwner, told));
        }
    }
}
