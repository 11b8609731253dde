//! What the clients did and saw: the material the checker judges. Times are milliseconds since the run began.
//!
//! A value names one record: which producer sent it, and as its how-manyth. The record's payload is derived from the
//! value, so that a payload that was damaged on its way is noticed by whoever reads it.

use crate::chance::mix;
use std::collections::BTreeMap;

/// Index into [`History::places`]: one partition of one topic.
pub type Place = u16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u64);

const SEQUENCE_BITS: u32 = 40;
/// Value and padding: payloads are this long at least and at most.
const PAYLOAD_BYTES: (u64, u64) = (16, PAYLOAD_BYTES_MAX);
pub const PAYLOAD_BYTES_MAX: u64 = 400;

impl Value {
    pub fn new(producer: u16, sequence: u64) -> Value {
        Value((u64::from(producer) << SEQUENCE_BITS) | sequence)
    }

    pub fn producer(self) -> u16 {
        u16::try_from(self.0 >> SEQUENCE_BITS).unwrap_or(u16::MAX)
    }

    pub fn sequence(self) -> u64 {
        self.0 & ((1 << SEQUENCE_BITS) - 1)
    }

    pub fn payload(self) -> Vec<u8> {
        let length = PAYLOAD_BYTES.0 + mix(self.0) % (PAYLOAD_BYTES.1 - PAYLOAD_BYTES.0);
        let length = usize::try_from(length).expect("a few hundred");
        let mut bytes = self.0.to_be_bytes().to_vec();
        let mut word = self.0;
        while bytes.len() < length {
            word = mix(word.wrapping_add(1));
            bytes.extend(word.to_be_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// `None` if these are not exactly the bytes that were sent.
    pub fn of_payload(bytes: &[u8]) -> Option<Value> {
        let value = Value(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?));
        (value.payload() == bytes).then_some(value)
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p{}/{}", self.producer(), self.sequence())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceName {
    pub topic: String,
    pub partition: i32,
    /// Acked without fdatasync: the power of all nodes at once may take it.
    pub page_cache: bool,
}

impl std::fmt::Display for PlaceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    pub name: &'static str,
    /// Each value appears once: idempotent, and patient. (When a message times out librdkafka begins with a new
    /// producer id, and sends under it what it may have sent under the old one. Those batches are each there once, as
    /// [`crate::logs::broken_sequences`] checks; their values may not be.)
    pub once: bool,
    /// acks=all: an acked record stays.
    pub kept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer, or an error that does not tell whether the record was appended.
    Unknown,
    /// Never left the client.
    Failed,
    /// Acked, at this offset; below zero where the broker told none.
    Acked(i64),
}

/// One record sent. Sequences of a producer grow in the order of its sends.
#[derive(Clone, Copy, Debug)]
pub struct Send {
    pub value: Value,
    pub place: Place,
    pub sent_ms: u32,
    /// When the outcome was known; 0 while it is not.
    pub done_ms: u32,
    pub outcome: Outcome,
}

/// One record read. `None`: its payload is not one that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub place: Place,
    pub offset: i64,
    pub value: Option<Value>,
    pub at_ms: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Reader {
    pub name: String,
    /// In the order of polls.
    pub reads: Vec<Read>,
    /// The client said that its position is not in the log: (when, what).
    pub resets: Vec<(u32, String)>,
}

/// A member's commit of one place.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// Index into [`History::members`].
    pub member: usize,
    pub place: Place,
    pub offset: i64,
    pub asked_ms: u32,
    /// When it was answered without an error; `None`: it counts or not.
    pub done_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Never, as far as is known.
    Open,
    /// Given up, or left.
    Revoked,
    /// The member was told that the group went on without it.
    Lost,
}

/// A member's time with one place, by what it was told itself.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    /// Index into [`History::members`].
    pub member: usize,
    pub place: Place,
    pub from_ms: u32,
    /// Of an open one: when the member last looked.
    pub until_ms: u32,
    pub end: End,
    /// The offset of the first record.
    pub began: Option<i64>,
}

/// A member that did not poll, from the poll before to the end of the poll after.
#[derive(Clone, Copy, Debug)]
pub struct Hang {
    /// Index into [`History::members`].
    pub member: usize,
    /// It was told to; else a commit that nobody answered held it up.
    pub is_meant: bool,
    pub from_ms: u32,
    pub until_ms: u32,
}

