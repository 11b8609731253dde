//! What happens without a request: deadlines, topics that change, the end.

use super::Group;
use super::member::Member;
use super::regex::Pattern;
use super::requests::HeartbeatAnswer;
use super::target;
use crate::group::coordinator::GroupError;
use crate::group::machine::{Effect, Millis};
use crate::ids::TopicId;
use crate::metadata::command::ConfigResource;
use crate::metadata::group_change::{MemberState, RebalanceReason};
use imbl::ordmap::DiffItem;
use std::collections::BTreeMap;

impl Group {
    /// Session timeout and heartbeat interval in milliseconds: the group's own configs over the brokers'.
    pub(super) fn times(&self) -> (Millis, i32) {
        let rules = &self.rules.consumer;
        let own = self.image.configs.overrides.get(&ConfigResource::Group(self.name.clone()));
        let own = |name: &str| own?.get(name)?.trim().parse::<i32>().ok();
        let session = own(crate::config::group::SESSION_TIMEOUT).unwrap_or(rules.session_ms);
        let interval = own(crate::config::group::HEARTBEAT_INTERVAL).unwrap_or(rules.interval_ms);
        // Bounds of the brokers that became narrower since count.
        let session = session.clamp(rules.session_min_ms, rules.session_max_ms);
        let interval = interval.clamp(rules.interval_min_ms, rules.interval_max_ms);
        // Bounds, or values from before they were checked: members that are told to be silent for a session would expire
        // and join again without end.
        let interval = if interval < session { interval } else { (session / 3).max(1) };
        (Millis::try_from(session).unwrap_or(0), interval)
    }

    pub(super) fn refresh_session(&mut self, id: &str, now: Millis) {
        let (session, _) = self.times();
        let Some(member) = self.members.get_mut(id) else { return };
        let own = member.stored.classic.as_ref().map(|classic| classic.session_timeout_ms);
        let session = own.map_or(session, |own| Millis::try_from(own).unwrap_or(0));
        member.session_deadline = now + session;
        self.expect_by(now + session);
    }

    pub(super) fn expect_by(&mut self, deadline: Millis) {
        self.soonest = Some(self.soonest.map_or(deadline, |soonest| soonest.min(deadline)));
    }

