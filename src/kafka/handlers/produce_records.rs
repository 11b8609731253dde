//! What happens to a producer's bytes before they are appended.

use crate::kafka::errors::{self, Code};
use crate::kafka::topic_rules::ProduceRules;
use crate::records::{Compression, RecordError, ValidBatches, validate};
use bytes::Bytes;

/// How far the batches of one partition may grow when they must be decompressed.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;
/// zstd came with this version (KIP-110); older consumers of the topic would not know it either.
const WITH_ZSTD: i16 = 7;

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("zstd needs Produce version 7 or later")]
    Zstd,
    #[error("transactions are not served")]
    Transactional,
    #[error("{0} batches where there must be one")]
    Batches(usize),
    #[error("the batch has {size} bytes, the topic takes {limit} at most")]
    TooLarge { size: usize, limit: usize },
}

impl Refusal {
    pub fn code(&self) -> Code {
        match self {
            Refusal::Record(error) => errors::record(error),
            Refusal::Zstd => Code::UnsupportedCompressionType,
            Refusal::Transactional => Code::InvalidTxnState,
            Refusal::Batches(_) => Code::InvalidRecord,
            Refusal::TooLarge { .. } => Code::MessageTooLarge,
        }
    }
}

/// Checks the bytes, and makes them anew only where the topic's rules ask for it.
pub fn prepare(version: i16, bytes: Option<Bytes>, rules: ProduceRules) -> Result<ValidBatches, Refusal> {
    let batches = ValidBatches::from_client(bytes.unwrap_or_default())?;
    // One append answers with one offset, and a producer's sequence is judged by its newest batch.
    if batches.batches.len() != 1 {
        return Err(Refusal::Batches(batches.batches.len()));
    }
    // Before anything is decompressed; what is made anew is checked once more by the log.
    let (size, limit) = (batches.largest_batch(), rules.batch_bytes_max);
    if size > limit {
        return Err(Refusal::TooLarge { size, limit });
    }
    for header in batches.headers() {
        if header.is_transactional() {
            return Err(Refusal::Transactional);
        }
        if version < WITH_ZSTD && header.compression()? == Compression::Zstd {
            return Err(Refusal::Zstd);
        }
    }
    if rules.keys_required {
        validate::check_keys(&batches, DECOMPRESSED_BYTES_MAX)?;
    }
    match rules.compression {
        Some(codec) => Ok(batches.recompressed(codec, DECOMPRESSED_BYTES_MAX)?),
        None => Ok(batches),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use crate::records::BatchBuilder;

    const PLAIN: ProduceRules = ProduceRules { keys_required: false, compression: None, batch_bytes_max: 1 << 20 };

    fn batch(codec: Compression, key: Option<&[u8]>) -> Bytes {
        let mut builder = BatchBuilder::new().compression(codec);
        builder.append(1, Some(b"k"), Some(b"v"), &[]);
        builder.append(2, key, Some(b"v"), &[]);
        builder.build().unwrap()
    }

    #[test]
    fn bytes_stay_as_they_came_unless_a_rule_asks_for_more() {
        let bytes = batch(Compression::Lz4, None);
        assert_eq!(prepare(3, Some(bytes.clone()), PLAIN).unwrap().bytes, bytes);
        let keyed = ProduceRules { keys_required: true, ..PLAIN };
        assert_eq!(prepare(3, Some(bytes), keyed).unwrap_err().code(), Code::InvalidRecord);
        let bytes = batch(Compression::Lz4, Some(b"k"));
        assert_eq!(prepare(3, Some(bytes.clone()), keyed).unwrap().bytes, bytes);
        let recoded = ProduceRules { compression: Some(Compression::Gzip), ..PLAIN };
        let after = prepare(3, Some(bytes), recoded).unwrap();
        assert_eq!(after.batches[0].header.compression(), Ok(Compression::Gzip));
    }

    #[test]
    fn one_batch_is_taken_and_not_two() {
        let two = [batch(Compression::None, None), batch(Compression::None, None)].concat();
        assert_eq!(prepare(9, Some(Bytes::from(two)), PLAIN).unwrap_err().code(), Code::InvalidRecord);
    }

    #[test]
    fn a_batch_above_the_limit_is_not_decompressed() {
        let bytes = batch(Compression::Gzip, Some(b"k"));
        let rules = |batch_bytes_max| ProduceRules {
            keys_required: true,
            compression: Some(Compression::None),
            batch_bytes_max,
        };
        let refused = prepare(9, Some(bytes.clone()), rules(bytes.len() - 1)).unwrap_err();
        assert!(matches!(refused, Refusal::TooLarge { .. }) && refused.code() == Code::MessageTooLarge);
        assert!(prepare(9, Some(bytes.clone()), rules(bytes.len())).is_ok());
    }

    #[test]
    fn zstd_is_refused_from_clients_that_may_not_know_it() {
        let bytes = batch(Compression::Zstd, None);
        assert_eq!(prepare(6, Some(bytes.clone()), PLAIN).unwrap_err().code().code(), 76);
        assert!(prepare(7, Some(bytes), PLAIN).is_ok());
    }

    #[test]
    fn nothing_damage_and_transactions_are_refused() {
        assert_eq!(prepare(9, None, PLAIN).unwrap_err().code(), Code::InvalidRecord);
        let mut damaged = batch(Compression::None, None).to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(prepare(9, Some(Bytes::from(damaged)), PLAIN).unwrap_err().code(), Code::CorruptMessage);
        let mut builder = BatchBuilder::new().producer(ProducerId(1), ProducerEpoch(0), 0).transactional();
        builder.append(1, None, None, &[]);
        assert_eq!(prepare(9, Some(builder.build().unwrap()), PLAIN).unwrap_err().code().code(), 48);
    }
}
