//! `highwater group reset-offsets`.

use super::output::{self, Format, Table, or_dash};
use super::reach::{self, Reach};
use super::times;
use crate::admin::proto::reset_offsets_request::To;
use crate::admin::proto::{ResetOffset, ResetOffsetsRequest, ResetOffsetsResponse, TopicSelection};
use clap::Args;
use serde_json::{Value, json};

pub const EXAMPLES: &str = "\
The group must have no members: stop its consumers first. Nothing is changed without --execute.

Examples:
  highwater group reset-offsets shop --topic orders --to-earliest
  highwater group reset-offsets shop --topic orders:0,1 --shift-by -100 --execute
  highwater group reset-offsets shop --topic orders --topic users --by-duration 1h30m --execute
  highwater group reset-offsets shop --all-topics --to-datetime 2026-11-21T19:00:00Z --execute";

#[derive(Debug, Args)]
pub struct ResetOffsets {
    /// The group
    name: String,
    /// A topic, or some of its partitions; may be repeated
    #[arg(long, short = 't', value_name = "TOPIC[:0,1]", value_parser = selection, required_unless_present = "all_topics")]
    topic: Vec<TopicSelection>,
    /// Every partition with a committed offset
    #[arg(long, conflicts_with = "topic")]
    all_topics: bool,
    #[command(flatten)]
    to: Target,
    /// Show what would be done, and change nothing; this is the default
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    execute: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// The first record there is
    #[arg(long)]
    to_earliest: bool,
    /// After the last record there is
    #[arg(long)]
    to_latest: bool,
    /// This offset, or the nearest that the log has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// So many records on from what is committed; back where negative
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// The first record that is not older than this, such as 90s, 15m, 1h30m or 7d
    #[arg(long, value_name = "DURATION", value_parser = times::duration_ms)]
    by_duration: Option<i64>,
    /// The first record at or after this time, such as 2026-11-21T19:00:00Z (UTC without a zone), or milliseconds since
    /// 1970
    #[arg(long, value_name = "TIME", value_parser = times::datetime_ms)]
    to_datetime: Option<i64>,
}

impl Target {
    /// `None` cannot be: one of them is required.
    fn to(&self) -> Option<To> {
        let flags = [(self.to_earliest, To::Earliest(true)), (self.to_latest, To::Latest(true))];
        let values = [
            self.to_offset.map(To::Offset),
            self.shift_by.map(To::ShiftBy),
            self.by_duration.map(To::AgoMs),
            self.to_datetime.map(To::TimeMs),
        ];
        let flag = flags.into_iter().find(|(given, _)| *given).map(|(_, to)| to);
        flag.or_else(|| values.into_iter().flatten().next())
    }
}

