//! Commits groups' states through Raft: what many groups have to write within a few milliseconds shares a command.
//!
//! ```text
//! Effect::Commit ─→ Cell (newest write) ─→ queue ─ pace ─→ Intent::ChangeGroups ─→ answers ─→ Machine::committed
//!                                            ↑                                       │
//!                                            └── stale or unknown: look at the image ┘
//! ```
//!
//! A group has one write under way at a time, so its writes land in order. Whether a write landed whose answer got lost
//! is read from the image: each carries a revision that no other has (see [`GroupChange`]). If it did not, it is
//! offered again until its time, which begins when it is first sent, is up; so a controller that dies costs a group no
//! rebalance. A change follows the last revision that this coordinator knows to be its own: if another wrote the group, it
//! is stale, and the group loaded anew.

use super::cell::{Cell, Proposal};
use super::coordinator::GroupError;
use super::machine::Millis;
use super::revisions::Revisions;
use super::settings::{COMMITS_IN_FLIGHT_MAX, INTENT_BYTES_MAX, UNSENT_FACTOR};
use super::shell::{ChangesFuture, Shell};
use super::slot::Slot;
use super::split::split;
use crate::metadata::command::{GroupChange, MetadataError};
use crate::metadata::group_change::GroupWrite;
use crate::metadata::image::Image;
use crate::metadata::intent::{IntentAnswer, IntentError, SubmitError};
use crate::metadata::raft::types::encoded_size;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two commands at least, so that what comes close together is one.
const WINDOW_MS: Millis = 10;
/// While a command is under way the next one waits for it, but not longer than this.
const WINDOW_MAX_MS: Millis = 20;
/// Before a write that came out stale or unknown is looked at again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A group that has something to commit. Bound of the queue: a group is in it once.
pub type Queued = (Arc<Slot>, Arc<Cell>);

/// When the next command is due, if anything waits since `since`; `None`: once one under way is answered.
fn due(since: Millis, last: Option<Millis>, under_way: usize) -> Option<Millis> {
    let after_last = last.map_or(since, |last| since.max(last + WINDOW_MS));
    match under_way {
        0 => Some(after_last),
        COMMITS_IN_FLIGHT_MAX.. => None,
        _ => Some(after_last.max(since + WINDOW_MAX_MS)),
    }
}

/// One group's write on its way.
struct Work {
    slot: Arc<Slot>,
    cell: Arc<Cell>,
    proposal: Proposal,
    /// Of a write: what is still to be sent.
    parts: VecDeque<GroupWrite>,
    /// The revision that the group has once what was sent is committed; `None`: nothing was sent since the last look.
    revision: Option<u64>,
    /// What a complete write of this proposal left as the group's revision, had it landed.
    finals: Vec<u64>,
    /// Changes in the command under way.
    sent: usize,
    /// The last answer was that the group is not what it was taken for.
    is_stale: bool,
    gives_up_at: Millis,
    /// `gives_up_at` counts from the first time that it was: that a slow quorum has much to do is no reason to have all
    /// members join again, which makes it more.
    was_sent: bool,
}

/// How a group's write ended.
enum Outcome {
    Committed,
    Failed(GroupError),
    /// Another coordinator wrote the group.
    Foreign,
}

type Answered = (Vec<Work>, Result<IntentAnswer, SubmitError>);
type Paused = Pin<Box<dyn Future<Output = Work> + Send>>;

pub struct Committer {
    shell: Weak<Shell>,
    waiting: VecDeque<Work>,
    since: Millis,
    last: Option<Millis>,
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = Answered> + Send>>>,
    paused: FuturesUnordered<Paused>,
}

impl Committer {
    /// Ends when the shell is gone.
    pub async fn run(shell: Weak<Shell>, mut queue: mpsc::UnboundedReceiver<Queued>) {
        let mut own = Committer {
            shell,
            waiting: VecDeque::new(),
            since: 0,
            last: None,
            under_way: FuturesUnordered::new(),
            paused: FuturesUnordered::new(),
        };
        loop {
            let Some(shell) = own.shell.upgrade() else { return };
            let now = shell.timers.now();
            let due = if own.waiting.is_empty() { None } else { due(own.since, own.last, own.under_way.len()) };
            if due.is_some_and(|due| due <= now) {
                own.send(&shell, now);
                continue;
            }
            drop(shell);
            let wait = Duration::from_millis(due.map_or(0, |due| due - now));
            tokio::select! {
                queued = queue.recv() => {
                    let Some(queued) = queued else { return };
                    own.take(queued);
                    while let Ok(queued) = queue.try_recv() {
                        own.take(queued);
                    }
                }
                Some((works, answer)) = own.under_way.next() => own.answered(works, answer),
                Some(work) = own.paused.next() => own.offer(work),
                () = tokio::time::sleep(wait), if due.is_some() => {}
            }
        }
    }

