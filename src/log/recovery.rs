//! Opening a log: after a clean close its files are believed; otherwise its batches are.
//!
//! Recovery begins with the segment that holds the recovery point, at the latest with the active one. It checks every
//! batch, cuts the log at the first that is bad or partial, rebuilds indexes, epochs and producers from the headers,
//! and syncs what is left before anyone reads it.

use super::checkpoint::{CHECKPOINT_FILE, Checkpoint, Content, EPOCH_FILE};
use super::damage::DAMAGE_FILE;
use super::epochs::Epochs;
use super::partition_log::{Context, LogConfig, Opened, ReadError};
use super::producer_snapshot;
use super::producers::Producers;
use super::read::View;
use super::remover::DELETED_SUFFIX;
use super::scan::{first_epoch, scan};
use super::scrub::{Damage, first_damage};
use super::segment::{Segment, file_name, parse_file_name};
use super::walk::Walk;
use crate::ids::*;
use crate::platform::disk::{self, File};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Below this a segment without an offset index is walked; above, the index is made again.
const BYTES_WITHOUT_INDEX_MAX: u64 = 1024 * 1024;

/// Opens the log in `folder`, which exists. `clean`: the node's last stop was clean.
pub(super) fn open(
    folder: &Arc<Path>,
    context: &Context,
    config: &LogConfig,
    clean: bool,
    now_ms: i64,
) -> Result<Opened, ReadError> {
    let files = survey(folder, context)?;
    let noted = Damage::load(folder)?;
    let checkpoint = Checkpoint::load(folder)?;
    let epochs = match Checkpoint::load_epochs(folder)? {
        Some(Ok(epochs)) => Some(epochs),
        Some(Err(error)) => {
            tracing::warn!(folder = %folder.display(), %error, "the log's headers are read instead");
            None
        }
        None => None,
    };
    let recovery = Recovery { folder, context, config, now_ms };
    if files.bases.is_empty() {
        return Ok(recovery.empty());
    }
    if clean
        && let (Some(checkpoint), Some(epochs)) = (checkpoint, epochs.clone())
        && let Some(opened) = recovery.believe(&files, checkpoint, epochs)?
    {
        return recovery.with_noted(opened, noted);
    }
    let opened = match recovery.recover(&files, checkpoint, epochs) {
        Err(ReadError::Damaged(reason)) => {
            tracing::warn!(folder = %folder.display(), reason, "the log is damaged below its recovery point: all of it is checked");
            recovery.recover(&files, None, None)?
        }
        other => other?,
    };
    recovery.with_noted(opened, noted)
}

/// The log's files by name.
struct Survey {
    /// Base offsets of `.log` files, rising.
    bases: Vec<Offset>,
    indexes: BTreeSet<Offset>,
    snapshots: BTreeSet<Offset>,
}

/// Lists the folder and removes what a crash left half made or half removed.
fn survey(folder: &Path, context: &Context) -> io::Result<Survey> {
    let mut files = Survey { bases: Vec::new(), indexes: BTreeSet::new(), snapshots: BTreeSet::new() };
    for disk::Entry { name, .. } in disk::list(folder)? {
        match parse_file_name(&name) {
            Some((base, "log")) => files.bases.push(base),
            Some((base, "index")) => drop(files.indexes.insert(base)),
            Some((base, "snapshot")) => drop(files.snapshots.insert(base)),
            Some((_, "timeindex" | "txnindex")) => {}
            _ if name.ends_with(disk::TEMPORARY_SUFFIX) => disk::remove_file(&folder.join(&name))?,
            _ if name.ends_with(DELETED_SUFFIX) => context.remover.remove(folder.join(&name)),
            _ if name == CHECKPOINT_FILE || name == EPOCH_FILE || name == DAMAGE_FILE => {}
            _ => tracing::warn!(folder = %folder.display(), name, "an unknown file is left alone"),
        }
    }
    files.bases.sort_unstable();
    Ok(files)
}

struct Recovery<'a> {
    folder: &'a Arc<Path>,
    context: &'a Context,
    config: &'a LogConfig,
    now_ms: i64,
}

