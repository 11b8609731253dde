//! Reading a segment whose end is not known: every batch's header, CRC and offsets, until the first that is not good.

use crate::ids::*;
use crate::platform::disk::File;
use crate::records::batch::{BatchHeader, HEADER_BYTES, compute_crc};
use std::io;

/// Read at once, and the most that one batch may hold in memory: a larger one is checked piece by piece, since its
/// length is only a claim.
const BLOCK_BYTES: usize = 1024 * 1024;
/// The CRC covers a batch from its attributes on.
const CRC_COVERS_FROM: u64 = 21;
/// Where a batch's magic stands in its header.
const MAGIC_AT: usize = 16;
/// How far behind damage a good batch is looked for, and how many that look like one have their CRC checked.
const SEARCHED_BYTES_MAX: u64 = 64 * 1024 * 1024;
const CANDIDATES_MAX: usize = 1_000;

/// What a scan found at its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ScanEnd {
    /// Where the good batches end.
    pub position: u64,
    pub next_offset: Offset,
    /// Why it ended before the file did, if what follows is not the zeros of a preallocation.
    pub damage: Option<String>,
    /// A good batch of later offsets lies behind the damage: bytes that were whole once changed, it is not merely a
    /// write that was cut short.
    pub inside: bool,
}

/// Scans a file from its start, which must hold `first`, and shows each good batch with its position.
///
/// The leader epoch lies outside of the CRC, and only its order says that it is wrong: where an epoch falls, either it or
/// the one before it is. `newest_epoch`: of the batch before; `successor`: of the first one of the next file, if there is.
pub(super) fn scan(
    file: &File,
    first: Offset,
    newest_epoch: LeaderEpoch,
    successor: Option<LeaderEpoch>,
    mut good: impl FnMut(&BatchHeader, u64) -> io::Result<()>,
) -> io::Result<ScanEnd> {
    let length = file.len()?;
    let mut window = Window { file, length, bytes: Vec::new(), position: 0, sparing: false };
    let (mut position, mut next) = (0, first);
    // The newest batch waits for what its successor says of it. `epoch`: of the one before it.
    let (mut held, mut epoch, mut follows): (Option<Held>, _, _) = (None, newest_epoch, None);
    let damage = loop {
        if position == length {
            break None;
        }
        match check(&mut window, position, next, held.map_or(epoch, |(header, _)| header.leader_epoch))? {
            Ok(header) => {
                if let Some((before, at)) = held.replace((header, position)) {
                    good(&before, at)?;
                    epoch = before.leader_epoch;
                }
                position += header.size() as u64;
                next = header.end_offset();
            }
            Err(reason) => {
                // Good but for its epoch: no write that a crash cut short.
                let out_of_order = check(&mut window, position, next, LeaderEpoch::NONE)?.ok();
                follows = out_of_order.map(|header| header.leader_epoch);
                break if window.only_zeros_from(position)? { None } else { Some(reason) };
            }
        }
    };
    let is_whole = follows.is_some();
    let damage = match (held, follows.or(successor)) {
        (Some((header, at)), Some(follows)) if may_be_raised(&header, epoch, follows) => {
            (position, next) = (at, header.base_offset);
            Some(format!("leader epoch {} before {follows}", header.leader_epoch))
        }
        (Some((header, at)), _) => {
            good(&header, at)?;
            damage
        }
        (None, _) => damage,
    };
    let inside = damage.is_some() && (is_whole || good_batch_after(&mut window, position, next)?);
    Ok(ScanEnd { position, next_offset: next, damage, inside })
}

/// The epoch of a file's first batch, if that is good and of offset `first`.
pub(super) fn first_epoch(file: &File, first: Offset) -> io::Result<Option<LeaderEpoch>> {
    let mut window = Window { file, length: file.len()?, bytes: Vec::new(), position: 0, sparing: false };
    Ok(check(&mut window, 0, first, LeaderEpoch::NONE)?.ok().map(|header| header.leader_epoch))
}

/// A batch and its position.
type Held = (BatchHeader, u64);

/// Whether it may be the epoch of the newest batch that is wrong, and not that of its successor, which is `follows`: the
/// others are in order without it. Either may be then, and the lower one counts, so that nothing wrong is kept.
fn may_be_raised(newest: &BatchHeader, before: LeaderEpoch, follows: LeaderEpoch) -> bool {
    before <= follows && follows < newest.leader_epoch
}

