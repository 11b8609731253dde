//! What a log remembers of itself between two openings: recovery point and log start in the file `checkpoint`, leader
//! epochs in `leader-epoch-checkpoint`.
//!
//! Invariant on disk: below the recovery point the `.log` files, their indexes, producer snapshots and the epoch file
//! are durable, and recovery need not look at them. So it is raised only after they were synced, in any order with a
//! crash; and it is lowered durably before a truncated log takes new bytes.

use super::epochs::{DamagedEpochs, Epochs};
use crate::ids::*;
use crate::platform::disk;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const CHECKPOINT_FILE: &str = "checkpoint";
pub(super) const EPOCH_FILE: &str = "leader-epoch-checkpoint";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub recovery_point: Offset,
    pub log_start: Offset,
    /// After a clean close: whether a producer snapshot was written at the log's end. Without it there were none.
    pub has_producers: bool,
}

impl Content {
    fn encode(self) -> String {
        let Content { recovery_point, log_start, has_producers } = self;
        format!("0\nrecovery_point {recovery_point}\nlog_start {log_start}\nproducers {}\n", u8::from(has_producers))
    }

    /// `None` if the bytes are damaged; then the whole log is looked at.
    pub fn decode(bytes: &[u8]) -> Option<Content> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let mut lines = text.lines();
        if lines.next()? != "0" {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ')?.parse::<i64>().ok();
        let recovery_point = Offset(field("recovery_point").filter(|o| *o >= 0)?);
        let log_start = Offset(field("log_start").filter(|o| *o >= 0)?);
        let has_producers = field("producers")? == 1;
        Some(Content { recovery_point, log_start, has_producers })
    }
}

/// The owner of both files of one log. A flush under way writes them too, from its own thread; the lock keeps the two
/// apart, and the generation keeps a flush begun before a truncation from undoing what the truncation wrote.
pub(super) struct Checkpoint {
    folder: Arc<Path>,
    state: Mutex<State>,
}

struct State {
    generation: u64,
    content: Content,
}

impl Checkpoint {
    pub fn new(folder: Arc<Path>, content: Content) -> Checkpoint {
        Checkpoint { folder, state: Mutex::new(State { generation: 0, content }) }
    }

    /// What the folder has; `None` if there is none or it is damaged.
    pub fn load(folder: &Path) -> io::Result<Option<Content>> {
        Ok(disk::read_file(&folder.join(CHECKPOINT_FILE))?.and_then(|bytes| Content::decode(&bytes)))
    }

