//! A reader by assignment: everything from the beginning, one place after the other never skipped.

use super::client;
use super::client_log::{ClientLog, ClientLogs};
use super::progress::Progress;
use super::topics::Places;
use crate::clock::Clock;
use crate::history::{Place, Read, Reader, Value};
use anyhow::{Context, bail};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

const FINISHED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
/// Everything there is must be readable by then at the end.
const LAST_READ: Duration = Duration::from_secs(60);

struct Logged(ClientLog, Clock);

impl ClientContext for Logged {
    /// Nodes that are down are told of elsewhere.
    fn error(&self, _: KafkaError, _: &str) {}

    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.write(self.1.ms(), facility, message);
    }
}

impl ConsumerContext for Logged {}

pub struct Running {
    told: Receiver<Reader>,
}

impl Running {
    /// Waits for the end, after `stop_reading` was set; not for the client itself, whose closing may take for ever.
    pub fn finish(self) -> anyhow::Result<Reader> {
        self.told.recv_timeout(FINISHED_WITHIN).context("a reader hangs")
    }
}

pub fn note(message: &BorrowedMessage<'_>, places: &Places, clock: Clock) -> Option<Read> {
    let place = places.number(message.topic(), message.partition())?;
    let value = Value::of_payload(message.payload().unwrap_or_default());
    Some(Read { place, offset: message.offset(), value, at_ms: clock.ms() })
}

/// Errors that say that the position is not in the log.
pub fn is_reset(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    matches!(code, Some(Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::LogTruncation))
}

pub fn start(
    number: usize,
    bootstrap: &str,
    places: &Arc<Places>,
    progress: &Arc<Progress>,
    clock: Clock,
    logs: &ClientLogs,
) -> anyhow::Result<Running> {
    let name = format!("reader-{number}");
    let mut config = client::consumer(bootstrap, &name);
    let log = logs.of(&name, false, &mut config)?;
    let consumer: BaseConsumer<Logged> = config.create_with_context(Logged(log, clock))?;
    consumer.assign(&places.at_beginning())?;
    let (places, progress) = (places.clone(), progress.clone());
    let mut reader = Reader { name: name.clone(), ..Reader::default() };
    let (tell, told) = mpsc::channel();
    std::thread::Builder::new().name(name).spawn(move || {
        while !progress.stop_reading.load(Ordering::Relaxed) {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    if let Some(read) = note(&message, &places, clock) {
                        progress.read(number, read.place, read.offset);
                        reader.reads.push(read);
                    }
                }
                Some(Err(error)) if is_reset(&error) => reader.resets.push((clock.ms(), error.to_string())),
                Some(Err(_)) | None => {}
            }
        }
        // Whoever waited has given up, then.
        let _ = tell.send(reader);
    })?;
    Ok(Running { told })
}

/// Reads each place from its beginning up to its high watermark; what is missing by the deadline is missing.
pub fn read_all(
    bootstrap: &str,
    places: &Places,
    high_watermarks: &BTreeMap<Place, i64>,
    clock: Clock,
) -> anyhow::Result<Reader> {
    let consumer: BaseConsumer = client::consumer(bootstrap, "last").create()?;
    consumer.assign(&places.at_beginning())?;
    let mut reader = Reader { name: "last".to_string(), ..Reader::default() };
    let mut left: BTreeMap<Place, i64> =
        high_watermarks.iter().map(|(p, end)| (*p, *end)).filter(|(_, e)| *e > 0).collect();
    let until = Instant::now() + LAST_READ;
    while !left.is_empty() && Instant::now() < until {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                let Some(read) = note(&message, places, clock) else { bail!("{}: not assigned", message.topic()) };
                if left.get(&read.place).is_some_and(|end| read.offset + 1 >= *end) {
                    left.remove(&read.place);
                }
                reader.reads.push(read);
            }
            Some(Err(error)) if is_reset(&error) => reader.resets.push((clock.ms(), error.to_string())),
            Some(Err(_)) | None => {}
        }
    }
    Ok(reader)
}
