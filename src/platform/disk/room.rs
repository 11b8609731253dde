//! The free room of one file system, shared by those who fill it: some of it is kept for one of them.
//!
//! ```text
//!   free room  ├── kept: for whoever called `keep` ──┤── the others', who `ask` first ──┤
//! ```
//!
//! Looking costs a system call, so an answer holds for a few milliseconds, less what was granted meanwhile: asking costs
//! an append nothing that can be measured. A quota is not seen: what it refuses, the write itself tells.

use super::free_space;
use crate::platform::clock;
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So long an answer holds while there is room by it.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// And so long while there is none: refusals do not look each time either.
const LOOK_EVERY_FULL: Duration = Duration::from_millis(1);

type Measure = Box<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// Invariant: `left` is at most what was free at the last look, less what is kept and what was granted since.
pub struct Room {
    measure: Measure,
    began: Instant,
    kept: AtomicU64,
    left: AtomicI64,
    /// Nanoseconds since `began` until which `left` holds.
    holds_until: AtomicU64,
    /// When the last look was. Held while looking: one looks for all.
    looked: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("kept", &self.kept).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Room {
    /// The room of the file system that `path` is on, of which nothing is kept yet.
    pub fn of(path: &Path) -> Arc<Room> {
        let path = path.to_path_buf();
        Room::measured_by(move || free_space(&path))
    }

    /// As [`Room::of`], with another way to look.
    pub fn measured_by(measure: impl Fn() -> io::Result<u64> + Send + Sync + 'static) -> Arc<Room> {
        Arc::new(Room {
            measure: Box::new(measure),
            began: clock::now(),
            kept: AtomicU64::new(0),
            left: AtomicI64::new(0),
            holds_until: AtomicU64::new(0),
            looked: Mutex::new(None),
        })
    }

    /// Bytes that are free now, those kept included.
    pub fn free(&self) -> io::Result<u64> {
        (self.measure)()
    }

    /// From now on the others are refused what would leave less than `bytes` free.
    pub fn keep(&self, bytes: u64) {
        let mut looked = self.looked.lock();
        self.kept.store(bytes, Ordering::Relaxed);
        self.holds_until.store(0, Ordering::Release);
        *looked = None;
    }

    /// Whether `bytes` may be written by somebody for whom nothing is kept; `StorageFull` if not.
    pub fn ask(&self, bytes: u64) -> io::Result<()> {
        let wanted = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.holds() && self.take(wanted) {
            return Ok(());
        }
        let mut looked = self.looked.lock();
        let now = clock::now();
        let age_max = if self.holds() { LOOK_EVERY_FULL } else { LOOK_EVERY };
        if looked.is_none_or(|at| now.saturating_duration_since(at) >= age_max) {
            // A disk that cannot be asked says so when it is written to.
            let Ok(free) = self.free() else { return Ok(()) };
            let kept = i64::try_from(self.kept.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            self.left.store(i64::try_from(free).unwrap_or(i64::MAX).saturating_sub(kept), Ordering::Release);
            let until = now.saturating_duration_since(self.began) + LOOK_EVERY;
            self.holds_until.store(nanoseconds(until), Ordering::Release);
            *looked = Some(now);
        }
        if self.take(wanted) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn holds(&self) -> bool {
        nanoseconds(clock::now().saturating_duration_since(self.began)) < self.holds_until.load(Ordering::Acquire)
    }

    /// Takes from what is left; a refusal takes nothing.
    fn take(&self, wanted: i64) -> bool {
        if self.left.fetch_sub(wanted, Ordering::Relaxed) >= wanted {
            return true;
        }
        self.left.fetch_add(wanted, Ordering::Relaxed);
        false
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::disk::is_full;

    /// A file system of so many free bytes, and how often it was looked at.
    fn disk(free: u64) -> (Arc<Room>, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (free, looks) = (Arc::new(AtomicU64::new(free)), Arc::new(AtomicU64::new(0)));
        let (now, count) = (free.clone(), looks.clone());
        let room = Room::measured_by(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(now.load(Ordering::Relaxed))
        });
        (room, free, looks)
    }

    /// Asks until the answer is the expected one: an old one may hold for some milliseconds.
    fn soon(room: &Room, bytes: u64, granted: bool) {
        let until = clock::now() + Duration::from_secs(10);
        while room.ask(bytes).is_ok() != granted {
            assert!(clock::now() < until, "asked for {bytes}, wanted {granted}: {room:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_kept_is_refused() {
        let (room, free, _) = disk(1000);
        room.ask(1000).unwrap();
        room.keep(600);
        assert!(is_full(&room.ask(401).unwrap_err()));
        soon(&room, 400, true);
        free.store(599, Ordering::Relaxed);
        soon(&room, 1, false);
        free.store(700, Ordering::Relaxed);
        soon(&room, 100, true);
    }

    #[test]
    fn what_was_granted_since_the_last_look_counts() {
        let (room, free, _) = disk(100);
        room.ask(60).unwrap();
        free.store(40, Ordering::Relaxed);
        assert!(room.ask(60).is_err(), "60 of the 100 are spoken for, whatever the disk shows by now");
    }

    #[test]
    fn asking_often_looks_seldom() {
        let (room, _, looks) = disk(1 << 40);
        let began = clock::now();
        (0..100_000).for_each(|_| room.ask(1).unwrap());
        let most = began.elapsed().as_millis() / LOOK_EVERY.as_millis() + 2;
        assert!(u128::from(looks.load(Ordering::Relaxed)) <= most);
    }

    #[test]
    fn a_disk_that_cannot_be_asked_is_left_to_tell_itself() {
        Room::measured_by(|| Err(io::ErrorKind::Other.into())).ask(u64::MAX).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Room::of(folder.path()).ask(1).unwrap();
        assert!(Room::of(folder.path()).ask(1 << 62).is_err());
    }
}
