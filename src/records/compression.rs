//! The four codecs, with decompression bounded by the caller: what a stream claims of its size is never allocated.

use super::validate::RecordError;
use std::io::{self, Read, Write};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub const ALL: [Compression; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of a batch's attributes (their three lowest bits).
    pub fn from_bits(bits: u8) -> Option<Self> {
        Self::ALL.get(usize::from(bits)).copied()
    }

    pub fn bits(self) -> u8 {
        self as u8
    }

    /// Kafka's name, as in `compression.type`; no compression is called "uncompressed" there and "none" in clients.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" | "uncompressed" => Some(Self::None),
            "gzip" => Some(Self::Gzip),
            "snappy" => Some(Self::Snappy),
            "lz4" => Some(Self::Lz4),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What `xerial`'s snappy streams begin with, which Java clients write and expect; two version numbers follow.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_CHUNK_BYTES: usize = 32 * 1024;

/// Snappy's best element makes 64 bytes of 3.
const SNAPPY_RATIO_MAX: usize = 22;

const ZSTD_LEVEL: i32 = 3;

/// Windows of up to 128 MiB, zstd's own default bound: pages of a window are only touched by what is decompressed.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

pub fn compress(codec: Compression, bytes: &[u8]) -> Result<Vec<u8>, RecordError> {
    let failed = |error: io::Error| RecordError::Malformed(format!("{codec} does not compress: {error}"));
    match codec {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(failed)
        }
        Compression::Snappy => compress_xerial(bytes),
        Compression::Lz4 => {
            // Small blocks, since readers allocate a block's size up front.
            let mut info = lz4_flex::frame::FrameInfo::new();
            info.block_size = lz4_flex::frame::BlockSize::Max64KB;
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(bytes).map_err(failed)?;
            encoder.finish().map_err(|error| RecordError::Malformed(format!("lz4 does not compress: {error}")))
        }
        Compression::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL).map_err(failed),
    }
}

/// Decompresses to at most `max` bytes; more is [`RecordError::TooLarge`].
pub fn decompress(codec: Compression, bytes: &[u8], max: usize) -> Result<Vec<u8>, RecordError> {
    match codec {
        Compression::None if bytes.len() > max => Err(RecordError::TooLarge(max)),
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => read_bounded(codec, flate2::read::MultiGzDecoder::new(bytes), max),
        Compression::Snappy if bytes.starts_with(&XERIAL_MAGIC) => decompress_xerial(bytes, max),
        Compression::Snappy => {
            let mut out = Vec::new();
            decompress_snappy(bytes, &mut out, max)?;
            Ok(out)
        }
        Compression::Lz4 => read_bounded(codec, lz4_flex::frame::FrameDecoder::new(bytes), max),
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(bytes).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Ok(decoder)
            });
            read_bounded(codec, decoder.map_err(|error| malformed(codec, &error))?, max)
        }
    }
}

/// Grows with what comes out.
fn read_bounded(codec: Compression, reader: impl Read, max: usize) -> Result<Vec<u8>, RecordError> {
    let mut out = Vec::new();
    reader.take(max as u64 + 1).read_to_end(&mut out).map_err(|error| malformed(codec, &error))?;
    if out.len() > max { Err(RecordError::TooLarge(max)) } else { Ok(out) }
}

