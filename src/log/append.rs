//! Appending: the client's bytes go to the page cache as they came, only the first 16 bytes of each batch are written
//! anew (base offset and leader epoch lie outside the CRC). No copy, no fsync, nothing done per record.

use super::partition_log::{AppendError, Appended, PartitionLog, Writer};
use super::producers::Staged;
use super::segment::{SEGMENT_BYTES_MAX, Segment};
use crate::ids::*;
use crate::platform::disk;
use crate::records::batch::{PATCHED_BYTES, TimestampType};
use crate::records::{BatchAt, BatchHeader, RecordError, ValidBatches};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Blocks are reserved ahead of the writes: as much again as the segment has, within these bounds. An idle partition
/// so holds little, and a busy one rarely asks.
const RESERVE_BYTES_MIN: u64 = 16 * 1024;
const RESERVE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The blocks that a roll takes for names and small files.
const ROLL_BYTES: u64 = 16 * 1024;

impl PartitionLog {
    /// Leader's append: checks sequences (idempotence), assigns offsets, stamps `epoch`, writes to the page cache.
    /// `records` is one or more v2 batches as a client sent them, already checked by `records::validate`.
    ///
    /// Panics if the log holds a newer epoch than `epoch`: a leader begins its epoch before it appends.
    pub fn append_as_leader(
        &mut self,
        records: &ValidBatches,
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.check_online()?;
        assert!(self.epochs.latest().is_none_or(|(latest, _)| latest <= epoch), "a leader's epoch is the newest");
        self.check_limits(records, now_ms)?;

        let stamped;
        let records = if self.config.log_append_time {
            stamped = records.with_append_time(now_ms)?;
            &stamped
        } else {
            records
        };
        let mut staged = Staged::default();
        let mut headers = Vec::with_capacity(records.batches.len());
        let mut next = self.log_end;
        for batch in &records.batches {
            let header = BatchHeader { base_offset: next, leader_epoch: epoch, ..batch.header };
            if let Some(original) = self.producers.stage(&mut staged, &header, now_ms)? {
                return Ok(Appended {
                    base_offset: original.base_offset,
                    end_offset: original.last_offset + 1,
                    log_append_time_ms: -1,
                    duplicate: true,
                });
            }
            next = header.end_offset();
            headers.push(header);
        }
        if next - self.log_end > i64::from(i32::MAX) {
            return Err(malformed(format!("{} records in one append", next - self.log_end)).into());
        }

        let prefixes: Vec<[u8; PATCHED_BYTES]> = headers.iter().map(|h| h.patched(h.base_offset, epoch)).collect();
        let mut slices = Vec::with_capacity(2 * headers.len());
        for (batch, prefix) in records.batches.iter().zip(&prefixes) {
            slices.push(IoSlice::new(prefix));
            slices.push(IoSlice::new(&batch.of(&records.bytes)[PATCHED_BYTES..]));
        }
        self.write(&mut slices, &headers, now_ms)?;
        self.producers.commit(staged);
        self.finish_append(headers[0].base_offset)?;
        let log_append_time_ms = if self.config.log_append_time { now_ms } else { -1 };
        Ok(Appended { base_offset: headers[0].base_offset, end_offset: next, log_append_time_ms, duplicate: false })
    }

    /// Follower's append: batches keep the leader's offsets and epochs. They must start at the log's end.
    pub fn append_as_follower(&mut self, records: &ValidBatches, now_ms: i64) -> Result<Appended, AppendError> {
        self.check_online()?;
        let (first, last) = ends(records)?;
        let mut next = self.log_end;
        // An epoch that began here without a record is no part of the log: another leader's older batches may follow.
        self.epochs.truncate_end(self.log_end);
        let mut epoch = self.epochs.latest().map_or(LeaderEpoch::NONE, |(latest, _)| latest);
        for batch in &records.batches {
            let header = &batch.header;
            if header.base_offset != next || header.last_offset_delta < 0 {
                return Err(AppendError::NotContiguous { given: header.base_offset, end: next });
            }
            if header.leader_epoch < epoch {
                let (given, at) = (header.leader_epoch, header.base_offset);
                return Err(
                    malformed(format!("the leader's epochs run backwards: {given} at {at} after {epoch}")).into()
                );
            }
            epoch = header.leader_epoch;
            next = header.end_offset();
        }
        let headers: Vec<BatchHeader> = records.batches.iter().map(|b| b.header).collect();
        let bytes = &records.bytes[first.position..last.position + last.size];
        self.write(&mut [IoSlice::new(bytes)], &headers, now_ms)?;
        headers.iter().for_each(|header| self.producers.take_in(header, now_ms));
        self.finish_append(first.header.base_offset)?;
        Ok(Appended {
            base_offset: first.header.base_offset,
            end_offset: next,
            log_append_time_ms: -1,
            duplicate: false,
        })
    }

