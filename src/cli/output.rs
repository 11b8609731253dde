//! What is printed: lines, tables for people, JSON for programs.

use crate::platform::clock;
use clap::ValueEnum;
use serde_json::Value;
use std::io::{self, Write};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// Prints one line at once; an error is a closed pipe in the usual case, which `println!` would panic on.
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// One line on standard error. Where that cannot be written there is nobody to tell; `eprintln!` would panic.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

pub fn json(value: &Value) -> anyhow::Result<()> {
    line(format!("{value:#}"))
}

/// One JSON value a line.
pub fn json_line(value: &Value) -> anyhow::Result<()> {
    line(value.to_string())
}

/// Columns as wide as their widest cell; numbers to the right.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.head.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// The lines, without trailing blanks.
    pub fn lines(&self) -> Vec<String> {
        let columns = 0..self.head.len();
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = columns
            .clone()
            .map(|c| self.rows.iter().map(|row| width(&row[c])).chain([width(self.head[c])]).max().unwrap_or(0))
            .collect();
        let is_number = |text: &str| text == "-" || text.parse::<f64>().is_ok();
        let right: Vec<bool> =
            columns.map(|c| !self.rows.is_empty() && self.rows.iter().all(|row| is_number(&row[c]))).collect();
        let render = |cells: Vec<&str>| {
            let padded: Vec<String> = cells
                .iter()
                .enumerate()
                .map(|(c, cell)| {
                    let blanks = " ".repeat(widths[c] - width(cell));
                    if right[c] { format!("{blanks}{cell}") } else { format!("{cell}{blanks}") }
                })
                .collect();
            padded.join("  ").trim_end().to_string()
        };
        let head = render(self.head.clone());
        let rows = self.rows.iter().map(|row| render(row.iter().map(String::as_str).collect()));
        std::iter::once(head).chain(rows).collect()
    }

    pub fn print(&self) -> anyhow::Result<()> {
        self.lines().iter().try_for_each(line)
    }
}

/// "-" where there is nothing.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_string(), |value| value.to_string())
}

/// "1,2,3"; "-" where there is none.
pub fn list(numbers: &[i32]) -> String {
    if numbers.is_empty() {
        return "-".to_string();
    }
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// 12345 → "12,345".
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The time of day, UTC: "12:00:01".
pub fn time_of_day() -> String {
    let seconds = clock::wall_ms() / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_numbers_right_and_words_left() {
        let mut table = Table::new(&["topic", "partitions", "leader"]);
        table.row(vec!["orders".into(), "6".into(), "1".into()]);
        table.row(vec!["a".into(), "12".into(), "-".into()]);
        assert_eq!(
            table.lines(),
            ["topic   partitions  leader", "orders           6       1", "a               12       -"]
        );
    }

    #[test]
    fn an_empty_table_is_its_head_and_width_counts_characters() {
        assert_eq!(Table::new(&["a", "b"]).lines(), ["a  b"]);
        let mut table = Table::new(&["x", "y"]);
        table.row(vec!["1→2".into(), "ü".into()]);
        assert_eq!(table.lines()[1], "1→2  ü");
        assert_eq!(table.lines()[0], "x    y");
    }

    #[test]
    fn thousands_are_grouped_from_the_right() {
        let grouped: Vec<String> = [0, 999, 1_000, 12_345, 1_234_567].into_iter().map(thousands).collect();
        assert_eq!(grouped, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }
}