    fn take(&mut self, (slot, cell): Queued) {
        let Some(shell) = self.shell.upgrade() else { return };
        let mut entry = cell.lock();
        let Some(proposal) = entry.take_wanted() else {
            entry.finish_commit();
            return;
        };
        drop(entry);
        self.offer(Work {
            slot,
            cell,
            proposal,
            parts: VecDeque::new(),
            revision: None,
            finals: Vec::new(),
            sent: 0,
            is_stale: false,
            gives_up_at: shell.timers.now() + shell.assignment_timeout_ms() * UNSENT_FACTOR,
            was_sent: false,
        });
    }

    fn offer(&mut self, work: Work) {
        let Some(shell) = self.shell.upgrade() else { return };
        if self.waiting.is_empty() {
            self.since = shell.timers.now();
        }
        self.waiting.push_back(work);
    }

    /// One intent of what waits, as much as it may carry.
    fn send(&mut self, shell: &Arc<Shell>, now: Millis) {
        let image = shell.image();
        let (mut works, mut changes, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(mut work) = self.waiting.pop_front() {
            if let Some(outcome) = work.decided(&image, now) {
                self.finish(shell, work, outcome);
                continue;
            }
            let before = changes.len();
            work.changes(&image, &mut changes, &mut bytes);
            work.sent = changes.len() - before;
            if work.sent == 0 {
                self.waiting.push_front(work);
                break;
            }
            if !std::mem::replace(&mut work.was_sent, true) {
                work.gives_up_at = now + shell.assignment_timeout_ms();
            }
            works.push(work);
        }
        self.since = now;
        if works.is_empty() {
            return;
        }
        self.last = Some(now);
        let submitted: ChangesFuture = shell.submit_changes(changes);
        self.under_way.push(Box::pin(async move { (works, submitted.await) }));
    }

    fn answered(&mut self, works: Vec<Work>, answer: Result<IntentAnswer, SubmitError>) {
        let Some(shell) = self.shell.upgrade() else { return };
        if let Err(error) = &answer {
            tracing::warn!(%error, groups = works.len(), "it is not known whether groups' states are committed");
        }
        let mut results = match answer {
            Ok(IntentAnswer::Results(results)) => results.into_iter(),
            _ => Vec::new().into_iter(),
        };
        for mut work in works {
            let own: Vec<_> = results.by_ref().take(work.sent).collect();
            let is_complete = own.len() == work.sent;
            work.sent = 0;
            match own.into_iter().find_map(Result::err) {
                None if !is_complete => {
                    work.is_stale = false;
                    self.again(work);
                }
                None => {
                    work.committed();
                    if work.parts.is_empty() {
                        self.finish(&shell, work, Outcome::Committed);
                    } else {
                        self.waiting.push_front(work);
                    }
                }
                Some(IntentError::Metadata(MetadataError::StaleGroup)) => {
                    work.is_stale = true;
                    self.again(work);
                }
                Some(error) => {
                    tracing::error!(group = work.cell.group, %error, "the controller refused a group's state");
                    self.finish(&shell, work, Outcome::Failed(GroupError::NotAvailable));
                }
            }
        }
    }

    /// After a moment, from its beginning.
    fn again(&mut self, mut work: Work) {
        work.parts.clear();
        work.revision = None;
        self.paused.push(Box::pin(async move {
            tokio::time::sleep(RETRY_PAUSE).await;
            work
        }));
    }

    fn finish(&mut self, shell: &Arc<Shell>, work: Work, outcome: Outcome) {
        let Work { slot, cell, proposal, .. } = work;
        match proposal {
            Proposal::Write { attempt, write } => {
                let outcome = match outcome {
                    Outcome::Committed => {
                        shell.counts.commit(write.rebalance.as_ref());
                        Some(Ok(()))
                    }
                    Outcome::Failed(error) => Some(Err(error)),
                    Outcome::Foreign => None,
                };
                match outcome {
                    Some(outcome) => {
                        shell.with(&slot, &cell, |entry, now| ((), entry.machine.committed(attempt, outcome, now)));
                    }
                    None => shell.reload(&slot, &cell),
                }
            }
            Proposal::Remove(sender) => {
                let outcome = match outcome {
                    Outcome::Committed => Ok(()),
                    Outcome::Failed(error) => Err(error),
                    Outcome::Foreign => {
                        shell.reload(&slot, &cell);
                        Err(GroupError::NotCoordinator)
                    }
                };
                let _gone = sender.send(outcome);
            }
        }
        let wants_more = cell.lock().finish_commit();
        if wants_more {
            self.take((slot, cell));
        }
    }
}

impl Work {
    /// What needs no command (any more).
    fn decided(&self, image: &Image, now: Millis) -> Option<Outcome> {
        let is_led = image.partition(self.slot.id).is_some_and(|place| place.leader_epoch == self.slot.epoch);
        if self.slot.is_gone() || !is_led {
            return Some(Outcome::Failed(GroupError::NotCoordinator));
        }
        let stored = image.groups.groups.get(&self.cell.group).map_or(0, |stored| stored.revision);
        let mut entry = self.cell.lock();
        let landed = match &self.proposal {
            Proposal::Remove(_) => stored == 0 && entry.revisions.may_be_gone(),
            Proposal::Write { .. } => self.finals.contains(&stored),
        };
        if landed {
            entry.revisions = Revisions::at(stored);
            return Some(Outcome::Committed);
        }
        // What looks like another's may be this coordinator's own, of a group of this name that is deleted by now: only
        // where the change was refused as well is it another's. Where it was refused for all its time and nothing is to
        // be seen, the group is gone.
        if self.is_stale && !entry.revisions.is_own(stored) {
            return Some(Outcome::Foreign);
        }
        let gives_up = if self.is_stale { Outcome::Foreign } else { Outcome::Failed(GroupError::NotAvailable) };
        (now >= self.gives_up_at).then_some(gives_up)
    }