/// Whether a whole batch of offsets above `next` lies behind `position`, wherever it begins.
fn good_batch_after(window: &mut Window<'_>, position: u64, next: Offset) -> io::Result<bool> {
    let length = window.length.min(position + SEARCHED_BYTES_MAX);
    let (mut at, mut tried) = (position + 1, 0);
    while at + HEADER_BYTES as u64 <= length && tried < CANDIDATES_MAX {
        let bytes = window.get(at, HEADER_BYTES)?;
        let looks = bytes.len() == HEADER_BYTES && bytes[MAGIC_AT] == 2;
        if looks && let Ok(header) = BatchHeader::parse(bytes) {
            let near = header.base_offset > next && header.base_offset - next <= i64::from(i32::MAX);
            if near && header.last_offset_delta >= 0 {
                tried += 1;
                if check(window, at, header.base_offset, LeaderEpoch::NONE)?.is_ok() {
                    return Ok(true);
                }
            }
        }
        at += 1;
    }
    Ok(false)
}

/// Checks the batch at `position`. The inner error says what is wrong with it.
pub(super) fn check(
    window: &mut Window<'_>,
    position: u64,
    next: Offset,
    epoch: LeaderEpoch,
) -> io::Result<Result<BatchHeader, String>> {
    let header = match BatchHeader::parse(window.get(position, HEADER_BYTES)?) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let size = header.size() as u64;
    if size > window.length - position {
        return Ok(Err(format!("a batch of {size} bytes reaches past the file's end")));
    }
    if header.base_offset != next || header.last_offset_delta < 0 {
        return Ok(Err(format!("a batch at offset {} where {next} belongs", header.base_offset)));
    }
    if header.leader_epoch < epoch {
        return Ok(Err(format!("leader epoch {} after {epoch}", header.leader_epoch)));
    }
    let crc = match usize::try_from(size) {
        Ok(size) if size <= BLOCK_BYTES => compute_crc(window.get(position, size)?),
        _ => window.crc(position + CRC_COVERS_FROM, position + size)?,
    };
    Ok(if crc == header.crc {
        Ok(header)
    } else {
        Err(format!("the CRC of the batch at offset {next} does not match"))
    })
}

/// A sliding view of the file.
pub(super) struct Window<'a> {
    file: &'a File,
    length: u64,
    bytes: Vec<u8>,
    position: u64,
    /// The page cache is left as it was.
    sparing: bool,
}

impl<'a> Window<'a> {
    /// Over the first `length` bytes, leaving the page cache as it is.
    pub fn sparing(file: &'a File, length: u64) -> Window<'a> {
        Window { file, length, bytes: Vec::new(), position: 0, sparing: true }
    }
}

impl Window<'_> {
    /// `size` bytes at `position`, fewer at the file's end. `size` is at most a block.
    pub fn get(&mut self, position: u64, size: usize) -> io::Result<&[u8]> {
        let size = size.min(usize::try_from(self.length - position).unwrap_or(usize::MAX));
        let inside = position >= self.position && position + size as u64 <= self.position + self.bytes.len() as u64;
        if !inside {
            // Never past the end that was given: what lies behind it may be on its way still.
            let wanted = usize::try_from(self.length - position).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
            self.bytes = match self.sparing {
                true => self.file.read_sparing_at(wanted, position)?,
                false => self.file.read_vec_at(wanted, position)?,
            };
            self.position = position;
        }
        let start = (position - self.position) as usize;
        Ok(&self.bytes[start..(start + size).min(self.bytes.len())])
    }

    fn crc(&mut self, from: u64, to: u64) -> io::Result<u32> {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        let mut position = from;
        while position < to {
            let size = (to - position).min(BLOCK_BYTES as u64) as usize;
            let block = self.get(position, size)?;
            if block.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            digest.update(block);
            position += block.len() as u64;
        }
        Ok(digest.finalize() as u32)
    }

