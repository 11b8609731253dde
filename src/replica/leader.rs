//! The leader's decisions for one partition in one leader epoch: pure; events in, effects out.
//!
//! ```text
//! append, flush, follower's fetch ─→ high watermark = min over maximal ISR, while the committed ISR is large enough
//! follower's fetch, tick          ─→ ISR proposal (one under way)   image ─→ committed ISR
//! ```

use super::high_watermark::lowest;
use super::isr::{Peers, Pending, Progress, Stage, Verdict};
use crate::ids::*;
use crate::metadata::command::IsrProposal;
use crate::metadata::image::topics::Partition as PartitionImage;
use crate::platform::bugs::{self, Bug};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// After a refusal the leader thinks again, but not at the rate of fetches.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// What the shell must do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Effects {
    /// It rose to this.
    pub high_watermark: Option<Offset>,
    pub propose: Option<IsrProposal>,
    /// The ISR is below its minimum: what waits for the high watermark is told so.
    pub fail_parked: bool,
}

/// Where a log ends: all of it, and the part that counts for the high watermark (synced, or all in page-cache topics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub log: Offset,
    pub counted: Offset,
}

/// A follower's fetch that agrees with the leader's log.
#[derive(Clone, Copy, Debug)]
pub(super) struct FollowerFetch {
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// Its durable end.
    pub end: Offset,
    pub log_start: Offset,
}

/// Invariants: `high_watermark` never goes down; it rises only while the committed ISR has its minimum, and only to what
/// all of the maximal ISR (committed ∪ pending additions) holds; `me` ∈ `isr`.
pub(super) struct LeaderState {
    id: TopicPartition,
    me: BrokerId,
    epoch: LeaderEpoch,
    /// The log's end when this epoch began.
    epoch_start: Offset,
    partition_epoch: PartitionEpoch,
    isr: Vec<BrokerId>,
    /// The other replicas.
    others: Vec<Progress>,
    /// Bounded by the replica count already.
    min_isr: usize,
    ends: Ends,
    high_watermark: Offset,
    pending: Option<Pending>,
    not_before: Option<Instant>,
    lag_max: Duration,
}

/// How leadership begins.
pub(super) struct Beginning<'a> {
    pub id: TopicPartition,
    pub me: BrokerId,
    pub image: &'a PartitionImage,
    pub min_isr: usize,
    pub ends: Ends,
    /// What this node knew before.
    pub high_watermark: Offset,
    pub lag_max: Duration,
}

