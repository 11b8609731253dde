//! The task that looks into suspicions and reports damage until it is repaired, and the one that scrubs.

use super::damage::{Look, Word};
use super::hosted::Inner;
use super::node::Node;
use super::partition::Partition;
use crate::ids::*;
use crate::log::partition_log::{Checked, Cursor};
use crate::metadata::command::DamageReport;
use crate::metadata::intent::{ControllerChannel, Intent, IntentAnswer};
use crate::platform::{clock, random};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// While there is damage it is looked at this often, and reported if it must be.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The same, where the controller said that no other replica can take over.
const ALONE_EVERY: Duration = Duration::from_secs(5);
/// Keeps a command well below the 256 KiB that one Raft entry may have.
const REPORTS_MAX: usize = 1_000;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Read at once by a scrub: what may be in memory and what a stopping node waits for.
const SCRUB_STEP_BYTES: u64 = 256 << 10;
/// What a step costs at least, so that many small logs do not add up to a storm of opened files.
const SCRUB_COST_MIN: u64 = 16 << 10;
/// How fast suspicions are looked into where nothing is scrubbed.
const LOOK_BYTES_PER_SECOND: u64 = 4 << 20;
/// A node that has just started has better things to do.
const SCRUB_FIRST: Duration = Duration::from_secs(600);

/// Damaged partitions, and when each is looked at next. Bound: the partitions hosted here.
type Damaged = BTreeMap<TopicPartition, (Weak<Partition>, Instant)>;

/// Suspicions that wait or are being looked into, one a partition: whoever still suspects says so again. Each gets a step
/// in turn, at the pace of a scrub, so that no wave of suspicions takes the disk or the time that reports need.
struct Suspicions {
    /// In the order of their turns. Bound: the partitions hosted here.
    looks: VecDeque<(TopicPartition, Weak<Partition>, Look)>,
    known: BTreeSet<TopicPartition>,
    /// Not before then goes the next step.
    next_at: Instant,
    bytes_per_second: u64,
}

impl Suspicions {
    fn new(scrub_bytes_per_second: u64) -> Suspicions {
        let bytes_per_second = if scrub_bytes_per_second == 0 { LOOK_BYTES_PER_SECOND } else { scrub_bytes_per_second };
        Suspicions { looks: VecDeque::new(), known: BTreeSet::new(), next_at: clock::now(), bytes_per_second }
    }

    fn add(&mut self, partition: &Arc<Partition>, look: Look) {
        if self.known.insert(partition.id) {
            self.looks.push_back((partition.id, Arc::downgrade(partition), look));
        } else if look.must_not_be_lost()
            && let Some((.., waiting)) = self.looks.iter_mut().find(|(id, ..)| *id == partition.id)
        {
            *waiting = waiting.joined(look);
        }
    }

    fn next_at(&self) -> Option<Instant> {
        (!self.looks.is_empty()).then_some(self.next_at)
    }

    async fn step(&mut self) {
        let Some((id, weak, look)) = self.looks.pop_front() else { return };
        let (mut bytes, mut rest) = (0, None);
        if let Some(partition) = weak.upgrade() {
            let looked = tokio::task::spawn_blocking(move || partition.look(look)).await;
            (bytes, rest) = looked.unwrap_or((0, None));
        }
        self.next_at = clock::now() + pace(bytes, self.bytes_per_second);
        match rest {
            Some(rest) => self.looks.push_back((id, weak, rest)),
            None => drop(self.known.remove(&id)),
        }
    }
}

/// What `bytes` cost at that rate.
fn pace(bytes: u64, bytes_per_second: u64) -> Duration {
    Duration::from_micros(bytes.max(SCRUB_COST_MIN).saturating_mul(1_000_000) / bytes_per_second.max(1))
}

pub(super) async fn watch_over(
    node: Arc<Node>,
    controller: Arc<dyn ControllerChannel>,
    mut words: mpsc::UnboundedReceiver<Word>,
) {
    let mut damaged = Damaged::new();
    let mut suspicions = Suspicions::new(node.config.scrub_bytes_per_second);
    loop {
        let report_at = damaged.values().map(|(_, at)| *at).min();
        let now = clock::now();
        // What is due goes before what is new: words may come without end.
        if report_at.is_some_and(|at| at <= now) {
            report(&node, &*controller, &mut damaged).await;
        }
        if suspicions.next_at().is_some_and(|at| at <= now) {
            suspicions.step().await;
        }
        let due = [report_at, suspicions.next_at()].into_iter().flatten().min();
        let word = match due {
            None => match words.recv().await {
                Some(word) => Some(word),
                None => return,
            },
            Some(at) => {
                let pause = at.saturating_duration_since(clock::now());
                tokio::time::timeout(pause, words.recv()).await.ok().flatten()
            }
        };
        match word {
            Some(Word::Suspect(partition, look)) => suspicions.add(&partition, look),
            Some(Word::Damaged(partition)) => {
                damaged.insert(partition.id, (Arc::downgrade(&partition), clock::now()));
            }
            None => {}
        }
    }
}

