//! Judges what a group did: pure, so each finding has a tiny history that shows it.

use super::history::{History, Line, Told};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Acked, and no member processed it.
    NotProcessed { partition: i32, offset: i64 },
    /// Processed with another value than was acked there.
    OtherValue { partition: i32, offset: i64, value: u64 },
    /// Two members owned a partition in one generation.
    TwoOwnersOfGeneration { partition: i32, generation: i32, members: [String; 2] },
    /// Two members owned a partition at one time, and the first had not been expelled.
    TwoOwners { partition: i32, members: [String; 2], at: i64 },
    /// A new owner began below what was committed and answered before.
    WentBack { partition: i32, member: String, began: i64, committed: i64 },
    /// A new owner began where nobody ever committed.
    Jumped { partition: i32, member: String, began: i64 },
    /// An owner's records do not follow one another.
    Gap { partition: i32, member: String, after: i64, offset: i64 },
    /// Processed without owning the partition.
    NotOwned { partition: i32, member: String, offset: i64 },
    /// Assigned what it owned already.
    AssignedTwice { partition: i32, member: String },
    /// Committed above what it processed.
    CommittedAhead { partition: i32, member: String, offset: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Still owned at the end of what is known.
    Open,
    Revoked,
    Killed,
    /// The member was told that the group went on without it: others may have owned the partition before it knew.
    Lost,
}

/// One member's time with one partition, from being assigned it to giving it up.
#[derive(Clone, Debug)]
pub struct Ownership {
    pub member: usize,
    pub partition: i32,
    pub from: i64,
    pub until: i64,
    pub end: End,
    /// The first and the last generation it is known to have been owned in.
    pub generations: Option<(i32, i32)>,
    /// Offsets of the first and the last record.
    pub records: Option<(i64, i64)>,
}

/// Figures that are no findings by themselves.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub ownerships: Vec<Ownership>,
    /// Records processed more than once: allowed.
    pub repeated: usize,
    /// Commits that were asked for and not answered well.
    pub commits_refused: usize,
    /// The longest time in milliseconds that each partition had no owner, between its first and its last.
    pub longest_without_owner: BTreeMap<i32, i64>,
}

impl Report {
    pub fn ended(&self, end: End) -> usize {
        self.ownerships.iter().filter(|ownership| ownership.end == end).count()
    }
}

pub fn check(history: &History) -> Report {
    let mut report = Report::default();
    for (number, told) in history.members.iter().enumerate() {
        follow(number, told, &mut report);
    }
    processed(history, &mut report);
    begun(history, &mut report);
    owners(history, &mut report);
    report.findings.sort();
    report
}

/// One member's own story: what it owned when, and that it processed just that, in order.
fn follow(number: usize, told: &Told, report: &mut Report) {
    let name = || told.name.clone();
    let mut owned: BTreeMap<i32, Ownership> = BTreeMap::new();
    let mut asked: BTreeSet<(i32, i64)> = BTreeSet::new();
    for line in &told.lines {
        match line {
            Line::Assigned { at, generation, partitions } => {
                retained(&mut owned, *generation);
                for partition in partitions {
                    let ownership = Ownership {
                        member: number,
                        partition: *partition,
                        from: *at,
                        until: i64::MAX,
                        end: End::Open,
                        generations: generation.map(|generation| (generation, generation)),
                        records: None,
                    };
                    if let Some(before) = owned.insert(*partition, ownership) {
                        report.findings.push(Finding::AssignedTwice { partition: *partition, member: name() });
                        report.ownerships.push(Ownership { until: *at, ..before });
                    }
                }
            }
            Line::Revoked { at, generation, partitions } => {
                retained(&mut owned, *generation);
                end(&mut owned, partitions, *at, End::Revoked, report);
            }
            Line::Lost { at, partitions, .. } => end(&mut owned, partitions, *at, End::Lost, report),
            Line::Record { partition, offset, .. } => {
                let Some(ownership) = owned.get_mut(partition) else {
                    let (partition, offset) = (*partition, *offset);
                    report.findings.push(Finding::NotOwned { partition, member: name(), offset });
                    continue;
                };
                let (first, last) = ownership.records.unwrap_or((*offset, *offset - 1));
                if *offset != last + 1 {
                    let (partition, offset) = (*partition, *offset);
                    report.findings.push(Finding::Gap { partition, member: name(), after: last, offset });
                }
                ownership.records = Some((first, *offset));
            }
            Line::Committing { partition, offset, .. } => {
                let reached = owned.get(partition).and_then(|ownership| ownership.records).map(|(_, last)| last + 1);
                if reached.is_none_or(|reached| *offset > reached) {
                    let (partition, offset) = (*partition, *offset);
                    report.findings.push(Finding::CommittedAhead { partition, member: name(), offset });
                }
                asked.insert((*partition, *offset));
            }
            Line::Committed { partition, offset, .. } => {
                asked.remove(&(*partition, *offset));
            }
            Line::Left { at } => {
                let partitions: Vec<i32> = owned.keys().copied().collect();
                end(&mut owned, &partitions, *at, End::Revoked, report);
            }
            Line::Note { .. } => {}
        }
    }
    report.commits_refused += asked.len();
    if let Some(killed) = told.killed {
        let partitions: Vec<i32> = owned.keys().copied().collect();
        end(&mut owned, &partitions, killed, End::Killed, report);
    }
    report.ownerships.extend(owned.into_values());
}

