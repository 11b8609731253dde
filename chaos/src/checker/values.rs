//! Each value's fate: is what was acked there, once, where the ack said, in order; was what is there sent?

use super::verdict::{Anomaly, Kind, Verdict};
use crate::history::{History, Outcome, Place, Read, Send, Value};
use std::collections::{BTreeMap, HashMap};

/// The log at the end, both ways round.
struct Log {
    at: BTreeMap<(Place, i64), Value>,
    /// Offsets in order.
    of: HashMap<Value, Vec<(Place, i64)>>,
    /// Of each place the last offset there is.
    end: BTreeMap<Place, i64>,
}

impl Log {
    fn new(history: &History) -> Log {
        let mut log = Log { at: BTreeMap::new(), of: HashMap::new(), end: BTreeMap::new() };
        for read in &history.last.reads {
            let end = log.end.entry(read.place).or_insert(read.offset);
            *end = (*end).max(read.offset);
            if let Some(value) = read.value {
                log.at.insert((read.place, read.offset), value);
                log.of.entry(value).or_default().push((read.place, read.offset));
            }
        }
        log.of.values_mut().for_each(|offsets| offsets.sort_unstable());
        log
    }
}

pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let log = Log::new(history);
    let sends: HashMap<Value, &Send> = history.sends.iter().map(|send| (send.value, send)).collect();
    count(history, &log, verdict);
    acked_is_there(history, &log, verdict);
    once(history, &log, verdict);
    in_order(history, &log, verdict);
    one_value_an_offset(history, &log, &sends, verdict);
    complete(history, verdict);
    patient_producers_go_on(history, verdict);
    read_was_sent(history, &sends, verdict);
}

/// Its errors mean that it cannot go on without a gap or a duplicate; every other trouble it waits out.
fn patient_producers_go_on(history: &History, verdict: &mut Verdict) {
    let failed = |send: &&Send| send.outcome == Outcome::Unknown && send.done_ms > 0;
    let patient = |send: &&Send| history.promise(send.value).is_some_and(|promise| promise.once);
    if let Some(send) = history.sends.iter().filter(patient).find(failed) {
        verdict.anomalies.push(Anomaly::new(Kind::ProducerFailed, describe(history, send)));
    }
}

fn describe(history: &History, send: &Send) -> String {
    let Send { value, place, sent_ms, done_ms, outcome } = send;
    let by = history.promise(*value).map_or("?", |promise| promise.name);
    format!("{value} ({by}) sent to {} at {sent_ms} ms, {outcome:?} at {done_ms} ms", history.place(*place))
}

fn count(history: &History, log: &Log, verdict: &mut Verdict) {
    let counts = &mut verdict.counts;
    for send in &history.sends {
        match send.outcome {
            Outcome::Acked(_) => counts.acked += 1,
            Outcome::Failed => counts.failed += 1,
            Outcome::Unknown => {
                counts.unknown += 1;
                counts.unknown_kept += usize::from(log.of.contains_key(&send.value));
            }
        }
    }
    counts.read = history.readers.iter().chain(&history.members).map(|reader| reader.reads.len()).sum();
}

fn acked_is_there(history: &History, log: &Log, verdict: &mut Verdict) {
    for send in &history.sends {
        let Outcome::Acked(offset) = send.outcome else { continue };
        let kept = history.promise(send.value).is_some_and(|promise| promise.kept);
        match log.of.get(&send.value) {
            None if !kept => verdict.counts.acks_one_lost += 1,
            None => {
                let end = log.end.get(&send.place).copied().unwrap_or(-1);
                let there = log.at.get(&(send.place, offset)).map(ToString::to_string);
                let kind = if end >= offset { Kind::LostWrite } else { Kind::UnseenWrite };
                let there = there.unwrap_or_else(|| "nothing".to_string());
                let told =
                    format!("{}; at offset {offset} is {there}, the log ends with {end}", describe(history, send));
                verdict.anomalies.push(Anomaly::new(kind, told));
            }
            Some(found) if kept && offset >= 0 && !found.contains(&(send.place, offset)) => {
                let told = format!("{}, but is at {:?}", describe(history, send), offsets(history, found));
                verdict.anomalies.push(Anomaly::new(Kind::InconsistentOffset, told));
            }
            Some(_) => {}
        }
    }
}

fn offsets(history: &History, found: &[(Place, i64)]) -> Vec<String> {
    found.iter().map(|(place, offset)| format!("{}@{offset}", history.place(*place))).collect()
}

fn once(history: &History, log: &Log, verdict: &mut Verdict) {
    let mut twice: Vec<_> = log.of.iter().filter(|(_, found)| found.len() > 1).collect();
    twice.sort_unstable();
    for (value, found) in twice {
        if history.promise(*value).is_some_and(|promise| promise.once) {
            let told = format!("{value} is at {:?}", offsets(history, found));
            verdict.anomalies.push(Anomaly::new(Kind::Duplicate, told));
        } else {
            verdict.counts.retried_twice += 1;
        }
    }
}

