//! Golden scripts of whole replicas: three nodes over real logs, the image changed by the real `apply`, every message
//! carried by hand. A script is a file in `golden/`: what happens, and after `->` what it did.
//!
//! `GOLDEN=write cargo test --lib golden` writes what happens now; read the difference before you keep it.

mod actions;
mod commands;
mod fetches;
mod world;

use crate::platform::disk;
use std::path::{Path, PathBuf};
use world::World;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/replica/golden")
}

/// The script's text as it comes out now. Outputs in `script` are passed over.
async fn play(script: &str) -> String {
    let mut world = World::empty();
    let mut text = String::new();
    for line in script.lines() {
        let words = line.trim();
        if words.starts_with("->") {
            continue;
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if words.is_empty() || words.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = words.split_whitespace().collect();
        for output in world.act(&words).await {
            text.push_str("    -> ");
            text.push_str(&output);
            text.push('\n');
        }
    }
    text
}

/// The lines from the first that differs, side by side.
fn difference(expected: &str, found: &str) -> Option<String> {
    let (mut left, mut right) = (expected.lines(), found.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (left.next(), right.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => {
                let (a, b) = (a.unwrap_or("(the end)"), b.unwrap_or("(the end)"));
                return Some(format!("line {number}:\n  expected {a}\n  found    {b}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_script_plays_as_written() {
    let mut wrong = Vec::new();
    let names = disk::list(&folder()).unwrap().into_iter().map(|entry| entry.name);
    let scripts: Vec<String> = names.filter(|name| name.ends_with(".script")).collect();
    assert!(scripts.len() >= 10, "the scripts are there: {scripts:?}");
    for name in scripts {
        let path = folder().join(&name);
        let expected = String::from_utf8(disk::read_file(&path).unwrap().unwrap()).unwrap();
        let found = play(&expected).await;
        if std::env::var("GOLDEN").is_ok_and(|mode| mode == "write") {
            disk::write_atomic(&path, found.as_bytes()).unwrap();
        } else if let Some(difference) = difference(&expected, &found) {
            wrong.push(format!("{name}, {difference}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