fn compress_xerial(bytes: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut out = Vec::with_capacity(XERIAL_HEADER_BYTES + bytes.len() / 2);
    out.extend_from_slice(&XERIAL_MAGIC);
    // The version and the oldest version that can read it.
    out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    let mut encoder = snap::raw::Encoder::new();
    for chunk in bytes.chunks(XERIAL_CHUNK_BYTES) {
        let packed = encoder.compress_vec(chunk).map_err(|error| malformed(Compression::Snappy, &error))?;
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

fn decompress_xerial(bytes: &[u8], max: usize) -> Result<Vec<u8>, RecordError> {
    let cut_off = || RecordError::Malformed("snappy: the chunks are cut off".to_string());
    let mut rest = bytes.get(XERIAL_HEADER_BYTES..).ok_or_else(cut_off)?;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let (chunk, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(cut_off)?;
        decompress_snappy(chunk, &mut out, max)?;
        rest = after;
    }
    Ok(out)
}

/// Appends one raw snappy block to `out`, which may reach `max` bytes in all.
fn decompress_snappy(block: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), RecordError> {
    let claimed = snap::raw::decompress_len(block).map_err(|error| malformed(Compression::Snappy, &error))?;
    // More than the codec can make of these bytes is a lie, to be found before it is allocated.
    if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(RecordError::Malformed(format!("snappy: {} bytes cannot hold {claimed}", block.len())));
    }
    if claimed > max - out.len() {
        return Err(RecordError::TooLarge(max));
    }
    let start = out.len();
    out.resize(start + claimed, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(|error| malformed(Compression::Snappy, &error))?;
    out.truncate(start + written);
    Ok(())
}

fn malformed(codec: Compression, error: &dyn std::error::Error) -> RecordError {
    RecordError::Malformed(format!("{codec}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bomb_ends_at_the_bound() {
        let zeros = vec![0; 20_000_000];
        for codec in Compression::ALL {
            let packed = compress(codec, &zeros).unwrap();
            assert_eq!(decompress(codec, &packed, 1 << 20), Err(RecordError::TooLarge(1 << 20)), "{codec}");
            assert_eq!(decompress(codec, &packed, zeros.len()).unwrap().len(), zeros.len(), "{codec}");
        }
    }

    #[test]
    fn a_claimed_size_is_not_believed() {
        // Raw snappy that claims 4 GiB − 1 in its length varint.
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1];
        assert!(matches!(decompress(Compression::Snappy, &claim, usize::MAX), Err(RecordError::Malformed(_))));
        let framed = [&XERIAL_MAGIC[..], &[0, 0, 0, 1, 0, 0, 0, 1], &[0xff; 4], &claim].concat();
        assert!(matches!(decompress(Compression::Snappy, &framed, usize::MAX), Err(RecordError::Malformed(_))));
    }

    #[test]
    fn both_forms_of_snappy_are_read() {
        let text = b"so much so much so much to say".repeat(5000);
        let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
        assert_eq!(decompress(Compression::Snappy, &raw, text.len()).unwrap(), text);
        let framed = compress(Compression::Snappy, &text).unwrap();
        assert!(framed.starts_with(&XERIAL_MAGIC));
        assert_eq!(decompress(Compression::Snappy, &framed, text.len()).unwrap(), text);
    }

    #[test]
    fn names_and_bits_go_both_ways() {
        for codec in Compression::ALL {
            assert_eq!(Compression::from_name(codec.name()), Some(codec));
            assert_eq!(Compression::from_bits(codec.bits()), Some(codec));
        }
        assert_eq!(Compression::from_bits(5), None);
    }

    proptest! {
        #[test]
        fn every_codec_survives_the_round_trip(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            repeat in 1usize..20,
        ) {
            let bytes = bytes.repeat(repeat);
            for codec in Compression::ALL {
                let packed = compress(codec, &bytes).unwrap();
                prop_assert_eq!(&decompress(codec, &packed, bytes.len()).unwrap(), &bytes);
                if !bytes.is_empty() {
                    prop_assert!(decompress(codec, &packed, bytes.len() - 1).is_err());
                }
            }
        }

        #[test]
        fn damaged_streams_end_within_the_bound(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let text = b"a damaged stream ".repeat(300);
            for codec in Compression::ALL {
                let mut packed = compress(codec, &text).unwrap();
                for (at, value) in &flips {
                    let at = at.index(packed.len());
                    packed[at] = *value;
                }
                packed.truncate(cut.index(packed.len()) + 1);
                if let Ok(out) = decompress(codec, &packed, 10_000) {
                    prop_assert!(out.len() <= 10_000);
                }
            }
        }
    }
}
