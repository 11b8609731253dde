//! What the clients have got done so far, for the status line and for the wait after healing.

use crate::history::Place;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Progress {
    pub acked: AtomicU64,
    pub unknown: AtomicU64,
    pub failed: AtomicU64,
    pub read: AtomicU64,
    /// The page-cache topics are given up.
    pub no_page_cache: AtomicBool,
    /// One member of the group does not poll.
    pub hung: AtomicBool,
    pub stop_sending: AtomicBool,
    pub stop_reading: AtomicBool,
    /// Of each place: when the newest send that was acked by acks=all was sent; 0: none yet.
    newest: Vec<AtomicU32>,
    /// Of each reader (the group counts as one) and place: the offset after the newest read.
    reached: Vec<Vec<AtomicU64>>,
}

impl Progress {
    pub fn new(places: Place, readers: usize) -> Progress {
        let newest = (0..places).map(|_| AtomicU32::new(0)).collect();
        let reached = (0..readers).map(|_| (0..places).map(|_| AtomicU64::new(0)).collect()).collect();
        Progress { newest, reached, ..Progress::default() }
    }

    pub fn acked_by_all(&self, place: Place, sent_ms: u32) {
        self.newest[usize::from(place)].fetch_max(sent_ms, Ordering::Relaxed);
    }

    /// Places that have acked nothing that was sent at `since_ms` or later.
    pub fn silent_since(&self, since_ms: u32) -> Vec<Place> {
        (0..)
            .zip(&self.newest)
            .filter(|(_, at)| at.load(Ordering::Relaxed) < since_ms)
            .map(|(place, _)| place)
            .collect()
    }

    pub fn read(&self, reader: usize, place: Place, offset: i64) {
        self.read.fetch_add(1, Ordering::Relaxed);
        self.reached[reader][usize::from(place)].fetch_max(u64::try_from(offset + 1).unwrap_or(0), Ordering::Relaxed);
    }

    /// (reader, place, offset reached) of those that are not at the high watermark yet.
    pub fn behind(&self, high_watermarks: &BTreeMap<Place, i64>) -> Vec<(usize, Place, u64)> {
        let mut behind = Vec::new();
        for (reader, reached) in self.reached.iter().enumerate() {
            for (place, end) in high_watermarks {
                let at = reached[usize::from(*place)].load(Ordering::Relaxed);
                if at < u64::try_from(*end).unwrap_or(0) {
                    behind.push((reader, *place, at));
                }
            }
        }
        behind
    }
}