    /// `None` if there is no epoch file.
    pub fn load_epochs(folder: &Path) -> io::Result<Option<Result<Epochs, DamagedEpochs>>> {
        Ok(disk::read_file(&folder.join(EPOCH_FILE))?.map(|bytes| Epochs::decode(&bytes)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Called when everything below `recovery_point` has been synced. Does nothing after a truncation came between.
    pub fn raise(&self, generation: u64, recovery_point: Offset, epochs: &Epochs) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.generation != generation || state.content.recovery_point >= recovery_point {
            return Ok(());
        }
        // The epochs before the recovery point must not reach the disk after it.
        disk::write_atomic(&self.path(EPOCH_FILE), epochs.encode().as_bytes())?;
        let content = Content { recovery_point, ..state.content };
        // Durably: a power cut that took it would have a recovery look at, and sync, every segment there is.
        disk::write_atomic(&self.path(CHECKPOINT_FILE), content.encode().as_bytes())?;
        state.content = content;
        Ok(())
    }

    /// Replaces both files, durably, and shuts out flushes of older generations. On a full disk the checkpoint is
    /// removed instead: without one everything is recovered from the batches.
    pub fn replace(&self, generation: u64, content: Content, epochs: &Epochs) -> io::Result<()> {
        self.replace_in(&mut self.state.lock(), generation, content, epochs)
    }

    /// Before a log is cut at `end`: shuts out flushes of older generations and, where the files speak of more than will be
    /// left, replaces them. In one step, so that no flush raises the recovery point between the look and the change.
    /// `base`: of the segment that is cut, from which a recovery looks. `log_start`: after the cut.
    pub fn cut(
        &self,
        generation: u64,
        end: Offset,
        base: Offset,
        log_start: Offset,
        epochs: &Epochs,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let known = state.content;
        // A log start left above the end would hide what is appended next.
        if known.recovery_point <= end && known.log_start <= end {
            state.generation = generation;
            return Ok(());
        }
        let recovery_point = if known.recovery_point > end { base } else { known.recovery_point };
        self.replace_in(&mut state, generation, Content { recovery_point, log_start, has_producers: false }, epochs)
    }

    fn replace_in(&self, state: &mut State, generation: u64, content: Content, epochs: &Epochs) -> io::Result<()> {
        state.generation = generation;
        state.content = content;
        let written = disk::write_atomic(&self.path(EPOCH_FILE), epochs.encode().as_bytes())
            .and_then(|()| disk::write_atomic(&self.path(CHECKPOINT_FILE), content.encode().as_bytes()));
        match written {
            Err(error) if disk::is_full(&error) => {
                state.content.recovery_point = Offset::ZERO;
                disk::remove_file(&self.path(CHECKPOINT_FILE))?;
                disk::sync_dir(&self.folder)
            }
            other => other,
        }
    }

    /// Remembers a new log start. Durably: of a file half written a power cut leaves nothing that can be read,
    /// and a recovery without a checkpoint looks at everything.
    pub fn note_log_start(&self, log_start: Offset) -> io::Result<()> {
        let mut state = self.state.lock();
        state.content.log_start = log_start;
        disk::write_atomic(&self.path(CHECKPOINT_FILE), state.content.encode().as_bytes())
    }

    pub fn recovery_point(&self) -> Offset {
        self.state.lock().content.recovery_point
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_round_trips_and_damage_is_none() {
        let content = Content { recovery_point: Offset(7), log_start: Offset(3), has_producers: true };
        let text = content.encode();
        assert_eq!(Content::decode(text.as_bytes()), Some(content));
        for cut in 0..text.len() {
            assert_eq!(Content::decode(&text.as_bytes()[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Content::decode(b"0\nrecovery_point -1\nlog_start 0\nproducers 0\n"), None);
    }

    #[test]
    fn an_old_flush_does_not_undo_a_truncation() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(folder.path().into(), Content::default());
        let mut epochs = Epochs::default();
        epochs.assign(LeaderEpoch(1), Offset(0));
        let lowered = Content { recovery_point: Offset(10), ..Content::default() };
        checkpoint.replace(2, lowered, &epochs).unwrap();
        let mut stale = epochs.clone();
        stale.assign(LeaderEpoch(5), Offset(20));
        checkpoint.raise(1, Offset(30), &stale).unwrap();
        assert_eq!(Checkpoint::load(folder.path()).unwrap(), Some(lowered));
        assert_eq!(Checkpoint::load_epochs(folder.path()).unwrap(), Some(Ok(epochs.clone())));
        checkpoint.raise(2, Offset(30), &epochs).unwrap();
        checkpoint.note_log_start(Offset(5)).unwrap();
        let raised = Content { recovery_point: Offset(30), log_start: Offset(5), ..Content::default() };
        assert_eq!(Checkpoint::load(folder.path()).unwrap(), Some(raised));
    }

    #[test]
    fn a_cut_lowers_what_the_last_flush_raised_and_shuts_it_out() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(folder.path().into(), Content::default());
        let epochs = Epochs::default();
        let load = || Checkpoint::load(folder.path()).unwrap();
        checkpoint.raise(0, Offset(30), &epochs).unwrap();
        // Above all that the files speak of: nothing is written.
        disk::remove_file(&folder.path().join(CHECKPOINT_FILE)).unwrap();
        checkpoint.cut(1, Offset(40), Offset(20), Offset(0), &epochs).unwrap();
        assert_eq!(load(), None);
        checkpoint.cut(2, Offset(25), Offset(20), Offset(0), &epochs).unwrap();
        assert_eq!(load(), Some(Content { recovery_point: Offset(20), ..Content::default() }));
        checkpoint.raise(1, Offset(50), &epochs).unwrap();
        assert_eq!(checkpoint.recovery_point(), Offset(20), "begun before the cut");
        checkpoint.note_log_start(Offset(24)).unwrap();
        checkpoint.cut(3, Offset(22), Offset(20), Offset(22), &epochs).unwrap();
        assert_eq!(load(), Some(Content { recovery_point: Offset(20), log_start: Offset(22), ..Content::default() }));
    }
}
