//! All clients of a run together.

use super::client_log::ClientLogs;
use super::progress::Progress;
use super::topics::Places;
use super::{group, producer, reader};
use crate::clock::Clock;
use crate::history::History;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const READERS: usize = 2;
/// The last of them hangs when it is told to.
const MEMBERS: usize = 3;

pub struct Load {
    pub progress: Arc<Progress>,
    pub places: Arc<Places>,
    producers: Vec<producer::Running>,
    readers: Vec<reader::Running>,
    members: Vec<group::Running>,
}

/// None yet.
pub fn progress() -> Progress {
    Progress::new(Places::new().count(), READERS + 1)
}

impl Load {
    /// `rate`: records a second, over all producers.
    pub fn start(
        bootstrap: &str,
        rate: u32,
        progress: Arc<Progress>,
        clock: Clock,
        logs: &ClientLogs,
    ) -> anyhow::Result<Load> {
        let places = Arc::new(Places::new());
        let count = u16::try_from(producer::SPECS.len())?;
        let rate = f64::from(rate) / f64::from(count);
        let producers = (0..count)
            .map(|number| producer::start(number, rate, bootstrap, &places, &progress, clock, logs))
            .collect::<anyhow::Result<_>>()?;
        let readers = (0..READERS)
            .map(|n| reader::start(n, bootstrap, &places, &progress, clock, logs))
            .collect::<anyhow::Result<_>>()?;
        let members = (0..MEMBERS)
            .map(|n| {
                group::start(
                    &group::Setup { number: n, may_hang: n + 1 == MEMBERS, as_reader: READERS },
                    bootstrap,
                    &places,
                    &progress,
                    clock,
                    logs,
                )
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Load { progress, places, producers, readers, members })
    }

    /// Ends the producers, after every outcome or a deadline; the readers go on.
    pub fn stop_sending(&mut self, history: &mut History) {
        self.progress.stop_sending.store(true, Ordering::Relaxed);
        history.places = self.places.names.clone();
        history.promises = producer::SPECS.iter().map(|spec| spec.promise).collect();
        for producer in self.producers.drain(..) {
            history.sends.extend(producer.finish());
        }
    }

    /// Errors: a client hangs.
    pub fn stop_reading(self, history: &mut History) -> anyhow::Result<()> {
        self.progress.stop_reading.store(true, Ordering::Relaxed);
        history.readers = self.readers.into_iter().map(reader::Running::finish).collect::<anyhow::Result<_>>()?;
        for member in self.members {
            let seen = member.finish();
            history.members.push(seen.reader);
            history.commits.extend(seen.commits);
            history.ownerships.extend(seen.ownerships);
            history.hangs.extend(seen.hangs);
        }
        Ok(())
    }
}
