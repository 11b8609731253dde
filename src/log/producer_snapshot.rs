//! Producer state in a file: `<offset>.snapshot` holds what the log below that offset leads to.
//!
//! Version byte, CRC-32C of what follows, count, then each producer. A torn or stale file fails its CRC and an older
//! one is used; without any the state is rebuilt from the log's first batch.

use super::producers::{BATCHES_REMEMBERED, PRODUCERS_MAX, Producer, Producers, SentBatch};
use crate::ids::*;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;
const BATCH_BYTES: usize = 24;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the producer snapshot is damaged: {0}")]
pub(super) struct DamagedSnapshot(&'static str);

pub(super) fn encode(producers: &Producers) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + 4 + producers.len() * (28 + BATCH_BYTES));
    bytes.push(VERSION);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(producers.len() as u32).to_be_bytes());
    // Sorted, so that the same state gives the same bytes.
    let mut sorted: Vec<_> = producers.iter().collect();
    sorted.sort_unstable_by_key(|(id, _)| *id);
    for (id, producer) in sorted {
        bytes.extend_from_slice(&id.0.to_be_bytes());
        bytes.extend_from_slice(&producer.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&producer.seen_ms.to_be_bytes());
        bytes.extend_from_slice(&producer.open_transaction.map_or(-1, |o| o.0).to_be_bytes());
        bytes.push(producer.batches().len() as u8);
        for batch in producer.batches() {
            bytes.extend_from_slice(&batch.first_sequence.to_be_bytes());
            bytes.extend_from_slice(&batch.last_sequence.to_be_bytes());
            bytes.extend_from_slice(&batch.base_offset.0.to_be_bytes());
            bytes.extend_from_slice(&batch.last_offset.0.to_be_bytes());
        }
    }
    let crc = checksum(&bytes[HEAD_BYTES..]);
    bytes[1..HEAD_BYTES].copy_from_slice(&crc.to_be_bytes());
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Producers, DamagedSnapshot> {
    let mut cursor = Cursor(bytes);
    if cursor.take::<1>()? != [VERSION] {
        return Err(DamagedSnapshot("unknown version"));
    }
    if u32::from_be_bytes(cursor.take()?) != checksum(cursor.0) {
        return Err(DamagedSnapshot("the CRC does not match"));
    }
    let count = u32::from_be_bytes(cursor.take()?);
    // More than the bound can only be open transactions.
    if count as usize > 2 * PRODUCERS_MAX {
        return Err(DamagedSnapshot("too many producers"));
    }
    let mut producers = Producers::default();
    for _ in 0..count {
        let id = ProducerId(i64::from_be_bytes(cursor.take()?));
        let epoch = ProducerEpoch(i16::from_be_bytes(cursor.take()?));
        let mut producer = Producer::new(epoch, i64::from_be_bytes(cursor.take()?));
        let open = i64::from_be_bytes(cursor.take()?);
        producer.open_transaction = (open >= 0).then_some(Offset(open));
        let [batches] = cursor.take::<1>()?;
        if usize::from(batches) > BATCHES_REMEMBERED {
            return Err(DamagedSnapshot("too many batches"));
        }
        for _ in 0..batches {
            producer.push(SentBatch {
                first_sequence: i32::from_be_bytes(cursor.take()?),
                last_sequence: i32::from_be_bytes(cursor.take()?),
                base_offset: Offset(i64::from_be_bytes(cursor.take()?)),
                last_offset: Offset(i64::from_be_bytes(cursor.take()?)),
            });
        }
        producers.insert(id, producer);
    }
    if cursor.0.is_empty() { Ok(producers) } else { Err(DamagedSnapshot("bytes are left over")) }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DamagedSnapshot> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(DamagedSnapshot("it is cut off"))?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Producers {
        let mut producers = Producers::default();
        for id in 0..20 {
            let mut producer = Producer::new(ProducerEpoch(id as i16), 1000 + id);
            producer.open_transaction = (id % 3 == 0).then_some(Offset(id));
            for n in 0..id as i32 {
                let offset = Offset(i64::from(n));
                let batch =
                    SentBatch { first_sequence: n, last_sequence: n + 1, base_offset: offset, last_offset: offset + 1 };
                producer.push(batch);
            }
            producers.insert(ProducerId(id), producer);
        }
        producers
    }

    #[test]
    fn round_trip() {
        for producers in [Producers::default(), sample()] {
            assert_eq!(decode(&encode(&producers)).unwrap(), producers);
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_cut_is_seen(at in any::<prop::sample::Index>(), bit in 0u32..8) {
            let good = encode(&sample());
            let mut bad = good.clone();
            bad[at.index(good.len())] ^= 1u8 << bit;
            prop_assert!(decode(&bad).is_err());
            prop_assert!(decode(&good[..at.index(good.len())]).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }
}
