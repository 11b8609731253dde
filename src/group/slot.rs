//! One offsets partition that this broker leads, in one leader epoch, and the groups it coordinates by that.

use super::cell::{Cell, Held};
use super::coordinator::GroupError;
use super::log::{LoadedOffsets, OffsetsLog};
use super::machine::{Machine, Millis};
use super::offsets::Offsets;
use super::revisions::Revisions;
use super::settings::{GROUPS_PER_PARTITION_MAX, Rules};
use crate::ids::{LeaderEpoch, TopicPartition};
use crate::metadata::image::Image;
use crate::metadata::image::groups::Group;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

type Cells = BTreeMap<String, Arc<Cell>>;

/// Invariant: once `gone`, it stays so; nothing is answered well from then on.
pub struct Slot {
    pub id: TopicPartition,
    pub epoch: LeaderEpoch,
    pub log: Arc<dyn OffsetsLog>,
    gone: AtomicBool,
    held: Held,
    /// The highest revision that a write of any of the groups carried.
    revision: AtomicU64,
    /// `None` while loading.
    cells: Mutex<Option<Cells>>,
    /// Somebody comes back for offsets of deleted topics that are left; see `burial.rs`.
    pub burial_is_due: AtomicBool,
}

impl Slot {
    pub fn loading(id: TopicPartition, epoch: LeaderEpoch, log: Arc<dyn OffsetsLog>, held: Held) -> Slot {
        Slot {
            id,
            epoch,
            log,
            gone: AtomicBool::new(false),
            held,
            revision: AtomicU64::new(0),
            cells: Mutex::new(None),
            burial_is_due: AtomicBool::new(false),
        }
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// From now on nothing more is acknowledged; [`Slot::dissolve`] tells those who wait.
    pub fn retire(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    /// Offsets from the partition, membership from the image: the groups as the last coordinator left them.
    pub fn fill<'a>(
        &self,
        rules: Rules,
        mut offsets: LoadedOffsets,
        groups: impl Iterator<Item = (&'a String, &'a Arc<Group>)>,
        image: &Arc<Image>,
        now: Millis,
    ) -> Vec<Arc<Cell>> {
        let mut cells = Cells::new();
        for (name, state) in groups {
            self.saw(state.revision);
            let machine = Machine::restore(name, rules, state, image, now);
            let cell = Cell::new(name.clone(), machine, offsets.remove(name).unwrap_or_default(), self.held.clone());
            cell.lock().revisions = Revisions::at(state.revision);
            cells.insert(name.clone(), Arc::new(cell));
        }
        for (name, offsets) in offsets {
            cells.insert(name.clone(), Arc::new(Cell::new(name, Machine::new(rules, now), offsets, self.held.clone())));
        }
        let all = cells.values().cloned().collect();
        *self.cells.lock() = Some(cells);
        all
    }

    /// The image has this revision of one of the groups.
    pub fn saw(&self, revision: u64) {
        self.revision.fetch_max(revision, Ordering::SeqCst);
    }

    /// A number that no write in this leader epoch carried before.
    pub fn next_revision(&self) -> u64 {
        self.revision.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn group(&self, group: &str) -> Result<Option<Arc<Cell>>, GroupError> {
        self.check()?;
        let cells = self.cells.lock();
        Ok(cells.as_ref().ok_or(GroupError::Loading)?.get(group).cloned())
    }

    pub fn group_or_new(&self, group: &str, rules: Rules, now: Millis) -> Result<Arc<Cell>, GroupError> {
        self.check()?;
        let mut cells = self.cells.lock();
        let cells = cells.as_mut().ok_or(GroupError::Loading)?;
        if let Some(cell) = cells.get(group) {
            return Ok(cell.clone());
        }
        if cells.len() >= GROUPS_PER_PARTITION_MAX {
            return Err(GroupError::NotAvailable);
        }
        let cell =
            Arc::new(Cell::new(group.to_string(), Machine::new(rules, now), Offsets::default(), self.held.clone()));
        cells.insert(group.to_string(), cell.clone());
        Ok(cell)
    }

    /// Takes a group that ended out of the map, unless another has its name by now.
    pub fn forget(&self, cell: &Arc<Cell>) {
        if let Some(cells) = self.cells.lock().as_mut()
            && cells.get(&cell.group).is_some_and(|current| Arc::ptr_eq(current, cell))
        {
            cells.remove(&cell.group);
        }
    }

    /// All groups; `None` while loading.
    pub fn all(&self) -> Option<Vec<Arc<Cell>>> {
        Some(self.cells.lock().as_ref()?.values().cloned().collect())
    }

    /// Everyone who waits is sent to the new coordinator.
    pub fn dissolve(&self) {
        let cells = self.cells.lock().take().unwrap_or_default();
        for cell in cells.values() {
            let mut entry = cell.lock();
            let effects = entry.machine.end(GroupError::NotCoordinator);
            entry.perform(effects);
        }
    }

    fn check(&self) -> Result<(), GroupError> {
        if self.is_gone() { Err(GroupError::NotCoordinator) } else { Ok(()) }
    }
}
