//! `highwater produce`: lines from standard input become records.

use super::client::metadata::Metadata;
use super::client::producer::{Acks, Options, Outgoing, Producer};
use super::output::{self, Format};
use super::reach::Reach;
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use std::io::{self, BufRead, Read};
use std::time::Duration;
use tokio::sync::mpsc;

const TOPIC_DEADLINE: Duration = Duration::from_secs(10);
const BATCH_DEADLINE: Duration = Duration::from_secs(120);
/// Brokers refuse batches over about this size by default.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Write lines from standard input to a topic.
///
/// Each line is a record's value. Records with a key go to the partition that Kafka's own clients choose for it;
/// without one they go round. With --acks all (the default) retries place each record once, in order, also when its
/// leader dies meanwhile. Exit code 0 means that every line is acked.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  echo 'a book' | highwater produce orders
  printf 'alice:a book\\nbob:a pen\\n' | highwater produce orders --key-separator :
  seq 1 100000 | highwater produce numbers --acks 1")]
pub struct Produce {
    topic: String,
    /// Split each line here into key and value
    #[arg(long, short = 'k', value_name = "TEXT")]
    key_separator: Option<String>,
    /// When a record counts as written
    #[arg(long, value_enum, default_value = "all", allow_hyphen_values = true)]
    acks: Acks,
}

pub async fn run(produce: Produce, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let metadata = Metadata::open(reach.bootstrap.clone(), &produce.topic);
    let partitions = metadata.partitions(TOPIC_DEADLINE).await?;
    let options = Options { acks: produce.acks, linger: Duration::ZERO, deadline: Some(BATCH_DEADLINE) };
    let (acked, _) = mpsc::channel(1);
    let mut producer = Producer::start(&metadata, partitions, options, acked).await?;
    let mut lines = read_lines();
    let mut number = 0u64;
    let mut refused = None;
    while let Some(line) = lines.recv().await {
        number += 1;
        let record = line.and_then(|line| record(line, produce.key_separator.as_deref()));
        match record {
            Ok(record) => {
                if !producer.send(record).await {
                    break;
                }
            }
            Err(error) => {
                refused = Some(error.context(format!("line {number}")));
                break;
            }
        }
    }
    let placed = producer.finish().await?;
    match format {
        Format::Json => output::json_line(&json!({"topic": produce.topic, "acked": placed}))?,
        Format::Table => output::tell(&format!("{placed} records written to {}", produce.topic)),
    }
    refused.map_or(Ok(()), Err)
}

/// Reads on a thread of its own: a read of a terminal cannot be cancelled.
fn read_lines() -> mpsc::Receiver<anyhow::Result<Vec<u8>>> {
    const AHEAD: usize = 64;
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Some(line) = next_line(&mut input).transpose() {
            let failed = line.is_err();
            if sender.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

fn next_line(input: &mut impl BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let bound = u64::try_from(LINE_BYTES_MAX + 1).expect("a megabyte");
    if input.take(bound).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > LINE_BYTES_MAX {
        anyhow::bail!("is longer than {LINE_BYTES_MAX} bytes");
    }
    Ok(Some(line))
}

fn record(line: Vec<u8>, separator: Option<&str>) -> anyhow::Result<Outgoing> {
    let Some(separator) = separator.filter(|separator| !separator.is_empty()) else {
        return Ok(Outgoing { key: None, value: Bytes::from(line) });
    };
    let at = line.windows(separator.len()).position(|window| window == separator.as_bytes());
    let at = at.ok_or_else(|| anyhow::anyhow!("has no key separator '{separator}'"))?;
    let line = Bytes::from(line);
    Ok(Outgoing { key: Some(line.slice(..at)), value: line.slice(at + separator.len()..) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_splits_at_the_first_separator() {
        let split = record(b"alice::a::b".to_vec(), Some("::")).unwrap();
        assert_eq!((split.key.as_deref(), &split.value[..]), (Some(&b"alice"[..]), &b"a::b"[..]));
        let whole = record(b"alice:a".to_vec(), None).unwrap();
        assert_eq!((whole.key, &whole.value[..]), (None, &b"alice:a"[..]));
        assert!(record(b"alice".to_vec(), Some(":")).unwrap_err().to_string().contains("':'"));
    }

    #[test]
    fn lines_are_bounded_and_the_last_needs_no_end() {
        let mut input = &b"one\n\ntwo"[..];
        let lines: Vec<_> = std::iter::from_fn(|| next_line(&mut input).unwrap()).collect();
        assert_eq!(lines, [b"one".to_vec(), b"".to_vec(), b"two".to_vec()]);
        let long = vec![b'x'; LINE_BYTES_MAX + 2];
        assert!(next_line(&mut &long[..]).is_err());
    }
}
