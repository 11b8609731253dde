//! One producer: unique values at a steady rate, round robin over all places, each outcome noted.

use super::client;
use super::client_log::{ClientLog, ClientLogs};
use super::progress::Progress;
use super::topics::Places;
use crate::clock::Clock;
use crate::history::{Outcome, Place, Promise, Send, Value};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Waiting in a client at most: what comes while it is full is not sent.
const QUEUED_MAX: &str = "3000";
const POLL: Duration = Duration::from_millis(5);
/// For outcomes after the last send; longer than an outage that was just healed.
const FLUSH: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub promise: Promise,
    pub idempotent: bool,
    pub message_timeout_ms: u32,
    pub compression: &'static str,
}

const fn spec(name: &'static str, idempotent: bool, kept: bool, message_timeout_ms: u32) -> Spec {
    let promise = Promise { name, once: false, kept };
    Spec { promise, idempotent, message_timeout_ms, compression: "none" }
}

/// By producer number.
pub const SPECS: [Spec; 4] = [
    Spec { promise: Promise { name: "idempotent", once: true, kept: true }, ..spec("", true, true, 300_000) },
    // Gives up early: outcomes that are unknown, and new producer ids.
    Spec { compression: "lz4", ..spec("idempotent-hasty", true, true, 6_000) },
    spec("acks-all", false, true, 30_000),
    spec("acks-one", false, false, 30_000),
];

struct Shared {
    sends: Mutex<Vec<Send>>,
    promise: Promise,
    progress: Arc<Progress>,
    clock: Clock,
    log: ClientLog,
}

impl Shared {
    fn sends(&self) -> MutexGuard<'_, Vec<Send>> {
        self.sends.lock().expect("nobody panics with the sends")
    }
}

#[derive(Clone)]
struct Context(Arc<Shared>);

impl ClientContext for Context {
    /// Nodes that are down are told of elsewhere.
    fn error(&self, _: KafkaError, _: &str) {}

    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log.write(self.0.clock.ms(), facility, message);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let Context(shared) = self;
        let (now, mut sends) = (shared.clock.ms(), shared.sends());
        let send = &mut sends[index];
        send.done_ms = now;
        match result {
            Ok(message) => {
                send.outcome = Outcome::Acked(message.offset());
                shared.progress.acked.fetch_add(1, Ordering::Relaxed);
                if shared.promise.kept {
                    shared.progress.acked_by_all(send.place, send.sent_ms);
                }
            }
            Err((error, _)) => {
                send.outcome = outcome_of(error);
                shared.progress.unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Only what the client refused itself is known not to be there: an error may follow an attempt that was appended.
fn outcome_of(error: &KafkaError) -> Outcome {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownPartition | RDKafkaErrorCode::UnknownTopic) => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

pub struct Running {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

impl Running {
    /// Waits for the end, after `stop_sending` was set.
    pub fn finish(self) -> Vec<Send> {
        self.thread.join().expect("a producer's thread does not panic");
        std::mem::take(&mut *self.shared.sends())
    }
}

pub fn start(
    number: u16,
    rate: f64,
    bootstrap: &str,
    places: &Arc<Places>,
    progress: &Arc<Progress>,
    clock: Clock,
    logs: &ClientLogs,
) -> anyhow::Result<Running> {
    let Spec { promise, idempotent, message_timeout_ms, compression } = SPECS[usize::from(number)];
    let mut config = client::producer(bootstrap, promise.name);
    let log = logs.of(promise.name, true, &mut config)?;
    let shared = Arc::new(Shared { sends: Mutex::default(), promise, progress: progress.clone(), clock, log });
    config
        .set("enable.idempotence", idempotent.to_string())
        .set("acks", if promise.kept { "all" } else { "1" })
        .set("message.timeout.ms", message_timeout_ms.to_string())
        .set("queue.buffering.max.messages", QUEUED_MAX)
        .set("compression.type", compression);
    if !idempotent {
        // Else retries change the order.
        config.set("max.in.flight.requests.per.connection", "1");
    }
    let producer: BaseProducer<Context> = config.create_with_context(Context(shared.clone()))?;
    let places = places.clone();
    let of_thread = shared.clone();
    let thread = std::thread::Builder::new()
        .name(promise.name.to_string())
        .spawn(move || send_all(&producer, &of_thread, number, rate, &places))?;
    Ok(Running { thread, shared })
}

fn send_all(producer: &BaseProducer<Context>, shared: &Shared, number: u16, rate: f64, places: &Places) {
    let start = Instant::now();
    let (mut sequence, mut turn, mut due) = (0u64, 0u64, 0.0);
    let mut fatal = None;
    while !shared.progress.stop_sending.load(Ordering::Relaxed) {
        while start.elapsed().as_secs_f64() * rate > due {
            due += 1.0;
            turn += 1;
            let place = Place::try_from(turn % u64::from(places.count())).expect("a place");
            // A message that fails makes librdkafka begin anew, and then it may send others twice; a topic that is
            // given up makes messages fail. So who promises each value once keeps away from it.
            let given_up = shared.promise.once || shared.progress.no_page_cache.load(Ordering::Relaxed);
            if places.names[usize::from(place)].page_cache && given_up {
                continue;
            }
            sequence += u64::from(send(producer, shared, Value::new(number, sequence), place, places));
        }
        producer.poll(POLL);
        if fatal.is_none() {
            fatal = producer.client().fatal_error();
            if let Some((code, why)) = &fatal {
                // It takes nothing any more; the checker finds that it went quiet.
                eprintln!("{}: {code:?}: {why}", shared.promise.name);
            }
        }
    }
    if producer.flush(FLUSH).is_err() {
        // Outcomes of what was sent and not answered stay unknown.
        producer.purge(PurgeConfig::default().queue().inflight());
        producer.poll(POLL);
    }
}

/// False if the client's queue is full: then nothing was sent, and nothing is noted.
fn send(producer: &BaseProducer<Context>, shared: &Shared, value: Value, place: Place, places: &Places) -> bool {
    let name = &places.names[usize::from(place)];
    let (payload, key) = (value.payload(), value.producer().to_string());
    let index = {
        let mut sends = shared.sends();
        let outcome = Outcome::Unknown;
        sends.push(Send { value, place, sent_ms: shared.clock.ms(), done_ms: 0, outcome });
        sends.len() - 1
    };
    let record = BaseRecord::with_opaque_to(&name.topic, index).partition(name.partition).payload(&payload).key(&key);
    match producer.send(record) {
        Ok(()) => true,
        Err((error, _)) => {
            // Only this thread appends, and callbacks come only while it polls.
            shared.sends().pop();
            shared.progress.failed.fetch_add(1, Ordering::Relaxed);
            if !matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull | RDKafkaErrorCode::Fatal)) {
                eprintln!("{}: {error}", shared.promise.name);
            }
            producer.poll(POLL);
            false
        }
    }
}