/// Tells the controller of those whose time has come. Whatever it answers, the image shows what became of it.
async fn report(node: &Node, controller: &dyn ControllerChannel, damaged: &mut Damaged) {
    let now = clock::now();
    let (mut partitions, mut reports) = (Vec::new(), Vec::new());
    damaged.retain(|_, (partition, at)| {
        let Some(partition) = partition.upgrade() else { return false };
        if *at > now || reports.len() == REPORTS_MAX {
            return true;
        }
        *at = now + LOOK_EVERY;
        let Some(report) = partition.damage_report() else { return false };
        if let Some(report) = report {
            partitions.push(partition);
            reports.push(report);
        }
        true
    });
    if reports.is_empty() {
        return;
    }
    let intent = Intent::ReportDamage { broker: node.broker, epoch: node.epoch(), reports };
    match controller.submit(intent, ANSWER_TIMEOUT).await {
        Ok(IntentAnswer::Results(results)) if results.len() == partitions.len() => {
            for (partition, result) in partitions.iter().zip(&results) {
                if partition.on_damage_answer(result)
                    && let Some((_, at)) = damaged.get_mut(&partition.id)
                {
                    *at = clock::now() + ALONE_EVERY;
                }
            }
        }
        Ok(other) => tracing::warn!(?other, "the controller refused reports of damage as a whole; telling it again"),
        Err(error) => tracing::warn!(%error, "damage could not be reported; telling the controller again"),
    }
}

/// Copies whose logs cannot be opened are out, as damaged ones are. Whatever comes of it, the caller looks at the image.
pub(super) async fn report_failed_opens(inner: Arc<Inner>, reports: Vec<DamageReport>) {
    for part in reports.chunks(REPORTS_MAX) {
        let (broker, epoch) = (inner.node.broker, inner.node.epoch());
        let intent = Intent::ReportDamage { broker, epoch, reports: part.to_vec() };
        match inner.controller.submit(intent, ANSWER_TIMEOUT).await {
            Ok(IntentAnswer::Results(results)) => {
                let mut refused =
                    part.iter().zip(&results).filter_map(|(report, result)| Some((report, result.as_ref().err()?)));
                if let Some((report, error)) = refused.next() {
                    tracing::error!(
                        partition = %report.partition, %error, others = refused.count(),
                        "its log cannot be opened, and no other replica takes over yet"
                    );
                }
            }
            Ok(other) => tracing::warn!(?other, "the controller refused reports as a whole; telling it again"),
            Err(error) => tracing::warn!(%error, "logs that cannot be opened could not be reported; telling again"),
        }
    }
}

/// Reads all logs, one after the other, at a bounded rate; sleeps between two rounds.
pub(super) async fn scrub(inner: Arc<Inner>) {
    let config = &inner.node.config;
    if config.scrub_bytes_per_second == 0 {
        return;
    }
    tokio::time::sleep(SCRUB_FIRST.min(config.scrub_interval)).await;
    loop {
        let began = clock::now();
        // By id: a round takes long, and a partition that goes must not be held.
        let mut ids: Vec<TopicPartition> = inner.all().iter().map(|partition| partition.id).collect();
        ids.sort_unstable();
        // A node that restarts often would otherwise look at the same ones again and again.
        let first = usize::try_from(random::between(0..ids.len().max(1) as u64)).unwrap_or(0);
        ids.rotate_left(first);
        let mut bytes = 0;
        for id in ids {
            bytes += scrub_one(&inner, id).await;
        }
        let took = clock::now().saturating_duration_since(began);
        tracing::info!(bytes, seconds = took.as_secs(), "a search for damaged records is through");
        tokio::time::sleep(config.scrub_interval.saturating_sub(took)).await;
    }
}