/// "orders" or "orders:0,1". A topic's name has no colon.
fn selection(text: &str) -> Result<TopicSelection, String> {
    let (topic, partitions) = text.split_once(':').unwrap_or((text, ""));
    if topic.is_empty() {
        return Err("no topic is named; say orders, or orders:0,1 for some of its partitions".to_string());
    }
    let number = |text: &str| {
        let number = text.trim().parse::<i32>().ok().filter(|number| *number >= 0);
        number.ok_or_else(|| format!("'{text}' is no partition; say {topic}:0,1"))
    };
    let partitions = match text.contains(':') {
        true => partitions.split(',').map(number).collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    Ok(TopicSelection { topic: topic.to_string(), partitions })
}

pub async fn run(reset: ResetOffsets, reach: &Reach, format: Format) -> anyhow::Result<()> {
    let request = ResetOffsetsRequest {
        name: reset.name.clone(),
        to: reset.to.to(),
        topics: reset.topic,
        all_topics: reset.all_topics,
        execute: reset.execute,
        local_only: false,
    };
    let mut groups = reach.groups().await?;
    let answer = groups.reset_offsets(request).await.map_err(|status| reach::refused(&status))?.into_inner();
    match format {
        Format::Json => {
            let rows: Vec<Value> = answer.offsets.iter().map(to_json).collect();
            output::json(&json!({ "group": reset.name, "executed": answer.executed, "offsets": rows }))
        }
        Format::Table => {
            table(&answer.offsets).print()?;
            output::line("")?;
            output::line(last_words(&reset.name, &answer))
        }
    }
}

fn table(rows: &[ResetOffset]) -> Table {
    let mut table =
        Table::new(&["topic", "partition", "committed", "new", "change", "log start", "log end", "problem"]);
    for row in rows {
        let change = row.new.zip(row.current).map(|(new, current)| format!("{:+}", new - current));
        table.row(vec![
            row.topic.clone(),
            row.partition.to_string(),
            or_dash(row.current),
            or_dash(row.new),
            or_dash(change),
            or_dash(row.log_start),
            or_dash(row.log_end),
            row.problem.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn last_words(group: &str, answer: &ResetOffsetsResponse) -> String {
    let problems = answer.offsets.iter().filter(|row| row.problem.is_some()).count();
    match (answer.executed, problems) {
        (true, _) => format!("group {group} goes on at the new offsets"),
        (false, 0) => "nothing was changed: this is what --execute would do".to_string(),
        (false, _) => {
            format!("nothing was changed, and --execute would change nothing: {problems} partitions have a problem")
        }
    }
}

fn to_json(row: &ResetOffset) -> Value {
    json!({
        "topic": row.topic, "partition": row.partition, "committed": row.current, "new": row.new,
        "log_start": row.log_start, "log_end": row.log_end, "problem": row.problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        reset: ResetOffsets,
    }

    fn to(words: &[&str]) -> Option<To> {
        let line = ["x", "shop", "--topic", "orders:0,1"].iter().chain(words);
        Line::try_parse_from(line).ok().and_then(|line| line.reset.to.to())
    }

    #[test]
    fn exactly_one_target_is_taken() {
        assert_eq!(to(&["--to-earliest"]), Some(To::Earliest(true)));
        assert_eq!(to(&["--to-latest", "--execute"]), Some(To::Latest(true)));
        assert_eq!(to(&["--to-offset", "5"]), Some(To::Offset(5)));
        assert_eq!(to(&["--shift-by", "-5"]), Some(To::ShiftBy(-5)));
        assert_eq!(to(&["--by-duration", "1h"]), Some(To::AgoMs(3_600_000)));
        assert_eq!(to(&["--to-datetime", "1970-01-01T00:00:01Z"]), Some(To::TimeMs(1_000)));
        for wrong in [&[][..], &["--to-earliest", "--to-latest"], &["--to-offset", "-1"], &["--by-duration", "x"]] {
            assert_eq!(to(wrong), None, "{wrong:?}");
        }
        assert_eq!(to(&["--to-latest", "--execute", "--dry-run"]), None);
        assert!(Line::try_parse_from(["x", "shop", "--to-latest"]).is_err(), "no topic");
        assert!(Line::try_parse_from(["x", "shop", "--all-topics", "--to-latest"]).is_ok());
    }

    #[test]
    fn a_topic_may_name_partitions() {
        let some = |text| selection(text).map(|s| (s.topic, s.partitions));
        assert_eq!(some("orders"), Ok(("orders".to_string(), vec![])));
        assert_eq!(some("orders:0, 1"), Ok(("orders".to_string(), vec![0, 1])));
        for wrong in ["", ":1", "orders:", "orders:x", "orders:-1"] {
            assert!(some(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_table_shows_what_changes() {
        let good = ResetOffset {
            topic: "orders".into(),
            partition: 0,
            current: Some(120),
            new: Some(20),
            log_start: Some(0),
            log_end: Some(150),
            problem: None,
        };
        let lines = table(std::slice::from_ref(&good)).lines();
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["orders", "0", "120", "20", "-100", "0", "150"]);
        let bad = ResetOffset { problem: Some("no".into()), new: None, ..good.clone() };
        let words = |rows: &[&ResetOffset], executed| {
            let offsets = rows.iter().copied().cloned().collect();
            last_words("shop", &ResetOffsetsResponse { offsets, executed })
        };
        assert!(words(&[&good], false).contains("--execute would do"));
        assert!(words(&[&good, &bad], false).contains("1 partitions have a problem"));
        assert!(words(&[&good], true).contains("shop goes on"));
    }
}
