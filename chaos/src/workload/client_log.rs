//! librdkafka's own debug logs, kept where a client that gives up for good is to be understood afterwards.

use anyhow::Context;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A log that is larger becomes `NAME.old.log`, in place of the one before.
const BYTES_MAX: u64 = 64 << 20;
/// What librdkafka tells of; what it fetches is left out, as too much.
const PRODUCER: &str = "broker,topic,metadata,msg,eos";
const CONSUMER: &str = "broker,topic,metadata,cgrp";

/// Where the logs go, if they are kept at all.
#[derive(Clone, Debug, Default)]
pub struct ClientLogs(Option<Arc<Path>>);

/// One client's log. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ClientLog(Option<Arc<Mutex<Rotating>>>);

#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl ClientLogs {
    pub fn below(folder: Option<&Path>) -> ClientLogs {
        ClientLogs(folder.map(Arc::from))
    }

    /// The log of the client with this name; has the client of `config` write it.
    pub fn of(&self, name: &str, is_producer: bool, config: &mut ClientConfig) -> anyhow::Result<ClientLog> {
        let Some(folder) = &self.0 else { return Ok(ClientLog::default()) };
        let path = folder.join(format!("client-{name}.log"));
        let file = BufWriter::new(File::create(&path).with_context(|| path.display().to_string())?);
        config.set("debug", if is_producer { PRODUCER } else { CONSUMER }).set("log_level", "7");
        config.set_log_level(RDKafkaLogLevel::Debug);
        Ok(ClientLog(Some(Arc::new(Mutex::new(Rotating { path, file, bytes: 0 })))))
    }
}

impl ClientLog {
    /// What cannot be written is lost: the run is worth more than its log.
    pub fn write(&self, at_ms: u32, facility: &str, message: &str) {
        let Some(log) = &self.0 else { return };
        let mut log = log.lock().expect("nobody panics with the log");
        let line = format!("{at_ms} {facility} {message}\n");
        log.bytes += line.len() as u64;
        let _lost_or_written = log.file.write_all(line.as_bytes());
        if log.bytes > BYTES_MAX
            && log.file.flush().is_ok()
            && std::fs::rename(&log.path, log.path.with_extension("old.log")).is_ok()
            && let Ok(file) = File::create(&log.path)
        {
            (log.file, log.bytes) = (BufWriter::new(file), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_its_newest_part_is_kept() {
        let folder = std::env::temp_dir().join(format!("chaos-client-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut config = ClientConfig::new();
        let log = ClientLogs::below(Some(&folder)).of("p", true, &mut config).unwrap();
        assert_eq!(config.get("debug"), Some(PRODUCER));
        let long = "x".repeat(1 << 20);
        (0..200).for_each(|n| log.write(n, "MSG", &long));
        drop(log);
        let length = |name: &str| std::fs::metadata(folder.join(name)).unwrap().len();
        assert!(length("client-p.log") + length("client-p.old.log") <= 2 * BYTES_MAX + (4 << 20));
        assert!(std::fs::read_to_string(folder.join("client-p.log")).unwrap().starts_with("1"), "the newest");
        let mut quiet = ClientConfig::new();
        ClientLogs::default().of("p", true, &mut quiet).unwrap().write(1, "MSG", "nowhere");
        assert_eq!(quiet.get("debug"), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
