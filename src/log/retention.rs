//! Which segments are too old or too many (retention.ms, retention.bytes), and rolling the active one in time.

use super::partition_log::{LogConfig, PartitionLog};
use crate::ids::*;
use crate::platform::disk;
use std::io;

/// What retention looks at in a sealed segment.
#[derive(Clone, Copy, Debug)]
struct Age {
    /// Where the next segment begins.
    end: Offset,
    bytes: u64,
    /// Its largest timestamp, or where it has none when it was written last.
    newest_ms: i64,
}

/// How many of the oldest sealed segments go. Segments go in order: one that must stay keeps all after it.
fn count_doomed(
    sealed: &[Age],
    total_bytes: u64,
    config: &LogConfig,
    log_start: Offset,
    high_watermark: Offset,
    now_ms: i64,
) -> usize {
    let mut left = total_bytes;
    let mut count = 0;
    for segment in sealed {
        let deleted = segment.end <= log_start;
        let too_old = config.retention_ms >= 0 && now_ms.saturating_sub(segment.newest_ms) > config.retention_ms;
        let bytes_after = left.saturating_sub(segment.bytes);
        let too_much = u64::try_from(config.retention_bytes).is_ok_and(|max| bytes_after >= max);
        if segment.end > high_watermark || !(deleted || (config.delete && (too_old || too_much))) {
            break;
        }
        left = bytes_after;
        count += 1;
    }
    count
}

impl PartitionLog {
    /// Rolls by time and drops whole segments by retention, never at or above `high_watermark`. Returns bytes freed.
    /// Forgets expired producers too.
    pub fn apply_retention(&mut self, now_ms: i64, high_watermark: Offset) -> io::Result<u64> {
        if self.is_offline() {
            return Ok(0);
        }
        self.producers.expire(now_ms, self.config.producer_id_expiration_ms);
        let outcome = self.retain(now_ms, high_watermark);
        if let Err(error) = &outcome {
            self.fail(error);
        }
        outcome
    }

    fn retain(&mut self, now_ms: i64, high_watermark: Offset) -> io::Result<u64> {
        if self.must_roll_by_time(now_ms)? {
            match self.roll() {
                // On a full disk the sealed segments can still go.
                Err(error) if !disk::is_full(&error) => return Err(error),
                _ => {}
            }
        }
        if self.segments.len() == 1 {
            return Ok(0);
        }
        let mut sealed = Vec::with_capacity(self.segments.len() - 1);
        for pair in self.segments.windows(2) {
            let newest_ms = match pair[0].newest()? {
                Some((newest_ms, _)) => newest_ms,
                None => disk::modified_ms(&pair[0].log.path())?,
            };
            sealed.push(Age { end: pair[1].base, bytes: pair[0].size(), newest_ms });
        }
        match count_doomed(&sealed, self.bytes, &self.config, self.log_start, high_watermark, now_ms) {
            0 => Ok(0),
            count => self.drop_oldest(count),
        }
    }

    /// The active segment is older than segment.ms, or all in it is older than retention.ms: without a roll, records
    /// of a quiet partition would never go.
    fn must_roll_by_time(&self, now_ms: i64) -> io::Result<bool> {
        let active = self.active();
        if active.size() == 0 {
            return Ok(false);
        }
        let expired = self.config.delete
            && self.config.retention_ms >= 0
            && active.newest()?.is_some_and(|(ms, _)| now_ms.saturating_sub(ms) > self.config.retention_ms);
        Ok(expired || self.is_old(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::config;

    fn ages(segments: &[(i64, u64, i64)]) -> Vec<Age> {
        segments
            .iter()
            .map(|(end, bytes, newest_ms)| Age { end: Offset(*end), bytes: *bytes, newest_ms: *newest_ms })
            .collect()
    }

    fn doomed(config: &LogConfig, log_start: i64, high_watermark: i64) -> usize {
        let sealed = ages(&[(10, 100, 1_000), (20, 100, 5_000), (30, 100, 2_000), (40, 100, 9_000)]);
        // The active segment has 50 bytes.
        count_doomed(&sealed, 450, config, Offset(log_start), Offset(high_watermark), 10_000)
    }

    #[test]
    fn by_time_in_order() {
        let config = LogConfig { retention_ms: 7_000, retention_bytes: -1, ..config() };
        assert_eq!(doomed(&config, 0, 100), 1, "the second is young and protects the third");
        assert_eq!(doomed(&LogConfig { retention_ms: 4_000, ..config.clone() }, 0, 100), 3);
        assert_eq!(doomed(&LogConfig { retention_ms: -1, ..config.clone() }, 0, 100), 0);
        assert_eq!(doomed(&LogConfig { retention_ms: 0, ..config.clone() }, 0, 25), 2, "not past the high watermark");
        assert_eq!(doomed(&LogConfig { delete: false, compact: true, ..config }, 0, 100), 0);
    }

    #[test]
    fn by_size_at_least_what_is_asked_stays() {
        let config = LogConfig { retention_ms: -1, ..config() };
        let with = |retention_bytes| doomed(&LogConfig { retention_bytes, ..config.clone() }, 0, 100);
        assert_eq!(with(-1), 0);
        assert_eq!(with(450), 0);
        assert_eq!(with(351), 0);
        assert_eq!(with(350), 1);
        assert_eq!(with(0), 4);
    }

    #[test]
    fn deleted_records_go_under_any_policy() {
        let config = LogConfig { retention_ms: -1, retention_bytes: -1, delete: false, compact: true, ..config() };
        assert_eq!(doomed(&config, 25, 100), 2);
        assert_eq!(doomed(&config, 25, 15), 1);
    }
}