    /// What was sent is committed.
    fn committed(&self) {
        let revision = match &self.proposal {
            Proposal::Write { .. } => self.revision.unwrap_or_default(),
            Proposal::Remove(_) => 0,
        };
        self.cell.lock().revisions = Revisions::at(revision);
    }

    /// The next changes, as many as there is room for; always one if there is nothing else.
    fn changes(&mut self, image: &Image, changes: &mut Vec<GroupChange>, bytes: &mut usize) {
        let stored = image.groups.groups.get(&self.cell.group);
        let is_begun = self.revision.is_some();
        let mut expected = self.revision.unwrap_or_else(|| {
            let stored = stored.map_or(0, |stored| stored.revision);
            self.cell.lock().revisions.expected(stored)
        });
        if let Proposal::Write { write, .. } = &self.proposal
            && !is_begun
        {
            // Of an image that is behind nobody knows what the group holds still.
            let stored = stored.filter(|stored| stored.revision == expected);
            let is_held = |id, bytes: &_| {
                stored.and_then(|stored| stored.blobs.get(&id)).is_some_and(|blob| blob.bytes == *bytes)
            };
            self.parts = split(write, is_held);
        }
        loop {
            let write = match &self.proposal {
                Proposal::Write { .. } if self.parts.is_empty() => break,
                Proposal::Write { .. } => self.parts.front(),
                Proposal::Remove(_) => None,
            };
            let size = encoded_size(&write).ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
            if *bytes > 0 && bytes.saturating_add(size) > INTENT_BYTES_MAX {
                break;
            }
            *bytes = bytes.saturating_add(size);
            let revision = self.slot.next_revision();
            let is_removal = write.is_none();
            self.cell.lock().revisions.offer(revision, is_removal);
            changes.push(GroupChange {
                group: self.cell.group.clone(),
                coordinator: self.slot.id,
                leader_epoch: self.slot.epoch,
                expected,
                revision,
                write: self.parts.pop_front(),
            });
            expected = revision;
            self.revision = Some(revision);
            if is_removal {
                return;
            }
            if self.parts.is_empty() {
                self.finals.push(revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_goes_at_once_and_those_close_behind_it_together() {
        assert_eq!(due(100, None, 0), Some(100));
        assert_eq!(due(100, Some(50), 0), Some(100));
        assert_eq!(due(100, Some(95), 0), Some(105), "ten milliseconds after the last");
        assert_eq!(due(100, Some(99), 1), Some(120), "one is under way: not without need");
        assert_eq!(due(100, Some(99), COMMITS_IN_FLIGHT_MAX), None);
    }
}