async fn scrub_one(inner: &Arc<Inner>, id: TopicPartition) -> u64 {
    let (mut cursor, mut bytes) = (Cursor::default(), 0);
    loop {
        let Some(partition) = inner.get(id) else { return bytes };
        let Some((start, end)) = partition.durable_bounds() else { return bytes };
        if start >= end {
            return bytes;
        }
        let checked = tokio::task::spawn_blocking(move || partition.check(cursor, end, SCRUB_STEP_BYTES)).await;
        let Ok(Some(Checked { next, bytes: read, .. })) = checked else { return bytes };
        bytes += read;
        inner.node.gauges.scrubbed(read);
        tokio::time::sleep(pace(read, inner.node.config.scrub_bytes_per_second)).await;
        match next {
            Some(next) => cursor = next,
            None => return bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::topic::Durability;
    use crate::metadata::command::MetadataError;
    use crate::metadata::intent::{IntentError, SubmitFuture};
    use crate::replica::partition::PartitionError;
    use crate::replica::testing::{Replica, batch, flip, image, three};
    use parking_lot::Mutex;

    /// So many words wait that a stall of this test does not let them run dry.
    const WORDS: usize = 200_000;

    /// Answers every report so, and keeps them.
    struct Controller {
        answer: Result<(), IntentError>,
        told: Mutex<Vec<Intent>>,
    }

    impl ControllerChannel for Controller {
        fn submit(&self, intent: Intent, _: Duration) -> SubmitFuture<'_> {
            self.told.lock().push(intent);
            let results = vec![self.answer.clone()];
            Box::pin(async move { Ok(IntentAnswer::Results(results)) })
        }
    }

    async fn until(what: &str, mut is: impl FnMut() -> bool) {
        let end = clock::now() + Duration::from_secs(10);
        while !is() {
            assert!(clock::now() < end, "never: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A leader whose second record is damaged, and a read that meets it.
    async fn damaged(answer: Result<(), IntentError>) -> (Replica, Arc<Controller>, tokio::task::JoinHandle<()>) {
        let [mut one, two, three] = three(Durability::PageCache);
        for value in ["a", "b", "c"] {
            one.partition.append(&batch(&[value]), 1).unwrap();
        }
        two.catch_up(&one).await;
        three.catch_up(&one).await;
        flip(&one.partition, 1, true);
        let words = std::mem::replace(&mut one.words, mpsc::unbounded_channel().1);
        let controller = Arc::new(Controller { answer, told: Mutex::default() });
        let task = tokio::spawn(watch_over(one.node.clone(), controller.clone(), words));
        one.partition.suspect(Offset(1));
        until("damage is known", || one.node.gauges.damaged() == 1).await;
        until("told", || !controller.told.lock().is_empty()).await;
        (one, controller, task)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_suspicion_is_looked_into_and_told_until_the_image_shows_it_out() {
        let (one, controller, task) = damaged(Ok(())).await;
        match &controller.told.lock()[0] {
            Intent::ReportDamage { broker: BrokerId(1), reports, .. } => {
                assert_eq!((reports[0].from, reports[0].leader_epoch), (Offset(1), LeaderEpoch(0)));
            }
            other => panic!("{other:?}"),
        }
        // A lost answer costs nothing: it is told again until the image shows what became of it.
        until("told again", || controller.told.lock().len() >= 2).await;
        one.show(&image(2, &[2, 3], 1, 1, None));
        assert_eq!(one.end(), 3, "nothing is cut before it follows");
        let position = one.partition.position(LeaderEpoch(1)).expect("it asks for what is damaged");
        assert_eq!((position.offset, one.node.gauges.damaged()), (Offset(1), 1));
        // The new leader has another log from there on: what lies behind is of no use.
        one.partition.on_diverging(LeaderEpoch(1), (LeaderEpoch(0), Offset(1))).unwrap();
        assert_eq!((one.end(), one.node.gauges.damaged()), (1, 0), "cut, it fetches on");
        let told = controller.told.lock().len();
        tokio::time::sleep(LOOK_EVERY * 2).await;
        assert!(controller.told.lock().len() <= told + 1, "what is repaired is told no more");
        task.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn reports_go_on_whatever_is_suspected_meanwhile() {
        let (one, controller, task) = damaged(Ok(())).await;
        let other = Replica::new(1, Durability::PageCache);
        // Each word that waits holds the partition.
        let held = Arc::strong_count(&other.partition) + 2;
        let mut told = controller.told.lock().len();
        let end = clock::now() + Duration::from_secs(30);
        // There is always a word that waits, more than anybody could look into one by one.
        while controller.told.lock().len() < told + 2 {
            assert!(clock::now() < end, "damage is told no more while suspicions come");
            let waiting = Arc::strong_count(&other.partition).saturating_sub(held);
            if waiting == 0 {
                // What was told when nothing waited does not count.
                told = controller.told.lock().len();
            }
            let suspect = || Word::Suspect(other.partition.clone(), Look::at(Offset(0)));
            (waiting..WORDS).for_each(|_| one.node.tell(suspect()));
            tokio::task::yield_now().await;
        }
        task.abort();
    }

    #[tokio::test]
    async fn a_partition_is_suspected_once_at_a_time_and_looks_are_paced() {
        let one = Replica::new(1, Durability::PageCache);
        one.show(&image(1, &[1, 2, 3], 0, 0, None));
        one.partition.append(&batch(&["a"]), 1).unwrap();
        let mut suspicions = Suspicions::new(SCRUB_COST_MIN);
        (0..1_000).for_each(|_| suspicions.add(&one.partition, Look::at(Offset(0))));
        assert_eq!(suspicions.looks.len(), 1);
        let before = clock::now();
        suspicions.step().await;
        assert_eq!(suspicions.next_at(), None, "it was looked into");
        assert!(suspicions.next_at >= before + Duration::from_secs(1), "what a step costs at least, at that rate");
        suspicions.add(&one.partition, Look::at(Offset(0)));
        assert_eq!(suspicions.looks.len(), 1, "suspected again");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn alone_it_serves_what_is_good() {
        let refusal = IntentError::Metadata(MetadataError::NoOtherReplica(BrokerId(1)));
        let (one, _controller, task) = damaged(Err(refusal)).await;
        let alone = || matches!(one.consume(1), Err(PartitionError::Damaged { alone: true, .. }));
        until("the controller's answer is known", alone).await;
        assert!(!one.consume(0).unwrap().is_empty());
        assert_eq!(one.end(), 3);
        task.abort();
    }
}