    fn only_zeros_from(&mut self, mut position: u64) -> io::Result<bool> {
        while position < self.length {
            let block = self.get(position, BLOCK_BYTES)?;
            if block.is_empty() || block.iter().any(|b| *b != 0) {
                return Ok(false);
            }
            position += block.len() as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::Batch;

    fn scan_bytes(bytes: &[u8]) -> (Vec<i64>, ScanEnd) {
        let folder = tempfile::tempdir().unwrap();
        let file = File::open_or_create(&folder.path().join("f")).unwrap();
        file.write_at(bytes, 0).unwrap();
        let mut seen = Vec::new();
        let end = scan(&file, Offset(10), LeaderEpoch(1), None, |header, _| {
            seen.push(header.base_offset.0);
            Ok(())
        });
        (seen, end.unwrap())
    }

    #[test]
    fn ends_at_the_first_bad_batch() {
        let first = Batch::at(10).epoch(1).records(2).bytes();
        let good = |second: &[u8]| {
            let (seen, end) = scan_bytes(&[&first, second].concat());
            assert_eq!(end.position as usize, if seen.len() == 2 { first.len() + second.len() } else { first.len() });
            (seen.len() == 2, end.damage)
        };
        assert_eq!(good(&Batch::at(12).epoch(2).bytes()), (true, None));
        assert!(good(&Batch::at(13).epoch(2).bytes()).1.unwrap().contains("where 12 belongs"));
        assert!(good(&Batch::at(12).epoch(0).bytes()).1.unwrap().contains("leader epoch 0 after 1"));
        assert_eq!(good(&[0; 100]), (false, None), "zeros are the end");
        let mut flipped = Batch::at(12).epoch(1).bytes();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(good(&flipped).1.unwrap().contains("CRC"));
    }

    /// Epochs of batches of one record from offset 10 on; where the scan ends, and whether it says that more was there.
    fn scan_epochs(epochs: &[i32]) -> (i64, bool) {
        let batches = epochs.iter().zip(10..).flat_map(|(epoch, at)| Batch::at(at).epoch(*epoch).bytes());
        let (seen, end) = scan_bytes(&batches.collect::<Vec<u8>>());
        assert_eq!(seen, (10..end.next_offset.0).collect::<Vec<_>>(), "what is shown is what is kept: {epochs:?}");
        assert_eq!(end.damage.is_some(), end.next_offset.0 < 10 + epochs.len() as i64, "{epochs:?}");
        (end.next_offset.0, end.inside)
    }

    #[test]
    fn a_damaged_epoch_is_told_from_those_around_it() {
        assert_eq!(scan_epochs(&[1, 2, 2, 5, 5, 6]), (16, false));
        assert_eq!(scan_epochs(&[1, 1, 9, 1, 1]), (12, true), "raised, in the middle");
        assert_eq!(scan_epochs(&[9, 1, 1]), (10, true), "raised, the first");
        assert_eq!(scan_epochs(&[1, 1, 9, 1]), (12, true), "raised, the last but one");
        assert_eq!(scan_epochs(&[1, 1, 9]), (13, false), "raised, the last: only who leads can tell");
        assert_eq!(scan_epochs(&[1, 9, 3, 3]), (11, true), "raised, the last of its epoch");
        assert_eq!(
            scan_epochs(&[1, 5, 4, 5, 5]),
            (11, true),
            "raised, the first of its epoch, which the next one follows"
        );
        assert_eq!(scan_epochs(&[2, 5, 5, 3, 5]), (13, true), "lowered, in a run of its epoch");
        assert_eq!(scan_epochs(&[2, 5, 3, 5, 5]), (11, true), "lowered, the second of its epoch: either may be");
        assert_eq!(scan_epochs(&[2, 5, 5, 1]), (13, true), "lowered, the last: whole, so no write that was cut short");
    }

    #[test]
    fn the_next_segment_tells_of_the_last_batchs_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::open_or_create(&folder.path().join("f")).unwrap();
        file.write_at(&[Batch::at(10).epoch(1).bytes(), Batch::at(11).epoch(9).bytes()].concat(), 0).unwrap();
        for (successor, expected) in [(None, 12), (Some(9), 12), (Some(10), 12), (Some(1), 11), (Some(8), 11)] {
            let end = scan(&file, Offset(10), LeaderEpoch(1), successor.map(LeaderEpoch), |_, _| Ok(())).unwrap();
            assert_eq!((end.next_offset, end.damage.is_some()), (Offset(expected), expected == 11), "{successor:?}");
        }
        assert_eq!(first_epoch(&file, Offset(10)).unwrap(), Some(LeaderEpoch(1)));
        assert_eq!(first_epoch(&file, Offset(11)).unwrap(), None, "that is not its place");
    }

    #[test]
    fn a_batch_larger_than_a_block_is_checked_in_pieces() {
        let large = Batch::at(10).epoch(1).value(vec![7; 3 * BLOCK_BYTES + 5]).bytes();
        assert_eq!(scan_bytes(&large).1.next_offset, Offset(11));
        let mut flipped = large.clone();
        flipped[2 * BLOCK_BYTES] ^= 1;
        assert_eq!(scan_bytes(&flipped).1.position, 0);
        // A length that is only a claim.
        let mut claims = Batch::at(10).epoch(1).bytes();
        claims[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(scan_bytes(&claims).1.position, 0);
    }
}