impl Recovery<'_> {
    fn empty(&self) -> Opened {
        Opened {
            segments: vec![Segment::empty(&self.context.files, self.folder, Offset::ZERO)],
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            epochs: Epochs::default(),
            producers: Producers::default(),
            snapshots: BTreeSet::new(),
            checkpoint: Content::default(),
            damage: None,
        }
    }

    fn existing(&self, base: Offset) -> io::Result<Arc<Segment>> {
        let size = disk::len(&self.folder.join(file_name(base, "log")))?;
        Ok(Segment::existing(&self.context.files, self.folder, base, size))
    }

    /// Opens a log that was closed cleanly; `None` if it does not look so.
    fn believe(&self, files: &Survey, checkpoint: Content, mut epochs: Epochs) -> Result<Option<Opened>, ReadError> {
        let mut segments = Vec::with_capacity(files.bases.len());
        for base in &files.bases {
            let segment = self.existing(*base)?;
            if segment.size() > BYTES_WITHOUT_INDEX_MAX && !files.indexes.contains(base) {
                return Ok(None);
            }
            segments.push(segment);
        }
        let log_end = checkpoint.recovery_point;
        if segments.last().is_none_or(|active| !ends_at(active, log_end)) || checkpoint.log_start > log_end {
            return Ok(None);
        }
        let producers = match checkpoint.has_producers {
            true => match load_snapshot(self.folder, log_end) {
                Some(producers) => producers,
                None => return Ok(None),
            },
            false => Producers::default(),
        };
        let log_start = checkpoint.log_start.max(segments[0].base);
        epochs.truncate_end(log_end);
        epochs.truncate_start(log_start);
        let snapshots = files.snapshots.clone();
        Ok(Some(Opened { segments, log_start, log_end, epochs, producers, snapshots, checkpoint, damage: None }))
    }

    fn recover(
        &self,
        files: &Survey,
        checkpoint: Option<Content>,
        stored_epochs: Option<Epochs>,
    ) -> Result<Opened, ReadError> {
        let bases = &files.bases;
        // Without the epochs before it, or without a checkpoint, there is nothing to begin from but the first batch.
        let (start, mut epochs) = match (checkpoint, stored_epochs) {
            (Some(checkpoint), Some(epochs)) => {
                (bases.partition_point(|base| *base <= checkpoint.recovery_point).saturating_sub(1), epochs)
            }
            _ => (0, Epochs::default()),
        };
        let start = start.min(bases.len() - 1);
        epochs.truncate_end(bases[start]);
        // A snapshot from before the crash may tell of batches that a truncation took away.
        let mut snapshots = files.snapshots.clone();
        for stale in snapshots.split_off(&(bases[start] + 1)) {
            disk::remove_file(&self.folder.join(file_name(stale, "snapshot")))?;
        }

        let mut segments = Vec::with_capacity(bases.len());
        for base in &bases[..start] {
            segments.push(self.existing(*base)?);
        }
        let (from, mut producers) = load_producers(self.folder, &snapshots, bases[start]);
        rebuild_producers(&mut producers, &segments, None, from, bases[start], self.now_ms)?;

        let (mut next, mut damage) = (bases[start], None);
        let mut dirty: Vec<Arc<File>> = Vec::new();
        for (index, base) in bases.iter().enumerate().skip(start) {
            if *base != next {
                tracing::warn!(
                    folder = %self.folder.display(), end = %next,
                    "the segments from {base} on do not follow the log's end and are removed"
                );
                self.remove_segments(&bases[index..])?;
                break;
            }
            if index > start {
                let path = self.folder.join(file_name(*base, "snapshot"));
                let bytes = producer_snapshot::encode(&producers);
                self.context.room.ask(bytes.len() as u64)?;
                self.wrote(disk::write_atomic_unsynced(&path, &bytes))?;
                dirty.push(Arc::new(File::open(&path)?));
                snapshots.insert(*base);
            }
            let next_base = bases.get(index + 1).copied();
            let (segment, end, lost) = self.recover_segment(*base, next_base, &mut epochs, &mut producers)?;
            damage = lost;
            if segment.size() > 0 {
                dirty.push(segment.log.get()?);
            }
            dirty.extend(self.wrote(segment.write_indexes())?);
            segments.push(segment);
            next = end;
        }
        for file in dirty {
            // No sync that failed passes, for want of room either (rule 19): it must not be tried again.
            self.wrote(file.sync_data().map_err(final_unless_unopened))?;
        }

        let log_start = checkpoint.map_or(Offset::ZERO, |c| c.log_start).max(segments[0].base).min(next);
        epochs.truncate_start(log_start);
        let recovery_point = segments[segments.len() - 1].base;
        let content = Content { recovery_point, log_start, has_producers: false };
        if checkpoint != Some(content) {
            self.wrote(Checkpoint::new(self.folder.clone(), content).replace(0, content, &epochs))?;
        }
        self.wrote(disk::sync_dir(self.folder).map_err(final_unless_unopened))?;
        Ok(Opened { segments, log_start, log_end: next, epochs, producers, snapshots, checkpoint: content, damage })
    }

    /// The lower one of the damage noted by an earlier run, as far as it is still there, and what this recovery had to cut.
    fn with_noted(&self, mut opened: Opened, noted: Option<Damage>) -> Result<Opened, ReadError> {
        let end = opened.log_end;
        let noted = noted.map(|damage| Damage { from: damage.from.min(end), to: damage.to.min(end), ..damage });
        let noted = match noted {
            Some(damage) if !damage.is_cut() => self.left_of(&opened, damage)?,
            other => other,
        };
        opened.damage = match (opened.damage, noted) {
            (Some(cut), Some(noted)) if noted.from < cut.from => Some(noted),
            (cut, noted) => cut.or(noted),
        };
        Ok(opened)
    }

    /// What is left of noted damage. A note may be older than what was filled since, or come back after a power loss; to
    /// believe it would give up good records.
    fn left_of(&self, opened: &Opened, noted: Damage) -> Result<Option<Damage>, ReadError> {
        let Opened { segments, log_start, log_end, epochs, .. } = opened;
        let first = segments.partition_point(|s| s.base <= noted.from).saturating_sub(1);
        let mut files = Vec::new();
        for segment in segments[first..].iter().take_while(|s| s.base < noted.to && s.size() > 0) {
            let file = segment.log.get()?;
            if self.context.lossy {
                file.forget_cached()?;
            }
            files.push(file);
        }
        let view = View { segments: segments.clone(), log_start: *log_start, epochs: epochs.clone() };
        match first_damage(&view, noted.from, noted.to, *log_end) {
            Ok(Some(left)) => return Ok(Some(Damage { from: left.from, to: left.to.max(noted.to), ..noted })),
            Ok(None) => {}
            Err(ReadError::Disk(error)) if disk::is_passing(&error) => return Err(error.into()),
            Err(_) => return Ok(Some(noted)),
        }
        tracing::info!(
            folder = %self.folder.display(), from = %noted.from, to = %noted.to,
            "what was noted as damaged is good again"
        );
        // It may have been filled and not been synced.
        for file in files {
            self.wrote(file.sync_data().map_err(final_unless_unopened))?;
        }
        self.wrote(Damage::remove_note(self.folder))?;
        Ok(None)
    }

    /// Scans one segment, cuts what is bad, and rebuilds its indexes. Answers where it ends, and the damage if what was cut
    /// is more than a write that a crash cut short: then good batches follow it, perhaps acked ones.
    fn recover_segment(
        &self,
        base: Offset,
        next_base: Option<Offset>,
        epochs: &mut Epochs,
        producers: &mut Producers,
    ) -> io::Result<(Arc<Segment>, Offset, Option<Damage>)> {
        for index in ["index", "timeindex"] {
            disk::remove_file(&self.folder.join(file_name(base, index)))?;
        }
        let segment = Segment::empty(&self.context.files, self.folder, base);
        let file = segment.log.get()?;
        if self.context.lossy {
            file.forget_cached()?;
        }
        let length = file.len()?;
        let mut since_index = 0;
        let newest_epoch = epochs.latest().map_or(LeaderEpoch::NONE, |(epoch, _)| epoch);
        let successor = match next_base {
            Some(next) => first_epoch(&*Segment::empty(&self.context.files, self.folder, next).log.get()?, next)?,
            None => None,
        };
        let end = scan(&file, base, newest_epoch, successor, |header, position| {
            segment.note(header, position, &mut since_index, self.config.index_interval_bytes)?;
            self.wrote(segment.spill_if_many())?;
            epochs.assign(header.leader_epoch, header.base_offset);
            producers.take_in(header, self.now_ms);
            Ok(())
        })?;
        if let Some(reason) = &end.damage {
            tracing::warn!(
                folder = %self.folder.display(), segment = %base, cut = length - end.position,
                "recovery cuts the log at offset {}: {reason}", end.next_offset
            );
        }
        let at = end.next_offset;
        let lost =
            end.damage.filter(|_| end.inside || next_base.is_some()).map(|reason| Damage { from: at, to: at, reason });
        if let Some(lost) = &lost {
            // Before the cut: a crash in between must not forget it.
            self.wrote(lost.store(self.folder))?;
        }
        if end.position < length {
            self.wrote(file.set_len(end.position))?;
        }
        segment.publish_size(end.position);
        Ok((segment, at, lost))
    }

    /// A recovery that could not write or sync has no second try: the next one would believe the page cache (rule 19). One
    /// that could not even open what it wanted to write has lost nothing.
    fn wrote<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && !disk::is_passing(error)
            && !disk::is_unopened(error)
            && !self.context.offline.load(Ordering::Relaxed)
        {
            tracing::error!(
                folder = %self.folder.display(), %error,
                "a disk error during recovery is final: the data folder goes offline; replace the disk and restart the node"
            );
            self.context.go_offline();
        }
        result
    }

    /// The last first, so that a crash on the way leaves a log without a gap.
    fn remove_segments(&self, bases: &[Offset]) -> io::Result<()> {
        for base in bases.iter().rev() {
            for path in Segment::empty(&self.context.files, self.folder, *base).paths(self.folder) {
                self.context.remover.set_aside(&path)?;
            }
        }
        Ok(())
    }
}

