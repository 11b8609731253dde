//! Stories of sessions: what happens when, and what must follow. Each line of a log is "milliseconds effect".

use super::super::testing::image_with;
use super::*;
use uuid::Uuid;

struct Story {
    image: Image,
    liveness: Liveness,
    start: Instant,
    now: u64,
    log: Vec<String>,
}

impl Story {
    fn new(brokers: &[i32]) -> Story {
        let timing = Timing::with_session(Duration::from_millis(1500));
        Story {
            image: image_with(brokers),
            liveness: Liveness::new(BrokerId(1), timing),
            start: crate::platform::clock::now(),
            now: 0,
            log: Vec::new(),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn epoch(&self, id: i32) -> BrokerEpoch {
        self.image.brokers[&BrokerId(id)].epoch
    }

    fn note(&mut self, ms: u64, effects: Vec<Effect>) {
        for effect in effects {
            self.log.push(match effect {
                Effect::Dial { broker, target: probe::Target::Address(address), .. } => {
                    format!("{ms} dial {broker} at {address}")
                }
                Effect::Dial { broker, target: probe::Target::Name(name), .. } => {
                    format!("{ms} dial {broker} by {name}")
                }
                Effect::Fence { brokers, reason } => {
                    let ids: Vec<_> = brokers.iter().map(|(id, _)| id.to_string()).collect();
                    let why = if reason == FenceReason::SessionExpired { "session" } else { "connection" };
                    format!("{ms} fence {} {why}", ids.join(","))
                }
                Effect::Unfence { broker, .. } => format!("{ms} unfence {broker}"),
            });
        }
    }

    fn beat(&mut self, id: i32, connection: u64, ready: bool, applied: u64) {
        let beat = Heartbeat {
            broker: BrokerId(id),
            epoch: self.epoch(id),
            incarnation: IncarnationId(Uuid::from_u128(u128::from(id.unsigned_abs()))),
            connection,
            applied: RaftIndex(applied),
            ready,
            wants_shutdown: false,
        };
        let (verdict, effects) = self.liveness.heartbeat(self.at(self.now), &self.image, &beat);
        match verdict {
            Verdict::Renewed { .. } => {}
            Verdict::UnknownEpoch => self.log.push(format!("{} unknown {id}", self.now)),
            Verdict::NotController => self.log.push(format!("{} not-controller", self.now)),
        }
        self.note(self.now, effects);
    }

    /// Ticks every 50 ms up to `ms`, with a heartbeat of each broker in `alive` each 100 ms.
    fn run(&mut self, ms: u64, alive: &[i32]) {
        while self.now < ms {
            self.now += 50;
            if self.now.is_multiple_of(100) {
                for id in alive {
                    self.beat(*id, u64::from(id.unsigned_abs()), true, 1000);
                }
            }
            self.tick(None);
        }
    }

    fn tick(&mut self, quorum: Option<u64>) {
        let effects = self.liveness.tick(self.at(self.now), &self.image, quorum.map(Duration::from_millis));
        self.note(self.now, effects);
    }

    fn lead(&mut self, previous: Option<i32>) {
        let effects = self.liveness.became_controller(self.at(self.now), &self.image, previous.map(BrokerId));
        self.note(self.now, effects);
    }

    fn lost(&mut self, id: i32, connection: u64) {
        let peer = Some(SocketAddr::from(([10, 0, 0, u8::try_from(id).unwrap()], 40_000)));
        let (now, epoch) = (self.at(self.now), self.epoch(id));
        let effects = self.liveness.connection_lost(now, &self.image, BrokerId(id), epoch, connection, peer);
        self.note(self.now, effects);
    }

    fn dialed(&mut self, id: i32, outcome: probe::Outcome) {
        let (now, epoch) = (self.at(self.now), self.epoch(id));
        let effects = self.liveness.dialed(now, &self.image, BrokerId(id), epoch, outcome);
        self.note(self.now, effects);
    }

    fn set(&mut self, id: i32, change: impl FnOnce(&mut Broker)) {
        change(self.image.brokers.get_mut(&BrokerId(id)).unwrap());
    }

    fn expect(&mut self, lines: &[&str]) {
        assert_eq!(std::mem::take(&mut self.log), lines);
    }
}

/// Leading brokers 1 (itself), 2 and 3 with all dials of the take-over answered.
fn settled() -> Story {
    let mut story = Story::new(&[1, 2, 3]);
    story.lead(None);
    story.expect(&["0 dial 2 by node-2:9093", "0 dial 3 by node-3:9093"]);
    story.dialed(2, probe::Outcome::Connected);
    story.dialed(3, probe::Outcome::Connected);
    story.run(1000, &[1, 2, 3]);
    story.expect(&[]);
    story
}

#[test]
fn a_silent_broker_is_fenced_when_its_session_ends() {
    let mut story = settled();
    story.run(2450, &[1, 2]);
    story.expect(&[]);
    story.run(2900, &[1, 2]);
    story.expect(&["2500 fence 3 session"]);
    story.run(3000, &[1, 2]);
    story.expect(&["3000 fence 3 session"]); // the commit's outcome is not in the image: proposed again
    story.set(3, |b| b.fenced = true);
    story.run(9000, &[1, 2]);
    story.expect(&[]);
}

#[test]
fn two_that_go_silent_together_are_fenced_in_one_command() {
    let mut story = settled();
    story.run(2500, &[1]);
    story.expect(&["2500 fence 2,3 session"]);
}

#[test]
fn a_reset_and_a_refused_dial_fence_at_once() {
    for outcome in [probe::Outcome::Refused, probe::Outcome::Unreachable, probe::Outcome::Silent] {
        let mut story = settled();
        story.lost(3, 3);
        story.expect(&["1000 dial 3 at 10.0.0.3:9093"]);
        story.dialed(3, outcome);
        story.expect(&["1000 fence 3 connection"]);
    }
}

#[test]
fn a_dial_that_succeeds_proves_nothing() {
    let mut story = settled();
    story.lost(3, 3);
    story.dialed(3, probe::Outcome::Connected);
    story.log.clear();
    story.run(2500, &[1, 2]); // stopped (SIGSTOP): the kernel accepts, nobody answers
    story.expect(&["2500 fence 3 session"]);
}

#[test]
fn a_heartbeat_on_a_new_stream_outweighs_a_late_dial_and_an_old_stream() {
    let mut story = settled();
    story.lost(3, 3);
    story.log.clear();
    story.beat(3, 99, true, 1000);
    story.dialed(3, probe::Outcome::Silent);
    story.lost(3, 3);
    story.expect(&[]);
    story.lost(3, 99);
    story.expect(&["1000 dial 3 at 10.0.0.3:9093"]);
}

#[test]
fn a_controller_that_was_away_blames_nobody() {
    let mut story = settled();
    story.now += 5_000; // its own process was stopped: no ticks
    story.tick(None);
    story.expect(&[]);
    story.run(story.now + 1_400, &[1, 2]);
    story.expect(&[]);
    story.run(story.now + 100, &[1, 2]);
    story.expect(&["7500 fence 3 session"]);
}

#[test]
fn without_a_quorum_clocks_do_not_run() {
    let mut story = settled();
    for _ in 0..60 {
        story.now += 50;
        story.tick(Some(400));
    }
    story.expect(&[]);
    let healed = story.now;
    story.run(healed + 1_450, &[1]);
    story.expect(&[]);
}

#[test]
fn a_new_controller_dials_all_and_fences_the_dead() {
    let mut story = Story::new(&[1, 2, 3]);
    story.lead(Some(3));
    story.expect(&["0 dial 2 by node-2:9093", "0 dial 3 by node-3:9093"]);
    story.dialed(2, probe::Outcome::Silent); // busy, or far: its session decides
    story.expect(&[]);
    story.dialed(3, probe::Outcome::Silent); // the quorum found the old controller gone
    story.expect(&["0 fence 3 connection"]);
    story.run(1500, &[1]);
    story.expect(&[
        "500 fence 3 connection", // the first proposal is not in the image yet
        "1000 fence 3 connection",
        "1500 fence 2 session",
        "1500 fence 3 connection",
    ]);
}

#[test]
fn a_name_that_does_not_resolve_says_nothing() {
    let mut story = Story::new(&[1, 2]);
    story.lead(None);
    story.log.clear();
    story.dialed(2, probe::Outcome::Unclear);
    story.expect(&[]);
    story.beat(2, 2, true, 1000);
    story.dialed(2, probe::Outcome::Refused); // answered already: the dial is void
    story.expect(&[]);
}

#[test]
fn unfenced_only_when_ready_and_caught_up_to_its_registration() {
    let mut story = settled();
    story.set(3, |b| b.fenced = true);
    story.beat(3, 3, false, 1000);
    story.beat(3, 3, true, 12); // registered at index 13
    story.expect(&[]);
    story.beat(3, 3, true, 13);
    story.expect(&["1000 unfence 3"]);
    story.beat(3, 3, true, 13);
    story.expect(&[]); // under way
    story.now += 500;
    story.beat(3, 3, true, 13);
    story.expect(&["1500 unfence 3"]);
    story.set(3, |b| b.shutting_down = true);
    story.now += 500;
    story.beat(3, 3, true, 13);
    story.expect(&[]);
}

#[test]
fn an_old_epoch_or_another_process_must_register_again() {
    let mut story = settled();
    story.set(3, |b| b.registration.incarnation = IncarnationId(Uuid::from_u128(77)));
    story.beat(3, 3, true, 1000);
    story.expect(&["1000 unknown 3"]);
    story.image.brokers.remove(&BrokerId(2));
    let beat = Heartbeat {
        broker: BrokerId(2),
        epoch: BrokerEpoch(12),
        incarnation: IncarnationId(Uuid::from_u128(2)),
        connection: 2,
        applied: RaftIndex(1000),
        ready: true,
        wants_shutdown: false,
    };
    assert_eq!(story.liveness.heartbeat(story.start, &story.image, &beat).0, Verdict::UnknownEpoch);
    story.liveness.resigned();
    assert_eq!(story.liveness.heartbeat(story.start, &story.image, &beat).0, Verdict::NotController);
}

#[test]
fn two_processes_of_one_broker_are_told_from_a_restart() {
    let mut story = settled();
    let newcomer = IncarnationId(Uuid::from_u128(78));
    let may = |s: &Story| s.liveness.may_register(s.at(s.now), &s.image, BrokerId(3), newcomer);
    assert!(!may(&story), "the old process still answers");
    story.lost(3, 3);
    assert!(may(&story), "killed and started again within a millisecond: its stream is gone");

    let mut story = settled();
    story.now += 1500; // the machine is gone: no reset ever came
    assert!(may(&story));
}

#[test]
fn a_fenced_process_that_still_answers_is_the_only_one_of_its_broker() {
    let mut story = settled();
    let newcomer = IncarnationId(Uuid::from_u128(78));
    let may = |s: &Story| s.liveness.may_register(s.at(s.now), &s.image, BrokerId(3), newcomer);
    story.set(3, |b| b.fenced = true); // recovering its logs: an empty folder in its place would count as their loss
    let answers = |s: &Story| s.liveness.answers(s.at(s.now), &s.image, BrokerId(3));
    story.beat(3, 3, false, 1000);
    assert!(!may(&story) && answers(&story));
    story.lost(3, 3);
    story.expect(&[]);
    assert!(may(&story) && !answers(&story));
}

#[test]
fn a_broker_that_dies_while_it_is_unfenced_is_fenced_again_at_once() {
    let mut story = settled();
    story.set(3, |b| b.fenced = true);
    story.beat(3, 3, true, 13);
    story.lost(3, 3);
    story.expect(&["1000 unfence 3", "1000 dial 3 at 10.0.0.3:9093"]);
    story.dialed(3, probe::Outcome::Refused);
    story.run(1_100, &[1, 2]);
    story.expect(&[]);
    story.set(3, |b| b.fenced = false);
    story.run(1_150, &[1, 2]);
    story.expect(&["1150 fence 3 connection"]);
}
