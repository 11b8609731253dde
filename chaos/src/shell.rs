//! Other programs, run to their end.

use anyhow::{Context, ensure};
use std::process::{Command, Stdio};

/// Runs `line` (words split at spaces) and answers its standard output; an error if it fails.
pub fn run(line: &str) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    run_words(&words)
}

pub fn run_words(words: &[&str]) -> anyhow::Result<String> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} does not start"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed: {}", words.join(" "), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
