//! `highwater consume`: prints records.

use super::client::consumer::{Fetched, Incoming, Start, follow, resolve};
use super::client::metadata::Metadata;
use super::output::{self, Format};
use super::reach::Reach;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const TOPIC_DEADLINE: Duration = Duration::from_secs(10);

/// Print a topic's records, one a line, until Ctrl-C.
///
/// From now on, unless told otherwise. Records of one partition come in order; partitions come mixed. It follows
/// leaders as they change and commits nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater consume orders
  highwater consume orders --from-beginning --until-end | wc -l
  highwater consume orders --partition 3 --offset 120 --max 10 -o json")]
pub struct Consume {
    topic: String,
    /// Start at the first record there is
    #[arg(long, short = 'b', conflicts_with = "offset")]
    from_beginning: bool,
    /// Only this partition
    #[arg(long, short = 'p')]
    partition: Option<usize>,
    /// Start at this offset
    #[arg(long, requires = "partition", value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,
    /// End after this many records
    #[arg(long, short = 'n', value_name = "N")]
    max: Option<u64>,
    /// End when what was there has been printed
    #[arg(long, short = 'e')]
    until_end: bool,
    /// Print each record's key and this text before its value
    #[arg(long, short = 'k', value_name = "TEXT")]
    key_separator: Option<String>,
}

pub async fn run(consume: Consume, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let metadata = Metadata::open(reach.bootstrap.clone(), &consume.topic);
    let count = metadata.partitions(TOPIC_DEADLINE).await?;
    let partitions: Vec<usize> = match consume.partition {
        None => (0..count).collect(),
        Some(partition) if partition < count => vec![partition],
        Some(partition) => {
            anyhow::bail!("topic '{}' has partitions 0 to {}, not {partition}", consume.topic, count - 1)
        }
    };
    let start = match consume.offset {
        Some(offset) => Start::At(offset),
        None if consume.from_beginning => Start::Earliest,
        None => Start::Latest,
    };
    let (sender, mut fetched) = mpsc::channel::<Fetched>(16);
    let mut lanes = JoinSet::new();
    for partition in &partitions {
        let (metadata, partition, sender) = (metadata.clone(), *partition, sender.clone());
        lanes.spawn(async move {
            let offset = resolve(&metadata, partition, start, TOPIC_DEADLINE).await?;
            follow(metadata, partition, offset, sender).await
        });
    }
    drop(sender);
    let mut unfinished: BTreeSet<usize> = partitions.into_iter().collect();
    let mut left = consume.max.unwrap_or(u64::MAX);
    while left > 0 && !unfinished.is_empty() {
        let fetched = tokio::select! {
            fetched = fetched.recv() => match fetched {
                Some(fetched) => fetched,
                None => break,
            },
            Some(ended) = lanes.join_next() => {
                ended??;
                continue;
            }
        };
        for record in fetched.records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            match format {
                Format::Json => output::json_line(&to_json(fetched.partition, record))?,
                Format::Table => output::line(text(record, consume.key_separator.as_deref()))?,
            }
        }
        if consume.until_end && fetched.next >= fetched.high_watermark {
            unfinished.remove(&fetched.partition);
        }
    }
    Ok(())
}

fn words(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(|| "null".to_string(), |bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn text(record: &Incoming, separator: Option<&str>) -> String {
    let value = words(record.value.as_deref());
    match separator {
        None => value,
        Some(separator) => format!("{}{separator}{value}", words(record.key.as_deref())),
    }
}

/// Keys and values that are not text come as hexadecimal digits under another name.
fn to_json(partition: usize, record: &Incoming) -> Value {
    let mut object = json!({
        "partition": partition, "offset": record.offset, "timestamp_ms": record.timestamp_ms,
    });
    for (name, bytes) in [("key", record.key.as_deref()), ("value", record.value.as_deref())] {
        match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
            None => object[name] = Value::Null,
            Some(Ok(text)) => object[name] = json!(text),
            Some(Err(bytes)) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                object[format!("{name}_hex")] = json!(hex);
            }
        }
    }
    object
}
