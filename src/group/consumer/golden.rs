//! Golden scripts of one group: what happens, and after `->` what the state machine did. A script is a file in
//! `golden/`.
//!
//! `GOLDEN=write cargo test --lib consumer::golden` writes what happens now; read the difference before you keep it.

mod commands;
mod show;
mod world;

use crate::platform::disk;
use std::path::{Path, PathBuf};
use world::World;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/group/consumer/golden")
}

/// The script's text as it comes out now. Outputs in `script` are passed over.
fn play(script: &str) -> String {
    let mut world = World::new();
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
        for output in world.act(&words) {
            text.push_str(&format!("    -> {output}\n"));
        }
        if let Err(broken) = world.check() {
            text.push_str(&format!("    -> BROKEN: {broken}\n"));
        }
    }
    text
}

#[test]
fn every_script_plays_as_written() {
    let names = disk::list(&folder()).unwrap().into_iter().map(|entry| entry.name);
    let scripts: Vec<String> = names.filter(|name| name.ends_with(".script")).collect();
    assert!(scripts.len() >= 10, "the scripts are there: {scripts:?}");
    let mut wrong = Vec::new();
    for name in scripts {
        let path = folder().join(&name);
        let expected = String::from_utf8(disk::read_file(&path).unwrap().unwrap()).unwrap();
        let found = std::panic::catch_unwind(|| play(&expected)).unwrap_or_else(|_| format!("BROKEN: {name} panics\n"));
        if found.contains("BROKEN") {
            wrong.push(format!("{name}\n{found}"));
            continue;
        }
        if std::env::var("GOLDEN").is_ok_and(|mode| mode == "write") {
            disk::write_atomic(&path, found.as_bytes()).unwrap();
        } else if let Some(number) =
            (0..).zip(found.lines()).position(|(n, line)| expected.lines().nth(n) != Some(line))
        {
            let line = |text: &str| text.lines().nth(number).unwrap_or("(the end)").to_string();
            wrong.push(format!(
                "{name}, line {}:\n  expected {}\n  found    {}",
                number + 1,
                line(&expected),
                line(&found)
            ));
        } else if expected.lines().count() != found.lines().count() {
            wrong.push(format!("{name} goes on after what is found"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
