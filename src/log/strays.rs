//! Strays: folders of partitions that nobody knew any more when this node came back (replication.md, rule 13).
//!
//! A deletion that a running node is told of removes its folder at once. A folder that only turns out to be unknown at
//! the start is another matter: a cluster that lost its metadata, or an operator who started a node in the wrong one,
//! must not cost the records. It is renamed to `<name>.<ms>-stray`, the time being that of the renaming, so that it is
//! known over restarts; it is never opened or counted as a replica, and removed when its grace time is over.

use std::collections::BTreeMap;

const SUFFIX: &str = "-stray";
/// The last moment of the year 9999, in milliseconds since 1970.
const UTC_MAX: i64 = 253_402_300_799_999;

/// One folder that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stray {
    /// When, in milliseconds since 1970.
    pub since_ms: i64,
    /// What it takes on the disk.
    pub bytes: u64,
}

/// How many folders are set aside, and what they take on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StraysHeld {
    pub folders: usize,
    pub bytes: u64,
}

/// By the names they have now. Bound: the partition folders found at the starts within one grace time.
#[derive(Debug, Default)]
pub(super) struct Strays(BTreeMap<String, Stray>);

impl Strays {
    pub fn add(&mut self, name: String, stray: Stray) {
        self.0.insert(name, stray);
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub fn held(&self) -> StraysHeld {
        StraysHeld { folders: self.0.len(), bytes: self.0.values().map(|stray| stray.bytes).sum() }
    }

    /// Those whose grace time is over. `grace_ms` below 0: never. A clock that was set back only makes it longer.
    pub fn due(&self, now_ms: i64, grace_ms: i64) -> Vec<(String, Stray)> {
        let is_due = |stray: &Stray| grace_ms >= 0 && until_ms(stray.since_ms, grace_ms) <= now_ms;
        self.0.iter().filter(|(_, stray)| is_due(stray)).map(|(name, stray)| (name.clone(), *stray)).collect()
    }
}

/// Until when a folder set aside at `since_ms` is kept, for a person who reads the log.
pub fn kept_until(since_ms: i64, grace_ms: i64) -> String {
    match until_ms(since_ms, grace_ms) {
        _ if grace_ms < 0 => "for ever".to_string(),
        until if until > UTC_MAX => "for ever".to_string(),
        until => utc(until),
    }
}

/// When a folder set aside at `since_ms` may be removed.
fn until_ms(since_ms: i64, grace_ms: i64) -> i64 {
    since_ms.saturating_add(grace_ms)
}

/// The name of the folder `name` once it is set aside.
pub(super) fn name_aside(name: &str, since_ms: i64) -> String {
    format!("{name}.{}{SUFFIX}", since_ms.max(0))
}

/// Since when the folder of that name is set aside; `None`: it is no stray.
pub(super) fn parse(name: &str) -> Option<i64> {
    let (_, since) = name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
    if since.is_empty() || !since.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    since.parse().ok()
}

/// "2026-11-21 19:03 UTC".
fn utc(ms: i64) -> String {
    let minutes = ms.div_euclid(60_000);
    let (days, minute) = (minutes.div_euclid(1_440), minutes.rem_euclid(1_440));
    // The Gregorian calendar from the first of March of the year 0, so that leap days come last; 400 years at a time.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    format!("{year:04}-{month:02}-{day_of_month:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_since_when() {
        let name = "orders-3.00000000000000000000000000000001";
        assert_eq!(parse(&name_aside(name, 1_790_000_000_000)), Some(1_790_000_000_000));
        for wrong in [name, "x-stray", "x.-stray", "x.+1-stray", "x.12", "x.99999999999999999999-stray"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_grace_time_ends_once() {
        let mut strays = Strays::default();
        strays.add("a".into(), Stray { since_ms: 1_000, bytes: 5 });
        strays.add("b".into(), Stray { since_ms: 2_000, bytes: 7 });
        assert_eq!(strays.held(), StraysHeld { folders: 2, bytes: 12 });
        let due = |now, grace| strays.due(now, grace).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(due(1_099, 100), [""; 0]);
        assert_eq!(due(1_100, 100), ["a"]);
        assert_eq!(due(2_100, 100), ["a", "b"]);
        assert_eq!(due(i64::MAX, -1), [""; 0], "never");
        assert_eq!(due(i64::MAX - 1, i64::MAX), [""; 0], "nor sooner for being so long");
        assert_eq!(due(0, 100), [""; 0], "the clock went back");
    }

    #[test]
    fn times_are_told_for_people() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399_999), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_735_689_540_000), "2024-12-31 23:59 UTC");
        assert_eq!(kept_until(UTC_MAX - 5, 5), "9999-12-31 23:59 UTC");
        assert_eq!([kept_until(UTC_MAX, 1), kept_until(0, i64::MAX), kept_until(0, -1)], ["for ever"; 3]);
    }
}