impl LeaderState {
    pub fn begin(beginning: Beginning<'_>, now: Instant) -> (LeaderState, Effects) {
        let Beginning { id, me, image, min_isr, ends, high_watermark, lag_max } = beginning;
        let mut state = LeaderState {
            id,
            me,
            epoch: image.leader_epoch,
            epoch_start: ends.log,
            partition_epoch: image.partition_epoch,
            isr: image.isr.clone(),
            others: Vec::new(),
            min_isr,
            ends,
            high_watermark,
            pending: None,
            not_before: None,
            lag_max,
        };
        state.set_replicas(&image.replicas, now);
        let effects = state.advance();
        (state, effects)
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    pub fn is_in_isr(&self, broker: BrokerId) -> bool {
        self.isr.contains(&broker)
    }

    /// The other replicas, in replica order.
    pub fn followers(&self) -> impl Iterator<Item = &Progress> {
        self.others.iter()
    }

    pub fn is_under_replicated(&self) -> bool {
        self.isr.len() <= self.others.len()
    }

    /// acks=all may be accepted. Pending members do not count.
    pub fn has_min_isr(&self) -> bool {
        self.isr.len() >= self.min_isr || bugs::is(Bug::FenceWithoutEpoch)
    }

    /// The high watermark is known to be no lower than any earlier leader's (KIP-207).
    pub fn knows_high_watermark(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }

    pub fn is_replica(&self, broker: BrokerId) -> bool {
        self.others.iter().any(|p| p.broker == broker)
    }

    /// A tick may have something to do: a replica outside the ISR or behind, or a proposal under way.
    pub fn needs_attention(&self) -> bool {
        self.pending.is_some()
            || self.others.iter().any(|p| p.end != Some(self.ends.log) || !self.isr.contains(&p.broker))
    }

    pub fn on_append(&mut self, ends: Ends, now: Instant) -> Effects {
        for follower in &mut self.others {
            follower.on_append(self.ends.log, now);
        }
        self.on_own_ends(ends)
    }

    /// A flush ended, or the log was configured anew.
    pub fn on_own_ends(&mut self, ends: Ends) -> Effects {
        let counted_more = ends.counted != self.ends.counted;
        self.ends = ends;
        if counted_more { self.advance() } else { Effects::default() }
    }

    pub fn on_follower_fetch(&mut self, fetch: FollowerFetch, now: Instant, peers: &dyn Peers) -> Effects {
        let log_end = self.ends.log;
        let Some(progress) = self.others.iter_mut().find(|p| p.broker == fetch.broker) else {
            return Effects::default();
        };
        assert!(fetch.end <= log_end, "only an agreeing fetch is counted");
        progress.on_fetch(fetch.broker_epoch, fetch.end, fetch.log_start, log_end, now);
        let mut effects = self.advance();
        if !self.isr.contains(&fetch.broker) {
            effects.propose = self.decide(now, peers);
        }
        effects
    }

    /// A newer image of this partition in the same leader epoch.
    pub fn on_image_change(&mut self, image: &PartitionImage, min_isr: usize, now: Instant) -> Effects {
        assert_eq!(image.leader_epoch, self.epoch, "another epoch is another leadership");
        if image.partition_epoch > self.partition_epoch {
            self.partition_epoch = image.partition_epoch;
            self.isr.clone_from(&image.isr);
            self.set_replicas(&image.replicas, now);
            // Whatever was proposed under an older partition epoch is committed and seen, or never will be.
            self.pending = None;
        }
        self.min_isr = min_isr;
        let mut effects = self.advance();
        effects.fail_parked = !self.has_min_isr();
        effects
    }

    pub fn on_tick(&mut self, now: Instant, peers: &dyn Peers) -> Effects {
        let propose = match &mut self.pending {
            Some(pending) if pending.stage == Stage::Again => {
                pending.stage = Stage::InFlight;
                Some(pending.proposal.clone())
            }
            Some(_) => None,
            None => self.decide(now, peers),
        };
        match bugs::is(Bug::FenceWithoutEpoch) {
            true => Effects { propose, ..self.advance() },
            false => Effects { propose, ..Effects::default() },
        }
    }

    /// The controller's answer to the proposal made under `partition_epoch`.
    pub fn on_verdict(&mut self, partition_epoch: PartitionEpoch, verdict: Verdict, now: Instant) -> Effects {
        let Some(pending) = &mut self.pending else { return Effects::default() };
        if pending.proposal.partition_epoch != partition_epoch || pending.stage != Stage::InFlight {
            return Effects::default();
        }
        match verdict {
            Verdict::Accepted | Verdict::Stale => pending.stage = Stage::AwaitingImage,
            Verdict::Unknown => {
                pending.unknown = true;
                pending.stage = Stage::Again;
            }
            // An earlier attempt may still land. Proposing without the additions moves the partition epoch, and then
            // it cannot; until the image shows that, the additions count.
            Verdict::Refused if pending.unknown => {
                pending.stage = Stage::Again;
                let stands = &self.isr;
                pending.proposal.isr.retain(|(broker, _)| stands.contains(broker));
            }
            Verdict::Refused => {
                self.pending = None;
                self.not_before = Some(now + REFUSED_PAUSE);
                return self.advance();
            }
        }
        Effects::default()
    }

    fn set_replicas(&mut self, replicas: &[BrokerId], now: Instant) {
        let (me, mut known) = (self.me, std::mem::take(&mut self.others));
        self.others = replicas
            .iter()
            .filter(|broker| **broker != me)
            .map(|broker| match known.iter().position(|p| p.broker == *broker) {
                Some(at) => known.swap_remove(at),
                None => Progress::new(*broker, now),
            })
            .collect();
    }

    fn end_of(&self, broker: BrokerId) -> Option<Offset> {
        if broker == self.me {
            return Some(self.ends.counted);
        }
        self.others.iter().find(|p| p.broker == broker)?.end
    }

    fn advance(&mut self) -> Effects {
        let mut effects = Effects::default();
        if !self.has_min_isr() {
            return effects;
        }
        let additions = || self.pending.iter().flat_map(|pending| &pending.additions);
        let maximal_isr = || self.isr.iter().chain(additions());
        let held = lowest(maximal_isr().map(|broker| self.end_of(*broker)));
        if let Some(held) = held.filter(|held| *held > self.high_watermark) {
            assert!(
                maximal_isr().all(|broker| self.end_of(*broker) >= Some(held)),
                "the whole maximal ISR holds what is below the high watermark"
            );
            self.high_watermark = held;
            effects.high_watermark = Some(held);
        }
        effects
    }

    /// Rule 3: its durable end, told in this leader epoch under its current broker epoch, has reached the high watermark
    /// and this epoch's start.
    fn may_join(&self, follower: &Progress, now: Instant, peers: &dyn Peers) -> bool {
        follower.end.is_some_and(|end| end >= self.high_watermark && end >= self.epoch_start)
            && follower.broker_epoch.is_some()
            && follower.broker_epoch == peers.active(follower.broker)
            && !follower.is_silent(peers.last_seen(follower.broker), now, self.lag_max)
    }

    fn decide(&mut self, now: Instant, peers: &dyn Peers) -> Option<IsrProposal> {
        if self.pending.is_some() || self.not_before.is_some_and(|time| now < time) {
            return None;
        }
        let (log_end, lag_max) = (self.ends.log, self.lag_max);
        let mut isr = Vec::with_capacity(self.others.len() + 1);
        let mut additions = Vec::new();
        let mut changed = false;
        isr.push((self.me, peers.registered(self.me)?));
        for follower in &self.others {
            if !self.isr.contains(&follower.broker) {
                if self.may_join(follower, now, peers) {
                    isr.push((follower.broker, follower.broker_epoch?));
                    additions.push(follower.broker);
                    changed = true;
                }
            } else if follower.is_lagging(log_end, peers.last_seen(follower.broker), now, lag_max) {
                changed = true;
            } else {
                let epoch = follower.broker_epoch.or_else(|| peers.registered(follower.broker))?;
                isr.push((follower.broker, epoch));
            }
        }
        if !changed {
            return None;
        }
        for follower in self.others.iter_mut().filter(|p| additions.contains(&p.broker)) {
            follower.grace(now);
        }
        let proposal =
            IsrProposal { partition: self.id, leader_epoch: self.epoch, partition_epoch: self.partition_epoch, isr };
        if bugs::is(Bug::FenceWithoutEpoch) {
            self.isr.retain(|broker| proposal.isr.iter().any(|(member, _)| member == broker));
        }
        self.pending = Some(Pending { proposal: proposal.clone(), additions, stage: Stage::InFlight, unknown: false });
        Some(proposal)
    }
}
