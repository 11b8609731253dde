//! Imports go only downward: every `use crate::…` (and `crate::…` path) of a room names its own or a lower floor.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms by floor, the ground last. Rooms on one floor never import each other.
const FLOORS: [&[&str]; 9] = [
    &["cli"],
    &["broker"],
    &["kafka", "admin", "cluster", "console"],
    &["group", "transaction"],
    &["replica", "controller"],
    &["security", "quota"],
    &["metadata", "log"],
    &["wire", "records", "config", "telemetry"],
    &["platform", "ids"],
];

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The room of a file below `src`: its folder, or its own name at the top.
fn room_of(path: &Path, src: &Path) -> String {
    let relative = path.strip_prefix(src).expect("below src");
    let first = relative.components().next().expect("a component").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_string()
}

fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        let mut rest = code;
        while let Some(at) = rest.find("crate::") {
            let after = &rest[at + "crate::".len()..];
            if after.starts_with('{') {
                for item in after.trim_start_matches('{').split(',') {
                    let name: String = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    found.push((number + 1, name));
                }
            } else {
                let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((number + 1, name));
            }
            rest = after;
        }
    }
    found
}

#[test]
fn imports_go_only_downward() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 20, "found only {} files: is the test looking in the right place?", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let room = room_of(&file, &src);
        if room == "main" || room == "lib" {
            continue;
        }
        let floor = floor_of(&room).unwrap_or_else(|| panic!("{}: room {room} is on no floor", file.display()));
        for (line, name) in imports(&fs::read_to_string(&file).expect("readable")) {
            let Some(other) = floor_of(&name) else { continue };
            if name != room && other <= floor && name != "ids" {
                wrong.push(format!(
                    "{}:{line}: {room} (floor {}) imports {name} (floor {})",
                    file.display(),
                    9 - floor,
                    9 - other
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn an_upward_import_would_be_seen() {
    assert_eq!(imports("use crate::kafka::errors;"), vec![(1, "kafka".to_string())]);
    assert_eq!(imports("use crate::{ids::Offset, log::Log};").len(), 2);
    assert!(floor_of("kafka") < floor_of("replica"), "kafka stands above replica");
}
