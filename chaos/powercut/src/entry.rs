//! The journal's two kinds of files, and how their entries are written. What stands after the first entry that isn't
//! whole was being written at the kill: the operation that it announces has not happened.
//!
//! ```text
//! data-<dev>-<ino>   base, flags │ entry …        pre-images of one file; entries before `base` are durable
//! names-<dev>-<ino>  entry …                      what names of one folder stood for before
//! ```

use crate::sys::Key;

const MAGIC: u32 = 0x5443_5750;
/// Of a data file: where its entries begin.
pub const DATA_START: u64 = 16;
/// A flag of a data file: a sync of it failed, and none will make anything durable again.
pub const POISONED: u64 = 1;
const HEADER: usize = 48;

/// The last entry of an operation.
const LAST: u32 = 1;
/// Of an operation that makes the file shorter.
const SHRINK: u32 = 2;

/// What a range of a file held before an operation, and how long the file was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub is_last: bool,
    pub is_shrink: bool,
    pub offset: u64,
    pub length: u64,
    pub old_size: u64,
    /// From `offset` on; zeros follow up to the range's or the old file's end.
    pub image: Vec<u8>,
}

/// What a name stood for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub key: Key,
    pub is_dir: bool,
}

/// Names of one folder that change in one step, and what they stood for before.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Names {
    pub changes: Vec<(Vec<u8>, Option<Node>)>,
}

/// Only to find an entry that a kill cut short: eight bytes at a time.
fn checksum(parts: [&[u8]; 2]) -> u32 {
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
    (sum ^ (sum >> 32)) as u32
}

/// magic, flags, checksum, body length, four numbers.
fn header(flags: u32, numbers: [u64; 4], body: &[u8]) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&flags.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::try_from(body.len()).expect("bodies are far below 4 GiB").to_le_bytes());
    for (at, number) in numbers.iter().enumerate() {
        bytes[16 + 8 * at..24 + 8 * at].copy_from_slice(&number.to_le_bytes());
    }
    let sum = checksum([&bytes, body]);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Flags, numbers, body, and how many bytes they took.
fn split(bytes: &[u8]) -> Option<(u32, [u64; 4], &[u8], usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let end = HEADER.checked_add(word(12)? as usize)?;
    let body = bytes.get(HEADER..end)?;
    let mut zeroed: [u8; HEADER] = bytes[..HEADER].try_into().ok()?;
    zeroed[8..12].fill(0);
    if word(0)? != MAGIC || word(8)? != checksum([&zeroed, body]) {
        return None;
    }
    Some((word(4)?, [number(16)?, number(24)?, number(32)?, number(40)?], body, end))
}

impl Data {
    pub fn encode(&self) -> Vec<u8> {
        let flags = if self.is_last { LAST } else { 0 } | if self.is_shrink { SHRINK } else { 0 };
        let mut bytes = header(flags, [self.offset, self.length, self.old_size, 0], &self.image).to_vec();
        bytes.extend_from_slice(&self.image);
        bytes
    }

    /// The entry at the front, and how many bytes it took; `None` at the end of what is whole.
    pub fn decode(bytes: &[u8]) -> Option<(Data, usize)> {
        let (flags, [offset, length, old_size, _], body, taken) = split(bytes)?;
        let (is_last, is_shrink) = (flags & LAST != 0, flags & SHRINK != 0);
        Some((Data { is_last, is_shrink, offset, length, old_size, image: body.to_vec() }, taken))
    }
}

impl Names {
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, old) in &self.changes {
            let (dev, ino) = old.map_or((0, 0), |node| node.key);
            let kind = old.map_or(0u8, |node| if node.is_dir { 2 } else { 1 });
            body.extend_from_slice(&dev.to_le_bytes());
            body.extend_from_slice(&ino.to_le_bytes());
            body.push(kind);
            body.extend_from_slice(name);
            // No name holds a zero byte.
            body.push(0);
        }
        let mut bytes = header(0, [0; 4], &body).to_vec();
        bytes.append(&mut body);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<(Names, usize)> {
        let (_, _, mut body, taken) = split(bytes)?;
        let mut changes = Vec::new();
        while !body.is_empty() {
            let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
            let key = (number(0)?, number(8)?);
            let old = match body.get(16)? {
                0 => None,
                kind => Some(Node { key, is_dir: *kind == 2 }),
            };
            let rest = &body[17..];
            let end = rest.iter().position(|byte| *byte == 0)?;
            changes.push((rest[..end].to_vec(), old));
            body = &rest[end + 1..];
        }
        Some((Names { changes }, taken))
    }
}

/// Every whole entry, and where they end.
pub fn all<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Option<(T, usize)>) -> (Vec<T>, usize) {
    let (mut entries, mut at) = (Vec::new(), 0);
    while let Some((entry, taken)) = decode(&bytes[at..]) {
        entries.push(entry);
        at += taken;
    }
    (entries, at)
}

/// The name of a journal file of `kind`.
pub fn file_name(kind: &str, key: Key) -> String {
    format!("{kind}-{:x}-{:x}", key.0, key.1)
}

/// The other way round.
pub fn parse_name(kind: &str, name: &str) -> Option<Key> {
    let (dev, ino) = name.strip_prefix(kind)?.strip_prefix('-')?.split_once('-')?;
    Some((u64::from_str_radix(dev, 16).ok()?, u64::from_str_radix(ino, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_a_cut_one_does_not() {
        let data =
            Data { is_last: true, is_shrink: false, offset: 7, length: 9, old_size: 12, image: b"hello".to_vec() };
        let node = Node { key: (1, 2), is_dir: true };
        let names = Names { changes: vec![(b"a".to_vec(), None), (b"b c".to_vec(), Some(node))] };
        let (one, two) = (data.encode(), names.encode());
        assert_eq!(Data::decode(&one).unwrap(), (data.clone(), one.len()));
        assert_eq!(Names::decode(&two).unwrap(), (names, two.len()));
        let mut both = [one.clone(), one.clone()].concat();
        assert_eq!(all(&both, Data::decode), (vec![data.clone(), data.clone()], both.len()));
        both.pop();
        assert_eq!(all(&both, Data::decode), (vec![data], one.len()));
        for at in 0..one.len() {
            let mut damaged = one.clone();
            damaged[at] ^= 1;
            assert!(Data::decode(&damaged).is_none(), "byte {at}");
        }
    }

    #[test]
    fn names_of_journal_files() {
        assert_eq!(parse_name("data", &file_name("data", (0xfe00, 77))), Some((0xfe00, 77)));
        assert_eq!(parse_name("names", &file_name("data", (1, 2))), None);
        assert_eq!(parse_name("data", "data-1-2.new"), None);
    }
}
