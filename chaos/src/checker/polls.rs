//! Each reader's polls: every offset holds a record, so a reader that never seeks sees them one after another.

use super::verdict::{Anomaly, Kind, Verdict};
use crate::history::{History, Place};
use std::collections::BTreeMap;

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    for reader in &history.readers {
        let mut next: BTreeMap<Place, i64> = BTreeMap::new();
        for read in &reader.reads {
            let expected = next.entry(read.place).or_insert(0);
            let kind = match read.offset.cmp(expected) {
                std::cmp::Ordering::Less => Some(Kind::NonMonotonicPoll),
                std::cmp::Ordering::Greater => Some(Kind::SkippedPoll),
                std::cmp::Ordering::Equal => None,
            };
            if let Some(kind) = kind {
                let told = format!(
                    "{} read {}@{} at {} ms, after {}",
                    reader.name,
                    history.place(read.place),
                    read.offset,
                    read.at_ms,
                    *expected - 1
                );
                verdict.anomalies.push(Anomaly::new(kind, told));
            }
            *expected = read.offset + 1;
        }
        for (at, what) in &reader.resets {
            let told = format!("{} at {at} ms: {what}", reader.name);
            verdict.anomalies.push(Anomaly::new(Kind::PositionLost, told));
        }
    }
}