/// Only what was acked: a request whose outcome is unknown may still wait in a paused broker's socket, and be
/// appended after later ones. Who promises each value once promises the order of its sends; the others, whose requests
/// to an old and a new leader may overtake each other, only that what was acked stands before what was sent later.
fn in_order(history: &History, log: &Log, verdict: &mut Verdict) {
    let mut acked: BTreeMap<(u16, Place), Vec<(i64, &Send)>> = BTreeMap::new();
    for send in history.sends.iter().filter(|send| matches!(send.outcome, Outcome::Acked(_))) {
        if let Some((_, offset)) = log.of.get(&send.value).and_then(|found| found.first()) {
            acked.entry((send.value.producer(), send.place)).or_default().push((*offset, send));
        }
    }
    for sends in acked.values_mut() {
        sends.sort_by_key(|(_, send)| send.value);
        let mut by_ack = sends.clone();
        let in_order = sends.first().and_then(|(_, send)| history.promise(send.value)).is_some_and(|by| by.once);
        if !in_order {
            by_ack.sort_by_key(|(_, send)| send.done_ms);
        }
        let (mut before, mut highest) = (by_ack.into_iter().peekable(), None::<(i64, &Send)>);
        for (offset, send) in sends.iter() {
            let is_before = |(_, other): &(i64, &Send)| match in_order {
                true => other.value < send.value,
                false => other.done_ms < send.sent_ms,
            };
            while let Some(other) = before.next_if(is_before) {
                highest = highest.filter(|(at, _)| *at > other.0).or(Some(other));
            }
            if let Some((at, earlier)) = highest.filter(|(at, _)| at > offset) {
                let (first, second) = (describe(history, earlier), describe(history, send));
                let told = format!("{first} is at {at}; sent after it, {second} is at {offset}");
                verdict.anomalies.push(Anomaly::new(Kind::NonMonotonicSend, told));
            }
        }
    }
}

/// Of all who ever saw an offset (readers, acks of acks=all, the end) none saw another value.
fn one_value_an_offset(history: &History, log: &Log, sends: &HashMap<Value, &Send>, verdict: &mut Verdict) {
    let mut seen: HashMap<(Place, i64), (Value, String)> = HashMap::new();
    for (&(place, offset), value) in &log.at {
        seen.insert((place, offset), (*value, "the log at the end".to_string()));
    }
    for reader in history.readers.iter().chain(&history.members) {
        let mut told_of: Vec<Place> = Vec::new();
        for read in &reader.reads {
            let Some(value) = read.value else { continue };
            let place = history.place(read.place);
            let at = (read.place, read.offset);
            let high_watermark = history.high_watermarks.get(&read.place).copied().unwrap_or(i64::MAX);
            let who = || format!("{} at {} ms", reader.name, read.at_ms);
            if told_of.contains(&read.place) {
                continue;
            }
            if read.offset >= high_watermark {
                told_of.push(read.place);
                let sent = sends.get(&value).map_or_else(|| value.to_string(), |send| describe(history, send));
                let told = format!(
                    "{} read {place}@{}: {sent}; the high watermark at the end is {high_watermark}",
                    who(),
                    read.offset
                );
                verdict.anomalies.push(Anomaly::new(Kind::AboveHighWatermark, told));
            }
            match seen.get(&at) {
                Some((other, by)) if *other != value => {
                    // One divergence shows in every offset after it.
                    told_of.push(read.place);
                    let told = format!("{place}@{} is {value} for {}, and {other} for {by}", read.offset, who());
                    verdict.anomalies.push(Anomaly::new(Kind::InconsistentOffset, told));
                }
                Some(_) => {}
                None => drop(seen.insert(at, (value, who()))),
            }
        }
    }
}

/// The last read has every offset from the first it saw up to the high watermark.
fn complete(history: &History, verdict: &mut Verdict) {
    let mut next: BTreeMap<Place, i64> = BTreeMap::new();
    let mut last: Vec<&Read> = history.last.reads.iter().collect();
    last.sort_by_key(|read| (read.place, read.offset));
    for read in last {
        let expected = next.entry(read.place).or_insert(0);
        if *expected < read.offset {
            let told = format!("{}: nothing from {expected} to {}", history.place(read.place), read.offset - 1);
            verdict.anomalies.push(Anomaly::new(Kind::Unreadable, told));
        }
        *expected = read.offset + 1;
    }
    for (place, high_watermark) in &history.high_watermarks {
        let end = next.get(place).copied().unwrap_or(0);
        if end < *high_watermark {
            let told = format!("{}: nothing from {end} to {}", history.place(*place), high_watermark - 1);
            verdict.anomalies.push(Anomaly::new(Kind::Unreadable, told));
        }
    }
}

fn read_was_sent(history: &History, sends: &HashMap<Value, &Send>, verdict: &mut Verdict) {
    for reader in history.readers.iter().chain(&history.members).chain([&history.last]) {
        for read in &reader.reads {
            let at = format!("{} read {}@{}", reader.name, history.place(read.place), read.offset);
            match read.value {
                None => verdict.anomalies.push(Anomaly::new(Kind::Corrupt, at)),
                Some(value) => match sends.get(&value) {
                    Some(send) if send.place == read.place && send.outcome != Outcome::Failed => {}
                    Some(send) => {
                        let told = format!("{at}: {}", describe(history, send));
                        verdict.anomalies.push(Anomaly::new(Kind::Phantom, told));
                    }
                    None => {
                        let told = format!("{at}: {value}, which nobody sent");
                        verdict.anomalies.push(Anomaly::new(Kind::Phantom, told));
                    }
                },
            }
        }
    }
}