    fn check_online(&self) -> Result<(), AppendError> {
        if self.is_offline() { Err(AppendError::Offline) } else { Ok(()) }
    }

    fn check_limits(&self, records: &ValidBatches, now_ms: i64) -> Result<(), AppendError> {
        ends(records)?;
        let config = &self.config;
        for BatchAt { header, size, .. } in &records.batches {
            if *size > config.max_message_bytes as usize {
                return Err(AppendError::TooLarge { size: *size, limit: config.max_message_bytes });
            }
            if config.log_append_time || header.is_control() {
                continue;
            }
            if header.timestamp_type() == TimestampType::LogAppendTime {
                return Err(malformed("a client may not set the timestamp type LogAppendTime".to_string()).into());
            }
            for timestamp_ms in [header.base_timestamp_ms, header.max_timestamp_ms] {
                let too_old = now_ms.saturating_sub(timestamp_ms) > config.timestamp_before_max_ms;
                let too_new = timestamp_ms.saturating_sub(now_ms) > config.timestamp_after_max_ms;
                // −1 says that there is none.
                if timestamp_ms != -1 && (too_old || too_new) {
                    return Err(AppendError::TimestampOutOfBounds { timestamp_ms });
                }
            }
        }
        Ok(())
    }

    /// Writes batches at the end of the active segment, rolling it first if need be, and takes them into the indexes
    /// and epochs. After an error the log is as it was.
    fn write(&mut self, slices: &mut [IoSlice<'_>], headers: &[BatchHeader], now_ms: i64) -> Result<(), AppendError> {
        let length: u64 = headers.iter().map(|h| h.size() as u64).sum();
        assert_eq!(length, slices.iter().map(|s| s.len() as u64).sum::<u64>(), "the batches are their bytes");
        let last = headers.last().map_or(self.log_end, BatchHeader::last_offset);
        self.try_write(slices, length, last, now_ms).map_err(|error| {
            self.fail(&error);
            if disk::is_passing(&error) { AppendError::NoRoom } else { AppendError::Disk(error) }
        })?;

        let segment = self.active().clone();
        let mut position = segment.size();
        for header in headers {
            // The index rows stay in memory here, and an open table needs no disk.
            let noted = segment.note(header, position, &mut self.writer.since_index, self.config.index_interval_bytes);
            if let Err(error) = noted {
                self.go_offline(&error);
                return Err(AppendError::Disk(error));
            }
            self.epochs.assign(header.leader_epoch, header.base_offset);
            position += header.size() as u64;
        }
        if !self.published.knows_epochs(&self.epochs) {
            self.publish_view();
        }
        segment.publish_size(position);
        self.bytes += length;
        self.log_end = last + 1;
        Ok(())
    }

    fn try_write(&mut self, slices: &mut [IoSlice<'_>], length: u64, last: Offset, now_ms: i64) -> io::Result<()> {
        // Also where blocks are reserved: a full disk refuses at once, and not each log after a time of its own.
        self.context.room.ask(length)?;
        if self.must_roll(length, last, now_ms) {
            self.roll()?;
        }
        let position = self.active().size();
        let file = match &self.writer.file {
            Some(file) => file.clone(),
            None => {
                let fresh = position == 0 && !disk::exists(&self.active().log.path());
                let file = self.active().log.get_or_create()?;
                self.names_made += u64::from(fresh);
                self.writer.file = Some(file.clone());
                file
            }
        };
        self.writer.first_ms.get_or_insert(now_ms);
        let written = self.reserve(&file, position + length).and_then(|()| file.write_vectored_at(slices, position));
        if let Err(error) = written {
            // Whole batches of what failed must not be taken for part of the log by a recovery.
            if position == 0 {
                self.writer.first_ms = None;
            }
            self.writer.reserved = position;
            file.set_len(position).map_err(|e| {
                tracing::error!(folder = %self.folder.display(), error = %e, "a failed append cannot be cut off");
                io::Error::other(e)
            })?;
            return Err(error);
        }
        Ok(())
    }

    /// Reserves blocks for the file up to `end`, and some ahead. On a nearly full disk it asks for no more than `end`.
    fn reserve(&mut self, file: &disk::File, end: u64) -> io::Result<()> {
        let reserved = self.writer.reserved;
        if end <= reserved {
            return Ok(());
        }
        let ahead = reserved.clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
        let wanted = (reserved + ahead).min(self.segment_bytes()).max(end);
        let ask = |bytes| self.context.room.ask(bytes);
        match ask(wanted - reserved).and_then(|()| file.preallocate(reserved, wanted - reserved)) {
            Ok(()) => {
                self.writer.reserved = wanted;
                Ok(())
            }
            Err(error) if disk::is_full(&error) && wanted > end => {
                ask(end - reserved)?;
                file.preallocate(reserved, end - reserved)?;
                self.writer.reserved = end;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes.clamp(1, SEGMENT_BYTES_MAX)
    }

    fn must_roll(&self, length: u64, last: Offset, now_ms: i64) -> bool {
        let active = self.active();
        // An empty segment takes anything: a new one would have its name.
        active.size() > 0
            && (active.size() + length > self.segment_bytes() || !active.can_name(last) || self.is_old(now_ms))
    }

    /// `segment.ms` has passed since the active segment got its first batch.
    pub(super) fn is_old(&self, now_ms: i64) -> bool {
        let age_max = self.config.segment_ms;
        age_max >= 0 && self.writer.first_ms.is_some_and(|first| now_ms.saturating_sub(first) > age_max)
    }

    /// Seals the active segment and begins a new one at the log's end. After an error the old one is active still.
    pub(super) fn roll(&mut self) -> io::Result<()> {
        let old = self.active().clone();
        let new = Segment::empty(&self.context.files, &self.folder, self.log_end);
        let sealed = self.seal(&old, &new);
        if let Err(error) = sealed {
            // Left behind, an empty segment would begin inside the old one once that grows.
            let _ = disk::remove_file(&new.log.path());
            self.remove_snapshots(&[self.log_end]);
            return Err(error);
        }
        self.names_made += 1;
        self.unsynced.push(old);
        self.segments.push(new);
        self.writer = Writer::default();
        self.publish_view();
        Ok(())
    }

    /// Begins with what a full disk may refuse.
    fn seal(&mut self, old: &Arc<Segment>, new: &Arc<Segment>) -> io::Result<()> {
        self.context.room.ask(ROLL_BYTES)?;
        new.log.get_or_create()?.set_len(0)?;
        self.write_snapshot(self.log_end, false)?;
        old.write_indexes()?;
        old.log.get()?.set_len(old.size())?;
        self.writer.reserved = old.size();
        Ok(())
    }

    /// Shows the new end to readers and writes index rows out if many have gathered.
    fn finish_append(&mut self, base: Offset) -> Result<(), AppendError> {
        assert!(self.log_start <= base && base < self.log_end, "an append moves the end forward");
        self.published.publish_end(self.log_end);
        match self.active().spill_if_many() {
            // The rows stay in memory, and a later append tries again.
            Err(error) if !disk::is_passing(&error) => {
                self.go_offline(&error);
                Err(AppendError::Disk(error))
            }
            _ => Ok(()),
        }
    }
}

fn ends(records: &ValidBatches) -> Result<(&BatchAt, &BatchAt), RecordError> {
    records.batches.first().zip(records.batches.last()).ok_or(RecordError::Empty)
}

fn malformed(reason: String) -> RecordError {
    RecordError::Malformed(reason)
}