/// No sync that failed passes, for want of room either.
fn final_unless_unopened(error: io::Error) -> io::Error {
    if disk::is_unopened(&error) { error } else { io::Error::other(error) }
}

/// The segment's batches end at `end`, as a cheap look at its last few says.
fn ends_at(segment: &Segment, end: Offset) -> bool {
    if segment.size() == 0 {
        return segment.base == end;
    }
    match segment.locate(Offset(end.0 - 1)) {
        Ok(Some(step)) => step.end() == segment.size() && step.header.end_offset() == end,
        _ => false,
    }
}

fn load_snapshot(folder: &Path, offset: Offset) -> Option<Producers> {
    let bytes = disk::read_file(&folder.join(file_name(offset, "snapshot"))).ok().flatten()?;
    match producer_snapshot::decode(&bytes) {
        Ok(producers) => Some(producers),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %offset, %error, "an older producer snapshot is used");
            None
        }
    }
}

/// The newest good snapshot at or below `below`, and its offset; the empty state of offset 0 if there is none.
pub(super) fn load_producers(folder: &Path, snapshots: &BTreeSet<Offset>, below: Offset) -> (Offset, Producers) {
    snapshots
        .range(..=below)
        .rev()
        .find_map(|offset| load_snapshot(folder, *offset).map(|producers| (*offset, producers)))
        .unwrap_or_default()
}

/// Takes the batches in `from..to` into the producer state, by their headers. `last_size`: so much of the last segment
/// is looked at, if not all of it.
pub(super) fn rebuild_producers(
    producers: &mut Producers,
    segments: &[Arc<Segment>],
    last_size: Option<u64>,
    from: Offset,
    to: Offset,
    now_ms: i64,
) -> Result<(), ReadError> {
    if from >= to {
        return Ok(());
    }
    let first = segments.partition_point(|s| s.base <= from).saturating_sub(1);
    for (index, segment) in segments.iter().enumerate().skip(first) {
        let size = last_size.filter(|_| index + 1 == segments.len()).unwrap_or_else(|| segment.size());
        if size == 0 {
            continue;
        }
        let Some(start) = segment.locate(from)? else { continue };
        let file = segment.log.get()?;
        let mut walk = Walk::far(&file, start.position, size);
        while let Some(step) = walk.step()? {
            if step.header.base_offset >= to {
                return Ok(());
            }
            producers.take_in(&step.header, now_ms);
        }
    }
    Ok(())
}