    /// The coordinator itself was asleep, or is new: it has no right to call its members silent.
    pub fn restart_sessions(&mut self, now: Millis) {
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.refresh_session(&id, now);
            let Some(member) = self.members.get_mut(&id) else { continue };
            if member.stored.state == MemberState::Unrevoked && !member.is_classic() {
                member.rebalance_deadline = Some(now);
            }
            self.await_anew(&id, now);
        }
    }

    /// What is expected of the member is expected within its rebalance timeout from now on.
    pub(super) fn await_anew(&mut self, id: &str, now: Millis) {
        let Some(member) = self.members.get_mut(id) else { return };
        let deadline = now + member.rebalance_timeout();
        if let Some(until) = &mut member.rebalance_deadline {
            *until = deadline;
            self.expect_by(deadline);
        }
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Millis) -> Vec<Effect> {
        if self.death.is_some() {
            return Vec::new();
        }
        if self.soonest.is_some_and(|soonest| soonest <= now) {
            self.expire(now);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        if self.retry_at.is_none() {
            self.settle(now);
        }
        if self.empty_check.is_some_and(|at| at <= now) && self.members.is_empty() {
            self.empty_check = Some(now + self.rules.empty_check_ms);
            self.effects.push(Effect::LongEmpty);
        }
        self.take_effects()
    }

    fn expire(&mut self, now: Millis) {
        let mut gone = Vec::new();
        for (id, member) in &self.members {
            if member.waiting.is_none() && member.session_deadline <= now {
                gone.push((id.clone(), RebalanceReason::MemberTimedOut(id.clone())));
            } else if member.awaited_until().is_some_and(|deadline| deadline <= now) {
                gone.push((id.clone(), RebalanceReason::MemberTooSlow(id.clone())));
            }
        }
        for (id, reason) in gone {
            self.take_out(&id, &GroupError::UnknownMember);
            self.because(reason);
        }
        let sessions = self.members.values().filter(|m| m.waiting.is_none()).map(|m| m.session_deadline);
        let others = self.members.values().filter_map(Member::awaited_until);
        self.soonest = sessions.chain(others).min();
    }

    /// When [`Group::tick`] has something to do, if nothing happens before; perhaps too early.
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.death.is_some() {
            return None;
        }
        let own = [self.soonest, self.retry_at, self.empty_check];
        own.into_iter().flatten().min()
    }

    /// Topics came, went or grew.
    pub fn topics_changed(&mut self, now: Millis) -> Vec<Effect> {
        if self.death.is_some() {
            return Vec::new();
        }
        let gone = self.look_at_topics();
        if self.members.is_empty() {
            return Vec::new();
        }
        let shape = target::shape(&self.members, &self.patterns, &self.image);
        if let Some(topic) = shape.difference(&self.shape) {
            let name = self.image.topic(topic).map(|topic| topic.name.clone()).or_else(|| gone.get(&topic).cloned());
            self.shape = shape;
            self.because(RebalanceReason::PartitionsChanged(name.unwrap_or_else(|| topic.to_string())));
        }
        // After a restore there may be a cause already.
        self.settle(now);
        self.take_effects()
    }

    /// Brings the patterns up to date by the topics that came and went since the last look. The names of those that went.
    fn look_at_topics(&mut self) -> BTreeMap<TopicId, String> {
        // Of an empty group no pattern stays: who comes next resolves its own by what there is then.
        self.drop_unused_patterns();
        let seen = std::mem::replace(&mut self.seen, self.image.topic_ids.clone());
        let (mut came, mut gone) = (Vec::new(), BTreeMap::new());
        for change in seen.diff(&self.seen) {
            let (old, new) = match change {
                DiffItem::Add(name, id) => (None, Some((name, id))),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
                DiffItem::Remove(name, id) => (Some((name, id)), None),
            };
            gone.extend(old.map(|(name, id)| (*id, name.clone())));
            came.extend(new);
        }
        for (text, topics) in &mut self.patterns {
            topics.retain(|topic| !gone.contains_key(topic));
            // Compiled patterns are large, and not kept: a client could grow them.
            if !came.is_empty()
                && let Ok(pattern) = Pattern::again(text)
            {
                topics.extend(pattern.among(came.iter().copied()));
            }
        }
        gone
    }

    /// The coordinator moved, or the group is deleted: everyone parked is told `why`, and so is whoever comes later.
    pub fn end(&mut self, why: GroupError) -> Vec<Effect> {
        for member in self.members.values_mut() {
            if let Some(waiting) = member.waiting.take() {
                let effect = match waiting.request {
                    super::member::Request::Heartbeat(ticket) => Effect::Beaten(ticket, Err(why.clone())),
                    super::member::Request::Join(ticket) => Effect::Joined(ticket, Err(why.clone())),
                };
                self.effects.push(effect);
            }
        }
        self.waiting.clear();
        let leavers: Vec<(_, HeartbeatAnswer, _)> = std::mem::take(&mut self.leavers);
        self.effects.extend(leavers.into_iter().map(|(ticket, ..)| Effect::Beaten(ticket, Err(why.clone()))));
        self.writing = None;
        self.death = Some(why);
        self.take_effects()
    }

    /// A deletion that failed: the group is as it was.
    pub fn revive_empty(&mut self, now: Millis) {
        assert!(self.members.is_empty(), "only empty groups are deleted");
        self.death = None;
        self.empty_check = Some(now + self.rules.empty_check_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::settings::Settings;
    use crate::ids::RaftIndex;
    use crate::metadata::image::Image;
    use std::sync::Arc;

    #[test]
    fn the_interval_is_less_than_the_session() {
        let times = |session: &str, interval: &str| {
            let own = [
                (crate::config::group::SESSION_TIMEOUT, session),
                (crate::config::group::HEARTBEAT_INTERVAL, interval),
            ];
            let own = own.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let mut image = Image { index: RaftIndex(1), ..Image::default() };
            image.configs.overrides.insert(ConfigResource::Group("g".into()), own);
            let mut group = Group::new("g", Settings::for_tests().rules, 0, 0);
            group.see(&Arc::new(image));
            group.times()
        };
        assert_eq!(times("9000", "8000"), (9_000, 8_000));
        assert_eq!(times("9000", "9000"), (9_000, 3_000), "from before it was checked");
    }
}
