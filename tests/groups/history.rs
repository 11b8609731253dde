//! What members of a group told of themselves, line by line. Times are milliseconds of the machine's clock.
//!
//! ```text
//! assigned MS GENERATION 0,1,2       owned from now on; "-" where the client does not tell its generation
//! revoked MS GENERATION 0,1          given up: what was processed is committed
//! lost MS GENERATION 0,1             taken away: the group went on without this member
//! record PARTITION OFFSET VALUE      processed
//! committing MS PARTITION OFFSET     about to ask for it
//! committed MS PARTITION OFFSET      answered without an error
//! note MS …                          anything else worth printing
//! left MS                            the member closed itself
//! ```

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Assigned { at: i64, generation: Option<i32>, partitions: Vec<i32> },
    Revoked { at: i64, generation: Option<i32>, partitions: Vec<i32> },
    Lost { at: i64, generation: Option<i32>, partitions: Vec<i32> },
    Record { partition: i32, offset: i64, value: u64 },
    Committing { at: i64, partition: i32, offset: i64 },
    Committed { at: i64, partition: i32, offset: i64 },
    Note { text: String },
    Left { at: i64 },
}

impl Line {
    /// `None` for what no member prints. The last line of a killed one may be torn.
    pub fn parse(line: &str) -> Option<Line> {
        let (what, rest) = line.split_once(' ')?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| -> Option<i64> { words.get(at)?.parse().ok() };
        let partition = |at: usize| -> Option<i32> { words.get(at)?.parse().ok() };
        let generation = || -> Option<Option<i32>> {
            match *words.get(1)? {
                "-" => Some(None),
                // Below zero: the client is between two generations.
                word => Some(Some(word.parse().ok()?).filter(|generation| *generation >= 0)),
            }
        };
        let partitions = || -> Option<Vec<i32>> { words.get(2)?.split(',').map(|word| word.parse().ok()).collect() };
        Some(match what {
            "assigned" => Line::Assigned { at: number(0)?, generation: generation()?, partitions: partitions()? },
            "revoked" => Line::Revoked { at: number(0)?, generation: generation()?, partitions: partitions()? },
            "lost" => Line::Lost { at: number(0)?, generation: generation()?, partitions: partitions()? },
            "record" => {
                Line::Record { partition: partition(0)?, offset: number(1)?, value: words.get(2)?.parse().ok()? }
            }
            "committing" => Line::Committing { at: number(0)?, partition: partition(1)?, offset: number(2)? },
            "committed" => Line::Committed { at: number(0)?, partition: partition(1)?, offset: number(2)? },
            "note" => Line::Note { text: rest.to_string() },
            "left" => Line::Left { at: number(0)? },
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct Told {
    pub name: String,
    /// In the order they were printed.
    pub lines: Vec<Line>,
    /// When it was ended by kill -9: what it owned, it owned no more.
    pub killed: Option<i64>,
}

/// All of one group.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub members: Vec<Told>,
    /// What the producer was acked for: (partition, offset) → value.
    pub acked: BTreeMap<(i32, i64), u64>,
}