/// All of one run.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub places: Vec<PlaceName>,
    /// By producer number.
    pub promises: Vec<Promise>,
    pub sends: Vec<Send>,
    /// Read by assignment while the faults went on: each reads every place from its beginning, and never seeks.
    pub readers: Vec<Reader>,
    /// The members of the group.
    pub members: Vec<Reader>,
    pub commits: Vec<Commit>,
    pub ownerships: Vec<Ownership>,
    pub hangs: Vec<Hang>,
    /// The group's committed offsets at the end.
    pub committed: BTreeMap<Place, i64>,
    /// Everything there is at the end, by offset.
    pub last: Reader,
    /// The high watermarks at the end, as told by the leaders.
    pub high_watermarks: BTreeMap<Place, i64>,
}

impl History {
    pub fn place(&self, place: Place) -> &PlaceName {
        &self.places[usize::from(place)]
    }

    pub fn promise(&self, value: Value) -> Option<&Promise> {
        self.promises.get(usize::from(value.producer()))
    }

    /// The power of all nodes was cut at once: page-cache topics may have lost what they acked, and were deleted.
    pub fn forget_page_cache(&mut self) {
        let History { places, sends, readers, members, commits, ownerships, .. } = self;
        let kept = |place: Place| !places[usize::from(place)].page_cache;
        sends.retain(|send| kept(send.place));
        for reader in readers.iter_mut().chain(members) {
            reader.reads.retain(|read| kept(read.place));
            // Which place they were of is not told.
            reader.resets.clear();
        }
        commits.retain(|commit| kept(commit.place));
        ownerships.retain(|ownership| kept(ownership.place));
        self.committed.retain(|place, _| kept(*place));
    }

    /// One line per operation, in the order of their beginnings per client.
    pub fn write(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        writeln!(out, "# send: sent_ms done_ms value place outcome")?;
        for send in &self.sends {
            let outcome = match send.outcome {
                Outcome::Unknown => "unknown".to_string(),
                Outcome::Failed => "failed".to_string(),
                Outcome::Acked(offset) => format!("acked {offset}"),
            };
            let (place, value) = (self.place(send.place), send.value);
            writeln!(out, "send {} {} {value} {place} {outcome}", send.sent_ms, send.done_ms)?;
        }
        writeln!(out, "# read: reader at_ms place offset value")?;
        for reader in self.readers.iter().chain(&self.members).chain([&self.last]) {
            for read in &reader.reads {
                let value = read.value.map_or_else(|| "corrupt".to_string(), |value| value.to_string());
                let place = self.place(read.place);
                writeln!(out, "read {} {} {place} {} {value}", reader.name, read.at_ms, read.offset)?;
            }
            for (at, what) in &reader.resets {
                writeln!(out, "reset {} {at} {what}", reader.name)?;
            }
        }
        for commit in &self.commits {
            let done = commit.done_ms.map_or_else(|| "refused".to_string(), |ms| ms.to_string());
            let (member, place) = (&self.members[commit.member].name, self.place(commit.place));
            writeln!(out, "commit {member} {} {done} {place} {}", commit.asked_ms, commit.offset)?;
        }
        for Ownership { member, place, from_ms, until_ms, end, began } in &self.ownerships {
            let (member, place) = (&self.members[*member].name, self.place(*place));
            writeln!(out, "owned {member} {from_ms} {until_ms} {place} {end:?} {began:?}")?;
        }
        for Hang { member, is_meant, from_ms, until_ms } in &self.hangs {
            let why = if *is_meant { "told" } else { "held up" };
            writeln!(out, "hung {} {from_ms} {until_ms} {why}", self.members[*member].name)?;
        }
        for (place, offset) in &self.committed {
            writeln!(out, "committed {} {offset}", self.place(*place))?;
        }
        for (place, offset) in &self.high_watermarks {
            writeln!(out, "high-watermark {} {offset}", self.place(*place))?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_its_values_and_a_flipped_bit_is_noticed() {
        let value = Value::new(3, 12_345);
        assert_eq!((value.producer(), value.sequence(), value.to_string()), (3, 12_345, "p3/12345".into()));
        let mut payload = value.payload();
        assert_eq!(Value::of_payload(&payload), Some(value));
        let end = payload.len() - 1;
        payload[end] ^= 1;
        assert_eq!(Value::of_payload(&payload), None);
        assert_eq!(Value::of_payload(b"short"), None);
    }
}