/// Whatever is still owned is owned in this generation too.
fn retained(owned: &mut BTreeMap<i32, Ownership>, generation: Option<i32>) {
    let Some(generation) = generation else { return };
    for ownership in owned.values_mut() {
        if let Some((_, last)) = &mut ownership.generations {
            *last = (*last).max(generation);
        }
    }
}

fn end(owned: &mut BTreeMap<i32, Ownership>, partitions: &[i32], at: i64, end: End, report: &mut Report) {
    for partition in partitions {
        // Clients also tell of what they were never given: a join that came to nothing.
        if let Some(ownership) = owned.remove(partition) {
            report.ownerships.push(Ownership { until: at, end, ..ownership });
        }
    }
}

/// Everything that was acked, at least once.
fn processed(history: &History, report: &mut Report) {
    let mut seen: BTreeMap<(i32, i64), u64> = BTreeMap::new();
    for line in history.members.iter().flat_map(|told| &told.lines) {
        let Line::Record { partition, offset, value } = line else { continue };
        let (place, expected) = ((*partition, *offset), history.acked.get(&(*partition, *offset)));
        if expected.is_some_and(|expected| expected != value) {
            let (partition, offset, value) = (*partition, *offset, *value);
            report.findings.push(Finding::OtherValue { partition, offset, value });
        }
        report.repeated += usize::from(seen.insert(place, *value).is_some());
    }
    for (partition, offset) in history.acked.keys().filter(|place| !seen.contains_key(*place)) {
        report.findings.push(Finding::NotProcessed { partition: *partition, offset: *offset });
    }
}

/// Each owner begins where some commit ended, not before the last that was answered. Who owned the partition just before,
/// too, may go on where it was: some clients keep a position through a rebalance.
fn begun(history: &History, report: &mut Report) {
    let lines = || history.members.iter().flat_map(|told| &told.lines);
    for ownership in &report.ownerships {
        let Some((began, _)) = ownership.records else { continue };
        let partition = ownership.partition;
        let mut committed = 0;
        let mut is_known = began == 0 || kept_position(ownership, &report.ownerships) == Some(began);
        for line in lines() {
            match line {
                Line::Committed { at, partition: of, offset } if *of == partition && *at < ownership.from => {
                    committed = committed.max(*offset);
                }
                Line::Committing { partition: of, offset, .. } if *of == partition => {
                    is_known |= *offset == began;
                }
                _ => {}
            }
        }
        let member = history.members[ownership.member].name.clone();
        if began < committed {
            report.findings.push(Finding::WentBack { partition, member, began, committed });
        } else if !is_known {
            report.findings.push(Finding::Jumped { partition, member, began });
        }
    }
}

/// Where the member had come to, if it is the last that processed of the partition before.
fn kept_position(ownership: &Ownership, all: &[Ownership]) -> Option<i64> {
    let before = all.iter().filter(|other| other.partition == ownership.partition && other.from < ownership.from);
    let last = before.filter(|other| other.records.is_some()).max_by_key(|other| other.from)?;
    let (_, offset) = last.records.filter(|_| last.member == ownership.member)?;
    Some(offset + 1)
}

/// Never two owners, by generation and by the clock.
fn owners(history: &History, report: &mut Report) {
    let mut by_partition: BTreeMap<i32, Vec<&Ownership>> = BTreeMap::new();
    for ownership in &report.ownerships {
        by_partition.entry(ownership.partition).or_default().push(ownership);
    }
    let name = |ownership: &Ownership| history.members[ownership.member].name.clone();
    let mut findings = Vec::new();
    for (partition, mut owners) in by_partition {
        owners.sort_by_key(|ownership| ownership.from);
        let mut longest = 0;
        let mut owned_until = owners.first().map_or(0, |first| first.from);
        for (number, second) in owners.iter().enumerate() {
            longest = longest.max(second.from - owned_until);
            owned_until = owned_until.max(second.until);
            // One that hung is told late of what it was given, and then that it has lost it.
            let is_stale = second.end == End::Lost && second.records.is_none();
            for first in owners[..number].iter().filter(|first| first.member != second.member) {
                let members = [name(first), name(second)];
                if second.from < first.until && first.end != End::Lost && !is_stale {
                    findings.push(Finding::TwoOwners { partition, members: members.clone(), at: second.from });
                }
                if let (Some(a), Some(b)) = (first.generations, second.generations)
                    && a.0.max(b.0) <= a.1.min(b.1)
                {
                    let generation = a.0.max(b.0);
                    findings.push(Finding::TwoOwnersOfGeneration { partition, generation, members });
                }
            }
        }
        report.longest_without_owner.insert(partition, longest);
    }
    report.findings.append(&mut findings);
}
